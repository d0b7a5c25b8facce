"""The public names: sorted, all there, and not paid for by those who do not use them."""

import ast
import subprocess
import sys
from pathlib import Path

import busyhour


def test_every_public_name_is_there_and_they_are_sorted() -> None:
    assert busyhour.__all__ == sorted(busyhour.__all__)
    assert all(getattr(busyhour, name) is not None for name in busyhour.__all__)


def test_what_the_type_checker_sees_is_what_there_is() -> None:
    tree = ast.parse(Path(busyhour.__file__).read_text())
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("busyhour.")
        for alias in node.names
    }
    homes = {name: f"busyhour.{module}" for module, names in busyhour._HOME.items() for name in names}
    assert seen == homes
    assert set(busyhour.__all__) == set(homes) | {"__version__"}


def test_the_package_alone_imports_nothing_of_ours() -> None:
    code = "import sys, busyhour; print(sorted(m for m in sys.modules if m.startswith('busyhour.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
