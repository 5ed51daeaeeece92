"""Which number format computes a model, and whether the C++ decoder or torch does.

Imports no torch unless the answer depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.kernels.extension import load_extension
from headrace.nouns.errors import ConfigError

QUANTISED_BITS = 10.0  # a file with at most so many bits a weight lost more than int8 products lose
SLOW_BUILDS = ("portable",)
MAX_HEAD_DIM = 256


@dataclass(frozen=True, slots=True)
class Format:
    """The number format of a model's weights and products.

    ``name`` is float32, bf16, int8 or native; ``native_code`` tells whether the C++ decoder
    computes it, else torch does.
    """

    name: str
    native_code: bool
    why: str


def choose_format(weights: str, head_dim: int, stored_bits: float) -> Format:
    """The format for ``weights`` (auto, float32, bf16, int8 or native), and the reason.

    ``stored_bits`` is what the model's file holds a weight in. Raises ConfigError for another name
    and for a format that cannot be computed here.
    """
    blocked = _decoder_obstacle(head_dim)
    build = "" if blocked else load_extension().module.kernels_name()  # type: ignore[union-attr]
    if weights == "float32":
        return Format("float32", False, "asked for")
    if weights in ("int8", "native"):
        if blocked:
            raise ConfigError(
                f"weights {weights} needs the C++ extension, and {blocked}; choose float32 or bf16"
            )
        return Format(weights, True, "asked for")
    if weights in ("bf16", "bfloat16"):
        if build.startswith("avx512"):
            return Format("bf16", True, "asked for")
        return Format("bf16", False, f"asked for; {blocked or 'faster than ours here'}")
    if weights != "auto":
        raise ConfigError(f"weights is {weights!r}; choose auto, float32, bf16, int8 or native")
    slow = blocked or (f"the {build} kernels are slow" if build in SLOW_BUILDS else "")
    if stored_bits <= QUANTISED_BITS and not slow:
        return Format("int8", True, f"auto: the file holds {stored_bits:.1f} bits a weight")
    if build == "avx512_bf16":
        return Format("bf16", True, "auto: this CPU multiplies bfloat16 natively")
    if _torch_is_fast():
        return Format("bf16", False, f"auto: native bfloat16 through oneDNN; {slow or blocked}")
    return Format("float32", False, f"auto: {slow or 'no native bfloat16 products here'}")


def _decoder_obstacle(head_dim: int) -> str:
    """Why the C++ decoder cannot run, or an empty string."""
    extension = load_extension()
    if not extension.available:
        return f"it is {extension.reason}"
    if not hasattr(extension.module, "Decoder"):
        return "it is of an older build; install headrace again"
    if head_dim % 16 or head_dim > MAX_HEAD_DIM:
        return f"its attention takes head sizes in 16s up to {MAX_HEAD_DIM}, not {head_dim}"
    return ""


def _torch_is_fast() -> bool:
    """Whether torch multiplies bfloat16 natively here."""
    import torch

    from headrace.kernels.dispatch import bfloat16_is_fast
    from headrace.kernels.linear import has_packed

    return bfloat16_is_fast() and has_packed(torch.bfloat16)
