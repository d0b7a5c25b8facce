"""Where tracked processes report: what is said of those that do not come, cannot, or have ended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from busyhour.attribute.desk import Desk
from busyhour.attribute.reading import held
from busyhour.errors import ServiceError


@asynccontextmanager
async def reporting(desk: Desk, pid: int, *answers: str) -> AsyncIterator[list[str]]:
    """A process that says hello, gives these answers, and then hangs up; what it was told."""
    reader, writer = await asyncio.open_unix_connection(desk.socket)
    told: list[str] = []

    async def answer() -> None:
        for one in answers:
            told.append((await reader.readline()).decode().strip())
            writer.write(f"{one}\n".encode())
        writer.close()

    before = len(desk._processes)
    writer.write(f"hello {pid}\n".encode())
    while len(desk._processes) == before:  # noqa: ASYNC110  (the desk tells nobody who has come)
        await asyncio.sleep(0.001)
    answering = asyncio.create_task(answer())
    try:
        yield told
    finally:
        await answering
        await writer.wait_closed()


async def test_all_that_have_come_are_told(tmp_path: Path) -> None:
    desk = Desk(folder=tmp_path, native=True)
    async with (
        desk.running({}),
        reporting(desk, 7, "ok", "ok", "ok") as one,
        reporting(desk, 8, "ok", "ok", "ok") as other,
    ):
        await desk.start()
        await desk.mark()
        await desk.stop()
        assert one == [f"start {tmp_path}/7.memray 1", "mark", "stop"]
        assert other == [f"start {tmp_path}/8.memray 1", "mark", "stop"]
    assert desk.captures == [tmp_path / "7.memray", tmp_path / "8.memray"]


async def test_nobody_has_come(tmp_path: Path) -> None:
    desk = Desk(folder=tmp_path, native=False)
    async with desk.running({}):
        with pytest.raises(
            ServiceError, match="no process of the target came to be tracked; its command starts another"
        ):
            await desk.start()


@pytest.mark.parametrize(
    ("answers", "because"),
    [
        (["failed No space left on device"], r"process 7 cannot be tracked \(start\): No space left on device"),
        ([], r"process 7 cannot be tracked \(start\): (it has ended|.*(pipe|reset).*)"),
    ],
)
async def test_a_process_that_cannot_be_tracked(tmp_path: Path, answers: list[str], because: str) -> None:
    desk = Desk(folder=tmp_path, native=False)
    async with desk.running({}), reporting(desk, 7, *answers):
        with pytest.raises(ServiceError, match=because):
            await desk.start()


@pytest.mark.parametrize("content", [b"", b"not a capture of memray's"])
def test_what_is_no_capture(tmp_path: Path, content: bytes) -> None:
    capture = tmp_path / "7.memray"
    capture.write_bytes(content)
    with pytest.raises(ServiceError, match=r"the capture .*7\.memray cannot be read: "):
        held([capture], package="", native=False)
