"""Flux, the turns of the Deepgram twin, judged by the official SDK. Audio is sent faster than it would be spoken."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

from .stages import rows_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the SDK uses the legacy client of websockets
    from deepgram import AsyncDeepgramClient, DeepgramClient
    from deepgram.core.api_error import ApiError
    from deepgram.core.events import EventType
    from deepgram.environment import DeepgramClientEnvironment
    from deepgram.listen.v2.types.listen_v2configure import ListenV2Configure
    from deepgram.listen.v2.types.listen_v2configure_failure import ListenV2ConfigureFailure
    from deepgram.listen.v2.types.listen_v2configure_success import ListenV2ConfigureSuccess
    from deepgram.listen.v2.types.listen_v2configure_thresholds import ListenV2ConfigureThresholds
    from deepgram.listen.v2.types.listen_v2connected import ListenV2Connected
    from deepgram.listen.v2.types.listen_v2fatal_error import ListenV2FatalError
    from deepgram.listen.v2.types.listen_v2turn_info import ListenV2TurnInfo
    from deepgram.listen.v2.types.listen_v2warning import ListenV2Warning
    from websockets.exceptions import ConnectionClosedError

from busyhour.clock import SystemClock
from busyhour.emulators import Constant, Deepgram
from busyhour.emulators.deepgram.api import application
from busyhour.emulators.deepgram.turns import confidence
from busyhour.emulators.twin import Twin, listening
from busyhour.media.codec import codec
from busyhour.media.utterances import utterance
from busyhour.model import MS, Operation

# The SDK loads websockets' legacy client, which says so, when it is first used.
pytestmark = pytest.mark.filterwarnings("ignore:.*websockets.*:DeprecationWarning")

FLUX: dict[str, Any] = {"model": "flux-general-en", "encoding": "mulaw", "sample_rate": 8000}
FRAME = 160
SECOND_OF_SILENCE = codec("PCMU").silence * 50
SUNDAY = "Are you open on Sundays?"


def heard_as(name: str) -> bytes:
    """An utterance as a phone would send it."""
    return codec("PCMU").encode(utterance(name, 8000).samples)


@dataclass
class Stage:
    """A twin on a real socket in this process, and the SDK's client on it."""

    twin: Twin
    port: int
    client: AsyncDeepgramClient

    def connect(self, **query: Any) -> Any:
        return self.client.listen.v2.connect(**{**FLUX, **query})

    async def rows(self, kind: str, count: int = 1) -> list[Operation]:
        return await rows_of(self.twin, count, kind=kind)


def here(port: int) -> DeepgramClientEnvironment:
    return DeepgramClientEnvironment(
        base=f"http://127.0.0.1:{port}",
        production=f"ws://127.0.0.1:{port}",
        agent="ws://127.0.0.1:1",
        agent_rest="http://127.0.0.1:1",
    )


@asynccontextmanager
async def playing(**settings: Any) -> AsyncIterator[Stage]:
    """By default the twin answers at once."""
    service = Deepgram(**{"final": Constant(0), "interim": Constant(0), **settings})
    twin = Twin("stt", service._behaviour, SystemClock())
    async with listening(application(twin, {})) as port:
        yield Stage(twin, port, AsyncDeepgramClient(api_key="dg-x", environment=here(port)))


async def speak(socket: Any, *octets: bytes) -> None:
    together = b"".join(octets)
    for at in range(0, len(together), FRAME):
        await socket.send_media(together[at : at + FRAME])


async def said(socket: Any, *octets: bytes) -> list[Any]:
    """Stream octets in frames of 20 ms, close, and read until the twin does."""
    await speak(socket, *octets)
    await socket.send_close_stream()
    async with asyncio.timeout(60):
        return [message async for message in socket]


async def next_of(socket: Any, kind: type) -> Any:
    async with asyncio.timeout(60):
        while not isinstance(message := await socket.recv(), kind):
            pass
        return message


def turns(messages: Sequence[Any], *events: str) -> list[ListenV2TurnInfo]:
    found = [message for message in messages if isinstance(message, ListenV2TurnInfo)]
    return [turn for turn in found if turn.event in events] if events else found


