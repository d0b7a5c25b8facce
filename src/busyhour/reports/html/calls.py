"""The worst calls of a run, to look at and to listen to: one click from a bad percentile to hearing why."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from markupsafe import Markup

from busyhour.media.channels import channels
from busyhour.model import JSON, SECOND, Run, Samples
from busyhour.recording import Recorded, Sound
from busyhour.reports.html.body import TEMPLATES
from busyhour.reports.html.calls_audio import Clip, cost, fitted, rate_in_page, shares, stretch, within
from busyhour.reports.html.calls_chosen import Chosen, borne, chosen, reasons
from busyhour.reports.html.calls_shape import Frame, as_text, clock, drawn, waves, waves_bytes
from busyhour.reports.html.calls_story import Line, Story, story
from busyhour.reports.html.section import Section

ID = "calls"
MOST = 10
_LINES_MOST = 160  # of one call's transcript
_PLAYER_BYTES = 1_500


@runtime_checkable
class Audible(Protocol):
    """A Run that may have kept the sound of its calls."""

    def recordings(self, phase: str | None = None) -> Sequence[Recorded]: ...

    def recording(self, call: str) -> Sound: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One call, ready to be shown."""

    one: Chosen
    story: Story
    recorded: Recorded | None
    frame: Frame
    waves: JSON = None
    clip: Clip | None = None

    @property
    def whole_ns(self) -> int:
        return self.story.until_ns - self.story.since_ns


def worst_calls(run: Run, *, bytes_max: int, phases: Collection[str] = ()) -> Section | None:
    """The section, about so many bytes long at the most; None for a run without calls.

    phases: those whose worst calls come first, such as those of which a demand is missed. Sound is read of a Run that
    is `Audible`; where there is none, or no room for it, the call is shown without, and says why.
    """
    kept = {one.call: one for one in run.recordings()} if isinstance(run, Audible) else {}
    calls = borne(run)
    worst = chosen(calls, kept, most=MOST, phases=phases)
    if not calls:
        return None
    told = [_told(run, one, kept.get(one.call)) for one in worst]
    if not isinstance(run, Audible):
        return _section(told, run.meta, happened=len(calls))
    mute = _section(told, run.meta, happened=len(calls))
    room = bytes_max - size(mute) - sum(_more_with_sound(call) for call in told if call.recorded)
    return _section(_with_sound(run, told, room), run.meta, happened=len(calls))


def size(section: Section) -> int:
    """In bytes, as the page has it."""
    return len(section.html.encode()) + len(json.dumps(section.data))


def _section(calls: Sequence[_Call], meta: Mapping[str, JSON], *, happened: int) -> Section:
    any_sound = any(call.recorded for call in calls)
    shown = [_shown(call, meta, any_sound=any_sound) | {"instead": _instead(call, calls)} for call in calls]
    html = Markup(TEMPLATES.get_template("calls.html.j2").render(calls=shown, happened=happened))  # noqa: S704 (escapes)
    return Section(ID, "The worst calls", html, {"calls": [_data(call) for call in calls]})


def anchor(section: Section, *, phases: Collection[str] = (), kind: str = "") -> str | None:
    """Where the page has the first call of these phases that was taken for this kind of badness, or has a stretch of
    this kind in its picture, or else of these phases: "call-1". None if it has none."""
    listed = section.data["calls"]
    assert isinstance(listed, Sequence)
    calls = [call for call in listed if isinstance(call, Mapping) and (not phases or call["phase"] in phases)]
    ways = (lambda call: call["kind"] == kind, lambda call: _shows(call, kind), bool)
    first = next((call for way in ways for call in calls if way(call)), None)
    return None if first is None else f"call-{first['number']}"


def _shows(call: Mapping[str, JSON], kind: str) -> bool:
    spans = call["spans"]
    assert isinstance(spans, Sequence)
    return any(isinstance(span, Sequence) and span[0] == kind for span in spans)


def _told(run: Run, one: Chosen, recorded: Recorded | None) -> _Call:
    if recorded is None:
        its = story(run, one)
        frame = Frame(zero_ns=its.since_ns, since_ns=its.since_ns, until_ns=its.until_ns)
    else:
        its = story(run, one, clears_ns=recorded.clears_ns, marks=recorded.marks)
        frame = Frame(zero_ns=recorded.began_ns, since_ns=recorded.began_ns, until_ns=recorded.ended_ns)
    return _Call(one=one, story=replace(its, lines=_nearest(its)), recorded=recorded, frame=frame)


