"""The Deepgram twin, judged by the official SDK and by raw sockets. Audio is sent faster than it would be spoken."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np
import pytest

from .stages import rows_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the SDK uses the legacy client of websockets
    from deepgram import AsyncDeepgramClient
    from deepgram.core.events import EventType
    from deepgram.environment import DeepgramClientEnvironment
    from deepgram.listen.v1.types.listen_v1configure import ListenV1Configure
    from deepgram.listen.v1.types.listen_v1configure_failure import ListenV1ConfigureFailure
    from deepgram.listen.v1.types.listen_v1configure_success import ListenV1ConfigureSuccess
    from deepgram.listen.v1.types.listen_v1error import ListenV1Error
    from deepgram.listen.v1.types.listen_v1metadata import ListenV1Metadata
    from deepgram.listen.v1.types.listen_v1results import ListenV1Results
    from deepgram.listen.v1.types.listen_v1speech_started import ListenV1SpeechStarted
    from deepgram.listen.v1.types.listen_v1utterance_end import ListenV1UtteranceEnd
    from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

from busyhour.clock import SystemClock
from busyhour.emulators import Constant, Deepgram
from busyhour.emulators.deepgram.api import application
from busyhour.emulators.twin import Twin, listening
from busyhour.media.babble import babble
from busyhour.media.codec import codec
from busyhour.media.utterances import utterance
from busyhour.model import MS, Operation

# The SDK loads websockets' legacy client, which says so, when it is first used.
pytestmark = pytest.mark.filterwarnings("ignore:.*websockets.*:DeprecationWarning")

MULAW: dict[str, Any] = {"model": "nova-3", "encoding": "mulaw", "sample_rate": 8000, "channels": 1}
TALKING: dict[str, Any] = {**MULAW, "interim_results": "true", "punctuate": "true", "endpointing": 300}
FRAME = 160
SILENT_SECOND = codec("PCMU").silence * 50


def heard_as(name: str) -> bytes:
    """An utterance as a phone would send it."""
    return codec("PCMU").encode(utterance(name, 8000).samples)


def frames(octets: bytes) -> list[bytes]:
    return [octets[at : at + FRAME] for at in range(0, len(octets), FRAME)]


@dataclass
class Stage:
    """A twin on a real socket in this process, and the SDK's client on it."""

    twin: Twin
    port: int
    client: AsyncDeepgramClient
    session: aiohttp.ClientSession

    async def rows(self, kind: str, count: int = 1) -> list[Operation]:
        return await rows_of(self.twin, count, kind=kind)

    def raw(self, query: str = "model=nova-3&encoding=mulaw&sample_rate=8000&token=x", **more: Any) -> Any:
        return self.session.ws_connect(f"ws://127.0.0.1:{self.port}/v1/listen?{query}", **more)


@asynccontextmanager
async def playing(**settings: Any) -> AsyncIterator[Stage]:
    """By default the twin answers at once."""
    service = Deepgram(**{"final": Constant(0), "interim": Constant(0), **settings})
    twin = Twin("stt", service._behaviour, SystemClock())
    async with listening(application(twin, {})) as port, aiohttp.ClientSession() as session:
        here = DeepgramClientEnvironment(
            base=f"http://127.0.0.1:{port}",
            production=f"ws://127.0.0.1:{port}",
            agent="ws://127.0.0.1:1",
            agent_rest="http://127.0.0.1:1",
        )
        yield Stage(twin, port, AsyncDeepgramClient(api_key="dg-x", environment=here), session)


async def said(socket: Any, *octets: bytes, then: str = "close_stream") -> list[Any]:
    """Stream octets in frames of 20 ms, ask for what comes last, and read until the twin closes."""
    for frame in frames(b"".join(octets)):
        await socket.send_media(frame)
    await getattr(socket, f"send_{then}")()
    async with asyncio.timeout(60):
        return [message async for message in socket]


