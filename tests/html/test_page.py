"""The page as text: what is in it, what is left out and told of, and that nothing in it can run but what is ours."""

from __future__ import annotations

import hashlib
import io
import re
from base64 import b64encode
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from tests.html.reading_pages import Tree, charts, embedded, told
from tests.html.sample_runs import HACK, META, absent, calls, judged, page, samples, silent, whole

from busyhour.gates import AtMost, Judgement, NoLeak
from busyhour.indicators import response_latency
from busyhour.model import SECOND, Estimate, Mark, Outcome, Verdict
from busyhour.reports import html
from busyhour.reports.html import percentiles
from busyhour.reports.html.page import write_sections
from busyhour.reports.html.scene import Scene
from busyhour.reports.html.tabled import capacity
from busyhour.statistics.wording import number
from busyhour.testing import answered, turn, whole_run, witnessed


@pytest.fixture(scope="module")
def text() -> str:
    return page(whole())


# ---------------------------------------------------------------- the same figures everywhere


def test_the_page_contains_the_judgement_as_json_writes_it(text: str) -> None:
    run = whole()
    assert embedded(text, "judgement") == told(run, judged(run))


def test_every_sentence_is_there_verbatim_with_outcome_and_proof(text: str) -> None:
    said = embedded(text, "judgement")
    tree = Tree(text)
    verdicts = [*said["validity"], *said["verdicts"]]
    assert sorted(tree.said("because")) == sorted(verdict["because"] for verdict in verdicts)
    for verdict in verdicts:
        own = {classes.split()[-1]: words for classes, gate, words in tree.texts if gate == verdict["gate"]}
        assert own["because"] == verdict["because"]
        assert own["word"] == verdict["outcome"].upper()
        assert own.get("proven", own.get("unproven", "")) == verdict["proof"].upper()


def test_every_drawn_figure_is_the_jsons(text: str) -> None:
    said = embedded(text, "judgement")
    tree = Tree(text)
    drawn = {gate: words for classes, gate, words in tree.texts if "value-told" in classes.split()}
    measured = [
        v for v in [*said["validity"], *said["verdicts"]] if v["estimate"] and v["estimate"]["value"] is not None
    ]
    assert drawn.keys() == {verdict["gate"] for verdict in measured}
    for verdict in measured:
        estimate = verdict["estimate"]
        value = float("inf") if estimate["value"] == "infinity" else estimate["value"]
        limits = [limit for limit in verdict["limits"].values() if limit is not None]
        words = number(value, estimate["unit"], apart_from=limits)
        assert drawn[verdict["gate"]] in (words, f"{words} {estimate['unit']}")
    for table in said["tables"]:
        cells = [
            cell for row in table["rows"] for cell in row["cells"] if cell and cell["value"] not in (None, "infinity")
        ]
        for cell in cells:
            assert f">{number(cell['value'], cell['unit'])} {cell['unit']}</td>" in text


def test_the_curve_is_the_gates_own_estimate_at_its_quantile() -> None:
    run = whole()
    judgement = judged(run)
    section = percentiles.plots(Scene.of(run, judgement))
    assert section is not None
    charts: Any = section.data["charts"]
    (plot,) = [one for one in charts if one["stairs"]]
    assert [step["label"] for step in plot["stairs"]] == ["p50 \u2264 600 ms", "p95 \u2264 800 ms"]
    (table,) = plot["tables"]
    low, high, value = (line["values"] for line in table["series"])
    for verdict in judgement.verdicts:
        if verdict.estimate is not None and verdict.estimate.what == "p95 response latency in steady":
            at = table["xs"].index(20)
            estimate = verdict.estimate
            assert [low[at], value[at], high[at]] == pytest.approx(
                [estimate.low, estimate.value, estimate.high], rel=1e-5
            )
            break
    else:
        pytest.fail("there is no such gate")


def test_the_band_between_the_gates_is_made_as_theirs_is() -> None:
    run = whole()
    other = AtMost(response_latency("steady", 0.8), 700, "ms").judge(run).estimate
    (curve, *_) = percentiles._of_gates(run, judged(run).verdicts)  # the drawn curve is thinned; this is what it is of
    found = curve.quantile(0.8)
    assert other is not None
    assert (found.low, found.value, found.high) == (other.low, other.value, other.high)


