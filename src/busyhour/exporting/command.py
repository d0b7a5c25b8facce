"""`busyhour export`: the rows of a journal as CSV or Parquet, into a file or to standard output."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import BinaryIO, TextIO

from busyhour.errors import JournalError, PlanError
from busyhour.exporting.rows import OPERATIONS, SAMPLES, TABLES, write_csv, write_parquet
from busyhour.journal import open_run
from busyhour.stored import StoredRun

EXAMPLE = "busyhour export runs/x.journal --kind turn,call --format parquet --output turns.parquet"
FORMATS = ("csv", "parquet")
_KINDS = (  # that a run may well have none of
    *("call", "greeting", "turn", "barge_in", "speech", "pause", "underrun", "request", "function"),
    *("llm", "stt", "stt_connection", "tts", "vector", "witness"),
)


def arguments(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    sub.add_argument("journal")
    sub.add_argument("--format", choices=FORMATS, default="csv", help="(default csv)")
    sub.add_argument("--table", choices=TABLES, default=OPERATIONS.name, help="which rows (default operations)")
    sub.add_argument("--kind", default="", metavar="KIND,...", help="only operations, or marks, of these kinds")
    sub.add_argument("--output", metavar="FILE", help="(default: standard output)")


def act(chosen: argparse.Namespace, out: TextIO | None = None) -> int:
    """Write the rows; returns the exit code. Raises PlanError for the flags, JournalError for the journal and for a
    file that cannot be written; what was there is then as it was."""
    out = sys.stdout if out is None else out
    kinds = [kind.strip() for kind in chosen.kind.split(",") if kind.strip()]
    with open_run(Path(chosen.journal)) as run:
        _check(run, chosen.table, kinds)
        if chosen.output is not None:
            _write_file(run, chosen, kinds)
        elif chosen.format == "csv":
            write_csv(run, TABLES[chosen.table], out, kinds)
        else:
            if out.isatty():
                raise PlanError("--format parquet: a terminal cannot show it; name a file with --output")
            write_parquet(run, TABLES[chosen.table], out.buffer, kinds)
    return 0


def _check(run: StoredRun, table: str, kinds: Sequence[str]) -> None:
    if not kinds:
        return
    if table == SAMPLES.name:
        raise PlanError("--kind: samples have no kinds; leave it out")
    there = run.kinds(table)
    known = {*there, *(_KINDS if table == OPERATIONS.name else ())}
    if unknown := [kind for kind in kinds if kind not in known]:
        near = get_close_matches(unknown[0], sorted(known), n=1)
        mend = f"did you mean {near[0]}?" if near else f"there are: {', '.join(there) or 'none'}"
        raise PlanError(f"--kind {unknown[0]}: no {table} are of this kind; {mend}")


def _write_file(run: StoredRun, chosen: argparse.Namespace, kinds: Sequence[str]) -> None:
    path, table = Path(chosen.output), TABLES[chosen.table]
    try:
        with _whole(path) as file:
            if chosen.format == "parquet":
                write_parquet(run, table, file, kinds)
            else:
                with open(file.fileno(), "w", encoding="utf-8", newline="", closefd=False) as text:
                    write_csv(run, table, text, kinds)
    except OSError as error:
        raise JournalError(f"{path}: the rows cannot be written there: {error.strerror}; give another place") from None


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the body is done; if it fails, `path` is as it was. A device or a pipe
    is written to as it is."""
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
