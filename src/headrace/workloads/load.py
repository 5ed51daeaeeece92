"""Load: which requests are sent, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice

from headrace.workloads.arrivals import Arrivals
from headrace.workloads.job import Job, Shape
from headrace.workloads.prompts import Prompts

MADE_AHEAD = 2048


@dataclass(frozen=True, slots=True)
class Load:
    """Jobs for one run. ``contents(run)`` yields jobs whose times ``arrivals`` then sets.

    ``run`` numbers the runs of a benchmark, so that each may have prompts of its own. ``requests``
    None takes all that ``contents`` yields. ``rate`` is the offered rate in requests a second
    where there is one.
    """

    contents: Callable[[int], Iterable[Job]]
    arrivals: Arrivals
    requests: int | None
    label: str
    rate: float | None = None

    def jobs(self, run: int = 0) -> Iterable[Job]:
        """The jobs in the order of their times.

        A load of moderate size is made ahead, so that making it delays no request.
        """
        timed = self._timed(run)
        if self.requests is not None and self.requests <= MADE_AHEAD:
            return list(timed)
        return timed

    def _timed(self, run: int) -> Iterator[Job]:
        contents = islice(self.contents(run), self.requests)
        for job, at in zip(contents, self.arrivals.offsets(), strict=False):
            yield Job(at, job.prompt, job.output_tokens)


def repeated(jobs: list[Job]) -> Callable[[int], Iterable[Job]]:
    """The same jobs in every run, over and over."""
    return lambda run: cycle(jobs)


def shaped(
    shapes: Iterable[Shape], prompts: Callable[[int], Prompts], max_context: int | None
) -> Callable[[int], Iterable[Job]]:
    """Jobs with generated prompts; ``prompts(run)`` makes those of a run."""

    def contents(run: int) -> Iterator[Job]:
        maker = prompts(run)
        for shape in shapes:
            fitted = shape.within(max_context)
            yield Job(0.0, maker.prompt(fitted.prompt_tokens), fitted.output_tokens)

    return contents
