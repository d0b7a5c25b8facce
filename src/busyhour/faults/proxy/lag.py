"""How late the proxy itself is: a proxy that lags adds a latency that nobody asked for."""

from __future__ import annotations

from busyhour.histogram import LogHistogram
from busyhour.model import MS
from busyhour.timers import Alarm, TimerAlarms

EVERY_NS = 10 * MS


class LagMeter:
    """An alarm that is due every 10 ms, and how late it was each time.

    A loop that was blocked for 200 ms has missed twenty, and each of them was late: all are counted.
    """

    def __init__(self, alarms: TimerAlarms) -> None:
        self._alarms = alarms
        self._lag = LogHistogram()
        self._due_ns = alarms.now_ns() + EVERY_NS
        self._alarm: Alarm = alarms.at(self._due_ns, self._tick)

    def drain(self) -> list[tuple[float, int]]:
        """Milliseconds and how many times, since the last drain."""
        return [(sample.value, sample.count) for sample in self._lag.drain(0, "", "")]

    def close(self) -> None:
        self._alarm.cancel()

    def _tick(self) -> None:
        now_ns = self._alarms.now_ns()
        while self._due_ns <= now_ns:
            self._lag.add(now_ns - self._due_ns)
            self._due_ns += EVERY_NS
        self._alarm = self._alarms.at(self._due_ns, self._tick)
