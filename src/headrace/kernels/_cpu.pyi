"""Operators and probes in C++ for CPUs."""

import numpy as np
import numpy.typing as npt

def cpu_features() -> list[str]: ...
def stream_read(data: npt.NDArray[np.uint8], passes: int) -> int: ...
def fma_float32(operations: float) -> float: ...

class AttentionShape:
    def __init__(
        self, format: str, heads: int, kv_heads: int, head_dim: int, block_size: int
    ) -> None: ...
    @property
    def row_bytes(self) -> int: ...
    @property
    def writes_rows(self) -> bool: ...

def cache_row_bytes(format: str, block_size: int, head_dim: int) -> int: ...
def cache_clear(
    cache: npt.NDArray[np.uint8], kv_heads: int, blocks: npt.NDArray[np.int32]
) -> None: ...
def cache_copy(
    cache: npt.NDArray[np.uint8],
    kv_heads: int,
    sources: npt.NDArray[np.int32],
    destinations: npt.NDArray[np.int32],
) -> None: ...
def rotate_store(
    shape: AttentionShape,
    qkv: npt.NDArray[np.float32],
    positions: npt.NDArray[np.int32],
    slots: npt.NDArray[np.int32],
    cos: npt.NDArray[np.float32],
    sin: npt.NDArray[np.float32],
    keys: npt.NDArray[np.uint8],
    values: npt.NDArray[np.uint8],
    norm_weights: npt.NDArray[np.float32] | None = None,
    norm_eps: float = 0.0,
    kernels: str | None = None,
) -> npt.NDArray[np.uint16]: ...
def attend(
    shape: AttentionShape,
    queries: npt.NDArray[np.uint16],
    starts: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int32],
    table_begins: npt.NDArray[np.int32],
    tables: npt.NDArray[np.int32],
    keys: npt.NDArray[np.uint8],
    values: npt.NDArray[np.uint8],
    output: str = "float32",
    kernels: str | None = None,
) -> npt.NDArray[np.float32]: ...
def most_likely(logits: npt.NDArray[np.float32], kernels: str | None = None) -> list[int]: ...

class Edits:
    def __init__(
        self,
        *,
        repetition: npt.NDArray[np.float32],
        frequency: npt.NDArray[np.float32],
        presence: npt.NDArray[np.float32],
        seen_ends: npt.NDArray[np.int64],
        seen: npt.NDArray[np.int64],
        outputs: npt.NDArray[np.float32],
        biased_ends: npt.NDArray[np.int64],
        biased: npt.NDArray[np.int64],
        biases: npt.NDArray[np.float32],
        suppressed_ends: npt.NDArray[np.int64],
        suppressed: npt.NDArray[np.int64],
    ) -> None: ...

def choose_tokens(
    logits: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int32],
    temperature: npt.NDArray[np.float32],
    top_k: npt.NDArray[np.int64],
    top_p: npt.NDArray[np.float64],
    min_p: npt.NDArray[np.float32],
    streams: npt.NDArray[np.uint64],
    positions: npt.NDArray[np.int64],
    edits: Edits | None = None,
    kernels: str | None = None,
) -> list[int]: ...
def log_probabilities(
    logits: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int32],
    chosen: npt.NDArray[np.int32],
    count: int,
    kernels: str | None = None,
) -> tuple[list[float], npt.NDArray[np.int32], npt.NDArray[np.float32]]: ...

class Weight:
    @staticmethod
    def pack(
        kind: str,
        pieces: list[tuple[str, npt.NDArray[np.uint8] | npt.NDArray[np.float32]]],
        bias: npt.NDArray[np.float32] | None = None,
    ) -> Weight: ...
    @staticmethod
    def pack_gated(
        kind: str,
        gate: tuple[str, npt.NDArray[np.uint8] | npt.NDArray[np.float32]],
        up: tuple[str, npt.NDArray[np.uint8] | npt.NDArray[np.float32]],
        gate_bias: npt.NDArray[np.float32] | None = None,
        up_bias: npt.NDArray[np.float32] | None = None,
    ) -> Weight: ...
    @property
    def rows_out(self) -> int: ...
    @property
    def rows_in(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def format(self) -> str: ...
    def bytes_read(self, rows: int) -> int: ...
    def dense(self) -> npt.NDArray[np.float32]: ...

def product(
    weight: Weight,
    x: npt.NDArray[np.float32],
    kernels: str = "",
    few_rows: int | None = None,
    unit_grain: int | None = None,
    row_grain: int | None = None,
    add_to: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]: ...
def gated(
    weight: Weight,
    x: npt.NDArray[np.float32],
    kernels: str = "",
    few_rows: int | None = None,
    unit_grain: int | None = None,
    row_grain: int | None = None,
) -> npt.NDArray[np.float32]: ...
def time_products(
    weights: list[Weight],
    x: npt.NDArray[np.float32],
    passes: int,
    kernels: str = "",
    few_rows: int | None = None,
    unit_grain: int | None = None,
    row_grain: int | None = None,
) -> list[float]: ...
