"""Services: started, addressed, watched, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from busyhour.errors import PlanError, ServiceError
from busyhour.model import Endpoint
from busyhour.proc import stat
from busyhour.services import AlreadyRunning, Child, Command, Mortal, child, free_port

AGENT = """
import http.server, os, signal, sys

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
        self.wfile.write(os.environ.get("SAID", "").encode())
    def log_message(self, *arguments): pass

server = http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Health)
print("serving", os.environ.get("LLM_URL"), flush=True)
server.serve_forever()
"""
# A tree that does not want to go: a child that ignores SIGTERM, one in its own session, and one that double-forked.
STUBBORN = """
import os, signal, sys, time

def stay(name):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(os.path.join(sys.argv[1], name + ".new"), "w") as file:
        file.write(str(os.getpid()))
    os.rename(os.path.join(sys.argv[1], name + ".new"), os.path.join(sys.argv[1], name))
    while True:
        time.sleep(60)

if os.fork() == 0:
    stay("deaf")
if os.fork() == 0:
    os.setsid()
    stay("own_session")
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        stay("daemon")
    os._exit(0)
os.wait()
print("READY http://127.0.0.1:1", flush=True)
stay("main")
"""
NAMES = ("deaf", "own_session", "daemon", "main")


def python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", program, *arguments]


async def announced(child: Child) -> str:
    return (await child.first_line()).removeprefix("READY ")


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110  (processes set no events)
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    found = stat(pid)
    return found is not None and found.state != "Z"


def pids_in(directory: Path) -> list[int]:
    return [int((directory / name).read_text()) for name in NAMES]


async def test_a_command_is_started_addressed_and_stopped() -> None:
    agent = Command(python(AGENT), name="voice-agent", env={"LLM_URL": AlreadyRunning(name="llm", url="ignored")})
    async with agent.running({"llm": Endpoint("http://127.0.0.1:9/v1")}) as endpoint:
        (pid,) = endpoint.pids
        port = int(endpoint.url.removeprefix("http://127.0.0.1:"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /other HTTP/1.0\r\n\r\n")
        assert b" 404 " in await reader.readline()
        writer.close()
        await writer.wait_closed()
        assert isinstance(agent, Mortal)
        assert agent.obituary() is None
    assert not alive(pid)
    assert agent.obituary() is None, "it was we who stopped it"
    assert agent.last_lines() == ["serving http://127.0.0.1:9/v1"]


async def test_a_fixed_port_and_another_variable(tmp_path: Path) -> None:
    port = free_port()
    program = AGENT.replace('"PORT"', '"AGENT_PORT"')
    log = tmp_path / "agent.log"
    agent = Command(python(program), port=port, port_variable="AGENT_PORT", log=log)
    async with agent.running({}) as endpoint:
        assert endpoint.url == f"http://127.0.0.1:{port}"
    assert log.read_text() == "serving None\n"


async def test_a_command_line_is_split_as_a_shell_would(tmp_path: Path) -> None:
    (tmp_path / "my agent.py").write_text(AGENT)
    agent = Command(f"{sys.executable} 'my agent.py'", cwd=str(tmp_path))
    async with agent.running({}) as endpoint:
        assert endpoint.pids


@pytest.mark.parametrize("command", ["", "agent 'unclosed", []])
def test_a_command_that_is_none_is_an_error_of_the_plan(command: str | list[str]) -> None:
    with pytest.raises(PlanError, match="target: the command"):
        Command(command)


async def refused(agent: Command | AlreadyRunning, peers: dict[str, Endpoint] | None = None) -> str:
    with pytest.raises(ServiceError) as refusal:
        async with agent.running(peers or {}):
            raise AssertionError("it started")
    return str(refusal.value)


async def test_a_command_not_found() -> None:
    assert "agent: no program 'no-such-program' on the PATH" in await refused(Command("no-such-program", name="agent"))
    assert "no program './agent' below" in await refused(Command("./agent", cwd="/tmp"))
    assert "working directory /no/such does not exist" in await refused(Command("sh", cwd="/no/such"))


async def test_a_command_that_cannot_be_executed(tmp_path: Path) -> None:
    program = tmp_path / "agent"
    program.write_text("no program")
    assert "could not be executed: Permission denied" in await refused(Command(str(program)))
    program.chmod(0o755)
    assert "could not be executed: Exec format error" in await refused(Command(str(program)))


async def test_a_command_that_dies_at_start_shows_its_code_and_its_last_lines() -> None:
    words = await refused(Command(python("import sys\nprint('no key')\nsys.exit(3)"), name="agent"))
    assert words.endswith("exited with 3 when it was started; its last lines:\n    no key")


async def test_a_command_killed_at_start_names_the_signal() -> None:
    words = await refused(Command(python("import os\nos.kill(os.getpid(), 9)")))
    assert words.endswith("was killed by SIGKILL when it was started; it printed nothing")


async def test_a_command_that_never_answers() -> None:
    program = "import time\nprint('thinking', flush=True)\ntime.sleep(60)"
    words = await refused(Command(python(program), start_within_seconds=2))
    assert "did not start within 2 s: still waiting for GET http://127.0.0.1:" in words
    assert "/health to be answered with 2xx (last: Connection refused)" in words
    assert words.endswith("its last lines:\n    thinking")


LISTENER = """
import socket, sys, time
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)
while True:
    connection, _ = server.accept()
    connection.recv(1000)
    connection.sendall(sys.argv[3].encode())
    connection.close()
