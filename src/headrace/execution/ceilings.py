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
        multiply_add(machine, seconds),
        *(product(kind, machine.threads, seconds) for kind in ("float32", "bfloat16", "int8")),
    ]


def read_bandwidth(machine: Machine, seconds: float) -> Ceiling:
    """Bytes read per second from memory, all threads together, each from its own buffer."""
    name, unit = "memory read", "GB/s"
    threads = machine.threads
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


def multiply_add(machine: Machine, seconds: float) -> Ceiling:
    """Float32 operations per second in registers: the bound that no product can pass."""
    name, unit = "float32 multiply-add", "GFLOP/s"
    extension = load_extension().module
    if extension is None:
        return Ceiling(name, None, unit, "needs the C++ extension")
    # Large enough that starting the threads does not count, small enough for several tries.
    operations = 2e9
    rate = _best(
        [lambda: extension.fma_float32(operations)] * machine.threads,
        operations * machine.threads,
        seconds,
    )
    return Ceiling(name, rate / 1e9, unit, f"C++, in registers, {_plural(machine.threads)}")


def product(kind: str, threads: int, seconds: float, rows: int = 1024, side: int = 2048) -> Ceiling:
    """Operations per second of torch's product [rows, side] x [side, side].

    ``kind`` is float32, bfloat16 or int8 (sums in int32).
    """
    import torch

    name = f"{kind} product"
    unit = "GOP/s" if kind == "int8" else "GFLOP/s"
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
    """Seconds from the common start of all calls to the end of the last."""
    if len(calls) == 1:
        start = time.perf_counter()
        calls[0]()
        return time.perf_counter() - start
    ready = Barrier(len(calls) + 1)

    def run(call: Callable[[], object]) -> None:
        ready.wait()
        call()

    workers = [Thread(target=run, args=(call,), daemon=True) for call in calls]
    for worker in workers:
        worker.start()
    ready.wait()
    start = time.perf_counter()
    for worker in workers:
        worker.join()
    return time.perf_counter() - start


def _plural(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"
