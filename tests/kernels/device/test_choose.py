"""The choice of a device says why, and refuses what cannot be had."""

from __future__ import annotations

import pytest
import torch

from headrace.engine.config import DEVICES, EngineConfig
from headrace.kernels.device import choose
from headrace.kernels.device.choose import choose_device, choose_on_device, describe_device
from headrace.nouns.errors import ConfigError
from tests.support.devices import needs_cuda

CPU = torch.device("cpu")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_gpu_obstacle", lambda: "")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_gpu_obstacle", lambda: "torch has none")


@pytest.mark.usefixtures("gpu")
def test_auto_takes_a_gpu_but_for_formats_of_the_cpu() -> None:
    cuda = torch.device("cuda", 0)
    assert choose_device("auto") == (cuda, "auto: torch finds a GPU")
    assert choose_device("cuda") == (cuda, "asked for")
    assert choose_device("cpu") == (CPU, "asked for")
    assert choose_device("auto", "int8") == (CPU, "auto: only the CPU computes weights int8")
    assert choose_device("cuda", "int8")[0] == cuda


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu() -> None:
    assert choose_device("auto") == (CPU, "auto: torch has none")
    with pytest.raises(ConfigError, match="device is cuda, but torch has none; choose auto or cpu"):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["tpu", "cuda:1", ""])
def test_unknown_names_are_refused_alike(name: str) -> None:
    with pytest.raises(ConfigError, match="choose auto, cpu or cuda"):
        choose_device(name)
    with pytest.raises(ConfigError, match="choose auto, cpu or cuda"):
        EngineConfig(device=name)
    assert all(EngineConfig(device=known).device == known for known in DEVICES)


def test_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert choose_device("auto")[1].endswith("is built without CUDA")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert choose_device("auto")[1] == "auto: torch finds no GPU and driver that it can use"


def test_the_report_gives_reasons() -> None:
    dispatch = choose_on_device(CPU, "float32", 16)
    assert dispatch.report[0] == "weights: float32 (asked for), torch linear on cpu"
    assert dispatch.report[1].startswith("attention: torch, ")
    assert choose_on_device(CPU, "auto", 16).operators.weight_dtype is torch.bfloat16
    for weights in ("int8", "native"):
        with pytest.raises(ConfigError, match="only the CPU computes; on cpu choose auto, bf16"):
            choose_on_device(CPU, weights, 16)
    assert describe_device(CPU, "a test") == "device: cpu (a test)"


@needs_cuda
def test_a_gpu_is_described() -> None:
    device, why = choose_device("cuda")
    line = describe_device(device, why)
    assert torch.cuda.get_device_name(device) in line
    assert "GiB, compute capability" in line
