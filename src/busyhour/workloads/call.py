"""A call: a caller who plays a scenario down a line and writes down what they heard, and when.

Times come from the line: what the caller said by the sample on the wire, what the agent said by the played-out clock.
Nothing here measures time itself, so nothing here can add to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

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
    """Ask `asking`, and `after_ms` into the answer talk over it with `utterance`; then hear the new answer out."""

    utterance: str | Audio
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


Step: TypeAlias = Greeting | Say | BargeIn | Silence | Press


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a caller says, step by step. Between the agent's end and the caller's next words lie `think_ms` (evenly
    drawn): the caller takes the agent to have finished after the shorter of the two."""

    name: str
    steps: Sequence[Step]
    think_ms: tuple[int, int] = (700, 1000)


@dataclass(frozen=True)
class Call:
    """Each arrival is one call, which plays one of the scenarios (drawn evenly by the arrival's own random numbers)."""

    scenarios: Sequence[Scenario]
    setup: CallSetup = field(default_factory=lambda: CallSetup(id=""))

    async def perform(self, arrival: Arrival) -> None:
        scenario = arrival.random.choice(self.scenarios)
        began_ns = arrival.clock.now_ns()
        opened_ns: int | None = None
        outcome, detail, ended_by = "ok", "", "caller"
        told: Mapping[str, JSON] = {}
        try:
            async with arrival.dial(self._setup_for(arrival)) as line:
                opened_ns = line.opened_ns
                conversation = _Conversation(arrival, line, scenario)
                try:
                    await conversation.play()
                    await line.hang_up()
                except _Ended as ended:
                    ended_by = "agent"
                    outcome, detail = conversation.judge_end(ended.heard.detail)
                finally:
                    conversation.close()
                    told = line.detail
        except CallFailed as failure:
            outcome, detail = failure.reason, failure.detail
        except asyncio.CancelledError:
            outcome, ended_by = "cut off", "harness"
            raise
        finally:
            arrival.record(
                Operation(
                    id=arrival.id,
                    kind="call",
                    phase=arrival.phase,
                    due_ns=arrival.due_ns,
                    began_ns=began_ns,
                    ended_ns=arrival.clock.now_ns(),
                    outcome=outcome,
                    detail={
                        "opened_ns": opened_ns,
                        "ended_by": ended_by,
                        "scenario": scenario.name,
                        "why": detail,
                        **told,
                    },
                )
            )

    def _setup_for(self, arrival: Arrival) -> CallSetup:
        return CallSetup(
            id=arrival.id,
            from_number=self.setup.from_number,
            to_number=self.setup.to_number,
            codec=self.setup.codec,
            answer_within_ns=self.setup.answer_within_ns,
        )


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
        self._remaining = len(scenario.steps)

    async def play(self) -> None:
        for step in self._scenario.steps:
            self._remaining -= 1
            match step:
                case Greeting():
                    await self._greeting(step)
                case Say():
                    await self._ask(self._audio(step.utterance), step.patience_seconds)
                    await self._hear_out()
                case BargeIn():
                    await self._barge_in(step)
                case Silence():
                    await self._listen_until(self._now() + round(step.seconds * SECOND))
                case Press():
                    await self._line.press(step.digits)

    def close(self) -> None:
        """Write down the speech that was in progress when the call ended."""
        if self._sounding_since is not None:
            self._heard_speech(self._sounding_since, self._now())

    def judge_end(self, why: str) -> tuple[str, str]:
        """Outcome and detail of a call which the agent ended: fine after the last step or by transfer."""
        if why == "transferred" or (why == "hung up" and self._remaining == 0):
            return "ok", why
        return ("hung up early" if why == "hung up" else why.partition(":")[0]), why

    # ---------------------------------------------------------------- steps

    async def _greeting(self, step: Greeting) -> None:
        opened_ns = self._line.opened_ns
        onset_ns = await self._onset(since_ns=opened_ns, until_ns=opened_ns + round(step.patience_seconds * SECOND))
        self._record(
            "greeting",
            due_ns=opened_ns,
            began_ns=opened_ns,
            ended_ns=onset_ns,
            outcome="missed" if onset_ns is None else "ok",
            detail={"gave_up_ns": self._now()},
        )
        await self._hear_out()

    async def _ask(self, audio: Audio, patience_seconds: float) -> int | None:
        """Say it and wait for the answer; records the turn, returns the onset of the answer."""
        spoken = await self._say(audio)
        return await self._answer(audio, spoken, patience_seconds)

    async def _answer(self, audio: Audio, spoken: Spoken, patience_seconds: float) -> int | None:
        try:
            until_ns = spoken.ended_ns + round(patience_seconds * SECOND)
            onset_ns = await self._onset(since_ns=spoken.began_ns, until_ns=until_ns, lasting_until_ns=spoken.ended_ns)
        except _Ended:
            self._turn(audio, spoken, None, "lost")
            raise
        self._turn(audio, spoken, onset_ns, "missed" if onset_ns is None else "ok")
        return onset_ns

    async def _barge_in(self, step: BargeIn) -> None:
        onset_ns = await self._ask(self._audio(step.asking), step.patience_seconds)
        if onset_ns is None:
            return
        await self._listen_until(onset_ns + step.after_ms * MS)
        audio = self._audio(step.utterance)
        spoken = await self._say(audio)
        sounding_before = self._sounding_since  # None: the answer was over before we could talk over it
        stopped_ns = None
        if sounding_before is not None:
            patience_ns = round(step.patience_seconds * SECOND)
            stopped_ns = await self._offset(until_ns=spoken.began_ns + patience_ns)
        reached = sounding_before is not None and (stopped_ns is None or stopped_ns > spoken.began_ns)
        self._record(
            "barge_in",
            due_ns=spoken.began_ns,
            began_ns=spoken.began_ns,
            ended_ns=stopped_ns if reached else None,
            outcome="not reached" if not reached else "not yielded" if stopped_ns is None else "ok",
            detail={"text": audio.text, "gave_up_ns": self._now()},
        )
        if reached and stopped_ns is None:
            return  # it talks on: there is no new answer to wait for
        await self._answer(audio, spoken, step.patience_seconds)
        await self._hear_out()

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
            await self._next(speak_ns)

    async def _onset(self, *, since_ns: int, until_ns: int, lasting_until_ns: int | None = None) -> int | None:
        """The first onset at or after `since_ns` of speech that lasts beyond `lasting_until_ns`, or None by `until_ns`.

        An agent that cut in and talks on past the caller's end has answered, early; one that only coughed has not.
        """
        lasting_ns = since_ns if lasting_until_ns is None else lasting_until_ns
        while True:
            onset_ns = self._sounding_since
            if onset_ns is not None and onset_ns >= since_ns and self._now() >= lasting_ns:
                return onset_ns
            heard = await self._next(until_ns)
            if heard is None:
                return None
            answered = heard.kind is HeardKind.OFFSET and onset_ns is not None and onset_ns >= since_ns
            if answered and heard.at_ns > lasting_ns:
                return onset_ns  # a short answer that began and ended while we were speaking or waiting

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
        detail: dict[str, str | int] | None = None,
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

    @staticmethod
    def _audio(spoken: str | Audio) -> Audio:
        return utterance(spoken) if isinstance(spoken, str) else spoken
