"""Request: what a client asked for."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from headrace.nouns.errors import InvalidRequest
from headrace.nouns.sampling_params import SamplingParams

MAX_N = 128
CATEGORY = re.compile(r"[A-Za-z0-9._:/-]{1,64}")
"""What a request's category may be called by a client."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Latency targets in seconds: time to first token, time per output token, and a deadline.

    ``deadline`` is an absolute time on the engine's clock; in a tenant's terms and in bodies it
    is seconds after arrival, which ``since`` turns into the former. None means: no target.
    Raises InvalidRequest, naming the field, for what is no time.
    """

    ttft: float | None = None
    tpot: float | None = None
    deadline: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("ttft", self.ttft), ("tpot", self.tpot)):
            if value is not None and not 0 < value < math.inf:
                raise InvalidRequest(
                    f"the target {name} is {value}; it must be a number of seconds above 0",
                    f"targets.{name}",
                )
        if self.deadline is not None and not math.isfinite(self.deadline):
            raise InvalidRequest(
                f"the deadline is {self.deadline}; it must be a number", "targets.deadline"
            )

    def since(self, now: float) -> Targets:
        """The same with a deadline counted from ``now`` on."""
        if self.deadline is None:
            return self
        return Targets(self.ttft, self.tpot, now + self.deadline)

    def over(self, others: Targets) -> Targets:
        """These, and the others' where there is none of its kind here."""
        return Targets(
            others.ttft if self.ttft is None else self.ttft,
            others.tpot if self.tpot is None else self.tpot,
            others.deadline if self.deadline is None else self.deadline,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A prompt, how to continue it, and on whose behalf.

    ``prompt`` are token ids. ``max_tokens`` is the resolved bound on output tokens (the engine
    fills it from ``params`` and the context length). ``eos_ids`` are the model's end tokens, empty
    when the client asked to ignore them. ``seed`` is always set: random draws depend on it, the
    sequence's index and the token's position only, never on the batch.
    A lower ``priority`` number is served first. ``tenant`` also salts the prefix cache.
    ``category`` names the kind of request (whose outputs are about equally long), for predictions.
    ``common`` is set where it is known how many tokens of the prompt's beginning others' may have,
    too: a simulation need not look for anybody with the rest. Siblings (``n``) share all.
    """

    id: str
    prompt: tuple[int, ...]
    max_tokens: int
    params: SamplingParams = field(default_factory=SamplingParams)
    n: int = 1
    arrival: float = 0.0
    seed: int = 0
    eos_ids: frozenset[int] = frozenset()
    tenant: str = "default"
    priority: int = 0
    targets: Targets = Targets()
    category: str = ""
    common: int | None = None

    def __post_init__(self) -> None:
        if not self.prompt:
            raise InvalidRequest("the prompt has no tokens; give at least one", "prompt")
        if not 1 <= self.n <= MAX_N:
            raise InvalidRequest(f"n is {self.n}; it must be in [1, {MAX_N}]", "n")
        if self.common is not None and self.n > 1:
            raise InvalidRequest(
                f"common is {self.common} and n is {self.n}; siblings share all, give None",
                "common",
            )
        if self.max_tokens < 1:
            raise InvalidRequest(
                f"max_tokens is {self.max_tokens}; it must be at least 1", "max_tokens"
            )
