"""What the students of the recording proxy understand of the vendors' wire formats."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from busyhour.emulators.behaviour import Empirical
from busyhour.emulators.profile import Abandoned, Profile, read
from busyhour.errors import PlanError
from busyhour.learn.command import seen
from busyhour.learn.lessons import Lessons
from busyhour.learn.llm import ANTHROPIC, GEMINI, OPENAI, Format, LanguageModel
from busyhour.learn.stt import DeepgramStudent
from busyhour.learn.student import End, Events
from busyhour.learn.tts import CartesiaStudent, ElevenLabsStudent
from busyhour.learn.vectors import Vectors
from busyhour.learn.waits import KEPT_AT_MOST, Reservoir, Waits
from busyhour.model import MS, SECOND

RAW: Any = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 8000}


def profile_of(lessons: Lessons, vendor: str) -> Profile:
    profile = lessons.profile(vendor=vendor, upstream="http://127.0.0.1:1", learned="2026-11-20T10:00:00Z")
    assert profile is not None
    return profile


def told(format_: Format, events: Sequence[str], *, status: int = 200, how: End = End.WHOLE) -> Lessons:
    """A streamed reply, an event every 10 ms, the first 50 ms after the request."""
    lessons = Lessons()
    path = next(p for p in ("/chat/completions", "/messages", "/m:streamGenerateContent") if format_.asks(p))
    reply = LanguageModel(lessons, format_).exchange("POST", path, {}, b"")
    assert reply is not None
    reply.sent(SECOND)
    reply.answered(status, {"Content-Type": "text/event-stream; charset=utf-8"}, SECOND)
    for number, event in enumerate(events):
        reply.chunk(event.encode() + b"\r\n\r\n", SECOND + (50 + 10 * number) * MS)
    reply.ended(how, 2 * SECOND)
    return lessons


def delta(**more: Any) -> str:
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": more}]})


ARGUMENTS = delta(tool_calls=[{"index": 0, "function": {"arguments": "{"}}])
DONE = "data: [DONE]"


@pytest.mark.parametrize(
    ("format_", "events", "first_ms"),
    [
        (OPENAI, [delta(role="assistant", content=""), delta(content="Hi"), delta(content="!"), DONE], 60),
        (OPENAI, [delta(tool_calls=[{"function": {"name": "f", "arguments": ""}}]), ARGUMENTS, ARGUMENTS, DONE], 60),
        (
            OPENAI,
            [
                'event: x\ndata: {"type":"response.created"}',
                'data: {"type":"response.output_text.delta","delta":"Hi"}',
                'data: {"type":"response.output_text.delta","delta":"!"}',
                'data: {"type":"response.completed"}',
            ],
            60,
        ),
        (
            ANTHROPIC,
            [
                'data: {"type":"message_start"}',
                'data: {"type":"content_block_delta","delta":{"type":"thinking_delta"}}',
                'data: {"type":"content_block_delta","delta":{"type":"text_delta"}}',
                'data: {"type":"content_block_delta","delta":{"type":"input_json_delta"}}',
                'data: {"type":"message_stop"}',
            ],
            70,
        ),
        (
            GEMINI,
            [
                'data: {"candidates":[{"content":{"parts":[{"text":"Hi"}]}}]}',
                'data: {"candidates":[{"content":{"parts":[{"text":"!"}]},"finishReason":"STOP"}]}',
            ],
            50,
        ),
    ],
    ids=["chat", "tool", "responses", "anthropic", "gemini"],
)
def test_tokens_are_told_from_other_events(format_: Format, events: list[str], first_ms: float) -> None:
    lessons = told(format_, events)
    assert lessons.delays == {"first_token": [first_ms], "between_tokens": [10]}
    assert lessons.outcomes == {}
    assert told(format_, events[:-1]).outcomes == {"truncate": 1}
    assert told(format_, events, how=End.BROKEN).outcomes in ({"truncate": 1}, {})


def test_outcomes_are_the_vendors_own() -> None:
    for status, met in [(429, "http_429"), (500, "http_500"), (502, "http_503"), (529, "http_503")]:
        assert told(OPENAI, [], status=status).outcomes == {met: 1}
    for status in (400, 401, 404):
        assert told(OPENAI, [], status=status).outcomes == {}  # the client's mistake is no habit of the vendor's
    assert told(OPENAI, [], how=End.LEFT).profile(vendor="x", upstream="", learned="") is None
    lessons = Lessons()
    reply = LanguageModel(lessons, OPENAI).exchange("POST", "/v1/responses", {}, b"")
    assert reply is not None
    reply.ended(End.BROKEN, SECOND)
    assert lessons.outcomes == {"reset": 1}


@pytest.mark.parametrize(
    "junk", [b"\xff\xfe\n\n", b"data: [[[[\n\n", b"data: 3\n\n", b": ping\n\n", b"data\n\n", b"x" * 3_000_000]
)
def test_events_that_make_no_sense_are_passed_over(junk: bytes) -> None:
    lessons = Lessons()
    reply = LanguageModel(lessons, OPENAI).exchange("POST", "/v1/chat/completions", {}, b"")
    assert reply is not None
    reply.answered(200, {"Content-Type": "text/event-stream"}, 0)
    reply.chunk(junk, 1)
    reply.chunk(b"\n\n" + delta(content="Hi").encode() + b"\n\n" + DONE.encode() + b"\n\n", 5 * MS)
    reply.ended(End.WHOLE, SECOND)
    assert lessons.delays == {"first_token": [5]}


def test_zipped_events_are_read() -> None:
    events = Events({"Content-Encoding": "gzip"})
    zipped = gzip.compress(b'data: {"one": 1}\n\ndata: {"two":\ndata: 2}\n\ndata: [DONE]\n\n')
    read = [event for at in range(0, len(zipped), 7) for event in events.of(zipped[at : at + 7])]
    assert [(event.form, event.done) for event in read] == [({"one": 1}, False), ({"two": 2}, False), ({}, True)]
    assert list(Events({"Content-Encoding": "gzip"}).of(b"not gzip")) == []


def test_a_text_that_waits_for_its_end_is_not_late() -> None:
    lessons = Lessons()
    ws = CartesiaStudent(lessons).conversation("/tts/websocket", {})
    assert ws is not None
    ws.answered(101)
    form = {"context_id": "c", "output_format": RAW, "continue": True}
    ws.asked(json.dumps({**form, "transcript": "Hel"}), 0)
    ws.asked(json.dumps({**form, "transcript": "lo."}), 100 * MS)
    for number in range(5):  # a second of audio in 250 ms: 4 times real time
        chunk = {"type": "chunk", "context_id": "c", "data": "A" * 4 * (4000 // 3)}
        ws.told(json.dumps(chunk), (150 + 62 * number) * MS)
    ws.told('{"type":"done","context_id":"c"}', SECOND)
    assert lessons.delays == {"first_audio": [50]}
    assert profile_of(lessons, "cartesia").numbers["realtime_factor"] == pytest.approx(4, rel=0.05)
    ws.asked(json.dumps({"context_id": "d", "output_format": RAW, "transcript": "Hello."}), 2 * SECOND)
    ws.told('{"type":"done","context_id":"d"}', 2 * SECOND)
    ws.asked(json.dumps({"context_id": "e", "output_format": RAW, "transcript": "Hello."}), 2 * SECOND)
    ws.told('{"type":"error","context_id":"e"}', 2 * SECOND)
    ws.asked(json.dumps({"context_id": "f", "output_format": RAW, "transcript": "Hello."}), 2 * SECOND)
    ws.ended(End.BROKEN, 3 * SECOND)
    assert profile_of(lessons, "cartesia").outcomes == {"error": 0.25, "reset": 0.25, "zero_audio": 0.25}


def test_elevenlabs_contexts_are_told_apart() -> None:
    lessons = Lessons()
    query = {"output_format": "pcm_16000"}
    ws = ElevenLabsStudent(lessons).conversation("/v1/text-to-speech/v/multi-stream-input", query)
    assert ws is not None
    ws.asked('{"text":" ","context_id":"a"}', 0)
    ws.asked('{"text":"Hello there. ","context_id":"a"}', 10 * MS)
    ws.asked('{"context_id":"a","flush":true}', 20 * MS)
    ws.asked('{"text":"Other. ","context_id":"b","flush":true}', 30 * MS)
    ws.told('{"audio":"AAAA","contextId":"a"}', 120 * MS)
    ws.told('{"audio":"AAAA","contextId":"b"}', 180 * MS)
    ws.told('{"contextId":"a","isFinal":true}', 200 * MS)
    assert lessons.delays == {"first_audio": [100, 150]}
    assert lessons.finished == 1


def test_finals_are_counted_from_the_pause_or_from_finalize() -> None:
    lessons = Lessons()
    query = {"encoding": "linear16", "sample_rate": "8000", "endpointing": "300"}
    ws = DeepgramStudent(lessons).conversation("/v1/listen", query)
    assert ws is not None
    for number in range(100):
        ws.asked(b"\0" * 320, number * 20 * MS)

    def result(end: float, *, words: int = 1, **more: bool) -> str:
        spoken = [{"word": "x", "start": 0, "end": end}] * words
        return json.dumps({"type": "Results", "channel": {"alternatives": [{"words": spoken}]}, **more})

    ws.told(result(0.5), 600 * MS)  # the audio of 0.5 s passed at 480 ms
    ws.told(result(0.5), 700 * MS)  # no word more: nothing new
    ws.told(result(1.0, is_final=True, speech_final=True), 1400 * MS)  # 980 ms, and the pause
    ws.asked('{"type":"Finalize"}', 2000 * MS)
    ws.told(result(1.5, is_final=True, speech_final=True, from_finalize=True), 2050 * MS)
    assert lessons.delays == {"interim": [120], "final": [120, 50]}
    assert lessons.finished == 2


def test_flux_says_itself_how_much_it_had_heard() -> None:
    lessons = Lessons()
    ws = DeepgramStudent(lessons).conversation("/v2/listen", {"encoding": "linear16", "sample_rate": "8000"})
    assert ws is not None
    for number in range(100):
        ws.asked(b"\0" * 320, number * 20 * MS)
    for event, words, heard, at in (
        ("StartOfTurn", ["a"], 0.5, 520),
        ("Update", ["a"], 0.7, 900),
        ("Update", ["a", "b"], 1.0, 1050),
        ("EndOfTurn", ["a", "b"], 1.5, 1600),
    ):
        told = {"type": "TurnInfo", "event": event, "words": [{"word": w} for w in words], "audio_window_end": heard}
        ws.told(json.dumps(told), at * MS)
    ws.told('{"type":"TurnInfo","event":"EndOfTurn"}', SECOND)
    assert lessons.delays == {"interim": [40, 70], "final": [120]}
    ws.told('{"type":"Error","code":"NET-0001"}', 3 * SECOND)
    ws.ended(End.WHOLE, 3 * SECOND)
    assert (lessons.finished, lessons.outcomes) == (2, {"error": 1})


def test_vectors_are_timed_reads_and_writes_apart() -> None:
    lessons = Lessons()
    for path, ms in (("/query", 40), ("/vectors/upsert", 80)):
        answer = Vectors(lessons).exchange("POST", path, {}, b"")
        assert answer is not None
        answer.sent(SECOND)
        answer.answered(200, {}, SECOND)
        answer.ended(End.WHOLE, SECOND + ms * MS)
    assert lessons.delays == {"query": [40], "upsert": [80]}
    assert Vectors(lessons).exchange("GET", "/indexes", {}, b"") is None


def test_what_was_seen_is_told_as_people_write_times() -> None:
    lessons = Lessons()
    for ms in (341.4, 2010, 1_000_000):
        lessons.delay("first_token", round(ms * MS))
    lessons.met("http_429")
    lessons.finished = 4
    assert seen(lessons) == "4 seen: first_token p50 2.01 s, p95 1000 s (n=3); 1 http_429"


def test_a_reservoir_is_bounded_and_fair() -> None:
    reservoir: Reservoir[int] = Reservoir("x")
    for value in range(10 * KEPT_AT_MOST):
        reservoir.add(value)
    assert len(reservoir.values) == KEPT_AT_MOST
    assert sum(reservoir.values) / KEPT_AT_MOST == pytest.approx(5 * KEPT_AT_MOST, rel=0.02)


# ---------------------------------------------------------------- what was abandoned


def waits_of(*ms: float, abandoned: Sequence[float] = ()) -> Waits:
    waits = Waits("first_token")
    for one in ms:
        waits.add(one)
    for one in abandoned:
        waits.add(one, abandoned=True)
    return waits


def test_what_was_abandoned_counts_as_far_as_it_was_waited_for() -> None:
    """The example of every textbook: 6-MP in acute leukaemia (Freireich, 1963), 21 patients, 12 of them censored."""
    waits = waits_of(6, 6, 6, 7, 10, 13, 16, 22, 23, abandoned=(6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35))
    curve = waits.curve()
    survival = dict(zip(curve.ms, (1 - share for share in curve.shares), strict=True))
    assert survival == pytest.approx(
        {6: 0.8571, 7: 0.8067, 10: 0.7529, 13: 0.6902, 16: 0.6275, 22: 0.5378, 23: 0.4482}, abs=1e-4
    )
    assert (curve.quantile(0.5), curve.longest_ms) == (23, 35)
    assert curve.unseen == pytest.approx(0.4482, abs=1e-4)
    assert (curve.knows(0.5), curve.knows(0.6), curve.quantile(0.6)) == (True, False, 35)
    drawn = waits.drawn()
    assert len(drawn) == 1000
    assert sum(ms > 23 for ms in drawn) == pytest.approx(448, abs=1)


def test_a_client_that_gives_up_does_not_make_the_vendor_faster() -> None:
    random = Random(1)
    true = [random.lognormvariate(6, 0.8) for _ in range(5000)]
    patience = [random.lognormvariate(6.3, 0.5) for _ in true]
    came = [ms for ms, left in zip(true, patience, strict=True) if ms <= left]
    left = [left for ms, left in zip(true, patience, strict=True) if ms > left]
    assert len(left) > 1500
    drawn = sorted(waits_of(*came, abandoned=left).drawn())
    for q in (0.1, 0.5, 0.9):
        truth = sorted(true)[int(q * len(true))]
        assert drawn[int(q * 1000)] == pytest.approx(truth, rel=0.1)
    assert sorted(came)[int(0.9 * len(came))] < 0.7 * sorted(true)[int(0.9 * len(true))], "what would be learned else"


def test_nothing_abandoned_is_nothing_changed() -> None:
    waits = waits_of(30, 10, 20)
    assert waits.drawn() == [30, 10, 20]
    curve = waits.curve()
    assert (curve.unseen, curve.quantile(0.34), curve.quantile(1)) == (0, 20, 30)


@pytest.mark.parametrize(
    ("events", "status", "body", "abandoned"),
    [
        ([], 0, b'{"stream": true}', {"first_token": 1000}),
        ([], 0, b'{"stream": false}', {}),  # of a whole reply no token is timed
        ([], 0, b"no json", {}),
        ([], 200, b"", {"first_token": 1000}),
        ([delta(role="assistant")], 200, b"", {"first_token": 1000}),
        ([delta(content="Hi")], 200, b"", {"between_tokens": 950}),
        ([delta(content="Hi"), DONE], 200, b"", {}),
        ([], 400, b'{"stream": true}', {}),
        ([], 429, b'{"stream": true}', {}),
    ],
)
def test_a_reply_that_is_left_was_awaited_until_then(
    events: list[str], status: int, body: bytes, abandoned: dict[str, float]
) -> None:
    lessons = Lessons()
    reply = LanguageModel(lessons, OPENAI).exchange("POST", "/v1/chat/completions", {}, body)
    assert reply is not None
    reply.sent(SECOND)
    if status:
        reply.answered(status, {"Content-Type": "text/event-stream"}, SECOND)
    for number, event in enumerate(events):
        reply.chunk(event.encode() + b"\n\n", SECOND + (50 + 10 * number) * MS)
    reply.ended(End.LEFT, 2 * SECOND)
    left = {name: waits.curve().longest_ms for name, waits in lessons.waits.items() if waits.abandoned}
    assert left == abandoned
    assert lessons.outcomes == ({"http_429": 1} if status == 429 else {})
    assert lessons.finished == (delta(content="Hi") in events) + (status == 429)


def test_a_request_that_never_left_was_not_awaited() -> None:
    lessons = Lessons()
    reply = LanguageModel(lessons, OPENAI).exchange("POST", "/v1/chat/completions", {}, b'{"stream": true}')
    assert reply is not None
    reply.ended(End.LEFT, SECOND)
    assert not lessons.waits


def test_speech_that_is_cut_off_was_awaited_until_then() -> None:
    lessons = Lessons()
    ws = CartesiaStudent(lessons).conversation("/tts/websocket", {})
    assert ws is not None
    ws.answered(101)
    for name in "abc":
        ws.asked(json.dumps({"context_id": name, "output_format": RAW, "transcript": "Hello."}), SECOND)
    ws.told('{"type":"chunk","context_id":"a","data":"AAAA"}', SECOND + 40 * MS)
    for name in "ab":  # the caller talks over it
        ws.asked(json.dumps({"context_id": name, "cancel": True}), SECOND + 300 * MS)
    ws.asked(json.dumps({"context_id": "d", "output_format": RAW, "transcript": "Hel", "continue": True}), SECOND)
    ws.ended(End.LEFT, SECOND + 500 * MS)  # "c" had been due, "d" had not
    waits = lessons.waits["first_audio"]
    assert (waits.came, waits.abandoned, waits.curve().longest_ms) == (1, 2, 500)
    assert profile_of(lessons, "cartesia").requests == 1, "what the others would have come to nobody knows"
    speech = CartesiaStudent(lessons).exchange("POST", "/tts/bytes", {}, b"{}")
    assert speech is not None
    speech.sent(SECOND)
    speech.ended(End.LEFT, SECOND + 700 * MS)
    assert (waits.abandoned, waits.curve().longest_ms) == (3, 700)


def test_a_query_that_is_left_was_awaited_until_then() -> None:
    lessons = Lessons()
    answer = Vectors(lessons).exchange("POST", "/query", {}, b"")
    assert answer is not None
    answer.sent(SECOND)
    answer.ended(End.LEFT, 2 * SECOND)
    assert lessons.waits["query"].abandoned == 1
    assert lessons.profile(vendor="pinecone", upstream="", learned="") is None


def test_how_much_is_not_known_is_said_in_the_words_and_in_the_profile(tmp_path: Path) -> None:
    lessons = Lessons()
    for ms in range(100, 1000, 100):
        lessons.request()
        lessons.finished += 1
        lessons.delay("first_token", ms * MS)
    lessons.abandoned("first_token", 2000 * MS)
    words = "9 seen: first_token p50 600 ms, p95 more than 2 s (n=9, and 1 abandoned before it: longer waits), "
    assert seen(lessons) == words + "the slowest 10% more than 2 s, nobody knows how much"
    profile = profile_of(lessons, "openai")
    profile.write(path := tmp_path / "p.json")
    again = read(path, "openai")
    assert again.abandoned == {"first_token": Abandoned(n=1, unseen=0.1, longer_than_ms=2000)}
    assert again.measured == {"first_token": 9}
    latency = again.latencies["first_token"]
    assert isinstance(latency, Empirical)
    assert latency.ms.count(2000) == 100
    lessons = Lessons()
    lessons.abandoned("first_token", 2000 * MS)
    assert seen(lessons) == "0 seen: first_token never came: 1 abandoned before it, after at most 2 s"


@pytest.mark.parametrize("wrong", ["[]", '{"first_token": 3}', '{"first_token": {"n": "x"}}'])
def test_a_profile_whose_abandoned_make_no_sense_is_corrupt(wrong: str, tmp_path: Path) -> None:
    lessons = Lessons()
    lessons.request()
    profile_of(lessons, "openai").write(path := tmp_path / "p.json")
    form = json.loads(path.read_text())
    del form["abandoned"]
    path.write_text(json.dumps(form))
    assert read(path, "openai").abandoned == {}, "as it was written before they were counted"
    path.write_text(json.dumps({**form, "abandoned": json.loads(wrong)}))
    with pytest.raises(PlanError, match=r"the profile is corrupt: .*abandoned"):
        read(path, "openai")
