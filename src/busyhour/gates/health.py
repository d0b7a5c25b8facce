"""What is asked of every run before anything is said of its target, and of every target beside the plan's gates."""

from __future__ import annotations

import re

import numpy as np

from busyhour.columns import operations_of, samples_of
from busyhour.errors import TWIN_CANNOT
from busyhour.gates.calls import Calls
from busyhour.gates.gaps import segments, stood_still, unwatched
from busyhour.gates.limits import Holds
from busyhour.model import SECOND, Comparison, Mark, Outcome, Run
from busyhour.statistics.wording import number

# An agent does not send these to itself. SIGKILL is also what the kernel sends when memory runs out.
_TOLD_OF = (
    *("run.began", "run.resumed", "service.started"),
    *("phase.began", "phase.resumed", "phase.ended", "fault.began", "fault.ended"),
)
_STOOD_STILL_TIMES, _STOOD_STILL_SHARE = 3, 0.01  # more often and for longer, it is no accident
_FROM_OUTSIDE = re.compile(r"was killed by SIG(KILL|TERM|INT|HUP|QUIT)\b|its supervisor was killed")


def _whole(run: Run) -> Comparison:
    began = run.marks("run.began")
    if not began:
        return Comparison(Outcome.INVALID, "it never began")
    if failed := _of_last_segment(run, "run.failed"):
        return Comparison(Outcome.INVALID, f"the run could not be carried out: {failed[0].detail.get('why', '')}")
    if _of_last_segment(run, "run.ended") or _of_last_segment(run, "run.stopped"):
        return Comparison(Outcome.PASS, "; ".join([*segments(run), *unwatched(run)]))
    after = _after(run, _last_ns(run))
    return Comparison(
        Outcome.INVALID,
        f"it breaks off {after}, without an end: the harness was killed, or could not write any more",
    )


def _of_last_segment(run: Run, kind: str) -> list[Mark]:
    """Marks since the run was last taken up: what ended a segment before is why it was cut, and told as that."""
    begun_ns = max((mark.at_ns for begun in ("run.began", "run.resumed") for mark in run.marks(begun)), default=0)
    return [mark for mark in run.marks(kind) if mark.at_ns >= begun_ns]


def _last_ns(run: Run) -> int:
    """The last instant the journal knows of."""
    marks = [mark.at_ns for kind in _TOLD_OF for mark in run.marks(kind)]
    operations = [operations_of(run, kind) for kind in ("call", "turn", "speech")]
    ends = [int(np.where(some.ended, some.ended_ns, some.due_ns).max(initial=0)) for some in operations]
    samples = [samples_of(run, "harness", name).at_ns for name in ("loop_lag_ms", "send_lateness_ms")]
    return max([*marks, *ends, *(int(at_ns.max(initial=0)) for at_ns in samples)])


def _after(run: Run, at_ns: int) -> str:
    return f"{number((at_ns - min(at_ns, _began_ns(run))) / SECOND)} s after it began"


def _began_ns(run: Run) -> int:
    return min((mark.at_ns for mark in run.marks("run.began")), default=0)


def _undisturbed(run: Run) -> Comparison:
    disturbed = [mark for mark in run.marks("service.died") if not _own_fault(mark)]
    disturbed += run.marks("clocks.disagree")  # of two machines of the harness
    times, seconds = stood_still(run)
    if times >= _STOOD_STILL_TIMES and seconds * SECOND > _STOOD_STILL_SHARE * (_last_ns(run) - _began_ns(run)):
        why = f"the harness stood still {times} times, for {number(seconds)} s in all: nothing may stop it"
        return Comparison(Outcome.INVALID, why)
    if not disturbed:
        return Comparison(Outcome.PASS, "")
    told = "; ".join(f"{_obituary(mark)}, {_after(run, mark.at_ns)}" for mark in disturbed)
    killed = any(mark.detail.get("role") == "target" for mark in disturbed)
    return Comparison(
        Outcome.INVALID, f"{told} (from outside, or by the kernel for want of memory)" if killed else told
    )


def _own_fault(died: Mark) -> bool:
    """Whether the target ended by itself: a service of ours never should, and a signal comes from elsewhere."""
    return died.detail.get("role") == "target" and not _FROM_OUTSIDE.search(str(died.detail.get("obituary", "")))


def _obituary(died: Mark) -> str:
    return " ".join(str(died.detail.get("obituary") or f"{died.name} died").split())


