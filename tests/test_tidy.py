"""Sizes and habits of the house (CONTRIBUTING.md says why)."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "systems").rglob("tests/*.py")])
FOLDERS = ("src", "systems", "plans", "tools", "benchmarks")
CODE = sorted({p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")} - set(TESTS))
LONGEST_FILE, LONGEST_FUNCTION = 500, 70


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*CODE, *TESTS], ids=name)
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", CODE, ids=name)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree), "a module with code has a docstring"


@pytest.mark.parametrize("path", CODE, ids=name)
def test_nothing_is_left_for_later(path: Path) -> None:
    hidden = re.findall(r"\b(TODO|FIXME|XXX)\b|raise NotImplementedError", path.read_text())
    assert not hidden


def test_requirements_are_locked_by_hash_and_name_no_registry() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert "://" not in text, path
        pins = re.findall(r"^[a-z0-9].*==", text, re.MULTILINE)
        assert pins
        assert text.count("--hash=sha256:") >= len(pins), path


def test_every_ignore_gives_its_reason() -> None:
    for path in CODE:
        for line in path.read_text().splitlines():
            if re.search(r"#\s*(noqa|type: ignore)", line):
                assert re.search(r"#\s*(noqa: [A-Z0-9, ]+|type: ignore\[[a-z\-, ]+\])\s+[#(]", line), f"{path}: {line}"


def test_no_generated_file_is_tracked() -> None:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    tracked = listing.stdout.splitlines()
    assert not [file for file in tracked if re.search(r"(\.pyc|\.journal|\.egg-info)", file)]
