"""PlanTargets: the targets of ``headrace plan`` and the share of requests that has to meet them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headrace.nouns.errors import ConfigError
from headrace.nouns.request import Targets
from headrace.workloads.slo import Slo

DEFAULT_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class PlanTargets:
    """At least ``share`` of all requests have to be inside every bound of ``slo``."""

    slo: Slo
    share: float = DEFAULT_SHARE

    @classmethod
    def parse(cls, text: str) -> PlanTargets:
        """ "ttft=1s,tpot=100ms" at 95 %, or "ttft=1s,share=99%". Raises ConfigError."""
        bounds: list[str] = []
        shares: list[str] = []
        for part in text.split(","):
            (shares if part.strip().startswith("share") else bounds).append(part)
        if not shares:
            return cls(Slo.parse(text))
        match = re.fullmatch(r"\s*share\s*=\s*(\d+\.?\d*|\.\d+)\s*%\s*", shares[0])
        share = float(match[1]) / 100 if match else 0.0
        if len(shares) > 1 or not 0 < share <= 1:
            raise ConfigError(
                f"the targets {text!r} are not understood; write the share of requests that has to"
                " meet them once, as share=99%, above 0 % and at most 100 %"
            )
        if not bounds:
            raise ConfigError(f"the targets {text!r} have no bound; add one, as ttft=1s")
        return cls(Slo.parse(",".join(bounds)), share)

    @property
    def stated(self) -> Targets:
        """As requests state them to a server."""
        return Targets(self.slo.ttft, self.slo.tpot, self.slo.e2e)

    def __str__(self) -> str:
        bounds = ", ".join(
            f"{name} {1e3 * bound:g} ms"
            for name, bound in self.slo.to_json().items()
            if bound is not None
        )
        return f"{100 * self.share:g} % inside {bounds}"
