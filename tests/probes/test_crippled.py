"""Where /proc does not tell all: another user's processes, old kernels, containers. What is missing is said, once."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from busyhour import proc
from busyhour.model import Endpoint
from busyhour.probes.loop import LoopMeter
from busyhour.probes.missing import Missing
from busyhour.probes.process import Process

from .puppet import AGENT, Puppet, crippled, puppet

DISK = ("disk_read_mb", "disk_written_mb", "disk_read_mb_per_second", "disk_written_mb_per_second")
MAP = ("private_mb", "private_dirty_mb", "uss_mb", "pss_mb")


def watching(proc_root: Path) -> Process:
    return Process(AGENT, memory_map_seconds=0, details_seconds=0, proc_root=proc_root)


@pytest.mark.parametrize(
    ("file", "gone"),
    [
        ("smaps_rollup", MAP),
        ("io", DISK),
        ("statm", ("anon_mb",)),
        ("fd", ("fds", "fds_sockets", "tcp_established", "tcp_listen", "sockets_other")),
        ("status", ("voluntary_switches_per_second",)),
        ("net", ("netns_sent_mb",)),
    ],
)
def test_a_file_that_the_kernel_does_not_have_costs_its_own_readings_only(
    tmp_path: Path, file: str, gone: tuple[str, ...]
) -> None:
    with puppet() as one:
        whole = watching(proc.PROC)
        everything = [whole.read(one.endpoint) for _ in range(2)][1].keys()
        without = ("status", "task") if file == "status" else (file,)
        probe = watching(crippled(tmp_path, one.pid, without=without))
        readings = [probe.read(one.endpoint) for _ in range(2)][1]
        missing = list(probe.missing())
        assert not gone & readings.keys()
        told = {name for one in missing for name in one.readings}
        assert told == everything - readings.keys(), "what is not there is what is said not to be there"
        assert any(f"{tmp_path}/{one.pid}/{file}" in m.why and "does not exist" in m.why for m in missing)
        assert set(gone) <= everything
        probe.read(one.endpoint)
        assert probe.missing() == [], "it is said once"


def test_a_file_that_says_nothing_is_missing_too(tmp_path: Path) -> None:
    with puppet() as one:
        root = crippled(tmp_path, one.pid, without=("io",))
        (root / str(one.pid) / "io").write_text("rchar: 5\nwchar: 6\n")
        probe = Process(AGENT, proc_root=root)
        assert "disk_read_mb" not in probe.read(one.endpoint)
        (missing,) = [one for one in probe.missing() if "disk_read_mb" in one.readings]
        assert missing.why.endswith("cannot be read: it does not tell")


@contextmanager
def without_privileges() -> Iterator[None]:
    """We are not root for a while."""
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)


def test_another_users_process_is_told_of_once_and_what_is_public_is_read() -> None:
    with puppet() as one:
        one.do("import ctypes; ctypes.CDLL(None).prctl(4, 0)")  # PR_SET_DUMPABLE: its files are root's from now on
        with without_privileges():
            probe = watching(proc.PROC)
            readings = [probe.read(one.endpoint) for _ in range(3)][-1]
            missing = {m.readings: m.why for m in probe.missing()}
        assert {"cpu_pct", "rss_mb", "anon_mb", "threads", "processes", "restarts"} <= readings.keys()
        assert not {*MAP, "fds", "fds_files", "disk_read_mb"} & readings.keys()
        assert missing[MAP] == (
            f"/proc/{one.pid}/smaps_rollup of {name_of(one)} may not be read (Permission denied); "
            "run busyhour as the user that it runs as, or as root"
        )
        assert {("fds",), DISK} <= missing.keys()


def test_a_sum_over_a_part_of_the_tree_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    with puppet() as one:
        child = one.do("pid = os.fork()\nif pid == 0:\n    time.sleep(600)\n    os._exit(0)\npid")
        root = crippled(tmp_path, one.pid)
        crippled(tmp_path, child, without=("smaps_rollup",))
        probe = watching(root)
        readings = probe.read(one.endpoint)
        assert readings["processes"] == 2
        assert "private_mb" not in readings
        assert f"/{child}/smaps_rollup" in next(m.why for m in probe.missing() if m.readings == MAP)


def name_of(one: Puppet) -> str:
    stat = proc.stat(one.pid)
    assert stat is not None
    return stat.name


# ---------------------------------------------------------------- no process at all


def said(probe: Process, endpoint: Endpoint) -> str:
    assert probe.read(endpoint) == {}
    missing = probe.missing()
    assert len(missing) == 1
    assert {"cpu_pct", "rss_mb", "private_mb", "tcp_close_wait", "disk_read_mb_per_second"} <= set(missing[0].readings)
    assert probe.read(endpoint) == {}
    assert probe.missing() == []
    return missing[0].why


def test_a_process_that_proc_hides_is_not_taken_for_one_that_has_ended(tmp_path: Path) -> None:
    with puppet() as one:
        hidden = said(Process(AGENT, proc_root=tmp_path), one.endpoint)
        assert hidden.startswith(f"the process {one.pid} of voice-agent is alive, but {tmp_path} does not show it")
        one.end()
        probe = Process(AGENT)
        assert probe.read(one.endpoint) == {}
        assert probe.missing() == [], "it has ended: nothing is missing"


@pytest.mark.parametrize("url", ["http://example.com:80", "http://127.0.0.1", "http://[bad", ""])
def test_a_service_elsewhere_has_no_processes_here(url: str) -> None:
    assert "is not at a port of this machine" in said(Process(AGENT), Endpoint(url))


def test_a_service_that_nobody_listens_for_is_told() -> None:
    assert "no process of voice-agent is seen to listen on port 1;" in said(Process(AGENT), Endpoint("http://[::1]:1"))


def test_a_service_within_ourselves_is_the_harness() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert "runs within busyhour itself" in said(Process(AGENT), endpoint)


def test_a_service_that_is_down_for_a_while_is_not_missing() -> None:
    probe = Process(AGENT)
    assert probe.read(Endpoint("http://127.0.0.1:1", (), handle=object())) == {}
    assert probe.missing() == []


def test_the_harness_tells_what_it_cannot_read_of_itself(tmp_path: Path) -> None:
    meter = LoopMeter(proc_root=crippled(tmp_path, os.getpid(), without=("smaps_rollup",)))
    names = {sample.name for sample in meter.drain(0)}
    assert {"rss_mb", "fds", "threads", "python_blocks"} <= names
    assert "private_mb" not in names
    (missing,) = meter.missing()
    assert isinstance(missing, Missing)
    assert missing.readings == ("private_mb",)
    assert meter.missing() == []
