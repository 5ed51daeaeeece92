"""ModelShape: what a step's time depends on of a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headrace.nouns.errors import ConfigError
from headrace.simulation.device import FORMATS
from headrace.simulation.toml_file import Table, read_toml

SHAPES = Path(__file__).parent / "shapes.toml"
MOST = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A decoder-only Transformer, and the number formats in which it is served.

    ``gated`` models have three matrices in each feed-forward block, others two. A weight of the
    layers takes ``matrix_bits``, one of the output matrix ``head_bits``, a number of the cache
    ``cache_bits``; ``products`` and ``attention`` are the formats that is multiplied in.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    max_context: int
    gated: bool = True
    tied: bool = False
    matrix_bits: float = 16.0
    head_bits: float = 16.0
    cache_bits: float = 16.0
    products: str = "bfloat16"
    attention: str = "bfloat16"

    def __post_init__(self) -> None:
        for name in ("products", "attention"):
            if getattr(self, name) not in FORMATS:
                raise ConfigError(
                    f"the model {self.name}'s {name} is {getattr(self, name)!r}; choose one of"
                    f" {', '.join(FORMATS)}"
                )
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"the model {self.name} has {self.heads} heads and {self.kv_heads} key-value"
                " heads; the first has to be a multiple of the second"
            )

    @property
    def state(self) -> int:
        """Weights of a layer's key and value projections."""
        return 2 * self.hidden * self.kv_heads * self.head_dim

    @property
    def layer(self) -> int:
        """Weights of a layer's matrices."""
        queries = 2 * self.hidden * self.heads * self.head_dim
        feed_forward = (3 if self.gated else 2) * self.hidden * self.intermediate
        return self.state + queries + feed_forward

    @property
    def head(self) -> int:
        """Weights of the output matrix."""
        return self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        """Weights of all matrices, the embedding included; a tied output matrix counts once."""
        return self.layers * self.layer + (1 if self.tied else 2) * self.head

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights, the embedding table as wide as the output matrix."""
        tables = (1 if self.tied else 2) * self.head
        return (self.layers * self.layer * self.matrix_bits + tables * self.head_bits) / 8

    @property
    def token_bytes(self) -> float:
        """Bytes of cache that a token takes."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.cache_bits / 8

    def served_in(self, weights: str) -> ModelShape:
        """The same with weights and products in ``weights``: float32, bfloat16, int8 and so on."""
        bits = {"float32": 32.0, "float16": 16.0, "bfloat16": 16.0, "float8": 8.0, "int8": 8.0}
        if weights not in bits:
            raise ConfigError(f"{weights!r} is no number format; use one of {', '.join(FORMATS)}")
        return replace(self, products=weights, matrix_bits=bits[weights], head_bits=bits[weights])

    @classmethod
    def parse(cls, name: str, values: dict[str, Any], where: str) -> ModelShape:
        """A shape from a table of a TOML file. Raises ConfigError naming ``where``."""
        sizes = ("layers", "hidden", "heads", "intermediate", "vocabulary", "max_context")
        bits = ("matrix_bits", "head_bits", "cache_bits")
        formats = ("products", "attention")
        known = {*sizes, *bits, *formats, "kv_heads", "head_dim", "gated", "tied", "source"}
        table = Table(where, values, known)
        found = {size: table.whole(size, 1, MOST) for size in sizes}
        return cls(
            name=name,
            **found,
            kv_heads=table.whole("kv_heads", 1, MOST, found["heads"]),
            head_dim=table.whole("head_dim", 1, MOST, found["hidden"] // found["heads"]),
            gated=table.truth("gated", True),
            tied=table.truth("tied", False),
            matrix_bits=table.number("matrix_bits", 1, 64, 16),
            head_bits=table.number("head_bits", 1, 64, 16),
            cache_bits=table.number("cache_bits", 1, 64, 16),
            products=table.text("products", "bfloat16"),
            attention=table.text("attention", "bfloat16"),
        )


def shape_names() -> list[str]:
    """Names of the shapes that come with the program."""
    return sorted(read_toml(SHAPES))


def load_shape(name: str) -> ModelShape | None:
    """The built-in shape of this name; None where there is none."""
    found = read_toml(SHAPES).get(name)
    return None if found is None else ModelShape.parse(name, found, f"shape {name}")
