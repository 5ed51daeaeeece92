"""Where to compute, found out without torch where the answer does not need it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CPU_FORMATS = ("int8", "native")  # of weights, which no other device computes
# Files of the drivers of NVIDIA's GPUs (of Tegra and of WSL too) and of AMD's.
_DRIVERS = ("nvidiactl", "nvidia0", "nvhost-gpu", "nvgpu", "dxg", "kfd")


def choose_device(name: str, weights: str = "auto") -> tuple[torch.device | str, str]:
    """As choose.choose_device, which is asked where a GPU may be there and may be used."""
    if name == "cpu":
        return "cpu", "asked for"
    if name == "auto" and weights in CPU_FORMATS:
        return "cpu", f"auto: only the CPU computes weights {weights}"
    if name == "auto" and not gpu_driver():
        return "cpu", "auto: this system has no driver of a GPU"
    from headrace.kernels.device import choose

    return choose.choose_device(name, weights)


def describe_device(device: torch.device | str, why: str) -> str:
    """One line: the device, what it is, and the reason it was chosen."""
    if isinstance(device, str):
        return f"device: {device} ({why})"
    from headrace.kernels.device import choose

    return choose.describe_device(device, why)


def gpu_driver(root: Path = Path("/")) -> bool:
    """False where there cannot be a GPU that torch computes on through CUDA or ROCm."""
    if platform.system() == "Linux":
        return any((root / "dev" / name).exists() for name in _DRIVERS)
    return platform.system() != "Darwin"
