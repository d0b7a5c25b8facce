"""The worst calls as their readers have them: in a browser, with a real click, and with sound."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from busyhour.gates import judge
from busyhour.journal import Journal, open_run
from busyhour.media.codec import codec
from busyhour.model import JSON, MS, SECOND, Mark, Operation, Plan
from busyhour.recording import Figures, Recorded, Sound, Track
from busyhour.reports import html
from busyhour.reports.html import calls
from busyhour.reports.html.section import Section
from busyhour.testing import answered, whole_run

RATE_HZ = 8_000
BEGAN_NS = 100 * SECOND
SECONDS = 12
ASKED = (1.0, 3.0)
HACK = "<script>window.hacked = 1</script>"
PATIENT_MS = 60_000
DEMANDS_NOTHING = Plan(target=cast(Any, None), phases=(), gates=())


# ---------------------------------------------------------------- a run


def at(seconds: float) -> int:
    return BEGAN_NS + round(seconds * SECOND)


def track(*stretches: tuple[float, float]) -> Track:
    """A tone in each stretch, which begins and ends abruptly."""
    octets, runs = b"", []
    for since, until in stretches:
        begin, count = round(since * RATE_HZ), round((until - since) * RATE_HZ)
        octets += codec("PCMU").encode((9_000 * np.sin(np.arange(count) * 0.5)).astype(np.int16))
        runs.append((begin, count))
    return Track(octets, np.array(runs, np.int64).reshape(-1, 2))


def sound(*, agent: tuple[float, float], seconds: float = SECONDS) -> Sound:
    return Sound(
        began_ns=BEGAN_NS,
        ended_ns=at(seconds),
        codec="PCMU",
        rate_hz=RATE_HZ,
        silence=b"\xff",
        caller=track(ASKED),
        agent=track(agent),
        clears_ns=(at(9),),
        marks=((at(8), "reply-1"),),
    )


def part(call: str, kind: str, since: float, until: float | None, **more: object) -> Operation:
    own: dict[str, object] = {
        "id": f"{call}/{kind}/{since}",
        "due_ns": at(since),
        "began_ns": at(since),
        "ended_ns": None if until is None else at(until),
        "parent": call,
        "phase": call.partition("/")[0],
    }
    return Operation(kind=kind, **{**own, **more})  # type: ignore[arg-type]  # a test names them well


def operations(call: str, *, answered: float | None, asked: str, said: str) -> Iterator[Operation]:
    """A caller who asks once, and an agent who answers then, if ever."""
    end = {"scenario": "one question", "ended_by": "caller", "why": ""}
    yield part(call, "call", 0, SECONDS, id=call, parent="", detail=end)
    yield part(call, "speech", *ASKED, who="caller")
    turn = {"text": asked, "gave_up_ns": at(9)}
    yield part(
        call, "turn", ASKED[1], answered, began_ns=at(ASKED[0]), detail=turn, outcome="ok" if answered else "missed"
    )
    if answered is not None:
        yield part(call, "speech", answered, answered + 2, who="agent")
        voice = {"text": said, "first_audio_ns": at(answered) - MS, "audio_ms": 2_000.0, "cancelled": False}
        yield part(call, "tts", answered - 0.1, answered + 1, parent="", phase="", detail=voice)


def written(path: Path, *, seconds: float = SECONDS, record: bool = True) -> Path:
    """Three calls of two phases: two of them with sound, the worst after 2,913 ms; the third was never answered."""
    with Journal.create(path, {"plan": "plans/x.py"}) as journal:
        for call, answered, asked, said in (
            ("steady/1", 5.913, f"Hello {HACK}", f"Good day {HACK}"),
            ("steady/2", 3.5, "Ist Ihre Praxis heute geöffnet? 你好", "Ja."),
            ("llm brown-out/1", None, "Are you there?", ""),
        ):
            for one in operations(call, answered=answered, asked=asked, said=said):
                journal.append(one)
            if record and answered is not None:
                whole = sound(agent=(answered, answered + 2), seconds=seconds)
                journal.keep(kept(call, whole, response_ns=at(answered) - at(ASKED[1])), whole)
        journal.append(Mark(at(2), "fault.began", "llm no_token", {"phase": "steady"}))
        journal.append(Mark(at(7), "fault.ended", "llm no_token", {"phase": "steady"}))
    return path


def kept(call: str, whole: Sound, **figures: int) -> Recorded:
    return Recorded(
        call=call,
        phase=call.partition("/")[0],
        began_ns=whole.began_ns,
        ended_ns=whole.ended_ns,
        codec=whole.codec,
        rate_hz=whole.rate_hz,
        bytes=whole.bytes,
        clears_ns=whole.clears_ns,
        marks=whole.marks,
        figures=Figures(**figures),
    )


def section(path: Path, bytes_max: int = 2_000_000) -> Section:
    with open_run(path) as run:
        made = calls.worst_calls(run, bytes_max=bytes_max)
    assert made is not None
    return made


def listed(made: Section) -> list[dict[str, JSON]]:
    found = made.data["calls"]
    assert isinstance(found, list)
    return found


# ---------------------------------------------------------------- without a browser


def test_the_worst_call_comes_first_and_says_why(tmp_path: Path) -> None:
    made = section(written(tmp_path / "x.journal"))
    assert [(call["call"], call["kind"]) for call in listed(made)] == [
        ("steady/1", "response"),
        ("llm brown-out/1", "dead air"),
        ("steady/2", "response"),
    ]
    assert "worst response 2,913 ms" in made.html
    assert calls.anchor(made, phases=["steady"]) == "call-1"
    assert calls.anchor(made, phases=["llm brown-out"], kind="response") == "call-2"
    assert calls.anchor(made, phases=["elsewhere"]) is None


def test_an_anchor_is_of_a_call_that_shows_what_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    with Journal.create(path, {"plan": "plans/x.py"}) as journal:
        for call, answered in (("steady/1", 5.913), ("steady/2", 3.5)):
            for one in operations(call, answered=answered, asked="Hello", said="Good day"):
                journal.append(one)
        journal.append(part("steady/2", "underrun", 4.0, 4.2))
    made = section(path)
    assert [call["call"] for call in listed(made)] == ["steady/1", "steady/2"]
    assert calls.anchor(made, phases=["steady"], kind="underrun") == "call-2"
    assert calls.anchor(made, phases=["steady"], kind="early") == "call-1"


def test_what_was_said_is_told_with_its_instants_and_escaped(tmp_path: Path) -> None:
    made = section(written(tmp_path / "x.journal")).html
    for told in ("after 2,913 ms", "0:05.9", "Ist Ihre Praxis heute geöffnet? 你好", "Fault injected: llm no_token"):
        assert told in made
    assert "&lt;script&gt;window.hacked" in made
    assert "<script" not in made


def test_a_section_takes_no_more_bytes_than_it_may(tmp_path: Path) -> None:
    path = written(tmp_path / "x.journal", seconds=90)
    for bytes_max in (2_000_000, 80_000, 60_000):
        made = section(path, bytes_max)
        assert calls.size(made) <= bytes_max
        heard = [call for call in listed(made) if call["audio"]]
        assert heard, f"in {bytes_max} bytes there is room for some sound"
        assert all(call["worst"] is not None for call in heard), "the worst moment is among what is kept"


def test_a_call_that_is_too_long_is_cut_to_its_worst_moment_and_says_so(tmp_path: Path) -> None:
    path = written(tmp_path / "x.journal", seconds=90)
    told = "around its worst moment: the page has no room for more"
    made = section(path, 60_000)
    seconds = listed(made)[0]["seconds"]
    assert isinstance(seconds, float)
    assert 4 <= seconds < 90
    assert told in made.html
    assert told not in section(path).html
    none = section(path, 20_000)
    assert not any(call["audio"] for call in listed(none))
    assert "There is no room for its sound in this page. To hear it: busyhour listen JOURNAL steady/1" in none.html


def test_a_run_without_recordings_shows_its_calls_and_says_how_to_record_them(tmp_path: Path) -> None:
    made = section(written(tmp_path / "x.journal", record=False))
    assert [call["audio"] for call in listed(made)] == [None] * 3
    assert "this run recorded no call. To hear the next one: busyhour run plans/x.py --record all" in made.html
    assert "after 2,913 ms" in made.html


def test_a_run_of_fifty_phases_shows_the_ten_worst_of_all_and_those_asked_for_first() -> None:
    phases = [f"Störung № {number:02} <b>" for number in range(50)]
    run = whole_run(
        (one for n, phase in enumerate(phases) for one in answered([500 + n, 400.0], phase=phase)), phases=phases
    )
    made = calls.worst_calls(run, bytes_max=500_000, phases=phases[:1])
    assert made is not None
    assert [call["phase"] for call in listed(made)] == [phases[0], *reversed(phases[41:])]
    assert "Störung № 49 &lt;b&gt;" in made.html
    assert "The 10 worst of 50 calls" in made.html


def test_a_run_without_calls_has_no_such_section(tmp_path: Path) -> None:
    with Journal.create(tmp_path / "x.journal", {}) as journal:
        journal.append(Mark(0, "run.began"))
    with open_run(tmp_path / "x.journal") as run:
        assert calls.worst_calls(run, bytes_max=1_000_000) is None


# ---------------------------------------------------------------- with one


Opened = Callable[..., Page]
Shown = Callable[..., Page]


@pytest.fixture
def shown(opened: Opened, tmp_path: Path) -> Shown:
    """Opens the whole report of the run in a browser, in which nothing may go wrong."""

    def show(*, width: int = 1280, **how: bool) -> Page:
        out = io.StringIO()
        with open_run(written(tmp_path / "x.journal", **how)) as run:
            html.report(run, judge(DEMANDS_NOTHING, run), out)
        page = opened(out.getvalue(), width=width)
        page.wait_for_selector(".call-picture canvas")
        return page

    return show


def test_a_click_on_a_worst_call_opens_it_with_its_player(shown: Shown) -> None:
    page = shown()
    expect(page.locator("#call-1")).to_be_visible()
    expect(page.locator("#call-3")).to_be_hidden()
    page.click(".calls-list a[data-call='3']")
    expect(page.locator("#call-3")).to_be_visible()
    expect(page.locator("#call-1")).to_be_hidden()
    expect(page.locator("#call-3 .call-picture canvas")).to_be_visible()
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_enabled()
    until(page, f"{AUDIO.replace('1', '3')}.src.startsWith('blob:')")


def test_an_anchor_opens_its_call(shown: Shown) -> None:
    page = shown()
    page.evaluate("location.hash = '#call-2'")
    expect(page.locator("#call-2")).to_be_in_viewport()
    expect(page.locator("#call-1")).to_be_hidden()
    page.reload()
    expect(page.locator("#call-2 canvas")).to_be_in_viewport()
    expect(page.locator("#call-1")).to_be_hidden()


KEEP = """() => {
  window.kept = [];
  const own = URL.createObjectURL;
  URL.createObjectURL = (blob) => { kept.push(blob); return own(blob); };
}"""
HEARD = """async () => {
  const element = document.querySelector('#call-3 audio');
  while (!element.readyState) await new Promise(requestAnimationFrame);
  const audio = await new OfflineAudioContext(2, 1, 8000).decodeAudioData(await kept[0].arrayBuffer());
  const onset = (channel) => audio.getChannelData(channel).findIndex((x) => Math.abs(x) > 0.05) / audio.sampleRate;
  return { seconds: audio.duration, element: element.duration, caller: onset(0), agent: onset(1) };
}"""


def test_the_sound_is_exact_in_time_with_the_caller_left_and_the_agent_right(shown: Shown) -> None:
    page = shown()
    page.evaluate(KEEP)
    page.click(".calls-list a[data-call='3']")
    heard = page.evaluate(HEARD)
    assert heard["seconds"] == pytest.approx(SECONDS, abs=0.01)
    assert heard["element"] == pytest.approx(SECONDS, abs=0.01)
    assert heard["caller"] == pytest.approx(ASKED[0], abs=0.01)
    assert heard["agent"] == pytest.approx(3.5, abs=0.01)


AUDIO = "document.querySelector('#call-1 audio')"


def until(page: Page, condition: str) -> None:
    """Looks at each frame whether it holds; `wait_for_function` is an eval, which the policy of the page forbids."""
    page.evaluate(
        f"""() => new Promise((done, fail) => {{
          const look = () => {{
            if ({condition}) done();
            else if (performance.now() > {PATIENT_MS}) fail(new Error("never: " + {condition!r}));
            else requestAnimationFrame(look);
          }};
          look();
        }})"""
    )


PLACE = "new DOMMatrix(getComputedStyle(document.querySelector('#call-1 .call-head-line')).transform).m41"


def test_playing_moves_the_playhead(shown: Shown) -> None:
    page = shown()
    until(page, f"{AUDIO}.readyState >= 3")
    began = page.evaluate(PLACE)
    page.click("#call-1 .call-play")
    until(page, f"{AUDIO}.currentTime > 1.5")
    until(page, f"{PLACE} > {began}")
    expect(page.locator("#call-1 .call-play")).to_have_attribute("aria-label", "Pause")
    page.click("#call-1 .call-play")
    until(page, f"{AUDIO}.paused")


def test_one_click_plays_the_worst_moment(shown: Shown) -> None:
    page = shown()
    page.click("#call-1 .call-begin")
    expect(page.locator("#call-1 .call-time")).to_have_text("0:00.0 / 0:12.0")
    page.click("#call-1 .call-worst")
    until(page, f"{AUDIO}.currentTime > 1.1")
    assert not page.evaluate("document.querySelector('#call-1 audio').paused")


def test_keys_and_clicks_seek(shown: Shown) -> None:
    page = shown()
    time, picture = page.locator("#call-1 .call-time"), page.locator("#call-1 .call-picture")
    picture.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(time).to_have_text("0:02.0 / 0:12.0")
    page.keyboard.press("ArrowLeft")
    expect(time).to_have_text("0:01.0 / 0:12.0")
    page.locator("#call-1 .call-line-agent .call-at").click()
    expect(time).to_have_text("0:05.9 / 0:12.0")
    expect(page.locator("#call-1 .call-line[aria-current]")).to_contain_text("Good day")
    over = page.locator("#call-1 .u-over").bounding_box()
    assert over is not None
    page.mouse.click(over["x"] + over["width"] / 2, over["y"] + 60)
    expect(time).to_have_text("0:06.0 / 0:12.0")
    picture.focus()
    page.keyboard.press(" ")
    until(page, f"!{AUDIO}.paused")


def test_a_transcript_with_a_script_is_shown_and_not_run(shown: Shown) -> None:
    page = shown()
    expect(page.locator("#call-1 .call-line-caller")).to_contain_text(HACK)
    expect(page.locator("#call-1 .call-line-agent")).to_contain_text(HACK)
    assert page.evaluate("window.hacked") is None


INKED = """(() => {
  const { width, height } = document.querySelector('#call-1 canvas');
  const pixels = document.querySelector('#call-1 canvas').getContext('2d').getImageData(0, 0, width, height).data;
  return pixels.filter((value, index) => index % 4 === 3 && value > 150).length;
})()"""


def test_a_call_without_sound_is_drawn_all_the_same(shown: Shown) -> None:
    page = shown(record=False)
    expect(page.locator("#call-1 .call-sound")).to_contain_text("--record all")
    expect(page.locator("#call-1 .call-play")).to_have_count(0)
    assert page.evaluate(INKED) > 5_000, "the stretches of speech are drawn where there is no sound to be drawn"


def test_a_telephone_shows_it_without_scrolling_sideways(shown: Shown) -> None:
    page = shown(width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.locator("#call-1 .call-play")).to_be_visible()


def test_in_print_every_call_has_its_picture_and_no_player(shown: Shown) -> None:
    page = shown()
    page.emulate_media(media="print")
    for number in (1, 2, 3):
        expect(page.locator(f"#call-{number} canvas")).to_be_visible()
        expect(page.locator(f"#call-{number} .call-player")).to_be_hidden()
    page.emulate_media(media="screen")
    expect(page.locator("#call-2")).to_be_hidden()
    expect(page.locator("#call-1")).to_be_visible()
