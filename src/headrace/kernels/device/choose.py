"""Which device computes, and with which operators: chosen once at start, with the reasons."""

from __future__ import annotations

import torch

from headrace.kernels.device.attention import choose_attention
from headrace.kernels.device.find import CPU_FORMATS
from headrace.kernels.device.operators import DeviceOperators
from headrace.kernels.dispatch import Dispatch
from headrace.nouns.errors import ConfigError

FORMATS = {"float32": torch.float32, "bf16": torch.bfloat16, "bfloat16": torch.bfloat16}


def choose_device(name: str, weights: str = "auto") -> tuple[torch.device, str]:
    """The device for ``auto``, ``cpu`` or ``cuda``, and why.

    ``auto`` takes a GPU where torch finds one, but for ``weights`` that only the CPU computes.
    Raises ConfigError for another name, and for ``cuda`` where there is none.
    """
    cpu = torch.device("cpu")
    if name == "cpu":
        return cpu, "asked for"
    if name not in ("auto", "cuda"):
        raise ConfigError(f"device is {name!r}; choose auto, cpu or cuda")
    if name == "auto" and weights in CPU_FORMATS:
        return cpu, f"auto: only the CPU computes weights {weights}"
    missing = _gpu_obstacle()
    if not missing:
        why = "auto: torch finds a GPU" if name == "auto" else "asked for"
        return torch.device("cuda", torch.cuda.current_device()), why
    if name == "auto":
        return cpu, f"auto: {missing}"
    raise ConfigError(f"device is cuda, but {missing}; choose auto or cpu")


def describe_device(device: torch.device, why: str) -> str:
    """One line: the device, what it is, and the reason it was chosen."""
    return f"device: {_full_name(device)} ({why})"


def choose_on_device(device: torch.device, weights: str, head_dim: int) -> Dispatch:
    """Operators for ``device``. Raises ConfigError for formats that only the CPU computes."""
    dtype, why = _format(device, weights)
    if device.type == "cuda":
        # Sums in float32 throughout: a split product would add its parts in bfloat16, and TF32
        # keeps 10 bits of a float32.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_tf32 = False
    attention, checked = choose_attention(device, head_dim, dtype)
    name = {torch.float32: "float32", torch.bfloat16: "bf16"}[dtype]
    report = (
        f"weights: {name} ({why}), torch linear on {_full_name(device)}",
        f"attention: torch, {attention.name} on gathered blocks ({checked})",
    )
    return Dispatch(DeviceOperators(device, dtype, attention), report)


def _format(device: torch.device, weights: str) -> tuple[torch.dtype, str]:
    if weights in FORMATS:
        return FORMATS[weights], "asked for"
    if weights != "auto":
        raise ConfigError(
            f"weights is {weights!r}, which only the CPU computes; on {device.type} choose auto,"
            " bf16 or float32, or device cpu"
        )
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float32, "auto: this GPU has no native bfloat16 products"
    return torch.bfloat16, "auto: half the memory to read of float32"


def _full_name(device: torch.device) -> str:
    if device.type != "cuda":
        return str(device)
    found = torch.cuda.get_device_properties(device)
    size = f"{found.total_memory / 2**30:.1f} GiB"
    return f"{device}, {found.name}, {size}, compute capability {found.major}.{found.minor}"


def _gpu_obstacle() -> str:
    """Why there is no GPU to use, or an empty string."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no GPU and driver that it can use"
    return ""
