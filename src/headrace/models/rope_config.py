"""RopeConfig: the rotary position embedding of a model, and its frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from headrace.nouns.errors import ModelError

RopeKind = Literal["default", "linear", "llama3", "yarn"]
ROPE_KINDS: tuple[RopeKind, ...] = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding (Su et al. 2021, RoFormer, section 3.2) and its extensions.

    ``linear`` divides every frequency by ``factor`` (position interpolation, Chen et al. 2023);
    ``llama3`` divides the low ones and blends the middle (Llama 3.1 reference code); ``yarn``
    blends by dimension and scales cosine and sine by ``attention_factor`` (Peng et al. 2023,
    sections 3.2 and 3.4). ``divisors``, where a weight file stores them (GGUF's ``rope_freqs``),
    are the ready divisors of the default frequencies and replace the ``llama3`` formula.
    ``original_max_position`` is the context length in tokens before the extension.

    Raises ModelError when a number cannot be used.
    """

    theta: float = 10000.0
    kind: RopeKind = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 0
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    divisors: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        self._positive("theta", self.theta, above=1.0)
        self._positive("factor", self.factor)
        self._positive("attention_factor", self.attention_factor)
        if self.kind in ("llama3", "yarn") and self.divisors is None:
            self._positive("original_max_position_embeddings", self.original_max_position)
        if self.kind == "llama3" and self.divisors is None:
            self._positive("low_freq_factor", self.low_freq_factor)
            self._positive("high_freq_factor", self.high_freq_factor, above=self.low_freq_factor)
        if self.kind == "yarn":
            self._positive("beta_slow", self.beta_slow)
            self._positive("beta_fast", self.beta_fast)
        for divisor in self.divisors or ():
            self._positive("divisor", divisor)

    def _positive(self, name: str, value: float, above: float = 0.0) -> None:
        if not (math.isfinite(value) and value > above):
            raise ModelError(
                f"the model's rope {name} is {value}; it must be finite and more than {above:g}"
                f" for rope of type {self.kind}"
            )

    def inverse_frequencies(self, dim: int) -> tuple[float, ...]:
        """Radians per position of each of the ``dim // 2`` rotated pairs (i, i + dim // 2)."""
        plain = tuple(self.theta ** (-2.0 * i / dim) for i in range(dim // 2))
        if self.divisors is not None:
            return tuple(f / d for f, d in zip(plain, self.divisors, strict=True))
        if self.kind == "linear":
            return tuple(f / self.factor for f in plain)
        if self.kind == "llama3":
            return tuple(self._llama3(f) for f in plain)
        if self.kind == "yarn":
            return self._yarn(plain, dim)
        return plain

    def _llama3(self, frequency: float) -> float:
        turns = self.original_max_position * frequency / (2.0 * math.pi)
        if turns > self.high_freq_factor:
            return frequency
        if turns < self.low_freq_factor:
            return frequency / self.factor
        smooth = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        return (1.0 - smooth) * frequency / self.factor + smooth * frequency

    def _yarn(self, plain: tuple[float, ...], dim: int) -> tuple[float, ...]:
        def dimension_of(turns: float) -> float:
            wave = self.original_max_position / (turns * 2.0 * math.pi)
            return dim * math.log(wave) / (2.0 * math.log(self.theta))

        low, high = dimension_of(self.beta_fast), dimension_of(self.beta_slow)
        if self.truncate:
            low, high = float(math.floor(low)), float(math.ceil(high))
        low, high = max(low, 0.0), min(high, dim - 1.0)
        if low == high:
            high += 0.001  # the ramp needs a width
        out = []
        for i, frequency in enumerate(plain):
            ramp = min(1.0, max(0.0, (i - low) / (high - low)))
            out.append(ramp * frequency / self.factor + (1.0 - ramp) * frequency)
        return tuple(out)


def yarn_attention_factor(
    factor: float, mscale: float | None = None, mscale_all_dim: float | None = None
) -> float:
    """What yarn multiplies cosine and sine by when the model does not say (Peng et al., 3.4)."""

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1.0 else 0.1 * weight * math.log(factor) + 1.0

    if mscale and mscale_all_dim:
        return scale(mscale) / scale(mscale_all_dim)
    return scale(1.0)
