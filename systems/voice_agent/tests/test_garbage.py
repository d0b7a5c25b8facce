"""A call that is over is gone: what only the garbage collector could free is there until it looks at everything, some
hundred calls later, and looks like a leak until then."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, FunctionType, GeneratorType, MethodType
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import serve

from voice_agent import parting, pools

_LONG = " ".join(f"number{n}" for n in range(40)) + "."


@pytest.fixture
def left_over() -> Iterator[Callable[[], dict[str, int]]]:
    """Asked, it names what of ours only the garbage collector could free, since the fixture was made."""

    def names() -> dict[str, int]:
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = [name for name in map(_name, gc.garbage) if name]
        return {name: found.count(name) for name in found}

    gc.collect()
    gc.disable()
    gc.freeze()  # what was there before is not looked through again and again
    try:
        yield names
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()


def _name(thing: Any) -> str:
    """What of ours it is; "" for what is not."""
    code: CodeType
    match thing:
        case FrameType():
            code = thing.f_code
        case CoroutineType():
            code = thing.cr_code
        case GeneratorType():
            code = thing.gi_code
        case AsyncGeneratorType():
            code = thing.ag_code
        case FunctionType():
            code = thing.__code__
        case MethodType():
            return _name(thing.__func__)
        case _:
            kind = type(thing)
            return kind.__qualname__ if kind.__module__.startswith("voice_agent.") else ""
    return f"{type(thing).__name__} {code.co_qualname}" if "/src/voice_agent/" in code.co_filename else ""


# ---------------------------------------------------------------- ways a call can go


async def _answered(world: Any, caller: Any) -> None:
    await caller.say("What time are you open today?")
    await world.counted('voice_agent_turns_total{outcome="answered"}')


async def _interrupted(world: Any, caller: Any) -> None:
    world.cartesia.ms_per_word = 120
    world.openai.replies.append(_LONG)
    await caller.say("Count please.")
    for _ in range(25):
        await caller.next("media")
    await caller.say("Wait.")
    await caller.next("clear")
    await world.counted("voice_agent_interruptions_total")


async def _hung_up_while_it_thinks(world: Any, caller: Any) -> None:
    world.openai.hold = asyncio.Event()
    await caller.say("Are you open?")
    await world.openai.asked.wait()


async def _hung_up_while_it_speaks(world: Any, caller: Any) -> None:
    world.cartesia.ms_per_word = 120
    await caller.say("Are you open?")
    await caller.next("media")


async def _ended_by_us(world: Any, caller: Any) -> None:
    world.openai.replies.append("Goodbye.")
    await caller.say("Bye.")
    await world.telnyx.commanded("hangup")


async def _voice_lost(world: Any, caller: Any) -> None:
    world.cartesia.mode = "drop"
    await caller.say("Are you open?")
    await world.telnyx.commanded("speak")
    await world.webhook("call.speak.ended")
    await world.counted('voice_agent_turns_total{outcome="answered"}')


async def _ears_lost(world: Any, caller: Any) -> None:
    world.deepgram.mode = "drop"
    await caller.say("Are you open?")
    await world.counted('voice_agent_turns_total{outcome="answered"}')


async def _model_lost(world: Any, caller: Any) -> None:
    world.openai.modes.extend(["truncate"])
    await caller.say("Are you open?")
    await world.counted('voice_agent_turns_total{outcome="troubled"}')


_WAYS = (
    *(_answered, _interrupted, _hung_up_while_it_thinks, _hung_up_while_it_speaks, _ended_by_us),
    *(_voice_lost, _ears_lost, _model_lost),
)


@pytest.mark.parametrize("way", _WAYS, ids=lambda way: way.__name__.strip("_"))
async def test_nothing_of_ours_is_left_to_the_collector(
    way: Callable[[Any, Any], Awaitable[None]],
    worlds: Callable[..., Any],
    left_over: Callable[[], dict[str, int]],
) -> None:
    async with worlds() as world:
        async with world.calling() as caller:
            await caller.greeted()
            await way(world, caller)
        del caller
        assert left_over() == {}


async def test_nothing_is_left_of_a_call_that_is_given_up(
    worlds: Callable[..., Any], left_over: Callable[[], dict[str, int]]
) -> None:
    async with worlds() as world:
        tasks = await world.metric("process_asyncio_tasks")
        await world.webhook("call.initiated", call_control_id="given up")
        await world.telnyx.commanded("answer", "given up")
        assert await world.metric("process_asyncio_tasks") > tasks
        await world.webhook("call.hangup", call_control_id="given up")
        await world.quiet()
        assert await world.metric("process_asyncio_tasks") == tasks
        assert left_over() == {}


# ---------------------------------------------------------------- what libraries keep


async def test_an_answer_is_gone_when_it_has_been_read(left_over: Callable[[], dict[str, int]]) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, text="yes"))
    async with httpx.AsyncClient(transport=transport) as client:
        kept = await client.get("http://vendor/")
        gone = await pools.asked(client, "GET", "http://vendor/")
        assert gone.text == "yes"
        looks = weakref.ref(kept), weakref.ref(gone)
        del kept, gone
        assert [look() is None for look in looks] == [False, True]
    assert left_over() == {}


async def test_a_socket_is_gone_when_it_has_been_closed(
    vendors: Callable[[], Any], left_over: Callable[[], dict[str, int]]
) -> None:
    vendor = vendors().deepgram
    async with serve(vendor.serve, "127.0.0.1", 0) as server:
        address = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        looks = []
        for close in (ClientConnection.close, parting.closed):
            socket = await connect(address, proxy=None)
            await socket.send('{"type":"KeepAlive"}')
            await close(socket)
            looks.append(weakref.ref(socket.protocol))
            del socket
        assert [look() is None for look in looks] == [False, True]
    assert left_over() == {}


async def test_a_task_that_was_cancelled_keeps_nothing(left_over: Callable[[], dict[str, int]]) -> None:
    async def waiting() -> None:
        task = asyncio.current_task()  # as the locks of anyio do
        assert task is not None
        await asyncio.Event().wait()

    looks = []
    for over in (asyncio.Task.cancelled, parting.broken_off):
        task = asyncio.create_task(waiting())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert over(task)
        looks.append(weakref.ref(task))
        del task
    assert [look() is None for look in looks] == [False, True]

    async def done() -> None: ...

    task = asyncio.create_task(done())
    await asyncio.wait({task})
    assert not parting.broken_off(task)
    assert left_over() == {}
