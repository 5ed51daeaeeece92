"""How fast the C++ attention reads the cache, and how fast it multiplies.

``python -m benchmarks.attention`` runs decoding steps and prompt chunks of the default model's
sizes over a cache of several layers, and prints for each the least time of a layer, the bytes of
cache read per second (decoding) or the operations per second (prompts), and their share of what the
machine can do, measured in the same run: both change from minute to minute on shared machines.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.execution.ceilings import Ceiling, multiply_add, read_bandwidth
from headrace.execution.machine import detect_machine
from headrace.kernels.extension import load_extension

CACHE_BYTES = 600 << 20  # of keys and values in all layers together, as far as the case allows
CALL_BYTES = 40 << 20  # read by one timed call: short calls have a chance of an undisturbed moment
ALIGNMENT = 2 << 20


@dataclass(frozen=True, slots=True)
class Case:
    """Slices of ``length`` rows whose first is at position ``start``."""

    name: str
    slices: int
    start: int
    length: int

    @property
    def context(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Figure:
    """One layer of one case. gb_s: cache read; gflop_s: products of queries, keys and values.

    share: of what limits the case (reading memory for decoding, bfloat16 products for prompts).
    """

    case: str
    microseconds: float
    gb_s: float
    gflop_s: float
    share: float


CASES = [
    *(Case(f"decode 64 x {n}", 64, n - 1, 1) for n in (128, 256, 512, 1024, 2048)),
    *(Case(f"decode 1 x {n}", 1, n - 1, 1) for n in (512, 4096)),
    *(Case(f"prompt {n} from {s}", 1, s, n) for n in (256, 512) for s in (0, 1024)),
]


def extension() -> ModuleType:
    module = load_extension().module
    if module is None:
        raise SystemExit(f"needs the C++ extension: {load_extension().reason}")
    return module


class Attention:
    """The cache and the arguments of a case, for one format of the cache and one build."""

    def __init__(self, case: Case, options: argparse.Namespace) -> None:
        module = extension()
        self.case, self.options = case, options
        self.heads: int = options.heads
        self.kv_heads: int = options.kv_heads
        self.dim: int = options.head_dim
        shape = module.AttentionShape(
            options.format, self.heads, self.kv_heads, self.dim, options.block_size
        )
        per_slice = -(-case.context // options.block_size)
        blocks = per_slice * case.slices
        size = blocks * self.kv_heads * shape.row_bytes
        self.layers = max(1, min(30, CACHE_BYTES // (2 * size)))
        rng = np.random.default_rng(0)
        table = rng.permutation(blocks) if not options.in_order else np.arange(blocks)
        rows = case.slices * case.length
        index = np.arange(case.slices, dtype=np.int32)
        queries = rng.standard_normal((rows, self.heads * self.dim), np.float32)
        keys, values = (filled(self.layers, size, rng) for _ in range(2))
        self.stretch = max(1, min(self.layers, CALL_BYTES // (2 * size)))
        self._next = 0
        self._arguments = (
            shape, (queries.view(np.uint32) >> 16).astype(np.uint16),
            np.full(case.slices, case.start, np.int32),
            np.full(case.slices, case.length, np.int32), index * case.length, index * per_slice,
            table.astype(np.int32),
        )  # fmt: skip
        self._keys, self._values = keys, values

    def run(self) -> None:
        """Attention of ``stretch`` layers, the ones after those of the last call."""
        if self._next + self.stretch > self.layers:
            self._next = 0
        layers = slice(self._next, self._next + self.stretch)
        extension().attend(
            *self._arguments, self._keys[layers], self._values[layers],
            output="int8", kernels=self.options.kernels,
        )  # fmt: skip
        self._next += self.stretch

    @property
    def bytes(self) -> int:
        width = 2 if self.options.format == "bf16" else 1
        return 2 * self.case.slices * self.case.context * self.kv_heads * self.dim * width

    @property
    def operations(self) -> int:
        c = self.case
        seen = c.length * c.start + c.length * (c.length + 1) // 2
        return 4 * c.slices * seen * self.heads * self.dim


def filled(layers: int, size: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """[layers, size] of small bfloat16 numbers, on huge pages where the system gives them."""
    raw = np.empty(layers * size + ALIGNMENT, np.uint8)
    first = -raw.ctypes.data % ALIGNMENT
    data = raw[first : first + layers * size].reshape(layers, size)
    noise = rng.standard_normal(size // 2, np.float32)
    data[:] = (noise.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    return data


def least(run: Callable[[], Any], seconds: float) -> float:
    """The least time of a call, in seconds."""
    run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def ceiling(measured: Ceiling) -> float:
    if measured.value is None:
        raise SystemExit(f"{measured.name}: {measured.how}")
    return measured.value


def measure(case: Case, options: argparse.Namespace) -> Figure:
    """One case, and in the same moments what the machine can do."""
    machine, decoding = detect_machine(), case.length == 1
    work = Attention(case, options)
    seconds = least(work.run, options.seconds) / work.stretch
    gb_s, gflop_s = (n / seconds / 1e9 for n in (work.bytes, work.operations))
    if decoding:
        share = gb_s / ceiling(read_bandwidth(machine, 0.3, options.threads))
    else:
        share = gflop_s / ceiling(multiply_add("bfloat16", options.threads, 0.2))
    return Figure(case.name, seconds * 1e6, gb_s, gflop_s, share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=detect_machine().threads)
    parser.add_argument("--format", choices=("bf16", "int8"), default="bf16")
    parser.add_argument("--kernels", help="a build of the kernels, such as avx2; default: the best")
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--kv-heads", type=int, default=3)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--in-order", action="store_true", help="blocks one after another")
    parser.add_argument("--seconds", type=float, default=1.0, help="per case")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    extension().set_threads(options.threads)
    figures = []
    for case in CASES:
        if options.only not in case.name:
            continue
        f = measure(case, options)
        figures.append(asdict(f))
        if not options.json:
            limit = "reading" if case.length == 1 else "bf16 products"
            rates = f"{f.gb_s:6.1f} GB/s  {f.gflop_s:6.0f} GFLOP/s  {f.share:5.0%} of {limit}"
            print(f"{f.case:22} {f.microseconds:9.1f} us  {rates}", flush=True)
    if options.json:
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
