"""The architecture is a test: who may import whom (ARCHITECTURE.md draws it)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "busyhour"

FOUNDATION = {"model", "recording", "errors", "bulk", "share", "columns"}
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": {"*"},
    "model": {"recording"},
    "recording": set(),
    "errors": set(),
    "columns": {"model"},
    "share": {"model"},
    "bulk": {"model", "share"},
    "clock": FOUNDATION,
    "timers": FOUNDATION | {"clock"},
    "histogram": FOUNDATION | {"fastlane"},
    "arrivals": FOUNDATION,
    # the judging half: numbers and records in, verdicts out
    "statistics": FOUNDATION,
    "indicators": FOUNDATION | {"statistics"},
    "gates": FOUNDATION | {"statistics", "indicators"},
    "reports": FOUNDATION | {"gates", "indicators", "media", "statistics"},
    # the doing half
    "sounds": FOUNDATION,
    "rows": FOUNDATION | {"sounds"},
    "holding": FOUNDATION,
    "stored_columns": FOUNDATION,
    "stored": FOUNDATION | {"rows", "sounds", "stored_columns"},
    "journal": FOUNDATION | {"clock", "holding", "rows", "sounds", "stored"},
    "proc": FOUNDATION,
    "processes": FOUNDATION | {"proc"},
    "admin": FOUNDATION,
    "descriptors": FOUNDATION,
    "services": FOUNDATION | {"clock", "descriptors", "proc", "processes"},
    "_supervise": set(),
    "disturbance": FOUNDATION | {"fastlane"},
    "fastlane": FOUNDATION,
    "media": FOUNDATION | {"clock", "disturbance", "fastlane", "histogram", "timers"},
    "carriers": FOUNDATION | {"clock", "disturbance", "fastlane", "media"},
    "workloads": FOUNDATION | {"clock", "fastlane", "histogram", "media", "carriers", "timers"},
    "emulators": FOUNDATION | {"admin", "clock", "media", "processes", "timers"},
    "faults": FOUNDATION | {"admin", "clock", "disturbance", "histogram", "proc", "processes", "timers"},
    "probes": FOUNDATION | {"clock", "histogram", "proc"},
    "keeping": FOUNDATION,
    "performing": FOUNDATION | {"keeping"},
    "attendance": FOUNDATION | {"clock"},
    "segments": FOUNDATION,
    "engine": FOUNDATION | {"attendance", "clock", "keeping", "performing", "probes", "segments", "services"},
    # what joins them
    "kinds": FOUNDATION,
    "planfile": FOUNDATION | {"arrivals", "faults", "kinds"},
    "preflight": FOUNDATION | {"descriptors", "proc", "workloads"},
    "prospects": FOUNDATION | {"arrivals", "gates", "indicators", "planfile", "statistics", "workloads"},
    "proofs": FOUNDATION | {"clock", "planfile"},
    "eventloop": FOUNDATION,
    "provenance": {"fastlane"},
    "distributed": FOUNDATION
    | {"carriers", "clock", "descriptors", "eventloop", "faults", "journal", "keeping", "performing", "planfile"}
    | {"probes", "processes"},
    "swarm": FOUNDATION | {"_supervise", "clock", "conduct", "distributed", "planfile"},
    "conduct": FOUNDATION
    | {"clock", "descriptors", "distributed", "engine", "eventloop", "journal", "live", "planfile", "proofs"}
    | {"checkpoints", "exporting", "provenance", "segments"},
    "exporting": FOUNDATION | {"clock", "journal", "performing", "stored"},
    "openslo": FOUNDATION | {"gates", "indicators"},
    "checkpoints": FOUNDATION,
    "checkpoint": FOUNDATION | {"gates", "journal", "planfile"},
    "resuming": FOUNDATION | {"clock", "holding", "journal", "planfile", "segments", "workloads"},
    "live": FOUNDATION | {"clock", "performing"},
    "emulate": FOUNDATION | {"admin", "clock", "emulators"},
    "learn": FOUNDATION | {"clock", "emulate", "emulators"},
    "matrix": FOUNDATION,
    "comparing": FOUNDATION | {"gates", "journal", "planfile", "statistics"},
    "controls": FOUNDATION | {"conduct", "gates", "journal", "matrix", "planfile", "proofs"},
    "capacity": FOUNDATION
    | {"arrivals", "clock", "conduct", "gates", "journal", "planfile", "preflight", "probes", "proc", "statistics"}
    | {"reports", "workloads"},
    "attribute": FOUNDATION | {"arrivals", "capacity", "conduct", "planfile", "preflight", "services", "workloads"},
    "testing": FOUNDATION | {"arrivals", "clock", "carriers", "media", "statistics"},
    "listen": FOUNDATION | {"journal", "media"},
    "timeline": FOUNDATION | {"carriers", "clock", "media", "workloads"},
    "suites": FOUNDATION
    | {"clock", "conduct", "descriptors", "engine", "eventloop", "gates", "journal", "planfile", "preflight"}
    | {"processes", "reports", "services", "timeline", "workloads"},
    "pytest_plugin": {"suites"},
    "cli": {"*"},
    "__main__": {"cli"},
}
JUDGING = ("statistics", "indicators", "gates", "reports")
DOING = {"asyncio", "time", "random", "socket", "selectors", "threading", "subprocess", "datetime"}


def imports(path: Path) -> Iterator[str]:
    """Absolute names of the modules a file imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            if node.module == "busyhour":
                yield from (f"busyhour.{alias.name}" for alias in node.names)
            else:
                yield node.module


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    part = part_of(path)
    assert part in MAY_IMPORT, f"{part} has no place in the layers yet: give it one here and in ARCHITECTURE.md"
    allowed = MAY_IMPORT[part]
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("busyhour.")} - {part}
    wrong = ours - allowed - {"__version__"}
    assert "*" in allowed or not wrong, f"{path.name} imports {sorted(wrong)}; {part} may import {sorted(allowed)}"


