"""A tiny random model on real operators, and schedules to drive it with."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from headrace.execution.cache import new_cache
from headrace.execution.local import LocalExecutor
from headrace.kernels.device.attention import choose_attention
from headrace.kernels.device.graphs import Capture
from headrace.kernels.device.operators import DeviceOperators
from headrace.kernels.dispatch import choose
from headrace.kernels.extension import load_extension
from headrace.kernels.operators import Logits
from headrace.models.config import ModelConfig, RopeConfig
from headrace.models.device_transformer import DeviceTransformer
from headrace.models.model import Model
from headrace.models.native import NativeTransformer
from headrace.models.transformer import Transformer
from headrace.models.weights import StoredWeight
from headrace.nouns.request import Request
from headrace.nouns.sequence import Sequence
from headrace.nouns.step import Sampled, Slice, Step, StepResult

VOCAB = 160

# Formats of the C++ decoder: arithmetic, cache, how the file stores its matrices.
NATIVE = {
    "int8": ("int8", "bf16", "Q4_1"),
    "int8 of float": ("int8", "bf16", "F32"),
    "int8, int8 cache": ("int8", "int8", "Q4_0"),
    "native": ("native", "bf16", "Q4_1"),
    "bf16": ("bf16", "bf16", "F32"),
}
# Operators for a device with its own memory: on the CPU always, on a GPU where there is one.
DEVICES = {"device float32": ("cpu", torch.float32), "device bfloat16": ("cpu", torch.bfloat16)}
if torch.cuda.is_available():
    DEVICES |= {"cuda float32": ("cuda", torch.float32), "cuda bfloat16": ("cuda", torch.bfloat16)}
FORMATS = ("float32", "bfloat16", *(NATIVE if load_extension().available else ()), *DEVICES)


class RandomWeights:
    """Random weights of a config, by canonical name, the same at every call."""

    def __init__(self, config: ModelConfig, seed: int = 0, type_: str = "F32") -> None:
        """Matrices whose rows are in whole blocks are stored as GGUF's ``type_``."""
        self.type = type_
        generator = torch.Generator().manual_seed(seed)
        self.tensors = {}
        for name, shape in config.weight_shapes().items():
            tensor = torch.randn(shape, generator=generator)
            if name == "norm" or name.endswith("_norm"):
                tensor = 1 + 0.1 * tensor
            elif len(shape) == 2:
                tensor = tensor * shape[1] ** -0.5
            self.tensors[name] = tensor

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors.values())

    def names(self) -> list[str]:
        return list(self.tensors)

    def get(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        return self.tensors[name].to(dtype, copy=True)

    def values(self, name: str) -> np.ndarray:
        return self.get(name, torch.float32).numpy()

    def stored_type(self, name: str) -> str:
        tensor = self.tensors[name]
        return self.type if tensor.dim() == 2 and tensor.shape[1] % 32 == 0 else "F32"

    def stored(self, name: str) -> StoredWeight:
        tensor = self.tensors[name]
        rows = tensor.view(-1, tensor.shape[-1]).numpy()
        if self.stored_type(name) != "F32":
            packed = quantize(rows, GGMLQuantizationType[self.type])
            return StoredWeight(self.type, tuple(tensor.shape), packed)
        return StoredWeight("F32", tuple(tensor.shape), rows.view(np.uint8))


def tiny_config(**changes: object) -> ModelConfig:
    fields: dict[str, object] = {
        "architecture": "llama", "hidden_size": 96, "num_layers": 2, "num_heads": 6,
        "num_kv_heads": 2, "head_dim": 32, "intermediate_size": 150, "vocab_size": VOCAB,
        "max_context": 1024, "rope": RopeConfig(),
    }  # fmt: skip
    return ModelConfig(**(fields | changes))  # type: ignore[arg-type]


class Recorder:
    """A sampler that keeps the logits and always takes the most likely token."""

    def __init__(self) -> None:
        self.logits: torch.Tensor = torch.empty(0)
        self.forgotten: list[Sequence] = []

    def sample(self, logits: Logits, sequences: list[Sequence]) -> list[Sampled]:
        self.logits = torch.as_tensor(logits).clone()
        return [Sampled(token) for token in self.logits.argmax(-1).tolist()]

    def forget(self, sequence: Sequence) -> None:
        self.forgotten.append(sequence)


@cache
def tiny_transformer(dtype: str, architecture: str = "llama", block_size: int = 16) -> Model:
    """A tiny model in a format of ``FORMATS``, for cache blocks of so many tokens."""
    changes: dict[str, object] = {"architecture": architecture}
    if architecture == "qwen2":
        changes["attention_bias"] = True
    if architecture == "qwen3":
        changes["qk_norm"] = True
    if architecture == "mistral":  # as many key heads as query heads: a single row a product
        changes["num_kv_heads"] = 6
    config = tiny_config(**changes)
    if dtype in NATIVE:
        kind, cache_format, type_ = NATIVE[dtype]
        return NativeTransformer(
            config, RandomWeights(config, type_=type_), kind, config.max_context,
            block_size=block_size, cache_format=cache_format,
        )  # fmt: skip
    if dtype in DEVICES:
        return device_transformer(config, *DEVICES[dtype])
    operators = choose(dtype, config.head_dim).operators
    return Transformer(config, RandomWeights(config), operators, config.max_context)


def device_transformer(config: ModelConfig, device: str, dtype: torch.dtype) -> DeviceTransformer:
    """Decode steps run from fixed tensors as captured ones do, on the CPU by running them again."""
    where = torch.device(device)
    attention, _ = choose_attention(where, config.head_dim, dtype)
    operators = DeviceOperators(where, dtype, attention)
    capture: Capture | None = None if device == "cuda" else lambda run: run
    weights = RandomWeights(config)
    return DeviceTransformer(config, weights, operators, config.max_context, capture)


def executor(model: Model, num_blocks: int = 256, block_size: int = 16) -> LocalExecutor:
    return LocalExecutor(model, new_cache(model, num_blocks, block_size), Recorder())


def sequence(tokens: Iterable[int], blocks: Iterable[int]) -> Sequence:
    prompt = tuple(tokens)
    seq = Sequence.of(Request(id="r", prompt=prompt, max_tokens=1000), 0)
    seq.blocks = list(blocks)
    return seq


def run(executor_: LocalExecutor, *slices: Slice, padding: int = 0) -> StepResult:
    executor_.submit(Step(1, slices, padding=padding))
    result = executor_.collect()
    assert result.error is None, result.error
    for piece in slices:
        piece.sequence.computed = piece.end
    return result


def logits_of(executor_: LocalExecutor) -> torch.Tensor:
    """Logits of the last step, a row per sampling slice, in the step's order."""
    assert isinstance(executor_.sampler, Recorder)
    return executor_.sampler.logits


def whole(executor_: LocalExecutor, seq: Sequence) -> torch.Tensor:
    """Logits after all known tokens, from what is computed on, in one step."""
    run(executor_, Slice(seq, seq.computed, len(seq.tokens) - seq.computed, True))
    return logits_of(executor_)[0]
