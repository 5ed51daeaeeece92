"""The size report, run in a small clone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts import size_report


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "src/headrace/api/app.py", 10)
    write(tmp_path / "src/headrace/environment.py", 3)
    write(tmp_path / "docs/long.py", 900)
    git("init", "--quiet")
    git("add", ".")
    return tmp_path


def git(*arguments: str) -> None:
    name = ["-c", "user.name=tester", "-c", "user.email=tester@localhost"]
    subprocess.run(["git", *name, *arguments], check=True, capture_output=True, timeout=60)


def write(path: Path, lines: int, first: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((first + "\n") * min(1, lines) + "x = 1\n" * (lines - 1))


def test_counts_by_room_without_a_tag(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert size_report.main() == 0
    assert capsys.readouterr().out.splitlines() == [
        "  lines",
        "      3  src/headrace/  (1 files)",
        "      3      environment.py",
        "     10  src/headrace/api/  (1 files)",
        "     10      app.py",
        "     13  in all (2 files)",
    ]


def test_change_since_the_last_tag(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git("commit", "--quiet", "-m", "first")
    git("tag", "v1")
    write(clone / "src/headrace/api/app.py", 14)
    (clone / "src/headrace/environment.py").unlink()
    write(clone / "tests/test_new.py", 5)
    assert size_report.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  lines  since v1"
    assert "      0     -3      environment.py" in lines
    assert "     14     +4      app.py" in lines
    assert "      5     +5  tests/  (1 files)" in lines
    assert lines[-1] == "     19     +6  in all (2 files)"


def test_long_files_need_a_reason(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(clone / "src/headrace/excused.py", 501, "# Longer than 500 lines: one table")
    write(clone / "src/headrace/whole.py", 500)
    assert size_report.main() == 0
    write(clone / "src/headrace/long.py", 501)
    assert size_report.main() == 1
    assert "src/headrace/long.py has 501 lines, more than 500" in capsys.readouterr().err


def test_outside_a_clone_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert size_report.main() == 1
    assert "not a git clone" in capsys.readouterr().err