# ---------------------------------------------------------------- turns


async def test_a_turn_from_its_first_words_to_its_end() -> None:
    async with playing() as stage, stage.connect() as socket:
        found = await said(socket, SECOND_OF_SILENCE, heard_as("hours.sunday"), SECOND_OF_SILENCE)
        (row,) = await stage.rows("stt")
    assert isinstance(found[0], ListenV2Connected)
    told = turns(found)
    assert [message.sequence_id for message in found] == list(range(len(found)))
    assert {turn.request_id for turn in told} == {found[0].request_id}
    (start,), (end,) = turns(found, "StartOfTurn"), turns(found, "EndOfTurn")
    at, until = told.index(start), told.index(end)
    before, during, after = told[:at], told[at + 1 : until], told[until + 1 :]
    assert {turn.event for turn in (*before, *during, *after)} == {"Update"}
    assert [turn.transcript for turn in before] == [""] * len(before)
    assert 0 < len(start.transcript) < len(SUNDAY)
    assert SUNDAY.startswith(start.transcript)
    assert [len(turn.transcript) for turn in during] == sorted(len(turn.transcript) for turn in during)
    assert (end.transcript, end.trigger, end.turn_index) == (SUNDAY, "model", 0)
    assert end.end_of_turn_confidence >= 0.7 > max(turn.end_of_turn_confidence for turn in during)
    assert {turn.turn_index for turn in after} == {1}
    # Updates come about four times a second.
    gaps = [two.audio_window_end - one.audio_window_end for one, two in pairwise(before)]
    assert gaps == pytest.approx([0.24] * len(gaps), abs=0.021)
    assert row.detail["transcript"] == SUNDAY
    assert (row.detail["model"], row.detail["words"]) == ("flux-general-en", 5)


async def test_a_turn_says_when_and_how_surely() -> None:
    audio = utterance("hours.saturday", 8000)
    async with playing() as stage, stage.connect() as socket:
        found = await said(socket, SECOND_OF_SILENCE, heard_as("hours.saturday"), SECOND_OF_SILENCE)
    (end,) = turns(found, "EndOfTurn")
    speech_ended = 1 + audio.speech_ended / 8000
    # 240 ms of silence make a whole sentence 0.7 sure to be the last.
    assert 0.23 <= end.audio_window_end - speech_ended <= 0.32
    assert end.audio_window_start == 0
    assert [word.word for word in end.words][-2:] == ["on", "Saturday?"]
    for told, true in zip(end.words, audio.words, strict=True):
        assert told.confidence > 0.9
        assert told.start == pytest.approx(1 + true.began / 8000, abs=0.03)
        assert told.end == pytest.approx(1 + true.ended / 8000, abs=0.03)


async def test_turns_follow_each_other() -> None:
    names = ("hours.today", "price.card", "barge.question")
    async with playing() as stage, stage.connect() as socket:
        found = await said(socket, *(heard_as(name) + SECOND_OF_SILENCE for name in names))
        rows = await stage.rows("stt", 3)
    ends = turns(found, "EndOfTurn")
    assert [turn.transcript for turn in ends] == [utterance(name).text for name in names]
    assert [turn.turn_index for turn in ends] == [0, 1, 2]
    assert [turn.audio_window_start for turn in ends[1:]] == [turn.audio_window_end for turn in ends[:-1]]
    assert len(turns(found, "StartOfTurn")) == 3
    assert [row.detail["transcript"] for row in rows] == [turn.transcript for turn in ends]
    lengths = [turn.audio_window_end - turn.audio_window_start for turn in ends]
    assert [row.detail["audio_ms"] for row in rows] == pytest.approx([1000 * length for length in lengths], abs=2)


