"""Faults that end, limit or starve a service's processes: each takes effect, is proven, and leaves no trace."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from tests.by_hand import ByHand

from busyhour import proc
from busyhour.clock import SystemClock
from busyhour.emulators import OpenAI
from busyhour.errors import PlanError, ServiceError
from busyhour.faults import cgroups
from busyhour.faults.limits import FdLimit, FileSizeLimit, MemoryLimit
from busyhour.faults.process import Freeze, Kill, Restart
from busyhour.faults.quotas import CpuLimit, OutOfMemory, _Shortage
from busyhour.model import SECOND, Clock, Endpoint, Fault, FaultUnavailable, Proof
from busyhour.services import AlreadyRunning, Command
from busyhour.testing import check_fault

CLOCK, PATIENCE = SystemClock(), aiohttp.ClientTimeout(total=60)
Harmed = tuple[Endpoint, Proof]
TARGET = """
import http.server, os, sys, tempfile
held = []
class Do(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            said = self.act(*self.path.strip("/").split("/"))
        except (OSError, MemoryError) as error:
            said = type(error).__name__ + " " + str(getattr(error, "errno", ""))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(said.encode())
    def act(self, what, amount="0"):
        if what == "open":
            held.extend(open("/dev/null") for _ in range(int(amount)))
        elif what == "take":
            held.append(bytearray(int(amount)))
        elif what == "write":
            with tempfile.TemporaryFile() as file:
                file.write(bytes(int(amount)))
                file.flush()
        elif what == "spin":
            sum(range(int(amount)))
        elif what == "drop":
            held.clear()
        return str(os.getpid())
    def log_message(self, *_): pass
http.server.HTTPServer.allow_reuse_address = True
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Do).serve_forever()
"""


def target(name: str = "agent") -> Command:
    return Command([sys.executable, "-c", TARGET], name=name, stop_within_seconds=30)


def asked(path: str) -> Callable[[Endpoint], Awaitable[str]]:
    async def ask(endpoint: Endpoint) -> str:
        try:
            async with aiohttp.ClientSession(timeout=PATIENCE) as session, session.get(endpoint.url + path) as answer:
                return await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            return type(error).__name__

    return ask


async def answering(endpoint: Endpoint) -> bool:
    return (await asked("/health")(endpoint)).isdigit()


async def pids(endpoint: Endpoint) -> tuple[int, ...]:
    assert endpoint.handle is not None
    return endpoint.handle.pids  # type: ignore[no-any-return, attr-defined]


async def limits(endpoint: Endpoint) -> list[dict[str, int | None] | None]:
    return [proc.limits(one.pid) for one in proc.tree(await pids(endpoint))]


@asynccontextmanager
async def injected(fault: Fault, service: Command | OpenAI, clock: Clock = CLOCK) -> AsyncIterator[Harmed]:
    async with service.running({}) as endpoint, fault.injected({service.name: endpoint}, clock) as proof:
        yield endpoint, proof


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():  # noqa: ASYNC110  (processes set no events)
            await asyncio.sleep(0.01)


async def test_a_freeze_keeps_the_contract_of_faults() -> None:
    service = target()

    async def still(endpoint: Endpoint) -> bool:
        return {one.state for one in proc.tree(endpoint.pids)} == {"T"}

    because = await check_fault(lambda: Freeze(service, 60), service, state=still)
    assert re.match(r"the process of agent stood still \(state T\) for \d+\.\d s", because)


async def test_a_daemon_that_has_left_its_parent_is_frozen_too() -> None:
    """Who answers has forked twice and belongs to nobody: but to the supervisor."""
    daemon = (
        f"import os, time\nif os.fork() == 0:\n if os.fork() == 0:\n  exec({TARGET!r})\n os._exit(0)\ntime.sleep(60)\n"
    )
    service = Command([sys.executable, "-c", daemon], name="agent", stop_within_seconds=30)
    async with injected(Freeze(service, 60), service) as (endpoint, proof):
        assert (await proof.effect())[1].startswith("all 2 processes of agent stood still")
        holder = proc.listener(int(endpoint.url.rpartition(":")[2]))
        assert holder is not None
        assert holder.state == "T"


# ---------------------------------------------------------------- killed, restarted


async def test_a_kill_leaves_nothing_and_is_undone_on_every_way_out() -> None:
    service = target()
    because = await check_fault(lambda: Kill(service), service, state=answering)
    assert re.match(r"agent lost the process by SIGKILL, and answered again \d+\.\d s later", because)


async def test_a_kill_is_no_death_and_the_service_comes_back_where_it_was_as_another_process() -> None:
    service = target()
    fault, clock = Kill(service, after_seconds=0.1, restart_after_seconds=0.5), ByHand()
    async with injected(fault, service, clock) as (endpoint, proof):
        first = endpoint.pids
        assert await proof.effect() == (False, "no process of agent has been killed")

        async def down() -> bool:
            return (await proof.effect())[0]

        assert await clock.wake() == 0.1
        await until(down)
        assert await pids(endpoint) == ()
        assert service.obituary() is None
        assert (await proof.effect())[1] == "agent lost the process by SIGKILL, and is still down"
        assert await clock.wake() == 0.5
        await until(partial(answering, endpoint))
        assert await pids(endpoint) not in {(), first}
        assert proc.stat(first[0]) is None
    assert service.obituary() is None


async def test_what_dies_by_itself_after_a_restart_has_an_obituary() -> None:
    service = target()
    async with injected(Restart(service), service) as (endpoint, proof):
        assert (await proof.effect())[1].startswith("agent was killed by SIGTERM after SIGTERM, and answered again")
        os.kill((await pids(endpoint))[0], signal.SIGKILL)

        async def dead() -> bool:
            return service.obituary() is not None

        await until(dead)
        assert str(service.obituary()).startswith("agent was killed by SIGKILL")


async def test_what_is_to_stay_dead_stays_dead() -> None:
    service = target()
    async with service.running({}) as endpoint:
        async with Kill(service, stays_dead=True).injected({"agent": endpoint}, CLOCK) as proof:
            pass
        assert not await answering(endpoint)
        assert (await proof.effect())[1].endswith("and is still down")
        assert service.obituary() is None
        words = await refused(Freeze(service, 1), endpoint, ServiceError)
    assert "its processes are gone" in words


async def test_a_restart_is_in_order_and_gives_other_processes() -> None:
    service = target()
    seen = set()
    async with service.running({}) as endpoint:
        for _ in range(2):
            seen.add(await pids(endpoint))
            async with Restart(service).injected({"agent": endpoint}, CLOCK) as proof:
                assert (await proof.effect())[0]
                assert await answering(endpoint)
        seen.add(await pids(endpoint))
    assert len(seen) == 3


async def test_a_twin_is_found_where_it_was() -> None:
    twin = OpenAI()
    async with injected(Restart(twin), twin) as (endpoint, proof):
        assert (await proof.effect())[1].startswith("llm exited with 0 after SIGTERM, and answered again")
        assert await asked("/models")(endpoint) != "ClientConnectorError"
        assert await twin.witnessed(endpoint) == []


async def test_a_service_that_does_not_come_back_is_told(tmp_path: Path) -> None:
    once = tmp_path / "once"
    once.touch()
    service = Command(
        [sys.executable, "-c", "import os, pathlib\np = pathlib.Path(os.environ['ONCE'])\np.unlink()\n" + TARGET],
        name="agent",
        env={"ONCE": str(once)},
    )
    with pytest.raises(ServiceError, match=r"(?s)agent \(.*exited with 1 when it was started; its last lines"):
        async with injected(Kill(service, restart_after_seconds=0.01), service):
            await asyncio.sleep(0.05)


async def refused(fault: Fault, endpoint: Endpoint, kind: type[Exception]) -> str:
    with pytest.raises(kind) as refusal:
        async with fault.injected({"agent": endpoint}, CLOCK):
            pass
    return str(refusal.value)


STRANGER = AlreadyRunning(name="agent", url="http://127.0.0.1:1")


@pytest.mark.parametrize(
    "fault",
    [Kill(STRANGER), Restart(STRANGER), FdLimit(STRANGER, 9), CpuLimit(STRANGER, 0.5), OutOfMemory(STRANGER, 9)],
    ids=lambda fault: fault.name,
)
async def test_what_has_no_processes_cannot_be_harmed_in_them(fault: Fault) -> None:
    assert "needs processes, and agent has none" in await refused(fault, Endpoint("http://x"), PlanError)


async def test_what_we_cannot_start_again_is_not_killed() -> None:
    words = await refused(Kill(STRANGER), Endpoint("http://x", (os.getpid(),)), PlanError)
    assert words == "the fault 'agent killed' needs a service that busyhour can start again, and agent is none"


# ---------------------------------------------------------------- limits of each process


async def test_open_files_run_out_and_are_had_again() -> None:
    service = target()
    because = await check_fault(lambda: FdLimit(service, 24), service, state=limits, provoke=asked("/drop"))
    assert because.startswith("agent was limited to 24 open files (read back from the kernel); the limit was in force")
    async with service.running({}) as endpoint:
        async with FdLimit(service, 24).injected({"agent": endpoint}, CLOCK) as proof:
            assert await asked("/open/40")(endpoint) == "OSError 24"
            port = int(endpoint.url.rpartition(":")[2])
            _, connection = await asyncio.open_connection("127.0.0.1", port)  # takes the last there is

            async def ran_into_it() -> bool:
                return (await proof.effect())[1].endswith("(read back from the kernel), and ran into it")

            await until(ran_into_it)
            connection.close()
            await connection.wait_closed()
        assert (await asked("/open/40")(endpoint)).isdigit()


async def test_memory_runs_out_and_is_had_again() -> None:
    service = target()
    because = await check_fault(lambda: MemoryLimit(service, 20), service, state=limits)
    assert "MB (read back from the kernel); the limit was in force" in because
    async with service.running({}) as endpoint:
        async with MemoryLimit(service, 20, seconds=60).injected({"agent": endpoint}, CLOCK):
            assert (await asked("/take/10000000")(endpoint)).isdigit()
            assert await asked("/take/50000000")(endpoint) == "MemoryError "
        assert (await asked("/take/50000000")(endpoint)).isdigit()


async def test_a_file_grows_no_further() -> None:
    service = target()
    await check_fault(lambda: FileSizeLimit(service, 10), service, state=limits)
    async with service.running({}) as endpoint:
        async with FileSizeLimit(service, 10).injected({"agent": endpoint}, CLOCK) as proof:
            assert await asked("/write/20000")(endpoint) == "OSError 27"
            assert "limited to 10 kB" in (await proof.effect())[1]
        assert (await asked("/write/20000")(endpoint)).isdigit()


# ---------------------------------------------------------------- limits of all processes together


@pytest.mark.parametrize("by", ["stopping", "quota"])
async def test_a_service_gets_its_share_of_a_processor_and_no_more(by: str) -> None:
    service = target()
    fault = CpuLimit(service, 0.3, by=by)  # type: ignore[arg-type]
    if fault.lacking():
        assert "needs a control group" in await refused(fault, Endpoint("x", (1,)), FaultUnavailable)
        return
    async with service.running({}) as endpoint:
        before = group_of(endpoint.pids[0])
        async with fault.injected({"agent": endpoint}, CLOCK) as proof:
            spinning = asyncio.ensure_future(asked("/spin/1000000000")(endpoint))
            share = 1.0
            async with asyncio.timeout(60):
                while not 0.02 < share < 0.45:  # it gets more while we, who stop it, are held up ourselves
                    used, began_ns = cpu(endpoint), CLOCK.now_ns()
                    await asyncio.sleep(0.7)
                    share = (cpu(endpoint) - used) / ((CLOCK.now_ns() - began_ns) / SECOND)
            effective, because = await proof.effect()
            assert effective
            assert not spinning.done()
            assert ("a control group, version" if by == "quota" else "stopped by signals") in because
            spinning.cancel()
            await asyncio.gather(spinning, return_exceptions=True)
        assert group_of(endpoint.pids[0]) == before
        assert {one.state for one in proc.tree(endpoint.pids)} <= {"R", "S"}
        assert (await proof.effect())[0]


def group_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


def cpu(endpoint: Endpoint) -> float:
    return sum(one.cpu_seconds for one in proc.tree(endpoint.pids))


@pytest.mark.parametrize("by", ["stopping", "either"])
async def test_a_share_is_given_back_on_every_way_out(by: str) -> None:
    service = target()

    async def free(endpoint: Endpoint) -> object:
        stopped = False
        for _ in range(400):  # who stops it may have to wait for a processor
            await asyncio.sleep(0.0005)
            if stopped := "T" in {one.state for one in proc.tree(endpoint.pids)}:
                break
        return group_of(endpoint.pids[0]), stopped

    await check_fault(lambda: CpuLimit(service, 0.2, by=by), service, state=free)  # type: ignore[arg-type]


async def test_who_wants_too_much_memory_is_killed_by_the_kernel_and_comes_back() -> None:
    service = target()
    if cgroups.place("memory") is None:
        assert "needs a control group" in await refused(OutOfMemory(service, 30), Endpoint("x", (1,)), PlanError)
        return

    async def group(endpoint: Endpoint) -> str:
        return "".join([group_of(pid) for pid in await pids(endpoint)])

    because = await check_fault(lambda: OutOfMemory(service, 30), service, state=group, provoke=asked("/take/60000000"))
    assert because.startswith("agent could take 30 MB more, by a control group, version")
    assert because.endswith("the kernel killed 1 of its processes for want of memory")
    assert service.obituary() is None
    async with injected(OutOfMemory(service, 30), service) as (_, proof):
        effective, because = await proof.effect()
        assert not effective
        assert because.endswith("and never wanted more: the kernel killed nothing")


# ---------------------------------------------------------------- control groups of the other kind


def test_a_place_is_found_in_either_version(tmp_path: Path) -> None:
    mount = tmp_path / "cgroup"
    own = mount / "user.slice" / "run.scope"
    own.mkdir(parents=True)
    for folder in (mount, mount / "user.slice", own):
        (folder / "cgroup.procs").touch()
        (folder / "cgroup.subtree_control").write_text("cpu memory\n" if folder != own else "")
    (mountinfo := tmp_path / "mountinfo").write_text(f"41 31 0:38 / {mount} rw - cgroup2 cgroup2 rw\n")
    (membership := tmp_path / "group").write_text("0::/user.slice/run.scope\n")
    found = cgroups.place("cpu", mountinfo=mountinfo, membership=membership)
    assert found is not None
    assert (found.version, found.parent) == (2, mount / "user.slice"), "beside us: we hold processes"
    assert cgroups.place("pids", mountinfo=mountinfo, membership=membership) is None  # type: ignore[arg-type]
    mountinfo.write_text(f"32 31 0:29 / {mount} rw - cgroup cgroup rw,cpu,cpuacct\n")
    membership.write_text("3:cpu,cpuacct:/user.slice\n")
    found = cgroups.place("cpu", mountinfo=mountinfo, membership=membership)
    assert found is not None
    assert (found.version, found.parent) == (1, mount / "user.slice")
    assert cgroups.place("memory", mountinfo=mountinfo, membership=membership) is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Kill(STRANGER, after_seconds=-1), "has no duration"),
        (lambda: Kill(STRANGER, after_seconds=float("nan")), "has no duration"),
        (lambda: Freeze(STRANGER, float("inf")), "has no duration"),
        (lambda: Freeze(STRANGER, float("nan")), "has no duration"),
        (lambda: Kill(STRANGER, restart_after_seconds=1, stays_dead=True), "leave out one of them"),
        (lambda: FdLimit(STRANGER, -1), "a limit that makes no sense"),
        (lambda: MemoryLimit(STRANGER, float("nan")), "a limit that makes no sense"),
        (lambda: FileSizeLimit(STRANGER, 1, seconds=0), "has no duration"),
        (lambda: CpuLimit(STRANGER, 0), "a share that cannot be kept"),
        (lambda: CpuLimit(STRANGER, 0.99, by="stopping"), "a share that cannot be kept"),
        (lambda: OutOfMemory(STRANGER, 0), "a limit that makes no sense"),
    ],
)
def test_what_makes_no_sense_is_an_error_of_the_plan(make: Callable[[], Fault], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        make()


# ---------------------------------------------------------------- what was done half-way, or not at all


async def test_a_stop_that_has_not_come_yet_is_taken_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in an uninterruptible sleep is stopped when it wakes: after we gave up, if nothing took that back."""
    service, asleep = target(), True
    look = proc.stat

    def uninterruptible(pid: int, *, proc_root: Path = proc.PROC) -> proc.Stat | None:
        one = look(pid, proc_root=proc_root)
        return None if one is None else replace(one, state="D") if asleep else one

    async with service.running({}) as endpoint:
        monkeypatch.setattr("busyhour.faults.process._LOOKS", 3)
        monkeypatch.setattr(proc, "stat", uninterruptible)
        with pytest.raises(ServiceError, match="did not stop"):
            async with Freeze(service, 60).injected({"agent": endpoint}, CLOCK):
                pass
        asleep = False
        assert {one.state for one in proc.tree(await pids(endpoint))} != {"T"}
        assert await answering(endpoint)