"""
WEBSOCKET_ONLY = "HTTP/1.1 426 Upgrade Required\r\n\r\n"


async def test_a_health_url_that_answers_no_2xx_is_named() -> None:
    words = await refused(Command(python(AGENT), health="/ready", start_within_seconds=3))
    assert "(last: HTTP/1.0 404 Not Found); correct its `health` path, or give it longer with `start_" in words


@pytest.mark.parametrize(
    ("address", "listens_at", "answer", "last", "mend"),
    [
        ("127.0.0.1", "{other}", "", "Connection refused", "it listens on {other}: have it take the port in its "),
        ("127.0.0.1", "{other}", "", "Connection refused", "variable AGENT_PORT, or give its own with `port={other}`"),
        ("127.0.0.2", "{port}", "", "Connection refused", "of another address: have it listen on 127.0.0.1"),
        (
            "127.0.0.1",
            "{port}",
            WEBSOCKET_ONLY,
            "HTTP/1.1 426 Upgrade Required",
            "only WebSocket is spoken there: with",
        ),
        (
            "127.0.0.1",
            "{port}",
            "",
            "closed without an answer",
            'it listens there: if it speaks no HTTP, give it health="',
        ),
    ],
)
async def test_a_program_that_does_not_answer_is_told_what_to_change(
    address: str, listens_at: str, answer: str, last: str, mend: str
) -> None:
    port, other = free_port(), free_port()
    command = python(LISTENER, address, listens_at.format(port=port, other=other), answer)
    words = await refused(Command(command, port=port, port_variable="AGENT_PORT", start_within_seconds=3))
    assert f"GET http://127.0.0.1:{port}/health to be answered with 2xx (last: {last}); " in words
    assert mend.format(other=other) in words


async def test_a_program_that_listens_nowhere_is_told_its_port() -> None:
    words = await refused(Command(python("import time\ntime.sleep(60)"), start_within_seconds=1))
    assert "nobody listens there: have it listen on 127.0.0.1 at the port in its variable PORT, or give it lon" in words
    words = await refused(Command(python("import time\ntime.sleep(60)"), port_variable="", start_within_seconds=1))
    assert "at the port that `port=` gives it" in words


async def test_a_program_that_speaks_no_http_is_up_when_it_accepts_a_connection() -> None:
    port = free_port()
    agent = Command(python(LISTENER, "127.0.0.1", str(port), WEBSOCKET_ONLY), port=port, health="")
    async with agent.running({}) as endpoint:
        assert endpoint.url == f"http://127.0.0.1:{port}"
    words = await refused(Command(python("import time\ntime.sleep(60)"), port=port, health="", start_within_seconds=1))
    assert f"still waiting for 127.0.0.1:{port} to accept a connection (last: Connection refused); nobody lis" in words


def test_a_health_path_without_a_slash_is_an_error_of_the_plan() -> None:
    with pytest.raises(PlanError, match="its health path 'health' does not begin with a slash; write '/health', or"):
        Command("agent", health="health")


async def test_a_port_in_use_names_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        words = await refused(Command(python(AGENT), port=port))
    assert f"port {port} cannot be used: Address already in use by " in words
    assert f"(pid {os.getpid()}); stop that, or use port=0" in words


async def test_an_environment_that_names_an_unknown_service() -> None:
    agent = Command("sh", name="agent", env={"LLM_URL": AlreadyRunning(name="llm", url="http://127.0.0.1:9")})
    words = await refused(agent, {"stt": Endpoint("http://127.0.0.1:8")})
    assert "LLM_URL the URL of the service 'llm', which the plan does not start (it starts: stt)" in words


async def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    assert "its log" in await refused(Command(python(AGENT), log=tmp_path / "missing" / "agent.log"))


async def test_something_already_running() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        async with AlreadyRunning(name="db", url=url).running({}) as endpoint:
            assert endpoint == Endpoint(url)
    assert f"db does not answer at {url}: Connection refused" in await refused(AlreadyRunning(name="db", url=url))
    assert "names no host and port" in await refused(AlreadyRunning(name="db", url="localhost"))
    assert "is no URL" in await refused(AlreadyRunning(name="db", url="http://h:99999999"))


async def test_the_obituary_of_a_service_that_died_while_it_ran() -> None:
    program = (
        "import sys\nprint('READY http://x', flush=True)\ninput_ = sys.stdin.read()\nimport signal\nsignal.pause()"
    )
    async with child(python(program), name="agent", ready=announced) as running:
        assert running.url == "http://x"
        assert running.obituary() is None
        os.kill(running.pid, signal.SIGKILL)
        await until(running.obituary)
        assert running.obituary() == "agent was killed by SIGKILL; its last lines:\n    READY http://x"
    assert running.obituary() is not None, "its death stays known after the end"


async def test_output_is_always_drained_and_kept_bounded() -> None:
    program = """
