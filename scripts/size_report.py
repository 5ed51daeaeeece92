"""Print lines per file and room, and how they changed since the last tag.

Exits with 1 when a file is longer than 500 lines and its first ten lines give no reason, in a
comment that starts with ``Longer than 500 lines:``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

LIMIT = 500
REASON = "Longer than 500 lines:"
SUFFIXES = {".py", ".pyi", ".cpp", ".hpp", ".h"}
FOLDERS = ("src", "tests", "benchmarks", "examples", "scripts")


def git(*arguments: str) -> str | None:
    """Output of a git command; None when it fails, as it does outside a clone."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def sources(paths: Iterable[str]) -> list[PurePosixPath]:
    """Source files of ours among ``paths``."""
    found = (PurePosixPath(p) for p in paths)
    return sorted(p for p in found if p.suffix in SUFFIXES and p.parts[0] in FOLDERS)


def room(path: PurePosixPath) -> str:
    """The folder a file is counted under: a room of the package, or the top folder."""
    parts = path.parts
    if parts[:2] == ("src", "headrace"):
        return "/".join(parts[: 3 if len(parts) > 3 else 2])
    return parts[0]


def count(paths: Iterable[PurePosixPath], read: Callable[[str], str]) -> dict[PurePosixPath, int]:
    """Lines of each file."""
    return {path: len(read(str(path)).splitlines()) for path in paths}


def at_last_tag() -> tuple[str, dict[PurePosixPath, int]] | None:
    """Name of the last tag and the lines of the files it had; None when there is no tag."""
    tag = git("describe", "--tags", "--abbrev=0")
    if tag is None:
        return None
    tag = tag.strip()
    listed = git("ls-tree", "-r", "--name-only", tag) or ""
    paths = sources(listed.splitlines())
    return tag, count(paths, lambda path: git("show", f"{tag}:{path}") or "")


def too_long(lines: dict[PurePosixPath, int]) -> list[PurePosixPath]:
    """Files over the limit that give no reason at their top."""
    return [
        path
        for path, number in lines.items()
        if number > LIMIT
        and not any(
            REASON in line for line in Path(path).read_text(encoding="utf-8").splitlines()[:10]
        )
    ]


def table(now: dict[PurePosixPath, int], then: dict[PurePosixPath, int], since: str) -> str:
    """Rooms and their files, with the change since the tag where there is one."""

    def change(paths: Iterable[PurePosixPath]) -> str:
        if not since:
            return ""
        wanted = list(paths)
        difference = sum(now.get(p, 0) for p in wanted) - sum(then.get(p, 0) for p in wanted)
        return f"{difference:+7d}"

    every = sorted(set(now) | set(then))
    rows = [f"{'lines':>7}{since and f'  since {since}'}"]
    for name in sorted({room(p) for p in every}):
        members = [p for p in every if room(p) == name]
        total = sum(now.get(p, 0) for p in members)
        rows.append(f"{total:7d}{change(members)}  {name}/  ({len(members)} files)")
        rows += [f"{now.get(p, 0):7d}{change([p])}      {p.relative_to(name)}" for p in members]
    rows.append(f"{sum(now.values()):7d}{change(every)}  in all ({len(now)} files)")
    return "\n".join(rows)


def main() -> int:
    listed = git("ls-files", "--cached", "--others", "--exclude-standard")
    if listed is None:
        print("size report: not a git clone, nothing to count", file=sys.stderr)
        return 1
    paths = [p for p in sources(listed.splitlines()) if Path(p).is_file()]
    now = count(paths, lambda path: Path(path).read_text(encoding="utf-8"))
    tagged = at_last_tag()
    since, then = tagged if tagged else ("", {})
    print(table(now, then, since))
    offenders = too_long(now)
    for path in offenders:
        print(
            f"{path} has {now[path]} lines, more than {LIMIT}: split it, or give the reason in"
            f" its first ten lines after '{REASON}'",
            file=sys.stderr,
        )
    return 1 if offenders else 0


if __name__ == "__main__":
    sys.exit(main())
