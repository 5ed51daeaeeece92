"""Tenant: on whose behalf requests come, and on what terms they are served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.nouns.errors import ConfigError
from headrace.nouns.request import Targets

WEIGHTS = (1e-6, 1e6)
"""Least and largest: sums of weights, and service divided by them, have to stay exact enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a tenant may use, and what its requests have that do not say otherwise.

    ``weight`` is its share beside others' (order ``fair``). ``max_waiting`` and ``max_running``
    bound its sequences, ``max_tokens`` the output tokens of each; None means no bound of its own.
    ``priority`` and ``targets`` are defaults: a deadline in them is in seconds after arrival.
    """

    weight: float = 1.0
    max_waiting: int | None = None
    max_running: int | None = None
    max_tokens: int | None = None
    priority: int = 0
    targets: Targets = Targets()

    def __post_init__(self) -> None:
        least, most = WEIGHTS
        if not least <= self.weight <= most:
            raise ConfigError(
                f"weight is {self.weight}; it must be a number from {least:g} to {most:g}"
            )
        for name in ("max_waiting", "max_running", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")
        deadline = self.targets.deadline
        if deadline is not None and not deadline > 0:
            raise ConfigError(f"deadline is {deadline}; it must be a number of seconds above 0")


@dataclass(frozen=True, slots=True)
class Tenants:
    """Terms by tenant; ``others`` hold for those not named."""

    named: Mapping[str, Terms] = field(default_factory=dict)
    others: Terms = Terms()

    def terms(self, tenant: str) -> Terms:
        return self.named.get(tenant, self.others)
