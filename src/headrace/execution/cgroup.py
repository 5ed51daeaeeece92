"""Limits that control groups set on this process, in versions 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# Version 1 writes "no limit" as the largest multiple of the page size below 2**63.
_UNLIMITED = 1 << 60


@dataclass(frozen=True, slots=True)
class Limits:
    """The tightest limits found; None where there is none.

    ``cpus`` is CPU time per wall time; ``memory`` and ``memory_used`` are bytes, the latter
    without file pages that the kernel would drop first.
    """

    cpus: float | None = None
    memory: int | None = None
    memory_used: int | None = None


def read_limits(root: Path = Path("/")) -> Limits:
    """Read the limits of this process's group and of every group above it.

    Files that are missing or unreadable count as no limit; nothing is raised. Kernel
    documentation: cgroup-v2 ("CPU Interface Files", "Memory Interface Files"), cgroup-v1.
    """
    cpus: list[float] = []
    memory: list[tuple[int, int]] = []
    for line in read_text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            for group in _upwards(root / "sys/fs/cgroup", path):
                cpus += _quota(*_fields(group / "cpu.max", 2))
                memory += _memory(group, "memory.max", "memory.current", "inactive_file")
        if "cpu" in controllers.split(","):
            for group in _upwards(root / "sys/fs/cgroup/cpu", path):
                quota, period = (
                    read_text(group / "cpu.cfs_quota_us"),
                    read_text(group / "cpu.cfs_period_us"),
                )
                cpus += _quota(quota.strip(), period.strip())
        if "memory" in controllers.split(","):
            for group in _upwards(root / "sys/fs/cgroup/memory", path):
                memory += _memory(
                    group,
                    "memory.limit_in_bytes",
                    "memory.usage_in_bytes",
                    "total_inactive_file",
                )
    # What counts is the group with the least left, not the one with the least limit.
    limit, used = min(memory, key=lambda pair: pair[0] - pair[1], default=(None, None))
    return Limits(min(cpus, default=None), limit, used)


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """The group's folder and those above it, up to the mount; inside a container the path may
    name groups that are not visible, whose files then read as empty."""
    relative = PurePosixPath(path.lstrip("/"))
    if ".." in relative.parts:
        relative = PurePosixPath()
    yield mount / relative
    for parent in relative.parents:
        if mount / parent != mount / relative:
            yield mount / parent


def _quota(quota: str, period: str) -> list[float]:
    if quota.isdecimal() and period.isdecimal() and int(quota) > 0 and int(period) > 0:
        return [int(quota) / int(period)]
    return []


def _memory(group: Path, limit: str, usage: str, droppable: str) -> list[tuple[int, int]]:
    most, used = read_text(group / limit).strip(), read_text(group / usage).strip()
    if not most.isdecimal() or int(most) >= _UNLIMITED:
        return []
    statistics = dict(
        line.split(" ", 1) for line in read_text(group / "memory.stat").splitlines() if " " in line
    )
    dropped = statistics.get(droppable, "0").strip()
    in_use = int(used) if used.isdecimal() else 0
    return [(int(most), max(0, in_use - (int(dropped) if dropped.isdecimal() else 0)))]


def _fields(path: Path, number: int) -> list[str]:
    fields = read_text(path).split()
    return fields if len(fields) == number else [""] * number


def read_text(path: Path) -> str:
    """A kernel file's text, empty when it is missing or unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
