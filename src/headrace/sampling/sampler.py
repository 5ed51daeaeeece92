"""Sampler: the next token of every row of a batch of logits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.kernels.operators import Logits
from headrace.nouns.sequence import Sequence
from headrace.nouns.step import Sampled
from headrace.sampling.chooser import UNSOUND, Chooser, Columns
from headrace.sampling.history import TokenHistory
from headrace.sampling.native_chooser import find_chooser
from headrace.sampling.penalties import Edit, apply
from headrace.sampling.recipe import Recipe

_FLOAT32 = np.dtype(np.float32)


@dataclass(slots=True, eq=False)
class _Row:
    """What is kept of a sequence between steps; all of it can be built again."""

    sequence: Sequence
    recipe: Recipe
    history: TokenHistory | None = None


class _Batch:
    """Rows that are sampled together, as they are in step after step of decoding."""

    def __init__(self, sequences: list[Sequence], rows: list[_Row]) -> None:
        recipes = [row.recipe for row in rows]
        self.sequences, self.rows = list(sequences), rows
        self.plain = all(recipe.plain for recipe in recipes)
        self.columns = Columns.of(recipes)
        self.errors = {r: e.error for r, e in enumerate(recipes) if e.error is not None}
        self.reported = [r for r, e in enumerate(recipes) if e.logprobs is not None]
        self.editable = [r for r, e in enumerate(recipes) if e.may_edit and e.error is None]


class Sampler:
    """Chooses tokens as ``docs/sampling.md`` defines.

    A row's result depends on its own logits, parameters, seed, index and tokens only, bit for
    bit, whatever else is in the batch. ``chooser`` does the arithmetic; by default the best one
    for logits in the CPU's memory.
    """

    def __init__(self, vocab_size: int, chooser: Chooser | None = None) -> None:
        self._vocab_size = vocab_size
        self._chooser = chooser or find_chooser()[0]
        self._rows: dict[int, _Row] = {}
        self._batch: _Batch | None = None

    def sample(self, logits: Logits, sequences: list[Sequence]) -> list[Sampled]:
        """The next token of ``sequences[r]`` from row r of float32 ``logits`` [R, V].

        ``logits`` stay as they are; each row is contiguous. A row with a NaN, a +inf, or nothing
        but -inf, yields a ``Sampled.error`` (and token -1), the others are not affected. Raises
        ValueError where the shape does not match the sequences or the vocabulary.
        """
        if tuple(logits.shape) != (len(sequences), self._vocab_size) or not _is_float32(logits):
            kind = str(logits.dtype).removeprefix("torch.")
            raise ValueError(
                f"logits are {kind} {list(logits.shape)}; expected float32"
                f" [{len(sequences)}, {self._vocab_size}], a row for each sequence"
            )
        if not sequences:
            return []
        batch = self._batch
        if batch is None or batch.sequences != sequences:
            rows = [self._row(sequence) for sequence in sequences]
            self._batch = batch = _Batch(sequences, rows)
        if batch.plain:
            tokens = self._chooser.most_likely(logits)
            if UNSOUND not in tokens:
                return [Sampled(token) for token in tokens]
        return self._sample_mixed(logits, batch)

    def forget(self, sequence: Sequence) -> None:
        """Drop what is kept of ``sequence``; it would be built again if needed."""
        self._rows.pop(id(sequence), None)
        self._batch = None

    def _row(self, sequence: Sequence) -> _Row:
        row = self._rows.get(id(sequence))
        if row is None or row.sequence is not sequence:
            ended = [key for key, row in self._rows.items() if row.sequence.finished]
            for key in ended:
                del self._rows[key]
            row = _Row(sequence, Recipe.of(sequence, self._vocab_size))
            self._rows[id(sequence)] = row
        return row

    def _sample_mixed(self, logits: Logits, batch: _Batch) -> list[Sampled]:
        """``sample`` where some row needs more than the most likely token, or is not sound."""
        rows, errors = batch.rows, dict(batch.errors)
        edited = [r for r in batch.editable if rows[r].recipe.edits(rows[r].sequence)]
        others = [r for r in range(len(rows)) if r not in errors]
        if edited:
            others = sorted(set(others).difference(edited))
        tokens = [UNSOUND] * len(rows)
        edits = [self._edit(rows[r]) for r in edited]
        self._choose(logits, batch, others, None, tokens)
        self._choose(logits, batch, edited, edits, tokens)
        for r, token in enumerate(tokens):
            if token == UNSOUND and r not in errors:
                errors[r] = _unsound(logits[r], edits[edited.index(r)] if r in edited else None)
        results = [Sampled(token) for token in tokens]
        reported = [r for r in batch.reported if r not in errors]
        if reported:
            counts = [rows[r].recipe.logprobs or 0 for r in reported]
            own = [tokens[r] for r in reported]
            found = self._chooser.log_probabilities(logits, reported, own, counts)
            for r, (logprob, top) in zip(reported, found, strict=True):
                results[r] = Sampled(tokens[r], logprob, top)
        for r, error in errors.items():
            results[r] = Sampled(UNSOUND, error=error)
        return results

    def _choose(
        self,
        logits: Logits,
        batch: _Batch,
        chosen: list[int],
        edits: list[Edit] | None,
        tokens: list[int],
    ) -> None:
        """Choose for the rows ``chosen``, into ``tokens``."""
        if not chosen:
            return
        columns = batch.columns if len(chosen) == len(tokens) else batch.columns.take(chosen)
        positions = [len(batch.sequences[r].tokens) for r in chosen]
        found = self._chooser.choose(logits, chosen, columns, positions, edits)
        for r, token in zip(chosen, found, strict=True):
            tokens[r] = token

    def _edit(self, row: _Row) -> Edit:
        sequence, recipe = row.sequence, row.recipe
        suppressed = recipe.suppressed if recipe.early(sequence) else recipe.suppressed[:0]
        if not recipe.penalises:
            return Edit(bias_ids=recipe.bias_ids, biases=recipe.biases, suppressed=suppressed)
        if row.history is None:
            row.history = TokenHistory(self._vocab_size, sequence.prompt_len)
        row.history.update(sequence.tokens)
        return Edit(
            seen=row.history.ids,
            outputs=row.history.outputs,
            repetition=recipe.repetition,
            presence=recipe.presence,
            frequency=recipe.frequency,
            bias_ids=recipe.bias_ids,
            biases=recipe.biases,
            suppressed=suppressed,
        )


def _is_float32(logits: Logits) -> bool:
    if isinstance(logits, np.ndarray):
        return logits.dtype == _FLOAT32  # naming a dtype takes longer than all else here
    return str(logits.dtype) == "torch.float32"


def _unsound(row: Any, edit: Edit | None) -> str:
    """Why a row of logits cannot be sampled from, as it is or once it has been changed."""
    bad = int((row != row).sum()), int((row == math.inf).sum())
    if any(bad):
        return f"the logits hold {bad[0]} NaN and {bad[1]} +inf among {row.shape[-1]} tokens"
    if edit is None or bool((row == -math.inf).all()):
        return f"all {row.shape[-1]} logits are -inf, so no token is allowed"
    changed = row[None][[0]]  # a copy, whatever the kind of array
    apply(changed, [edit])
    return "after penalties, biases and min_tokens: " + _unsound(changed[0], None)
