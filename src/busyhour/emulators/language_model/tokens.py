"""A text in tokens, and the receptionist's reply cut into them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from random import Random

from busyhour.clock import unix_seconds
from busyhour.emulators.language_model.nouns import Asked, Finish, Finished, Part
from busyhour.emulators.receptionist import Reply, Said, replies

_TOKEN = re.compile(r"\s*[^\W\d_]{1,10}|\s*\d{1,3}|\s*[^\w\s]|\s+|.", re.DOTALL)


def tokens_of(text: str) -> list[str]:
    """The text cut into pieces of the size of tokens: up to 10 letters, 3 digits or one sign, each with the space
    before it. An approximation (the vendors' vocabularies are not here); English comes out within some 15 %. Joined,
    the pieces are the text."""
    return _TOKEN.findall(text)


def prompt_tokens(conversation: Sequence[Said], tools: object = None) -> int:
    """What a prompt costs. tools: whatever JSON describes the functions, None or empty for none."""
    # Each message costs some tokens for its role and its borders (OpenAI's cookbook says 3 to 4).
    text = sum(4 + len(tokens_of(said.text)) for said in conversation) + 3
    return text + (len(tokens_of(json.dumps(tools))) if tools else 0)


def finish(asked: Asked, random: Random, *, gullible: bool = False) -> Finished:
    """The whole reply to a request, cut where its stops and its limit say."""
    answers = replies(
        asked.conversation,
        asked.tools,
        force_tool=asked.force_tool,
        parallel=asked.parallel,
        schema=asked.schema,
        gullible=gullible,
    )
    ended: Finish = "tool" if answers[0].tool else "stop"
    stopped_by = ""
    left = asked.tokens_at_most
    parts: list[Part] = []
    for answer in answers:
        text, found = _stopped(answer, asked.stops)
        if found:
            ended, stopped_by = "stop_sequence", found
        pieces = tokens_of(text)
        if left is not None and len(pieces) > left:
            pieces, ended, stopped_by = pieces[:left], "length", ""
        parts.append(Part(pieces=pieces, key=f"{random.getrandbits(96):024x}", tool=answer.tool))
        if ended == "length":
            break
        left = None if left is None else left - len(pieces)
    key = f"{random.getrandbits(128):032x}"
    return Finished(asked=asked, parts=parts, finish=ended, key=key, created=unix_seconds(), stopped_by=stopped_by)


def _stopped(answer: Reply, stops: Sequence[str]) -> tuple[str, str]:
    """The text up to the first stop sequence in it, and that sequence; calls are not stopped."""
    if answer.tool:
        return json.dumps(answer.arguments), ""
    found = min(((answer.text.find(stop), stop) for stop in stops if stop in answer.text), default=None)
    return (answer.text, "") if found is None else (answer.text[: found[0]], found[1])