def _nearest(its: Story) -> tuple[Line, ...]:
    """Its lines; of very many those around the worst moment."""
    middle_ns = its.worst.since_ns if its.worst else its.since_ns
    before = sum(line.at_ns <= middle_ns for line in its.lines)
    begin = max(0, min(before - _LINES_MOST // 2, len(its.lines) - _LINES_MOST))
    return its.lines[begin : begin + _LINES_MOST]


def _more_with_sound(call: _Call) -> int:
    """What its player takes, and the shape of all of its sound; the sound itself not."""
    return _PLAYER_BYTES + waves_bytes((call.frame.until_ns - call.frame.since_ns) / SECOND)


# ---------------------------------------------------------------- sound


def _with_sound(run: Audible, told: Sequence[_Call], room: int) -> list[_Call]:
    """Each recorded call has a share of the room, and what it leaves is the next one's. One sound is held at a time."""
    recorded = [call.recorded for call in told]
    costs = [0 if one is None else _cost(one) for one in recorded]
    left = max(0, room * 3 // 4)
    later = shares(costs, left)
    shown = []
    for place, call in enumerate(told):
        if call.recorded is None:
            shown.append(call)
            continue
        whole = run.recording(call.one.call)
        sound = stretch(whole, _around(call, whole))
        both = channels(sound)
        most = left - sum(later[place + 1 :]) if later[place] else 0
        clip = fitted(sound, both, bytes_max=most, around_ns=_around(call, sound))
        left -= 0 if clip is None else len(clip.ogg)
        shown.append(_framed(call, sound, both, clip))
    return shown


def _cost(one: Recorded) -> int:
    """Of all its sound; how long it sounds is told by what is stored of it, for silence is not."""
    width = 2 if one.codec == "L16" else 1
    return cost((one.ended_ns - one.began_ns) / SECOND, one.bytes / (width * one.rate_hz), one.rate_hz)


def _around(call: _Call, sound: Sound) -> tuple[int, int]:
    worst = call.story.worst
    if worst is None:
        return 0, 0
    return worst.since_ns - sound.began_ns, worst.until_ns - sound.began_ns


def _framed(call: _Call, sound: Sound, both: tuple[Samples, Samples], clip: Clip | None) -> _Call:
    """What is drawn is what can be heard; all there is, if nothing can be."""
    frame, rate_hz = replace(call.frame, since_ns=sound.began_ns, until_ns=sound.ended_ns), sound.rate_hz
    if clip is not None:
        both = (
            within(both[0], rate_hz, clip.since_ns, clip.until_ns),
            within(both[1], rate_hz, clip.since_ns, clip.until_ns),
        )
        frame = replace(frame, since_ns=sound.began_ns + clip.since_ns, until_ns=sound.began_ns + clip.until_ns)
    return replace(call, frame=frame, clip=clip, waves=waves(*both, rate_hz))


# ---------------------------------------------------------------- what the page gets


def _data(call: _Call) -> dict[str, JSON]:
    return {
        "number": call.one.number,
        "call": call.one.call,
        "phase": call.one.borne.phase,
        "kind": call.one.kind,
        "audio": None if call.clip is None else as_text(call.clip.ogg),
        "rate_hz": None if call.recorded is None else rate_in_page(call.recorded.rate_hz),
        "waves": call.waves,
        **drawn(call.story, call.frame),
    }


def _shown(call: _Call, meta: Mapping[str, JSON], *, any_sound: bool) -> dict[str, object]:
    one, frame = call.one, call.frame
    why = reasons(one)
    return {
        "number": one.number,
        "name": one.call,
        "phase": one.borne.phase,
        "scenario": call.story.scenario,
        "why": why[0],
        "also": why[1:],
        "length": clock(call.whole_ns).partition(".")[0],
        "audible": call.clip is not None,
        "sound": _of_sound(call, meta, any_sound=any_sound),
        "lines": [
            {
                "at": clock(line.at_ns - frame.zero_ns),
                "seconds": frame.at_s(line.at_ns) if frame.shows(line.at_ns) else None,
                "line": line,
                "worst": line.at_ns == _heard_ns(call.story),
            }
            for line in call.story.lines
        ],
        "said": summary(call.story),
    }


def _heard_ns(its: Story) -> int | None:
    """When the worst moment is heard: an answer that comes late, at its end; one that cuts in, at its beginning."""
    if its.worst is None:
        return None
    return its.worst.since_ns if its.worst.kind == "early" else its.worst.until_ns


def _instead(call: _Call, calls: Sequence[_Call]) -> int | None:
    """Of a call without sound the number of the one to hear in its place: the next that was taken for the same."""
    if call.clip is not None:
        return None
    heard = [other.one for other in calls if other.clip is not None]
    alike = [one.number for one in heard if one.kind == call.one.kind]
    return next(iter([*alike, *(one.number for one in heard)]), None)


def summary(its: Story) -> str:
    """What the picture shows, for those who do not see it."""
    spans = its.spans
    answers = [span.label for span in spans if span.kind in {"response", "early"}]
    told = [f"{len(answers)} turn{'' if len(answers) == 1 else 's'}: {', '.join(answers)}" if answers else "no turns"]
    counted = {
        "pause": "silences within answers",
        "underrun": "holes in the agent's speech",
        "barge_in": "interruptions",
    }
    for kind, words in counted.items():
        if count := sum(span.kind == kind for span in spans):
            told.append(f"{count} {words}")
    told += [f"fault {span.label}" for span in spans if span.kind == "fault"]
    return "; ".join(told)


def _of_sound(call: _Call, meta: Mapping[str, JSON], *, any_sound: bool) -> str:
    """What is to be said of its sound; "" if all of it is there."""
    plan = shlex.quote(str(meta.get("plan") or "PLAN"))
    listen = f"busyhour listen JOURNAL {shlex.quote(call.one.call)} --to call.wav"
    if call.recorded is None and not any_sound:
        return (
            f"There is no sound: this run recorded no call. To hear the next one: busyhour run {plan} --record all "
            "(or --record 20: the worst and 20 more of each phase)."
        )
    if call.recorded is None:
        return (
            "There is no sound of this call: it was not among those that were recorded. "
            f"To hear every call of the next run: busyhour run {plan} --record all."
        )
    if call.clip is None:
        return f"There is no room for its sound in this page. To hear it: {listen}"
    told = []
    if call.clip.until_ns - call.clip.since_ns < call.recorded.ended_ns - call.recorded.began_ns:
        since, until = (clock(at_ns - call.frame.zero_ns) for at_ns in (call.frame.since_ns, call.frame.until_ns))
        told.append(
            f"Shown is {since} to {until}, around its worst moment: the page has no room for more. All of it: {listen}"
        )
    if call.recorded.cut:
        kept_ns = call.recorded.ended_ns - call.recorded.began_ns
        told.append(f"The call went on: its first {kept_ns // SECOND} s were recorded.")
    return " ".join(told)
