"""Toxics that read HTTP/1.1, server-sent events and WebSockets: ours, in the collection of Toxiproxy's.

Each has two stages, one in either stream of the connection: to read an answer one must have seen the question. Whatever
is not meant by the toxic passes byte for byte, and so does whatever cannot be read: TLS, HTTP/2, encoded bodies. On a
connection that was open before, it begins with the next request; a WebSocket that was open before is left alone.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from busyhour.faults.proxy.flow import Flow, Grasp
from busyhour.faults.proxy.frames import AfterMessages, Frames, MalformedMessage, MessageTamper, truncation
from busyhour.faults.proxy.http1 import (
    Body,
    Delimited,
    Head,
    Kind,
    Messages,
    NotHTTP,
    Piece,
    parse_request,
    parse_response,
    request_begins,
    request_body,
    response_body,
)
from busyhour.faults.proxy.sse import MEDIA_TYPE, AfterBytes, AfterEvents, BodyTamper, Goes, MalformedEvent
from busyhour.faults.proxy.stages import ROOM_BYTES
from busyhour.faults.proxy.toxic import Toxic

WAITING_AT_MOST = 1000
"""Requests sent ahead of their answers; a client that pipelines more is no longer read as HTTP."""
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(slots=True)
class Asked:
    """A request whose response is not over yet. `answer`: ours, in place of the upstream's."""

    head: Head
    answer: bytes | None = None
    complete: bool = False
    closes: bool = False


class Exchange:
    """What one toxic knows of one connection."""

    def __init__(self, toxic: Toxic, upward: Grasp, downward: Grasp) -> None:
        self.toxic = toxic
        self.synchronised = upward.fresh
        self.retired = False
        self.asked: deque[Asked] = deque()
        self.requests = RequestStage(self, upward)
        self.responses = ResponseStage(self, downward)
        self._ended: set[object] = set()
        self._is_unreadable = False

    @property
    def type(self) -> str:
        return self.toxic.form.type

    @property
    def attributes(self) -> Mapping[str, Any]:
        return self.toxic.form.attributes

    def ask(self, head: Head) -> Asked:
        if len(self.asked) >= WAITING_AT_MOST:
            raise NotHTTP
        asked = Asked(head)
        if self.type == "http_status" and not self.retired and self.toxic.befalls_next_request():
            asked.closes = head.version == "HTTP/1.0" or head.has("connection", "close") or "expect" in head.headers
            asked.answer = answer(head, self.attributes, closes=asked.closes)
            asked.complete = "expect" in head.headers  # its body may never come
        self.asked.append(asked)
        return asked

    def give_answers(self) -> None:
        """Those of ours whose turn it is."""
        while self.asked and self.asked[0].answer is not None and self.asked[0].complete:
            asked = self.asked.popleft()
            self.responses.give(asked.answer or b"", closes=asked.closes)

    def answered(self) -> None:
        """The upstream's response to the first request is over."""
        if self.asked:
            self.asked.popleft()
        self.give_answers()

    def upgraded(self, head: Head) -> None:
        """A 101 has passed: from here on it is another protocol, in both streams."""
        self.requests.messages.become_opaque()
        if not self.type.startswith("ws_") or self.retired or head.headers.get("upgrade", "").lower() != "websocket":
            return
        if self.toxic.befalls_next_request():
            stage = self.requests if self.toxic.form.stream == "upstream" else self.responses
            stage.socket = _Socket(stage, self._message_tamper())
            stage.socket.begin()

    def body_tamper(self, head: Head, body: Body) -> BodyTamper | None:
        """What befalls this response, if anything."""
        if self.retired or body.delimited in {Delimited.NONE, Delimited.OPAQUE}:
            return None
        attributes = self.attributes
        bytes_only = self.type == "http_stall" and attributes["bytes"] is not None
        events = head.content_type == MEDIA_TYPE and head.headers.get("content-encoding", "identity") == "identity"
        if self.type not in {"http_stall", "sse_truncate", "sse_malformed"} or not (bytes_only or events):
            return None
        if not self.toxic.befalls_next_request():
            return None
        if bytes_only:
            return AfterBytes(int(attributes["bytes"]))
        if self.type == "sse_malformed":
            return MalformedEvent(int(attributes["event"]))
        return AfterEvents(int(attributes["events"]), Goes.STALLS if self.type == "http_stall" else Goes.ENDS)

    def unreadable(self) -> None:
        """This connection does not speak what the toxic reads."""
        if not self._is_unreadable:
            self._is_unreadable = True
            self.toxic.effect.unreadable += 1

    def ended(self, stage: object) -> None:
        """The stream of this stage is over. When both are and one is stalled, nobody waits for anything any more."""
        self._ended.add(stage)
        if len(self._ended) == 2 and (self.requests.stalled or self.responses.stalled):
            self.requests.grasp.reset()

    def retire(self) -> bool:
        """No harm from here on; whether both stages may leave their rows now."""
        self.retired = True
        if self.requests.stalled or self.responses.stalled:
            self.requests.grasp.reset()  # bytes are missing from the stream
            return True
        return not (any(asked.answer for asked in self.asked) or self.responses.rechunks)

    def _message_tamper(self) -> MessageTamper:
        attributes = self.attributes
        if self.type == "ws_malformed":
            return MalformedMessage(int(attributes["message"]))
        if self.type == "ws_stall":
            return AfterMessages(int(attributes["messages"]), Goes.STALLS)
        upward = self.toxic.form.stream == "upstream"
        grasp = self.requests.grasp if upward else self.responses.grasp
        return truncation(
            int(attributes["messages"]),
            code=int(attributes["code"]),
            reason=attributes["reason"],
            masked=upward,
            random=grasp.random,
        )