async def answered(socket: Any) -> ListenV1Results:
    """The answer to a Finalize."""
    async with asyncio.timeout(60):
        while True:
            message = await socket.recv()
            if isinstance(message, ListenV1Results) and message.from_finalize:
                return message


def transcripts(messages: list[Any], *, final: bool) -> list[str]:
    results = [message for message in messages if isinstance(message, ListenV1Results) and message.is_final is final]
    return [text for result in results if (text := result.channel.alternatives[0].transcript)]


async def test_a_sentence_is_transcribed_as_it_is_spoken() -> None:
    async with playing() as stage, stage.client.listen.v1.connect(**TALKING) as socket:
        found = await said(socket, SILENT_SECOND, heard_as("hours.saturday"), SILENT_SECOND)
        assert transcripts(found, final=True) == ["Can you tell me what time you open on Saturday?"]
        interim = transcripts(found, final=False)
        assert interim[0].startswith("Can")
        assert [len(text) for text in interim] == sorted(len(text) for text in interim)
        assert interim[-1] in "Can you tell me what time you open on Saturday?"
        assert isinstance(found[-1], ListenV1Metadata)
        seconds = 2 + len(heard_as("hours.saturday")) / 8000
        assert found[-1].duration == pytest.approx(seconds, abs=0.001)
        assert found[-1].channels == 1


async def test_results_say_when_and_how_surely() -> None:
    audio = utterance("hours.saturday", 8000)
    async with playing() as stage, stage.client.listen.v1.connect(**TALKING) as socket:
        found = await said(socket, SILENT_SECOND, heard_as("hours.saturday"), SILENT_SECOND)
        final = next(m for m in found if isinstance(m, ListenV1Results) and m.is_final and m.speech_final)
        assert final.channel_index == [0, 1]
        assert final.from_finalize is False
        # The pause of 300 ms was heard once it was over, and not much later.
        speech_ended = 1 + audio.speech_ended / 8000
        assert 0.28 <= final.start + final.duration - speech_ended <= 0.36
        alternative = final.channel.alternatives[0]
        assert 0.9 < alternative.confidence <= 1
        assert [word.word for word in alternative.words][-2:] == ["on", "saturday"]
        assert [word.punctuated_word for word in alternative.words][-1] == "Saturday?"
        for told, true in zip(alternative.words, audio.words, strict=True):
            assert told.start == pytest.approx(1 + true.began / 8000, abs=0.03)
            assert told.end == pytest.approx(1 + true.ended / 8000, abs=0.03)
        assert final.metadata.model_info.arch == "nova-3"
        assert found[-1].request_id == final.metadata.request_id


async def test_without_punctuate_words_are_plain() -> None:
    async with playing() as stage, stage.client.listen.v1.connect(**MULAW, endpointing=300) as socket:
        found = await said(socket, heard_as("booking.nine"), SILENT_SECOND)
        assert transcripts(found, final=True) == ["nine o'clock is fine"]
        assert transcripts(found, final=False) == []
        final = next(m for m in found if isinstance(m, ListenV1Results) and m.channel.alternatives[0].words)
        assert [word.punctuated_word for word in final.channel.alternatives[0].words] == [None] * 4


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000, 48000])
async def test_linear_audio_of_any_rate_cut_anywhere(rate_hz: int) -> None:
    octets = utterance("price.cleaning", rate_hz).samples.astype("<i2").tobytes()
    query = {**TALKING, "encoding": "linear16", "sample_rate": rate_hz}
    async with playing() as stage, stage.client.listen.v1.connect(**query) as socket:
        for at in range(0, len(octets), 1001):  # an odd number of octets: samples are torn apart
            await socket.send_media(octets[at : at + 1001])
        assert transcripts(await said(socket), final=True) == ["How much does a cleaning cost?"]


