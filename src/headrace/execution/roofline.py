"""Roofline: the least time in which this machine can run a step.

Operations and bytes are counted for three classes of operators. A class takes at least the time of
its operations at the machine's peak and of its bytes at the bandwidth of memory, whichever is
longer (Williams, Waterman and Patterson 2009, "Roofline"); a step takes the sum. What is counted:

- products of all layers: 2 operations a weight and row; every weight is read once a step;
- the output matrix: the same for the rows that sample;
- attention: 4 operations a query head, dimension and pair of a row with a position that it sees;
  each slice reads the state of the tokens before it once and writes that of its own rows;
- in the last layer rows that do not sample need their keys and values only.

Activations, norms, rotations, embeddings and sampling are not. Memory is not what is read where a
model fits the processor's caches or slices share a prefix: there a step may beat the bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.nouns.step import Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.execution.peaks import Peaks
    from headrace.models.config import ModelConfig
    from headrace.models.weights import WeightReader

    Integers = Sequence[int] | np.ndarray[tuple[int], np.dtype[np.signedinteger[Any]]]

PRODUCTS = {"float32": "float32", "bf16": "bfloat16", "int8": "int8", "native": "int8"}
# Bits that a weight takes with its share of the scales, by the file's type of blocks.
BLOCK_BITS = {"Q4_0": 4.5, "Q4_1": 5.0, "Q8_0": 8.5}


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How a step computes and reads its weights and its cache.

    ``products`` is the kind of multiplication (see ``Peaks``), ``attention`` that of attention;
    ``matrix_bits`` are read a weight of the layers, ``head_bits`` a weight of the output matrix,
    ``cache_bits`` a number of the cache.
    """

    products: str
    matrix_bits: float
    head_bits: float
    attention: str = "bfloat16"
    cache_bits: float = 16.0


def weight_format(
    weights: str, config: ModelConfig, stored: WeightReader | None, cache: str = "bf16"
) -> WeightFormat:
    """The format of ``weights`` (float32, bf16, int8 or native) on a model's files, with the cache
    in ``cache`` (float32, bf16 or int8). Raises KeyError for an unknown format.

    int8 is read from the file's four bits where the file has them, since these define the same
    weights; native reads the file's blocks, and Q8_0 for what it converts. Without ``stored`` the
    files are taken to hold no blocks.
    """

    def bits(name: str) -> float:
        type_ = stored.stored_type(name) if stored is not None else ""
        if weights == "native":
            return BLOCK_BITS.get(type_, BLOCK_BITS["Q8_0"])
        if weights == "int8":
            return 5.0 if type_ in ("Q4_0", "Q4_1") else 8.0
        return {"float32": 32.0, "bf16": 16.0}[weights]

    sizes = {
        name: shape[0] * shape[1]
        for name, shape in config.weight_shapes().items()
        if len(shape) == 2 and name.startswith("layers.")
    }
    matrix_bits = sum(bits(name) * size for name, size in sizes.items()) / sum(sizes.values())
    cache_bits = {"float32": 32.0, "bf16": 16.0, "int8": 8.0}[cache]
    return WeightFormat(
        products=PRODUCTS[weights],
        matrix_bits=matrix_bits,
        head_bits=bits("embed" if config.tied_embeddings else "head"),
        attention="float32" if cache == "float32" else "bfloat16",
        cache_bits=cache_bits,
    )


class Roofline:
    """Counts the work of steps of one model in one format, and bounds their time on one machine."""

    def __init__(self, config: ModelConfig, format: WeightFormat, peaks: Peaks) -> None:
        h, layers = config.hidden_size, config.num_layers
        state = 2 * h * config.kv_size
        per_layer = state + 2 * h * config.q_size + 3 * h * config.intermediate_size
        matrices = layers * per_layer
        self.format = format
        self._bandwidth = peaks.bandwidth
        self._product_rate = peaks.rate(format.products)
        self._attention_rate = peaks.rate(format.attention)
        self._row_operations = 2.0 * ((layers - 1) * per_layer + state)
        self._sample_operations = 2.0 * (per_layer - state)
        self._matrix_bytes = matrices * format.matrix_bits / 8
        self._head_operations = 2.0 * config.embedding_parameters
        self._head_bytes = config.embedding_parameters * format.head_bits / 8
        self._pair_operations = 4.0 * config.q_size
        self._earlier_layers = layers - 1
        self._token_bytes = config.cache_values_per_token() * format.cache_bits / 8

    def work(self, starts: Integers, lengths: Integers, samples: int) -> Work:
        """Of a step of slices: the position of the first row of each, its rows; rows that sample.

        Which slices sample is not asked: those that do are taken to be as long as the others.
        Sums of Python's own: array operations cost more for as few slices as a step has.
        """
        firsts, counts = _list(starts), _list(lengths)
        rows, read = sum(counts), sum(firsts)
        # A row at position p sees p + 1 positions.
        pairs = sum(n * (2 * s + n + 1) for s, n in zip(firsts, counts, strict=True)) // 2
        last = (rows + read) * samples / max(len(counts), 1)
        return self.bound(rows, samples, pairs, last, read)

    def bound(self, rows: int, samples: int, pairs: int, last: float, read: int) -> Work:
        """Of ``rows`` rows, ``samples`` of which sample, with ``pairs`` pairs of a row and a
        position that it sees, ``last`` of them of rows that sample, reading the state of ``read``
        tokens."""
        operations = (
            rows * self._row_operations + samples * self._sample_operations,
            samples * self._head_operations,
            (self._earlier_layers * pairs + last) * self._pair_operations,
        )
        bytes_ = (
            self._matrix_bytes if rows else 0.0,
            self._head_bytes if samples else 0.0,
            (read + rows) * self._token_bytes,
        )
        seconds = (
            max(operations[0] / self._product_rate, bytes_[0] / self._bandwidth)
            + max(operations[1] / self._product_rate, bytes_[1] / self._bandwidth)
            + max(operations[2] / self._attention_rate, bytes_[2] / self._bandwidth)
        )
        return Work(sum(operations), sum(bytes_), seconds)

    def decode(self, batch: int, context: int) -> float:
        """Most tokens per second of ``batch`` sequences whose tokens each see ``context``."""
        pairs = batch * context
        work = self.bound(batch, batch, pairs, pairs, batch * (context - 1))
        return batch / work.seconds

    def prompt(self, rows: int) -> float:
        """Most tokens per second of a prompt computed in one step of ``rows`` rows."""
        return rows / self.work((0,), (rows,), 1).seconds


def _list(values: Integers) -> list[int]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)