async def test_an_eager_end_and_a_caller_who_goes_on() -> None:
    pause = SECOND_OF_SILENCE[: 8 * 220]  # 220 ms, after a whole sentence: sure enough for 0.5, not for 0.7
    async with playing() as stage, stage.connect(eager_eot_threshold=0.5) as socket:
        found = await said(socket, heard_as("price.card")[:-400], pause, heard_as("hours.sunday"), SECOND_OF_SILENCE)
    events = [turn.event for turn in turns(found) if turn.event != "Update"]
    assert events == ["StartOfTurn", "EagerEndOfTurn", "TurnResumed", "EagerEndOfTurn", "EndOfTurn"]
    first, second = turns(found, "EagerEndOfTurn")
    (end,) = turns(found, "EndOfTurn")
    assert first.transcript == "Can I pay by credit card?"
    assert 0.5 <= first.end_of_turn_confidence < 0.7
    # What begins so soon after other speech loses its first words: they are soft beside the words before.
    assert second.transcript == end.transcript
    assert end.transcript.startswith("Can I pay by credit card? ")
    assert end.transcript.endswith("open on Sundays?")
    assert second.audio_window_end < end.audio_window_end
    assert {turn.turn_index for turn in (first, second, end)} == {0}


async def test_without_a_threshold_for_it_no_end_is_eager() -> None:
    async with playing() as stage, stage.connect() as socket:
        found = await said(socket, heard_as("price.card"), SECOND_OF_SILENCE)
    assert not turns(found, "EagerEndOfTurn", "TurnResumed")


async def test_the_middle_of_a_sentence_is_waited_for() -> None:
    audio = utterance("booking.reschedule", 8000)
    half = codec("PCMU").encode(audio.samples[: audio.words[3].ended])
    rest = codec("PCMU").encode(audio.samples[audio.words[3].ended :])
    async with playing() as stage, stage.connect() as socket:
        found = await said(socket, half, SECOND_OF_SILENCE, rest, SECOND_OF_SILENCE)
        (end,) = turns(found, "EndOfTurn")
        assert end.transcript == audio.text
    async with playing() as stage, stage.connect() as socket:
        found = await said(socket, half, SECOND_OF_SILENCE * 2)
        (end,) = turns(found, "EndOfTurn")
        assert end.transcript == " ".join(audio.text.split()[:4])


async def test_a_turn_that_is_never_sure_ends_by_the_clock() -> None:
    async with playing() as stage, stage.connect(eot_threshold=1.0, eot_timeout_ms=1500) as socket:
        found = await said(socket, heard_as("price.card"), SECOND_OF_SILENCE * 3)
    (end,) = turns(found, "EndOfTurn")
    assert (end.trigger, end.transcript) == ("timeout", "Can I pay by credit card?")
    speech_ended = utterance("price.card", 8000).speech_ended / 8000
    assert end.audio_window_end - speech_ended == pytest.approx(1.5, abs=0.06)


async def test_a_turn_is_ended_by_force() -> None:
    async with playing() as stage, stage.connect() as socket:
        await speak(socket, heard_as("price.card"))
        await socket.send_force_end_turn()
        found: list[Any] = []
        async with asyncio.timeout(60):
            while not turns(found, "EndOfTurn"):
                found.append(await socket.recv())
        (end,) = turns(found, "EndOfTurn")
        assert (end.trigger, end.turn_index) == ("manual", 0)
        assert utterance("price.card").text.startswith(end.transcript)
        assert len(end.words) >= 4
        assert end.end_of_turn_confidence < 0.7
        await socket.send_force_end_turn()
        warning = await next_of(socket, ListenV2Warning)
        assert warning.code == "FORCE_END_TURN_NO_ACTIVE_TURN"


async def test_sound_that_is_not_understood_begins_no_turn() -> None:
    unknown = codec("PCMU").encode(utterance("hours.sunday", 8000).samples[::-1].copy())
    async with playing() as stage, stage.connect() as socket:
        found = await said(socket, unknown, SECOND_OF_SILENCE * 2, heard_as("price.card"), SECOND_OF_SILENCE)
    (end,) = turns(found, "EndOfTurn")
    assert (end.turn_index, end.transcript) == (0, "Can I pay by credit card?")