async def test_channels_are_heard_one_by_one_or_mixed() -> None:
    left, right = (utterance(name, 8000).samples for name in ("price.cleaning", "barge.stop"))
    both = np.zeros((max(len(left), len(right)), 2), np.int16)
    both[: len(left), 0] = left
    both[: len(right), 1] = right
    query = {**TALKING, "encoding": "linear16", "channels": 2}
    async with playing() as stage:
        async with stage.client.listen.v1.connect(**query, multichannel="true") as socket:
            found = await said(socket, both.astype("<i2").tobytes())
            by_channel: dict[int, str] = {}
            for message in found:
                if isinstance(message, ListenV1Results) and message.is_final:
                    assert message.channel_index[1] == 2
                    text = by_channel.get(message.channel_index[0], "")
                    by_channel[message.channel_index[0]] = (
                        f"{text} {message.channel.alternatives[0].transcript}".strip()
                    )
            assert by_channel == {0: "How much does a cleaning cost?", 1: "Wait, stop, sorry."}
        both[:, 1] = 0
        async with stage.client.listen.v1.connect(**query) as socket:
            found = await said(socket, both.astype("<i2").tobytes())
            assert transcripts(found, final=True) == ["How much does a cleaning cost?"]


async def test_speech_and_its_end_are_told_when_asked_for() -> None:
    query = {**TALKING, "vad_events": "true", "utterance_end_ms": 1000}
    async with playing() as stage, stage.client.listen.v1.connect(**query) as socket:
        found = await said(socket, SILENT_SECOND, heard_as("hours.sunday"), SILENT_SECOND * 2)
        started = next(m for m in found if isinstance(m, ListenV1SpeechStarted))
        assert started.channel == [0, 1]
        assert started.timestamp == pytest.approx(1 + utterance("hours.sunday", 8000).speech_began / 8000, abs=0.05)
        ends = [m for m in found if isinstance(m, ListenV1UtteranceEnd)]
        finals = [m for m in found if isinstance(m, ListenV1Results) and m.is_final and m.channel.alternatives[0].words]
        assert [end.last_word_end for end in ends] == [finals[0].channel.alternatives[0].words[-1].end]
        assert found.index(started) < found.index(finals[0]) < found.index(ends[0])


async def test_silence_is_told_too() -> None:
    async with playing() as stage, stage.client.listen.v1.connect(**TALKING) as socket:
        found = await said(socket, SILENT_SECOND * 11)
        results = [message for message in found if isinstance(message, ListenV1Results)]
        assert {result.channel.alternatives[0].transcript for result in results} == {""}
        assert sum(result.is_final is False for result in results) >= 8
        finals = [result for result in results if result.is_final]
        assert [round(result.start) for result in finals] == [0, 5, 10]
        assert sum(result.duration for result in finals) == pytest.approx(11, abs=0.01)


async def test_speech_that_it_does_not_know_is_an_empty_final_and_is_counted() -> None:
    babbled = codec("PCMU").encode(babble("Do you take walk-ins on bank holidays?", 8000))
    async with playing() as stage, stage.client.listen.v1.connect(**TALKING) as socket:
        found = await said(socket, SILENT_SECOND, babbled, SILENT_SECOND, heard_as("hours.sunday"), SILENT_SECOND)
        assert transcripts(found, final=True) == ["Are you open on Sundays?"]
        served = stage.twin.as_json()["served"]
    assert isinstance(served, dict)
    assert served["unknown speech"] >= 1  # the babble has pauses of its own
    assert served["ok"] >= 1


async def test_finalize_flushes_and_keeps_the_stream_open() -> None:
    query = {**TALKING, "endpointing": "false"}
    async with playing() as stage, stage.client.listen.v1.connect(**query) as socket:
        for name, text in (
            ("hours.today", "What time are you open today?"),
            ("price.card", "Can I pay by credit card?"),
        ):
            for frame in frames(heard_as(name)):
                await socket.send_media(frame)
            await socket.send_finalize()
            final = await answered(socket)
            assert final.is_final
            assert final.speech_final
            assert final.channel.alternatives[0].transcript == text
        # With hardly any audio left over there is no promise; with some, an empty answer.
        await socket.send_finalize()
        for frame in frames(SILENT_SECOND):
            await socket.send_media(frame)
        await socket.send_finalize()
        final = await answered(socket)
        assert final.channel.alternatives[0].transcript == ""
        assert final.duration == pytest.approx(1, abs=0.001)
        await said(socket)


