"""The carrier's faults, as they befall the plain WebSocket carrier."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from busyhour.carriers import PlainWebSocket, Wire, vonage
from busyhour.carriers.line import CallerLine
from busyhour.disturbance import Disturbance
from busyhour.emulators.twin import listening
from busyhour.errors import PlanError
from busyhour.faults import carrier as faults
from busyhour.faults.carrier import DtmfFlood
from busyhour.model import CallFailed, Endpoint, Fault, Proof

from .agent import CLOCK, SETUP


class Talker:
    """An agent that says what the test puts into its mouth, and keeps what it is told: JSON and the size of audio."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.socket: web.WebSocketResponse | None = None

    async def media(self, request: web.Request) -> web.WebSocketResponse:
        self.socket = web.WebSocketResponse()
        await self.socket.prepare(request)
        async for message in self.socket:
            self.told.append(len(message.data) if message.type is WSMsgType.BINARY else json.loads(message.data))
        return self.socket

    async def say(self, **form: object) -> None:
        assert self.socket is not None
        await self.socket.send_json(form)

    def events(self) -> list[str]:
        return [form["event"] for form in self.told if isinstance(form, dict)]


@asynccontextmanager
async def disturbed(
    wire: Wire, make: Callable[[PlainWebSocket], Fault]
) -> AsyncIterator[tuple[Talker, CallerLine, Proof]]:
    """A call that is up before the fault begins."""
    talker, app, carrier = Talker(), web.Application(), PlainWebSocket(wire=wire)
    app.router.add_get("/", talker.media)
    async with (
        listening(app) as port,
        carrier.running({}) as endpoint,
        carrier.dial(Endpoint(f"ws://127.0.0.1:{port}"), SETUP) as line,
        make(carrier).injected({carrier.name: endpoint}, CLOCK) as proof,
    ):
        yield talker, line, proof


async def until(found: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not found():  # noqa: ASYNC110  (nobody tells when a frame has come)
            await asyncio.sleep(0.005)


async def counted(proof: Proof) -> int:
    return int((await proof.effect())[1].split()[0])


async def flowing(talker: Talker) -> None:
    """Until the next audio of the caller has come."""
    before = len(talker.told)
    await until(lambda: len(talker.told) > before)


# ---------------------------------------------------------------- keys


async def test_keys_are_pressed_where_the_wire_has_a_message_for_them() -> None:
    async with disturbed(vonage(), lambda c: DtmfFlood(c, per_second=50, keys="7")) as (talker, _, proof):
        await until(lambda: talker.events().count("websocket:dtmf") >= 3)
        assert await counted(proof) >= 3
    assert {form["digit"] for form in talker.told if isinstance(form, dict) and "digit" in form} == {"7"}


async def test_where_it_has_none_the_plan_is_told_so() -> None:
    with pytest.raises(PlanError) as refused:
        async with disturbed(Wire(), DtmfFlood):
            pytest.fail("it is injected")
    assert str(refused.value) == (
        "the fault 'websocket keys 10 a second' needs dtmf flood, which websocket does not have; it has media gap, "
        "media half_open, media jitter, media lost, media reordered; give its wire a `digit`, the message for a key"
    )


class Broken:
    """A line of somebody else's carrier, whose keys do not work."""

    end = None

    def press(self, digit: str) -> None:
        raise CallFailed("no such message", f"for {digit}")


def test_a_key_that_cannot_be_pressed_is_not_counted_and_breaks_nothing() -> None:
    trouble, line = Disturbance(), Broken()
    trouble.lines.add(line)
    assert trouble.tap("1") == 0


# ---------------------------------------------------------------- half open


async def _marks(talker: Talker, _line: CallerLine) -> None:
    await talker.say(action="notify", payload="m")


async def _clears(talker: Talker, _line: CallerLine) -> None:
    await talker.say(action="clear")


async def _presses(_talker: Talker, line: CallerLine) -> None:
    await line.press("5")


ACTS = {"websocket:notify": _marks, "websocket:cleared": _clears, "websocket:dtmf": _presses}


@pytest.mark.parametrize("event", ACTS)
async def test_nothing_flows_while_it_is_half_open_not_even_messages(event: str) -> None:
    act: Callable[[Talker, CallerLine], Awaitable[None]] = ACTS[event]
    async with disturbed(vonage(), lambda c: faults.HalfOpen(c, seconds=0.4)) as (talker, line, proof):
        before = await counted(proof)
        told = list(talker.told)
        await act(talker, line)
        await until(lambda: not line._leg.disturbance.media)
        assert talker.told == told
        assert not any("mark" in text or text == "clear" for _, text in line.trail)
        assert await counted(proof) > before
        await flowing(talker)
        assert event not in talker.events()
        await act(talker, line)
        await until(lambda: event in talker.events())


async def test_what_breaks_the_wire_does_not_arrive_either() -> None:
    async with disturbed(vonage(), lambda c: faults.HalfOpen(c, seconds=0.3)) as (talker, line, _):
        assert talker.socket is not None
        await talker.socket.send_str("{")
        await talker.socket.send_bytes(b"odd")
        await until(lambda: not line._leg.disturbance.media)
        await flowing(talker)
        assert not any("protocol error" in text for _, text in line.trail)