async def test_a_monologue_is_one_turn() -> None:
    name = "hostile.monologue"
    async with playing() as stage, stage.connect(eot_threshold=0.9) as socket:
        found = await said(socket, heard_as(name), SECOND_OF_SILENCE)
    (end,) = turns(found, "EndOfTurn")
    assert end.transcript == utterance(name).text
    assert len(turns(found, "StartOfTurn")) == 1


def test_confidence_grows_with_silence_and_faster_after_a_sentence() -> None:
    whole = [confidence(ms, complete=True) for ms in range(0, 60_000, 10)]
    half = [confidence(ms, complete=False) for ms in range(0, 60_000, 10)]
    assert whole == sorted(whole)
    assert all(one >= other for one, other in zip(whole, half, strict=True))
    assert confidence(240, complete=True) == pytest.approx(0.707, abs=0.01)
    assert 1_300 < next(ms * 10 for ms, sure in enumerate(half) if sure >= 0.7) < 1_500
    assert max(whole) < 1


# ---------------------------------------------------------------- configuration


async def test_configure() -> None:
    async with playing() as stage, stage.connect(keyterm=["Anna", "Fiona"]) as socket:
        await socket.send_configure(
            ListenV2Configure(thresholds=ListenV2ConfigureThresholds(eot_threshold=1.0, eot_timeout_ms=700))
        )
        answer = await next_of(socket, ListenV2ConfigureSuccess)
        assert (answer.thresholds.eot_threshold, answer.thresholds.eot_timeout_ms) == (1.0, 700)
        assert answer.thresholds.eager_eot_threshold is None
        assert answer.keyterms == ["Anna", "Fiona"]
        await socket.send_configure({"type": "Configure", "keyterms": ["John"]})
        assert (await next_of(socket, ListenV2ConfigureSuccess)).keyterms == ["John"]
        found = await said(socket, heard_as("price.card"), SECOND_OF_SILENCE)
        (end,) = turns(found, "EndOfTurn")
        assert end.trigger == "timeout"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"thresholds": {"eot_threshold": 0.4}}, "INVALID_THRESHOLDS"),
        ({"thresholds": {"eager_eot_threshold": 0.8}}, "INVALID_THRESHOLDS"),
        ({"thresholds": {"eot_timeout_ms": "soon"}}, "INVALID_THRESHOLDS"),
        ({"thresholds": {"eot_timeout_ms": True}}, "INVALID_THRESHOLDS"),
        ({"thresholds": 7}, "INVALID_THRESHOLDS"),
        ({"keyterms": [7]}, "INVALID_KEYTERMS"),
        ({"keyterms": ["x"] * 101}, "INVALID_KEYTERMS"),
        ({"language_hints": ["en"]}, "INVALID_LANGUAGE_HINTS"),
    ],
)
async def test_a_configuration_that_cannot_be_changes_nothing(change: dict[str, Any], code: str) -> None:
    async with playing() as stage, stage.connect() as socket:
        await socket.send_configure({"type": "Configure", **change})
        failure = await next_of(socket, ListenV2ConfigureFailure)
        assert (failure.code, failure.sequence_id) == (code, 1)
        await socket.send_configure({"type": "Configure"})
        answer = await next_of(socket, ListenV2ConfigureSuccess)
        assert (answer.thresholds.eot_threshold, answer.thresholds.eot_timeout_ms) == (0.7, 5000)


async def test_languages_of_the_multilingual_model() -> None:
    async with playing() as stage, stage.connect(model="flux-general-multi", language_hint=["en", "de"]) as socket:
        (end,) = turns(await said(socket, heard_as("price.card"), SECOND_OF_SILENCE), "EndOfTurn")
    assert (end.languages, end.languages_hinted) == (["en"], ["en", "de"])


