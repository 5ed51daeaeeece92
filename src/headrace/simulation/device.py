"""Device: what a step's time depends on of a GPU or a processor, from a TOML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.nouns.errors import ConfigError
from headrace.simulation.toml_file import Table, read_toml

FORMATS = ("float32", "float16", "bfloat16", "float8", "int8")
KINDS = ("cpu", "gpu")
FOLDER = Path(__file__).parent / "devices"

# A number format that a device has no units for is computed in the next one of these it has.
_INSTEAD = {
    "int8": ("int8", "bfloat16", "float16", "float32"),
    "float8": ("float8", "bfloat16", "float16", "float32"),
    "bfloat16": ("bfloat16", "float16", "float32"),
    "float16": ("float16", "bfloat16", "float32"),
    "float32": ("float32",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Limits as the maker states them, and which share of them programs reach.

    ``peak`` are operations per second by number format (a multiplication and an addition are two;
    dense), ``memory`` bytes, ``bandwidth`` bytes read per second. ``link`` are bytes per second in
    one direction between devices of a machine and ``link_latency`` seconds a message (0: none).
    ``products``, ``attention`` and ``reading`` are achievable shares of peak and bandwidth.
    Every step takes ``step_overhead`` seconds besides, ``layer_overhead`` for each of the model's
    layers (the starting of kernels), and ``sequence_overhead`` for each of its sequences. ``price``
    is in dollars per hour; None where none is known. ``sources`` say by table of the file where its
    figures come from.
    """

    name: str
    kind: str
    peak: dict[str, float]
    memory: float
    bandwidth: float
    products: float
    attention: float
    reading: float
    link: float = 0.0
    link_latency: float = 0.0
    step_overhead: float = 0.0
    layer_overhead: float = 0.0
    sequence_overhead: float = 0.0
    price: float | None = None
    sources: dict[str, str]

    def rate(self, format: str) -> float:
        """Peak operations per second of products in ``format``, or in what is used instead.

        Raises ConfigError for an unknown format.
        """
        if format not in _INSTEAD:
            raise ConfigError(f"{format!r} is no number format; use one of {', '.join(FORMATS)}")
        found = (self.peak.get(name) for name in _INSTEAD[format])
        return next(rate for rate in found if rate)

    @classmethod
    def parse(cls, values: dict[str, Any], where: str) -> Device:
        """A device from the content of a TOML file. Raises ConfigError naming ``where``."""
        known = {"name", "kind", "peak", "memory", "link", "achievable", "overhead", "price"}
        top = Table(where, values, known)
        kind = top.text("kind")
        if kind not in KINDS:
            raise ConfigError(f"{where}: kind is {kind!r}; write one of {', '.join(KINDS)}")
        peak = top.table("peak", {*FORMATS, "source"})
        memory = top.table("memory", {"bytes", "bandwidth", "source"})
        link = top.table("link", {"bandwidth", "latency", "source"})
        share = top.table("achievable", {"products", "attention", "reading", "source"})
        overhead = top.table("overhead", {"step", "layer", "sequence", "source"})
        price = top.table("price", {"dollars_per_hour", "source"})
        rates = {name: peak.number(name, 1e6, 1e18) for name in FORMATS if name in peak}
        if "float32" not in rates:
            raise ConfigError(f"{where}, [peak]: float32 is missing; all else falls back on it")
        tables = {"peak": peak, "memory": memory, "link": link, "achievable": share,
                  "overhead": overhead, "price": price}  # fmt: skip
        priced = "dollars_per_hour" in price
        return cls(
            name=top.text("name"),
            kind=kind,
            peak=rates,
            memory=memory.number("bytes", 1e6, 1e15),
            bandwidth=memory.number("bandwidth", 1e6, 1e15),
            products=share.number("products", 0.01, 1.0),
            attention=share.number("attention", 0.01, 1.0),
            reading=share.number("reading", 0.01, 1.0),
            link=link.number("bandwidth", 0.0, 1e15, 0.0),
            link_latency=link.number("latency", 0.0, 1.0, 0.0),
            step_overhead=overhead.number("step", 0.0, 10.0, 0.0),
            layer_overhead=overhead.number("layer", 0.0, 1.0, 0.0),
            sequence_overhead=overhead.number("sequence", 0.0, 1.0, 0.0),
            price=price.number("dollars_per_hour", 0.0, 1e6) if priced else None,
            sources={name: table.text("source") for name, table in tables.items()
                     if name in values},
        )  # fmt: skip


def device_names() -> list[str]:
    """Names of the devices that come with the program."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_device(name: str) -> Device:
    """The device of a built-in name such as ``a100-80g``, or of one's own ``.toml`` file.

    Raises ConfigError.
    """
    if name.endswith(".toml"):
        path = Path(name).expanduser()
        return Device.parse(read_toml(path), str(path))
    if name not in device_names():
        raise ConfigError(
            f"the device {name!r} is not known; use one of {', '.join(device_names())}"
            " or the path of a .toml file as docs/cost-models.md describes"
        )
    return Device.parse(read_toml(FOLDER / f"{name}.toml"), f"device {name}")
