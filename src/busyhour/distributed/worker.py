"""A worker: a fresh interpreter that performs its share of a plan's arrivals, with a carrier and a journal of its own.

Run as `python -m busyhour.distributed.worker SOCKET`, where who leads the run listens on that Unix socket. It ends when
it is told to, and when its leader is gone.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from busyhour.clock import SystemClock
from busyhour.descriptors import widened
from busyhour.distributed.lines import LINE_BYTES_MAX, Lines, Link, Message
from busyhour.distributed.news import News
from busyhour.distributed.places import place
from busyhour.errors import BusyhourError, PlanError, ProtocolError
from busyhour.eventloop import loop_factory, quiet_collector
from busyhour.journal import Journal
from busyhour.keeping import keeper
from busyhour.model import (
    MS,
    Carrier,
    Due,
    Endpoint,
    FaultUnavailable,
    Mark,
    Metered,
    Operation,
    Phase,
    Proof,
    Sample,
)
from busyhour.performing import Performance, Progress
from busyhour.planfile import PlanFile, load
from busyhour.probes.loop import LoopMeter
from busyhour.recording import Recording
from busyhour.share import Divisible, Share

TELL_NS = 250 * MS
READ_EVERY = 4  # tellings


def main(argv: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the leader's to answer
    with widened(), asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_serve(argv[0]))


async def _serve(path: str) -> int:
    lines = Lines(*await asyncio.open_unix_connection(path, limit=LINE_BYTES_MAX))
    try:
        await work(lines)
    except BaseException as error:  # told to the leader, who raises it
        expected = expected_in(error)
        if expected is None:
            traceback.print_exc()
        why = repr(_first_of(error)) if expected is None else str(expected)
        lines.send({"failed": {"kind": "bug" if expected is None else type(expected).__name__, "why": why}})
        return BusyhourError.exit_code if expected is None else expected.exit_code
    finally:
        await lines.close()
    return 0


def expected_in(error: BaseException) -> BusyhourError | None:
    """The expected failure, if the error, or all of a group, is one."""
    if isinstance(error, BusyhourError):
        return error
    if isinstance(error, BaseExceptionGroup) and all(expected_in(one) is not None for one in error.exceptions):
        return expected_in(error.exceptions[0])
    return None


def _first_of(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def work(link: Link) -> None:
    """Carry out what the leader says, until it says `end` or is gone. Raises BusyhourError."""
    message = await link.receive()
    if message is None:
        return
    begin = message["begin"]
    file = load(Path(begin["plan"]), begin["options"])
    if file.source != begin["source"]:
        raise PlanError(f"{file.path}: it has changed since the run was begun, or is another file here; copy it again")
    if "recording" in begin:  # what was asked for on the command line
        file = replace(file, plan=replace(file.plan, recording=Recording(**begin["recording"])))
    share = Share(begin["index"], begin["of"])
    notebook = Journal.create(Path(begin["journal"]), {"share": [share.index, share.of]})
    try:
        with quiet_collector():
            ended = await _Worker(link, file, share, notebook, begin["seed"], begin.get("news", False)).run()
    finally:
        notebook.close()
    if ended is not None:
        link.send({"re": ended})  # its journal is closed: it may be read


class _Worker:
    """One share of one run."""

    def __init__(self, link: Link, file: PlanFile, share: Share, notebook: Journal, seed: int, news: bool) -> None:
        self._link, self._plan, self._share, self._notebook = link, file.plan, share, notebook
        self._clock = SystemClock()
        self._carrier: Carrier | None = None
        if file.plan.carrier is not None:
            if not isinstance(file.plan.carrier, Divisible):
                raise PlanError(f"the carrier {file.plan.carrier.name} cannot be several processes")
            self._carrier = file.plan.carrier.of_share(share)
        self._progress = Progress(phases=len(file.plan.phases))
        self._performance = Performance(
            clock=self._clock,
            seed=seed,
            carrier=self._carrier,
            write=self._write_and_tell if news else notebook.append,
            progress=self._progress,
            share=share,
            keeper=keeper(file.plan, notebook, seed=seed, share=share),
        )
        self._news = News() if news else None
        self._meter = LoopMeter(self._clock)
        self._endpoints: dict[str, Endpoint] = {}
        self._performing: asyncio.Task[None] | None = None
        self._harms: dict[int, _Harm] = {}

    async def run(self) -> int | None:
        """The number of the order to end; None when the leader is gone."""
        self._link.send({"ready": True, **place()})
        while (opening := await self._link.receive()) is not None and opening["do"] == "clock":
            await self._obey(opening)
        if opening is None or opening["do"] == "end":
            return None if opening is None else int(opening["id"])
        main, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert main is not None

        def journal_failed(_error: BaseException) -> None:  # in the writer's thread; closing it raises the error
            loop.call_soon_threadsafe(main.cancel)

        self._notebook.on_failure = journal_failed
        async with self._opened(opening), asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch())
            obeying: set[asyncio.Task[None]] = set()
            while (order := await self._link.receive()) is not None and order["do"] != "end":
                task = tasks.create_task(self._obey(order))
                obeying.add(task)
                task.add_done_callback(obeying.discard)
            for task in [watching, *obeying]:
                task.cancel()
        self._read()
        return None if order is None else int(order["id"])

    @asynccontextmanager
    async def _opened(self, order: Message) -> AsyncIterator[None]:
        """The carrier works, and the loop is measured."""
        self._endpoints = {name: _endpoint(told) for name, told in order["peers"].items()}
        async with AsyncExitStack() as stack:
            url = ""
            if self._carrier is not None:
                endpoint = await stack.enter_async_context(self._carrier.running(dict(self._endpoints)))
                self._endpoints[self._carrier.name] = endpoint
                url = endpoint.url
            await stack.enter_async_context(self._meter.running())
            self._link.send({"re": order["id"], "url": url})
            yield

    async def _obey(self, order: Message) -> None:
        match order["do"]:
            case "phase":
                await self._phase(order)
            case "cut":
                if self._performing is not None:
                    self._performing.cancel()
            case "inject":
                await self._inject(order)
            case "effect":
                effective, because = await self._harms[order["harm"]].effect()
                self._link.send({"re": order["id"], "effective": effective, "because": because})
            case "undo":
                harm = self._harms.pop(order["harm"], None)
                if harm is not None:
                    harm.over.set()
                    await harm.undone.wait()
                self._link.send({"re": order["id"]})
            case "clock":
                self._link.send({"re": order["id"], "now_ns": self._clock.now_ns()})
            case unknown:
                raise ProtocolError(f"there is no order {unknown!r}: leader and worker are of different versions")

    # ---------------------------------------------------------------- phases

    async def _phase(self, order: Message) -> None:
        phase = self._plan.phases[order["number"] - 1]
        target = _endpoint(order["target"])
        self._endpoints[self._plan.target.name] = target
        self._progress.enter(phase, order["number"], order["began_ns"])
        if self._share.arrivals(phase.arrivals).due_ns(0, 0, 0) is not Due.PENDING:  # else nothing falls to us
            self._performing = asyncio.create_task(self._perform(phase, target, order["began_ns"]))
            try:
                await asyncio.wait({self._performing})
            except asyncio.CancelledError:
                self._performing.cancel()
                await asyncio.wait({self._performing})
                raise
            performed, self._performing = self._performing, None
            if not performed.cancelled():
                performed.result()
        self._read()
        self._tell()
        self._link.send({"re": order["id"]})

    async def _perform(self, phase: Phase, target: Endpoint, began_ns: int) -> None:
        await self._clock.sleep_until(began_ns)
        await self._performance.perform(phase, target, began_ns)

    async def _inject(self, order: Message) -> None:
        """Inject a fault, and keep it until it is to be undone."""
        fault = self._plan.phases[order["number"] - 1].faults[order["fault"]]
        harm = self._harms[order["id"]] = _Harm()
        try:
            async with fault.injected(self._endpoints, self._clock) as harm.proof:
                self._link.send({"re": order["id"]})
                await harm.over.wait()
        except FaultUnavailable as unavailable:
            self._harms.pop(order["id"], None)
            self._link.send({"re": order["id"], "unavailable": unavailable.reason})
        finally:
            harm.undone.set()

    # ---------------------------------------------------------------- watching

    async def _watch(self) -> None:
        """Four times a second tell how the phase stands, once a second write down what the meters say."""
        next_ns, number = self._clock.now_ns(), 0
        while True:
            next_ns = max(next_ns + TELL_NS, self._clock.now_ns())
            await self._clock.sleep_until(next_ns)
            number += 1
            if number % READ_EVERY == 0:
                self._read()
            self._tell()

    def _read(self) -> None:
        now_ns = self._clock.now_ns()
        samples: list[Sample] = list(self._meter.drain(now_ns))
        if isinstance(self._carrier, Metered):
            samples += self._carrier.drain(now_ns)
        self._progress.note_lateness([(s.value, s.count) for s in samples if s.name == "send_lateness_ms"])
        for sample in samples:
            self._notebook.append(sample)

    def _write_and_tell(self, entry: Operation | Sample | Mark) -> None:
        assert self._news is not None
        self._news.note(entry)
        self._notebook.append(entry)

    def _tell(self) -> None:
        self._performance.follow()
        progress = self._progress
        latencies = list(progress.latencies_ms)
        progress.latencies_ms.clear()
        told: Mapping[str, Any] = {
            "number": progress.phase_number,
            "started": progress.started,
            "finished": progress.finished,
            "failed": progress.failed,
            "dropped": progress.dropped,
            "turns": progress.turns,
            "missed": progress.missed,
            "latencies_ms": [round(latency, 3) for latency in latencies],
            "lateness_p99_ms": progress.lateness_p99_ms,
        }
        self._link.send({"progress": told} | ({} if self._news is None else {"news": self._news.taken()}))


class _Harm:
    """A fault that is being injected here."""

    def __init__(self) -> None:
        self.proof: Proof | None = None
        self.over, self.undone = asyncio.Event(), asyncio.Event()

    async def effect(self) -> tuple[bool, str]:
        assert self.proof is not None
        return await self.proof.effect()


def _endpoint(told: Message) -> Endpoint:
    return Endpoint(told["url"], tuple(told["pids"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