def _effective(run: Run) -> Comparison:
    """Each beginning of a fault has a proof of its effect after it and before it begins again.

    A run that was stopped may lack the proof of the faults it was stopped in, as may one that was cut; a proof to the
    contrary always counts.
    """
    ended = {mark.name for mark in run.marks("phase.ended")}
    idle = not_carried_out(run)
    began = [mark for mark in run.marks("fault.began") if mark.detail.get("phase") not in idle]
    if not began:
        return Comparison(Outcome.PASS, "there were none")
    problems, proven = [], []
    for mark in began:
        again_ns = min((m.at_ns for m in began if m.name == mark.name and m.at_ns > mark.at_ns), default=None)
        proofs = [
            proof
            for proof in run.marks("fault.proof")
            if proof.name == mark.name and proof.at_ns >= mark.at_ns and (again_ns is None or proof.at_ns < again_ns)
        ]
        because = "; ".join(str(proof.detail.get("because", "")) for proof in proofs)
        where = f" in {mark.detail['phase']}" if mark.detail.get("phase") else ""
        if any(proof.detail.get("effective") is True for proof in proofs):
            proven.append(f"{mark.name}{where} ({because})")
        elif proofs:
            problems.append(f"{mark.name}{where} had no effect ({because}){_unharmed(run, mark)}")
        elif _was_cut(run, mark.at_ns, again_ns):
            continue
        elif not _of_last_segment(run, "run.stopped") or mark.detail.get("phase") in ended:
            problems.append(f"{mark.name}{where} left no proof of its effect")
    if problems:
        return Comparison(Outcome.INVALID, "; ".join(problems))
    return Comparison(Outcome.PASS, "; ".join(proven))


def _unharmed(run: Run, began: Mark) -> str:
    """Why a fault met nothing, where no call came far enough to meet it: the clause that follows."""
    phase = began.detail.get("phase")
    failed = Calls.of(run, [str(phase)] if phase else ()).all_failed
    return f": {failed}" if failed else ""


def _was_cut(run: Run, from_ns: int, until_ns: int | None) -> bool:
    """Whether a segment ended then."""
    cuts = [mark.detail.get("cut_ns") for mark in run.marks("run.resumed")]
    return any(isinstance(cut, int) and from_ns <= cut and (until_ns is None or cut < until_ns) for cut in cuts)


def not_carried_out(run: Run) -> dict[str, str]:
    """The phases that had no arrivals because a fault could not be injected, and the clause that says why."""
    return {
        str(mark.detail.get("phase", "")): f"the fault {mark.name!r} {mark.detail.get('why', '')}"
        for mark in reversed(run.marks("fault.unavailable"))
    }


def _told(run: Run) -> Comparison:
    """What the twins saw is all there: a transcript that was lost on its way to us must not be charged to the agent."""
    silent = [f"{mark.name} did not tell the last of what it saw" for mark in run.marks("witness.silent")]
    lost = [f"{rows.who} saw more than it could keep" for rows in run.operations("witness")]
    problems = list(dict.fromkeys([*silent, *lost]))
    return Comparison(Outcome.INVALID, "; ".join(problems)) if problems else Comparison(Outcome.PASS, "")


def _able(run: Run) -> Comparison:
    """No agent asked for what only the real carrier can do: a call that ends of it is not the agent's failure."""
    calls = operations_of(run, "call", texts=("why",))
    beyond = calls.taken(calls.outcome.are(TWIN_CANNOT))
    if not len(beyond):
        return Comparison(Outcome.PASS, "")
    why = "; ".join(dict.fromkeys(beyond.texts["why"]))
    return Comparison(Outcome.INVALID, f"in {len(beyond)} of {len(calls)} calls it could not: {why}")


def _completed(run: Run) -> Comparison:
    stopped = _of_last_segment(run, "run.stopped")
    if not stopped:
        idle = "; ".join(f"phase {phase} was not carried out: {why}" for phase, why in not_carried_out(run).items())
        return Comparison(Outcome.NOT_RUN if idle else Outcome.PASS, idle)
    told = "; ".join(f"{mark.detail.get('why', 'stopped')}, {_after(run, mark.at_ns)}" for mark in stopped)
    return Comparison(Outcome.INCONCLUSIVE, " ".join(told.split()))


def _alive(run: Run) -> Comparison:
    crashed = [mark for mark in run.marks("service.died") if _own_fault(mark)]
    if not crashed:
        return Comparison(Outcome.PASS, "")
    return Comparison(Outcome.FAIL, "; ".join(f"{_obituary(mark)}, {_after(run, mark.at_ns)}" for mark in crashed))


HARNESS = (
    Holds("the journal is whole", _whole),
    Holds("nothing disturbed the services", _undisturbed),
    Holds("every fault took effect", _effective),
    Holds("the twins told all they saw", _told),
    Holds("the carrier's twin could do what the agent asked for", _able),
)
"""If one of them does not pass, nothing is said of the target."""

TARGET = (
    Holds("the target stayed up", _alive),
    Holds("the run came to its end", _completed),
)
