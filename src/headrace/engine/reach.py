"""Reach: how near to the machine's limit an engine's steps came."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from headrace.nouns.event import Event, Kind


@dataclass(frozen=True, slots=True)
class Reached:
    """Sums over ``steps`` steps whose work was counted: what they had to do, the least seconds
    (``limit``) that this machine needs for it, and the seconds that they took."""

    steps: int = 0
    operations: float = 0.0
    bytes: float = 0.0
    limit: float = 0.0
    elapsed: float = 0.0

    @property
    def share(self) -> float | None:
        """Of the limit, while steps ran; None without any."""
        return self.limit / self.elapsed if self.elapsed else None

    def since(self, before: Reached) -> Reached:
        """What has come after ``before``."""
        return Reached(*(a - b for a, b in zip(astuple(self), astuple(before), strict=True)))


class Reach:
    """An event sink that adds the steps up. Read from any thread."""

    def __init__(self) -> None:
        self.total = Reached()

    def __call__(self, event: Event) -> None:
        if event.kind is not Kind.RAN or "limit" not in event.data:
            return
        data, total = event.data, self.total
        self.total = Reached(
            total.steps + 1,
            total.operations + float(data["operations"]),
            total.bytes + float(data["bytes"]),
            total.limit + float(data["limit"]),
            total.elapsed + float(data["elapsed"]),
        )
