"""The readings of a process tree, each against what the process itself knows."""

from __future__ import annotations

import os
import re
import signal
import socket
from contextlib import closing
from pathlib import Path

import pytest

from busyhour.errors import PlanError
from busyhour.model import SECOND, Endpoint, Probe
from busyhour.probes import process, sockets
from busyhour.probes.missing import Candid
from busyhour.probes.process import Process
from busyhour.probes.schedule import Thorough

from .puppet import AGENT, Hand, Puppet, eventually, puppet

MB = 1_000_000


class Watch:
    """Reads everything each time, a second after the last time: what is "per second" is what has come since."""

    def __init__(self, puppet: Puppet) -> None:
        self.clock = Hand()
        self.probe = Process(AGENT, memory_map_seconds=0, details_seconds=0, clock=self.clock)
        self.puppet = puppet
        self.read()

    def read(self) -> dict[str, float]:
        self.clock.move(1)
        return dict(self.probe.read(self.puppet.endpoint))


# ---------------------------------------------------------------- what it has


def test_descriptors_are_told_by_kind(tmp_path: Path) -> None:
    with puppet() as one:
        watch = Watch(one)
        before = watch.read()
        one.do(f"files = [open({str(tmp_path / 'log')!r}, 'a') for _ in range(3)] + [open(os.devnull)]")
        one.do(f"unlinked = tempfile.TemporaryFile(dir={str(tmp_path)!r})")
        one.do("pipes = [os.pipe() for _ in range(2)]; events = [select.epoll(), os.eventfd(0), os.eventfd(0)]")
        one.do("udp = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]; pair = socket.socketpair()")
        after = watch.read()
    kinds = ("fds", "fds_files", "fds_deleted", "fds_pipes", "fds_anon_inodes", "fds_sockets", "sockets_other")
    assert {name: after[name] - before[name] for name in kinds} == {
        "fds": 16,
        "fds_files": 5,
        "fds_deleted": 1,
        "fds_pipes": 4,
        "fds_anon_inodes": 3,
        "fds_sockets": 4,
        "sockets_other": 4,
    }
    assert after["fds"] == sum(after[f"fds_{kind}"] for kind in ("files", "pipes", "anon_inodes", "sockets"))


@pytest.mark.parametrize("told_by", ["sock_diag", "the tables in /proc"])
@pytest.mark.parametrize(("family", "host"), [("AF_INET", "127.0.0.1"), ("AF_INET6", "::1")])
def test_sockets_are_told_by_state(monkeypatch: pytest.MonkeyPatch, told_by: str, family: str, host: str) -> None:
    if told_by != "sock_diag":
        monkeypatch.setattr(sockets, "_asked", lambda wanted: None)
    with puppet() as one:
        watch = Watch(one)

        def become(**states: int) -> bool:
            readings = watch.read()
            return all(readings[f"tcp_{state}"] == states.get(state, 0) for state in sockets.STATES.values())

        one.do(f"listener = socket.create_server(({host!r}, 0), family=socket.{family})")
        port = one.do("listener.getsockname()[1]")
        with socket.create_connection((host, port)) as first, socket.create_connection((host, port)) as second:
            one.do("peers = [listener.accept()[0] for _ in range(2)]")
            eventually(lambda: become(listen=1, established=2), "both are connected")
            first.close()
            eventually(lambda: become(listen=1, established=1, close_wait=1), "one has been left")
            one.do(
                "[peer.shutdown(socket.SHUT_WR) for peer in peers "
                f"if peer.getpeername()[1] == {second.getsockname()[1]}]"
            )
            eventually(lambda: become(listen=1, fin_wait2=1, close_wait=1), "the other is half closed")
        one.do("[peer.close() for peer in peers]; listener.close()")
        eventually(become, "none is held")


def test_a_socket_that_two_processes_hold_is_one_socket() -> None:
    with puppet() as one:
        watch = Watch(one)
        one.do("listener = socket.create_server(('127.0.0.1', 0)); keep, end = os.pipe()")
        alone = watch.read()
        one.do("pid = os.fork()\nif pid == 0:\n    os.close(end); os.read(keep, 1); os._exit(0)")
        both = watch.read()
    assert (alone["tcp_listen"], both["tcp_listen"]) == (1, 1)
    assert (alone["fds_sockets"], both["fds_sockets"]) == (1, 2)


