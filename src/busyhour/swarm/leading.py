"""In Locust's master: who leads the run, as a child; its words for the workers, theirs for it, and their journals."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import gevent
from gevent.event import Event
from locust.env import Environment
from locust.runners import STATE_MISSING, MasterRunner
from locust.stats import CSV_STATS_INTERVAL_SEC

from busyhour.distributed.crew import LEAD_NS
from busyhour.distributed.lines import Message
from busyhour.swarm.children import Program
from busyhour.swarm.settings import settings
from busyhour.swarm.working import HISTOGRAM

FAR_LEAD_NS = 10 * LEAD_NS  # of a phase: Locust's messages take longer than a socket
WATCH_SECONDS = 0.5
END_SECONDS = 420.0  # for calls to be hung up, and journals to be fetched
_LOG = logging.getLogger("busyhour")
LOCAL = "local"
QUANTILES = (0.5, 0.95, 0.99)


class Leading:
    """One for Locust's master. Each test is a run, with a child that leads it."""

    def __init__(self, environment: Environment) -> None:
        self.histograms: dict[tuple[str, str], dict[float, int]] = {}  # of all workers: kind and phase -> ms -> count
        self._environment, self._runner = environment, environment.runner
        self._child: Program | None = None
        self._clients: list[str] = []
        self._run = 0
        self._done = Event()
        self._done.set()
        self._files: dict[tuple[int, str], BinaryIO] = {}
        self._paths: dict[int, Path] = {}
        self._runner.register_message("busyhour.word", self._take)
        self._runner.register_message("busyhour.piece", self._keep)
        environment.events.test_start.add_listener(self._begin)
        environment.events.test_stopping.add_listener(self._stop)
        environment.events.quitting.add_listener(self._stop)
        environment.events.worker_report.add_listener(self._merge)
        environment.events.quit.add_listener(self._say)

    # ---------------------------------------------------------------- the run

    def _begin(self, **_: Any) -> None:
        self._clients = list(self._runner.clients) if isinstance(self._runner, MasterRunner) else [LOCAL]
        self._run += 1
        self._done.clear()
        self.histograms.clear()
        chosen, run = settings(), self._run
        self._child = Program(
            "busyhour.swarm.leader", on_message=self._pass_on, on_end=lambda why: self._ended(run, why)
        )
        what = {
            "plan": chosen.plan,
            "options": dict(chosen.options),
            "seed": chosen.seed,
            "journal": chosen.journal if run == 1 else f"{chosen.journal}-{run}",
            "of": len(self._clients),
            "lead_ns": FAR_LEAD_NS,
        }
        self._child.send({"lead": what})
        gevent.spawn(self._watch, run)

    def _stop(self, **_: Any) -> None:
        """Have it end in order, and wait: Locust sends its workers away when this returns."""
        if self._child is not None and not self._done.is_set():
            self._child.ask_to_end()
            self._done.wait(END_SECONDS)

    def _ended(self, run: int, why: str) -> None:
        if run != self._run:
            return
        if self._child is not None:
            self._child.close()
            self._child = None
        if not self._done.is_set():
            _LOG.error("who leads the run %s", why)
            self._environment.process_exit_code = 70
        self._done.set()
        gevent.spawn(self._leave)

    def _leave(self) -> None:
        options = self._environment.parsed_options
        if options is not None and options.csv_prefix:
            gevent.sleep(1.5 * CSV_STATS_INTERVAL_SEC)  # Locust writes its tables so often, and not at the end
        if options is not None and options.headless:
            self._runner.quit()
        else:
            self._runner.stop()

    def _watch(self, run: int) -> None:
        """Tell of workers that Locust has lost."""
        gone: set[int] = set()
        while run == self._run and not self._done.is_set() and isinstance(self._runner, MasterRunner):
            for number, client in enumerate(self._clients, start=1):
                node = self._runner.clients.get(client)
                if number not in gone and (node is None or node.state == STATE_MISSING):
                    gone.add(number)
                    self._tell({"from": number, "gone": "was lost: its worker of Locust is gone", "fetchable": False})
            gevent.sleep(WATCH_SECONDS)

    # ---------------------------------------------------------------- words

    def _pass_on(self, message: Message) -> None:
        """From who leads."""
        if "to" in message:
            self._send(message["to"], "busyhour.order", message=message["message"])
        elif "fetch" in message:
            self._paths[message["fetch"]] = Path(message["path"])
            self._send(message["fetch"], "busyhour.fetch")
        elif "done" in message:
            self._finish(message["done"])

    def _finish(self, done: Message) -> None:
        if "failed" in done:
            _LOG.error("%s", done["failed"])
        # Verdicts are not Locust's affair: what failed of the calls is for the gates.
        self._environment.process_exit_code = int(done.get("code", 0))
        self._done.set()

    def _take(self, msg: Any, **_: Any) -> None:
        """From a worker."""
        number = self._number_of(msg)
        if number is None or msg.data["run"] != self._run:
            return
        if "gone" in msg.data:
            self._tell({"from": number, "gone": msg.data["gone"], "fetchable": True})
        else:
            self._tell({"from": number, "message": msg.data["message"]})

    def _send(self, number: int, kind: str, **data: Any) -> None:
        self._runner.send_message(kind, {"run": self._run, **data}, self._clients[number - 1])

    def _tell(self, message: Message) -> None:
        if self._child is not None:
            self._child.send(message)

    def _number_of(self, msg: Any) -> int | None:
        return self._clients.index(msg.node_id) + 1 if msg.node_id in self._clients else None

    # ---------------------------------------------------------------- journals

    def _keep(self, msg: Any, **_: Any) -> None:
        """A piece of a worker's journal."""
        number = self._number_of(msg)
        if number is None or msg.data["run"] != self._run or number not in self._paths:
            return
        if msg.data.get("last"):
            self._close_files(number)
            self._tell({"fetched": number})
            return
        suffix = str(msg.data["suffix"])
        if (number, suffix) not in self._files:
            self._files[number, suffix] = open(f"{self._paths[number]}{suffix}", "wb")  # noqa: SIM115  (piece by piece)
        self._files[number, suffix].write(msg.data["bytes"])
        self._send(number, "busyhour.got")

    def _close_files(self, number: int) -> None:
        for one, suffix in [key for key in self._files if key[0] == number]:
            self._files.pop((one, suffix)).close()
        del self._paths[number]

    # ---------------------------------------------------------------- histograms

    def _merge(self, client_id: str, data: dict[str, Any]) -> None:
        """Counts of equal latencies are added: nothing is rounded, nothing is lost. (One process alone sends none.)"""
        for kind, name, counts in data.get(HISTOGRAM, ()):
            histogram = self.histograms.setdefault((kind, name), {})
            for ms, count in counts:
                histogram[ms] = histogram.get(ms, 0) + count

    def _say(self, **_: Any) -> None:
        """When all is over, beside the table of Locust, whose latencies are rounded."""
        for (kind, name), counts in sorted(self.histograms.items()):
            told = ", ".join(f"p{100 * q:g} {quantile(counts, q):.2f} ms" for q in QUANTILES)
            _LOG.info("%s in %s: %d measured, %s", kind, name, sum(counts.values()), told)


def quantile(counts: Mapping[float, int], q: float) -> float:
    """The smallest value that at least a share `q` of all is no more than."""
    needed, seen = q * sum(counts.values()), 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= needed:
            return value
    return max(counts)
