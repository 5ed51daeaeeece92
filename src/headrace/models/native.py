"""NativeTransformer: the transformer with all layers of a step in one C++ call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.kernels.extension import load_extension
from headrace.kernels.layout import Layout
from headrace.kernels.operators import AttentionShape
from headrace.kernels.rope import rope_arrays
from headrace.models.config import ModelConfig
from headrace.models.model import ModelCache
from headrace.models.weights import WeightReader
from headrace.nouns.errors import ModelError

# What the packers read as the file stores it; other types are dequantised first.
PACKED_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
PANEL = 32  # logits have room for a whole panel of the output matrix

NATIVE_BLOCK = 16  # cache blocks are laid out in runs of so many tokens
# Bytes a weight: of int8, and of few-row nibbles besides; of the file's blocks; of bfloat16.
_EXPANDED = 1.0 + 4 / 576
_NIBBLES = {"Q4_0": 20 / 32, "Q4_1": 20 / 32}
_BLOCKS = {"Q4_0": 18 / 32, "Q4_1": 20 / 32}
_BYTE_BLOCKS = 34 / 32
_ROWS_AT_A_TIME = 1024

Spans = list[tuple[str, int, int, int]]
Piece = tuple[str, Any]


def native_build() -> str:
    """The instruction set that the C++ kernels run with here. The extension must be there."""
    extension = load_extension().module
    assert extension is not None
    return str(extension.kernels_name())


def native_cache_width(cache_format: str, block_size: int, head_dim: int) -> int:
    """Bytes of a cache row, which holds one block of one key/value head."""
    extension = load_extension().module
    assert extension is not None
    width: int = extension.cache_row_bytes(cache_format, block_size, head_dim)
    return width


def native_sizes(weights: WeightReader, kind: str) -> tuple[float, float, float]:
    """Bytes a value in memory: of the layers' matrices, the embedding table, the output matrix."""

    def matrix(type_: str) -> float:
        if kind == "bf16":
            return 2.0
        if kind == "native":
            return _BLOCKS.get(type_, _BYTE_BLOCKS)
        return _EXPANDED + _NIBBLES.get(type_, 0.0)

    embed = weights.stored_type("embed")
    head = weights.stored_type("head") if "head" in weights.names() else embed
    table = _BYTE_BLOCKS if embed == "Q8_0" else 2.0
    return matrix(weights.stored_type("layers.0.down")), table, matrix(head)


