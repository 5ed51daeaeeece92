"""Matrix products of the C++ kernels: rates per shape and number of rows, beside the ceilings.

``python -m benchmarks.products`` goes over formats, shapes and row counts. The weights of a product
come from memory, as in a model larger than the caches: products run one after the other through
copies of the weight that together are larger than any cache (``--warm`` keeps to one copy). Every
figure is a lower quartile, as other programs can only make a product slower. ``share`` is the time
that the machine's bound allows (reading the weights, or computing, whichever is longer; both
measured at the start) over the time it took.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.execution.ceilings import multiply_add, read_bandwidth
from headrace.execution.machine import detect_machine
from headrace.kernels.extension import load_extension

SHAPES = {  # of the default model: queries, keys and values; output; gate and up; down; logits
    "960x576": (960, 576, False),
    "576x576": (576, 576, False),
    "3072x576 gated": (1536, 576, True),
    "576x1536": (576, 1536, False),
    "49152x576": (49152, 576, False),
}
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
FORMATS = {  # format and the type that the file has its weights in
    "int8": ("int8", "Q4_1"),
    "int8 of Q8_0": ("int8", "Q8_0"),
    "native Q4_1": ("native", "Q4_1"),
    "native Q4_0": ("native", "Q4_0"),
    "native Q8_0": ("native", "Q8_0"),
    "bf16": ("bf16", "F32"),
}
FEW = 8  # up to this many rows bytes are counted, too
COLD_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Peaks:
    """Operations and bytes per second that nothing can pass."""

    operations: dict[str, float]
    bandwidth: float


def measure_peaks(threads: int) -> Peaks:
    int8 = multiply_add("int8", threads, 0.3).value or float("inf")
    bf16 = multiply_add("bfloat16", threads, 0.3).value or float("inf")
    bandwidth = read_bandwidth(detect_machine(), 1.0, threads).value or float("inf")
    return Peaks({"int8": int8 * 1e9, "native": int8 * 1e9, "bf16": bf16 * 1e9}, bandwidth * 1e9)


def random_rows(type_: str, n: int, k: int, seed: int) -> npt.NDArray[Any]:
    """A matrix as a file stores it, with scales as models have them."""
    rng = np.random.default_rng(seed)
    if type_ == "F32":
        return rng.standard_normal((n, k), dtype=np.float32)
    size, header = {"Q4_0": (18, 1), "Q4_1": (20, 2), "Q8_0": (34, 1)}[type_]
    blocks = rng.integers(0, 256, (n * k // 32, size), dtype=np.uint8)
    scales = rng.uniform(0.01, 0.02, (len(blocks), header)).astype(np.float16)
    blocks[:, : 2 * header] = scales.view(np.uint8)
    return blocks.reshape(n, -1)


def make_weights(cpu: Any, format_: str, shape: str, warm: bool) -> list[Any]:
    """Copies of one weight, enough to be larger than the caches unless ``warm``."""
    kind, type_ = FORMATS[format_]
    n, k, gated = SHAPES[shape]

    def pack(seed: int) -> Any:
        if not gated:
            return cpu.Weight.pack(kind, [(type_, random_rows(type_, n, k, seed))])
        gate, up = (random_rows(type_, n, k, seed + i) for i in range(2))
        return cpu.Weight.pack_gated(kind, (type_, gate), (type_, up))

    first = pack(0)
    copies = 1 if warm else 1 + COLD_BYTES // min(first.bytes_read(r) for r in (1, 1000))
    return [first, *(pack(seed) for seed in range(1, copies))]


def measure(cpu: Any, weights: list[Any], rows: int, options: argparse.Namespace) -> float:
    """Seconds a product, the lower quartile of those run in ``options.seconds`` or more."""
    x = np.random.default_rng(1).standard_normal((rows, weights[0].rows_in), dtype=np.float32)

    def run(passes: int) -> list[float]:
        seconds: list[float] = cpu.time_products(
            weights, x, passes, options.kernels, options.few_rows
        )
        return seconds

    passes = max(1, round(options.seconds / sum(run(1))))
    return float(np.quantile(run(passes), 0.25))


def report(cpu: Any, format_: str, shape: str, peaks: Peaks, options: argparse.Namespace) -> None:
    n, k, gated = SHAPES[shape]
    weights = make_weights(cpu, format_, shape, options.warm)
    for rows in options.rows:
        seconds = measure(cpu, weights, rows, options)
        operations = 2.0 * rows * k * n * (2 if gated else 1)
        size = weights[0].bytes_read(rows)
        bounds = [operations / peaks.operations[FORMATS[format_][0]]]
        if not options.warm:
            bounds.append(size / peaks.bandwidth)
        bytes_text = f"{size / seconds / 1e9:7.1f}" if rows <= FEW else ""
        print(
            f"{format_:13s} {shape:15s} {rows:5d} {seconds * 1e6:10.1f}"
            f" {operations / seconds / 1e9:8.0f} {bytes_text:7s} {max(bounds) / seconds:6.0%}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; all cores by default")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--kernels", default="", help="an instruction set; the best by default")
    parser.add_argument("--few-rows", type=int, help="rows up to which nibbles are read")
    parser.add_argument("--warm", action="store_true", help="weights in the caches")
    parser.add_argument("--seconds", type=float, default=0.2, help="for every figure")
    options = parser.parse_args()
    cpu = load_extension().module
    if cpu is None:
        parser.error(load_extension().reason)
    threads = options.threads or detect_machine().threads
    cpu.set_threads(threads)
    peaks = measure_peaks(threads)
    print(
        f"{threads} threads, {options.kernels or cpu.kernels_name()}: int8"
        f" {peaks.operations['int8'] / 1e9:.0f} GOP/s, bf16 {peaks.operations['bf16'] / 1e9:.0f}"
        f" GFLOP/s, memory {peaks.bandwidth / 1e9:.1f} GB/s"
    )
    print("format        shape            rows         us    GOP/s    GB/s  share")
    for format_ in options.formats:
        for shape in options.shapes:
            report(cpu, format_, shape, peaks, options)


if __name__ == "__main__":
    main()
