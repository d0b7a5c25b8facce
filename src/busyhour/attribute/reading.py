"""memray's captures into the lines of code that held memory at the end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from busyhour.attribute.commands import TRACKED
from busyhour.errors import ServiceError

if TYPE_CHECKING:
    from memray._memray import TemporalAllocationRecord

_LIBRARY = re.compile(r"(^|/)lib(64)?/python3[^/]*/")
_SNAPSHOTS = 1 << 24  # more than there can be: fewer than there are would be merged, and not be counted by their number
_FRAMES = 400
_NATIVE_SHOWN = 3
_UNNAMED = "<unknown>"
_INTERPRETER = ("_PyEval_EvalFrame", "_TAIL_CALL_")


@dataclass(frozen=True, slots=True)
class Frame:
    function: str
    file: str
    line: int


@dataclass(slots=True)
class Line:
    """A line, and what was allocated there, or by what it called, in the calls, and held when they were over.

    late: of that, what was allocated in the second half. via: of the largest part, the library's line that asked for it
    (empty where it was the line itself); in_c: the functions of C that did, the innermost first.
    """

    frame: Frame
    own: bool
    held_bytes: int = 0
    late_bytes: int = 0
    blocks: int = 0
    via: str = ""
    in_c: str = ""
    _most: int = field(default=0, repr=False)


@dataclass(frozen=True, kw_only=True)
class Held:
    """All lines, the largest first; and the sums over them."""

    lines: Sequence[Line]

    @property
    def held_bytes(self) -> int:
        return sum(line.held_bytes for line in self.lines)

    @property
    def late_bytes(self) -> int:
        return sum(line.late_bytes for line in self.lines)


def held(captures: Sequence[Path], *, package: str, native: bool) -> Held:
    """What the captures' processes held. package: the one that is the target's own although it may be installed.

    Raises ServiceError for what is no complete capture.
    """
    lines: dict[Frame, Line] = {}
    for capture in captures:
        try:
            _add(lines, capture, package, native)
        except (OSError, ValueError) as error:  # cut short, or by another version of memray
            raise ServiceError(f"the capture {capture} cannot be read: {error}") from None
    return Held(lines=sorted(lines.values(), key=lambda line: -line.held_bytes))


def _add(lines: dict[Frame, Line], capture: Path, package: str, native: bool) -> None:
    from memray import FileReader  # noqa: PLC0415  (an extra that need not be installed)

    with FileReader(capture, max_memory_records=_SNAPSHOTS) as reader:
        kept = []
        middle: int | None = None
        for record in reader.get_temporal_allocation_records(merge_threads=True):
            found = [one for one in record.intervals if one.deallocated_before_snapshot is None]
            if not found:
                continue
            stack = [Frame(*frame) for frame in record.stack_trace(_FRAMES)]
            if stack and (stack[0].function, stack[0].file) == ("mark", str(TRACKED)):
                middle = found[0].allocated_before_snapshot
            elif not any(frame.file == str(TRACKED) and frame.function == "obey" for frame in stack):
                kept.append((stack, _in_c(record) if native else "", found))
        if middle is None:
            raise ValueError("it does not tell the middle of the calls")
    for stack, in_c, found in kept:
        frame, own = _blamed(stack, package)
        line = lines.setdefault(frame, Line(frame, own))
        size = sum(one.n_bytes for one in found)
        line.held_bytes += size
        line.late_bytes += sum(one.n_bytes for one in found if one.allocated_before_snapshot > middle)
        line.blocks += sum(one.n_allocations for one in found)
        if size > line._most:
            line._most = size
            line.via = "" if not stack or stack[0] == frame else named(stack[0])
            line.in_c = in_c


def _blamed(stack: Sequence[Frame], package: str) -> tuple[Frame, bool]:
    """The innermost line of the target's own code, or else of whatever code there is; and whether it is its own."""
    for frame in stack:
        if _is_own(frame.file, package):
            return frame, True
    return (stack[0] if stack else Frame("no line of Python", "", 0)), False


def _is_own(file: str, package: str) -> bool:
    if file == str(TRACKED) or file.startswith("<"):
        return False
    return not _LIBRARY.search(file) or (bool(package) and f"-packages/{package}/" in file)


def named(frame: Frame) -> str:
    """As one would look for it: below the libraries' folder, or below ours."""
    if not frame.file:
        return frame.function
    library = _LIBRARY.search(frame.file)
    file = frame.file[library.end() :].removeprefix("site-packages/") if library else frame.file
    return f"{file.removeprefix(f'{Path.cwd()}/')}:{frame.line} {frame.function}"


def _in_c(record: TemporalAllocationRecord) -> str:
    """The innermost functions that asked for it, up to the one that runs Python, as far as they have names."""
    names: list[str] = []
    for function, file, line in record.native_stack_trace(_FRAMES):
        if function.startswith(_INTERPRETER) or len(names) == _NATIVE_SHOWN:
            break
        if function != _UNNAMED:
            names.append(function if file == _UNNAMED else f"{function} ({Path(file).name}:{line})")
    return " < ".join(names)