async def test_finals_may_come_without_endpointing_when_speech_is_long() -> None:
    query = {**TALKING, "endpointing": "false"}
    spoken = b"".join(heard_as(name) + SILENT_SECOND[:2400] for name in ("hours.today", "price.card", "barge.question"))
    async with playing() as stage, stage.client.listen.v1.connect(**query) as socket:
        found = await said(socket, spoken)
        finals = [m for m in found if isinstance(m, ListenV1Results) and m.is_final]
        assert len(finals) > 1
        assert not any(final.speech_final for final in finals)
        text = " ".join(transcripts(found, final=True))
        assert text == "What time are you open today? Can I pay by credit card? Sorry, can I ask you something else?"


async def test_latencies_are_those_that_were_set_and_witnessed() -> None:
    async with (
        playing(final=Constant(250), interim=Constant(100)) as stage,
        stage.client.listen.v1.connect(**TALKING) as socket,
    ):
        clock = SystemClock()
        for frame in frames(heard_as("hours.sunday")):
            await socket.send_media(frame)
        asked_ns = clock.now_ns()
        await socket.send_finalize()
        await answered(socket)
        took_ms = (clock.now_ns() - asked_ns) / MS
        assert 250 <= took_ms < 20_000
        await said(socket)
        row = (await stage.rows("stt"))[0]
        assert row.began_ns is not None
        assert row.ended_ns is not None
        assert row.began_ns <= row.due_ns <= row.ended_ns
        assert row.ended_ns - row.due_ns >= 250 * MS
        closed_ns = row.detail["closed_ns"]
        assert isinstance(closed_ns, int)
        assert asked_ns <= closed_ns <= row.ended_ns - 250 * MS
        assert (row.who, row.outcome, row.detail["transcript"]) == ("stt", "ok", "Are you open on Sundays?")
        assert row.id.startswith(f"stt/{row.detail['connection']}/")


async def test_arrival_times_are_those_of_the_speech() -> None:
    """The twin knows when the caller spoke, on the clock that all processes share."""
    audio = utterance("hours.sunday", 8000)
    sent: list[int] = []
    async with playing() as stage, stage.client.listen.v1.connect(**TALKING) as socket:
        for frame in frames(heard_as("hours.sunday")):
            sent.append(SystemClock().now_ns())
            await socket.send_media(frame)
            await asyncio.sleep(0.001)
        await said(socket, SILENT_SECOND)
        row = (await stage.rows("stt"))[0]
        first, last = audio.speech_began // FRAME, min(audio.speech_ended // FRAME, len(sent) - 1)
        assert row.began_ns is not None
        assert sent[max(first - 1, 0)] <= row.began_ns <= sent[first + 4]
        assert sent[last - 4] <= row.due_ns
        closed_ns = row.detail["closed_ns"]
        assert isinstance(closed_ns, int)
        assert closed_ns > row.due_ns  # its pause had to be heard first


async def test_events_of_the_sdk() -> None:
    """`start_listening` with callbacks is how the SDK's own examples do it."""
    heard: list[tuple[str, Any]] = []
    async with playing() as stage, stage.client.listen.v1.connect(**TALKING) as socket:
        for kind in EventType:
            socket.on(kind, lambda message, kind=kind: heard.append((kind.value, message)))
        listener = asyncio.create_task(socket.start_listening())
        for frame in frames(heard_as("price.insurance") + SILENT_SECOND):
            await socket.send_media(frame)
        await socket.send_close_stream()
        await asyncio.wait_for(listener, 60)
    assert heard[0][0] == "open"
    assert heard[-1][0] == "close"
    assert not [message for kind, message in heard if kind == "error"]
    messages = [message for kind, message in heard if kind == "message"]
    assert transcripts(messages, final=True) == ["Do you accept my insurance?"]


