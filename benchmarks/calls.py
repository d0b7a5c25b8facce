"""How many calls does one core carry? busyhour's engine beside the clients of the field, against one server.

    pip install -r benchmarks/peers_requirements.txt       (in an environment of their own, or this one)
    python benchmarks/calls.py [--peers PYTHON] [--seconds 5] [--only ours]

Every call is a WebSocket with 50 frames a second each way, JSON of some 330 bytes with 20 ms of audio, as Telnyx has
them. The client has one core, the server (`calls_server.py`) another. A number of calls *holds* when the p99 of how
late a frame left, from its own schedule, is below 5 ms, every frame was sent, and all of them arrived, both ways. The
largest that holds is searched for in the same way for every client; one that fails is tried once more. Ours detects
speech in every frame, and its callers converse, as often as those of plans/telephone.py do. The others do nothing with
what they get, but for one that finds out which frames are loud, and no more than that.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Timer
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from peers.measuring import raise_limit
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
CLIENT_CPU, SERVER_CPU = 0, 1
SPARE_FILES = 100
LATE_MS_MAX = 5.0
PROBES_MAX = 7
SET_UP_PER_SECOND = 100  # the slowest of the clients opens so many calls
Runs = dict[str, Any]
WATCH = """
import json, os, sys, time
os.sched_setaffinity(0, {int(sys.argv[2])})
last = time.monotonic_ns()
end, gaps = last + float(sys.argv[1]) * 1e9, []
while last < end:
    now = time.monotonic_ns()
    if now - last > 500_000:
        gaps.append((now - last) / 1e6)
    last = now
print(json.dumps(gaps))
"""


# ---------------------------------------------------------------- one run


@dataclass(frozen=True)
class Client:
    """A program that opens calls; `command` for the URL, their number, and the seconds that are measured."""

    name: str
    command: Callable[[str, int, float], Sequence[str]]
    guess: int  # where the search begins


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the client said and what the server saw, over the same seconds."""

    calls: int
    client: Runs = field(default_factory=dict)
    server: Runs = field(default_factory=dict)
    more: Sequence[Runs] = ()  # what the client said afterwards

    @property
    def late_ms(self) -> float:
        found = self.client.get("late_ms", {}).get("0.99")
        return math.inf if found is None else float(found)

    @property
    def cpu(self) -> float:
        return float(self.client.get("cpu", math.nan))

    @property
    def broken(self) -> str:
        """Why the level does not hold; "" if it does."""
        if not self.client or not self.server:
            return "it did not come to a result"
        due, client, server = 50 * self.calls, self.client, self.server
        dropped = client.get("skipped", 0) + client.get("unread", 0)
        held_up = " (the server's own were late, too)" if server["late_ms_p99"] >= LATE_MS_MAX else ""
        sent, came = client["sent_per_second"] / due, client["received_per_second"] / due
        faults = {
            f"{server['lost']} calls lost": server["lost"] > 0 or server["calls"] < self.calls,
            f"{dropped:,.0f} frames dropped": dropped > 0,
            f"p99 late by {self.late_ms:,.1f} ms{held_up}": self.late_ms >= LATE_MS_MAX,
            f"sent {sent:.1%}, of the slowest call {server['slowest']:.1f}/s": sent < 0.995 or server["slowest"] < 49,
            f"read {came:.1%} of what came": came < 0.99,
        }
        return next((fault for fault, found in faults.items() if found), "")


