"""The page as its readers have it: in a browser, wide and narrow, light and dark, with real clicks, on paper."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from tests.html.sample_runs import HACK, META, absent, judged, page, requests, silent, whole

from busyhour.gates import AtMost
from busyhour.indicators import response_latency
from busyhour.model import JSON, SECOND, Mark, Run
from busyhour.reports.html.body import Body, Chart, section
from busyhour.reports.html.page import write_sections
from busyhour.testing import whole_run

Opened = Callable[..., Page]
PAINTED = """
canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const seen = new Set();
  for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200) seen.add(`${data[i]},${data[i + 1]},${data[i + 2]}`);
  return seen.size;
}
"""
OF_ONE_COLOUR = """
(canvas, name) => {
  const wanted = busyhour.palette()[name].match(/[0-9]+/g).map(Number);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const columns = new Set();
  for (let i = 0; i < data.length; i += 4) {
    const near = wanted.every((one, at) => Math.abs(one - data[i + at]) < 9);
    if (near && data[i + 3] > 200) columns.add((i / 4) % canvas.width);
  }
  return columns.size / canvas.width;
}
"""
A_FIGURE = re.compile(r"\d")
PICTURE = "document.querySelector('.plot canvas').toDataURL()"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def text() -> str:
    run = absent(whole(), from_s=500, seconds=20)
    never = AtMost(response_latency("steady", 0.999), 300, "ms")
    return page(run, judged(run, some=[never, AtMost(response_latency("steady", 0.5), 600, "ms")]))


def drawn(page: Page) -> Iterator[Locator]:
    charts = page.locator(".plot")
    expect(page.locator(".plot .uplot canvas")).to_have_count(charts.count())
    return iter(charts.all())


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_every_chart_is_drawn_and_nothing_is_wider_than_the_screen(
    opened: Opened, text: str, width: int, dark: bool
) -> None:
    page = opened(text, width=width, dark=dark)
    names = []
    for chart in drawn(page):
        assert chart.locator("canvas").first.evaluate(PAINTED) > 3, chart.get_attribute("id")
        names.append(chart.get_attribute("id"))
    assert {"latency-0", "percentiles-0", "traffic-rate", "memory-0", "counters-held", "processor-cpu"} <= {*names}
    assert page.evaluate(OVERFLOW) == 0
    expect(page.locator("h1")).to_have_text("FAIL")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, paper[4:-1].split(","))) < 60) is dark


def test_axes_have_units(opened: Opened, text: str) -> None:
    page = opened(text)
    made = page.evaluate("Object.values(busyhour.data).flatMap(section => section.charts || [])")
    assert len(made) > 8
    counts = {"count", "calls in progress", "failed calls", "% of one core"}
    for chart in made:
        label = chart["y"]["label"]
        assert label in counts or label.endswith(("(ms)", "(MB)", "(1/s)", "(s)")), label
    assert page.evaluate("busyhour.data.bands.axis.label") == "time since the run began (min)"


def test_the_button_turns_the_colours_and_the_charts_with_them(opened: Opened, text: str) -> None:
    page = opened(text)
    next(drawn(page))
    before, light = page.evaluate(PICTURE), page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    page.wait_for_function(f"before => {PICTURE} !== before", arg=before)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.locator("#theme").click()
    page.wait_for_function(f"before => {PICTURE} === before", arg=before)


def test_each_colour_is_a_pair_whoever_chooses_it(opened: Opened, text: str) -> None:
    page = opened(text)
    light = page.evaluate("busyhour.palette()")
    page.locator("#theme").click()
    chosen = page.evaluate("busyhour.palette()")
    page.emulate_media(media="print")
    assert page.evaluate("busyhour.palette()") == light  # whatever was chosen, on paper
    page.emulate_media(media="screen", color_scheme="dark")
    page.locator("#theme").click()
    assert chosen == page.evaluate("busyhour.palette()") == opened(text, dark=True).evaluate("busyhour.palette()")
    assert all(chosen[name] != light[name] for name in light)
    assert all(colour.startswith("rgb(") for colour in (*light.values(), *chosen.values()))


def test_a_step_is_as_wide_as_its_window_though_it_stands_alone(opened: Opened) -> None:
    alone: JSON = [None, 5, None, None, 7, 7]
    line: JSON = {"label": "p95", "values": alone, "ink": 1, "style": "step"}
    others: JSON = {"xs": [0.5, 1.5, 2.5, 4.9], "series": [{"label": "each", "values": [1, 1, 1, 1], "style": "dots"}]}
    steps: dict[str, JSON] = {
        "x": "number",
        "y": {"label": "late (ms)"},
        "tables": [{"xs": [0, 1, 2, 3, 4, 5], "series": [line]}, others],
    }
    body, out = Body(charts=[Chart(id="steps-0", title="Steps", drawn=steps)]), io.StringIO()
    write_sections("Steps", [section("steps", "Steps", body)], out)
    (chart,) = drawn(opened(out.getvalue()))
    assert 0.3 < chart.locator("canvas").evaluate(OF_ONE_COLOUR, "series-1") < 0.45  # two of five windows, and the axis


def test_the_pointer_tells_the_figures_of_all_charts_over_time(opened: Opened, text: str) -> None:
    page = opened(text)
    next(drawn(page))
    plot = page.locator("#latency-0 .u-over")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    expect(page.locator("#latency-0 .u-value").nth(1)).to_have_text(A_FIGURE)
    expect(page.locator("#traffic-rate .u-value").nth(1)).to_have_text(A_FIGURE)


def test_a_stretch_that_is_dragged_over_is_shown_alone(opened: Opened, text: str) -> None:
    page = opened(text)
    next(drawn(page))
    before = page.evaluate(PICTURE)
    plot = page.locator("#latency-0 .u-over")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 100, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, middle, steps=4)
    page.mouse.up()
    page.wait_for_function(f"before => {PICTURE} !== before", arg=before)
    page.mouse.dblclick(box["x"] + 200, middle)
    page.mouse.move(0, 0)
    page.wait_for_function(f"before => {PICTURE} === before", arg=before)


def test_the_harness_unfolds(opened: Opened, text: str) -> None:
    page = opened(text)
    first = page.locator(".harness .verdict").first
    expect(first).to_be_hidden()
    page.locator(".harness summary").click()
    expect(first).to_be_visible()


def test_a_click_on_a_section_leads_there(opened: Opened, text: str) -> None:
    page = opened(text)
    page.get_by_role("navigation").get_by_role("link", name="Memory").click()
    expect(page.locator("#memory h2")).to_be_in_viewport()


def test_a_gate_that_failed_leads_to_the_call_that_shows_it(opened: Opened, text: str) -> None:
    page = opened(text)
    page.get_by_role("link", name="Hear the worst of these calls").first.click()
    expect(page.locator(".call:visible")).to_have_count(1)
    expect(page.locator(".call:visible .call-picture canvas").first).to_be_in_viewport()


def test_the_json_can_be_saved(opened: Opened, text: str, tmp_path: Path) -> None:
    page = opened(text)
    with page.expect_download() as download:
        page.locator("#save").click()
    download.value.save_as(tmp_path / "judgement.json")
    assert json.loads((tmp_path / "judgement.json").read_text())["format"] == "busyhour.judgement"


def test_on_paper_the_charts_are_light_and_everything_is_unfolded(opened: Opened, text: str) -> None:
    page = opened(text, dark=True)
    next(drawn(page))
    assert len(page.pdf(format="A4")) > 50_000
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    expect(page.locator(".harness .verdict").first).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.querySelector('.u-wrap').clientWidth") == 680
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    expect(page.locator(".harness .verdict").first).to_be_hidden()
    assert page.evaluate("document.querySelector('.u-wrap').clientWidth") != 680


def test_what_was_said_does_not_run(opened: Opened) -> None:
    fault = Mark(5 * SECOND, "fault.began", HACK, {"phase": HACK})
    run = whole_run(silent(4), phases=[HACK, "steady"], marks=[fault], meta={**META, "plan": HACK})
    page = opened(page_of(run))
    assert page.evaluate("window.hacked") is None
    expect(page.locator(".verdict").first).to_be_visible()


@pytest.mark.parametrize("which", ["requests", "silent", "empty"])
def test_runs_of_other_kinds_are_drawn_without_an_error(opened: Opened, which: str) -> None:
    runs = {
        "requests": requests(),
        "silent": whole_run(silent(4), meta=META, seconds=120),
        "empty": replace(whole_run(), marked=[]),
    }
    page = opened(page_of(runs[which]), width=390)
    for chart in drawn(page):
        assert chart.locator("canvas").first.evaluate(PAINTED) > 1, chart.get_attribute("id")
    assert page.evaluate(OVERFLOW) == 0


def page_of(run: Run) -> str:
    return page(run, judged(run))
