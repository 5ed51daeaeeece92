"""Capture: a function on fixed tensors as one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Run = Callable[[], torch.Tensor]
Capture = Callable[[Run], Run]
"""Takes a function that reads and writes the same tensors at every call and never waits for the
device; returns one that does the same. Raises RuntimeError where it cannot be captured."""

WARM_UPS = 2  # libraries set themselves up in their first calls, which no graph may hold


class CudaCapture:
    """Captures CUDA graphs; all of them use one pool of memory, so they must not run at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None  # a handle, once there is a graph

    def __call__(self, run: Run) -> Run:
        with torch.cuda.device(self._device):
            main = torch.cuda.current_stream()
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(main)
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    run()
            main.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # "thread_local": what other threads do with their devices does not spoil the capture
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                result = run()
            self._pool = graph.pool()

        def replay() -> torch.Tensor:
            graph.replay()
            return result

        return replay
