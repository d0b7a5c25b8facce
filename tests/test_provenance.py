import subprocess
from pathlib import Path

import pytest

from busyhour import fastlane, provenance


def git(folder: Path, *words: str) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *author, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checked_out(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "plan.py").write_text("first\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_a_commit_is_named(checked_out: Path) -> None:
    assert provenance.commit_of(checked_out) == git(checked_out, "rev-parse", "--short=12", "HEAD")


def test_a_changed_file_is_told_and_a_new_one_is_not(checked_out: Path) -> None:
    (checked_out / "runs.journal").write_text("")
    clean = provenance.commit_of(checked_out)
    (checked_out / "plan.py").write_text("second\n")
    assert provenance.commit_of(checked_out) == clean + "+"


def test_outside_of_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit_of(tmp_path) == ""


def test_without_git_there_is_no_commit(checked_out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checked_out))
    assert provenance.commit_of(checked_out) == ""


def test_the_machine_and_the_libraries_are_told() -> None:
    assert "cores" in provenance.machine()
    assert set(provenance.libraries()) >= {"aiohttp", "numpy", "picows"}
    assert provenance.libraries()["fast lane"].startswith("not in use: " if fastlane.WHY_NOT else "in use")
