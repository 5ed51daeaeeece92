"""Limits: what bounds a step."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.nouns.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """``token_budget`` is what a step should compute, ``step_tokens`` what it can at most.

    ``sequences`` bounds how many run at once.
    """

    token_budget: int
    step_tokens: int
    sequences: int

    def __post_init__(self) -> None:
        for name in ("token_budget", "step_tokens", "sequences"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.step_tokens < max(self.token_budget, self.sequences):
            raise ConfigError(
                f"a step can compute {self.step_tokens} tokens, fewer than the token budget"
                f" {self.token_budget} or the {self.sequences} sequences that may run at once;"
                " lower those"
            )
