"""HfWeights: the WeightReader of a Hugging Face directory of safetensors files."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.models.config import ModelConfig
from headrace.models.fields import Fields
from headrace.models.json_file import read_json
from headrace.models.weights import StoredWeight
from headrace.nouns.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2}

_TOP = {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight"}
_LAYER = {
    "attn_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "o_bias": "self_attn.o_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
    "gate_bias": "mlp.gate_proj.bias",
    "up_bias": "mlp.up_proj.bias",
    "down_bias": "mlp.down_proj.bias",
}
# Frequencies that old checkpoints carry and everybody recomputes.
_IGNORED = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


@dataclass(frozen=True, slots=True)
class _Place:
    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        count = _DTYPE_BYTES[self.dtype]
        for extent in self.shape:
            count *= extent
        return count


class HfWeights:
    """Reads tensors of ``model.safetensors`` or of the shards that its index names.

    Raises ModelError when a file or tensor is missing, damaged, of an unsupported type or of
    another shape than the configuration says, or when there are tensors that the configuration
    has no use for.
    """

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        found = _places(folder)
        self._places: dict[str, _Place] = {}
        for name, shape in config.weight_shapes().items():
            place = found.pop(_hf_name(name), None)
            if place is None:
                raise ModelError(f"{folder} has no tensor {_hf_name(name)!r}, which it needs")
            if place.shape != shape:
                raise ModelError(
                    f"{place.path}: tensor {place.name!r} has the shape {list(place.shape)}, the"
                    f" configuration says {list(shape)}"
                )
            if place.dtype not in _DTYPE_BYTES:
                raise ModelError(
                    f"{place.path}: tensor {place.name!r} has the type {place.dtype}; supported"
                    f" are {', '.join(_DTYPE_BYTES)}"
                )
            self._places[name] = place
        if config.tied_embeddings:
            found.pop(_TOP["head"], None)
        left = [name for name in found if not _IGNORED.fullmatch(name)]
        if left:
            raise ModelError(
                f"{folder} has the tensor {left[0]!r}, which a model of architecture"
                f" {config.architecture} as configured does not have; using the files without it"
                " would give wrong answers"
            )

    @property
    def nbytes(self) -> int:
        return sum(place.nbytes for place in self._places.values())

    def names(self) -> list[str]:
        return list(self._places)

    def get(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        import torch

        place = self._places[name]
        kind = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[place.dtype]
        return torch.from_numpy(_bytes(place)).view(kind).view(place.shape).to(dtype)

    def values(self, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        import numpy as np

        place = self._places[name]
        raw = _bytes(place)
        if place.dtype == "BF16":  # the upper half of a float32
            found = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            found = raw.view("<f4" if place.dtype == "F32" else "<f2").astype(np.float32)
        return found.reshape(place.shape)

    def stored_type(self, name: str) -> str:
        return self._places[name].dtype

    def stored(self, name: str) -> StoredWeight:
        place = self._places[name]
        rows = 1 if len(place.shape) == 1 else place.shape[0]
        return StoredWeight(place.dtype, place.shape, _bytes(place).reshape(rows, -1))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the model. Raises ModelError when one is missing."""
    if (folder / INDEX).is_file():
        where = str(folder / INDEX)
        weights = Fields(read_json(folder / INDEX), where).section("weight_map")
        if weights is None:
            raise ModelError(f"{where} has no 'weight_map'")
        names = sorted({str(name) for name in weights.values.values()})
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise ModelError(f"{where} names the file {outside[0]!r}, which is not beside it")
    else:
        names = [SINGLE]
    for name in names:
        if not (folder / name).is_file():
            hint = ""
            if list(folder.glob("*.bin")) or list(folder.glob("*.pth")):
                hint = "; .bin and .pth files are not read, since they can run code: convert them"
            raise ModelError(f"{folder} has no file {name!r}{hint}")
    return [folder / name for name in names]


def tensor_sizes(folder: Path) -> list[tuple[str, int]]:
    """Type and bytes of every tensor that the model's reader can use. Raises as HfWeights does."""
    places = _places(folder).values()
    return [(place.dtype, place.nbytes) for place in places if place.dtype in _DTYPE_BYTES]


def _places(folder: Path) -> dict[str, _Place]:
    from safetensors import SafetensorError, safe_open

    places: dict[str, _Place] = {}
    for path in weight_files(folder):
        try:
            # numpy's names say enough here, and torch need not be imported to look.
            with safe_open(path, framework="np") as file:
                offsets = _offsets(path)
                for name in file.keys():  # noqa: SIM118 (the file is no mapping)
                    part: Any = file.get_slice(name)
                    places[name] = _Place(
                        path, name, str(part.get_dtype()), tuple(part.get_shape()), offsets[name]
                    )
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is cut short or damaged: {error}") from error
    return places


def _offsets(path: Path) -> dict[str, int]:
    """Where each tensor begins in a file that the library has opened and so found to be sound.

    The library hands out arrays, of which numpy has none in bfloat16, or torch's tensors. Format:
    8 bytes of length, so many of JSON, then the tensors' bytes.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {
        name: 8 + length + int(entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _bytes(place: _Place) -> npt.NDArray[np.uint8]:
    """The tensor's bytes, in memory of their own."""
    import numpy as np

    try:
        data = np.fromfile(place.path, np.uint8, place.nbytes, offset=place.offset)
    except OSError as error:
        raise ModelError(f"cannot read {place.name!r} of {place.path}: {error}") from error
    if data.size != place.nbytes:
        raise ModelError(f"{place.path} was cut short since it was opened")
    return data


def _hf_name(name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    _, layer, part = name.split(".")
    return f"model.layers.{layer}.{_LAYER[part]}"