class Stage:
    """The two cores: runs a client against a server of its own."""

    def __init__(self, seconds: float, folder: Path, told: Callable[[str], None]) -> None:
        self.seconds = seconds
        self._folder, self._told = folder, told
        self._certificate = certificate(folder)

    def run(self, client: Client, calls: int, *, more: Sequence[str] = (), tls: bool = False) -> Outcome:
        self._told(f"{client.name}: {calls:,} calls")
        limit = 30 + 3 * self.seconds + calls / SET_UP_PER_SECOND
        with (
            self._server(tls) as (port, ask),
            (self._folder / "errors").open("w") as errors,
            subprocess.Popen(
                [*client.command(f"{'wss' if tls else 'ws'}://127.0.0.1:{port}", calls, self.seconds), *more],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            ) as process,
        ):
            watch = Timer(limit, process.kill)
            watch.start()
            assert process.stdout is not None
            said: list[Runs] = []
            seen: Runs = {}
            for line in process.stdout:
                if not line.startswith("{"):
                    continue
                found = json.loads(line)
                if "begin" in found:
                    ask("reset")
                elif "end" in found:
                    seen = ask("tell")
                else:
                    said.append(found)
            watch.cancel()
        return Outcome(calls=calls, client=said[0] if said else {}, server=seen, more=said[1:])

    @contextmanager
    def _server(self, tls: bool) -> Iterator[tuple[int, Callable[[str], Runs]]]:
        command = [sys.executable, str(HERE / "calls_server.py"), str(SERVER_CPU)]
        with subprocess.Popen(
            [*command, str(self._certificate)] if tls else command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            stdin, stdout = process.stdin, process.stdout

            def ask(command: str) -> Runs:
                stdin.write(command + "\n")
                stdin.flush()
                found: Runs = json.loads(stdout.readline())
                return found

            try:
                yield json.loads(stdout.readline())["port"], ask
            finally:
                process.kill()


def certificate(folder: Path) -> Path:
    """A key, and a certificate that it has signed for itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now, number = datetime.now(UTC), x509.random_serial_number()
    builder = x509.CertificateBuilder(name, name, key.public_key(), number, now, now + timedelta(days=1))
    plain = serialization.NoEncryption()
    made = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path = folder / "server.pem"
    path.write_bytes(made + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


# ---------------------------------------------------------------- the search


@dataclass(frozen=True)
class Capacity:
    """The largest number of calls that held, and the smallest that did not."""

    best: Outcome | None
    failed: Outcome | None

    @property
    def calls(self) -> int:
        return self.best.calls if self.best else 0


def search(stage: Stage, client: Client, most: int) -> Capacity:
    """By steps of a quarter from the guess, then by halves, to a twentieth; at most seven levels."""
    best: Outcome | None = None
    failed: Outcome | None = None
    calls = min(client.guess, most)
    for _ in range(PROBES_MAX):
        found = stage.run(client, calls)
        if found.broken:
            found = stage.run(client, calls)
        if found.broken:
            failed = found
        else:
            best = found
        if best is not None and (best.calls == most or (failed is not None and failed.calls <= 1.06 * best.calls)):
            break
        if best is None:
            calls = rounded(0.75 * calls)
        else:
            calls = min(most, rounded(1.25 * calls) if failed is None else rounded((best.calls + failed.calls) / 2))
    return Capacity(best, failed)


def rounded(calls: float) -> int:
    return max(25, 25 * round(calls / 25))


# ---------------------------------------------------------------- the clients


def clients(peers: str) -> list[Client]:
    """Ours first."""

    def script(*words: str) -> Callable[[str, int, float], Sequence[str]]:
        *before, path = words
        return lambda url, calls, seconds: ["env", *before, str(HERE / path), url, f"{calls}", f"{seconds:g}"]

    def locust(url: str, calls: int, seconds: float) -> Sequence[str]:
        plan = str(HERE / "peers/locust_calls.py")
        options = ["--headless", "--only-summary", "--skip-log", "--users", f"{calls}", "--spawn-rate", "100"]
        return [peers, "-m", "locust", "-f", plan, "--host", url, "--seconds", f"{seconds:g}", *options]

    return [
        Client("busyhour", script(sys.executable, "calls_engine.py"), 1500),
        Client("aiohttp, uvloop", script(peers, "peers/aiohttp_calls.py"), 600),
        Client("aiohttp, uvloop, listening", script("LISTEN=1", peers, "peers/aiohttp_calls.py"), 400),
        Client("websockets, uvloop", script(peers, "peers/websockets_calls.py"), 400),
        Client("Locust, websocket-client", locust, 300),
    ]


def installed(peers: str) -> str:
    """What is missing of the peers, in a sentence; "" if nothing is."""
    asked = "import aiohttp, locust, uvloop, websocket, websockets"
    done = subprocess.run([peers, "-c", asked], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 0:
        return ""
    why = done.stderr.strip().splitlines()[-1:]
    return f"{peers} has not all of the peers ({''.join(why)}): install benchmarks/peers_requirements.txt"


# ---------------------------------------------------------------- the figures


@dataclass(frozen=True)
class Figure:
    what: str
    got: str
    target: str
    met: bool | None


def at_level(stage: Stage, ours: Client, calls: int, target: str, cpu_max: float) -> Figure:
    found = stage.run(ours, calls)
    got = f"p99 {found.late_ms:.2f} ms, {found.cpu:.0%} of a core" + (f": {found.broken}" if found.broken else "")
    return Figure(f"{calls:,} calls hold", got, target, not found.broken and found.cpu <= cpu_max)


def at_thousand(stage: Stage, ours: Client, levels: Sequence[Outcome]) -> Iterator[Figure]:
    """What is measured at 1,000 calls, with 200 more at once at the end."""
    found = stage.run(ours, 1000, more=["200"])
    late = found.client.get("late_ms", {})
    got = f"{found.late_ms:.2f} ms (P50 {late.get('0.5', math.inf):.2f}, P95 {late.get('0.95', math.inf):.2f})"
    yield Figure("p99 lateness, 1,000 calls", got, "< 1 ms", found.late_ms < 1)
    burst = float(found.more[0]["late_ms"]["0.99"] or math.inf) if found.more else math.inf
    yield Figure("p99 lateness while 200 more are set up", f"{burst:.2f} ms", "< 2 ms", burst < 2)
    errors = sorted(onset_errors_ms(found))
    if errors:
        p50, p99 = (errors[int(q * len(errors))] for q in (0.5, 0.99))
        got = f"P50 {p50:.2f}, P99 {p99:.2f} ms ({len(errors)} turns)"
        yield Figure(
            "onset error against a known delay, 1,000 calls", got, "P50 <= 1, P99 <= 10", p50 <= 1 and p99 <= 10
        )
    kilobytes = float(found.client.get("kb_per_call", math.inf))
    yield Figure("memory of a call, 1,000 calls", f"{kilobytes:.0f} KB", "<= 50 KB", kilobytes <= 50)
    slope = exponent([*levels, found])
    costs = ", ".join(f"{1e6 * level.cpu / (50 * level.calls):.1f}" for level in (*levels, found))
    counted = ", ".join(f"{level.calls}" for level in (*levels, found))
    got = f"exponent {slope:.2f} ({costs} us a pair at {counted})"
    yield Figure("cost from 100 to 1,000 calls", got, "<= 1.05", slope <= 1.05)


def onset_errors_ms(found: Outcome) -> list[float]:
    """By how much each turn was longer (or shorter) than the far end's own delay, which it told turn by turn.

    The two lists are of the same turns, but for those under way at either end: a call's are matched by the shift that
    fits best, which for delays drawn this wide can be none but the right one.
    """
    told: dict[int, list[float]] = {}
    for number, delay_ns in found.server.get("delays_ns", []):
        told.setdefault(number, []).append(delay_ns / 1e6)
    heard: dict[int, list[float]] = {}
    for number, took_ms in found.client.get("turns", []):
        heard.setdefault(number, []).append(took_ms)
    errors: list[float] = []
    for number, took in heard.items():
        delays = told.get(number, [])
        shifts = range(-1, 2)
        pairings = [list(zip(took[max(0, -s) :], delays[max(0, s) :], strict=False)) for s in shifts]
        best = min(pairings, key=lambda pairs: (-len(pairs), sum(abs(a - b) for a, b in pairs)), default=[])
        errors += [abs(a - b) for a, b in best]
    return errors


def exponent(levels: Sequence[Outcome]) -> float:
    """The slope of log(cost) over log(calls), by least squares."""
    points = [(math.log(level.calls), math.log(level.cpu)) for level in levels if level.cpu > 0]
    if len(points) < 2:
        return math.nan
    x, y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    return float(sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points))


def away(told: Callable[[str], None], seconds: float = 5) -> Figure:
    """How the machine itself keeps time: no lateness can be better than this. Both cores do nothing but look at it."""
    told("the machine alone")
    command = [sys.executable, "-c", WATCH, f"{seconds}"]
    watching = [
        subprocess.Popen([*command, f"{cpu}"], stdout=subprocess.PIPE, text=True) for cpu in (CLIENT_CPU, SERVER_CPU)
    ]
    found = [json.loads(process.communicate(timeout=seconds + 30)[0]) for process in watching]
    lost = ", ".join(f"{sum(gaps) / seconds / 10:.2f} %, at most {max(gaps, default=0):.1f} ms" for gaps in found)
    return Figure("the two cores were away, by pieces of 0.5 ms and more", lost, "", None)


# ---------------------------------------------------------------- the tables


def capacities(console: Console, found: dict[str, Capacity]) -> None:
    table = Table(title="the most calls that hold on one core")
    for column in ("client", "calls", "p99 ms", "CPU", "us a pair", "what ends it"):
        table.add_column(column, justify="left" if column in {"client", "what ends it"} else "right")
    for name, capacity in found.items():
        best, failed = capacity.best, capacity.failed
        each = f"{1e6 * best.cpu / (50 * best.calls):.1f}" if best else ""
        ends = f"{failed.calls:,}: {failed.broken}" if failed else "more were not tried"
        late, cpu = (f"{best.late_ms:.2f}", f"{best.cpu:.0%}") if best else ("", "")
        table.add_row(name, f"{capacity.calls:,}", late, cpu, each, ends)
    console.print(table)


def figures(console: Console, rows: Sequence[Figure]) -> None:
    table = Table(title="busyhour's figures, one core")
    for column in ("figure", "measured", "target", ""):
        table.add_column(column)
    for row in rows:
        table.add_row(row.what, row.got, row.target, {True: "met", False: "missed", None: ""}[row.met])
    console.print(table)


def compared(found: dict[str, Capacity]) -> Figure:
    ours, *others = found.values()
    best = max((other.calls for other in others), default=0)
    times = ours.calls / best if best else math.inf
    name = max((other for other in list(found)[1:]), key=lambda name: found[name].calls)
    return Figure("calls beside the best of the others", f"{times:.1f}x ({name})", ">= 3x, stretch 5x", times >= 3)


def measured(console: Console, stage: Stage, wanted: argparse.Namespace, most: int) -> list[Figure]:
    ours, *others = clients(wanted.peers)
    missing = "" if wanted.only == "ours" else installed(wanted.peers)
    if missing:
        console.print(missing)
    rows = [
        at_level(stage, ours, 1500, "<= 85 % of a core", 0.85),
        at_level(stage, ours, 2000, "stretch", 1.0),
    ] if most >= 2000 else []  # fmt: skip
    levels = [stage.run(ours, calls) for calls in (100, 300)]
    rows += at_thousand(stage, ours, levels)
    secured = stage.run(ours, 900, tls=True)
    got = f"p99 {secured.late_ms:.2f} ms, {secured.cpu:.0%} of a core" + (
        f": {secured.broken}" if secured.broken else ""
    )
    rows.append(Figure("900 calls over wss hold", got, "900", not secured.broken))
    if wanted.only != "figures":
        tried = [ours] if missing or wanted.only == "ours" else [ours, *others]
        found = {client.name: search(stage, client, most) for client in tried}
        capacities(console, found)
        if len(found) > 1:
            rows.insert(0, compared(found))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="which has the peers installed")
    parser.add_argument("--seconds", type=float, default=5, help="measured at each level")
    parser.add_argument("--only", choices=["ours", "figures"], help="without the peers; without any search")
    wanted = parser.parse_args()
    console = Console(width=110)
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("Two processors are needed, one for the client and one for the server.")
    most = raise_limit() - SPARE_FILES
    if most < 2500:
        console.print(f"{most} calls fit: that is how many files may be open (ulimit -n), less {SPARE_FILES}.")
    subprocess.run([sys.executable, HERE.parent / "hatch_build.py", HERE / "calls_far_end.pyx"], check=True)
    os.sched_setaffinity(0, {CLIENT_CPU})
    with tempfile.TemporaryDirectory() as folder, console.status("") as status:
        stage = Stage(wanted.seconds, Path(folder), status.update)
        figures(console, [away(status.update), *measured(console, stage, wanted, min(most, 4000))])


if __name__ == "__main__":
    main()
