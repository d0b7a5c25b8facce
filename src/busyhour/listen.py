"""`busyhour listen`: which calls of a run can be heard, why each of them was kept, and one of them as a WAV file."""

from __future__ import annotations

import os
import wave
from collections import Counter
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TextIO

import numpy as np

from busyhour.errors import JournalError
from busyhour.journal import StoredRun, open_run
from busyhour.media.channels import channels
from busyhour.model import MS, SECOND, Operation
from busyhour.recording import Figures, Recorded, Sound, badness, unanswered, worst

__all__ = ["channels", "listen", "reasons", "wav"]

EXAMPLE = "busyhour listen runs/x.journal steady/7 --to call.wav"
WIDTH = 80


def listen(journal: Path, call: str | None, to: Path | None, out: TextIO) -> int:
    """Print the table of the calls that can be heard; or write one of them to `to` (by default named after it).

    Raises JournalError when there is no journal, no such call, no recording at all, or no room for the file.
    """
    with open_run(journal) as run:
        if not run.recordings() and (why := _without_media(run.operations("call"))):
            raise JournalError(f"{journal}: it has no recordings: {why}")
        if call is None:
            _print_table(run, out, journal)
        else:
            _write(run, call, to or Path(f"{call.replace(os.sep, '-')}.wav"), out)
    return 0


def wav(sound: Sound) -> bytes:
    """A stereo WAV file of 16 bits: the caller left, the agent right."""
    both = np.stack(channels(sound), axis=1).astype("<i2")
    held = BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(sound.rate_hz)
        file.writeframes(both.tobytes())
    return held.getvalue()


def reasons(recorded: Sequence[Recorded], most: int) -> Mapping[str, str]:
    """Why each of these calls, of one phase, was kept, the worst first: what was bad about it. Those that are not among
    the `most` worst are a sample."""
    ranked = worst({one.call: one.figures for one in recorded}, len(recorded))
    peaks = {kind: max(dict(badness(one.figures))[kind] for one in recorded) for kind, _ in badness(Figures())}
    figures = {one.call: one.figures for one in recorded}
    names = [*ranked, *(one.call for one in recorded if one.call not in ranked)]
    return {
        name: ("" if at < most else "sample: ") + ", ".join(_told(figures[name], ranked.get(name, ""), peaks))
        for at, name in enumerate(names)
    }


def _told(figures: Figures, taken_for: str, peaks: Mapping[str, int]) -> list[str]:
    """What was bad about a call: each failure, where it is the worst of its phase, and why it was taken."""
    words = {
        "failed": f"failed: {figures.outcome}" if figures.outcome != "ok" else "",
        "unanswered": unanswered(figures),
        "barge-in": f"talked over {figures.talked_over}x" if figures.talked_over else "",
        "dead air": f"dead air {figures.dead_air_ns / SECOND:.1f} s" if figures.dead_air_ns else "",
        "response": f"response {figures.response_ns / MS:,.0f} ms" if figures.response_ns else "",
        "early": f"cuts in {figures.cut_ins}x" if figures.cut_ins else "",
        "underrun": f"{figures.holes} hole{'' if figures.holes == 1 else 's'}" if figures.holes else "",
    }
    most = {"early": ("cut-ins", figures.cut_ins), "underrun": ("holes", figures.holes)}
    if not words["barge-in"] and figures.yield_ns:
        words["barge-in"] = f"yields in {figures.yield_ns / MS:,.0f} ms"
    bad, told = dict(badness(figures)), list[str]()
    for kind, said in words.items():
        is_peak = bad[kind] == peaks[kind]
        if said and is_peak and kind in {"barge-in", "dead air", "response"}:
            told.append(f"worst {said}")
        elif said and is_peak and kind in most and most[kind][1] > 1:
            told.append(f"most {most[kind][0]}: {most[kind][1]}")
        elif said and (kind == taken_for or kind in {"failed", "unanswered", "early"}):
            told.append(said)
    return told or ["nothing out of the ordinary"]


def _without_media(calls: Sequence[Operation]) -> str:
    """That all calls failed before there was anything to hear, and of what most of them did; "" if they did not."""
    if not calls or any(call.outcome == "ok" or call.detail.get("opened_ns") for call in calls):
        return ""
    ((reason, alike),) = Counter(call.outcome for call in calls).most_common(1)
    said = next(str(call.detail.get("why") or "") for call in calls if call.outcome == reason)
    said = said.removeprefix(reason).removeprefix(": ")
    who = "the only call" if len(calls) == 1 else f"all {len(calls):,} calls"
    most = "" if alike == len(calls) else f", {alike:,} of them"
    return f"{who} failed before there was media{most}: {reason}{f' ({said})' if said else ''}"


# ---------------------------------------------------------------- the table