# ---------------------------------------------------------------- what is where


def test_the_first_screen_says_what_was_run_against_what(text: str) -> None:
    tree = Tree(text)
    facts = " ".join(tree.said("facts"))
    for word in ("plans/telephone.py", "agent", "2026-11-20 10:15:00 UTC", "0123456789ab+", "seed 7", "numpy 2.3.1"):
        assert word in facts
    assert "Linux x86_64, 2 cores" in facts
    assert "busyhour 0.1.0, Python 3.11.7" in facts
    assert "62 calls, 248 turns of their callers" in facts
    assert "over telnyx" in facts


def test_what_did_not_pass_stands_first_and_the_harness_apart(text: str) -> None:
    said, text = embedded(text, "judgement"), unescape(text)
    worst = [v["because"] for v in said["verdicts"] if v["outcome"] != "pass"]
    assert worst
    places = [text.index(f'class="because">{because}') for because in worst]
    passed = [v["because"] for v in said["verdicts"] if v["outcome"] == "pass"]
    assert max(places) < min(text.index(f'class="because">{because}') for because in passed)
    harness = text.index('<details class="harness">')
    assert all(text.index(f'class="because">{v["because"]}') > harness for v in said["validity"])


def test_a_gate_that_did_not_pass_leads_to_a_call_of_its_own_phase() -> None:
    run = whole_run(
        calls(5), calls(5, phase="llm in trouble", since_s=300), phases=["steady", "llm in trouble"], meta=META
    )
    some = [
        AtMost(response_latency("llm in trouble", 0.5), 1, "ms"),
        AtMost(response_latency("steady", 0.5), 9_000, "ms"),
    ]
    text = page(run, judged(run, some=some))
    (number,) = re.findall(r'href="#call-(\d+)">Hear', text)
    worst = embedded(text, "data")["calls"]["calls"]
    assert next(call["phase"] for call in worst if call["number"] == int(number)) == "llm in trouble"
    assert worst[0]["phase"] == "llm in trouble", "what is missed comes first"


def test_links_of_the_same_words_are_told_apart_by_the_sentences_above_them() -> None:
    run = whole_run(calls(5), phases=["steady"], meta=META)
    text = page(run, judged(run, some=[AtMost(response_latency("steady", q), 1, "ms") for q in (0.5, 0.6)]))
    described = re.findall(r'<a aria-describedby="([^"]+)" href="#call-\d+">Hear', text)
    sentences = [re.findall(rf'<p id="{name}" class="because">([^<]+)<', text) for name in described]
    assert [[found.partition(" ")[0] for found in one] for one in sentences] == [["p50"], ["p60"]]


def test_each_section_is_there_because_there_is_something_to_show(text: str) -> None:
    titles = [attrs.get("id") for tag, attrs in Tree(text).tags if tag == "section"]
    shown = [
        "latency",
        "calls",
        "percentiles",
        "timeline",
        "recovery",
        "tables",
        "traffic",
        "memory",
        "counters",
        "processor",
    ]
    assert titles[2:] == shown
    for chart in charts(text):
        assert f'id="{chart["id"]}"' in text
        assert chart["y"]["label"]
        for table in chart["tables"]:
            assert table["xs"] == sorted(table["xs"])
            assert all(len(line["values"]) == len(table["xs"]) for line in table["series"])
            assert len(table["xs"]) <= 1500


def test_unanswered_turns_are_told_as_such() -> None:
    chart = next(charts(page(whole_run(silent(3), meta=META))))
    assert chart["y"]["never"]
    single = chart["tables"][1]["series"][0]["values"]
    assert single == ["never"] * 3


def test_an_answer_before_its_time_is_told_to_count_as_nothing(text: str) -> None:
    told = "An answer that began before its caller had ended counts as 0."
    assert told not in text
    assert told in page(whole_run(answered([300.0, -200.0], number=1), meta=META))


def test_a_fault_has_its_proof_and_its_recovery(text: str) -> None:
    recovery = text[text.index('id="recovery"') :]
    assert "12 of 12 requests met it" in recovery
    assert "12.5 s" in recovery