import sys
print("READY x", flush=True)
for number in range(200_000):
    print("line", number)
print("the end", file=sys.stderr)
sys.exit(5)
"""
    async with child(python(program), name="chatty", ready=announced) as running:
        await until(running.obituary)
        lines = running.last_lines()
    assert len(lines) == 20
    assert {"line 199999", "the end"} <= set(lines)
    assert sum(map(len, running._output._kept)) < 3 * 65536


async def test_what_ready_makes_of_the_last_breath_is_the_reason() -> None:
    async def ready(child: Child) -> str:
        raise ServiceError(f"no start: {await child.first_line()}")

    with pytest.raises(ServiceError, match="no start: FAILED port 80"):
        async with child(python("print('FAILED port 80')"), name="agent", ready=ready):
            raise AssertionError("it started")


async def test_an_end_without_a_first_line_is_no_start() -> None:
    with pytest.raises(ServiceError, match="exited with 0"):
        async with child(python("pass"), name="agent", ready=announced):
            raise AssertionError("it started")


async def test_sigterm_comes_before_sigkill(tmp_path: Path) -> None:
    program = """
import signal, sys
def bye(*_):
    open(sys.argv[1], "w").write("ended well")
    sys.exit(0)
signal.signal(signal.SIGTERM, bye)
print("READY x", flush=True)
while True: signal.pause()
"""
    told = tmp_path / "told"
    async with child(python(program, str(told)), name="agent", ready=announced):
        pass
    assert told.read_text() == "ended well"


async def test_sigterm_reaches_what_a_shell_started(tmp_path: Path) -> None:
    program = f"trap 'echo well > {tmp_path}/told; exit' TERM; echo READY x; while true; do sleep 0.05; done"
    async with child(["sh", "-c", f'sh -c "{program}"; true'], name="agent", ready=announced):
        pass
    assert (tmp_path / "told").read_text() == "well\n"


async def test_no_process_is_left_on_the_normal_way_out(tmp_path: Path) -> None:
    starting = child(python(STUBBORN, str(tmp_path)), name="agent", ready=announced, stop_within_seconds=0.3)
    async with starting as running:
        await until(lambda: all((tmp_path / name).exists() for name in NAMES))
        pids = pids_in(tmp_path)
        assert all(alive(pid) for pid in pids)
        assert running.pid in pids
    assert not any(alive(pid) for pid in pids)


async def test_no_process_is_left_after_an_exception(tmp_path: Path) -> None:
    pids: list[int] = []

    async def use() -> None:
        async with child(python(STUBBORN, str(tmp_path)), name="a", ready=announced, stop_within_seconds=0.1):
            await until(lambda: all((tmp_path / name).exists() for name in NAMES))
            pids.extend(pids_in(tmp_path))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await use()
    assert len(pids) == 4
    assert not any(alive(pid) for pid in pids)


async def test_no_process_is_left_when_the_start_is_cancelled(tmp_path: Path) -> None:
    async def never(child: Child) -> str:
        await asyncio.Event().wait()
        return ""

    async def use() -> None:
        async with child(python(STUBBORN, str(tmp_path)), name="agent", ready=never):
            raise AssertionError("it started")

    task = asyncio.create_task(use())
    await until(lambda: all((tmp_path / name).exists() for name in NAMES))
    pids = pids_in(tmp_path)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not any(alive(pid) for pid in pids)


async def test_no_process_is_left_when_the_stop_is_cancelled(tmp_path: Path) -> None:
    async def use() -> None:
        async with child(python(STUBBORN, str(tmp_path)), name="agent", ready=announced, stop_within_seconds=60):
            await until(lambda: all((tmp_path / name).exists() for name in NAMES))

    task = asyncio.create_task(use())
    await until(lambda: all((tmp_path / name).exists() for name in NAMES))
    pids = pids_in(tmp_path)
    await asyncio.sleep(0.1)  # into the waiting for SIGTERM to be obeyed, which it never is
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not any(alive(pid) for pid in pids)


HARNESS = """
import asyncio, sys
from busyhour.services import child