async def test_an_idle_stream_is_closed_and_keepalive_keeps_it() -> None:
    async with playing(idle_seconds=1.5) as stage, stage.client.listen.v1.connect(**MULAW) as socket:
        await socket.send_media(SILENT_SECOND[:FRAME])
        for _ in range(9):
            await asyncio.sleep(0.2)  # less than a connection may be idle, also on a machine that stalls
            await socket.send_keep_alive()
        assert isinstance(await asyncio.wait_for(socket.recv(), 60), ListenV1Metadata)
        with pytest.raises(ConnectionClosedError) as closed:
            await asyncio.wait_for(socket.recv(), 60)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
        assert "https://dpgr.am/net0001" in closed.value.rcvd.reason
        assert (await stage.rows("stt_connection"))[0].outcome == "idle"


async def test_keepalive_without_any_audio_keeps_nothing() -> None:
    async with playing(idle_seconds=0.2) as stage, stage.raw() as socket:
        for _ in range(2):
            await socket.send_str('{"type":"KeepAlive"}')
            await asyncio.sleep(0.05)
        summary = json.loads((await socket.receive(timeout=60)).data)
        assert (summary["type"], summary["duration"]) == ("Metadata", 0.0)
        assert "models" not in summary
        await socket.receive(timeout=60)
        assert socket.close_code == 1011


async def test_an_empty_binary_message_closes_the_stream() -> None:
    async with playing() as stage, stage.client.listen.v1.connect(**TALKING) as socket:
        for frame in frames(heard_as("hours.sunday")):
            await socket.send_media(frame)
        await socket.send_media(b"")
        async with asyncio.timeout(60):
            found = [message async for message in socket]
        with pytest.raises(ConnectionClosedOK):
            await socket.recv()
        assert transcripts(found, final=True) == ["Are you open on Sundays?"]
        assert isinstance(found[-1], ListenV1Metadata)


async def test_what_is_no_command_is_told_in_the_vendors_shape_and_harms_nothing() -> None:
    async with playing() as stage, stage.client.listen.v1.connect(**TALKING) as socket:
        for text in ('{"type":"KeepAlive "}', "no json", "[]", "{}", '{"type":"Configure","keyterms":7}'):
            await socket._websocket.send(text)
            error = await asyncio.wait_for(socket.recv(), 60)
            assert isinstance(error, ListenV1Error)
            assert (error.variant, error.message) == ("SchemaError", text)
            assert error.description.startswith("Could not deserialize last text message: ")
        found = await said(socket, heard_as("hours.sunday"))
        assert transcripts(found, final=True) == ["Are you open on Sundays?"]


async def test_configure() -> None:
    async with playing() as stage:
        async with stage.client.listen.v1.connect(**TALKING) as socket:
            await socket.send_configure(ListenV1Configure(type="Configure", keyterms=["Riverside"]))
            success = await asyncio.wait_for(socket.recv(), 60)
            assert isinstance(success, ListenV1ConfigureSuccess)
            assert success.keyterms == ["Riverside"]
        async with stage.client.listen.v1.connect(**{**TALKING, "model": "nova-2-phonecall"}) as socket:
            await socket.send_configure(ListenV1Configure(type="Configure", keyterms=["Riverside"]))
            failure = await asyncio.wait_for(socket.recv(), 60)
            assert isinstance(failure, ListenV1ConfigureFailure)
            assert failure.code == "CONFIGURE_KEYTERMS_NOT_SUPPORTED"


async def test_without_an_encoding_raw_audio_is_not_understood() -> None:
    async with playing() as stage, stage.raw("model=nova-3&token=x") as socket:
        await socket.send_bytes(SILENT_SECOND)
        assert json.loads((await socket.receive(timeout=60)).data)["type"] == "Metadata"
        await socket.receive(timeout=60)
        assert socket.close_code == 1008