def test_only_what_was_asked_again_can_have_served_never() -> None:
    faults = [("path to llm", "black hole"), ("spare", "spare down"), ("llm", "llm down")]
    marks = []
    for service, name in faults:
        marks += [
            Mark(10 * SECOND, "fault.began", name, {"phase": name, "service": service}),
            Mark(20 * SECOND, "fault.ended", name, {"phase": name}),
        ]
    asked = [
        witnessed("llm", "spare", 12.0, phase="steady", outcome="http 503"),
        witnessed("llm", "llm", 30.0, phase="steady", outcome="http 503"),
    ]
    run = whole_run(calls(20), asked, marks=marks, meta=META)
    made = page(run)
    told = dict(
        re.findall(r'<th scope="row" class="fault">([^<]+)</th>(?:<td[^>]*>[^<]*</td>){2}<td[^>]*>([^<]*)<', made)
    )
    assert told == {"black hole": "\u2013", "spare down": "not asked", "llm down": "never"}


def test_the_lowest_of_all_has_no_interval(text: str) -> None:
    chart = next(chart for chart in charts(text) if chart["id"] == "percentiles-0")
    low, high, measured = (line["values"] for line in chart["tables"][0]["series"])
    assert chart["tables"][0]["xs"][0] == 1
    assert low[0] is high[0] is None
    assert measured[0] <= high[1] <= high[2]


def test_reasons_of_failures_are_counted(text: str) -> None:
    traffic = text[text.index('id="traffic"') :]
    assert "62 calls arrived; 54 went through to their end, 8 did not." in traffic
    assert ">hung up</th>" in traffic


def test_counters_are_told_per_call(text: str) -> None:
    counters = text[text.index('id="counters"') :]
    assert re.search(r"<td class=\"\">2\d \((\+|-)?[0-9.]+\)</td>", counters)


def test_a_leak_gate_is_drawn_with_its_floor_and_its_shape() -> None:
    long = [replace(one, at_ns=one.at_ns * 30) for one in samples(1200)]
    run = whole_run(calls(20), samples=long, marks=[Mark(0, "service.started", "agent")], meta=META, seconds=36_000)
    text = page(run, judged(run, some=[NoLeak("agent", 1.0)]))
    growth = next(chart for chart in charts(text) if chart["id"] == "growth-0")
    read, fitted = growth["tables"]
    assert read["series"][0]["label"] == "read"
    assert [line["label"] for line in fitted["series"]][::2] == ["floor", "lowest slope"]
    assert growth["y"]["label"] == "RSS of agent (MB)"
    (verdict,) = [v for v in embedded(text, "judgement")["verdicts"] if v["gate"].startswith("memory of agent")]
    assert text.count(verdict["because"].replace("'", "&#39;")) >= 2


# ---------------------------------------------------------------- gaps and segments


def test_what_was_not_watched_is_shaded_and_left_out() -> None:
    run = absent(whole(), from_s=100, seconds=60)
    text = page(run)
    bands = embedded(text, "data")["bands"]
    assert bands["gaps"] == [
        {"name": "the machine was suspended for 1 min, 3 min after it began", "from": 100, "to": 170}
    ]
    assert "the machine was suspended for 1 min" in text[text.index('id="timeline"') :]
    latency = next(charts(text))
    inside = [x for x in latency["tables"][1]["xs"] if 100 < x < 170]
    assert not inside


def test_segments_of_a_resumed_run_are_told() -> None:
    resumed = Mark(
        200 * SECOND,
        "run.resumed",
        "",
        {"segment": 2, "cut_ns": 150 * SECOND, "why": "killed", "at": "2026-11-20T10:30:00"},
    )
    run = whole()
    text = page(replace(run, marked=[*run.marked, resumed]))
    assert "segment 2 began at 2026-11-20 10:30:00 UTC" in text
    assert embedded(text, "data")["bands"]["gaps"]


# ---------------------------------------------------------------- nothing of theirs runs


