"""From the options of ``headrace bench`` to the loads that it sends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.nouns.errors import ConfigError
from headrace.workloads.arrivals import AllAtOnce, Poisson, Rate, Replayed, parse_rates
from headrace.workloads.job import Job, Shape
from headrace.workloads.lengths import Lengths
from headrace.workloads.load import Load, repeated, shaped
from headrace.workloads.prompts import Prompts, RandomPrompts, TextPrompts, read_text
from headrace.workloads.trace import Trace
from headrace.workloads.workload_file import select

DEFAULT_TOKENS = "128:64"
DEFAULT_REQUESTS = 64
WARM_UP_PROMPT = 32


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """How texts become token ids, and which ids random prompts are drawn from."""

    encode: Callable[[str], list[int]]
    ids: Callable[[], list[int]]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The options that say what is sent and when, as they were given."""

    workload: str | None = None
    trace: Path | None = None
    tokens: str | None = None
    rate: str | None = None
    concurrency: int | None = None
    requests: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Raises ConfigError for options that do not go together."""
        if self.rate is not None and self.concurrency is not None:
            raise ConfigError(
                "--rate sends at times of its own, --concurrency when others end: give one of them"
            )
        if self.tokens is not None and (self.trace is not None or self._is_file_of_jobs):
            raise ConfigError("--tokens has no meaning where a trace or a workload file says it")
        if self.requests is not None and self.requests < 1:
            raise ConfigError(f"--requests is {self.requests}; it must be at least 1")
        if self.rate is not None and self.trace is None:
            relative = next((r for r in parse_rates(self.rate) if r.relative), None)
            if relative is not None:
                raise ConfigError(f"--rate {relative} is a multiple of a trace's: give --trace")

    def loads(self, vocabulary: Vocabulary, max_context: int | None) -> list[Load]:
        """One load for each workload named and each rate. Raises ConfigError."""
        return [load for contents in self._contents(vocabulary, max_context)
                for load in self._timed(*contents)]  # fmt: skip

    @property
    def _is_file_of_jobs(self) -> bool:
        return self.workload is not None and _split(self.workload)[0].suffix == ".json"

    def _contents(
        self, vocabulary: Vocabulary, max_context: int | None
    ) -> Iterable[tuple[str, Callable[[int], Iterable[Job]], int | None]]:
        """(label, contents, requests where the user does not say) of each workload."""
        if self.workload is not None and self._is_file_of_jobs:
            path, names = _split(self.workload)
            for name, jobs in select(path, names).items():
                yield name, repeated(jobs), None if self.trace else len(jobs)
            return
        shapes: Iterable[Shape]
        if self.trace is not None:
            label, count = self.trace.name, None
            shapes = _Shapes(Trace(self.trace, self.requests))
        else:
            label, count = self.tokens or DEFAULT_TOKENS, DEFAULT_REQUESTS
            shapes = Lengths.parse(label, self.seed)
            label += " tokens"
        yield label, shaped(shapes, self._prompts(vocabulary), max_context), count

    def _prompts(self, vocabulary: Vocabulary) -> Callable[[int], Prompts]:
        """Prompts that differ from run to run, so that no run finds another's in a cache."""
        if self.workload is not None:
            path, names = _split(self.workload)
            if names is not None:
                raise ConfigError(f"the workload file {path} does not exist")
            text = read_text(path, vocabulary.encode)
            return lambda run: TextPrompts(text, (self.seed, run))
        ids = vocabulary.ids()
        return lambda run: RandomPrompts(ids, (self.seed, run))

    def _timed(
        self, label: str, contents: Callable[[int], Iterable[Job]], count: int | None
    ) -> Iterable[Load]:
        requests = self.requests if self.requests is not None else count
        if self.concurrency is not None:
            limit = AllAtOnce(self.concurrency)
            yield Load(contents, limit, requests, f"{label}, {self.concurrency} at a time")
        elif self.trace is not None:
            yield from self._replayed(label, contents, Trace(self.trace, requests))
        elif self.rate is not None:
            for rate in parse_rates(self.rate):
                poisson = Poisson(rate.value, self.seed)
                yield Load(contents, poisson, requests, f"{label}, {rate}", rate.value)
        else:
            yield Load(contents, AllAtOnce(), requests, f"{label}, all at once")

    def _replayed(
        self, label: str, contents: Callable[[int], Iterable[Job]], trace: Trace
    ) -> Iterable[Load]:
        count, own = trace.mean_rate()
        for rate in parse_rates(self.rate) if self.rate else [Rate(1.0, relative=True)]:
            scale = rate.value if rate.relative else rate.value / own
            label_ = f"{label}, {rate} ({scale * own:.3g} req/s)" if rate.relative else (
                f"{label}, {rate} ({scale:.3g}x)")  # fmt: skip
            yield Load(contents, Replayed(trace.times, scale), count, label_, scale * own)


@dataclass(frozen=True, slots=True)
class _Shapes:
    """The lengths of a trace; each iteration reads the file anew."""

    trace: Trace

    def __iter__(self) -> Iterator[Shape]:
        return (entry.shape for entry in self.trace)


def warm_up_job(load: Load) -> Job:
    """A short job that no prefix cache can serve the load from."""
    job = next(iter(load.contents(0)))
    if isinstance(job.prompt, str):
        return Job(0.0, "This request warms up what is measured next.", job.output_tokens)
    first, *rest = job.prompt[::-1][:WARM_UP_PROMPT]
    if first == job.prompt[0]:
        first = first - 1 if first else 1
    return Job(0.0, (first, *rest), job.output_tokens)


def _split(text: str) -> tuple[Path, str | None]:
    """(file, names) of "FILE[:NAMES]"."""
    if Path(text).exists() or ":" not in text:
        return Path(text), None
    path, _, names = text.rpartition(":")
    return Path(path), names