@pytest.mark.parametrize("path", [p for p in FILES if part_of(p) in JUDGING], ids=lambda p: p.name)
def test_the_judging_half_does_nothing(path: Path) -> None:
    assert not DOING & {name.split(".")[0] for name in imports(path)}


def test_of_media_the_reports_take_no_more_than_how_octets_become_samples() -> None:
    pure = {"busyhour.media.channels", "busyhour.media.codec"}
    for path in (PACKAGE / "reports").rglob("*.py"):
        assert {name for name in imports(path) if name.startswith("busyhour.media")} <= pure, path
    for name in pure:
        theirs = set(imports(PACKAGE / "media" / f"{name.rpartition('.')[2]}.py"))
        assert not DOING & {module.split(".")[0] for module in theirs}
        assert {module for module in theirs if module.startswith("busyhour.media")} <= pure


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.name not in {"clock.py", "_supervise.py"}], ids=lambda p: p.name
)
def test_only_the_clock_reads_time(path: Path) -> None:
    assert not {"time", "datetime"} & {name.split(".")[0] for name in imports(path)}


def test_the_emulators_know_nothing_of_each_other() -> None:
    shared = {"twin", "vendor", "behaviour", "headers", "language_model", "receptionist", "listening", "synthesis"}
    for path in (PACKAGE / "emulators").rglob("*.py"):
        vendor = path.relative_to(PACKAGE / "emulators").parts[0].removesuffix(".py").split("_")[0]
        others = {name.split(".")[2] for name in imports(path) if name.startswith("busyhour.emulators.")} - shared
        strangers = {other for other in others if other.split("_")[0] != vendor}
        assert vendor == "" or not strangers, path


def test_systems_and_the_product_do_not_know_each_other() -> None:
    for path in (ROOT / "systems").rglob("*.py"):
        assert not any(name.startswith("busyhour") for name in imports(path)), path
    for path in FILES:
        assert not any(name.split(".")[0] == "voice_agent" for name in imports(path)), path
