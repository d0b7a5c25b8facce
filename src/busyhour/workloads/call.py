"""A call: a caller who plays a scenario down a line and writes down what they heard, and when.

Times come from the line: what the caller said by the sample on the wire, what the agent said by the played-out clock.
Nothing here measures time itself, so nothing here can add to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from busyhour.errors import PlanError
from busyhour.media.speech import HANGOVER_NS
from busyhour.media.utterances import utterance
from busyhour.model import (
    JSON,
    MS,
    SECOND,
    Arrival,
    Audio,
    CallFailed,
    CallSetup,
    Heard,
    HeardKind,
    Line,
    Operation,
    Spoken,
)

_TOLD_NS = 50 * MS  # an event that is certain has been told by then: twice what a leg takes


@dataclass(frozen=True, slots=True)
class Greeting:
    """Wait until the agent has greeted: its first sound within `patience_seconds`, then its end."""

    patience_seconds: float = 6.0


@dataclass(frozen=True, slots=True)
class Say:
    """Say an utterance (a shipped one by name, or your own Audio) and hear the answer out."""

    utterance: str | Audio
    patience_seconds: float = 6.0


@dataclass(frozen=True, slots=True)
class BargeIn:
    """Ask `asking`, and `after_ms` into the answer talk over it with `utterance`; then hear the new answer out.

    Ask something with a long answer: one that ends by itself in the meantime cannot be told from one that yielded.
    """

    utterance: str | Audio
    asking: str | Audio
    after_ms: int = 1000
    patience_seconds: float = 6.0


@dataclass(frozen=True, slots=True)
class HangUp:
    """Ask `asking`, and hang up `after_ms` into the answer, while the agent still speaks; or when the patience is over.

    The last step of a scenario: nothing can follow it.
    """

    asking: str | Audio
    after_ms: int = 1000
    patience_seconds: float = 6.0


@dataclass(frozen=True, slots=True)
class Silence:
    """Say nothing for `seconds`, listening."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Press:
    """Press keys."""

    digits: str