class RequestStage:
    """The client's stream."""

    room_bytes = ROOM_BYTES
    held_bytes = 0

    def __init__(self, exchange: Exchange, grasp: Grasp) -> None:
        self.out: Flow
        self.grasp = grasp
        self.messages = Messages(self._begin)
        self.socket: _Socket | None = None
        self.over = False
        self.stalled = False
        self._exchange = exchange
        self._asked: Asked | None = None

    def feed(self, data: bytes) -> None:
        if self.over:
            return
        exchange = self._exchange
        if not exchange.synchronised:
            exchange.synchronised = request_begins(data)
        if not exchange.synchronised:
            self.out.feed(data)
            return
        for piece in self.messages.feed(data):
            self._piece(piece)

    def end(self, *, reset: bool) -> None:
        if not self.over:
            self._hand_on(self.messages.flush())
            self.out.end(reset=reset)
        self._exchange.ended(self)

    def changed(self) -> None: ...

    def release(self) -> bool:
        leaves = self._exchange.retire()
        if self.socket is not None:
            self.socket.retire()
            self.socket = None
        if leaves and not self.over:
            self._hand_on(self.messages.flush())
        return leaves

    def discard(self) -> None:
        self.over = True

    def _begin(self, raw: bytes) -> Body:
        head = parse_request(raw)
        body = request_body(head)
        self._asked = self._exchange.ask(head)
        return body

    def _piece(self, piece: Piece) -> None:
        if piece.kind is Kind.OPAQUE:
            if self.messages.lost:
                self._exchange.unreadable()
            if self.socket is not None:
                self.socket.feed(piece.data)
            else:
                self._hand_on(piece.data)
            return
        asked = self._asked
        if asked is None or asked.answer is None:
            self._hand_on(piece.frame + piece.data)
            return
        asked.complete = asked.complete or piece.kind is Kind.END
        if asked.complete:
            self._exchange.give_answers()

    def _hand_on(self, data: bytes) -> None:
        if data:
            self.out.feed(data)