@pytest.mark.parametrize(
    ("query", "because"),
    [
        ({"model": "nova-3"}, "No such model"),
        ({"encoding": "opus"}, "Unsupported encoding 'opus'"),
        ({"sample_rate": 4000}, "'sample_rate' value of '4000'"),
        ({"eot_threshold": 0.4}, "'eot_threshold' value of '0.4'"),
        ({"eot_threshold": "nan"}, "'eot_threshold' value of 'nan'"),
        ({"eager_eot_threshold": 0.95}, "'eager_eot_threshold' value of '0.95'"),
        ({"eager_eot_threshold": 0.8}, "must not be greater"),
        ({"eot_timeout_ms": 499}, "'eot_timeout_ms' value of '499'"),
        ({"keyterm": ["x"] * 101}, "More than 100 keyterms"),
    ],
)
async def test_a_query_that_cannot_be_served_is_refused(query: dict[str, Any], because: str) -> None:
    async with playing() as stage:
        with pytest.raises(ApiError) as refused:
            async with stage.connect(**query):
                pass
        assert refused.value.status_code == 400
        async with aiohttp.ClientSession(headers={"Authorization": "Token x"}) as session:
            pairs = [(k, str(v)) for k, vs in {**FLUX, **query}.items() for v in (vs if isinstance(vs, list) else [vs])]
            async with session.get(f"http://127.0.0.1:{stage.port}/v2/listen", params=pairs) as response:
                body = await response.json()
        assert (response.status, body["err_code"]) == (400, "Bad Request")
        assert because in body["err_msg"]


# ---------------------------------------------------------------- failures, time


async def test_latencies_are_those_that_were_set() -> None:
    clock = SystemClock()
    async with playing(final=Constant(300), interim=Constant(50)) as stage, stage.connect() as socket:
        await speak(socket, heard_as("hours.sunday"), SECOND_OF_SILENCE)
        spoken_ns = clock.now_ns()
        found: list[Any] = []
        async with asyncio.timeout(60):
            while not turns(found, "EndOfTurn"):
                found.append(await socket.recv())
        assert (clock.now_ns() - spoken_ns) / MS < 20_000
        (row,) = await stage.rows("stt")
    assert row.began_ns is not None
    assert row.ended_ns is not None
    assert row.began_ns <= row.due_ns
    assert row.ended_ns - row.due_ns >= 300 * MS


async def test_no_final_is_no_end_of_turn() -> None:
    async with playing(outcomes={"no_final": 1.0}) as stage, stage.connect(eager_eot_threshold=0.4) as socket:
        found = await said(socket, heard_as("price.card"), SECOND_OF_SILENCE)
        (row,) = await stage.rows("stt")
        assert stage.twin.as_json()["served"] == {"no_final": 1}
    assert (len(turns(found, "StartOfTurn")), len(turns(found, "EagerEndOfTurn"))) == (1, 1)
    assert turns(found, "EndOfTurn") == []
    assert (row.outcome, row.ended_ns, row.detail["transcript"]) == ("no_final", None, "Can I pay by credit card?")
    assert [message.sequence_id for message in found] == list(range(len(found)))


async def test_late_final() -> None:
    clock = SystemClock()
    async with playing(outcomes={"late_final": 1.0}, late=Constant(300)) as stage, stage.connect() as socket:
        began_ns = clock.now_ns()
        (end,) = turns(await said(socket, heard_as("price.card"), SECOND_OF_SILENCE), "EndOfTurn")
        assert clock.now_ns() - began_ns >= 300 * MS
        assert (await stage.rows("stt"))[0].outcome == "late_final"
    assert end.transcript == "Can I pay by credit card?"


async def broken(socket: Any) -> tuple[list[Any], ConnectionClosedError]:
    found: list[Any] = []
    with suppress(ConnectionClosedError):  # it may be in the middle of what we send
        await speak(socket, heard_as("price.card"), SECOND_OF_SILENCE)
    with pytest.raises(ConnectionClosedError) as closed:
        await asyncio.wait_for(collect(socket, found), 60)
    return found, closed.value


async def collect(socket: Any, found: list[Any]) -> None:
    """Until the socket closes, or for ever."""
    while True:
        found.append(await socket.recv())