Step: TypeAlias = Greeting | Say | BargeIn | HangUp | Silence | Press
_STEPS = "Greeting, Say, BargeIn, HangUp, Silence and Press"


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a caller says, step by step. Between the agent's end and the caller's next words lie `think_ms` (evenly
    drawn): the caller takes the agent to have finished after the shorter of the two."""

    name: str
    steps: Sequence[Step]
    think_ms: tuple[int, int] = (700, 1000)


@dataclass(frozen=True)
class Call:
    """Each arrival is one call, which plays one of the scenarios (drawn evenly by the arrival's own random numbers).

    setup.service: the name of the agent that is called, one of the plan's `beside`; by default it is the target.
    """

    scenarios: Sequence[Scenario]
    setup: CallSetup = field(default_factory=lambda: CallSetup(id=""))

    @property
    def called(self) -> frozenset[str]:
        """The names of the services that it calls beside the plan's target."""
        return frozenset(filter(None, [self.setup.service]))

    def problems(self) -> list[str]:
        """Utterances that there are not, keys that no telephone has. Loads the audio, so that no call waits for it."""
        if strange := list(_strange(self.scenarios)):
            return strange
        found = [] if self.scenarios else ["a Call needs at least one Scenario"]
        for scenario in self.scenarios:
            if any(isinstance(step, HangUp) for step in scenario.steps[:-1]):
                found.append(f"scenario {scenario.name!r}: nothing can follow a HangUp; make it the last step")
            for step in scenario.steps:
                found += [f"scenario {scenario.name!r}: {problem}" for problem in _problems_of(step)]
        return found

    async def perform(self, arrival: Arrival) -> None:
        scenario = arrival.random.choice(self.scenarios)
        began_ns = arrival.clock.now_ns()
        ended_ns: int | None = None
        outcome, why, ended_by = "cut off", "", "harness"  # unless it comes to an end
        told: Mapping[str, JSON] = {}
        try:
            async with arrival.dial(self._setup_for(arrival)) as line:
                conversation = _Conversation(arrival, line, scenario)
                try:
                    await conversation.play()
                    await line.hang_up()
                    outcome, ended_by = "ok", "caller"
                except _Ended as ended:
                    ended_by = "agent"
                    outcome, why = conversation.judge_end(ended.heard.detail)
                finally:
                    conversation.close()
                    ended_ns = arrival.clock.now_ns()  # the line's own winding up is not part of the call
                    told = {"answered_ns": line.answered_ns, "opened_ns": line.opened_ns, **line.detail}
        except CallFailed as failure:
            outcome, why, ended_by = failure.reason, failure.detail, "caller"
        finally:
            arrival.record(
                Operation(
                    id=arrival.id,
                    kind="call",
                    phase=arrival.phase,
                    due_ns=arrival.due_ns,
                    began_ns=began_ns,
                    ended_ns=ended_ns or arrival.clock.now_ns(),
                    outcome=outcome,
                    detail={"scenario": scenario.name, "ended_by": ended_by, "why": why, **told},
                )
            )

    def _setup_for(self, arrival: Arrival) -> CallSetup:
        return replace(self.setup, id=arrival.id)


def _strange(scenarios: object) -> Iterator[str]:
    """What of it is not of the kind it should be: a step that is none would be passed over in silence."""
    if not isinstance(scenarios, Sequence):
        yield f"a Call takes a list of scenarios, in brackets, not one {type(scenarios).__name__}"
        return
    for scenario in scenarios:
        if not isinstance(scenario, Scenario):
            yield f"a Call takes Scenarios, and {scenario!r} is none"
        elif isinstance(scenario.steps, str) or not isinstance(scenario.steps, Sequence):
            yield f"scenario {scenario.name!r}: its steps are no list; write them in brackets"
        else:
            strange = (step for step in scenario.steps if not isinstance(step, Step))
            yield from (f"scenario {scenario.name!r}: {step!r} is no step; a caller's are {_STEPS}" for step in strange)


def _problems_of(step: Step) -> list[str]:
    if isinstance(step, Press):
        strange = sorted(set(step.digits) - set("0123456789*#ABCD"))
        return [f"Press({step.digits!r}): there is no key {key!r}" for key in strange]
    named = [getattr(step, field) for field in ("utterance", "asking") if hasattr(step, field)]
    try:
        for utterance_or_name in named:
            _audio(utterance_or_name)
    except PlanError as error:
        return error.problems
    return []


def _audio(spoken: str | Audio) -> Audio:
    return utterance(spoken) if isinstance(spoken, str) else spoken


class _Ended(Exception):
    """The far end is gone; unwinds the scenario."""

    def __init__(self, heard: Heard) -> None:
        self.heard = heard
        super().__init__(heard.detail)


class _Conversation:
    """One scenario on one line: consumes what is heard in order, records greeting, turns, barge-ins and speech."""

    def __init__(self, arrival: Arrival, line: Line, scenario: Scenario) -> None:
        self._arrival, self._line, self._scenario = arrival, line, scenario
        self._sounding_since: int | None = None  # onset of the agent's speech in progress
        self._silent_since = line.opened_ns  # end of the agent's last speech
        self._counts: dict[str, int] = {}
        self._carried_out = 0  # steps
        self._missed = False  # the last turn went unanswered

    async def play(self) -> None:
        for step in self._scenario.steps:
            match step:
                case Greeting():
                    await self._greeting(step)
                case Say():
                    await self._ask(_audio(step.utterance), step.patience_seconds)
                case BargeIn():
                    await self._barge_in(step)
                case HangUp():
                    await self._hang_up(step)
                case Silence():
                    await self._listen_until(self._now() + round(step.seconds * SECOND))
                case Press():
                    await self._line.press(step.digits)
            self._carried_out += 1
            if isinstance(step, Greeting | Say | BargeIn):
                await self._hear_out()

    def close(self) -> None:
        """Write down the speech that was in progress when the call ended."""
        if self._sounding_since is not None:
            self._heard_speech(self._sounding_since, self._now())

    def judge_end(self, why: str) -> tuple[str, str]:
        """Outcome and detail of a call which the agent ended: fine by transfer, or after the last step."""
        if why == "transferred" or (why == "hung up" and self._carried_out == len(self._scenario.steps)):
            return "ok", why
        return ("hung up early" if why == "hung up" else why.partition(":")[0]), why

    # ---------------------------------------------------------------- steps

    async def _greeting(self, step: Greeting) -> None:
        answered_ns = self._line.answered_ns
        try:
            until_ns = answered_ns + round(step.patience_seconds * SECOND)
            onset_ns = await self._onset(since_ns=answered_ns, until_ns=until_ns)
        except _Ended:
            self._greeted(None, "lost")
            raise
        self._greeted(onset_ns, "missed" if onset_ns is None else "ok")

    async def _ask(self, audio: Audio, patience_seconds: float) -> int | None:
        """Say it and wait for the answer; records the turn, returns the onset of the answer."""
        try:
            spoken = await self._say(audio)
        except (CallFailed, _Ended):
            self._turn(audio, Spoken(self._now(), self._now()), None, "lost")
            raise
        return await self._answer(audio, spoken, patience_seconds)

    async def _answer(self, audio: Audio, spoken: Spoken, patience_seconds: float) -> int | None:
        """Wait for the answer to what was said. After an unanswered turn, what begins while the caller speaks again is
        the late answer to that one: only what begins afterwards answers this."""
        since_ns = spoken.ended_ns if self._missed else spoken.began_ns
        try:
            until_ns = spoken.ended_ns + round(patience_seconds * SECOND)
            onset_ns = await self._onset(since_ns=since_ns, until_ns=until_ns, lasting_until_ns=spoken.ended_ns)
        except _Ended:
            self._turn(audio, spoken, None, "lost")
            raise
        self._missed = onset_ns is None
        self._turn(audio, spoken, onset_ns, "missed" if onset_ns is None else "ok")
        return onset_ns

    async def _barge_in(self, step: BargeIn) -> None:
        onset_ns = await self._ask(_audio(step.asking), step.patience_seconds)
        if onset_ns is None:
            return
        await self._listen_until(onset_ns + step.after_ms * MS)
        audio = _audio(step.utterance)
        try:
            spoken = await self._say(audio)
        except (CallFailed, _Ended):
            self._interruption(audio, self._now(), None, "lost")
            raise
        if not await self._yielded(audio, spoken, step.patience_seconds):
            return  # it talks on: there is no new answer to wait for
        await self._answer(audio, spoken, step.patience_seconds)

    async def _hang_up(self, step: HangUp) -> None:
        onset_ns = await self._ask(_audio(step.asking), step.patience_seconds)
        if onset_ns is not None:
            await self._listen_until(onset_ns + step.after_ms * MS)

    async def _yielded(self, audio: Audio, spoken: Spoken, patience_seconds: float) -> bool:
        """Wait for the agent to stop, and record the interruption; False if it talked on."""
        if self._sounding_since is None:  # the answer was over before we could talk over it
            self._interruption(audio, spoken.began_ns, None, "not reached")
            return True
        try:
            stopped_ns = await self._offset(until_ns=spoken.began_ns + round(patience_seconds * SECOND))
        except _Ended:
            self._interruption(audio, spoken.began_ns, None, "lost")
            raise
        if stopped_ns is None:
            self._interruption(audio, spoken.began_ns, None, "not yielded")
        elif stopped_ns <= spoken.began_ns:
            self._interruption(audio, spoken.began_ns, None, "not reached")
        else:
            self._interruption(audio, spoken.began_ns, stopped_ns, "ok")
        return stopped_ns is not None

    # ---------------------------------------------------------------- listening

    async def _hear_out(self) -> None:
        """Listen until the agent has been silent for a caller's thinking time; at most a minute."""
        low_ms, high_ms = self._scenario.think_ms
        think_ns = round(self._arrival.random.uniform(low_ms, high_ms) * MS)
        give_up_ns = self._now() + 60 * SECOND
        while (now_ns := self._now()) < give_up_ns:
            speak_ns = give_up_ns if self._sounding_since is not None else self._silent_since + think_ns
            if speak_ns <= now_ns:
                return
            silent_since = None if self._sounding_since is not None else self._silent_since
            heard = await self._next(speak_ns)
            if heard is not None and heard.kind is HeardKind.ONSET and silent_since is not None:
                # the same answer goes on: no gap of a few frames, but a silence that the caller sat through
                self._record("pause", who="agent", due_ns=silent_since, began_ns=silent_since, ended_ns=heard.at_ns)

    async def _onset(self, *, since_ns: int, until_ns: int, lasting_until_ns: int | None = None) -> int | None:
        """The first onset at or after `since_ns` of speech that lasts beyond `lasting_until_ns`, or None by `until_ns`.

        An agent that cut in and talks on past the caller's end has answered, early; one that only coughed has not.
        """
        lasting_ns = since_ns if lasting_until_ns is None else lasting_until_ns
        while True:
            onset_ns = self._sounding_since
            if onset_ns is None or onset_ns < since_ns:
                if await self._next(until_ns) is None:
                    return None
                continue
            if onset_ns >= lasting_ns:
                return onset_ns
            # It cut in. That it had ended before `lasting_ns` is told a hangover later: no sooner do we know.
            heard = await self._next(lasting_ns + HANGOVER_NS + _TOLD_NS)
            if heard is None or (heard.kind is HeardKind.OFFSET and heard.at_ns > lasting_ns):
                return onset_ns

    async def _offset(self, *, until_ns: int) -> int | None:
        """When the agent's speech in progress stops, or None if it has not by `until_ns`."""
        while self._sounding_since is not None:
            if await self._next(until_ns) is None:
                return None
        return self._silent_since

    async def _listen_until(self, until_ns: int) -> None:
        while await self._next(until_ns) is not None:
            pass

    async def _next(self, until_ns: int) -> Heard | None:
        """Take the next thing heard into account; raises _Ended when the far end is gone."""
        heard = await self._line.hear(until_ns)
        match heard:
            case Heard(HeardKind.ONSET, at_ns):
                self._sounding_since = at_ns
            case Heard(HeardKind.OFFSET, at_ns):
                if self._sounding_since is not None:
                    self._heard_speech(self._sounding_since, at_ns)
                self._sounding_since, self._silent_since = None, at_ns
            case Heard(HeardKind.GAP, at_ns, ended_ns):
                self._record("underrun", who="agent", due_ns=at_ns, began_ns=at_ns, ended_ns=ended_ns)
            case Heard(HeardKind.ENDED, at_ns):
                if self._sounding_since is not None:
                    self._heard_speech(self._sounding_since, at_ns)
                    self._sounding_since = None
                raise _Ended(heard)
        return heard

    # ---------------------------------------------------------------- writing down

    async def _say(self, audio: Audio) -> Spoken:
        try:
            spoken = await self._line.say(audio)
        except CallFailed:
            await self._listen_until(self._now())  # if the agent hung up while we spoke, that is how the call ended
            raise
        self._record("speech", who="caller", due_ns=spoken.began_ns, began_ns=spoken.began_ns, ended_ns=spoken.ended_ns)
        return spoken

    def _turn(self, audio: Audio, spoken: Spoken, onset_ns: int | None, outcome: str) -> None:
        self._record(
            "turn",
            due_ns=spoken.ended_ns,
            began_ns=spoken.began_ns,
            ended_ns=onset_ns,
            outcome=outcome,
            detail={"utterance": audio.name, "text": audio.text, "gave_up_ns": self._now()},
        )

    def _greeted(self, onset_ns: int | None, outcome: str) -> None:
        answered_ns, detail = self._line.answered_ns, {"gave_up_ns": self._now()}
        self._record(
            "greeting", due_ns=answered_ns, began_ns=answered_ns, ended_ns=onset_ns, outcome=outcome, detail=detail
        )

    def _interruption(self, audio: Audio, began_ns: int, stopped_ns: int | None, outcome: str) -> None:
        self._record(
            "barge_in",
            due_ns=began_ns,
            began_ns=began_ns,
            ended_ns=stopped_ns,
            outcome=outcome,
            detail={"text": audio.text, "gave_up_ns": self._now()},
        )

    def _heard_speech(self, began_ns: int, ended_ns: int) -> None:
        self._record("speech", who="agent", due_ns=began_ns, began_ns=began_ns, ended_ns=ended_ns)

    def _record(
        self,
        kind: str,
        *,
        due_ns: int,
        began_ns: int | None,
        ended_ns: int | None,
        outcome: str = "ok",
        who: str = "",
        detail: Mapping[str, str | int] | None = None,
    ) -> None:
        number = self._counts[kind] = self._counts.get(kind, 0) + 1
        call = self._arrival
        self._arrival.record(
            Operation(
                id=f"{call.id}/{kind}/{number}",
                kind=kind,
                phase=call.phase,
                due_ns=due_ns,
                began_ns=began_ns,
                ended_ns=ended_ns,
                outcome=outcome,
                parent=call.id,
                who=who,
                detail=detail or {},
            )
        )

    def _now(self) -> int:
        return self._arrival.clock.now_ns()
