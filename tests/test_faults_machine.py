"""Faults of the machine - a full disk, busy processors, memory held - and what is said without root."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from busyhour import proc
from busyhour.clock import SystemClock
from busyhour.errors import PlanError, ServiceError
from busyhour.faults.claims import lacking
from busyhour.faults.disk import DiskFull
from busyhour.faults.pressure import CpuHog, MemoryPressure
from busyhour.faults.quotas import CpuLimit
from busyhour.model import Endpoint, Fault, FaultUnavailable
from busyhour.services import AlreadyRunning
from busyhour.testing import MemoryService, check_fault

CLOCK = SystemClock()
AGENT = AlreadyRunning(name="agent", url="http://127.0.0.1:1")
SERVICE = MemoryService("agent")
HERE = {"agent": Endpoint("memory:")}
ROOT = DiskFull(AGENT, Path("/")).lacking() is None
MB = 1_000_000


# ---------------------------------------------------------------- disks


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


async def test_a_full_disk_is_full_and_gone_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "recordings of calls"
    folder.mkdir()
    (folder / "old").write_text("still there")
    fault = DiskFull(AGENT, folder)
    if not ROOT:
        assert "needs root" in str(fault.lacking())
        return

    async def seen(_: Endpoint) -> object:
        return sorted(os.listdir(folder)), mounts()

    because = await check_fault(lambda: DiskFull(AGENT, folder), SERVICE, state=seen)
    assert because == f"a file system with 0 kB free was mounted over {folder}, and no files were written to it"
    async with fault.injected(HERE, CLOCK) as proof:
        with pytest.raises(OSError, match="No space left on device"):
            (folder / "new").write_bytes(b"1" * 5000)
        assert (await proof.effect())[1].endswith("and 1 files were written to it")
    assert (folder / "old").read_text() == "still there"
    async with DiskFull(AGENT, folder, free_kilobytes=20).injected(HERE, CLOCK):
        (folder / "new").write_bytes(b"1" * 12_000)
        with pytest.raises(OSError, match="No space left on device"):
            (folder / "more").write_bytes(b"1" * 12_000)


async def test_a_mount_is_undone_whoever_ended_the_mounter(tmp_path: Path) -> None:
    if not ROOT:
        assert "needs root" in str(DiskFull(AGENT, tmp_path).lacking())
        return
    async with DiskFull(AGENT, tmp_path).injected(HERE, CLOCK):
        mounter = next(one.pid for one in proc.tree([os.getpid()]) if b"_mount.py" in command_of(one.pid))
        os.kill(mounter, signal.SIGKILL)
        async with asyncio.timeout(60):
            while (one := proc.stat(mounter)) and one.state != "Z":  # noqa: ASYNC110  (processes set no events)
                await asyncio.sleep(0.005)
        assert str(tmp_path) in mounts()
    assert str(tmp_path) not in mounts()


DISK = """
import asyncio, os, signal, sys
from pathlib import Path
from busyhour.clock import SystemClock
from busyhour.faults.disk import DiskFull
from busyhour.model import Endpoint
from busyhour.services import AlreadyRunning
async def main():
    fault = DiskFull(AlreadyRunning(name="agent", url="http://x:1"), Path(sys.argv[1]))
    async with fault.injected({"agent": Endpoint("x")}, SystemClock()):
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


async def test_a_harness_that_is_killed_leaves_nothing_mounted(tmp_path: Path) -> None:
    if not ROOT:
        assert "needs root" in str(DiskFull(AGENT, tmp_path).lacking())
        return
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", DISK, str(tmp_path))
    assert await killed.wait() == -signal.SIGKILL
    async with asyncio.timeout(60):
        while str(tmp_path) in mounts():  # noqa: ASYNC110  (mounts set no events)
            await asyncio.sleep(0.01)


async def test_a_disk_for_no_folder(tmp_path: Path) -> None:
    fault = DiskFull(AGENT, tmp_path / "none")
    with pytest.raises(PlanError if ROOT else FaultUnavailable, match=r"needs (a folder, and|root)"):
        async with fault.injected(HERE, CLOCK):
            pass
    with pytest.raises(PlanError, match="makes no sense"):
        DiskFull(AGENT, tmp_path, free_kilobytes=-1)


# ---------------------------------------------------------------- without root

NOBODY = """
import asyncio, codecs, json, os, sys
from pathlib import Path
from busyhour.clock import SystemClock
from busyhour.errors import ServiceError
from busyhour.faults.disk import DiskFull
from busyhour.faults.limits import FdLimit
from busyhour.faults.quotas import CpuLimit, OutOfMemory
from busyhour.model import Endpoint, FaultUnavailable
from busyhour.services import AlreadyRunning, Command
codecs.lookup("ascii")  # nobody may not be allowed to read where Python is installed: import what is needed before
import asyncio.subprocess, subprocess
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
agent = Command([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "0"], name="agent", health="/")
said = {}
async def refused(fault, endpoints):
    try:
        async with fault.injected(endpoints, SystemClock()) as proof:
            said[fault.name] = (await proof.effect())[1]
    except (FaultUnavailable, ServiceError) as refusal:
        said[fault.name] = f"{type(refusal).__name__}: {refusal}"
async def main():
    class Handle:
        pids = (os.getppid(),)
        async def end(self, *, asked): return ""
        async def start_again(self): pass
        def excused(self): pass
    other = {"agent": Endpoint("x", (os.getppid(),), Handle())}
    for fault in (DiskFull(agent, Path("/tmp")), CpuLimit(agent, 0.5, by="quota"), OutOfMemory(agent, 9),
                  FdLimit(agent, 99), CpuLimit(agent, 0.4, by="stopping")):
        await refused(fault, other)
    own = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    await refused(CpuLimit(agent, 0.3), {"agent": Endpoint("x", (own.pid,))})
    own.communicate()
asyncio.run(main())
print(json.dumps(said))
"""


