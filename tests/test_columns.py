"""Columns say what objects say: of a journal, of a run in memory, and of what every indicator makes of them."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from itertools import zip_longest
from math import inf, nan
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from busyhour import indicators
from busyhour.columns import NEVER, OperationColumns, SampleColumns, Words, columns_of, operations_of, samples_of
from busyhour.errors import JournalError
from busyhour.gates.gaps import Watched
from busyhour.indicators import readings
from busyhour.journal import Journal, StoredRun, open_run
from busyhour.model import JSON, MS, SECOND, Mark, Operation, Run, Sample
from busyhour.testing import MemoryRun

KINDS = ("call", "turn", "pause", "speech", "barge_in", "greeting", "underrun", "llm")
PHASES = ("steady", "llm brown-out", "ruhig ü")
INSTANTS, TEXTS = ("gave_up_ns", "answered_ns", "opened_ns"), ("why",)


# ---------------------------------------------------------------- runs


def some_operations(seed: int, *, calls: int = 60) -> list[Operation]:
    """Calls with parts of all kinds: ends that never came, equal instants, whatever a detail may hold."""
    random = Random(seed)
    found = []
    for number in range(calls):
        phase, at_ns = random.choice(PHASES), random.randrange(100) * SECOND
        call = f"{phase}/{number}"
        outcome = random.choice(["ok", "ok", "hung up", "cut off", "no answer"])
        detail: dict[str, JSON] = {
            "opened_ns": random.choice([at_ns, None, "late"]),
            "answered_ns": random.choice([at_ns + 5 * MS, 0, None]),
            "why": random.choice(["", "transferred", f"{outcome}: it broke", None]),
        }
        found.append(operation(call, "call", phase, at_ns, random, outcome=outcome, detail=detail))
        for part in range(random.randrange(12)):
            kind = random.choice(KINDS[1:7])
            due_ns = at_ns + random.randrange(60) * SECOND // 3
            gave_up: dict[str, JSON] = {"gave_up_ns": random.choice([due_ns + 2 * SECOND, None, nan])}
            outcome, who = random.choice(["ok", "missed", "not reached"]), random.choice(["caller", "agent"])
            name = f"{call}/{kind}/{part}"
            found.append(
                operation(name, kind, phase, due_ns, random, outcome=outcome, parent=call, who=who, detail=gave_up)
            )
    return found


def operation(
    name: str,
    kind: str,
    phase: str,
    due_ns: int,
    random: Random | None = None,
    *,
    outcome: str = "ok",
    parent: str = "",
    who: str = "",
    detail: Mapping[str, JSON] | None = None,
) -> Operation:
    began_ns, ended_ns = (None if random is None else _maybe(random, due_ns) for _ in range(2))
    return Operation(
        id=name,
        kind=kind,
        phase=phase,
        due_ns=due_ns,
        began_ns=began_ns,
        ended_ns=ended_ns,
        outcome=outcome,
        parent=parent,
        who=who,
        detail=detail or {},
    )


def _maybe(random: Random, at_ns: int) -> int | None:
    return None if random.random() < 0.2 else at_ns + random.randrange(-2, 5) * SECOND // 2


def some_samples(seed: int) -> list[Sample]:
    random = Random(seed)
    values = [0.5, 1.0, 2.0, 7.25, inf, nan]
    return [
        Sample(
            random.randrange(120) * SECOND, random.choice(["harness", "agent"]), "loop_lag_ms", random.choice(values), n
        )
        for n in range(1, 300)
    ]


MARKS = [
    Mark(0, "run.began"),
    *(Mark(n * 40 * SECOND, "phase.began", phase) for n, phase in enumerate(PHASES)),
    *(Mark((n + 1) * 40 * SECOND, "phase.ended", phase) for n, phase in enumerate(PHASES[:2])),
]


def written(
    path: Path, operations: Sequence[Operation], samples: Sequence[Sample], marks: Sequence[Mark] = MARKS
) -> Path:
    with Journal.create(path, {}) as journal:
        entries: list[Operation | Sample | Mark] = [*operations, *samples, *marks]
        for entry in entries:
            journal.append(entry)
    return path


class Plain:
    """A run that has nothing but objects."""

    def __init__(self, run: Run) -> None:
        self.meta, self.operations, self.samples, self.marks = run.meta, run.operations, run.samples, run.marks


def same(some: OperationColumns, others: OperationColumns) -> None:
    for name in ("due_ns", "began_ns", "ended_ns"):
        np.testing.assert_array_equal(getattr(some, name), getattr(others, name))
    for name in ("outcome", "call", "who", "phase"):
        assert list(getattr(some, name)) == list(getattr(others, name))
    assert some.instants.keys() >= others.instants.keys()
    for key, column in others.instants.items():
        np.testing.assert_array_equal(some.instants[key], column)
    for key, words in others.texts.items():
        assert list(some.texts[key]) == list(words)


# ---------------------------------------------------------------- what a journal says


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phase", [None, *PHASES, "nowhere"])
def test_a_journal_says_in_columns_what_it_says_in_objects(tmp_path: Path, kind: str, phase: str | None) -> None:
    path = written(tmp_path / "x.journal", some_operations(1), [])
    with open_run(path) as run:
        objects = run.operations(kind, phase)
        columns = run.operation_columns(kind, phase, instants=INSTANTS, texts=TEXTS)
        same(columns, columns_of(objects, instants=INSTANTS, texts=TEXTS))
        assert len(columns) == len(objects)
        assert columns.ended.sum() == sum(one.ended_ns is not None for one in objects)


@pytest.mark.parametrize("phase", [None, *PHASES, "nowhere"])
def test_samples_of_a_phase_that_never_ended_and_values_that_are_no_numbers(tmp_path: Path, phase: str | None) -> None:
    with open_run(written(tmp_path / "x.journal", [], some_samples(2))) as run:
        for source in ("harness", "agent", "nobody"):
            columns, objects = (
                run.sample_columns(source, "loop_lag_ms", phase),
                samples_of(Plain(run), source, "loop_lag_ms", phase),
            )
            for name in ("at_ns", "value", "count"):
                np.testing.assert_array_equal(getattr(columns, name), getattr(objects, name))


def test_what_is_asked_for_later_is_read_beside_what_was_known(tmp_path: Path) -> None:
    with open_run(written(tmp_path / "x.journal", some_operations(3), [])) as run:
        assert not run.operation_columns("turn").instants
        first = run.operation_columns("turn", instants=("gave_up_ns",))
        assert run.operation_columns("turn", texts=("text",)).instants.keys() == {"gave_up_ns"}
        np.testing.assert_array_equal(
            run.operation_columns("turn").instants["gave_up_ns"], first.instants["gave_up_ns"]
        )


def test_what_is_written_meanwhile_is_seen(tmp_path: Path) -> None:
    path = written(tmp_path / "x.journal", [operation("a/1", "call", "a", 5)], [Sample(1, "x", "y", 1.0)])
    with open_run(path) as run:
        assert len(run.operation_columns("call")) == len(run.sample_columns("x", "y")) == 1
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("INSERT INTO operations VALUES ('a/2', 'call', 'a', 6, NULL, NULL, 'ok', '', '', '{}')")
            connection.execute("INSERT INTO samples VALUES (2, 'x', 'y', 2.0, 1)")
        assert list(run.operation_columns("call").call) == ["a/1", "a/2"]
        assert run.sample_columns("x", "y").value.tolist() == [1.0, 2.0]


def test_more_than_may_be_kept_is_read_by_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busyhour.stored_columns._KEPT_ROWS_MAX", 10)
    monkeypatch.setattr("busyhour.stored_columns._AT_ONCE", 7)
    with open_run(written(tmp_path / "x.journal", some_operations(4), some_samples(4))) as run:
        for kind in KINDS:
            for phase in (None, PHASES[0]):
                same(run.operation_columns(kind, phase), columns_of(run.operations(kind, phase)))
        assert len(run.sample_columns("harness", "loop_lag_ms")) == len(run.samples("harness", "loop_lag_ms"))


@settings(max_examples=25)
@given(
    outcome=st.text(),
    who=st.text(),
    phase=st.text(),
    parent=st.text(),
    why=st.text() | st.integers(-(2**63), 2**63 - 1) | st.none(),
)
@example(outcome="", who="", phase="", parent="", why="a\0b")
def test_words_of_any_kind_come_back(
    tmp_path_factory: pytest.TempPathFactory, outcome: str, who: str, phase: str, parent: str, why: JSON
) -> None:
    one = operation("i", "call", phase, 0, outcome=outcome, who=who, parent=parent, detail={"why": why})
    with open_run(written(tmp_path_factory.mktemp("x") / "x.journal", [one], [], ())) as run:
        same(run.operation_columns("call", texts=TEXTS), columns_of(run.operations("call"), texts=TEXTS))


def test_a_detail_that_is_damaged_is_said_so(tmp_path: Path) -> None:
    path = written(tmp_path / "x.journal", [operation("a/1", "turn", "a", 5, detail={"gave_up_ns": 7})], [])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE operations SET detail = '{gave'")
    with open_run(path) as run, pytest.raises(JournalError, match="is damaged"):
        run.operation_columns("turn", instants=("gave_up_ns",))


def test_the_sources_of_samples_are_all_told_once(tmp_path: Path) -> None:
    samples = [Sample(n, source, name, 1.0) for n in range(5) for source in ("b", "a") for name in ("y", "x")]
    with open_run(written(tmp_path / "x.journal", [], samples)) as run:
        assert run.sources() == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
    with open_run(written(tmp_path / "y.journal", [], [])) as run:
        assert run.sources() == []


# ---------------------------------------------------------------- words


def test_words_are_counted_as_counters_do() -> None:
    words = Words.of(["b", "a", "b", "c", "a", "b"]).taken(np.array([1, 2, 3, 4, 5]))
    assert words.counts() == [("a", 2), ("b", 2), ("c", 1)]
    assert words.numbered().words == ["a", "b", "c"]
    assert words.first("b") == 1
    assert words.are("nobody").tolist() == [False] * 5
    with pytest.raises(ValueError, match="'x' is not in the column"):
        words.first("x")


# ---------------------------------------------------------------- what indicators make of them


EVERY: dict[
    str, Callable[[str], indicators.QuantileOf | indicators.ShareOf | indicators.EventsPer | indicators.MeanOf]
] = {
    "response latency": indicators.response_latency,
    "mean": indicators.mean_response_latency,
    "first audio": indicators.first_audio_latency,
    "setup": indicators.call_setup,
    "barge-in": indicators.barge_in_stop,
    "dead air": lambda phase: indicators.dead_air(phase, 0.9),
    "missed": indicators.missed_turns,
    "yield": indicators.yield_rate,
    "success": indicators.call_success,
    "transfers": indicators.transfers,
    "interruptions": indicators.agent_interruptions,
    "underruns": indicators.underruns,
    "talk share": indicators.agent_talk_share,
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("seed", range(4))
def test_an_indicator_says_the_same_of_a_journal_and_of_its_objects(tmp_path: Path, name: str, seed: int) -> None:
    path = written(tmp_path / "x.journal", some_operations(seed), [])
    with open_run(path) as run:
        for phase in PHASES:
            indicator = EVERY[name](phase)
            mine, others = indicator(run), indicator(Plain(run))
            assert (mine.n, mine.value, mine.low, mine.high) == (others.n, others.value, others.low, others.high)
            for limit in (0.5, 700.0):
                assert _compared(mine.evidence, limit) == _compared(others.evidence, limit)


def _compared(evidence: object, limit: float) -> object:
    return None if evidence is None else evidence.at_most(limit, 0.05)  # type: ignore[attr-defined]  # an Evidence


@pytest.mark.parametrize("seed", range(6))
def test_dead_air_is_what_the_loop_over_turns_says(seed: int) -> None:
    run = MemoryRun(some_operations(seed), marked=MARKS)
    for phase in PHASES:
        found = readings.dead_air_s(run, phase)
        assert [(one.value, one.group) for one in found] == list(plain_dead_air(run, phase))


def plain_dead_air(run: Run, phase: str) -> Sequence[tuple[float, str]]:
    """As it is defined: the longest of what was owed before the answer, and of the pauses until the next turn."""
    pauses, turns = defaultdict(list), defaultdict(list)
    for pause in run.operations("pause", phase):
        pauses[pause.parent].append(pause)
    for turn in run.operations("turn", phase):
        turns[turn.parent].append(turn)
    found = []
    for call, its_turns in turns.items():
        for turn, following in zip_longest(its_turns, its_turns[1:]):
            until_ns = inf if following is None else following.due_ns
            within = [pause for pause in pauses[call] if turn.due_ns <= pause.due_ns < until_ns]
            found.append((max([plain_owed(turn), *map(plain_owed, within)]), call))
    return found


def plain_owed(silent: Operation) -> float:
    until_ns = silent.detail.get("gave_up_ns") if silent.ended_ns is None else silent.ended_ns
    return max(0, until_ns - silent.due_ns) / SECOND if isinstance(until_ns, int) else inf


@pytest.mark.parametrize("seed", range(6))
def test_interruptions_are_what_the_loop_over_speech_says(seed: int) -> None:
    run = MemoryRun(some_operations(seed, calls=25), marked=MARKS)
    for phase in PHASES:
        spoken = run.operations("speech", phase)
        starts = [
            (one.parent, one.due_ns if one.began_ns is None else one.began_ns) for one in spoken if one.who == "agent"
        ]
        expected = []
        for turn in (one for one in spoken if one.who == "caller"):
            began = turn.due_ns if turn.began_ns is None else turn.began_ns
            until = inf if turn.ended_ns is None else turn.ended_ns
            expected.append(
                (float(sum(call == turn.parent and began <= at < until for call, at in starts)), turn.parent)
            )
        assert [(one.value, one.group) for one in readings.interruptions(run, phase)] == expected


def test_readings_of_several_phases_are_joined_with_their_calls() -> None:
    run = MemoryRun(some_operations(5), marked=MARKS)
    parts = [readings.response_ms(run, phase) for phase in PHASES]
    whole = readings.joined(parts)
    assert list(whole) == [one for part in parts for one in part]
    assert whole[2] == parts[0][2]
    assert whole[1:3] == [parts[0][1], parts[0][2]]
    assert len(readings.joined([[], []])) == 0


# ---------------------------------------------------------------- gaps


@pytest.mark.parametrize("seed", range(4))
def test_what_was_not_watched_is_left_out_of_columns_as_of_objects(tmp_path: Path, seed: int) -> None:
    asleep = Mark(50 * SECOND, "machine.suspended", "", {"from_ns": 30 * SECOND, "seconds": 20.0})
    path = written(tmp_path / "x.journal", some_operations(seed), some_samples(seed), [*MARKS, asleep])
    with open_run(path) as run:
        watched = Watched.of(run)
        assert isinstance(watched, Watched)
        plain = Watched.of(Plain(run))
        for kind in KINDS:
            same(operations_of(watched, kind), columns_of(watched.operations(kind)))
            assert watched.operations(kind) == plain.operations(kind)
        assert 0 < len(operations_of(watched, "call")) < len(operations_of(run, "call"))
        columns = watched.sample_columns("harness", "loop_lag_ms")
        assert columns.at_ns.tolist() == [one.at_ns for one in watched.samples("harness", "loop_lag_ms")]


def test_the_columns_of_nothing_are_empty(tmp_path: Path) -> None:
    with open_run(written(tmp_path / "x.journal", [], [])) as run:
        assert isinstance(run, StoredRun)
        for some in (run.operation_columns("call", texts=("why",)), operations_of(MemoryRun(), "call")):
            assert len(some) == 0
            assert some.outcome.counts() == []
        assert isinstance(run.sample_columns("a", "b"), SampleColumns)
        assert len(run.sample_columns("a", "b", "steady")) == 0
    assert NEVER < 0
