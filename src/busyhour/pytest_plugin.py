"""The pytest plugin: its fixture `busyhour` carries out plans, and places calls, inside a suite of your own.

Every run of pytest where busyhour is installed loads this module: what is heavy is imported by the test that asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from busyhour.suites.asking import Busyhour

__all__ = ["Busyhour", "busyhour"]

_JOURNALS, _HTML = "--busyhour-journals", "--busyhour-html"
_FOLDERS = {
    _JOURNALS: "keep the journals of all runs there (unless given: of failing runs, in a temporary folder)",
    _HTML: "write the HTML report of each failing run there",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("busyhour", "verification of voice agents by busyhour")
    for flag, about in _FOLDERS.items():
        group.addoption(flag, metavar="DIR", help=about)


def pytest_configure(config: pytest.Config) -> None:
    """Raises UsageError for a folder that cannot be: that is known before a run of ten minutes, not after it."""
    for flag in _FOLDERS:
        if folder := _folder(config, flag):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                words = f"{flag} {folder}: it cannot be made a folder: {error.strerror}; give another place"
                raise pytest.UsageError(words) from None


@pytest.fixture
def busyhour(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Busyhour]:
    """Carries out plans (`run`, `plan`) and places calls (`call`). The test fails with the sentence of each verdict
    that is not PASS."""
    from busyhour.suites.asking import Busyhour  # noqa: PLC0415  (a second of imports, for the tests that need them)

    kept, pages = (_folder(request.config, flag) for flag in (_JOURNALS, _HTML))
    with Busyhour(request.node, tmp_path_factory, kept=kept, pages=pages) as asked:
        yield asked


def _folder(config: pytest.Config, flag: str) -> Path | None:
    given = config.getoption(flag)
    return None if given is None else config.invocation_params.dir / given


def __getattr__(name: str) -> object:
    """`Busyhour`, for annotations of tests."""
    if name != "Busyhour":
        raise AttributeError(f"{__name__} has no {name!r}")
    from busyhour.suites.asking import Busyhour  # noqa: PLC0415  (as above)

    return Busyhour
