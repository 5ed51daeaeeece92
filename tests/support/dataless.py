"""Tensors on a GPU that is not there: shapes and devices without data.

Under ``no_data`` torch refuses to mix devices, as with a GPU, and refuses whatever would have to
wait for one (reading a value, a size that depends on data).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode


@contextmanager
def no_data() -> Iterator[None]:
    with FakeTensorMode(), _Indexing():
        yield


class _Indexing(TorchFunctionMode):
    """Indexing with slices, integers, None and ..., and copies, by operations that need no driver.

    Torch's own ask for the device's driver before they look at a tensor.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.__getitem__ and _plain(args[1]):
            return _take(args[0], args[1])
        if func is torch.Tensor.__setitem__ and _plain(args[1]):
            return _copy(_take(args[0], args[1]), args[2])
        if func is torch.Tensor.copy_:
            return _copy(args[0], args[1])
        return func(*args, **(kwargs or {}))


def _copy(target: torch.Tensor, value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        assert value.device == target.device, "a copy between devices"
        assert torch.broadcast_shapes(value.shape, target.shape) == target.shape
    return target


def _plain(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(p is None or p is ... or isinstance(p, int | slice) for p in parts)


def _take(x: torch.Tensor, index: Any) -> torch.Tensor:
    parts = list(index) if isinstance(index, tuple) else [index]
    if ... in parts:
        at = parts.index(...)
        rest = x.dim() - sum(p is not None for p in parts) + 1
        parts[at : at + 1] = [slice(None)] * rest
    dim = 0
    for part in parts:
        if part is None:
            x = x.unsqueeze(dim)
            dim += 1
        elif isinstance(part, int):
            x = x.select(dim, part)
        else:
            low, high, step = part.indices(x.shape[dim])
            assert step == 1
            x = x.narrow(dim, low, max(0, high - low))
            dim += 1
    return x
