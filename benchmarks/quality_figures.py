"""Figures of quality from rows of answers, and the table that shows them."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain

from benchmarks.quality_file import Row, Task

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
HEADER = (
    "Weights and cache", "Weights, MiB", "NLL", "Perplexity", "Against float32", "Same top token",
    "First difference", "Same 64", "Same 128", "GSM8K: same", "GSM8K: right",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one row; None where it or the base did not measure. Shares are between 0 and 1.

    ``change`` is perplexity / perplexity of the base - 1 and ``error`` its standard error, from
    the windows' differences, which are paired. ``first_difference`` is the median over prompts
    of how many tokens were the same before the first that differs (or the limit, if none does).
    """

    nll: float
    perplexity: float
    change: float | None = None
    error: float | None = None
    same_top: float | None = None
    first_difference: float | None = None
    same_64: float | None = None
    same_128: float | None = None
    same_answers: float | None = None
    right_answers: float | None = None


def figures(row: Row, base: Row | None, task: Task) -> Figures:
    """What the table says of ``row``."""
    counts = [len(window) - 1 for window in task.windows]
    nll = sum(row.nll) / sum(counts)
    found = Figures(nll, math.exp(nll), right_answers=_right(row, task))
    if base is None or base.name == row.name:
        return found
    change, error = _change(row.nll, base.nll, counts)
    first, same_64, same_128 = None, None, None
    if row.outputs and base.outputs:
        pairs = list(zip(row.outputs, base.outputs, strict=True))
        first = statistics.median(agreed(a, b, task.prompt_tokens) for a, b in pairs)
        same_64, same_128 = (_share(a[:n] == b[:n] for a, b in pairs) for n in (64, 128))
    same_answers = None
    if row.answers and base.answers:
        same_answers = _share(a == b for a, b in zip(row.answers, base.answers, strict=True))
    tops = zip(chain.from_iterable(row.top), chain.from_iterable(base.top), strict=True)
    same_top = _share(a == b for a, b in tops)
    return Figures(
        nll, math.exp(nll), change, error, same_top, first, same_64, same_128, same_answers,
        found.right_answers,
    )  # fmt: skip


def agreed(output: Sequence[int], base: Sequence[int], limit: int) -> int:
    """Tokens before the first difference; ``limit`` where the outputs are the same."""
    if list(output) == list(base):
        return limit
    both = zip(output, base, strict=False)
    return next((i for i, (a, b) in enumerate(both) if a != b), min(len(output), len(base)))


def last_number(text: str) -> str | None:
    """The last number of a text as a plain decimal ("1,250.0" is "1250"), or None."""
    found = NUMBER.findall(text)
    if not found:
        return None
    number = Decimal(found[-1].replace(",", "")).normalize()
    return format(number + 0, "f")  # + 0: no negative zero


def _change(
    nll: Sequence[float], base: Sequence[float], counts: Sequence[int]
) -> tuple[float, float | None]:
    total = sum(counts)
    ratio = math.exp((sum(nll) - sum(base)) / total)
    if len(counts) < 2:
        return ratio - 1, None
    differences = [(a - b) / n for a, b, n in zip(nll, base, counts, strict=True)]
    return ratio - 1, ratio * statistics.stdev(differences) / math.sqrt(len(counts))


def _right(row: Row, task: Task) -> float | None:
    if not row.answers:
        return None
    return _share(a == b for a, b in zip(row.answers, task.truths, strict=True))


def _share(same: Iterable[bool]) -> float:
    return statistics.fmean(map(float, same))


def table(rows: Sequence[Row], base: Row | None, task: Task) -> str:
    """Markdown: a line for each row, this engine's first; figures that were not measured are -."""
    ordered = sorted(rows, key=lambda row: (row.peer, row is not base))
    lines = [HEADER, ("---", *["---:"] * (len(HEADER) - 1))]
    lines += [_cells(row, figures(row, base, task)) for row in ordered]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cells(row: Row, found: Figures) -> tuple[str, ...]:
    def percent(share: float | None) -> str:
        return "-" if share is None else f"{100 * share:.1f} %"

    change = "-"
    if found.change is not None:
        change = f"{100 * found.change:+.2f} %"
        if found.error is not None:
            change += f" ± {100 * found.error:.2f}"
    return (
        row.name + (" (`auto`)" if row.auto else "") + (f" ({row.note})" if row.note else ""),
        "-" if row.nbytes is None else f"{row.nbytes / 2**20:.0f}",
        f"{found.nll:.4f}", f"{found.perplexity:.3f}", change, percent(found.same_top),
        "-" if found.first_difference is None else f"{found.first_difference:g}",
        percent(found.same_64), percent(found.same_128), percent(found.same_answers),
        percent(found.right_answers),
    )  # fmt: skip
