"""HTTP/1.1 messages, server-sent events and WebSocket frames, however the stream is cut."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from random import Random

import pytest

from busyhour.faults.proxy.frames import (
    AfterMessages,
    FramePiece,
    Frames,
    MalformedMessage,
    MessageTamper,
    close_frame,
    truncation,
)
from busyhour.faults.proxy.http1 import (
    Body,
    Kind,
    Messages,
    parse_request,
    parse_response,
    request_body,
    response_body,
)
from busyhour.faults.proxy.sse import AfterBytes, AfterEvents, BodyTamper, Events, Goes, MalformedEvent

REQUESTS = (
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    b"POST /v1/chat HTTP/1.1\r\nhost: x\r\nContent-Length: 11\r\n\r\nhello\r\nabcd"
    b"POST /empty HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
    b"\r\nPOST /chunks HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;a=b\r\nhello\r\n1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nTrailer: t\r\n\r\n"
    b"DELETE /x HTTP/1.0\n\n"
)


def chopped(data: bytes, random: Random) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = random.choice([1, 1, 2, 3, 7, 50])
        yield data[at : at + size]
        at += size


def requests(chunks: Sequence[bytes]) -> tuple[bytes, list[tuple[str, bytes]], bool]:
    """The stream put together again, method and body of each message, and whether it was lost."""
    methods: list[str] = []

    def begin(raw: bytes) -> Body:
        head = parse_request(raw)
        methods.append(head.method)
        return request_body(head)

    messages = Messages(begin)
    stream, bodies, body = b"", list[bytes](), b""
    for chunk in chunks:
        for piece in messages.feed(chunk):
            stream += piece.frame + piece.data
            if piece.kind is Kind.DATA:
                body += piece.data
            elif piece.kind is Kind.END:
                bodies.append(body)
                body = b""
    return stream + messages.flush(), list(zip(methods, bodies, strict=False)), messages.lost


@pytest.mark.parametrize("seed", range(30))
def test_messages_are_found_however_they_are_cut_and_no_byte_is_changed(seed: int) -> None:
    stream, found, lost = requests(list(chopped(REQUESTS, Random(seed))))
    assert stream == REQUESTS
    assert not lost
    alphabet = b"abcdefghijklmnopqrstuvwxyz"
    expected = [("GET", b""), ("POST", b"hello\r\nabcd"), ("POST", b""), ("POST", b"hello" + alphabet), ("DELETE", b"")]
    assert found == expected


@pytest.mark.parametrize(
    "foreign",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: nine\r\n\r\nbody",
        b"GET / HTTP/1.1\r\nContent-Length: 1, 2\r\n\r\nbody",
        b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\nbody",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\nbody",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nbody",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000,
        b"\x00" * 100,
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_not_http_passes_unchanged(foreign: bytes, seed: int) -> None:
    for chunks in ([foreign], list(chopped(foreign[:2000], Random(seed))), [REQUESTS, foreign]):
        stream, _, _ = requests(chunks)
        assert stream == b"".join(chunks)
    assert requests([foreign])[2], "and it is known not to be HTTP"


def test_random_bytes_never_get_lost() -> None:
    random = Random(5)
    for _ in range(300):
        noise = bytearray(REQUESTS)
        for _ in range(random.randrange(1, 8)):
            noise[random.randrange(len(noise))] = random.randrange(256)
        chunks = list(chopped(bytes(noise), random))
        assert requests(chunks)[0] == bytes(noise)


@pytest.mark.parametrize(
    ("head", "method", "delimited"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "GET", "LENGTH"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", "NONE"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET", "NONE"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET", "NONE"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "POST", "NONE"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "GET", "OPAQUE"),
        (b"HTTP/1.1 200\r\n\r\n", "CONNECT", "OPAQUE"),
        (b"HTTP/1.0 200 OK\r\n\r\n", "GET", "CLOSE"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 5\r\n\r\n", "GET", "CHUNKED"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "GET", "CLOSE"),
    ],
)
def test_how_a_response_ends(head: bytes, method: str, delimited: str) -> None:
    assert response_body(parse_response(head), method).delimited.name == delimited


# ---------------------------------------------------------------- server-sent events

STREAM = (
    b': ping\n\ndata: {"n": 1}\n\nevent: x\r\ndata: {"n": 2,\r\ndata: "m": 0}\r\n\r\n'
    b'event: nothing\n\nid: 3\rdata:{"n": 3}\r\rdataset: 4\n\ndata\n\ndata: [DONE]\n\n'
)
ENDS = [24, 67, 104, 122, 136]


def tampered(tamper: BodyTamper, chunks: Iterator[bytes]) -> tuple[bytes, Goes, int]:
    out, harmed = b"", 0
    if (how := tamper.begin()) is not Goes.ON:
        return out, how, 1
    for chunk in chunks:
        data, how, count = tamper.feed(chunk)
        out += data
        harmed += count
        if how is not Goes.ON:
            return out, how, harmed
    return out, Goes.ON, harmed


def test_where_events_end() -> None:
    assert [Events().ends(STREAM, number) for number in range(1, 6)] == ENDS
    assert Events().ends(STREAM, 6) is None


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("wanted", [1, 2, 3, 4, 5])
def test_a_stream_ends_or_stalls_after_its_events_however_it_is_cut(seed: int, wanted: int) -> None:
    for then in (Goes.ENDS, Goes.STALLS):
        out, how, harmed = tampered(AfterEvents(wanted, then), chopped(STREAM, Random(seed)))
        whole = STREAM[: ENDS[wanted - 1]]
        assert out == whole or out + b"\n" == whole, "a CR alone ends a line too"
        assert (how, harmed) == (then, 1)
    assert tampered(AfterEvents(6, Goes.ENDS), chopped(STREAM, Random(seed))) == (STREAM, Goes.ON, 0)
    assert tampered(AfterEvents(0, Goes.ENDS), chopped(STREAM, Random(seed))) == (b"", Goes.ENDS, 1)
    assert tampered(AfterBytes(37), chopped(STREAM, Random(seed))) == (STREAM[:37], Goes.STALLS, 1)


def events(stream: bytes) -> list[str]:
    """The data of each event, by a parser of its own."""
    blocks = stream.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n\n")
    lines = [[line[5:].removeprefix(" ") for line in block.split("\n") if line.startswith("data:")] for block in blocks]
    return ["\n".join(data) for data in lines if data]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("wanted", [1, 2, 3, 5])
def test_one_event_is_malformed_and_the_others_are_not_touched(seed: int, wanted: int) -> None:
    out, how, harmed = tampered(MalformedEvent(wanted), chopped(STREAM, Random(seed)))
    assert (how, harmed, len(out)) == (Goes.ON, 1, len(STREAM))
    begin, end = ([0, *ENDS][wanted - 1], ENDS[wanted - 1])
    assert out[:begin] == STREAM[:begin]
    assert out[end:] == STREAM[end:]
    was, now = (events(stream) for stream in (STREAM[begin:end], out[begin:end]))
    assert len(was) == len(now) == 1
    with pytest.raises(ValueError, match=r"Expecting|Invalid"):
        json.loads(now[0])


# ---------------------------------------------------------------- WebSocket frames


def frame(payload: bytes, *, opcode: int = 1, final: bool = True, mask: bytes = b"") -> bytes:
    """Written from RFC 6455, 5.2, with nothing of ours."""
    size = len(payload)
    if size < 126:
        length, extended = size, b""
    elif size < 65536:
        length, extended = 126, size.to_bytes(2, "big")
    else:
        length, extended = 127, size.to_bytes(8, "big")
    wire = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload)) if mask else payload
    return bytes((final << 7 | opcode, bool(mask) << 7 | length)) + extended + mask + wire


MASK = b"\x11\xa2\x37\xf0"
SOCKET = [
    frame(b'{"n": 1}', mask=MASK),
    frame(b"ping", opcode=9, mask=MASK),
    frame(b'{"n": ', final=False, mask=MASK),
    frame(b"", opcode=10),
    frame(b"2", opcode=0, final=False, mask=b"\0\0\0\0"),
    frame(b"}", opcode=0, mask=MASK),
    frame(bytes(300), opcode=2),
    frame(bytes(70_000), opcode=2, mask=MASK),
    frame(b"", mask=MASK),
    frame(b"\x03\xe8", opcode=8, mask=MASK),
]
WIRE = b"".join(SOCKET)
MESSAGE_ENDS = [len(b"".join(SOCKET[:count])) for count in (1, 6, 7, 8, 9)]


def pieces(chunks: Iterator[bytes]) -> Iterator[FramePiece]:
    frames = Frames()
    for chunk in chunks:
        yield from frames.feed(chunk)
    assert frames.flush() == b""


def sent(tamper: MessageTamper, chunks: Iterator[bytes]) -> tuple[bytes, Goes, int]:
    out, how, harmed = tamper.begin()
    for piece in pieces(chunks):
        if how is not Goes.ON:
            break
        data, how, count = tamper.feed(piece)
        out += data
        harmed += count
    return out, how, harmed


def cuts(seed: int) -> Callable[[bytes], Iterator[bytes]]:
    """As one, or in small pieces (the long payload in larger ones)."""
    random = Random(seed)
    return lambda data: iter([data]) if seed == 0 else chopped(data, random)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("wanted", [1, 2, 3, 4, 5])
def test_a_websocket_stalls_or_closes_after_its_messages(seed: int, wanted: int) -> None:
    cut, end = cuts(seed), MESSAGE_ENDS[wanted - 1]
    assert sent(AfterMessages(wanted, Goes.STALLS), cut(WIRE)) == (WIRE[:end], Goes.STALLS, 1)
    closing = truncation(wanted, code=1013, reason="later", masked=False, random=Random(1))
    expected = frame((1013).to_bytes(2, "big") + b"later", opcode=8)
    assert sent(closing, cut(WIRE)) == (WIRE[:end] + expected, Goes.ENDS, 1)
    without = truncation(wanted, code=1006, reason="", masked=False, random=Random(1))
    assert sent(without, cut(WIRE)) == (WIRE[:end], Goes.ENDS, 1)


def test_a_websocket_may_close_before_its_first_message_and_a_client_masks_its_close() -> None:
    closing = truncation(0, code=1011, reason="", masked=True, random=Random(1))
    out, how, harmed = sent(closing, iter([WIRE]))
    mask = Random(1).randbytes(4)
    assert (out, how, harmed) == (frame(b"\x03\xf3", opcode=8, mask=mask), Goes.ENDS, 1)
    assert close_frame(1000, "bye", mask) == frame(b"\x03\xe8bye", opcode=8, mask=mask)


@pytest.mark.parametrize("seed", range(4))
def test_one_message_is_malformed_with_all_its_fragments(seed: int) -> None:
    out, how, harmed = sent(MalformedMessage(2), cuts(seed)(WIRE))
    spoilt = [*SOCKET]
    spoilt[2] = frame(b"~" * 6, final=False, mask=MASK)
    spoilt[4] = frame(b"~", opcode=0, final=False, mask=b"\0\0\0\0")
    spoilt[5] = frame(b"~", opcode=0, mask=MASK)
    assert (out, how, harmed) == (b"".join(spoilt), Goes.ON, 1)
    long, _, _ = sent(MalformedMessage(4), cuts(seed)(WIRE))
    assert long == WIRE.replace(SOCKET[7], frame(b"~" * 70_000, opcode=2, mask=MASK))
