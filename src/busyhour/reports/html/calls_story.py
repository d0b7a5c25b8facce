"""What happened in a call, as a page tells it: stretches and instants to draw, and lines to read. All on one clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from busyhour.model import SECOND, Mark, Operation, Run
from busyhour.reports.html.calls_chosen import Chosen, ms, seconds
from busyhour.reports.html.calls_words import Spoken, Witnessed

_BEFORE_NS = SECOND  # a call's first operation may have been due before the call began
_TEXT_MOST = 1_000
_NEAR_NS = 120 * SECOND  # of the worst moment: words are told that near, for others speak all the while
_PARTS = ("greeting", "turn", "barge_in", "speech", "pause", "underrun")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of time. kind: "response" (from the end of the caller's speech to the answer, or to when it was given
    up), "greeting", "pause", "underrun", "early" (the agent cut in), "barge_in", "speech", "fault"."""

    kind: str
    since_ns: int
    until_ns: int
    who: str = "agent"
    label: str = ""
    bad: bool = False  # nothing came, or not in time, or too early, or broken; the worst of the call is `Story.worst`


@dataclass(frozen=True, slots=True)
class Tick:
    """An instant. kind: "clear", "mark", "end"."""

    kind: str
    at_ns: int
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Something said, or something that happened (`who` is "")."""

    at_ns: int
    text: str
    who: str = ""
    note: str = ""
    heard_as: str = ""  # what the transcriber made of it, where that is something else
    bad: bool = False
    unsure: bool = False  # found by timing, and others fit about as well


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    since_ns: int
    until_ns: int
    scenario: str
    spans: tuple[Span, ...]
    ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    worst: Span | None


@runtime_checkable
class Timed(Protocol):
    """A Run that can be asked for the operations of a stretch of time."""

    def during(self, kind: str, since_ns: int, until_ns: int, *, parent: str | None = None) -> Sequence[Operation]: ...


def during(run: Run, kind: str, since_ns: int, until_ns: int, *, parent: str | None = None) -> Sequence[Operation]:
    """The operations of a kind that were due in a stretch of time, its ends included; of one call, if that is named."""
    if isinstance(run, Timed):
        return run.during(kind, since_ns, until_ns, parent=parent)
    found = (one for one in run.operations(kind) if since_ns <= one.due_ns <= until_ns)
    return [one for one in found if parent is None or one.parent == parent]


def story(run: Run, one: Chosen, *, clears_ns: Sequence[int] = (), marks: Sequence[tuple[int, str]] = ()) -> Story:
    """Of one call. `clears_ns` and `marks` come with its recording, if there is one."""
    since_ns, until_ns = one.borne.since_ns, one.borne.until_ns
    window = (since_ns - _BEFORE_NS, until_ns + _BEFORE_NS)
    parts = {kind: during(run, kind, *window, parent=one.call) for kind in _PARTS}
    call = next((c for c in during(run, "call", *_around(window)) if c.id == one.call), None)
    spans = [span for kind in _PARTS for part in parts[kind] if (span := _span(part)) is not None]
    worst = _worst(one.kind, spans, until_ns)
    middle_ns = until_ns if worst is None else worst.since_ns
    near = max(window[0], middle_ns - _NEAR_NS), min(window[1], middle_ns + _NEAR_NS)
    words = Witnessed(*(during(run, kind, *near) for kind in ("tts", "stt", "llm")))
    faults = list(_faults(run, since_ns, until_ns))
    ticks = [Tick("clear", at_ns) for at_ns in clears_ns] + [Tick("mark", at_ns, name) for at_ns, name in marks]
    lines = [*_said(parts, words, clears_ns), *_happened(parts), *_fault_lines(faults, since_ns, until_ns)]
    if call is not None and call.ended_ns is not None:
        lines.append(_end(call, call.ended_ns))
        ticks.append(Tick("end", call.ended_ns, lines[-1].text))
    return Story(
        since_ns=since_ns,
        until_ns=until_ns,
        scenario=str(call.detail.get("scenario") or "") if call else "",
        spans=tuple(sorted([*spans, *faults], key=lambda span: span.since_ns)),
        ticks=tuple(sorted(ticks, key=lambda tick: tick.at_ns)),
        lines=tuple(sorted(lines, key=lambda line: line.at_ns)),
        worst=worst,
    )


def _around(window: tuple[int, int]) -> tuple[int, int]:
    # A call is due when its arrival was, which may be long before it began at a load that could not be met.
    return window[0] - 60 * SECOND, window[1]


# ---------------------------------------------------------------- what is drawn


def _span(part: Operation) -> Span | None:
    began_ns = _began_ns(part)
    match part.kind:
        case "speech":
            who = part.who or "agent"
            return Span(kind="speech", who=who, since_ns=began_ns, until_ns=part.ended_ns or began_ns)
        case "turn" | "greeting":
            return _owed(part)
        case "barge_in" if part.outcome != "not reached":
            talked_over = part.ended_ns is None
            label = "talks on" if part.ended_ns is None else f"yields in {ms(part.ended_ns - began_ns)}"
            return Span(kind="barge_in", since_ns=began_ns, until_ns=_until_ns(part), label=label, bad=talked_over)
        case "pause" | "underrun":
            until_ns = _until_ns(part)
            hole = part.kind == "underrun"
            return Span(kind=part.kind, since_ns=began_ns, until_ns=until_ns, label=ms(until_ns - began_ns), bad=hole)
    return None


def _owed(part: Operation) -> Span:
    """The silence before an answer, or before the greeting."""
    kind = "response" if part.kind == "turn" else "greeting"
    if part.ended_ns is None:
        label = "no answer" if part.kind == "turn" else "no greeting"
        return Span(kind=kind, since_ns=part.due_ns, until_ns=_until_ns(part), label=label, bad=True)
    early_ns = part.due_ns - part.ended_ns
    if early_ns > 0:
        label, bad = f"cuts in, {ms(early_ns)} early", part.kind == "turn"
        return Span(kind="early", since_ns=part.ended_ns, until_ns=part.due_ns, label=label, bad=bad)
    return Span(kind=kind, since_ns=part.due_ns, until_ns=part.ended_ns, label=ms(-early_ns))


def _worst(kind: str, spans: Sequence[Span], until_ns: int) -> Span | None:
    """The moment for which the call was taken."""
    owed = [span for span in spans if span.kind in {"response", "pause"}]
    among = {
        "response": [span for span in owed if span.kind == "response" and not span.bad],
        "dead air": owed,
        "barge-in": [span for span in spans if span.kind == "barge_in"],
        "unanswered": [span for span in spans if span.kind in {"response", "greeting"} and span.bad],
        "early": [span for span in spans if span.kind == "early"],
        "underrun": [span for span in spans if span.kind == "underrun"],
    }.get(kind)
    if among is None:
        return Span(kind="end", since_ns=until_ns, until_ns=until_ns, bad=True)
    return max(among, key=lambda span: (span.bad, span.until_ns - span.since_ns), default=None)


def _faults(run: Run, since_ns: int, until_ns: int) -> Iterable[Span]:
    """The faults that were injected while the call lasted."""
    ends = run.marks("fault.ended")
    for began in run.marks("fault.began"):
        ended_ns = _end_of(began, ends, until_ns)
        if began.at_ns < until_ns and since_ns < ended_ns:
            yield Span(kind="fault", who="", since_ns=began.at_ns, until_ns=ended_ns, label=began.name)


def _end_of(began: Mark, ends: Sequence[Mark], never_ns: int) -> int:
    same = (
        end.at_ns
        for end in ends
        if end.name == began.name and end.detail.get("phase") == began.detail.get("phase") and end.at_ns >= began.at_ns
    )
    return min(same, default=max(never_ns, began.at_ns))


# ---------------------------------------------------------------- what is read


def _said(parts: dict[str, Sequence[Operation]], words: Witnessed, clears_ns: Sequence[int]) -> Iterable[Line]:
    """What the caller said, and what the agent said as its voice's twin witnessed it."""
    caller = _utterances(parts)
    understood = words.understood([spoken for spoken, _ in caller])
    for (spoken, note), heard_as in zip(caller, understood, strict=True):
        text = _clipped(spoken.text) or f"(speaks for {seconds(spoken.ended_ns - spoken.began_ns)})"
        yield Line(at_ns=spoken.began_ns, who="caller", text=text, note=note, heard_as=heard_as)
    answers = {turn.ended_ns: turn for kind in ("turn", "greeting") for turn in parts[kind] if turn.ended_ns}
    stopped = {one.ended_ns for one in parts["barge_in"]} | set(clears_ns)
    stretches = [(_began_ns(one), _until_ns(one)) for one in parts["speech"] if one.who != "caller"]
    for (began_ns, ended_ns), said in zip(
        stretches, words.said(stretches, [spoken for spoken, _ in caller]), strict=True
    ):
        cut = any(at_ns is not None and abs(at_ns - ended_ns) < SECOND // 5 for at_ns in stopped)
        text = _clipped(said.text) + (" …" if cut and said.text else "")
        notes = [_after(answers.get(began_ns)), "cut off" if cut else ""]
        yield Line(
            at_ns=began_ns,
            who="agent",
            text=text or f"(speaks for {seconds(ended_ns - began_ns)})",
            note=", ".join(filter(None, notes)),
            unsure=said.unsure,
        )


def _utterances(parts: dict[str, Sequence[Operation]]) -> list[tuple[Spoken, str]]:
    """What the caller said, each once: an interruption that was heard is a turn too, and a call that was over before
    the answer may have left no more than the speech itself."""
    ends = {_began_ns(one): _until_ns(one) for one in parts["speech"] if one.who == "caller"}
    found = {began_ns: (Spoken(began_ns, ended_ns, ""), "") for began_ns, ended_ns in ends.items()}
    for turn in parts["turn"]:
        found[_began_ns(turn)] = (Spoken(_began_ns(turn), turn.due_ns, str(turn.detail.get("text") or "")), "")
    for one in parts["barge_in"]:
        began_ns = _began_ns(one)
        note = "" if one.outcome == "not reached" else "talks over the agent"
        found[began_ns] = (Spoken(began_ns, ends.get(began_ns) or began_ns, str(one.detail.get("text") or "")), note)
    return [found[began_ns] for began_ns in sorted(found)]


def _after(turn: Operation | None) -> str:
    if turn is None or turn.ended_ns is None:
        return ""
    late_ns = turn.ended_ns - turn.due_ns
    return f"after {ms(late_ns)}" if late_ns >= 0 else f"cuts in, {ms(-late_ns)} early"


def _happened(parts: dict[str, Sequence[Operation]]) -> Iterable[Line]:
    for kind in ("turn", "greeting"):
        for one in parts[kind]:
            if one.ended_ns is None:
                waited_ns, what = _until_ns(one) - one.due_ns, "answer" if kind == "turn" else "greeting"
                told = f"No {what} within {seconds(waited_ns)}" if waited_ns > 0 else f"No {what}: the call was over"
                yield Line(at_ns=one.due_ns, text=told, bad=True)
    for one in parts["barge_in"]:
        if one.outcome == "not reached":
            yield Line(at_ns=_began_ns(one), text="The agent had stopped before the caller could talk over it")
        elif one.ended_ns is None:
            yield Line(at_ns=_until_ns(one), text="The agent talks on", bad=True)
        else:
            yield Line(at_ns=one.ended_ns, text=f"The agent stops, {ms(one.ended_ns - _began_ns(one))} later")
    for one in (*parts["pause"], *parts["underrun"]):
        what = "Silence" if one.kind == "pause" else "Hole"
        yield Line(at_ns=_began_ns(one), text=f"{what} of {ms(_until_ns(one) - _began_ns(one))} in the agent's speech")


def _fault_lines(faults: Iterable[Span], since_ns: int, until_ns: int) -> Iterable[Line]:
    for fault in faults:
        if fault.since_ns <= since_ns:
            yield Line(at_ns=since_ns, text=f"Fault injected since before the call: {fault.label}")
        else:
            yield Line(at_ns=fault.since_ns, text=f"Fault injected: {fault.label}")
        if fault.until_ns < until_ns:
            yield Line(at_ns=fault.until_ns, text=f"Fault undone: {fault.label}")


def _end(call: Operation, at_ns: int) -> Line:
    who = str(call.detail.get("ended_by") or "")
    why = str(call.detail.get("why") or "")
    if call.outcome == "ok":
        what = "transferred" if why == "transferred" else f"hung up by the {who}" if who else "over"
        return Line(at_ns=at_ns, text=f"The call is {what}")
    more = f" ({_clipped(why)})" if why not in {"", call.outcome, "hung up"} else ""
    return Line(at_ns=at_ns, text=f"The call fails: {call.outcome}{more}", bad=True)


def _clipped(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= _TEXT_MOST else f"{plain[:_TEXT_MOST]} …"


def _began_ns(one: Operation) -> int:
    return one.due_ns if one.began_ns is None else one.began_ns


def _until_ns(one: Operation) -> int:
    """When it ended, or when the caller gave it up."""
    if one.ended_ns is not None:
        return one.ended_ns
    gave_up_ns = one.detail.get("gave_up_ns")
    return max(_began_ns(one), one.due_ns, gave_up_ns if isinstance(gave_up_ns, int) else 0)