class NativeTransformer:
    """Runs the rows of a step through all layers in C++; the interpreter's lock is released.

    ``kind`` is the arithmetic of all products (int8, native or bf16, see kernels/cpu/kernels.hpp),
    ``cache_format`` bf16 or int8, ``kernels`` an instruction set ("" for the best there is).
    While ``on_spans`` is set it gets (operator, layer, start, end) of every operator of a step, in
    nanoseconds of the monotonic clock.
    """

    device = "cpu"
    cache_dtype = None

    def __init__(
        self,
        config: ModelConfig,
        weights: WeightReader,
        kind: str,
        max_context: int,
        *,
        block_size: int,
        cache_format: str = "bf16",
        kernels: str = "",
    ) -> None:
        """Read and pack every weight. Raises ModelError when one cannot be read."""
        extension = load_extension().module
        assert extension is not None, "dispatch chooses this only where the extension is"
        self._cpu = extension
        self.config, self.kind, self.max_context = config, kind, max_context
        self.cache_format, self.block_size = cache_format, block_size
        self.shape = AttentionShape(config.num_heads, config.num_kv_heads, config.head_dim)
        self.on_spans: Callable[[Spans], None] | None = None
        self._decoder = extension.Decoder(
            kind=kind, cache=cache_format, hidden=config.hidden_size, heads=config.num_heads,
            kv_heads=config.num_kv_heads, head_dim=config.head_dim,
            intermediate=config.intermediate_size, vocab=config.vocab_size, eps=config.norm_eps,
            head_eps=config.norm_eps, block_size=block_size, kernels=kernels,
        )  # fmt: skip
        cos, sin = rope_arrays(
            config.rope.inverse_frequencies(config.head_dim),
            max_context,
            config.rope.attention_factor if config.rope.kind == "yarn" else 1.0,
        )
        self._decoder.set_rope(cos, sin)
        self.nbytes = cos.nbytes + sin.nbytes
        self._load_ends(weights)
        for i in range(config.num_layers):
            self._load_layer(weights, f"layers.{i}.")
        self._logits = np.empty((0, -(-config.vocab_size // PANEL) * PANEL), dtype=np.float32)

    def cache_width(self, block_size: int) -> int:
        """Bytes of a cache row, which holds one block of one key/value head."""
        return native_cache_width(self.cache_format, block_size, self.shape.head_dim)

    def padded_rows(self, rows: int) -> int:
        """Any number of rows gives the same bits, so none need be added."""
        return rows

    def forward(self, layout: Layout, cache: ModelCache) -> npt.NDArray[np.float32]:
        """Compute the layout's rows, writing their state to ``cache``.

        Returns the logits of the sampled rows, float32 [samples, V], in a buffer that the next
        call overwrites.
        """
        samples = len(layout.sampled)
        if samples > len(self._logits):
            self._logits = np.empty((samples, self._logits.shape[1]), dtype=np.float32)
        on_spans = self.on_spans  # another thread may take it away
        spans = self._decoder.forward(
            layout.tokens, layout.positions, layout.slots, layout.row_starts, layout.starts,
            layout.lengths, layout.table_starts, layout.tables, layout.sampled, layout.padded,
            cache.array, self._logits, on_spans is not None,
        )  # fmt: skip
        if on_spans is not None:
            on_spans(spans)
        return self._logits[:samples, : self.config.vocab_size]

    def _load_ends(self, weights: WeightReader) -> None:
        """The embedding, which the output matrix may be tied to, and the last norm."""
        name = weights.stored_type("embed")
        if name in ("Q8_0", "BF16") and self.config.hidden_size % 32 == 0:
            table = weights.stored("embed").data
        else:
            name, table = "BF16", _to_bf16(weights.values("embed"))
        table = np.ascontiguousarray(table).reshape(self.config.vocab_size, -1)
        self._decoder.set_embedding(name, table)
        head = self._pack(weights, ["embed" if self.config.tied_embeddings else "head"], None)
        self._decoder.set_head(weights.values("norm"), head)
        self.nbytes += table.nbytes + head.nbytes

    def _load_layer(self, weights: WeightReader, prefix: str) -> None:
        config = self.config

        def vector(name: str) -> Any:
            return weights.values(prefix + name)

        def biases(names: str, present: bool) -> Any:
            return np.concatenate([vector(n) for n in names.split()]) if present else None

        norms = None
        if config.qk_norm:
            rows = [vector("q_norm")] * config.num_heads + [vector("k_norm")] * config.num_kv_heads
            norms = np.stack(rows)
        matrices = {
            "qkv": self._pack(
                weights,
                [prefix + n for n in "qkv"],
                biases("q_bias k_bias v_bias", config.attention_bias),
            ),
            "o": self._pack(weights, [prefix + "o"], biases("o_bias", config.output_bias)),
            "gate_up": self._pack_gated(
                weights,
                prefix,
                biases("gate_bias", config.mlp_bias),
                biases("up_bias", config.mlp_bias),
            ),
            "down": self._pack(weights, [prefix + "down"], biases("down_bias", config.mlp_bias)),
        }
        self._decoder.add_layer(
            attn_norm=vector("attn_norm"), head_norms=norms, mlp_norm=vector("mlp_norm"), **matrices
        )
        self.nbytes += sum(matrix.nbytes for matrix in matrices.values())

    def _pack(self, weights: WeightReader, names: list[str], bias: Any) -> Any:
        pieces = [self._piece(weights, name) for name in names]
        try:
            return self._cpu.Weight.pack(self.kind, pieces, bias)
        except ValueError as error:
            raise ModelError(f"{', '.join(names)} cannot be packed: {error}") from error

    def _pack_gated(self, weights: WeightReader, prefix: str, gate: Any, up: Any) -> Any:
        pieces = [self._piece(weights, prefix + name) for name in ("gate", "up")]
        try:
            return self._cpu.Weight.pack_gated(self.kind, *pieces, gate, up)
        except ValueError as error:
            raise ModelError(f"{prefix}gate, up cannot be packed: {error}") from error

    def _piece(self, weights: WeightReader, name: str) -> Piece:
        """A matrix as the packers take it: the file's own blocks where they know them."""
        if weights.stored_type(name) in PACKED_TYPES:
            stored = weights.stored(name)
            return stored.type, np.ascontiguousarray(stored.data)
        return "F32", weights.values(name)


def _to_bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """[rows, columns] rounded to the nearest bfloat16, ties to even: [rows, 2 * columns] bytes."""
    out = np.empty(values.shape, dtype=np.uint16)
    for row in range(0, len(values), _ROWS_AT_A_TIME):
        part = values[row : row + _ROWS_AT_A_TIME]
        bits = part.view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        out[row : row + len(part)] = np.where(np.isnan(part), 0x7FC0, rounded)
    return out.view(np.uint8)
