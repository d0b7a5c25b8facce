"""A reply as a response: whole, or as the events of a stream.

response.created, response.in_progress,
    output_item.added, content_part.added, output_text.delta ..., output_text.done, content_part.done,
    output_item.done                                                                  for a text
    output_item.added, function_call_arguments.delta ..., .done, output_item.done     for each call
response.completed, or response.incomplete when the token limit cut it
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from busyhour.emulators.language_model import EVENT_STREAM, Finished, Part
from busyhour.emulators.openai.memory import History, Memory
from busyhour.emulators.receptionist import Said
from busyhour.model import JSON


class ResponseEvents:
    """The shape of one response. echo: what it repeats of its request; kept: where to remember it, and what went
    before it."""

    content_type = EVENT_STREAM

    def __init__(
        self, finished: Finished, *, echo: Mapping[str, JSON], kept: tuple[Memory, Sequence[Said]] | None
    ) -> None:
        self._finished = finished
        self._echo = echo
        self._kept = kept
        self._number = 0

    def opening(self) -> bytes:
        begun = self._response("in_progress")
        return self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)

    def deltas(self) -> Iterator[bytes]:
        before = b""
        for index, part in enumerate(self._finished.parts):
            before += self._begins(index, part)
            for piece in part.pieces:
                yield before + self._delta(index, part, piece)
                before = b""
            before += self._ends(index, part)
        yield before

    def closing(self) -> bytes:
        body = self._ended()
        return self._event(f"response.{body['status']}", response=body)

    def whole(self) -> bytes:
        return json.dumps(self._ended()).encode()

    # -- events

    def _begins(self, index: int, part: Part) -> bytes:
        added = self._event("response.output_item.added", output_index=index, item=_item(part, "in_progress"))
        if part.tool:
            return added
        return added + self._event("response.content_part.added", **_place(index, part), part=_content(""))

    def _delta(self, index: int, part: Part, piece: str) -> bytes:
        if part.tool:
            name = "response.function_call_arguments.delta"
            return self._event(name, item_id=_item_id(part), output_index=index, delta=piece)
        return self._event("response.output_text.delta", **_place(index, part), delta=piece, logprobs=[])

    def _ends(self, index: int, part: Part) -> bytes:
        ends = self._content_ends(index, part)  # first: events are numbered as they are made
        item = _item(part, self._status(part))
        return ends + self._event("response.output_item.done", output_index=index, item=item)

    def _content_ends(self, index: int, part: Part) -> bytes:
        if part.tool:
            name = "response.function_call_arguments.done"
            return self._event(name, item_id=_item_id(part), output_index=index, arguments=part.text, name=part.tool)
        place = _place(index, part)
        text_done = self._event("response.output_text.done", **place, text=part.text, logprobs=[])
        return text_done + self._event("response.content_part.done", **place, part=_content(part.text))

    def _event(self, kind: str, /, **more: JSON) -> bytes:
        form = {"type": kind, "sequence_number": self._number, **more}
        self._number += 1
        return f"event: {kind}\ndata: {json.dumps(form)}\n\n".encode()

    # -- the response

    def _status(self, part: Part) -> str:
        """Of a finished item: what the token limit cut is the last one."""
        cut = self._finished.finish == "length" and part is self._finished.parts[-1]
        return "incomplete" if cut else "completed"

    def _ended(self) -> Mapping[str, JSON]:
        """The finished response, remembered if that was wished."""
        body = self._response("incomplete" if self._finished.finish == "length" else "completed")
        if self._kept is not None:
            memory, before = self._kept
            called = {_call_id(part): part.tool for part in self._finished.parts if part.tool}
            spoken = [Said(role="assistant", text="" if part.tool else part.text) for part in self._finished.parts]
            memory.keep(body, History(conversation=[*before, *spoken], called=called))
        return body

    def _response(self, status: str) -> Mapping[str, JSON]:
        finished = self._finished
        begun = status == "in_progress"
        return {
            **self._echo,
            "id": f"resp_{finished.key}",
            "object": "response",
            "created_at": finished.created,
            "completed_at": finished.created if status == "completed" else None,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": finished.asked.model,
            "output": [] if begun else [_item(part, self._status(part)) for part in finished.parts],
            "service_tier": "default",
            "usage": None if begun else _usage(finished),
        }


def _item(part: Part, status: str) -> JSON:
    """The output item of a part; one in progress has nothing in it yet."""
    text = "" if status == "in_progress" else part.text
    if part.tool:
        return {
            "id": _item_id(part),
            "type": "function_call",
            "status": status,
            "arguments": text,
            "call_id": _call_id(part),
            "name": part.tool,
        }
    content = [] if status == "in_progress" else [_content(text)]
    return {"id": _item_id(part), "type": "message", "status": status, "content": content, "role": "assistant"}


def _content(text: str) -> JSON:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _place(index: int, part: Part) -> Mapping[str, JSON]:
    return {"item_id": _item_id(part), "output_index": index, "content_index": 0}


def _item_id(part: Part) -> str:
    return f"{'fc' if part.tool else 'msg'}_{part.key}"


def _call_id(part: Part) -> str:
    return f"call_{part.key}"


def _usage(finished: Finished) -> JSON:
    prompt, output = finished.asked.prompt_tokens, finished.tokens
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + output,
    }