def test_what_was_said_is_shown_and_cannot_run() -> None:
    said = [replace(turn(700, text=HACK), outcome=HACK)]
    fault = Mark(5 * SECOND, "fault.began", HACK, {"phase": HACK, "service": HACK})
    died = Mark(9 * SECOND, "service.died", HACK, {"obituary": HACK, "role": "target"})
    run = whole_run(answered([500.0]), said, phases=[HACK, "steady"], marks=[fault, died], meta={**META, "plan": HACK})
    verdict = Verdict(HACK, Outcome.FAIL, f"it said {HACK}", Estimate(HACK, HACK, 1, 2.0, 1.0, 3.0), limits=(None, 1.0))
    text = page(run, Judgement((verdict,), (), Outcome.FAIL))
    Tree(text)
    assert "<script>window" not in text
    assert text.count("</script>") == text.count("<script")
    assert embedded(text, "judgement")["verdicts"][0]["because"] == f"it said {HACK}"
    assert "it said &lt;script&gt;" in text


def test_only_what_has_its_hash_may_run(text: str) -> None:
    policy = unescape(re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)"', text)[0])
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    for directive, tag in (("style-src", "style"), ("script-src", "script")):
        allowed = re.search(rf"{directive} ([^;]*)", policy)
        assert allowed is not None
        bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        hashes = {f"'sha256-{b64encode(hashlib.sha256(body.encode()).digest()).decode()}'" for body in bodies}
        assert hashes == set(allowed[1].split())
    assert not re.search(
        r"<[^>]+\s(style|on[a-z]+)=", text[text.index("<body") : text.index('<script type="application/json"')]
    )


def test_the_licences_are_in_the_page_and_beside_the_files(text: str) -> None:
    assets = Path(html.__file__).parent / "assets"
    assert "The MIT License" in (assets / "uPlot.LICENSE.txt").read_text()
    assert "SIL Open Font License" in (assets / "Inter.LICENSE.txt").read_text()
    for words in ("Leon Sorokin", "The Inter Project Authors"):
        assert words in text


# ---------------------------------------------------------------- other documents


def found_capacity() -> dict[str, Any]:
    interval = {"value": 40.0, "low": 30.0, "high": "infinity"}
    levels = [
        {
            "at_once": n,
            "outcome": "pass" if n < 30 else "fail",
            "in_progress": float(n),
            "calls": 60,
            "per_second": n / (8 + n / 20),
        }
        for n in (4, 8, 16, 24, 32)
    ]
    law = {
        "rate_per_second": {"value": 0.12},
        "contention": {"value": 0.01},
        "coherency": {"value": 0.0005},
        "knee": interval,
    }
    return {
        "format": "busyhour.capacity",
        "version": 1,
        "sentence": "steady: 24 at once pass all 5 gates (2 runs), 32 fail",
        "passed": 24,
        "law": law,
        "notes": ["a <note>"],
        "levels": levels,
    }


def test_a_capacity_has_its_curve_and_its_law() -> None:
    section = capacity(found_capacity())
    made: Any = section.data["charts"]
    (chart,) = made
    labels = [line["label"] for table in chart["tables"] for line in table["series"]]
    assert labels == ["pass", "fail", "Universal Scalability Law"]
    law = chart["tables"][-1]
    assert law["series"][0]["values"][0] == pytest.approx(0.12)
    assert "a &lt;note&gt;" in section.html
    assert "knee at 40 (30\u2013more) calls" in section.html
    out = io.StringIO()
    write_sections("Capacity", [section], out)
    Tree(out.getvalue())


def test_what_is_no_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no result of a capacity search of version 1, but 'busyhour\.judgement'"):
        capacity({"format": "busyhour.judgement", "version": 1})


def test_the_files_of_the_page_are_part_of_the_package() -> None:
    folder = Path(html.__file__).parent
    wanted = {
        "report.css",
        "theme.js",
        "axes.js",
        "charts.js",
        "uPlot.iife.min.js",
        "uPlot.min.css",
        "Inter-latin.woff2",
    }
    assert wanted <= {file.name for file in (folder / "assets").iterdir()}
    assert {"page.html.j2", "body.html.j2", "parts.html.j2"} <= {file.name for file in (folder / "templates").iterdir()}
