"""Ceilings: how fast this machine reads memory and multiplies, measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Barrier, Thread
from typing import Any

import numpy as np

from headrace.execution.machine import Machine
from headrace.kernels.extension import load_extension

KINDS = ("float32", "bfloat16", "int8")
FIRST_TRY = 1e8  # operations that say how many make a try
TRY_SECONDS = 0.01  # so long that starting the threads does not count, short enough for several
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Ceiling:
    """A sustained rate in units of ``unit`` per second; None when it could not be measured."""

    name: str
    value: float | None
    unit: str
    how: str


def measure_ceilings(machine: Machine, seconds: float = 0.5) -> list[Ceiling]:
    """Measure each ceiling for about ``seconds`` on ``machine.threads`` threads.

    Each figure is the best of several tries: other programs can only make it lower. One that
    cannot be measured here has no value and says why; nothing is raised.
    """
    return [
        read_bandwidth(machine, seconds),
        *(multiply_add(kind, machine.threads, seconds) for kind in KINDS),
        *(product(kind, machine.threads, seconds) for kind in KINDS),
    ]


def read_bandwidth(machine: Machine, seconds: float, threads: int | None = None) -> Ceiling:
    """Bytes read per second from memory, all threads together, each from its own buffer."""
    name, unit = "memory read", "GB/s"
    threads = threads or machine.threads
    size = _buffer_bytes(machine) // threads // 4096 * 4096
    if size < _MIB:
        return Ceiling(name, None, unit, "too little memory is free to measure with")
    extension = load_extension().module
    buffers = [np.ones(size, np.uint8) for _ in range(threads)]
    if extension is None:
        calls = [partial(np.sum, buffer.view(np.uint64)) for buffer in buffers]
        how = "numpy sums (the limit may be higher)"
    else:
        calls = [partial(extension.stream_read, buffer, 1) for buffer in buffers]
        how = "C++ loads"
    rate = _best(calls, size * threads, seconds)
    return Ceiling(
        name, rate / 1e9, unit, f"{how} of {threads} x {size // _MIB} MiB, {_plural(threads)}"
    )


def multiply_add(kind: str, threads: int, seconds: float) -> Ceiling:
    """Operations per second in registers: the bound that no product of ``kind`` can pass."""
    name, unit = f"{kind} multiply-add", _unit(kind)
    extension = load_extension().module
    if extension is None:
        return Ceiling(name, None, unit, "needs the C++ extension")
    if not extension.multiply_add(kind, 1.0):
        return Ceiling(name, None, unit, "this processor has no instruction for it")
    begun = time.perf_counter()
    extension.multiply_add(kind, FIRST_TRY)
    operations = FIRST_TRY * max(1.0, TRY_SECONDS / (time.perf_counter() - begun))
    call = partial(extension.multiply_add, kind, operations)
    rate = _best([call] * threads, operations * threads, seconds)
    return Ceiling(name, rate / 1e9, unit, f"C++, in registers, {_plural(threads)}")


def product(kind: str, threads: int, seconds: float, rows: int = 1024, side: int = 2048) -> Ceiling:
    """Operations per second of torch's product [rows, side] x [side, side].

    ``kind`` is float32, bfloat16 or int8 (sums in int32).
    """
    import torch

    name = f"{kind} product"
    unit = _unit(kind)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        run = _product_of(kind, rows, side)
        run()
        rate = _best([run], 2.0 * rows * side * side, seconds)
    except RuntimeError as error:
        return Ceiling(name, None, unit, f"torch cannot: {str(error).splitlines()[0]}")
    finally:
        torch.set_num_threads(before)
    return Ceiling(name, rate / 1e9, unit, f"torch, {rows} x {side} x {side}, {_plural(threads)}")


def _product_of(kind: str, rows: int, side: int) -> Callable[[], Any]:
    import torch

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
    x = torch.ones((rows, side), dtype=dtypes[kind])
    weight = torch.ones((side, side), dtype=dtypes[kind])
    if kind == "int8":
        return lambda: torch._int_mm(x, weight)
    return lambda: torch.mm(x, weight)


def _buffer_bytes(machine: Machine) -> int:
    """Twice the last cache, so that reads come from memory, but little of what is free."""
    wanted = max(256 * _MIB, 2 * machine.last_level_cache)
    return min(wanted, machine.memory_available // 8)


def _best(calls: Sequence[Callable[[], object]], amount: float, seconds: float) -> float:
    """Highest rate of ``amount`` per second of all calls at once, over at least three tries."""
    end = time.perf_counter() + seconds
    best, tries = 0.0, 0
    while tries < 3 or time.perf_counter() < end:
        best = max(best, amount / _together(calls))
        tries += 1
    return best


def _together(calls: Sequence[Callable[[], object]]) -> float:
    """Seconds from the begin of the first call to the end of the last, all on their own threads.

    Each thread reads the clock itself: one that only watches may be kept from its core by them.
    """
    ready = Barrier(len(calls))
    begins, ends = [0.0] * len(calls), [0.0] * len(calls)

    def run(index: int) -> None:
        ready.wait()
        begins[index] = time.perf_counter()
        calls[index]()
        ends[index] = time.perf_counter()

    workers = [Thread(target=run, args=(i,), daemon=True) for i in range(1, len(calls))]
    for worker in workers:
        worker.start()
    run(0)
    for worker in workers:
        worker.join()
    return max(ends) - min(begins)


def _unit(kind: str) -> str:
    return "GOP/s" if kind == "int8" else "GFLOP/s"


def _plural(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"
