"""Runs that are empty, cut, huge or strange have a page, too; of what it leaves out it tells."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
from tests.html.reading_pages import Tree, charts, embedded
from tests.html.sample_runs import META, calls, judged, page, requests, samples, whole

from busyhour.gates import AtLeast, AtMost
from busyhour.indicators import call_success, dead_air, missed_turns, response_latency
from busyhour.journal import Journal, StoredRun, open_run
from busyhour.model import SECOND, Mark, Operation, Sample
from busyhour.testing import MemoryRun, call, whole_run

# ---------------------------------------------------------------- bad input


def test_a_run_that_never_began_is_invalid_and_has_a_page() -> None:
    text = page(MemoryRun(), judged(MemoryRun()))
    Tree(text)
    assert "<title>INVALID" in text
    assert "it never began" in text
    assert "not in the journal" in text


def test_an_invalid_run_gives_each_reason_and_no_figure_of_the_target() -> None:
    run = whole()
    disagree = Mark(9 * SECOND, "clocks.disagree", "", {"obituary": "the clocks of two machines disagree"})
    text = page(replace(run, marked=[*run.marked, disagree]))
    tree = Tree(text)
    assert "INVALID" in tree.said("outcome")
    assert '<details class="harness" open>' in text
    assert not tree.said("value-told") or all("dropped" in gate for c, gate, _ in tree.texts if "value-told" in c)
    assert "nothing is said of the target" in text
    assert text.index('class="harness"') < text.index('class="unjudged"')
    assert "It is no evidence of the target." in text


def test_a_run_that_was_cut_short_has_a_page() -> None:
    run = whole()
    marks = [mark for mark in run.marked if mark.kind not in {"run.ended", "phase.ended", "fault.ended", "fault.proof"}]
    text = page(replace(run, marked=marks))
    Tree(text)
    assert "(cut)" in text
    assert "no proof of its effect" in text


def test_requests_have_latency_and_throughput_and_no_calls() -> None:
    text = page(requests())
    Tree(text)
    ids = [chart["id"] for chart in charts(text)]
    assert ids == ["latency-0", "traffic-rate"]
    assert 'id="calls"' not in text
    assert ">refused</th>" in text
    assert "62,640 requests; 62,400 were answered right, 240 were not." in text
    assert ">0.319 %</td>" in text


def test_a_share_of_all_is_written_as_people_write_it() -> None:
    """100 has three digits: it is not "1e+02 %"."""
    lost = [call(n, outcome="rejected", at_s=n) for n in range(4)]
    shown = page(whole_run(lost, phases=["steady"], meta=META, seconds=100))
    assert ">100 %</td>" in shown[shown.index('id="traffic"') :]
    load = [Sample(SECOND, "requests", "latency_ms", inf, 400)]
    refused = Mark(SECOND, "requests.failed", "load", {"refused": 400})
    shown = page(whole_run(phases=["load"], samples=load, marks=[refused], meta=META, seconds=100))
    assert ">100 %</td>" in shown[shown.index('id="traffic"') :]


def test_thousands_of_phases_make_a_bounded_page_that_says_so() -> None:
    names = [f"phase {n}" for n in range(3_000)]
    failed = [replace(one, outcome="hung up") for one in calls(1, phase="phase 2999")[:1]]
    run = whole_run(calls(3, phase="phase 7"), failed, phases=names, meta=META, seconds=6_000)
    text = page(run)
    Tree(text)
    assert len(text) < 1_000_000
    assert "2,940 more phases are not shown" in text
    assert "are shaded, 2,700 more are not" in text
    assert ">phase 2999</th>" in text, "one that failed is shown"
    assert len(embedded(text, "data")["bands"]["phases"]) == 300


def test_names_in_any_alphabet() -> None:
    name = "Hauptlast über 你好 \U0001f4de\u202e"
    run = whole_run(calls(3, phase=name), phases=[name], meta={**META, "plan": f"pläne/{name}.py"})
    text = page(run)
    Tree(text)
    assert text.count(name) > 3
    text.encode("utf-8")


def test_a_journal_from_before_there_was_sound_or_commit_has_a_page(tmp_path: Path) -> None:
    run = whole(meta={"plan": "plans/telephone.py", "version": "0.0.9"})
    path = tmp_path / "x.journal"
    with Journal.create(path, run.meta) as journal:
        entries: list[Operation | Sample | Mark] = [*run.recorded, *run.sampled, *run.marked]
        for entry in entries:
            journal.append(entry)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE recordings")
    with open_run(path) as stored:
        text = page(stored, judged(stored))
    Tree(text)
    assert "There is no sound" in text
    assert re.search(r"<dt>Commit</dt><dd>not in the journal", text)


def test_a_plan_outside_of_git_has_no_commit_which_is_not_that_nobody_wrote_it_down() -> None:
    run = whole(meta={**META, "commit": ""})
    assert "<dt>Commit</dt><dd>none that git could tell" in page(run)


def test_a_journal_and_its_objects_make_the_same_page(tmp_path: Path) -> None:
    run = whole()
    path = tmp_path / "x.journal"
    with Journal.create(path, run.meta) as journal:
        entries: list[Operation | Sample | Mark] = [*run.recorded, *run.sampled, *run.marked]
        for entry in entries:
            journal.append(entry)
    with open_run(path) as stored:
        mine, others = embedded(page(stored), "data"), embedded(page(run), "data")
    assert mine.keys() == others.keys()
    for name in mine.keys() - {"calls"}:
        assert mine[name] == others[name], name


def test_no_object_is_made_for_each_operation_of_a_long_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.journal"
    run = whole_run(calls(1_200, every_s=2), samples=samples(2_400), meta=META, seconds=2_500)
    with Journal.create(path, run.meta) as journal:
        entries: list[Operation | Sample | Mark] = [*run.recorded, *run.sampled, *run.marked]
        for entry in entries:
            journal.append(entry)
    made: list[object] = []
    plain_operations, plain_samples = StoredRun.operations, StoredRun.samples

    def operations(self: StoredRun, kind: str, phase: str | None = None) -> Sequence[Operation]:
        found = plain_operations(self, kind, phase)
        made.extend(found)
        return found

    def samples_(self: StoredRun, source: str, name: str, phase: str | None = None) -> Sequence[Sample]:
        found = plain_samples(self, source, name, phase)
        made.extend(found if name == "loop_lag_ms" else ())
        return found

    monkeypatch.setattr(StoredRun, "operations", operations)
    monkeypatch.setattr(StoredRun, "samples", samples_)
    with open_run(path) as stored:
        some = [AtMost(response_latency("steady"), 2_000, "ms"), AtMost(missed_turns("steady"), 20, "%")]
        some += [AtLeast(call_success("steady"), 50, "%"), AtMost(dead_air("steady"), 60, "s")]
        page(stored, judged(stored, some=some))
    assert len(run.recorded) > 7_000
    assert len(made) < 200


def test_a_plan_without_gates_says_that_nothing_was_demanded() -> None:
    run = whole()
    text = page(run, judged(run, some=[]))
    assert "<title>NOT RUN" in text