def test_threads_and_children_are_counted_also_those_that_nobody_waits_for() -> None:
    with puppet() as one:
        watch = Watch(one)
        one.do("keep, end = os.pipe(); stop = threading.Event()")
        one.do("threads = [threading.Thread(target=stop.wait, daemon=True) for _ in range(3)]")
        one.do("for thread in threads: thread.start()")
        fork = "if (pid := os.fork()) == 0:\n    os.close(end); os.read(keep, 1); os._exit(0)\n"
        one.do(f"pids = []\nfor _ in range(2):\n    {fork.replace(chr(10), chr(10) + '    ')}\n    pids.append(pid)")
        some = watch.read()
        assert (some["processes"], some["children"], some["zombies"], some["threads"]) == (3, 2, 0, 1 + 3 + 2)
        one.do("os.kill(pids[0], 9); os.waitid(os.P_PID, pids[0], os.WEXITED | os.WNOWAIT) and None")
        ended = watch.read()
        assert (ended["processes"], ended["children"], ended["zombies"]) == (2, 1, 1)
        one.do("os.waitpid(pids[0], 0); stop.set(); [thread.join() for thread in threads]")
        eventually(lambda: watch.read()["threads"] == 2, "its threads are gone")
        assert watch.read()["zombies"] == 0


def test_memory_is_what_it_has_written_and_a_tree_shares_it() -> None:
    with puppet() as one:
        watch = Watch(one)
        before = watch.read()
        one.do("held = mmap.mmap(-1, 60_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)")
        one.do("held.madvise(mmap.MADV_NOHUGEPAGE)")
        one.do("for at in range(0, 60_000_000, 4096): held[at] = 1")
        grown = watch.read()
        for name in ("private_mb", "private_dirty_mb", "uss_mb", "pss_mb", "anon_mb", "rss_mb"):
            assert 58 < grown[name] - before[name] < 64, name
        one.do("keep, end = os.pipe()")
        one.do("for _ in range(2):\n    if os.fork() == 0:\n        os.close(end); os.read(keep, 1); os._exit(0)")
        shared = watch.read()
    assert shared["anon_mb"] > grown["anon_mb"] + 110, "each is said to have it"
    assert shared["pss_mb"] < grown["pss_mb"] + 20, "each has a third of it"
    assert shared["private_mb"] < 40, "nobody has it alone"


# ---------------------------------------------------------------- what it does

USED = """
own, waited = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
[own.ru_utime, own.ru_stime, own.ru_minflt + waited.ru_minflt, own.ru_nvcsw, own.ru_oublock + waited.ru_oublock]"""


def test_processor_time_is_what_the_process_says_itself() -> None:
    with puppet() as one:
        watch = Watch(one)
        began = one.do(USED)
        first = watch.read()  # what it says costs it something, too
        one.do("until = time.process_time() + 0.3\nwhile time.process_time() < until: os.getppid()")
        readings, ended = watch.read(), one.do(USED)
    seconds = {name: (readings[name] + first[name]) / 100 for name in ("cpu_pct", "cpu_user_pct", "cpu_system_pct")}
    assert seconds["cpu_pct"] == pytest.approx(seconds["cpu_user_pct"] + seconds["cpu_system_pct"])
    assert seconds["cpu_pct"] == pytest.approx(ended[0] + ended[1] - began[0] - began[1], abs=0.05)
    assert seconds["cpu_pct"] > 0.25
    assert seconds["cpu_user_pct"] > 0.02
    assert seconds["cpu_system_pct"] > 0.02


