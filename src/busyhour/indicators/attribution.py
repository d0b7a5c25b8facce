"""What one turn waited for: its time, shared out among the requests that were made for it.

Where another choice of requests (`matching`) would fit about as well and say something else, it is not shared out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf

from busyhour.columns import NEVER
from busyhour.indicators.matching import ALIKE_NS, Chain, Matching
from busyhour.indicators.waits import Wait, Waits
from busyhour.indicators.witnessed import Witnessed
from busyhour.model import Run

END_POINTING = "end-pointing"
STT = "STT final"
HEARING = "end-pointing and STT"
FAILED = "requests that failed"
TOOLS = "tools"
LLM = "LLM first token"
SENTENCE = "LLM first sentence"
TTS = "TTS first audio"
AGENT = "agent and network"
PLAYOUT = "playout"
STAGES = (END_POINTING, STT, HEARING, FAILED, TOOLS, LLM, SENTENCE, TTS, AGENT, PLAYOUT)
"""In the order of a turn; "agent and network" is what is left between the requests."""

AMBIGUOUS = "could be of several calls"
UNTRACED = "left no trace at the twins"


@dataclass(frozen=True, slots=True)
class Shared:
    """A wait, shared out: the stages in ns, which sum up to its latency; or why it cannot be (then there are none).

    stuck: the stage in which a wait without an end stood still.
    """

    wait: Wait
    stages: Mapping[str, int] = field(default_factory=dict)
    stuck: str = ""
    why: str = ""


class _Whose(Enum):
    OURS = 1
    THEIRS = 2
    EITHERS = 3


@dataclass(frozen=True, slots=True)
class _Fit:
    """How far from the usual a wait is with a certain stretch of speech for its answer, and with any other."""

    with_it: float
    without: float

    @classmethod
    def of(cls, chains: Sequence[Chain], voice: int) -> _Fit:
        return cls(
            min((chain.score for chain in chains if chain.voice == voice), default=inf),
            min((chain.score for chain in chains if chain.voice != voice), default=inf),
        )


class Attribution:
    """Of one phase."""

    def __init__(self, run: Run, phase: str) -> None:
        self._matching = Matching(run, phase)
        self._known: dict[Wait, Shared] = {}
        self._fitting: dict[Wait, Sequence[Chain]] = {}

    @property
    def _seen(self) -> Witnessed:
        return self._matching.seen

    def __bool__(self) -> bool:
        """Whether the twins saw anything."""
        return bool(self._seen)

    def look_at(self, waits: Iterable[Wait]) -> None:
        """Say which will be asked about, before any is."""
        self._matching.look_at(waits)

    @property
    def turns(self) -> Waits:
        return self._matching.turns

    @property
    def greetings(self) -> Waits:
        return self._matching.greetings

    def shared(self, wait: Wait) -> Shared:
        """The wait's time by stages, as far as the twins can tell."""
        if wait not in self._known:
            self._known[wait] = self._share(wait)
        return self._known[wait]

    def _share(self, wait: Wait) -> Shared:
        if wait.ended_ns is None:
            return self._ungreeted(wait) if wait.greeting else self._unanswered(wait)
        best: Chain | None = None
        for chain in self._chains(wait):
            if best is not None and chain.score > best.score + ALIKE_NS:
                break
            whose = self._whose(wait, chain.voice)
            if whose is _Whose.THEIRS:
                continue
            other: Chain | None = chain
            if best is None:
                best = chain
                other = self._instead(wait, chain.voice) if whose is _Whose.EITHERS else chain
            if other is None or self._says_else(wait, best, other):
                return Shared(wait, why=AMBIGUOUS)
        return Shared(wait, why=UNTRACED) if best is None else Shared(wait, self._spans(wait, best)[0])

    def _chains(self, wait: Wait) -> Sequence[Chain]:
        if wait not in self._fitting:
            self._fitting[wait] = self._matching.chains(wait, self._matching.usual(wait))
        return self._fitting[wait]

    def _says_else(self, wait: Wait, chain: Chain, other: Chain) -> bool:
        ours, theirs = self._spans(wait, chain)[1], self._spans(wait, other)[1]
        return any(abs(a - b) > ALIKE_NS for a, b in zip(ours, theirs, strict=True))

    def _whose(self, wait: Wait, voice: int) -> _Whose:
        """Whether a stretch of speech answered this or another who had said the same: it is either's if both ways of
        sharing out what there is fit about as well."""
        ours = _Fit.of(self._chains(wait), voice)
        for rival in self._matching.rivals(wait, voice, self._matching.usual(wait)):
            theirs = _Fit.of(self._chains(rival), voice)
            if theirs.with_it == inf:
                continue
            kept, given = ours.with_it + theirs.without, ours.without + theirs.with_it
            if kept == given == inf:  # there is but one for both
                kept, given = ours.with_it, theirs.with_it
            if given + ALIKE_NS < kept:
                return _Whose.THEIRS
            if given <= kept + ALIKE_NS:
                return _Whose.EITHERS
        return _Whose.OURS

    def _instead(self, wait: Wait, voice: int) -> Chain | None:
        return next((chain for chain in self._chains(wait) if chain.voice != voice), None)

    # ---------------------------------------------------------------- its time, shared out

    def _spans(self, wait: Wait, chain: Chain) -> tuple[dict[str, int], tuple[int, ...]]:
        """The time of each stage, and the instants between them."""
        spans: dict[str, int] = defaultdict(int)
        instants = []
        at_ns = wait.due_ns
        for stage, ends_ns in self._steps(wait, chain):
            until_ns = min(max(at_ns, ends_ns), wait.until_ns)
            spans[stage] += until_ns - at_ns
            instants.append(until_ns)
            at_ns = until_ns
        return {stage: spans[stage] for stage in STAGES if stage in spans}, tuple(instants)

    def _steps(self, wait: Wait, chain: Chain) -> Iterator[tuple[str, int]]:
        """The stages in order, each with its end. Always as many."""
        voices = self._seen.voices
        given_ns, asked_ns = int(voices.at_ns[chain.given]), int(voices.at_ns[chain.voice])
        yield from self._hearing(wait, chain, given_ns)
        yield from self._thinking(wait, chain, given_ns)
        yield FAILED, asked_ns
        yield TTS, int(voices.first_ns[chain.voice])
        yield PLAYOUT, wait.until_ns

    def _hearing(self, wait: Wait, chain: Chain, given_ns: int) -> Iterator[tuple[str, int]]:
        models, finals = self._seen.models, self._seen.finals
        asked_ns = given_ns if chain.asked is None else int(models.at_ns[chain.asked])
        if wait.greeting:
            closed_ns = ended_ns = wait.due_ns
        elif chain.final is None:
            closed_ns, ended_ns = NEVER, asked_ns
        else:
            closed_ns, ended_ns = int(finals.first_ns[chain.final]), int(finals.ended_ns[chain.final])
        ended_ns = asked_ns if ended_ns == NEVER else min(ended_ns, asked_ns)
        yield (HEARING, ended_ns) if closed_ns == NEVER else (END_POINTING, min(closed_ns, asked_ns))
        yield STT, ended_ns
        yield AGENT, asked_ns

    def _thinking(self, wait: Wait, chain: Chain, given_ns: int) -> Iterator[tuple[str, int]]:
        models = self._seen.models
        if chain.model is None or chain.asked is None:
            at_ns = until_ns = token_ns = sentence_ns = wait.due_ns
            before = FAILED
        else:
            at_ns, before = int(models.at_ns[chain.model]), TOOLS if bool(models.tool[chain.asked]) else FAILED
            token_ns, until_ns = int(models.first_ns[chain.model]), int(models.ended_ns[chain.model])
            token_ns = until_ns if token_ns == NEVER else token_ns
            sentence_ns = until_ns if until_ns <= given_ns else int(models.written_ns[chain.model])
        yield before, at_ns
        yield LLM, min(token_ns, given_ns)
        yield SENTENCE, min(sentence_ns, given_ns)
        yield AGENT, given_ns

    # ---------------------------------------------------------------- what never came

    def _unanswered(self, wait: Wait) -> Shared:
        """In which stage it stood still."""
        usual, all_finals = self._matching.usual(wait), self._seen.finals
        finals = self._matching.finals(wait, usual)
        done = [row for row in finals if int(all_finals.ended_ns[row]) != NEVER]
        models = self._matching.models(wait, finals).tolist()
        stuck = {self._stuck(wait, row) for row in models if self._matching.in_time(row, done, usual)}
        if not stuck and len(all_finals):
            stuck = {HEARING if not finals else AGENT if done else STT}
        if len(stuck) > 1:
            return Shared(wait, why=AMBIGUOUS)
        return Shared(wait, stuck=stuck.pop() if stuck else AGENT)

    def _stuck(self, wait: Wait, model: int) -> str:
        models, voices, texts = self._seen.models, self._seen.voices, self._seen.texts
        if int(models.first_ns[model]) == NEVER:
            return LLM
        near, reply = voices.between(int(models.at_ns[model]), wait.until_ns), int(models.said[model])
        spoken = voices.of(near, voices.said, lambda said: texts.says(said, reply))
        if not len(spoken):
            return AGENT
        return TTS if (voices.first_ns[spoken] == NEVER).all() else PLAYOUT

    def _ungreeted(self, wait: Wait) -> Shared:
        rows = self._seen.voices
        asked = [row for row in rows.between(wait.due_ns, wait.until_ns).tolist() if not self._matching.is_reply(row)]
        if not asked:
            return Shared(wait, stuck=AGENT)
        silent = all(int(rows.first_ns[row]) == NEVER for row in asked)
        return Shared(wait, stuck=TTS) if silent else Shared(wait, why=AMBIGUOUS)