async def announced(child):
    return await child.first_line()

async def main():
    async with child([sys.executable, "-c", sys.argv[1], sys.argv[2]], name="agent", ready=announced) as running:
        print("up", running._supervisor.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_no_process_is_left_when_the_harness_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(python(HARNESS, STUBBORN, str(tmp_path)), stdout=subprocess.PIPE, text=True) as harness:
        assert harness.stdout is not None
        word, supervisor = harness.stdout.readline().split()
        assert word == "up"
        asyncio.run(until(lambda: all((tmp_path / name).exists() for name in NAMES)))
        pids = pids_in(tmp_path)
        assert all(alive(pid) for pid in pids)
        harness.kill()
    asyncio.run(until(lambda: not any(alive(pid) for pid in [*pids, int(supervisor)])))


async def test_a_killed_supervisor_takes_the_program_with_it_and_is_told() -> None:
    program = "import signal\nprint('READY x', flush=True)\nsignal.pause()"
    async with child(python(program), name="agent", ready=announced) as running:
        running._supervisor.kill()
        await until(running.obituary)
        assert "agent was lost: its supervisor was killed" in str(running.obituary())
        await until(lambda: not alive(running.pid))


def test_it_works_on_the_event_loop_that_runs_use() -> None:
    async def use() -> Endpoint:
        agent = Command(python(AGENT))
        async with agent.running({}) as endpoint:
            assert agent.obituary() is None
            assert alive(endpoint.pids[0])
        assert agent.last_lines() == ["serving None"]
        return endpoint

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        endpoint = runner.run(use())
    assert not alive(endpoint.pids[0])


async def test_what_we_ignore_is_not_ignored_by_the_program() -> None:
    program = "import signal\nprint(signal.getsignal(signal.SIGHUP) == signal.SIG_DFL, flush=True)\nsignal.pause()"
    async with child(python(program), name="agent", ready=announced) as running:
        assert running.url == "True"
