"""GgufWeights: the WeightReader of a GGUF file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from headrace.models.config import ModelConfig
from headrace.models.gguf_file import GgufFile, TensorInfo
from headrace.models.weights import StoredWeight
from headrace.nouns.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

_TOP = {"token_embd.weight": "embed", "output_norm.weight": "norm", "output.weight": "head"}
_LAYER = {
    "attn_norm.weight": "attn_norm",
    "attn_q.weight": "q",
    "attn_k.weight": "k",
    "attn_v.weight": "v",
    "attn_output.weight": "o",
    "attn_q.bias": "q_bias",
    "attn_k.bias": "k_bias",
    "attn_v.bias": "v_bias",
    "attn_output.bias": "o_bias",
    "attn_q_norm.weight": "q_norm",
    "attn_k_norm.weight": "k_norm",
    "ffn_norm.weight": "mlp_norm",
    "ffn_gate.weight": "gate",
    "ffn_up.weight": "up",
    "ffn_down.weight": "down",
    "ffn_gate.bias": "gate_bias",
    "ffn_up.bias": "up_bias",
    "ffn_down.bias": "down_bias",
}
# Read into the configuration, or what frameworks can recompute.
_IGNORED = re.compile(r"rope_freqs\.weight|blk\.\d+\.attn_rot_embd(\.weight)?")
_PERMUTED = re.compile(r"layers\.\d+\.([qk])(_bias)?")
_CHUNK_VALUES = 1 << 17  # dequantised at a time: little memory besides the result, and in the cache


class GgufWeights:
    """Reads and dequantises tensors of a GGUF file; see WeightReader.

    GGUF stores the query and key rows of ``llama`` models with the two halves of each head
    interleaved; here they come back in halves.

    Raises ModelError when a tensor is missing, has another shape than the configuration says, or
    is one that this architecture does not have.
    """

    def __init__(self, file: GgufFile, config: ModelConfig) -> None:
        self._file = file
        self._heads = {"q": config.num_heads, "k": config.num_kv_heads}
        self._interleaved = config.architecture == "llama"
        self._infos: dict[str, TensorInfo] = {}
        found = {_canonical(file, name): info for name, info in file.tensors.items()}
        found.pop("", None)
        for name, shape in config.weight_shapes().items():
            info = found.pop(name, None)
            if info is None:
                raise ModelError(f"{file.path} has no tensor for {name!r}, which the model needs")
            if info.shape != shape:
                raise ModelError(
                    f"{file.path}: tensor {info.name!r} has the shape {list(info.shape)}, the"
                    f" configuration says {list(shape)}"
                )
            self._infos[name] = info
        if found:
            raise ModelError(
                f"{file.path} has the tensor {next(iter(found.values())).name!r}, which a model"
                f" of architecture {config.architecture} as configured does not have;"
                " using the file without it would give wrong answers"
            )

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info in self._infos.values())

    def names(self) -> list[str]:
        return list(self._infos)

    def get(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        import torch

        out = torch.empty(self._infos[name].shape, dtype=dtype)
        flat = out.view(-1)
        for start, values in self._chunks(name):
            flat[start : start + len(values)] = torch.from_numpy(values)
        return out

    def values(self, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        import numpy as np

        out = np.empty(self._infos[name].shape, dtype=np.float32)
        flat = out.reshape(-1)
        for start, values in self._chunks(name):
            flat[start : start + len(values)] = values
        return out

    def _chunks(self, name: str) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """The weight dequantised in parts, each with the place of its first value."""
        import numpy as np
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        stored, info = self.stored(name), self._infos[name]
        qtype = GGMLQuantizationType(info.type.id)
        rows = stored.data.shape[0]
        width = math.prod(info.shape) // rows
        step = max(1, _CHUNK_VALUES // max(1, width))
        for row in range(0, rows, step):
            # One long row: the package works on 16 rows at a time, slow where they are short.
            part = stored.data[row : row + step].reshape(1, -1)
            with np.errstate(all="ignore"):  # damaged scales give infinities; sampling reports them
                values = np.ascontiguousarray(dequantize(part, qtype), dtype=np.float32)
            yield row * width, values.reshape(-1)

    def stored_type(self, name: str) -> str:
        return self._infos[name].type.name

    def stored(self, name: str) -> StoredWeight:
        import numpy as np

        info = self._infos[name]
        rows = 1 if len(info.shape) == 1 else info.shape[0]
        try:
            data = np.fromfile(self._file.path, np.uint8, info.nbytes, offset=info.offset)
        except OSError as error:
            raise ModelError(f"cannot read {self._file.path}: {error}") from error
        if data.size != info.nbytes:
            raise ModelError(
                f"{self._file.path} was cut short since it was opened: tensor {info.name!r}"
                " is not all there"
            )
        match = _PERMUTED.fullmatch(name)
        if match and self._interleaved:
            if rows == 1 and info.type.block > 1:
                raise ModelError(
                    f"{self._file.path}: tensor {info.name!r} is a bias of type {info.type.name};"
                    " supported for biases are F32, F16 and BF16"
                )
            data = self._in_halves(data, info, self._heads[match[1]])
        return StoredWeight(info.type.name, info.shape, data.reshape(rows, -1))

    @staticmethod
    def _in_halves(
        data: np.ndarray[Any, np.dtype[np.uint8]], info: TensorInfo, heads: int
    ) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Rows (or, of a bias, values) of each head: from pair by pair to half by half."""
        pairs = info.shape[0] // heads // 2
        return data.reshape(heads, pairs, 2, -1).swapaxes(1, 2).copy()


def _canonical(file: GgufFile, name: str) -> str:
    """Our name of a GGUF tensor, "" for one to ignore."""
    if name in _TOP:
        return _TOP[name]
    if _IGNORED.fullmatch(name):
        return ""
    match = re.fullmatch(r"blk\.(\d{1,4})\.(.+)", name)
    if match and match[2] in _LAYER:
        return f"layers.{int(match[1])}.{_LAYER[match[2]]}"
    raise ModelError(
        f"{file.path} has the tensor {name!r}, which the supported architectures do not have"
    )
