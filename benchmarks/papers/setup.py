"""Setup: the settings of an engine that a trial compares; what they hold of is given apart."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.nouns.tenant import Tenants
from headrace.scheduling.limits import Limits
from headrace.scheduling.registry import create
from headrace.scheduling.scheduler import Policies

STEP_ROWS = 8192
NOBODY = Tenants()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Names of policies, limits of a step, and the cache in ``blocks`` of the engine's size.

    None: what the engine has, or has measured.
    """

    order: str = "fcfs"
    admission: str = "watermark"
    batching: str = "stall-free"
    preemption: str = "recompute"
    token_budget: int | None = None
    step_tokens: int | None = None
    sequences: int = 64
    blocks: int | None = None
    prefix_cache: bool = False
    tenants: Tenants = NOBODY

    def policies(self) -> Policies:
        """New policy objects: they may learn."""
        return Policies(
            create("order", self.order),
            create("admission", self.admission),
            create("batching", self.batching),
            create("preemption", self.preemption),
        )

    def limits(self, token_budget: int, step_tokens: int) -> Limits:
        most = max(min(self.step_tokens or step_tokens, step_tokens), self.sequences)
        return Limits(min(self.token_budget or token_budget, most), most, self.sequences)

    def describe(self) -> str:
        """Policies in the order of a scheduler: order, admission, batching, preemption."""
        return f"{self.order}, {self.admission}, {self.batching}, {self.preemption}"
