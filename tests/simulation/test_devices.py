"""Descriptions of devices and models: all sane, all with sources, read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.nouns.errors import ConfigError
from headrace.simulation.device import FOLDER, FORMATS, device_names, load_device
from headrace.simulation.model_shape import ModelShape, load_shape, shape_names

TEXT = (FOLDER / "a100-80g.toml").read_text(encoding="utf-8")

# Parameters as the models' authors state them, in billions.
STATED = {
    "falcon-180b": 180, "gpt-3-175b": 175, "gpt-j-6b": 6.05, "llama-13b": 13.0, "llama-2-13b": 13.0,
    "llama-2-70b": 69, "llama-2-7b": 6.74, "llama-3-70b": 70.6, "llama-3-8b": 8.03,
    "llama-33b": 32.5, "llama-7b": 6.74, "mistral-7b": 7.24, "opt-13b": 12.85, "qwen2.5-0.5b": 0.49,
    "qwen2.5-7b": 7.62, "smollm2-135m": 0.135, "yi-34b": 34.4,
}  # fmt: skip


@pytest.mark.parametrize("name", device_names())
def test_every_device_is_sane_and_says_where_from(name: str) -> None:
    device = load_device(name)
    assert set(device.sources) >= {"peak", "memory", "achievable", "overhead"}
    assert (device.price is not None) == ("price" in device.sources)
    assert (device.link > 0) == ("link" in device.sources)
    rates = [device.rate(format) for format in FORMATS]
    assert all(rate >= device.peak["float32"] for rate in rates)
    # A decoded token of 7 billion weights takes milliseconds on a GPU, a tenth of a second on a CPU
    reading = 14e9 / (device.bandwidth * device.reading)
    assert (0.003 if device.kind == "gpu" else 0.02) < reading < 0.2
    assert device.memory <= 512e9


@pytest.mark.parametrize("name", shape_names())
def test_every_shape_has_the_parameters_it_should(name: str) -> None:
    shape = load_shape(name)
    assert shape is not None
    assert shape.parameters / 1e9 == pytest.approx(STATED[name], rel=0.01)
    assert shape.heads % shape.kv_heads == 0


def test_formats_without_units_are_computed_in_others() -> None:
    assert load_device("t4").rate("bfloat16") == load_device("t4").peak["float16"]
    assert load_device("v100-32g").rate("int8") == load_device("v100-32g").peak["float16"]
    assert load_device("xeon-8380").rate("bfloat16") == load_device("xeon-8380").peak["float32"]
    with pytest.raises(ConfigError, match="no number format"):
        load_device("t4").rate("int5")


def test_formats_of_weights() -> None:
    llama = load_shape("llama-2-7b")
    assert llama is not None
    assert llama.served_in("int8").weight_bytes == llama.weight_bytes / 2
    with pytest.raises(ConfigError, match="no number format"):
        llama.served_in("int5")
    assert load_shape("no such model") is None


def test_ones_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TEXT.replace("NVIDIA A100 80GB SXM", "mine"), encoding="utf-8")
    assert load_device(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "gpu"', 'kind = "tpu"', "kind"),
        ('kind = "gpu"', 'kind = "gpu"\nspeed = 3', "'speed' is not known"),
        ("float32 = 1.95e13", "", "float32 is missing"),
        ("bandwidth = 2.039e12", "bandwidth = -1", "bandwidth is -1"),
        ("bandwidth = 2.039e12", 'bandwidth = "fast"', "has to be a number"),
        ("bandwidth = 2.039e12", "bandwidth = true", "has to be a number"),
        ("bandwidth = 2.039e12", "bandwidth = nan", "has to be from"),
        ("bandwidth = 2.039e12", "bandwidth = inf", "has to be from"),
        ("bandwidth = 2.039e12", "bandwidth = 1" + "0" * 400, "bandwidth is too large"),
        ("bandwidth = 2.039e12", "bandwidth = 0x" + "F" * 5000, "bandwidth is too large"),
        ("bandwidth = 2.039e12", "bandwidth = " + "1" * 5000, "no TOML"),
        ("bandwidth = 2.039e12", "bandwidth = " + "[" * 5000, "no TOML"),
        ("products = 0.66", "products = 1.5", r"from 0.01 to 1"),
        ("[achievable]", "[achieved]", "'achieved' is not known"),
        ('name = "NVIDIA A100 80GB SXM"', "name = 3", "name is 3"),
        ("[memory]", "[memory", "no TOML"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    path = tmp_path / "wrong.toml"
    path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_device(str(path))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_device(str(tmp_path / "absent.toml"))
    with pytest.raises(ConfigError, match="is not known"):
        load_device("a100")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="no TOML"):
        load_device(str(binary))
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (1 << 20) + b"##")
    with pytest.raises(ConfigError, match="bytes"):
        load_device(str(large))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers"), ({"layers": 1.5}, "whole"), ({"kv_heads": 3}, "multiple"),
        ({"products": "int5"}, "products"), ({"depth": 3}, "'depth'"), ({"gated": 1}, "gated"),
    ],
)  # fmt: skip
def test_wrong_shapes_are_refused(change: dict[str, object], message: str) -> None:
    right = {"layers": 2, "hidden": 64, "heads": 4, "intermediate": 128, "vocabulary": 100,
             "max_context": 64}  # fmt: skip
    assert ModelShape.parse("right", dict(right), "here").head_dim == 16
    with pytest.raises(ConfigError, match=message):
        ModelShape.parse("wrong", right | change, "here")
