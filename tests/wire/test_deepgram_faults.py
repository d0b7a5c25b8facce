"""The Deepgram twin refusing, failing, and as a process: the SDK's own errors, and what is witnessed of them."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from .stages import rows_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the SDK uses the legacy client of websockets
    from deepgram import AsyncDeepgramClient
    from deepgram.core.api_error import ApiError
    from deepgram.environment import DeepgramClientEnvironment
    from deepgram.listen.v1.types.listen_v1error import ListenV1Error
    from deepgram.listen.v1.types.listen_v1metadata import ListenV1Metadata
    from deepgram.listen.v1.types.listen_v1results import ListenV1Results
    from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

from busyhour.clock import SystemClock
from busyhour.emulators import Constant, Deepgram
from busyhour.emulators.deepgram.api import application
from busyhour.emulators.twin import Twin, listening
from busyhour.errors import PlanError, ServiceError
from busyhour.media.codec import codec
from busyhour.media.utterances import sentences, utterance
from busyhour.model import MS, Endpoint, Operation

# The SDK loads websockets' legacy client, which says so, when it is first used.
pytestmark = pytest.mark.filterwarnings("ignore:.*websockets.*:DeprecationWarning")

QUERY: dict[str, Any] = {"model": "nova-3", "encoding": "mulaw", "sample_rate": 8000}
TALKING: dict[str, Any] = {**QUERY, "interim_results": "true", "endpointing": "false"}
SUNDAY = codec("PCMU").encode(utterance("hours.sunday", 8000).samples)
SILENCE = codec("PCMU").silence * 10


def client_of(url: str, **more: Any) -> AsyncDeepgramClient:
    here = DeepgramClientEnvironment(
        base=url, production=url.replace("http", "ws", 1), agent="ws://127.0.0.1:1", agent_rest="http://127.0.0.1:1"
    )
    return AsyncDeepgramClient(environment=here, **{"api_key": "dg-x", **more})


@dataclass
class Stage:
    twin: Twin
    url: str
    session: aiohttp.ClientSession

    def connect(self, **query: Any) -> Any:
        return client_of(self.url).listen.v1.connect(**{**TALKING, **query})

    async def rows(self, kind: str, count: int = 1) -> list[Operation]:
        return await rows_of(self.twin, count, kind=kind)

    async def refusal(self, *, headers: Any = None, **query: Any) -> tuple[int, Any, Any]:
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        sent = {**upgrade, "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Authorization": "Token x"}
        async with self.session.get(f"{self.url}/v1/listen", params=query, headers=headers or sent) as response:
            return response.status, response.headers, await response.json()


@asynccontextmanager
async def playing(*, api_key: str = "", **settings: Any) -> AsyncIterator[Stage]:
    """By default the twin answers at once."""
    service = Deepgram(**{"final": Constant(0), "interim": Constant(0), **settings})
    twin = Twin("stt", service._behaviour, SystemClock())
    async with listening(application(twin, {"api_key": api_key})) as port, aiohttp.ClientSession() as session:
        yield Stage(twin, f"http://127.0.0.1:{port}", session)


async def speak(socket: Any, octets: bytes = SUNDAY) -> None:
    for at in range(0, len(octets), 160):
        await socket.send_media(octets[at : at + 160])


async def rest(socket: Any) -> list[Any]:
    async with asyncio.timeout(60):
        return [message async for message in socket]


def texts(messages: list[Any], *, final: bool) -> list[str]:
    results = [message for message in messages if isinstance(message, ListenV1Results) and message.is_final is final]
    return [text for result in results if (text := result.channel.alternatives[0].transcript)]


@pytest.mark.parametrize(
    ("query", "because"),
    [
        ({"encoding": "flac"}, "Unsupported encoding 'flac'."),
        ({"encoding": "mulaw", "sample_rate": "4000"}, "Invalid 'sample_rate' value of '4000'."),
        ({"sample_rate": "fast"}, "Invalid 'sample_rate' value of 'fast'."),
        ({"encoding": "mulaw", "sample_rate": None}, "sample_rate is required when encoding is set."),
        ({"channels": "0"}, "Invalid 'channels' value of '0'."),
        ({"interim_results": "yes"}, "Invalid 'interim_results' value of 'yes'."),
        ({"endpointing": "-1"}, "Invalid 'endpointing' value of '-1'."),
        ({"utterance_end_ms": "999"}, "Invalid 'utterance_end_ms' value of '999'."),
        ({"model": "nova-9"}, "No such model/language/tier combination found."),
    ],
)
async def test_a_query_that_cannot_be_served_is_refused(query: dict[str, Any], because: str) -> None:
    async with playing() as stage:
        asked = {name: str(value) for name, value in {**QUERY, **query}.items() if value is not None}
        status, headers, body = await stage.refusal(**asked)
        assert status == 400
        assert body == {
            "err_code": "Bad Request",
            "err_msg": f"Bad Request: {because}",
            "request_id": headers["dg-request-id"],
        }
        assert headers["dg-error"] == because
        with pytest.raises(ApiError) as refused:
            async with client_of(stage.url).listen.v1.connect(**{"model": "nova-3", **asked}):
                pass
        assert refused.value.status_code == 400


async def test_a_key_is_wanted_and_taken_from_wherever_clients_put_it() -> None:
    async with playing(api_key="secret") as stage:
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        status, headers, body = await stage.refusal(headers=upgrade, **QUERY)
        assert (status, body["err_code"], body["err_msg"]) == (401, "INVALID_AUTH", "Invalid credentials.")
        assert headers["dg-error"] == "Invalid credentials."
        with pytest.raises(ApiError) as refused:
            async with stage.connect():
                pass
        assert refused.value.status_code == 401
        for given in ({"api_key": "secret"}, {"access_token": "secret"}):
            async with client_of(stage.url, **given).listen.v1.connect(**TALKING) as socket:
                assert len(await heard(socket)) == 1
        url = f"{stage.url}/v1/listen?model=nova-3&encoding=mulaw&sample_rate=8000"
        async with stage.session.ws_connect(url, protocols=("token", "secret")) as raw:
            assert raw.protocol == "token"
        async with stage.session.ws_connect(f"{url}&token=secret") as raw:
            assert not raw.closed


async def heard(socket: Any) -> list[str]:
    await speak(socket)
    await socket.send_close_stream()
    return texts(await rest(socket), final=True)


async def test_only_a_websocket_at_the_vendors_path_is_served() -> None:
    async with playing() as stage:
        status, _, body = await stage.refusal(headers={"Authorization": "Token x"}, **QUERY)
        assert (status, body["err_code"]) == (400, "Bad Request")
        async with stage.session.get(f"{stage.url}/v3/listen") as response:
            assert (response.status, (await response.json())["err_code"]) == (404, "NOT_FOUND")


async def test_compression_is_not_negotiated() -> None:
    async with playing() as stage, stage.connect() as socket:
        assert socket._websocket.extensions == []
        url = f"{stage.url}/v1/listen?model=nova-3&token=x"
        async with stage.session.ws_connect(url, compress=15) as raw:
            assert raw.compress == 0


@pytest.mark.parametrize(
    ("outcome", "status"), [("http_401", 401), ("http_429", 429), ("http_500", 500), ("quota", 402)]
)
async def test_connections_are_refused_by_fate(outcome: str, status: int) -> None:
    async with playing(outcomes={outcome: 1.0}) as stage:
        with pytest.raises(ApiError) as refused:
            async with stage.connect():
                pass
        assert refused.value.status_code == status
        _, headers, body = await stage.refusal(**QUERY)
        assert status != 402 or body["err_code"] == "ASR_PAYMENT_REQUIRED"
        assert headers.get("Retry-After") == ("1" if status == 429 else None)
        assert stage.twin.as_json()["served"] == {outcome: 2}


async def test_no_final() -> None:
    async with playing(outcomes={"no_final": 1.0}) as stage, stage.connect() as socket:
        await speak(socket)
        await socket.send_finalize()
        await socket.send_close_stream()
        found = await rest(socket)
        assert texts(found, final=False)[-1].startswith("are you open on")
        assert texts(found, final=True) == []
        assert isinstance(found[-1], ListenV1Metadata)
        row = (await stage.rows("stt"))[0]
        assert (row.outcome, row.ended_ns) == ("no_final", None)
        assert row.detail["transcript"] == "Are you open on Sundays?"
        assert stage.twin.as_json()["served"] == {"no_final": 1}


async def test_late_final() -> None:
    async with playing(outcomes={"late_final": 1.0}, late=Constant(300)) as stage, stage.connect() as socket:
        await speak(socket)
        asked_ns = SystemClock().now_ns()
        await socket.send_close_stream()
        found = await rest(socket)
        assert (SystemClock().now_ns() - asked_ns) >= 300 * MS
        assert texts(found, final=True) == ["are you open on sundays"]
        row = (await stage.rows("stt"))[0]
        assert row.ended_ns is not None
        assert row.outcome == "late_final"
        assert row.ended_ns - row.due_ns >= 300 * MS


async def test_hang() -> None:
    async with playing(outcomes={"hang": 1.0}) as stage:
        async with stage.connect() as socket:
            await speak(socket)
            await socket.send_finalize()
            await socket.send_close_stream()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(socket.recv(), 0.15)
        assert (await stage.rows("stt_connection"))[0].outcome == "hang"
        assert stage.twin.as_json()["served"] == {"hang": 1}


async def test_reset_comes_when_the_caller_speaks() -> None:
    async with playing(outcomes={"reset": 1.0}) as stage:
        async with stage.connect() as socket:
            await speak(socket, SILENCE)
            await socket.send_keep_alive()
            with suppress(ConnectionClosedError):  # it may be in the middle of what we send
                await speak(socket)
            with pytest.raises(ConnectionClosedError) as broken:
                await rest(socket)
            assert broken.value.rcvd is None
        assert (await stage.rows("stt_connection"))[0].outcome == "reset"
        assert stage.twin.as_json()["served"] == {"reset": 1}


async def collect(socket: Any, found: list[Any]) -> None:
    while True:
        found.append(await asyncio.wait_for(socket.recv(), 60))


async def test_an_error_ends_the_stream_when_the_caller_speaks() -> None:
    async with playing(outcomes={"error": 1.0}) as stage:
        async with stage.connect() as socket:
            with suppress(ConnectionClosedError):  # it may be in the middle of what we send
                await speak(socket)
            found: list[Any] = []
            with pytest.raises(ConnectionClosedError) as closed:
                await collect(socket, found)
        assert isinstance(found[-1], ListenV1Error)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
        assert (await stage.rows("stt_connection"))[0].outcome == "error"
        assert stage.twin.as_json()["served"] == {"error": 1}


@pytest.mark.parametrize(("outcome", "code"), [("error", 1011), ("reset", None)])
async def test_fate_finds_those_who_speak_in_real_time(outcome: str, code: int | None) -> None:
    """They are listened to together, in turns; one of three is not lucky, and the others do not notice."""
    clock = SystemClock()
    names = ("hours.sunday", "price.card", "hours.today")

    async def call(stage: Stage, name: str) -> tuple[list[str], int | None]:
        found: list[Any] = []
        async with stage.connect() as socket:
            octets = codec("PCMU").encode(utterance(name, 8000).samples)
            due_ns = clock.now_ns()
            try:
                for at in range(0, len(octets), 160):
                    await clock.sleep_until(due_ns + at * 125_000)
                    await socket.send_media(octets[at : at + 160])
                await socket.send_close_stream()
                await collect(socket, found)
            except ConnectionClosedError as closed:
                return texts(found, final=True), closed.rcvd.code if closed.rcvd else None
            except ConnectionClosedOK:
                return texts(found, final=True), 1000
        raise AssertionError("the twin did not close the stream")

    async with playing(outcomes={outcome: 0.3}, seed=5) as stage:
        ended = await asyncio.gather(*(call(stage, name) for name in names))
        unlucky = [index for index, (_, how) in enumerate(ended) if how != 1000]
        assert len(unlucky) == 1
        assert ended[unlucky[0]] == ([], code)
        for index, name in enumerate(names):
            if index not in unlucky:
                assert ended[index][0] == [plain(utterance(name).text)]
        assert stage.twin.as_json()["served"] == {outcome: 1, "ok": 2}


def plain(text: str) -> str:
    return text.lower().strip("?")


async def test_what_a_stream_cost_is_witnessed() -> None:
    async with playing() as stage:
        async with stage.connect() as socket:
            await heard(socket)
        rows = stage.twin.drain()[0]
    (connection,) = [row for row in rows if row.kind == "stt_connection"]
    (final,) = [row for row in rows if row.kind == "stt"]
    assert connection.detail == {
        "connection": final.detail["connection"],
        "audio_ms": round(len(SUNDAY) / 8),
        "finals": 1,
        "model": "nova-3",
    }
    assert (final.detail["audio_ms"], final.detail["model"]) == (connection.detail["audio_ms"], "nova-3")


async def test_a_share_of_the_utterances_fails_and_the_same_ones_each_time() -> None:
    async def finals() -> list[bool]:
        async with playing(outcomes={"no_final": 0.5}, seed=3) as stage, stage.connect() as socket:
            told = []
            for _ in range(8):
                await speak(socket, SUNDAY + SILENCE)
                await socket.send_finalize()
                told.append((await stage.rows("stt"))[0].outcome == "ok")
            return told

    first = await finals()
    assert 0 < sum(first) < 8
    assert await finals() == first


async def test_a_client_that_does_not_wait_is_told_of() -> None:
    async with playing(final=Constant(60_000)) as stage:
        async with stage.connect() as socket:
            await speak(socket)
            await socket.send_finalize()
            while not texts([await asyncio.wait_for(socket.recv(), 60)], final=False):
                pass
        row = (await stage.rows("stt"))[0]
        assert (row.outcome, row.ended_ns) == ("client closed", None)


async def test_streams_do_not_mix() -> None:
    names = ("hours.sunday", "price.card", "barge.question", "goodbye.thanks", "booking.nine", "hours.today")

    async def one(stage: Stage, name: str) -> list[str]:
        async with stage.connect(punctuate="true", endpointing=500) as socket:
            octets = codec("PCMU").encode(utterance(name, 8000).samples)
            for at in range(0, len(octets), 160):
                await socket.send_media(octets[at : at + 160])
                await asyncio.sleep(0)
            await socket.send_close_stream()
            return texts(await rest(socket), final=True)

    async with playing() as stage:
        told = await asyncio.gather(*(one(stage, name) for name in names))
        assert [" ".join(finals) for finals in told] == [utterance(name).text for name in names]


async def test_as_a_process_that_knows_what_the_plan_says() -> None:
    """The plan's own utterances and no others; its settings, their change, and what it witnessed."""
    greeting = sentences(8000)["greeting"]
    service = Deepgram(final=Constant(0), interim=Constant(0), utterances=[greeting], outcomes={"http_401": 0.0})
    assert service.obituary() is None
    async with service.running({}) as endpoint:
        client = client_of(endpoint.url)
        async with client.listen.v1.connect(**TALKING, punctuate="true") as socket:
            await speak(socket, codec("PCMU").encode(greeting.samples))
            await socket.send_close_stream()
            assert texts(await rest(socket), final=True) == [greeting.text]
        async with client.listen.v1.connect(**TALKING) as socket:
            assert await heard(socket) == []
        rows = await service.witnessed(endpoint)
        assert [row.detail["transcript"] for row in rows if row.kind == "stt"] == [greeting.text]
        assert [row.outcome for row in rows if row.kind == "stt_connection"] == ["ok", "ok"]
        await service.behave(endpoint, {"outcomes": {"http_401": 1.0}})
        with pytest.raises(ApiError) as refused:
            async with client.listen.v1.connect(**TALKING):
                pass
        assert refused.value.status_code == 401
        with pytest.raises(PlanError, match="no_token"):
            await service.behave(endpoint, {"outcomes": {"no_token": 1.0}})
    with pytest.raises(ServiceError):
        await service.witnessed(Endpoint(endpoint.url))


async def test_settings_that_cannot_be() -> None:
    with pytest.raises(PlanError, match="no_token"):
        Deepgram(outcomes={"no_token": 0.5})
    with pytest.raises(PlanError, match="idle_seconds"):
        Deepgram(idle_seconds=0)
    twin = Twin("stt", Deepgram()._behaviour, SystemClock())
    with pytest.raises(PlanError, match="api_key"):
        application(twin, {"api_key": 7})
    with pytest.raises(PlanError, match="cannot be read"):
        application(twin, {"utterances": "/nowhere/at/all"})
