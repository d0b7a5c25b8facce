"""Whole calls over real sockets whose sound is kept: it has energy where the journal says that somebody spoke."""

from __future__ import annotations

import base64
import wave
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from aiohttp import web

from busyhour.arrivals import Burst
from busyhour.carriers import PlainWebSocket, Telnyx
from busyhour.cli import main
from busyhour.emulators.twin import listening
from busyhour.engine import Execution
from busyhour.journal import Journal, StoredRun, open_run
from busyhour.listen import channels
from busyhour.model import SECOND, Endpoint, HeardKind, Operation, Phase, Plan, Samples
from busyhour.recording import Recording, Sound
from busyhour.workloads.call import Call, Greeting, Say, Scenario

from .agent import HELLO, PCMU, SETUP, Agent, calling, next_of, payload, tone

LOUD = 1_000
PARROT_HZ = 16_000


async def parrot(request: web.Request) -> web.WebSocketResponse:
    """Greets, and says everything again 160 ms after it was said: 16-bit samples in binary frames."""
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    await ws.send_bytes(tone(300, PARROT_HZ).tobytes())
    said, quiet = bytearray(), 0
    async for message in ws:
        if np.abs(np.frombuffer(message.data, "<i2").astype(int)).max() > LOUD:
            said += message.data
            quiet = 0
        elif said:
            quiet += 1
            if quiet == 8:
                await ws.send_bytes(bytes(said))
                said.clear()
    return ws


@dataclass(frozen=True)
class Parrot:
    name: str = "parrot"

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        app = web.Application()
        app.router.add_get("/media", parrot)
        async with listening(app) as port:
            yield Endpoint(f"http://127.0.0.1:{port}")


def planned(calls: int, recording: Recording) -> Plan:
    talk = Scenario("talk", [Greeting(), Say(HELLO)], think_ms=(100, 120))
    return Plan(
        target=Parrot(),
        carrier=PlainWebSocket(path="/media"),
        phases=[Phase("talk", Burst(calls), Call([talk]))],
        gates=[],
        recording=recording,
    )


async def ran(path: Path, calls: int, recording: Recording) -> StoredRun:
    with Journal.create(path, {}) as journal:
        await Execution(planned(calls, recording), journal).execute()
    return open_run(path)


def power(samples: Samples, sound: Sound, began_ns: int, ended_ns: int) -> float:
    """The loudest sample between two instants."""
    begin, end = ((at_ns - sound.began_ns) * sound.rate_hz // SECOND for at_ns in (began_ns, ended_ns))
    return float(np.abs(samples[max(0, begin) : end].astype(int)).max())


def only(operations: Sequence[Operation], **fields: str) -> Operation:
    (found,) = [o for o in operations if all(getattr(o, name) == value for name, value in fields.items())]
    return found


async def test_a_run_keeps_the_sound_of_its_calls_where_its_turns_are(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    with await ran(path, 3, Recording()) as run:
        assert [one.phase for one in run.recordings("talk")] == ["talk"] * 3
        for one in run.recordings():
            sound = run.recording(one.call)
            caller, agent = channels(sound)
            turn = only(run.operations("turn"), parent=one.call)
            greeting = only(run.operations("greeting"), parent=one.call)
            call = only(run.operations("call"), id=one.call)
            assert turn.ended_ns is not None
            assert turn.began_ns is not None
            assert greeting.ended_ns is not None
            assert one.figures.response_ns == turn.ended_ns - turn.due_ns
            ms = SECOND // 1_000
            # each sounds while it speaks, and not before
            assert power(caller, sound, turn.began_ns, turn.due_ns) > LOUD
            assert power(caller, sound, sound.began_ns, turn.began_ns - 60 * ms) < LOUD
            assert power(agent, sound, greeting.ended_ns, greeting.ended_ns + 300 * ms) > LOUD
            assert power(agent, sound, turn.due_ns, turn.ended_ns - 5 * ms) < LOUD
            assert power(agent, sound, turn.ended_ns, turn.ended_ns + 200 * ms) > LOUD
            assert call.ended_ns is not None
            assert abs(sound.ended_ns - call.ended_ns) < SECOND
        (mark,) = run.marks("recordings")
        assert (mark.name, mark.detail["recorded"], mark.detail["kept"]) == ("talk", 3, 3)
    assert main(["listen", str(path), one.call, "--to", str(tmp_path / "call.wav")]) == 0
    with wave.open(str(tmp_path / "call.wav")) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, PARROT_HZ, sound.samples)


async def test_a_run_that_is_told_to_keeps_none(tmp_path: Path) -> None:
    with await ran(tmp_path / "none.journal", 1, Recording.off()) as run:
        assert run.operations("call")[0].outcome == "ok"
        assert not run.recordings()
        assert not run.marks("recordings")


async def test_only_so_many_are_recorded_at_once(tmp_path: Path) -> None:
    with await ran(tmp_path / "few.journal", 5, Recording(at_once=2)) as run:
        assert [o.outcome for o in run.operations("call")] == ["ok"] * 5
        assert len(run.recordings()) == 2


async def test_a_telnyx_call_is_kept_as_the_caller_heard_it() -> None:
    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        await agent.hears(ws, "start")
        await ws.send_json({"event": "media", "media": {"payload": payload(tone(2_000))}})
        await ws.send_json({"event": "mark", "mark": {"name": "said"}})
        for _ in range(30):
            await agent.hears(ws, "media")
        await ws.send_json({"event": "clear"})
        async for _ in ws:
            pass

    agent = Agent(talk)
    agent.answers()
    setup = replace(SETUP, record_ns=60 * SECOND)
    async with calling(agent, Telnyx(), setup) as line:
        onset = await next_of(line, HeardKind.ONSET)
        spoken = await line.say(HELLO)
        offset = await next_of(line, HeardKind.OFFSET)
        await line.hang_up()
        sound = line.recorded()
    assert sound is not None
    caller, heard = channels(sound)
    loud = np.flatnonzero(np.abs(heard.astype(int)) > LOUD)
    first_ns, last_ns = (sound.began_ns + int(at) * 125_000 for at in (loud[0], loud[-1]))
    assert abs(first_ns - onset.at_ns) < 5_000_000
    assert abs(last_ns - offset.at_ns) < 5_000_000
    assert (last_ns - first_ns) < 1_500_000_000  # the rest was taken back
    assert len(sound.clears_ns) == 1
    assert sound.marks == ()
    spoke = np.flatnonzero(np.abs(caller.astype(int)) > LOUD)
    last_ns = sound.began_ns + int(spoke[-1]) * 125_000
    assert abs(last_ns - spoken.ended_ns - 20_000_000) < 25_000_000  # its noise goes on for a frame after its speech
    # Nothing is left out of what the agent sent: its octets are those on the wire.
    assert sound.agent.octets == PCMU.encode(tone(2_000))[: len(sound.agent.octets)]
    assert base64.b64decode(payload(tone(20))) == sound.agent.octets[:160]