def test_what_a_child_did_is_counted_once_whether_it_was_seen_or_not() -> None:
    touch = "page = mmap.mmap(-1, 4096 * 3000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); "
    touch += "page.madvise(mmap.MADV_NOHUGEPAGE); [page.__setitem__(at * 4096, 1) for at in range(3000)]"
    child = f"""
ready, told = os.pipe(); keep, end = os.pipe()
if (pid := os.fork()) == 0:
    os.close(end); {touch}
    os.write(told, b'x'); os.read(keep, 1); os._exit(0)
os.close(told); os.close(keep); os.read(ready, 1) and None"""
    with puppet() as one:
        watch = Watch(one)
        faults = watch.read()["minor_faults_per_second"]
        began = one.do(USED)[2]
        one.do(child)
        seen = watch.read()["minor_faults_per_second"]
        assert seen > 3000
        one.do("os.close(end); os.close(ready); os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT) and None")
        uncollected = [watch.read()["minor_faults_per_second"] for _ in range(4)]
        assert sum(uncollected) < 3000
        one.do("os.waitpid(pid, 0)")
        assert watch.read()["minor_faults_per_second"] < 3000, "its own are not counted again with its parent's"
        one.do(child)
        one.do("os.close(end); os.close(ready); os.waitpid(pid, 0)")
        unseen = watch.read()["minor_faults_per_second"]
        assert unseen > 3000, "it came and went between two reads"
        assert faults < 3000
        assert one.do(USED)[2] - began > 6000


def test_switches_of_all_threads_are_counted() -> None:
    with puppet() as one:
        watch = Watch(one)
        one.do("go, over, stop = threading.Event(), threading.Event(), threading.Event()")
        one.do(
            "def work():\n    go.wait()\n    for _ in range(200): time.sleep(0.0005)\n    over.set()\n    stop.wait()"
        )
        one.do("thread = threading.Thread(target=work, daemon=True); thread.start()")
        watch.read()
        began = one.do(USED)[3]
        one.do("go.set(); over.wait() and None")
        readings, ended = watch.read(), one.do(USED)[3]
    assert 200 <= readings["voluntary_switches_per_second"] <= ended - began + 20
    assert readings["involuntary_switches_per_second"] >= 0


def test_disk_writes_are_those_the_kernel_charges_it_with(tmp_path: Path) -> None:
    write = f"log = open({str(tmp_path / 'log')!r}, 'ab', 0); log.write(bytes(5_000_000)); os.fsync(log.fileno())"
    with puppet() as one:
        watch = Watch(one)
        before, began = watch.read(), one.do(USED)[4]
        one.do(write)
        one.do(f"pid = os.fork()\nif pid == 0:\n    {write}\n    os._exit(0)\nos.waitpid(pid, 0) and None")
        after, ended = watch.read(), one.do(USED)[4]
        one.do("log.close()")
    written = after["disk_written_mb"] - before["disk_written_mb"]
    assert written == pytest.approx((ended - began) * 512 / MB)
    assert written == pytest.approx(after["disk_written_mb_per_second"])
    assert (tmp_path / "log").stat().st_size == 10_000_000


def test_bytes_of_its_own_connections_are_told_and_stay_told() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener, puppet() as one:
        watch = Watch(one)
        assert watch.read()["tcp_sent_mb"] == 0
        one.do(f"link = socket.create_connection(('127.0.0.1', {listener.getsockname()[1]}))")
        with listener.accept()[0] as peer:
            one.do("writer = threading.Thread(target=link.sendall, args=(bytes(3_000_000),)); writer.start()")
            received = 0
            while received < 3_000_000:
                received += len(peer.recv(1 << 20))
            peer.sendall(bytes(200_000))
            one.do("left = 200_000\nwhile left: left -= len(link.recv(left))\nwriter.join()")
            eventually(lambda: watch.read()["tcp_sent_mb"] >= 3, "all is acknowledged")
            readings = watch.read()
            assert readings["tcp_sent_mb"] == pytest.approx(3, abs=1e-5)
            assert readings["tcp_received_mb"] == pytest.approx(0.2, abs=1e-5)
            assert readings["netns_sent_mb"] >= 3.2, "the loopback carried both"
        one.do("link.close()")
        readings = watch.read()
    assert readings["tcp_established"] == 0
    assert readings["tcp_sent_mb"] == pytest.approx(3, abs=1e-5)
    assert readings["tcp_sent_mb_per_second"] == 0


# ---------------------------------------------------------------- ends, restarts


def test_a_restart_is_a_step_and_totals_go_on() -> None:
    with puppet() as one, puppet() as other:
        watch = Watch(one)
        other.do("until = time.process_time() + 0.2\nwhile time.process_time() < until: pass")
        assert [watch.read()["restarts"] for _ in range(2)] == [0, 0]
        one.end()
        assert watch.read() == {}, "it is gone"
        watch.puppet = other
        again = watch.read()
        assert again["restarts"] == 1
        assert again["cpu_pct"] > 5, "what the second has used since it began, over the two seconds without a reading"
        assert watch.read()["restarts"] == 1


