"""Taking leave: what is kept of a socket or a task that is over is let go.

Objects that refer to each other are freed by the garbage collector alone, and CPython's looks at the oldest generation
only every some hundred calls: until then the memory of a process grows as if it leaked.
"""

from __future__ import annotations

import asyncio
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.protocol import State


async def closed(socket: ClientConnection) -> None:
    """Close it. Its parser stands at the end of the stream for ever, and its protocol and it hold each other."""
    await socket.close()
    if socket.protocol.state is State.CLOSED:
        socket.protocol.parser.close()


def broken_off(task: asyncio.Task[Any]) -> bool:
    """Whether a task that is done was cancelled. It keeps the CancelledError until that is asked for, and so all its
    frames, one of which may know the task (those of anyio's locks do)."""
    try:
        task.exception()
    except asyncio.CancelledError:
        return True
    return False
