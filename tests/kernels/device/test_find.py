"""Where to compute is found out without torch where no GPU can be there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from headrace.kernels.device import choose, find
from headrace.kernels.device.find import choose_device, describe_device, gpu_driver
from headrace.nouns.errors import ConfigError


def test_the_cpu_where_it_is_asked_for_or_nothing_else_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(find, "gpu_driver", lambda: False)
    assert choose_device("cpu") == ("cpu", "asked for")
    assert choose_device("auto") == ("cpu", "auto: this system has no driver of a GPU")
    assert choose_device("auto", "int8")[1] == "auto: only the CPU computes weights int8"
    assert describe_device("cpu", "asked for") == "device: cpu (asked for)"
    with pytest.raises(ConfigError, match="choose auto, cpu or cuda"):
        choose_device("tpu")


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_torch_is_asked_where_a_gpu_may_be(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(find, "gpu_driver", lambda: True)
    found = (torch.device("meta"), "torch says so")
    monkeypatch.setattr(choose, "choose_device", lambda *_: found)
    assert choose_device(name) == found
    assert describe_device(*found) == "device: meta (torch says so)"


@pytest.mark.skipif(sys.platform != "linux", reason="looks at Linux's files")
def test_a_driver_shows_in_the_devices(tmp_path: Path) -> None:
    assert not gpu_driver(tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "null").touch()
    assert not gpu_driver(tmp_path)
    (tmp_path / "dev" / "nvidiactl").touch()
    assert gpu_driver(tmp_path)


def test_finding_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from headrace.kernels.device import find\n"
        "find.gpu_driver = lambda: False\n"
        "find.choose_device('auto')\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