async def test_a_limit_above_the_one_there_is_has_no_effect() -> None:
    service = target()
    async with service.running({}) as endpoint:
        resource.prlimit(endpoint.pids[0], resource.RLIMIT_NOFILE, (64, 4096))
        before = await limits(endpoint)
        async with FdLimit(service, 1000).injected({"agent": endpoint}, CLOCK) as proof:
            assert await proof.effect() == (False, "agent was limited to 64 open files already: nothing was changed")
        assert await limits(endpoint) == before


async def test_who_was_forked_while_it_was_limited_is_let_go_like_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child of a limited process inherits the limit, whenever we find it."""
    parent = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {TARGET!r}])"]
    service = Command(parent, name="agent", stop_within_seconds=30)
    looked, tree = 0, proc.tree

    def late(roots: Iterable[int]) -> list[proc.Stat]:
        nonlocal looked
        looked += 1
        found = tree(roots)
        if looked == 2:  # as if it had been forked just now
            resource.prlimit(found[1].pid, resource.RLIMIT_NOFILE, (24, resource.prlimit(found[1].pid, 7)[1]))
        return found[:1] if looked == 1 else found

    async with service.running({}) as endpoint:
        before = await limits(endpoint)
        assert len(before) == 2
        monkeypatch.setattr(proc, "tree", late)
        async with FdLimit(service, 24).injected({"agent": endpoint}, CLOCK):
            pass
        assert await limits(endpoint) == before


class LastMoment:
    """A control group whose kernel kills after it was asked whom it has killed, and a service that it does that to."""

    kind, path = "control group", ""

    def __init__(self) -> None:
        self.pids: tuple[int, ...] = (1,)
        self.started_again = 0

    def make(self) -> None: ...

    def limit_memory(self, limit_bytes: int) -> None: ...

    def take(self, roots: Callable[[], tuple[int, ...]]) -> int:
        return len(roots())

    def killed(self) -> int:
        return 0

    async def remove(self) -> None:
        self.pids = ()

    @contextmanager
    def excused(self) -> Iterator[None]:
        yield

    async def end(self, *, asked: bool) -> str:
        return "was down already"

    async def start_again(self) -> None:
        self.started_again += 1


async def test_who_was_killed_at_the_last_moment_comes_back_too() -> None:
    both = LastMoment()
    shortage = _Shortage("agent", Endpoint("", (1,), both), both, 1, both)  # type: ignore[arg-type]  # the group
    await shortage.begin()
    await shortage.end()
    await shortage.end()
    assert both.started_again == 1