def _print_table(run: StoredRun, out: TextIO, journal: Path) -> None:
    recorded = run.recordings()
    if not recorded:
        run.recording("")  # raises, and says how to switch them on
    marks = _marks(run)
    by_phase: dict[str, list[Recorded]] = {}
    for one in recorded:
        by_phase.setdefault(one.phase, []).append(one)
    for phase, calls in by_phase.items():
        out.write(_phase_line(run, phase, len(calls), marks.get(phase, {})) + "\n")
        _print_calls(calls, marks.get(phase, {}), out)
    size = sum(one.bytes for one in recorded) / 1e6
    out.write(f"{len(recorded)} calls, {size:.1f} MB. To hear one: busyhour listen {journal} CALL --to call.wav\n")


def _print_calls(calls: Sequence[Recorded], detail: Mapping[str, object], out: TextIO) -> None:
    most = detail.get("worst")
    every = len(calls) if detail.get("all") or not isinstance(most, int) else most
    by_name = {one.call: one for one in calls}
    width = min(32, max(map(len, by_name)))
    for name, why in reasons(calls, every).items():
        one = by_name[name]
        line = f"  {_short(name, width):{width}}  {_clock(one.ended_ns - one.began_ns):>6}  "
        out.write(line + _short(why + (" (cut)" if one.cut else ""), WIDTH - len(line)) + "\n")
    out.write("\n")


def _marks(run: StoredRun) -> Mapping[str, Mapping[str, object]]:
    """What was said of each phase's recordings; by several processes, if it was they that made the run."""
    found: dict[str, dict[str, object]] = {}
    for mark in run.marks("recordings"):
        before = found.get(mark.name, {})
        counts = {name: _count(before, name) + _count(mark.detail, name) for name in ("recorded", "left_out")}
        found[mark.name] = {**mark.detail, **counts}
    return found


def _count(detail: Mapping[str, object], name: str) -> int:
    count = detail.get(name)
    return count if isinstance(count, int) else 0


def _phase_line(run: StoredRun, phase: str, kept: int, detail: Mapping[str, object]) -> str:
    happened = len(run.operations("call", phase))
    line = f"{phase}: {kept} of {happened} calls"
    if kept < (count := _count(detail, "recorded")) < happened:
        line += f", chosen from {count} that were recorded"
    if left_out := _count(detail, "left_out"):
        line += f"; no room for {left_out}"
    return _short(line, WIDTH)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _clock(ns: int) -> str:
    seconds = round(ns / SECOND)
    return f"{seconds // 60}:{seconds % 60:02}"


# ---------------------------------------------------------------- one call


def _write(run: StoredRun, call: str, to: Path, out: TextIO) -> None:
    sound = run.recording(call)
    try:
        to.write_bytes(wav(sound))
    except OSError as error:
        raise JournalError(f"{to}: the sound cannot be written there: {error.strerror}; give another place") from None
    lines = [
        f"{(at_ns - sound.began_ns) / SECOND:8.2f} s  {words}" for at_ns, words in sorted(_events(run, call, sound))
    ]
    out.writelines(f"{_short(line, WIDTH)}\n" for line in lines)
    seconds = (sound.ended_ns - sound.began_ns) / SECOND
    cut = "; the call went on, but no more of it was kept" if sound.cut else ""
    out.write(f"\n{to}: {seconds:.1f} s, the caller left, the agent right{cut}\n")


def _events(run: StoredRun, call: str, sound: Sound) -> list[tuple[int, str]]:
    """What there is to hear, and when."""
    found = [(at_ns, "the agent clears what it has sent") for at_ns in sound.clears_ns]
    for kind in ("greeting", "turn", "barge_in", "pause", "underrun"):
        for operation in run.operations(kind):
            if operation.parent == call:
                found += _told_of(operation)
    return found


def _told_of(operation: Operation) -> list[tuple[int, str]]:
    due_ns, ended_ns = operation.due_ns, operation.ended_ns
    began_ns = due_ns if operation.began_ns is None else operation.began_ns
    took = "" if ended_ns is None else f"{(ended_ns - due_ns) / MS:,.0f} ms"
    text = operation.detail.get("text")
    match operation.kind:
        case "greeting":
            return [(ended_ns or due_ns, f"the agent greets, after {took}" if took else "no greeting")]
        case "turn":
            answer = f"the agent answers, after {took}" if took else f"no answer ({operation.outcome})"
            if ended_ns is not None and ended_ns < due_ns:
                answer = f"the agent cuts in, {(due_ns - ended_ns) / MS:,.0f} ms early"
            return [(began_ns, f'caller: "{text}"'), (ended_ns or due_ns, answer)]
        case "barge_in":
            yielded = f"the agent stops, after {took}" if took else f"the agent talks on ({operation.outcome})"
            return [(began_ns, f'the caller talks over it: "{text}"'), (ended_ns or due_ns, yielded)]
        case _:
            what = "hole" if operation.kind == "underrun" else "silence"
            return [(began_ns, f"a {what} of {took} in the agent's speech")]
