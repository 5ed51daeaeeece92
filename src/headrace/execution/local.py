"""LocalExecutor: runs steps on this process's processor, one at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from headrace.execution.batch import Batch, build_batch
from headrace.execution.cache import Cache
from headrace.execution.profile import NO_LAYER, Profile
from headrace.execution.roofline import Roofline
from headrace.kernels.operators import Logits
from headrace.models.model import Model
from headrace.models.native import NativeTransformer
from headrace.nouns.sequence import Sequence
from headrace.nouns.step import Sampled, Step, StepResult

log = logging.getLogger(__name__)


class LogitsSampler(Protocol):
    """Chooses the next token of ``sequences[r]`` from row r of float32 logits [R, V].

    A row that is not finite yields a ``Sampled.error`` and does not disturb the others.
    """

    def sample(self, logits: Logits, sequences: list[Sequence]) -> list[Sampled]: ...

    def forget(self, sequence: Sequence) -> None: ...


class LocalExecutor:
    """Runs steps of one model on one cache. Not thread-safe.

    ``submit`` copies blocks and lays the step out; ``collect`` computes it: the forward
    pass, sampling. A sequence whose logits are not finite gets a ``Sampled.error`` from the
    sampler, which reads the sequences' tokens at that time. An exception while computing becomes
    ``StepResult.error``; the executor stays usable. Rows of ``Step.padding`` go through every
    product of the model, but attend to nothing.
    """

    depth = 1

    def __init__(
        self,
        transformer: Model,
        cache: Cache,
        sampler: LogitsSampler,
        roofline: Roofline | None = None,
    ) -> None:
        """With ``roofline`` every result says what the step had to do (``StepResult.work``)."""
        self.transformer, self.cache, self.sampler = transformer, cache, sampler
        self.roofline = roofline
        self._pending: tuple[Step, Batch | str, int, int] | None = None
        self._profile: Profile | None = None

    def submit(self, step: Step) -> None:
        """Raises RuntimeError if a step is already in flight."""
        if self._pending is not None:
            raise RuntimeError("a step is in flight; collect it before submitting another")
        start = time.monotonic_ns()
        model = self.transformer
        # Now, and outside the net below: a step that is computed again must not copy again, since
        # what a copy was made from may be overwritten by then.
        self.cache.copy(step.copies)
        batch: Batch | str
        try:
            batch = build_batch(
                step,
                self.cache.block_size,
                self.cache.null_block,
                model.padded_rows,
                model.device,
            )
        except Exception as error:
            log.exception("step %d cannot be laid out", step.id)
            batch = _describe(error)
        self._pending = (step, batch, start, time.monotonic_ns())

    def collect(self) -> StepResult:
        """Raises RuntimeError if no step is in flight."""
        if self._pending is None:
            raise RuntimeError("no step is in flight; submit one first")
        step, batch, submitted, laid_out = self._pending
        self._pending = None
        start = time.monotonic_ns()
        sampled: tuple[Sampled | None, ...] = (None,) * len(step.slices)
        error = batch if isinstance(batch, str) else None
        if not isinstance(batch, str):
            try:
                sampled = self._run(batch)
            except Exception as failure:
                log.exception("step %d failed", step.id)
                error = _describe(failure)
        work = None
        if self.roofline is not None and not isinstance(batch, str):
            layout = batch.layout
            work = self.roofline.work(layout.starts, layout.lengths, len(layout.sampled))
        end = time.monotonic_ns()
        profile = self._profile  # another thread may end it
        if profile is not None:
            span = ("layout", NO_LAYER, submitted, laid_out)
            profile.end_step(step.id, step.tokens, len(step.slices), start, end, span, work)
        elapsed = (laid_out - submitted + end - start) * 1e-9
        return StepResult(step.id, sampled, elapsed, error, work)

    def _run(self, batch: Batch) -> tuple[Sampled | None, ...]:
        profile = self._profile
        if batch.fresh:
            start = time.monotonic_ns()
            self.cache.clear(batch.fresh)
            if profile is not None:
                profile.book("clear blocks", start, time.monotonic_ns())
        logits = self.transformer.forward(batch.layout, self.cache)
        start = time.monotonic_ns()
        chosen = self.sampler.sample(logits, list(batch.sequences))
        if profile is not None:
            profile.book("sampling", start, time.monotonic_ns())
        sampled: list[Sampled | None] = [None] * batch.slices
        for i, token in zip(batch.sampling, chosen, strict=True):
            sampled[i] = token
        return tuple(sampled)

    def forget(self, sequence: Sequence) -> None:
        """Let the sampler drop what it keeps of a sequence that has ended."""
        self.sampler.forget(sequence)

    def close(self) -> None:
        """Drop a step in flight and the cache, which may be most of the process's memory."""
        self._pending = None
        self.cache.free()

    @contextmanager
    def profile(self) -> Iterator[Profile]:
        """Book the time of every operator of the steps run inside; costs under 1 % of a step."""
        self._profile = profile = Profile()
        try:
            with _booked(self.transformer, profile):
                yield profile
        finally:
            self._profile = None


@contextmanager
def _booked(model: Model, profile: Profile) -> Iterator[None]:
    """Inside, the model's operators are booked."""
    if isinstance(model, NativeTransformer):
        model.on_spans = profile.book_spans
        try:
            yield
        finally:
            model.on_spans = None
        return
    from headrace.execution.profiled_operators import ProfiledOperators
    from headrace.models.transformer import Transformer

    assert isinstance(model, Transformer)
    operators = model.operators
    model.operators = ProfiledOperators(operators, profile, model.config.num_layers)
    try:
        yield
    finally:
        model.operators = operators


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
