"""NativeChooser: the C++ kernels, and when they are used."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headrace.kernels.extension import load_extension
from headrace.kernels.operators import Logits
from headrace.sampling.chooser import Chooser, Columns, Top

if TYPE_CHECKING:
    import torch

    from headrace.sampling.penalties import Edit

SLOW_BUILDS = ("portable",)


class NativeChooser:
    """Chooses with the kernels of the C++ extension; ``kernels`` names an instruction set.

    A row's tokens are TorchChooser's but for draws so close to the border between two tokens that
    the rounding of exp and of sums decides; log-probabilities agree within rounding.
    """

    def __init__(self, module: ModuleType, kernels: str | None = None) -> None:
        self.name = f"C++ kernels {kernels or module.kernels_name()}"
        self._cpu, self._kernels = module, kernels

    def most_likely(self, logits: Logits) -> list[int]:
        tokens: list[int] = self._cpu.most_likely(_array(logits), self._kernels)
        return tokens

    def choose(
        self,
        logits: Logits,
        rows: list[int],
        columns: Columns,
        positions: list[int],
        edits: list[Edit] | None = None,
    ) -> list[int]:
        tokens: list[int] = self._cpu.choose_tokens(
            _array(logits), np.array(rows, np.int32), columns.temperature, columns.top_k,
            columns.top_p, columns.min_p, columns.streams, np.array(positions, np.int64),
            None if edits is None else self._edits(edits), self._kernels,
        )  # fmt: skip
        return tokens

    def log_probabilities(
        self, logits: Logits, rows: list[int], chosen: list[int], counts: list[int]
    ) -> list[tuple[float, Top]]:
        own, ids, values = self._cpu.log_probabilities(
            _array(logits),
            np.array(rows, np.int32),
            np.array(chosen, np.int32),
            min(max(counts), logits.shape[-1]),
            self._kernels,
        )
        return [
            (value, _top(row[:count], top[:count]))
            for value, row, top, count in zip(
                own, ids.tolist(), values.tolist(), counts, strict=True
            )
        ]

    def _edits(self, edits: list[Edit]) -> Any:
        """All rows' edits as the columns and flat lists that the kernels read."""

        def column(values: list[float]) -> npt.NDArray[np.float32]:
            return np.array(values, np.float32)

        return self._cpu.Edits(
            repetition=column([e.repetition for e in edits]),
            frequency=column([e.frequency for e in edits]),
            presence=column([e.presence for e in edits]),
            seen_ends=_ends([len(e.seen) for e in edits]),
            seen=np.concatenate([e.seen for e in edits]),
            outputs=np.concatenate([e.outputs for e in edits]),
            biased_ends=_ends([len(e.bias_ids) for e in edits]),
            biased=np.concatenate([e.bias_ids for e in edits]),
            biases=np.concatenate([e.biases for e in edits]),
            suppressed_ends=_ends([len(e.suppressed) for e in edits]),
            suppressed=np.concatenate([e.suppressed for e in edits]),
        )


def _ends(lengths: list[int]) -> npt.NDArray[np.int64]:
    return np.cumsum(lengths, dtype=np.int64)


def _array(logits: Logits) -> npt.NDArray[np.float32]:
    """The same memory."""
    return logits if isinstance(logits, np.ndarray) else logits.numpy()


def _top(ids: list[int], values: list[float]) -> Top:
    return tuple((i, v) for i, v in zip(ids, values, strict=True) if v > -np.inf)


def find_chooser(device: torch.device | str = "cpu") -> tuple[Chooser, str]:
    """The chooser for logits on ``device``, the same for all of a process, and why this one."""
    extension = load_extension()
    if str(device).partition(":")[0] != "cpu":
        why = f"the logits are on {device}"
    elif extension.module is None:
        why = f"C++ extension: {extension.reason}"
    elif extension.module.kernels_name() in SLOW_BUILDS:
        why = "the C++ kernels have no build for this processor"
    else:
        return NativeChooser(extension.module), "chosen by this processor's instruction sets"
    from headrace.sampling.torch_chooser import TorchChooser

    return TorchChooser(), why
