"""The public names: sorted, all there, and not paid for by those who do not use them."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import busyhour
from busyhour import carriers, emulators

PACKAGES = [busyhour, carriers, emulators]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_public_name_is_there_and_they_are_sorted(package: ModuleType) -> None:
    assert package.__all__ == sorted(package.__all__)
    assert all(getattr(package, name) is not None for name in package.__all__)
    assert not hasattr(package, "nonsense")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_what_the_type_checker_sees_is_what_there_is(package: ModuleType) -> None:
    seen = imported(package)
    for name, module in seen.items():
        assert getattr(package, name) is getattr(sys.modules[module], name)
    assert set(package.__all__) == set(seen) | ({"__version__"} & set(package.__all__))


def test_each_name_has_the_home_that_is_told() -> None:
    homes = {name: f"busyhour.{module}" for module, names in busyhour._HOME.items() for name in names}
    assert imported(busyhour) == homes
    lazy = {name: f"busyhour.emulators.{module}" for name, module in emulators._MODULES.items()}
    assert lazy.items() <= imported(emulators).items()


@pytest.mark.parametrize("package", [busyhour, emulators], ids=lambda package: package.__name__)
def test_the_package_alone_imports_no_more_of_ours_than_it_must(package: ModuleType) -> None:
    code = f"import sys, {package.__name__}; print(*sorted(m for m in sys.modules if m.startswith('busyhour')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    needed = (
        {"busyhour"}
        if package is busyhour
        else {"busyhour", package.__name__}
        | {f"busyhour.{name}" for name in ("emulators.behaviour", "errors", "model", "recording")}
    )
    assert set(done.stdout.split()) == needed


def imported(package: ModuleType) -> dict[str, str]:
    """The names that the package imports from ours, as it is written, and from which module."""
    assert package.__file__ is not None
    return {
        alias.name: node.module
        for node in ast.walk(ast.parse(Path(package.__file__).read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("busyhour.") and node.module
        for alias in node.names
    }
