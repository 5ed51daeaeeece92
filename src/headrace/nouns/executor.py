"""Executor: what runs steps."""

from __future__ import annotations

from typing import Protocol

from headrace.nouns.sequence import Sequence
from headrace.nouns.step import Step, StepResult


class Executor(Protocol):
    """Runs steps in the order submitted; up to ``depth`` may be in flight.

    ``submit`` makes the step's copies and reads all it needs of its sequences before it returns
    (a step of a pipeline: in the order of the steps); ``collect`` blocks
    until the oldest step in flight is done. Neither raises for a fault in one request: that is
    a ``Sampled.error``. ``forget`` drops whatever is kept per sequence once it has ended.
    """

    depth: int

    def submit(self, step: Step) -> None: ...

    def collect(self) -> StepResult: ...

    def forget(self, sequence: Sequence) -> None: ...

    def close(self) -> None: ...
