"""From the options of ``headrace simulate`` and ``plan`` to arrivals, as ``bench`` times them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from headrace.cli.bench_load import DEFAULT_TOKENS
from headrace.nouns.errors import ConfigError
from headrace.nouns.request import Targets
from headrace.simulation.arrival import NO_TARGETS, Arrival
from headrace.workloads.arrivals import AllAtOnce, Arrivals, Poisson, Rate, Replayed, parse_rates
from headrace.workloads.job import Shape
from headrace.workloads.lengths import Lengths
from headrace.workloads.trace import Trace

DEFAULT_REQUESTS = 1000


@dataclass(frozen=True, slots=True)
class SimulatedLoad:
    """``count`` requests of ``shapes`` at the times of ``times``; each iteration starts anew.

    ``rate`` is the offered rate in requests a second where there is one.
    """

    label: str
    rate: float | None
    count: int
    shapes: Callable[[], Iterable[Shape]]
    times: Arrivals
    max_context: int | None = None
    targets: Targets = NO_TARGETS

    def __iter__(self) -> Iterator[Arrival]:
        limit, targets = self.max_context, self.targets
        for shape, at in zip(islice(self.shapes(), self.count), self.times.offsets(), strict=False):
            fitted = shape.within(limit)
            yield Arrival(at, fitted.prompt_tokens, fitted.output_tokens, targets=targets)


@dataclass(frozen=True, slots=True)
class SimulatedLoadOptions:
    """The options that say what arrives and when, as they were given."""

    trace: Path | None = None
    tokens: str | None = None
    rate: str | None = None
    requests: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Raises ConfigError for options that do not go together."""
        if self.trace is not None and self.tokens is not None:
            raise ConfigError("--tokens has no meaning where a trace says the lengths")
        if self.requests is not None and self.requests < 1:
            raise ConfigError(f"--requests is {self.requests}; it must be at least 1")
        if self.rate is not None and self.trace is None:
            relative = next((r for r in parse_rates(self.rate) if r.relative), None)
            if relative is not None:
                raise ConfigError(f"--rate {relative} is a multiple of a trace's: give a TRACE")

    def loads(
        self,
        max_context: int | None,
        targets: Targets = NO_TARGETS,
        requests: int | None = None,
    ) -> list[SimulatedLoad]:
        """One load for each rate, of ``requests`` at most where the user does not say.

        Lengths are cut to ``max_context`` as ``bench`` cuts them. Raises ConfigError.
        """
        self.check()
        if self.trace is not None:
            trace = Trace(self.trace, self.requests or requests)
            found = self._replayed(trace)
        else:
            found = self._generated()
        return [SimulatedLoad(*parts, max_context=max_context, targets=targets) for parts in found]

    def _replayed(self, trace: Trace) -> Iterator[tuple[str, float | None, int, Shapes, Arrivals]]:
        count, own = trace.mean_rate()
        for rate in parse_rates(self.rate) if self.rate else [Rate(1.0, relative=True)]:
            scale = rate.value if rate.relative else rate.value / own
            label = f"{trace.path.name}, {rate} ({scale * own:.3g} req/s)" if rate.relative else (
                f"{trace.path.name}, {rate} ({scale:.3g}x)")  # fmt: skip
            replayed = Replayed(trace.times, scale)
            yield label, scale * own, count, _ShapesOf(trace), replayed

    def _generated(self) -> Iterator[tuple[str, float | None, int, Shapes, Arrivals]]:
        text = self.tokens or DEFAULT_TOKENS
        lengths = Lengths.parse(text, self.seed)
        count = self.requests or DEFAULT_REQUESTS

        def shapes() -> Iterable[Shape]:
            return lengths

        if self.rate is None:
            yield f"{text} tokens, all at once", None, count, shapes, AllAtOnce()
            return
        for rate in parse_rates(self.rate):
            poisson = Poisson(rate.value, self.seed)
            yield f"{text} tokens, {rate}", rate.value, count, shapes, poisson


Shapes = Callable[[], Iterable[Shape]]


@dataclass(frozen=True, slots=True)
class _ShapesOf:
    """The lengths of a trace; each call reads the file anew."""

    trace: Trace

    def __call__(self) -> Iterator[Shape]:
        return (entry.shape for entry in self.trace)