def test_a_child_that_is_replaced_is_no_restart() -> None:
    with puppet() as one:
        watch = Watch(one)
        fork = "pid = os.fork()\nif pid == 0:\n    time.sleep(600)\n    os._exit(0)"
        for _ in range(2):
            one.do(fork)
            assert (watch.read()["processes"], watch.read()["restarts"]) == (2, 0)
            one.do("os.kill(pid, 9); os.waitpid(pid, 0)")


def test_a_pid_that_was_given_anew_is_another_process(tmp_path: Path) -> None:
    def begin(ticks: int) -> None:
        fields = ["S", "1", *["0"] * 17, str(ticks), "0", "250", *["0"] * 30]
        (tmp_path / "7").mkdir(exist_ok=True)
        (tmp_path / "7" / "stat").write_text(f"7 (a (b) c) {' '.join(fields)}\n")

    probe = Process(AGENT, proc_root=tmp_path)
    begin(100)
    first = probe.read(Endpoint("http://nowhere", (7,)))
    begin(200)
    second = probe.read(Endpoint("http://nowhere", (7,)))
    assert (first["restarts"], second["restarts"]) == (0, 1)
    assert first["rss_mb"] == 250 * os.sysconf("SC_PAGE_SIZE") / MB


def test_one_that_somebody_else_has_started_is_found_by_its_port_and_after_its_restart_again() -> None:
    clock = Hand()
    probe = Process(AGENT, clock=clock)
    with puppet() as one, puppet() as other:
        listen = "listener = socket.create_server(('127.0.0.1', %d))"
        one.do(listen % 0)
        port = one.do("listener.getsockname()[1]")
        endpoint = Endpoint(f"http://127.0.0.1:{port}")
        assert probe.read(endpoint)["processes"] == 1
        one.end()
        assert probe.read(endpoint) == {}
        other.do(listen % port)
        clock.move(30)
        assert probe.read(endpoint)["restarts"] == 1
        assert probe.missing() == []


# ---------------------------------------------------------------- when it is read


def test_what_costs_more_is_read_less_often_but_for_when_it_is_asked_for() -> None:
    clock = Hand()
    with puppet() as one:
        probe: Probe = Process(AGENT, memory_map_seconds=30, details_seconds=10, clock=clock)
        assert isinstance(probe, Thorough)
        assert isinstance(probe, Candid)

        def groups() -> str:
            readings = probe.read(one.endpoint)
            assert not isinstance(readings, dict) or "process_probe_ms" in readings
            assert isinstance(readings, dict)
            return "".join(letter for letter, name in (("d", "fds_files"), ("m", "pss_mb")) if name in readings)

        seen = []
        for second in range(61):
            clock.at_ns = second * SECOND + (0 if second % 2 else 40_000_000)  # readings come a little early and late
            seen.append(groups())
        assert [second for second, what in enumerate(seen) if "d" in what] == [0, 10, 20, 30, 40, 50, 60]
        assert [second for second, what in enumerate(seen) if "m" in what] == [0, 30, 60]
        assert groups() == ""
        probe.read_all_next()
        assert groups() == "dm"


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_what_is_no_interval_is_a_problem_of_the_plan(seconds: float) -> None:
    with pytest.raises(PlanError, match="memory_map_seconds"):
        Process(AGENT, memory_map_seconds=seconds)
    with pytest.raises(PlanError, match="details_seconds"):
        Process(AGENT, details_seconds=seconds)


def test_the_reference_names_every_reading_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "probes.md").read_text()
    section = page.partition("## A process tree")[2].partition("\n## ")[0]
    with puppet() as one:
        readings = Watch(one).read()
    told = {
        name for row in re.findall(r"^\| (`[^|]+`) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    ours = "output_mb"  # of what we have started; the puppet is another's
    assert told == {*readings, ours} == {*process._ALL, "process_probe_ms", ours}


def test_a_process_that_is_stopped_is_still_read() -> None:
    with puppet() as one:
        watch = Watch(one)
        os.kill(one.pid, signal.SIGSTOP)
        readings = watch.read()
    assert (readings["processes"], readings["zombies"]) == (1, 0)
    assert readings["private_mb"] > 1
