"""Sampler: the next token of every row of a batch of logits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headrace.nouns.sequence import Sequence
from headrace.nouns.step import Sampled
from headrace.sampling.draw import draw, select
from headrace.sampling.draws import Draws
from headrace.sampling.history import TokenHistory
from headrace.sampling.logprobs import log_probabilities
from headrace.sampling.penalties import Edit, apply
from headrace.sampling.random import uniforms
from headrace.sampling.ranking import arg_max
from headrace.sampling.recipe import Recipe

# Logits worked on at once, so that temporary copies stay small and near the cores.
_BLOCK_LOGITS = 1 << 20


@dataclass(slots=True, eq=False)
class _Row:
    """What is kept of a sequence between steps; all of it can be built again."""

    sequence: Sequence
    recipe: Recipe
    history: TokenHistory | None = None


class Sampler:
    """Chooses tokens as ``docs/sampling.md`` defines.

    A row's result depends on its own logits, parameters, seed, index and tokens only, bit for
    bit, whatever else is in the batch.
    """

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._rows: dict[int, _Row] = {}

    @torch.inference_mode()
    def sample(self, logits: Tensor, sequences: list[Sequence]) -> list[Sampled]:
        """The next token of ``sequences[r]`` from row r of float32 ``logits`` [R, V].

        ``logits`` stay as they are. A row with a NaN, a +inf, or nothing but -inf, yields a
        ``Sampled.error`` (and token -1), the others are not affected. Raises ValueError where
        the shape does not match the sequences or the vocabulary.
        """
        if logits.shape != (len(sequences), self._vocab_size) or logits.dtype != torch.float32:
            raise ValueError(
                f"logits are {logits.dtype} {list(logits.shape)}; expected torch.float32"
                f" [{len(sequences)}, {self._vocab_size}], a row for each sequence"
            )
        if not sequences:
            return []
        logits = logits.detach().contiguous()
        rows = [self._row(sequence) for sequence in sequences]
        peaks, ids = arg_max(logits)
        tokens: list[int] = ids.tolist()
        sound: list[bool] = peaks.isfinite().tolist()
        if all(row.recipe.plain for row in rows) and all(sound):
            return [Sampled(token) for token in tokens]
        return self._sample_mixed(logits, rows, peaks, tokens, sound)

    def forget(self, sequence: Sequence) -> None:
        """Drop what is kept of ``sequence``; it would be built again if needed."""
        self._rows.pop(id(sequence), None)

    def _row(self, sequence: Sequence) -> _Row:
        row = self._rows.get(id(sequence))
        if row is None or row.sequence is not sequence:
            ended = [key for key, row in self._rows.items() if row.sequence.finished]
            for key in ended:
                del self._rows[key]
            row = _Row(sequence, Recipe.of(sequence, self._vocab_size))
            self._rows[id(sequence)] = row
        return row

    def _sample_mixed(
        self,
        logits: Tensor,
        rows: list[_Row],
        peaks: Tensor,
        tokens: list[int],
        sound: list[bool],
    ) -> list[Sampled]:
        """``sample`` where some row needs more than an arg-max; ``tokens`` are changed."""
        errors = {
            r: row.recipe.error or _unsound(logits[r])
            for r, row in enumerate(rows)
            if row.recipe.error is not None or not sound[r]
        }
        busy = [r for r, row in enumerate(rows) if not row.recipe.plain and r not in errors]
        edited = [r for r in busy if rows[r].recipe.edits(rows[r].sequence)]
        drawn = [r for r in busy if not rows[r].recipe.greedy]
        drawn = sorted(set(drawn).difference(edited))
        reported = [r for r in busy if rows[r].recipe.logprobs is not None]
        for part in self._parts(edited):
            self._choose_edited(logits, rows, part, tokens, errors)
        for part in self._parts(drawn):
            how = _draws(select(peaks, part), [rows[r] for r in part])
            for r, token in zip(part, draw(select(logits, part), how), strict=True):
                tokens[r] = token
        results = [Sampled(token) for token in tokens]
        for part in self._parts([r for r in reported if r not in errors]):
            counts = [rows[r].recipe.logprobs or 0 for r in part]
            found = log_probabilities(select(logits, part), [tokens[r] for r in part], counts)
            for r, (logprob, top) in zip(part, found, strict=True):
                results[r] = Sampled(tokens[r], logprob, top)
        for r, error in errors.items():
            results[r] = Sampled(-1, error=error)
        return results

    def _choose_edited(
        self,
        logits: Tensor,
        rows: list[_Row],
        part: list[int],
        tokens: list[int],
        errors: dict[int, str],
    ) -> None:
        """Choose for rows whose logits change first."""
        changed = logits[torch.tensor(part, device=logits.device)]
        apply(changed, [self._edit(rows[r]) for r in part])
        peaks, ids = arg_max(changed)
        sound = peaks.isfinite().tolist()
        drawn = []
        for place, (r, token) in enumerate(zip(part, ids.tolist(), strict=True)):
            tokens[r] = token
            if not sound[place]:
                errors[r] = "after penalties, biases and min_tokens: " + _unsound(changed[place])
            elif not rows[r].recipe.greedy:
                drawn.append(place)
        if drawn:
            how = _draws(select(peaks, drawn), [rows[part[place]] for place in drawn])
            for place, token in zip(drawn, draw(select(changed, drawn), how), strict=True):
                tokens[part[place]] = token

    def _edit(self, row: _Row) -> Edit:
        sequence, recipe = row.sequence, row.recipe
        edit = Edit(bias_ids=recipe.bias_ids, biases=recipe.biases)
        if recipe.early(sequence):
            edit = replace(edit, suppressed=recipe.suppressed)
        if not recipe.penalises:
            return edit
        if row.history is None:
            row.history = TokenHistory(self._vocab_size, sequence.prompt_len)
        row.history.update(sequence.tokens)
        return replace(
            edit,
            seen=row.history.ids,
            outputs=row.history.outputs,
            repetition=recipe.repetition,
            presence=recipe.presence,
            frequency=recipe.frequency,
        )

    def _parts(self, rows: list[int]) -> list[list[int]]:
        size = max(1, _BLOCK_LOGITS // self._vocab_size)
        return [rows[start : start + size] for start in range(0, len(rows), size)]


def _draws(peaks: Tensor, rows: list[_Row]) -> Draws:
    """How ``rows`` are drawn, whose largest logits are ``peaks``."""
    recipes = [row.recipe for row in rows]
    positions = [len(row.sequence.tokens) for row in rows]
    uniform = uniforms([recipe.stream for recipe in recipes], positions)

    def column(values: list[float], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=peaks.device)

    return Draws(
        peak=peaks,
        temperature=column([recipe.temperature for recipe in recipes], torch.float32),
        top_k=column([recipe.top_k for recipe in recipes], torch.int64),
        top_p=column([recipe.top_p for recipe in recipes], torch.float64),
        min_p=column([recipe.min_p for recipe in recipes], torch.float32),
        uniform=torch.from_numpy(uniform).to(peaks.device),
    )


def _unsound(row: Tensor) -> str:
    """Why a row of logits cannot be sampled from."""
    bad = int(row.isnan().sum()), int((row == torch.inf).sum())
    if any(bad):
        return f"the logits hold {bad[0]} NaN and {bad[1]} +inf among {row.shape[-1]} tokens"
    return f"all {row.shape[-1]} logits are -inf, so no token is allowed"
