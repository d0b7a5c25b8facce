"""What each toxic does to a stream, on a clock that the test moves: exact."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from busyhour.faults.proxy.flow import Grasp, Stage
from busyhour.faults.proxy.stages import ROOM_BYTES, STAGES
from busyhour.faults.proxy.toxic import Form, Toxic
from busyhour.model import MS, SECOND

from .proxied import ManualAlarms


@dataclass
class Bench:
    """One stage, what came out of it and when."""

    kind: str
    attributes: dict[str, Any]
    seed: int = 1
    alarms: ManualAlarms = field(default_factory=ManualAlarms)
    out: list[tuple[int, bytes | str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began_ns = self.alarms.ns
        form = {"type": self.kind, "attributes": self.attributes, "seed": self.seed}
        self.toxic = Toxic(Form.parse(form, 0))
        grasp = Grasp(
            toxic=self.toxic,
            alarms=self.alarms,
            random=Random(self.seed),
            fresh=True,
            reset=lambda: self._note("reset"),
            abandon=lambda: self._note("abandoned"),
            relieved=lambda: None,
        )
        self.stage: Stage = STAGES[self.kind](grasp)
        self.stage.out = self

    def feed(self, data: bytes) -> None:
        self._note(data)

    def end(self, *, reset: bool) -> None:
        self._note("RST" if reset else "FIN")

    def change(self, **attributes: Any) -> None:
        self.toxic.form = self.toxic.form.changed({"attributes": attributes})
        self.stage.changed()

    def after_ms(self, ms: float) -> list[bytes | str]:
        """What came out by so many ms from the beginning."""
        self.alarms.advance(self.began_ns + round(ms * MS) - self.alarms.ns)
        return [what for _, what in self.out]

    def received(self) -> bytes:
        return b"".join(what for _, what in self.out if isinstance(what, bytes))

    def _note(self, what: bytes | str) -> None:
        self.out.append((self.alarms.ns, what))


# ---------------------------------------------------------------- latency


def test_latency_delays_each_chunk_and_the_end_by_the_same() -> None:
    bench = Bench("latency", {"latency": 50})
    bench.stage.feed(b"one")
    assert bench.after_ms(20) == []
    bench.stage.feed(b"two")
    bench.stage.end(reset=False)
    assert bench.stage.held_bytes == 6
    assert bench.after_ms(49.999) == []
    assert bench.after_ms(50) == [b"one"]
    assert bench.after_ms(69.999) == [b"one"]
    assert bench.after_ms(70) == [b"one", b"two", "FIN"]
    assert bench.stage.held_bytes == 0
    assert (bench.toxic.effect.events, bench.toxic.effect.bytes, bench.toxic.effect.connections) == (2, 6, 1)


def test_jitter_stays_within_its_bounds_keeps_the_order_and_comes_from_the_seed() -> None:
    def delays(seed: int) -> list[int]:
        bench = Bench("latency", {"latency": 50, "jitter": 20}, seed=seed)
        fed_ns = []
        for number in range(200):
            fed_ns.append(bench.alarms.ns)
            bench.stage.feed(b"%03d" % number)
            bench.alarms.advance(100 * MS)
        assert bench.received() == b"".join(b"%03d" % number for number in range(200))
        return [at_ns - fed for (at_ns, _), fed in zip(bench.out, fed_ns, strict=True)]

    first = delays(1)
    assert min(first) >= 30 * MS
    assert max(first) <= 70 * MS
    assert max(first) - min(first) > 30 * MS
    assert delays(1) == first
    assert delays(2) != first


def test_chunks_do_not_overtake_each_other_under_jitter() -> None:
    bench = Bench("latency", {"latency": 50, "jitter": 50})
    for number in range(100):
        bench.stage.feed(b"%02d" % number)
    bench.after_ms(200)
    assert bench.received() == b"".join(b"%02d" % number for number in range(100))


def test_a_latency_that_is_removed_lets_go_of_what_it_holds_in_order() -> None:
    bench = Bench("latency", {"latency": 5000})
    bench.stage.feed(b"one")
    bench.stage.feed(b"two")
    bench.stage.end(reset=True)
    assert bench.stage.release()
    assert [what for _, what in bench.out] == [b"one", b"two", "RST"]
    assert bench.after_ms(6000)[3:] == []


def test_a_shorter_latency_takes_hold_of_what_waits() -> None:
    bench = Bench("latency", {"latency": 5000})
    bench.stage.feed(b"one")
    assert bench.after_ms(100) == []
    bench.change(latency=200)
    assert bench.after_ms(199) == []
    assert bench.after_ms(200) == [b"one"]


def test_no_latency_is_no_effect() -> None:
    bench = Bench("latency", {})
    bench.stage.feed(b"one")
    assert bench.after_ms(0) == [b"one"]
    assert bench.toxic.effect.events == 0


# ---------------------------------------------------------------- bandwidth


@pytest.mark.parametrize("rate", [0.5, 8, 200, 12_345, 100_000])
@pytest.mark.parametrize("chunk", [1, 100, 5000, 262_144])
def test_bandwidth_is_exact(rate: float, chunk: int) -> None:
    bench = Bench("bandwidth", {"rate": rate})
    total = min(20_000 * chunk, 1_000_000, max(chunk, int(rate * 2000)))
    for begin in range(0, total, chunk):
        bench.stage.feed(bytes(min(chunk, total - begin)))
    bench.alarms.advance(3600 * SECOND)
    assert len(bench.received()) == total
    seconds = (bench.out[-1][0] - bench.began_ns) / SECOND
    assert total / seconds / 1000 == pytest.approx(rate, rel=0.001)


def test_bandwidth_saves_nothing_up_while_the_line_is_idle() -> None:
    bench = Bench("bandwidth", {"rate": 1})
    bench.after_ms(10_000)
    bench.stage.feed(bytes(1000))
    bench.stage.end(reset=False)
    assert len(bench.received()) == 0
    bench.after_ms(10_990)
    assert bench.out[-1][1] != "FIN"
    bench.after_ms(11_000)
    assert bench.out[-1] == (bench.began_ns + 11 * SECOND, "FIN")
    assert len(bench.received()) == 1000


def test_a_rate_of_zero_holds_everything_and_loses_nothing() -> None:
    bench = Bench("bandwidth", {"rate": 0})
    bench.stage.feed(b"held")
    assert bench.after_ms(3_600_000) == []
    assert bench.stage.held_bytes == 4
    bench.change(rate=1000)
    bench.after_ms(3_600_001)
    assert bench.received() == b"held"
    bench.change(rate=0)
    bench.stage.feed(b"again")
    bench.stage.release()
    assert bench.received() == b"heldagain"


def test_another_rate_holds_from_the_moment_it_is_set() -> None:
    bench = Bench("bandwidth", {"rate": 1})
    bench.stage.feed(bytes(10_000))
    bench.after_ms(1024)
    assert len(bench.received()) == 1024
    bench.change(rate=100)
    bench.after_ms(1024 + 10_000 / 100)
    assert len(bench.received()) == 10_000


def test_a_fast_line_has_room_enough_not_to_fall_idle_and_a_slow_one_no_more_than_it_needs() -> None:
    assert Bench("bandwidth", {"rate": 1}).stage.room_bytes == ROOM_BYTES
    assert Bench("bandwidth", {"rate": 20_000}).stage.room_bytes == 2_000_000
    assert Bench("bandwidth", {"rate": 10**9}).stage.room_bytes == 4 * 1024 * 1024


# ---------------------------------------------------------------- slicer, slow_close


def test_the_slicer_cuts_within_its_bounds_and_spaces_the_slices() -> None:
    bench = Bench("slicer", {"average_size": 100, "size_variation": 40, "delay": 500})
    data = Random(1).randbytes(10_000)
    bench.stage.feed(data)
    bench.after_ms(1000)
    assert bench.received() == data
    sizes = [len(what) for _, what in bench.out]
    assert all(60 <= size <= 140 for size in sizes[:-1])
    assert len(set(sizes)) > 10
    gaps = {later[0] - earlier[0] for earlier, later in zip(bench.out, bench.out[1:], strict=False)}
    assert gaps == {500_000}
    assert bench.toxic.effect.events == len(sizes) - 1


def test_slices_leave_one_by_one_even_without_a_delay() -> None:
    bench = Bench("slicer", {"average_size": 1})
    bench.stage.feed(b"abc")
    assert [what for _, what in bench.out] == [b"a"], "the others wait for turns of the loop of their own"
    assert bench.after_ms(0) == [b"a", b"b", b"c"]


def test_slow_close_holds_the_end_and_nothing_else() -> None:
    bench = Bench("slow_close", {"delay": 500})
    bench.stage.feed(b"data")
    bench.stage.end(reset=False)
    assert bench.after_ms(499) == [b"data"]
    assert bench.after_ms(500) == [b"data", "FIN"]
    assert bench.toxic.effect.events == 1
    broken = Bench("slow_close", {"delay": 500})
    broken.stage.end(reset=True)
    assert broken.after_ms(0) == ["RST"]
    assert broken.toxic.effect.events == 0, "what was not held back has not been harmed"


# ---------------------------------------------------------------- those that take


def test_timeout_drops_data_and_closes_after_its_time() -> None:
    bench = Bench("timeout", {"timeout": 300})
    bench.stage.feed(b"lost")
    assert bench.after_ms(299) == []
    assert bench.after_ms(300) == ["FIN", "abandoned"]
    bench.stage.feed(b"lost too")
    bench.stage.end(reset=False)
    assert bench.after_ms(1000) == ["FIN", "abandoned"]
    assert (bench.toxic.effect.events, bench.toxic.effect.bytes) == (2, 4)


def test_a_timeout_of_zero_never_closes_until_it_is_removed() -> None:
    bench = Bench("timeout", {"timeout": 0})
    bench.stage.feed(b"lost")
    assert bench.after_ms(3_600_000) == []
    assert bench.stage.release()
    assert [what for _, what in bench.out] == ["FIN", "abandoned"]


def test_the_end_of_a_stream_passes_a_timeout() -> None:
    bench = Bench("timeout", {"timeout": 0})
    bench.stage.end(reset=False)
    assert bench.after_ms(0) == ["FIN"]
    assert bench.toxic.effect.events == 0


def test_a_timeout_can_be_changed_while_it_runs() -> None:
    bench = Bench("timeout", {"timeout": 0})
    bench.after_ms(100)
    bench.change(timeout=50)
    assert bench.after_ms(100) == ["FIN", "abandoned"], "it has lasted longer already"


def test_reset_peer_waits_for_data_and_then_for_its_time() -> None:
    bench = Bench("reset_peer", {"timeout": 100})
    assert bench.after_ms(1000) == []
    bench.stage.feed(b"request")
    assert bench.after_ms(1099) == []
    assert bench.after_ms(1100) == ["reset"]
    assert bench.toxic.effect.events == 1
    idle = Bench("reset_peer", {"timeout": 100})
    idle.stage.release()
    assert idle.after_ms(1000) == []
    assert idle.toxic.effect.events == 0


def test_limit_data_lets_so_many_bytes_pass() -> None:
    bench = Bench("limit_data", {"bytes": 10})
    bench.stage.feed(b"12345678")
    bench.stage.feed(b"90ab")
    bench.stage.feed(b"cd")
    bench.stage.end(reset=False)
    assert bench.after_ms(0) == [b"12345678", b"90", "FIN", "abandoned"]
    assert (bench.toxic.effect.events, bench.toxic.effect.bytes) == (1, 2)
    none = Bench("limit_data", {"bytes": 0})
    none.stage.feed(b"x")
    assert none.after_ms(0) == ["FIN", "abandoned"]


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 1])
def test_corrupt_flips_one_bit_in_its_share_of_the_bytes(share: float) -> None:
    data = Random(3).randbytes(200_000)

    def corrupted(seed: int) -> bytes:
        bench = Bench("corrupt", {"share": share}, seed=seed)
        for begin in range(0, len(data), 1000):
            bench.stage.feed(data[begin : begin + 1000])
        assert bench.toxic.effect.bytes == sum(a != b for a, b in zip(bench.received(), data, strict=True))
        return bench.received()

    first = corrupted(1)
    wrong = [a ^ b for a, b in zip(first, data, strict=True) if a != b]
    assert len(wrong) == pytest.approx(share * len(data), rel=0.3)
    assert all(bits.bit_count() == 1 for bits in wrong)
    assert corrupted(1) == first
    assert corrupted(2) != first


def test_a_share_too_small_to_matter_hits_nothing() -> None:
    bench = Bench("corrupt", {"share": 5e-324})
    bench.stage.feed(bytes(1000))
    assert bench.received() == bytes(1000)
