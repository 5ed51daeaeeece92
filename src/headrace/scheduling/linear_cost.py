"""LinearCost: a step's time as a sum of a few measured prices."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from headrace.nouns.errors import ConfigError
from headrace.nouns.step_cost import StepLoad

CONSTANT = "step"

COUNTS: dict[str, Callable[[StepLoad], int]] = {
    "rows": lambda load: load.rows + load.padding,
    "prefill": lambda load: load.rows - load.decodes,
    "decodes": lambda load: load.decodes,
    "slices": lambda load: load.slices,
    "samples": lambda load: load.samples,
    "prefill_pairs": lambda load: load.pairs - load.decode_pairs,
    "decode_pairs": lambda load: load.decode_pairs,
    "read": lambda load: load.read,
}
"""What a feature may count in a step; ``rows`` are all that are computed, padding included."""

PHASES = ("decode", "prefill", "mixed")


@dataclass(frozen=True, slots=True)
class Feature:
    """A count, or the part of it between two bounds: of n units those above ``low`` up to ``high``.

    Written as ``rows`` or ``rows[16:64]`` or ``rows[64:]``.
    """

    count: str
    low: int = 0
    high: float = math.inf

    @classmethod
    def parse(cls, text: str) -> Feature:
        """The feature written so. Raises ConfigError."""
        match = re.fullmatch(r"([a-z_]+)(?:\[(\d{1,12}):(\d{1,12})?\])?", text)
        if match is None or match[1] not in COUNTS:
            raise ConfigError(
                f"{text!r} is no feature of a step; write one of {', '.join(COUNTS)},"
                " or a part of it such as rows[16:64] or rows[64:]"
            )
        low, high = int(match[2] or 0), math.inf if match[3] is None else int(match[3])
        if low >= high:
            raise ConfigError(f"the feature {text!r} is empty; its bounds have to ascend")
        return cls(match[1], low, high)

    def of(self, load: StepLoad) -> int:
        """Units of this feature in a step."""
        count = COUNTS[self.count](load)
        return int(min(max(count - self.low, 0), self.high - self.low))

    def __str__(self) -> str:
        if self.low == 0 and self.high == math.inf:
            return self.count
        return f"{self.count}[{self.low}:{'' if self.high == math.inf else int(self.high)}]"


@dataclass(frozen=True, slots=True)
class CostError:
    """How far predictions were from steps that had no part in the fit.

    ``median`` and ``p90`` of |predicted - measured| / measured over ``steps`` steps; ``bias`` is
    the sum of their predicted seconds over that of their measured ones, less 1. The ``steady`` ones
    are what is left when predictions follow the machine's speed of the seconds around.
    """

    steps: int
    median: float
    p90: float
    bias: float
    steady_median: float
    steady_p90: float

    def __str__(self) -> str:
        return (
            f"{self.median:.1%} at the median, {self.p90:.1%} at p90, {self.bias:+.1%} in sum"
            f" ({self.steady_median:.1%} and {self.steady_p90:.1%} at the speed of the moment)"
        )


@dataclass(frozen=True)
class LinearCost:
    """Seconds of a step: ``coefficients[feature]`` for each unit of each feature, and a constant.

    The constant's name is ``step``; the others are named as ``Feature`` says. Coefficients are
    seconds, at least 0, so that no step is cheaper than a smaller one. ``errors`` are
    cross-validated, by phase (decode, prefill, mixed), where the prices were measured.
    """

    coefficients: Mapping[str, float]
    errors: Mapping[str, CostError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        features: dict[str, list[tuple[Feature, float]]] = {}
        constant = 0.0
        for name, value in self.coefficients.items():
            if type(value) not in (int, float) or not 0 <= value < math.inf:
                raise ConfigError(f"the price of {name!r} is {value!r}; it must be 0 s or more")
            if name == CONSTANT:
                constant = float(value)
            elif value:
                found = Feature.parse(name)
                features.setdefault(found.count, []).append((found, float(value)))
            else:
                Feature.parse(name)
        curves = tuple((COUNTS[count], *_curve(parts)) for count, parts in features.items())
        object.__setattr__(self, "_constant", constant)
        object.__setattr__(self, "_curves", curves)

    def seconds(self, load: StepLoad) -> float:
        """Predicted time of a step."""
        total: float = self._constant  # type: ignore[attr-defined]
        for count, starts, bases, slopes in self._curves:  # type: ignore[attr-defined]
            units = count(load)
            i = bisect_right(starts, units) - 1
            total += bases[i] + slopes[i] * (units - starts[i])
        return total

    def to_json(self) -> dict[str, Any]:
        errors = {phase: asdict(error) for phase, error in self.errors.items()}
        return {"coefficients": dict(self.coefficients), "errors": errors}

    @classmethod
    def from_json(cls, found: object) -> LinearCost:
        """What ``to_json`` gave. Raises ConfigError for anything else, such as a damaged file."""
        if not isinstance(found, dict) or set(found) != {"coefficients", "errors"}:
            raise ConfigError("a cost model has to be an object of coefficients and errors")
        coefficients, errors = found["coefficients"], found["errors"]
        if not isinstance(coefficients, dict) or not coefficients:
            raise ConfigError("a cost model's coefficients have to be an object, and not empty")
        if not isinstance(errors, dict) or not set(errors) <= set(PHASES):
            raise ConfigError(f"a cost model's errors have to be given by phase: {PHASES}")
        return cls(coefficients, {phase: _error(phase, e) for phase, e in errors.items()})


def phase_of(load: StepLoad) -> str:
    """decode (slices of one row only), prefill (none of them), or mixed."""
    if load.decodes == 0:
        return "prefill"
    return "decode" if load.decodes == load.rows and not load.padding else "mixed"


def _curve(
    parts: list[tuple[Feature, float]],
) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]:
    """Sums of features of one count as a piecewise linear function: starts, values there, slopes.

    The first start is 0.
    """
    bounds = {0, *(part.low for part, _ in parts)}
    bounds |= {int(part.high) for part, _ in parts if part.high != math.inf}
    starts = tuple(sorted(bounds))
    slopes = tuple(sum(p for part, p in parts if part.low <= at < part.high) for at in starts)
    bases, value = [], 0.0
    for i, at in enumerate(starts):
        value += slopes[i - 1] * (at - starts[i - 1]) if i else 0.0
        bases.append(value)
    return starts, tuple(bases), slopes


def _error(phase: str, found: object) -> CostError:
    names = tuple(field.name for field in fields(CostError))
    if not isinstance(found, dict) or set(found) != set(names):
        raise ConfigError(f"a cost model's error of {phase} has to have {', '.join(names)}")
    for name in names:
        value = found[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"a cost model's {name} of {phase} is {value!r}, not a number")
        if not math.isfinite(value) or (value < 0 and name != "bias"):
            raise ConfigError(f"a cost model's {name} of {phase} is {value!r}; it cannot be")
    return CostError(**found)
