"""Slo: latency targets that a request meets or misses (service level objectives)."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from headrace.nouns.errors import ConfigError
from headrace.workloads.record import Record


@dataclass(frozen=True, slots=True)
class Slo:
    """Upper bounds in seconds; None means no bound."""

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    @classmethod
    def parse(cls, text: str) -> Slo:
        """ "ttft=1,tpot=0.1" in seconds, or with units: "ttft=1s,tpot=100ms". ConfigError."""
        known = {field.name for field in fields(cls)}
        bounds: dict[str, float] = {}
        for part in text.split(","):
            match = re.fullmatch(r"\s*(\w+)\s*=\s*(\d+\.?\d*|\.\d+)\s*(ms|s)?\s*", part)
            if match is None or match[1] not in known or match[1] in bounds:
                raise ConfigError(
                    f"the targets {text!r} are not understood; write each of"
                    f" {', '.join(sorted(known))} at most once, as ttft=1,tpot=0.1 in seconds"
                    " or ttft=1s,tpot=100ms"
                )
            bounds[match[1]] = float(match[2]) / (1000 if match[3] == "ms" else 1)
            if bounds[match[1]] == 0:
                raise ConfigError(f"the target {part!r} is 0; it must be above 0 seconds")
        return cls(**bounds)

    def met_by(self, record: Record) -> bool:
        """True for an answered request inside every bound.

        TPOT has no meaning for one token of output: such a request meets any bound on it.
        """
        if record.error is not None:
            return False
        return (
            _inside(record.ttft, self.ttft)
            and (record.output_tokens < 2 or _inside(record.tpot, self.tpot))
            and _inside(record.e2e, self.e2e)
        )

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) is not None for field in fields(self))

    def to_json(self) -> dict[str, float | None]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


NO_TARGETS = Slo()


def _inside(value: float | None, bound: float | None) -> bool:
    return bound is None or (value is not None and value <= bound)