class ResponseStage:
    """The upstream's stream."""

    room_bytes = ROOM_BYTES
    held_bytes = 0

    def __init__(self, exchange: Exchange, grasp: Grasp) -> None:
        self.out: Flow
        self.grasp = grasp
        self.messages = Messages(self._begin)
        self.socket: _Socket | None = None
        self.over = False
        self.stalled = False
        self.rechunks = False  # a chunk that ends early needs a size of its own
        self._exchange = exchange
        self._head: Head | None = None
        self._tamper: BodyTamper | None = None

    def feed(self, data: bytes) -> None:
        if self.over:
            return
        if not self._exchange.synchronised:
            self.out.feed(data)
            return
        for piece in self.messages.feed(data):
            self._piece(piece)
            if self.over:
                return

    def end(self, *, reset: bool) -> None:
        if not self.over:
            self._hand_on(self.messages.flush())
            self.out.end(reset=reset)
        self._exchange.ended(self)

    def changed(self) -> None: ...

    def release(self) -> bool:
        leaves = self._exchange.retire()
        if self.socket is not None:
            self.socket.retire()
            self.socket = None
        if not self.rechunks:
            self._tamper = None
        if leaves and not self.over:
            self._hand_on(self.messages.flush())
        return leaves

    def discard(self) -> None:
        self.over = True

    def give(self, response: bytes, *, closes: bool) -> None:
        """An answer of ours goes to the client."""
        if self.over:
            return
        self.grasp.count(bytes=len(response))
        self.out.feed(response)
        if closes:
            self.goes(Goes.ENDS)

    def goes(self, how: Goes) -> None:
        if how is Goes.STALLS:
            self.over = self.stalled = True
        elif how is Goes.ENDS:
            self.over = True
            self.grasp.cut(self.out)

    def _begin(self, raw: bytes) -> Body:
        self._head = head = parse_response(raw)
        asked = self._exchange.asked
        body = response_body(head, asked[0].head.method if asked else "")
        self._tamper = self._exchange.body_tamper(head, body)
        self.rechunks = isinstance(self._tamper, AfterEvents) and body.delimited is Delimited.CHUNKED
        return body

    def _piece(self, piece: Piece) -> None:
        if piece.kind is Kind.OPAQUE:
            if self.messages.lost:
                self._exchange.unreadable()
            if self.socket is not None:
                self.socket.feed(piece.data)
            else:
                self._hand_on(piece.data)
        elif piece.kind is Kind.DATA and self._tamper is not None:
            self._tampered(piece, self._tamper)
        else:
            self._hand_on(piece.frame + piece.data)
            if piece.kind is Kind.HEAD:
                self._headed()
            elif piece.kind is Kind.END:
                self._ended()

    def _headed(self) -> None:
        assert self._head is not None
        if self._head.status == 101:
            self._exchange.upgraded(self._head)
        elif self._tamper is not None and (how := self._tamper.begin()) is not Goes.ON:
            self.grasp.count()
            self._stop(how)

    def _ended(self) -> None:
        self._tamper, self.rechunks = None, False
        if self._head is not None and self._head.status >= 200:  # others announce the real one
            self._exchange.answered()

    def _tampered(self, piece: Piece, tamper: BodyTamper) -> None:
        data, how, harmed = tamper.feed(piece.data) if piece.data else (b"", Goes.ON, 0)
        if self._exchange.retired:
            data, how, harmed = piece.data, Goes.ON, 0
        if not self.rechunks:
            self._hand_on(piece.frame + data)
        elif data:
            self.out.feed(b"%x\r\n%b\r\n" % (len(data), data))
        if harmed:
            self.grasp.count(events=harmed, bytes=len(piece.data))
        if how is not Goes.ON:
            self._stop(how)

    def _stop(self, how: Goes) -> None:
        if how is Goes.ENDS and self.rechunks:
            self.out.feed(_LAST_CHUNK)
        self.goes(how)

    def _hand_on(self, data: bytes) -> None:
        if data:
            self.out.feed(data)


class _Socket:
    """One stream of a WebSocket that a toxic has befallen."""

    def __init__(self, stage: RequestStage | ResponseStage, tamper: MessageTamper) -> None:
        self._stage = stage
        self._tamper = tamper
        self._frames = Frames()

    def begin(self) -> None:
        self._apply(*self._tamper.begin())

    def feed(self, data: bytes) -> None:
        for piece in self._frames.feed(data):
            self._apply(*self._tamper.feed(piece))
            if self._stage.over:
                return

    def retire(self) -> None:
        """Hand on what is kept back; harm no more."""
        if rest := self._frames.flush():
            self._stage.out.feed(rest)

    def _apply(self, data: bytes, how: Goes, harmed: int) -> None:
        stage = self._stage
        if data:
            stage.out.feed(data)
        if harmed:
            stage.grasp.count(events=harmed, bytes=len(data))
        if how is Goes.STALLS:
            stage.over = stage.stalled = True
        elif how is Goes.ENDS:
            stage.over = True
            stage.grasp.cut(stage.out)


def answer(head: Head, attributes: Mapping[str, Any], *, closes: bool) -> bytes:
    """The response that `http_status` gives in place of the upstream's."""
    status = int(attributes["status"])
    reason = HTTPStatus(status).phrase if status in HTTPStatus.__members__.values() else "Status"
    text = attributes["body"]
    if text is None:
        text = json.dumps({"error": {"message": f"{status} {reason}", "code": status}})
    body = b"" if status in {204, 304} else text.encode()
    headers = {"content-type": "application/json"}
    if status not in {204, 304}:
        headers["content-length"] = str(len(body))
    headers |= {
        name.lower(): value
        for name, value in attributes["headers"].items()
        if name.lower() not in {"content-length", "transfer-encoding"}
    }
    if closes:
        headers["connection"] = "close"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + (b"" if head.method == "HEAD" else body)
