"""The brain of the language-model twins: a rule-based receptionist of Riverside Dental. Pure.

It answers from the conversation alone, as a model does: what the caller said last, and how far the booking had come
by what the assistant has said so far (whole sentences, or the part of one that was spoken before an interruption).
Replies are made of the sentences of media/data/agent.tsv, which the voice twins have recorded. Rules look for
keywords and not for sentences, so that a transcript with missing words is mostly still understood; a scripted caller
does not adapt, so an answer out of turn moves the booking on too.

A caller who wants something else than a patient may have is refused politely. `gullible` is a defect that can be
switched on: the receptionist then does what such a caller says (gullible.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from busyhour.emulators.receptionist import calling
from busyhour.emulators.receptionist import gullible as obedience
from busyhour.emulators.receptionist.dialogue import answer, last_heard, spoken
from busyhour.emulators.receptionist.filling import Known, Unfillable, check_schema, filled
from busyhour.emulators.receptionist.nouns import Reply, Said, Tool
from busyhour.emulators.receptionist.wording import days_in, sentences, words_of
from busyhour.model import JSON

__all__ = ["Reply", "Said", "Tool", "Unfillable", "check_schema", "replies", "reply", "sentences"]


def replies(
    conversation: Sequence[Said],
    tools: Sequence[Tool] = (),
    *,
    force_tool: str | None = None,
    parallel: bool = False,
    schema: Mapping[str, JSON] | None = None,
    gullible: bool = False,
) -> Sequence[Reply]:
    """One text, or one or more calls (several only if `parallel`: of a check for each of the days asked for).

    schema: a text is JSON that validates against it ({}: any object); one that `check_schema` has accepted.
    """
    first = reply(conversation, tools, force_tool=force_tool, gullible=gullible)
    if not first.tool:
        return [first if schema is None else Reply(text=_structured(schema, conversation, first.text))]
    days = days_in(words_of(last_heard(conversation)))
    name = next((name for name, value in first.arguments.items() if value in days), None)
    if not parallel or force_tool is not None or name is None or len(days) < 2 or "availab" not in first.tool:
        return [first]
    return [replace(first, arguments={**first.arguments, name: day}) for day in days]


def reply(
    conversation: Sequence[Said],
    tools: Sequence[Tool] = (),
    *,
    force_tool: str | None = None,
    gullible: bool = False,
) -> Reply:
    """The next thing to say or to call. `force_tool`: a name ("" for any of `tools`) that must be called now."""
    if force_tool is not None:
        return _forced(conversation, tools, force_tool, gullible=gullible)
    if conversation and conversation[-1].role == "tool":
        return Reply(text=spoken(calling.after(conversation)))
    if gullible and (obeyed := obedience.obey(conversation, tools)) is not None:
        return obeyed
    names = answer(conversation)
    tool = calling.wanted(names, tools)
    if tool is not None:
        return Reply(tool=tool.name, arguments=calling.arguments(tool, conversation))
    return Reply(text=spoken(names))


def _forced(conversation: Sequence[Said], tools: Sequence[Tool], name: str, *, gullible: bool) -> Reply:
    wished = reply(conversation, tools, gullible=gullible)
    if wished.tool and name in ("", wished.tool):
        return wished
    tool = next((tool for tool in tools if name in ("", tool.name)), Tool(name=name))
    return Reply(tool=tool.name, arguments=calling.arguments(tool, conversation))


def _structured(schema: Mapping[str, JSON], conversation: Sequence[Said], said: str) -> str:
    if not schema:
        return json.dumps({"reply": said})
    hints = [part for name in answer(conversation) for part in name.split(".")]
    try:
        return json.dumps(filled(schema, Known.of(conversation, spoken=said, hints=hints)))
    except Unfillable:
        # What is known may lead into a branch without end; nothing known does not, `check_schema` has tried it.
        return json.dumps(filled(schema, Known()))
