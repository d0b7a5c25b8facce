"""What a person sees while a run is going on. It reads the engine's progress; it writes nothing and judges nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from busyhour.model import SECOND, Clock
from busyhour.performing import Progress

REFRESH_SECONDS = 0.25
LINE_SECONDS = 10.0  # without a terminal: a line now and then, for a log


@asynccontextmanager
async def shown(progress: Progress, *, console: Console, clock: Clock, title: str) -> AsyncIterator[None]:
    """Show the progress until the body ends: a live panel on a terminal; a line every 10 s elsewhere, where NO_COLOR is
    set, and where the terminal cannot move its cursor."""
    live = console.is_terminal and not console.no_color and not console.is_dumb_terminal
    shower = asyncio.create_task((_panel if live else _lines)(progress, console, clock, title))
    try:
        yield
    finally:
        shower.cancel()
        await asyncio.wait({shower})


async def _panel(progress: Progress, console: Console, clock: Clock, title: str) -> None:
    # The loop that refreshes is ours: a thread of rich's would take the interpreter lock from the media clock.
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(render(progress, clock.now_ns(), title), refresh=True)
            await asyncio.sleep(REFRESH_SECONDS)


async def _lines(progress: Progress, console: Console, clock: Clock, title: str) -> None:
    while True:
        if progress.phase:
            now_ns = clock.now_ns()
            told = [_where(progress, now_ns), _arrivals(progress), *_rows(progress).values()]
            line = f"{title}: {'; '.join(told)}"
        else:
            line = f"{title}: {progress.doing}"
        console.print(Text(line), soft_wrap=not console.is_terminal)  # names are no markup
        await asyncio.sleep(LINE_SECONDS)


def render(progress: Progress, now_ns: int, title: str) -> RenderableType:
    """The live panel: phase, arrivals in progress, turns, running percentiles, harness lateness."""
    head = Text.assemble((title, "bold"), "  ", (progress.doing, "cyan"))
    if not progress.phase:
        return head
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    rows = {"phase": _where(progress, now_ns), "arrivals": _arrivals(progress), **_rows(progress)}
    for name, told in rows.items():
        table.add_row(name, Text(told))  # a phase may be named like markup
    return Group(head, table)


def _where(progress: Progress, now_ns: int) -> str:
    seconds = (now_ns - progress.began_ns) // SECOND
    return f"{progress.phase} ({progress.phase_number} of {progress.phases}), {seconds // 60}:{seconds % 60:02}"


def _arrivals(progress: Progress) -> str:
    return (
        f"{progress.in_progress} in progress, {progress.finished} over, "
        f"{progress.failed} failed, {progress.dropped} dropped"
    )


def _rows(progress: Progress) -> dict[str, str]:
    """What only calls have, as soon as there is something to tell."""
    rows = {}
    if progress.turns:
        rows["turns"] = f"{progress.turns} turns, {progress.missed} unanswered"
        p50, p95 = progress.quantile_ms(0.5), progress.quantile_ms(0.95)
        if p50 is not None and p95 is not None:
            rows["turns"] += f", response p50 {p50:.0f} ms, p95 {p95:.0f} ms"
    if progress.lateness_p99_ms is not None:
        rows["harness"] = f"frames sent p99 {progress.lateness_p99_ms:.2f} ms late"
    return rows
