"""Faults of the carrier: what the agent and the caller get of them on the wire, how they are counted, and undone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web
from tests.by_hand import ByHand

from busyhour.carriers import Telnyx, TelnyxStream
from busyhour.disturbance import Disturbance, Vice
from busyhour.errors import PlanError
from busyhour.faults import carrier as faults
from busyhour.faults.carrier import Disturbed, DtmfFlood
from busyhour.model import MS, CallFailed, Clock, Endpoint, Fault, HeardKind, Line, Proof
from busyhour.testing import MemoryService, check_fault

from .agent import CLOCK, HELLO, SETUP, Agent, Talk, next_of, payload, serving, silent, tone, undisturbed

EVERY: list[Callable[[Telnyx], Fault]] = [
    faults.DuplicatedWebhooks,
    lambda c: faults.LateWebhooks(c, 100),
    faults.OutOfOrderWebhooks,
    faults.UnsignedWebhooks,
    lambda c: faults.ForgedWebhooks(c, "stale"),
    faults.ReplayedWebhooks,
    faults.FailingCommands,
    faults.RefusedCommands,
    lambda c: faults.Jitter(c, 50),
    lambda c: faults.BurstLoss(c, 0.2),
    lambda c: faults.ReorderedMedia(c, 0.2),
    lambda c: faults.Gaps(c, 100, every_ms=500),
    faults.HalfOpen,
    faults.BrokenMedia,
    faults.RefusedMedia,
    lambda c: DtmfFlood(c, per_second=50),
]


@asynccontextmanager
async def disturbed(
    make: Callable[[Telnyx], Fault], agent: Agent, telnyx: Telnyx | None = None, *, clock: Clock = CLOCK
) -> AsyncIterator[tuple[Endpoint, Telnyx, Proof]]:
    telnyx = telnyx or Telnyx(webhook_retry_ms=20)
    async with serving(agent, telnyx) as target:
        assert telnyx._exchange is not None
        here = {telnyx.name: Endpoint(agent.api, handle=telnyx._exchange.studio.disturbance)}
        async with make(telnyx).injected(here, clock) as proof:
            yield target, telnyx, proof


@asynccontextmanager
async def called(make: Callable[[Telnyx], Fault], talk: Talk = silent) -> AsyncIterator[tuple[Line, Agent, Proof]]:
    agent = Agent(talk)
    agent.answers()
    async with disturbed(make, agent) as (target, telnyx, proof), telnyx.dial(target, SETUP) as line:
        yield line, agent, proof


async def proven(proof: Proof) -> str:
    async with asyncio.timeout(60):
        while not (effect := await proof.effect())[0]:  # noqa: ASYNC110  (it is what the wire did)
            await asyncio.sleep(0.005)
    return effect[1]


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("make", EVERY)
async def test_none_is_proven_by_a_phase_without_a_call_and_each_is_undone(make: Callable[[Telnyx], Fault]) -> None:
    telnyx = Telnyx()
    async with telnyx.running({}) as endpoint:
        trouble = endpoint.handle
        assert isinstance(trouble, Disturbance)
        fault = make(telnyx)
        assert fault.service == "telnyx"
        for way_out in (None, ZeroDivisionError, asyncio.CancelledError):
            with pytest.raises(way_out) if way_out else nullcontext():
                async with fault.injected({"telnyx": endpoint}, CLOCK) as proof:
                    assert not isinstance(fault, Disturbed) or trouble.has(fault.vice.kind)
                    assert not (await proof.effect())[0]
                    if way_out is not None:
                        raise way_out
            assert not any(trouble.has(kind) for kind in trouble.can)
            assert not trouble.media


@dataclass
class Calling:
    """The twin with an agent to call, as a service of its own."""

    agent: Agent
    telnyx: Telnyx
    name: str = "telnyx"
    target: Endpoint = field(default=Endpoint(""))

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        async with serving(self.agent, self.telnyx) as self.target:
            assert self.telnyx._exchange is not None
            yield Endpoint(self.agent.api, handle=self.telnyx._exchange.studio.disturbance)

    async def call(self, _: Endpoint) -> None:
        with suppress(CallFailed):
            async with self.telnyx.dial(self.target, replace(SETUP, answer_within_ns=200 * MS)) as line:
                await line.hear(CLOCK.now_ns() + 50 * MS)

    async def vices(self, endpoint: Endpoint) -> list[str]:
        assert isinstance(endpoint.handle, Disturbance)
        return sorted(kind for kind in endpoint.handle.can if endpoint.handle.has(kind))


@pytest.mark.parametrize("number", [0, 3, 6, 9, 12])
async def test_they_keep_the_contract_of_faults(number: int) -> None:
    calling = Calling(Agent(), Telnyx())
    calling.agent.answers()
    make = EVERY[number]
    because = await check_fault(
        lambda: make(calling.telnyx), calling, state=calling.vices, provoke=calling.call, within_seconds=5
    )
    assert " at telnyx while it was injected" in because


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda c: faults.BurstLoss(c, 1.5), "makes no sense"),
        (lambda c: faults.BurstLoss(c, 0.5, frames=0), "one frame or more"),
        (lambda c: faults.LateWebhooks(c, -1), "makes no sense"),
        (lambda c: faults.LateWebhooks(c, 0), "makes no sense"),
        (lambda c: faults.LateWebhooks(c, 1, after_seconds=float("nan")), "has no duration"),
        (lambda c: faults.Jitter(c, 0), "makes no sense"),
        (lambda c: faults.FailingCommands(c, times=0), "makes no sense"),
        (
            lambda c: faults.BurstLoss(c, 0.1, towards="up"),  # type: ignore[arg-type]
            "not 'up'",
        ),
        (lambda c: faults.LateWebhooks(c, 1, seconds=0), "has no duration"),
        (lambda c: faults.Gaps(c, 500, every_ms=500), "leave nothing between them"),
        (
            lambda c: faults.ForgedWebhooks(c, "oddly"),  # type: ignore[arg-type]
            "not 'oddly'",
        ),
        (
            lambda c: faults.HalfOpen(c, share=0.5),  # type: ignore[call-arg]
            "leave out the share",
        ),
        (lambda c: DtmfFlood(c, per_second=1000), "at most 50 keys"),
        (lambda c: DtmfFlood(c, keys="x"), "makes no sense"),
    ],
)
def test_what_makes_no_sense_is_an_error_of_the_plan(make: Callable[[Any], Fault], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        make(Telnyx())


async def test_a_carrier_without_the_vice_or_that_is_none_says_so() -> None:
    stream = TelnyxStream()
    async with stream.running({}) as endpoint:
        with pytest.raises(PlanError, match="needs webhook duplicated, which telnyx-stream does not have; it has dtmf"):
            async with faults.DuplicatedWebhooks(stream).injected({stream.name: endpoint}, CLOCK):
                pass
    with pytest.raises(PlanError, match="needs a carrier's twin, and llm is none that can be disturbed"):
        async with faults.HalfOpen(MemoryService("llm")).injected({"llm": Endpoint("x")}, CLOCK):
            pass


# ---------------------------------------------------------------- webhooks


async def test_webhooks_come_twice_with_one_id() -> None:
    async with called(faults.DuplicatedWebhooks) as (_, agent, proof):
        await agent.told("call.answered", 2)
        ids = [e["data"]["id"] for e in agent.events if e["data"]["event_type"] == "call.answered"]
        assert len(set(ids)) == 1
        assert "webhooks delivered twice at telnyx while it was injected" in await proven(proof)


async def test_a_share_of_the_webhooks_is_drawn_from_the_seed() -> None:
    def drawn(seed: int) -> list[bool]:
        vice = Vice(kind="webhook.duplicated", share=0.4, seed=seed)
        return [vice.befalls(str(n)) for n in range(1000)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert 0.35 < sum(drawn(1)) / 1000 < 0.45


@pytest.mark.parametrize(
    ("make", "kept"),
    [(faults.UnsignedWebhooks, False), (faults.ForgedWebhooks, True)],
)
async def test_webhooks_without_a_good_signature(make: Callable[[Telnyx], Disturbed], kept: bool) -> None:
    async with called(make) as (_, agent, proof):
        await agent.told("call.answered")
        assert all(("telnyx-signature-ed25519" in headers) is kept for headers, _ in agent.webhooks)
        assert "signature at telnyx while it was injected" in await proven(proof)


async def test_a_replay_is_the_same_to_the_letter() -> None:
    async with called(lambda c: faults.ReplayedWebhooks(c, after_ms=30)) as (_, agent, proof):
        await agent.told("call.initiated", 2)
        first, again = [(h, raw) for h, raw in agent.webhooks if b'"call.initiated"' in raw]
        assert first[1] == again[1]
        assert first[0]["telnyx-signature-ed25519"] == again[0]["telnyx-signature-ed25519"]
        assert "webhooks replayed at telnyx while" in await proven(proof)


async def test_webhooks_overtake_each_other() -> None:
    agent = Agent()
    agent.answers()
    make = lambda c: faults.OutOfOrderWebhooks(c, within_ms=300, share=0.5, seed=3)  # noqa: E731
    async with disturbed(make, agent) as (target, telnyx, proof):
        effective = False
        for _ in range(6):
            async with telnyx.dial(target, SETUP):
                pass
            effective, because = await proof.effect()
            if effective:
                break
        assert effective, because
        order: dict[str, list[str]] = {}
        for event in agent.events:
            order.setdefault(event["data"]["payload"]["call_control_id"], []).append(event["data"]["occurred_at"])
        assert any(times != sorted(times) for times in order.values())


async def test_webhooks_are_late() -> None:
    began_ns = CLOCK.now_ns()
    async with called(lambda c: faults.LateWebhooks(c, 150)) as (_, _, proof):
        assert CLOCK.now_ns() - began_ns > 150 * MS
        assert "webhooks delivered 150 ms late" in await proven(proof)


# ---------------------------------------------------------------- commands


async def test_commands_fail_and_are_done_when_they_are_sent_again() -> None:
    agent = Agent()
    said: list[int] = []

    async def answer(call: str) -> None:
        for _ in range(3):
            status, _ = await agent.command(call, "answer", stream_url=agent.url.replace("http", "ws") + "/media")
            said.append(status)
            if status == 200:
                return

    agent.on["call.initiated"] = answer
    make = lambda c: faults.FailingCommands(c, times=2)  # noqa: E731
    async with disturbed(make, agent) as (target, telnyx, proof), telnyx.dial(target, SETUP):
        assert said == [500, 500, 200]
        assert (await proof.effect())[1] == (
            "2 commands answered with 500 at telnyx while it was injected; 1 were sent again and then done"
        )


async def test_a_command_is_refused_as_of_a_call_that_has_ended() -> None:
    agent = Agent()
    said: list[Any] = []

    async def answer(call: str) -> None:
        said.append(await agent.command(call, "answer"))

    agent.on["call.initiated"] = answer
    async with disturbed(faults.RefusedCommands, agent) as (target, telnyx, proof):
        with pytest.raises(CallFailed, match=r"Call has already ended|no longer active"):
            async with telnyx.dial(target, replace(SETUP, answer_within_ns=300 * MS)):
                pass
        assert said[0][0] == 422
        assert said[0][1]["errors"][0]["code"] == "90018"
        assert (await proof.effect())[0]


# ---------------------------------------------------------------- media


async def listening(agent: Agent, ws: web.WebSocketResponse) -> None:
    async for message in ws:
        await agent.saw({**json.loads(message.data), "at_ns": CLOCK.now_ns()})


def chunks(frames: list[dict[str, Any]]) -> list[int]:
    return [int(frame["media"]["chunk"]) for frame in frames]


async def test_jitter_delays_and_keeps_the_order() -> None:
    async with called(lambda c: faults.Jitter(c, 100, seed=1), listening) as (_, agent, proof):
        frames = await agent.shown("media", 30)
        assert chunks(frames) == list(range(1, len(frames) + 1))
        pauses = [(b["at_ns"] - a["at_ns"]) / MS for a, b in pairwise(frames)]
        assert max(pauses) > 35
        assert "frames delayed at telnyx" in await proven(proof)


async def test_frames_are_lost_in_bursts() -> None:
    async with called(lambda c: faults.BurstLoss(c, 0.4, frames=3, seed=2), listening) as (_, agent, proof):
        numbers = chunks(await agent.shown("media", 25))
        assert numbers == sorted(numbers)
        gaps = [b - a - 1 for a, b in pairwise(numbers) if b - a > 1]
        assert max(gaps) >= 2
        assert "frames lost at telnyx" in await proven(proof)


async def test_frames_overtake_each_other() -> None:
    async with called(lambda c: faults.ReorderedMedia(c, 0.3, seed=2), listening) as (_, agent, proof):
        numbers = chunks(await agent.shown("media", 25))
        assert numbers != sorted(numbers)
        assert sorted(numbers)[:18] == list(range(1, 19)), "none is lost"
        assert "frames overtaken" in await proven(proof)


async def test_gaps_come_again_and_again() -> None:
    make = lambda c: faults.Gaps(c, 100, every_ms=240, seed=2)  # noqa: E731
    async with called(make, listening) as (_, agent, proof):
        numbers = chunks(await agent.shown("media", 45))
        gaps = [b - a - 1 for a, b in pairwise(numbers) if b - a > 1]
        assert sum(gap >= 4 for gap in gaps) >= 2, gaps  # fewer are lost where the machine stalls meanwhile
        assert max(gaps) <= 6
        assert "frames lost in gaps" in await proven(proof)


def rates() -> tuple[float, float]:
    trouble = Disturbance()
    trouble.add(Vice(kind="media.lost", share=0.1, frames=5, seed=1))
    path = trouble.path("to agent")
    lost = [path.arrives_ns(n * 20 * MS) is None for n in range(50_000)]
    bursts = sum(a and not b for a, b in pairwise(lost))
    return sum(lost) / len(lost), sum(lost) / bursts


def test_the_loss_is_what_was_asked_for() -> None:
    share, burst = rates()
    assert 0.09 < share < 0.11
    assert 4.5 < burst < 5.5
    assert rates() == (share, burst)


async def loud(_agent: Agent, ws: web.WebSocketResponse) -> None:
    """A tone of 6 s, at the pace of speech: nothing waits to be played when nothing more comes."""
    sound = payload(tone(20))
    for _ in range(300):
        await ws.send_json({"event": "media", "media": {"payload": sound}})
        await CLOCK.sleep_until(CLOCK.now_ns() + 20 * MS)


async def test_nothing_flows_over_a_half_open_socket_and_then_it_does() -> None:
    agent = Agent(loud)
    agent.answers()
    clock = ByHand()
    make = lambda c: faults.HalfOpen(c, after_seconds=0.3, seconds=1.0)  # noqa: E731
    async with disturbed(make, agent, clock=clock) as (target, telnyx, proof), telnyx.dial(target, SETUP) as line:
        first = await next_of(line, HeardKind.ONSET)
        assert await clock.wake() == 0.3
        offset = await next_of(line, HeardKind.OFFSET)
        assert await line.hear(CLOCK.now_ns() + 300 * MS) is None
        lifted_ns = CLOCK.now_ns()
        assert await clock.wake() == 1.0
        again = await next_of(line, HeardKind.ONSET)
        assert first.at_ns < offset.at_ns < lifted_ns <= again.at_ns
        assert "that did not flow" in await proven(proof)


async def test_a_media_socket_breaks_without_a_word() -> None:
    closes: list[int | None] = []

    async def told(_agent: Agent, ws: web.WebSocketResponse) -> None:
        async for _ in ws:
            pass
        closes.append(ws.close_code)

    agent = Agent(told)
    agent.answers()
    make = lambda c: faults.BrokenMedia(c, after_ms=50)  # noqa: E731
    telnyx = Telnyx(webhook_retry_ms=20, hangup_within_seconds=0.1)
    async with disturbed(make, agent, telnyx) as (target, _, proof), telnyx.dial(target, SETUP) as line:
        assert (ended := await next_of(line, HeardKind.ENDED)).detail.startswith("lost: ")
        assert "broke without a close frame" in ended.detail
        assert await agent.told("streaming.stopped")
        assert "1 media sockets broken off at telnyx" in await proven(proof)
    assert closes == [1006]  # RFC 6455, 7.1.5: no closing frame was received


async def test_a_share_of_the_media_sockets_breaks() -> None:
    agent = Agent(silent)
    agent.answers()
    make = lambda c: faults.BrokenMedia(c, after_ms=0, share=0.5, seed=1)  # noqa: E731
    telnyx = Telnyx(hangup_within_seconds=0.1)
    async with disturbed(make, agent, telnyx) as (target, _, proof):
        lost = []
        for _ in range(8):
            async with telnyx.dial(target, SETUP) as line:
                heard = await line.hear(CLOCK.now_ns() + 400 * MS)
                lost.append(heard is not None and heard.kind is HeardKind.ENDED)
        assert 0 < sum(lost) < 8
        assert f"{sum(lost)} media sockets broken off" in (await proof.effect())[1]


async def test_a_media_socket_cannot_be_opened_and_the_agent_is_told() -> None:
    agent = Agent(silent)
    agent.answers()

    async def hang_up(call: str) -> None:
        await agent.command(call, "hangup")

    agent.on["streaming.failed"] = hang_up
    async with disturbed(faults.RefusedMedia, agent) as (target, telnyx, proof):
        with pytest.raises(CallFailed, match="the carrier does not get through to it"):
            async with telnyx.dial(target, SETUP):
                pass
        assert await agent.told("streaming.failed")
        assert agent.paths == []
        assert "1 media streams that were not opened at telnyx" in (await proof.effect())[1]


async def test_the_caller_loses_what_is_lost_on_its_way_to_the_caller() -> None:
    async with called(lambda c: faults.BurstLoss(c, 1.0, towards="to caller"), loud) as (line, agent, proof):
        heard = await line.hear(CLOCK.now_ns() + 300 * MS)
        assert heard is None
        assert "frames lost" in await proven(proof)
        assert agent.events


async def test_what_is_said_in_spite_of_a_disturbance_is_stamped_when_it_is_spoken() -> None:
    async def took_ms() -> float:
        async with called(lambda c: faults.Jitter(c, 200), listening) as (line, _, _):
            began_ns = CLOCK.now_ns()
            return ((await line.say(HELLO)).ended_ns - began_ns) / MS

    assert await undisturbed(took_ms) < 300 + 60


# ---------------------------------------------------------------- keys


async def test_keys_are_pressed_on_every_line_until_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    taps: asyncio.Queue[int] = asyncio.Queue()
    tap = Disturbance.tap

    def noted(trouble: Disturbance, digit: str) -> int:
        lines = tap(trouble, digit)
        taps.put_nowait(lines)
        return lines

    monkeypatch.setattr(Disturbance, "tap", noted)
    agent = Agent(listening)
    agent.answers()
    make = lambda c: DtmfFlood(c, per_second=50, keys="12", seed=4)  # noqa: E731
    async with disturbed(make, agent) as (target, telnyx, proof):
        async with telnyx.dial(target, SETUP), telnyx.dial(target, SETUP):
            await agent.told("call.dtmf.received", 8)
            assert {frame["dtmf"]["digit"] for frame in await agent.shown("dtmf", 8)} <= {"1", "2"}
        count = await proven(proof)
        while not taps.empty():
            taps.get_nowait()
        assert [await taps.get() for _ in range(3)] == [0, 0, 0], "a call that has ended has no keys"
        assert await proven(proof) == count
