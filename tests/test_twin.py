"""The shared part of the twins: settings, admin paths, bounds, and the process."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from busyhour import admin
from busyhour.clock import VirtualClock
from busyhour.emulators import Cartesia, Constant, Empirical, OpenAI, twin
from busyhour.emulators.behaviour import Behaviour
from busyhour.emulators.twin import Settings, Twin, listening
from busyhour.errors import PlanError, ServiceError
from busyhour.model import Endpoint, Operation
from busyhour.processes import Child
from busyhour.timers import PreciseClock

KEY = {"authorization": "Bearer k"}
BEHAVIOUR = Behaviour(possible=("hang", "http_500"), latencies={"first_token": Constant(5)}, seed=1)


def operation(number: int) -> Operation:
    return Operation(id=f"x/{number}", kind="llm", phase="", due_ns=number, who="x", detail={"n": number})


@asynccontextmanager
async def served(state: Twin) -> AsyncIterator[Endpoint]:
    async with listening(state.application()) as port:
        yield Endpoint(f"http://127.0.0.1:{port}/v1")


@pytest.fixture
def state() -> Twin:
    return Twin("x", BEHAVIOUR, VirtualClock())


# ---------------------------------------------------------------- behaviour


async def test_behaviour_is_told_and_changed(state: Twin) -> None:
    state.count("ok")
    async with served(state) as endpoint:
        assert await admin.behaviour(endpoint) == {
            "first_token": {"distribution": "constant", "ms": 5},
            "outcomes": {},
            "seed": 1,
            "served": {"ok": 1},
        }
        told = await admin.behave(endpoint, {"outcomes": {"hang": 0.5}})
        assert told["outcomes"] == {"hang": 0.5}
        assert told["first_token"] == {"distribution": "constant", "ms": 5}
        assert state.behaviour.outcomes == {"hang": 0.5}
        assert await admin.behave(endpoint, told) == told


async def test_a_twin_says_its_name_and_what_it_can_be_told_to_do(state: Twin) -> None:
    async with served(state) as endpoint:
        assert await admin.about(endpoint) == {"name": "x", "outcomes": ["hang", "http_500"]}


async def test_an_impossible_change_is_refused_and_changes_nothing(state: Twin) -> None:
    async with served(state) as endpoint:
        with pytest.raises(PlanError, match="outcome 'explode' is unknown here; possible are hang, http_500"):
            await admin.behave(endpoint, {"outcomes": {"explode": 1}, "first_token": 9})
    assert state.behaviour == BEHAVIOUR


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        ("PUT", "behaviour", b"", 400, "The body is not JSON"),
        ("PUT", "behaviour", b"{", 400, "The body is not JSON"),
        ("PUT", "behaviour", b"\xff\xfe", 400, "The body is not JSON"),
        ("PUT", "behaviour", b"[" * 100_000, 400, "The body is not JSON"),
        ("PUT", "behaviour", b"[]", 400, "a change of behaviour is a JSON object, not list."),
        ("PUT", "behaviour", b'{"first_token": NaN}', 400, "first_token is nan"),
        ("PUT", "behaviour", b'{"outcomes": {"hang": 1e400}}', 400, "share of outcome 'hang' is inf"),
        ("POST", "behaviour", b"{}", 404, "There is no POST /_twin/behaviour"),
        ("GET", "nothing", b"", 404, "There is no GET /_twin/nothing"),
    ],
)
async def test_malformed_admin_requests_get_a_sentence(
    state: Twin, method: str, path: str, body: bytes, status: int, sentence: str
) -> None:
    async with (
        served(state) as endpoint,
        aiohttp.ClientSession() as session,
        session.request(method, endpoint.url.replace("/v1", f"/_twin/{path}"), data=body) as response,
    ):
        assert response.status == status
        assert sentence in (await response.json())["error"]


POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n"
SOCKET = (
    b"GET /tts/websocket?api_key=x HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
NASTY = [
    b"\x00\xff\r\n\r\n",
    b"A" * 70_000,
    b"GET / HTTP/9.9\r\n\r\n",
    POST + b"Content-Length: -1\r\n\r\n",
    POST + b"Content-Length: 100\r\n\r\n{",
    POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
    POST + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    POST.replace(b"v1/chat/completions", b"tts/bytes") + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /v1/models/%00%ff HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
    SOCKET + b"\xff\xff\xff\xff",
    SOCKET + b"\x81\x84\0\0\0\0\xff\xfe\xff\xfe",
]


@pytest.mark.parametrize("service", [OpenAI(), Cartesia()], ids=lambda service: service.name)
async def test_nothing_that_comes_over_the_wire_ends_a_twin(service: OpenAI | Cartesia) -> None:
    async with service.running({}) as endpoint:
        port = int(endpoint.url.split(":")[2].split("/")[0])
        for nasty in NASTY:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(nasty)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                assert b" 500 " not in await asyncio.wait_for(reader.read(64), 60)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        assert "served" in await service.behave(endpoint, {})
        assert service.obituary() is None


async def test_a_twin_that_does_not_answer_is_a_service_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gone = Endpoint(f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(ServiceError, match="does not answer GET /_twin/witnessed"):
            await admin.witnessed(gone, "x")


async def test_a_foreign_server_is_a_service_error() -> None:
    async def foreign(request: web.Request) -> web.Response:
        return web.json_response({}, status=503)

    app = web.Application()
    app.router.add_get("/_twin/behaviour", foreign)
    async with listening(app) as port:
        with pytest.raises(ServiceError, match=r"is no twin whose behaviour can be changed: 503"):
            await admin.behaviour(Endpoint(f"http://127.0.0.1:{port}"))


async def test_a_server_that_answers_something_else_is_a_service_error() -> None:
    async def foreign(request: web.Request) -> web.Response:
        return web.json_response({"name": 3, "operations": [{"what": 1}]})

    app = web.Application()
    app.router.add_get("/{rest:.*}", foreign)
    async with listening(app) as port:
        endpoint = Endpoint(f"http://127.0.0.1:{port}")
        with pytest.raises(ServiceError, match=f"{endpoint.url} answers 200: no twin of busyhour; give the URL"):
            await admin.about(endpoint)
        for asked in (admin.behaviour(endpoint), admin.witnessed(endpoint, "x")):
            with pytest.raises(ServiceError, match="is no twin whose behaviour can be changed"):
                await asked


# ---------------------------------------------------------------- witnessed


async def test_operations_are_told_once(state: Twin) -> None:
    async with served(state) as endpoint:
        state.witness(operation(1))
        state.witness(operation(2))
        assert await admin.witnessed(endpoint, "x") == [operation(1), operation(2)]
        assert await admin.witnessed(endpoint, "x") == []


async def test_what_found_no_place_is_told(state: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin, "WITNESSED_AT_MOST", 3)
    state = Twin("x", BEHAVIOUR, VirtualClock())
    for number in range(5):
        state.witness(operation(number))
    async with served(state) as endpoint:
        rows = await admin.witnessed(endpoint, "x")
    assert [row.id for row in rows[:-1]] == ["x/2", "x/3", "x/4"]
    assert (rows[-1].kind, rows[-1].outcome, rows[-1].detail) == ("witness", "dropped", {"count": 2})
    assert state.drain() == ([], 0)


async def test_an_answer_that_came_too_late_loses_nothing() -> None:
    llm = OpenAI(api_key="k")
    async with llm.running({}) as endpoint, aiohttp.ClientSession() as session:
        form = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello."}]}
        for _ in range(2):
            async with session.post(f"{endpoint.url}/chat/completions", json=form, headers=KEY) as answer:
                await answer.read()
        os.kill(endpoint.pids[0], signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await llm.witnessed(endpoint)
        finally:
            os.kill(endpoint.pids[0], signal.SIGCONT)
        assert len(await llm.witnessed(endpoint)) == 2
        assert await llm.witnessed(endpoint) == []


async def test_two_who_ask_at_once_are_told_each_row_once_between_them_and_so_after_a_restart() -> None:
    llm = OpenAI(api_key="k")
    async with llm.running({}) as endpoint, aiohttp.ClientSession() as session:
        form = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello."}]}
        child = endpoint.handle
        assert isinstance(child, Child)
        for _ in range(2):
            async with session.post(f"{endpoint.url}/chat/completions", json=form, headers=KEY) as answer:
                await answer.read()
            one, other = await asyncio.gather(llm.witnessed(endpoint), llm.witnessed(endpoint))
            assert len(one) + len(other) == 1
            await child.end(asked=False)
            await child.start_again()


def test_what_has_come_is_forgotten_and_what_was_pushed_out_before_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin, "WITNESSED_AT_MOST", 3)
    state = Twin("x", BEHAVIOUR, VirtualClock())
    for number in range(3):
        state.witness(operation(number))
    assert state.since(0) == (0, [operation(0), operation(1), operation(2)])
    state.witness(operation(3))  # pushes out one that has come, as the next question says
    assert state.since(3) == (0, [operation(3)])
    for number in range(4, 8):
        state.witness(operation(number))
    assert state.since(4) == (1, [operation(5), operation(6), operation(7)])
    assert state.since(8) == (0, [])


async def test_a_twin_with_long_settings_is_started_again() -> None:
    llm = OpenAI(first_token=Empirical([1 + n / 7 for n in range(20_000)]))
    async with llm.running({}) as endpoint:
        child = endpoint.handle
        assert isinstance(child, Child)
        await child.end(asked=False)
        await child.start_again()
        assert "served" in await admin.behaviour(endpoint)


def test_streams_are_numbered_apart(state: Twin) -> None:
    numbers = [state.draw(stream, ()).number for stream in ("a", "a", "b", "a", "b")]
    assert numbers == [0, 1, 0, 2, 1]


# ---------------------------------------------------------------- settings of the process


def test_settings_are_read() -> None:
    read = Settings.parse('{"name": "llm", "port": 80, "behaviour": {"seed": 2}, "more": {"a": 1}}', "x")
    assert read == Settings(name="llm", port=80, behaviour={"seed": 2}, more={"a": 1})
    assert Settings.parse("", "x") == Settings(name="x")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not JSON"),
        ("[]", "a JSON object, not list"),
        ('{"prot": 1}', "Setting 'prot' is unknown; known are name, port, behaviour, more"),
        ('{"port": "80"}', "Setting 'port' is '80'; it must be of type int"),
        ('{"port": true}', "of type int"),
        ('{"port": 70000}', "from 0 .any free one. to 65535"),
        ('{"behaviour": []}', "of type dict"),
    ],
)
def test_wrong_settings_are_named(text: str, sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        Settings.parse(text, "x")


def test_the_process_says_what_is_wrong_and_exits_64(capsys: pytest.CaptureFixture[str]) -> None:
    def build(state: Twin, more: Any) -> web.Application:
        return state.application()

    arguments = ['{"behaviour": {"outcomes": {"hang": 2}}}']
    code = twin.run(build, default=BEHAVIOUR, default_name="x", argv=arguments)
    assert code == 64
    assert capsys.readouterr().out == "FAILED the share of outcome 'hang' is 2; it must be a number from 0 to 1.\n"


def test_settings_come_from_standard_input_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"port": -1}\nmore\n'))
    assert twin.run(lambda state, more: state.application(), default=BEHAVIOUR, default_name="x", argv=["-"]) == 64
    assert capsys.readouterr().out.startswith("FAILED Setting 'port' is -1; it must be from 0")


def test_the_process_builds_on_its_loop_with_a_clock_that_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    built: list[Twin] = []

    def build(state: Twin, more: Any) -> web.Application:
        assert asyncio.get_running_loop().is_running()
        built.append(state)
        raise PlanError("That is all.")

    assert twin.run(build, default=BEHAVIOUR, default_name="x", argv=['{"name": "y"}']) == 64
    assert capsys.readouterr().out == "FAILED That is all.\n"
    assert [(state.name, type(state.clock)) for state in built] == [("y", PreciseClock)]


# ---------------------------------------------------------------- the process itself


async def test_a_twin_runs_answers_and_ends() -> None:
    llm = OpenAI(name="brain", first_token=Constant(0), outcomes={"http_500": 0.25})
    assert llm.obituary() is None
    async with llm.running({}) as endpoint:
        assert endpoint.url.startswith("http://127.0.0.1:")
        (pid,) = endpoint.pids
        os.kill(pid, 0)
        told = await llm.behave(endpoint, {"first_token": 3})
        assert told["first_token"] == {"distribution": "constant", "ms": 3}
        assert told["outcomes"] == {"http_500": 0.25}
        assert await llm.witnessed(endpoint) == []
        assert llm.obituary() is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert llm.obituary() is None


async def test_sigterm_is_an_orderly_end() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "busyhour.emulators.openai", "{}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    ready = (await process.stdout.readline()).decode()
    assert ready.startswith("READY http://127.0.0.1:")
    assert ready.endswith("/v1\n")
    # A client in the middle of a stream does not hold it up.
    url = ready.split()[1]
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    async with aiohttp.ClientSession() as session:
        change = {"first_token": 0, "outcomes": {"no_token": 1}}
        (await session.put(url.replace("/v1", "/_twin/behaviour"), json=change)).raise_for_status()
        response = await session.post(f"{url}/chat/completions", json=body, headers={"Authorization": "Bearer x"})
        process.send_signal(signal.SIGTERM)
        out, err = await asyncio.wait_for(process.communicate(), 60)
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    assert (process.returncode, out, err) == (0, b"", b"")


async def test_a_twin_that_is_killed_has_an_obituary() -> None:
    llm = OpenAI()
    async with llm.running({}) as endpoint:
        os.kill(endpoint.pids[0], signal.SIGKILL)
        async with asyncio.timeout(60):
            while llm.obituary() is None:  # noqa: ASYNC110  (it is polled by contract)
                await asyncio.sleep(0.01)
        assert "llm was killed by SIGKILL" in str(llm.obituary())


async def test_a_used_port_is_named_with_the_mend() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServiceError) as refused:
            async with OpenAI(port=port).running({}):
                pytest.fail("it started on a used port")
    assert f"Port {port} of 127.0.0.1 cannot be had" in str(refused.value)
    assert "any free one: --port 0, in a plan port=0" in str(refused.value)


def test_settings_survive_the_way_to_the_process() -> None:
    llm = OpenAI(first_token=Constant(7), outcomes={"hang": 0.5}, seed=9)
    default = OpenAI()
    assert default._behaviour.changed(json.loads(json.dumps(llm._behaviour.as_json()))) == llm._behaviour


@pytest.mark.parametrize("settings", [{"outcomes": {"zero_audio": 1}}, {"outcomes": {"hang": 2}}, {"seed": "x"}])
def test_impossible_settings_are_told_in_the_plan(settings: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        OpenAI(**settings)