def test_without_root_every_fault_says_what_it_needs_or_does_it_in_another_way() -> None:
    done = subprocess.run([sys.executable, "-c", NOBODY], check=True, stdout=subprocess.PIPE, text=True)
    said: dict[str, Any] = json.loads(done.stdout)
    group = "needs a control group that we may make: run as root, "
    assert said["disk of agent full"].startswith(
        "FaultUnavailable: needs root, to mount a file system: run as root, or"
    )
    assert said["agent limited to 0.5 of a processor"].startswith("FaultUnavailable: " + group)
    assert said["agent out of memory after 9 MB"].startswith("FaultUnavailable: " + group)
    assert "stopped by signals" in said["agent limited to 0.3 of a processor"], "no quota: it is stopped instead"
    if os.geteuid() == 0:  # then our own process is another user's to it
        assert said["agent limited to 99 open files"].startswith("ServiceError: agent cannot be limited: its process")
        assert "is another user's; run as that user" in said["agent limited to 0.4 of a processor"]


def test_what_is_lacking_is_known_before_anything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "capable", lambda _: False)
    fault: Fault = DiskFull(AGENT, Path("/"))
    assert lacking_in(fault) == {
        "p": "the fault 'disk of agent full' needs root, to mount a file system: run as root, or use FileSizeLimit, "
        "which needs none"
    }
    assert lacking_in(CpuLimit(AGENT, 0.5)) == {}


def lacking_in(*faults: Fault) -> dict[str, str]:
    from busyhour.arrivals import Burst
    from busyhour.carriers.memory import MemoryCarrier
    from busyhour.model import Phase, Plan
    from busyhour.workloads.call import Call

    phase = Phase("p", Burst(1), Call([]), faults=faults)
    return lacking(Plan(target=AGENT, carrier=MemoryCarrier(clock=CLOCK), phases=[phase], gates=[]))


# ---------------------------------------------------------------- processors


def hogs() -> list[int]:
    return [one.pid for one in proc.tree([os.getpid()]) if b"busyhour.faults.hog" in command_of(one.pid)]


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it ended
        return b""


async def test_processors_are_kept_busy_and_let_go() -> None:
    async def busy(_: Endpoint) -> int:
        return len([pid for pid in hogs() if b"-m" in command_of(pid) and b"_supervise" not in command_of(pid)])

    fault = CpuHog(processes=2, share=0.05, nice=19, seed=1)
    assert fault.service == "machine"
    because = await check_fault(lambda: fault, SERVICE, state=busy)
    assert because.startswith("2 processes took 0.")
    assert hogs() == []


async def test_pressure_that_never_came_is_no_effect() -> None:
    async with CpuHog(processes=1, share=0.1, after_seconds=60).injected({}, CLOCK) as proof:
        assert await proof.effect() == (False, "1 process took 0.0 s of processor time in 0.0 s, and wanted 0.0 s")
    async with MemoryPressure(share=0.1, after_seconds=60).injected({}, CLOCK) as held:
        assert not (await held.effect())[0]


@pytest.mark.parametrize("odd", [{"processes": 0}, {"processes": 10_000}, {"processes": 1, "share": 0}])
def test_hogs_that_make_no_sense(odd: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="makes no sense"):
        CpuHog(**odd)


# ---------------------------------------------------------------- memory


async def test_memory_is_held_and_given_back() -> None:
    available = proc.available_bytes()
    share = min(0.05, 60 * MB / available)

    async def held(_: Endpoint) -> bool:
        return any(b"busyhour.faults.filler" in command_of(one.pid) for one in proc.tree([os.getpid()]))

    because = await check_fault(lambda: MemoryPressure(share=share, floor_megabytes=100), SERVICE, state=held)
    assert because.startswith("a process held ")
    assert " MB were left" in because


async def test_the_floor_is_kept() -> None:
    floor_megabytes = proc.available_bytes() / MB - 40
    async with MemoryPressure(share=0.9, floor_megabytes=floor_megabytes).injected({}, CLOCK) as proof:
        effective, because = await proof.effect()
        assert not effective, because  # less than a tenth of what was asked for
    with pytest.raises(ServiceError, match="MB must be left; make room, or lower floor_megabytes"):
        async with MemoryPressure(share=0.1, floor_megabytes=10_000_000).injected({}, CLOCK):
            await asyncio.sleep(0)


@pytest.mark.parametrize("odd", [{"share": 0}, {"share": 0.99}, {"share": 0.5, "floor_megabytes": 1}])
def test_pressure_that_makes_no_sense(odd: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="makes no sense"):
        MemoryPressure(**odd)