async def test_error_is_fatal() -> None:
    async with playing(outcomes={"error": 1.0}) as stage:
        async with stage.connect() as socket:
            found, closed = await broken(socket)
        assert isinstance(found[-1], ListenV2FatalError)
        assert found[-1].code == "INTERNAL_SERVER_ERROR"
        assert closed.rcvd is not None
        assert closed.rcvd.code == 1011
        assert (await stage.rows("stt_connection"))[0].outcome == "error"
        assert stage.twin.as_json()["served"] == {"error": 1}


async def test_reset_and_hang() -> None:
    async with playing(outcomes={"reset": 1.0}) as stage:
        async with stage.connect() as socket:
            _, closed = await broken(socket)
        assert closed.rcvd is None
        assert (await stage.rows("stt_connection"))[0].outcome == "reset"
    async with playing(outcomes={"hang": 1.0}) as stage:
        async with stage.connect() as socket:
            await speak(socket, heard_as("price.card"), SECOND_OF_SILENCE)
            await socket.send_close_stream()
            found: list[Any] = []
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(collect(socket, found), 0.5)
            assert not turns(found, "StartOfTurn", "EndOfTurn")
        assert (await stage.rows("stt_connection"))[0].outcome == "hang"


@pytest.mark.parametrize(("outcome", "status"), [("http_401", 401), ("http_503", 503), ("quota", 402)])
async def test_connections_are_refused_by_fate(outcome: str, status: int) -> None:
    async with playing(outcomes={outcome: 1.0}) as stage:
        with pytest.raises(ApiError) as refused:
            async with stage.connect():
                pass
        assert refused.value.status_code == status
        assert stage.twin.as_json()["served"] == {outcome: 1}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 100_000, "{}", '{"type": "KeepAlive"}', '{"type": ["Configure"]}', '"Configure"']
)
async def test_what_is_no_message_is_fatal(text: str) -> None:
    async with playing() as stage, stage.connect() as socket:
        await socket._websocket.send(text)
        error = await next_of(socket, ListenV2FatalError)
        assert (error.code, error.sequence_id) == ("UNPARSABLE_CLIENT_MESSAGE", 1)
        with pytest.raises(ConnectionClosedError):
            await socket.recv()
        assert (await stage.rows("stt_connection"))[0].outcome == "not understood"


async def test_a_silent_client_is_let_go() -> None:
    async with playing(idle_seconds=0.2) as stage, stage.connect() as socket:
        error = await next_of(socket, ListenV2FatalError)
        assert error.code == "INACTIVE_CLIENT"
        assert (await stage.rows("stt_connection"))[0].outcome == "idle"


async def test_what_a_connection_cost_is_witnessed() -> None:
    async with playing() as stage:
        async with stage.connect() as socket:
            await said(socket, heard_as("price.card"), SECOND_OF_SILENCE)
        (row,) = await stage.rows("stt_connection")
    assert row.outcome == "ok"
    assert row.detail["audio_ms"] == round(len(heard_as("price.card")) / 8 + 1000)
    assert (row.detail["model"], row.detail["finals"]) == ("flux-general-en", 1)


async def test_events_of_the_sdks_synchronous_client() -> None:
    def listen(port: int) -> list[Any]:
        found: list[Any] = []
        with DeepgramClient(api_key="dg-x", environment=here(port)).listen.v2.connect(**FLUX) as socket:
            socket.on(EventType.MESSAGE, found.append)
            for at in range(0, len(octets), 640):
                socket.send_media(octets[at : at + 640])
            socket.send_close_stream()
            socket.start_listening()
        return found

    octets = heard_as("price.card") + SECOND_OF_SILENCE
    async with playing() as stage:
        (end,) = turns(await asyncio.to_thread(listen, stage.port), "EndOfTurn")
    assert end.transcript == "Can I pay by credit card?"


async def test_nova_does_not_know_flux() -> None:
    async with (
        playing() as stage,
        aiohttp.ClientSession(headers={"Authorization": "Token x"}) as session,
        session.get(f"http://127.0.0.1:{stage.port}/v1/listen?model=flux-general-en") as response,
    ):
        assert (response.status, json.loads(await response.text())["err_code"]) == (400, "Bad Request")
