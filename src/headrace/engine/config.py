"""EngineConfig: what an engine is built from."""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.nouns.errors import ConfigError
from headrace.nouns.tenant import Tenants

DEFAULT_MODEL = "smollm2:135m"
WEIGHTS = ("auto", "float32", "bf16", "int8", "native")
DEVICES = ("auto", "cpu", "cuda")
CACHE_FORMATS = ("auto", "bf16", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Options of an engine; None lets it choose and say why.

    ``model`` is a catalogue name, a GGUF file, a Hugging Face directory or a hub id. ``weights`` is
    the number format of weights and products: auto, float32, bf16, int8 or native (the file's own
    blocks). ``device`` is auto (a GPU where torch finds one), cpu or cuda. ``cache_bytes`` is the
    memory for sequence state, ``cache_format`` what it is kept in (auto, bf16 or int8),
    ``max_context`` the most tokens of one sequence, ``max_sequences`` how many run at once,
    ``max_queue`` how many may wait. ``token_budget`` is what one step computes; without it the knee
    of a short measurement is taken, lowered to meet ``tpot_target`` (seconds per output token) if
    given. ``order``, ``admission``, ``batching`` and ``preemption`` name policies. ``tenants`` are
    the terms of named tenants and of all others. ``watchdog`` is
    the age in seconds at which a step in progress counts as hung.
    """

    model: str = DEFAULT_MODEL
    weights: str = "auto"
    device: str = "auto"
    block_size: int = 16
    cache_bytes: int | None = None
    cache_format: str = "auto"
    max_context: int | None = None
    max_sequences: int = 64
    max_queue: int = 1024
    token_budget: int | None = None
    tpot_target: float | None = None
    order: str = "deadline"
    admission: str = "watermark"
    batching: str = "stall-free"
    preemption: str = "least-lost"
    prefix_cache: bool = True
    threads: int | None = None
    watchdog: float = 60.0
    tenants: Tenants = field(default_factory=Tenants)

    def __post_init__(self) -> None:
        for name in ("block_size", "max_sequences", "max_queue"):
            self._at_least_one(name, getattr(self, name))
        for name in ("cache_bytes", "max_context", "token_budget", "threads"):
            if getattr(self, name) is not None:
                self._at_least_one(name, getattr(self, name))
        # said at once, not after the model has been fetched
        self._one_of("weights", self.weights, WEIGHTS)
        self._one_of("device", self.device, DEVICES)
        self._one_of("cache_format", self.cache_format, CACHE_FORMATS)
        if self.tpot_target is not None and not self.tpot_target > 0:
            raise ConfigError(f"tpot_target is {self.tpot_target}; it must be above 0 seconds")
        if not self.watchdog > 0:
            raise ConfigError(f"watchdog is {self.watchdog}; it must be above 0 seconds")

    @staticmethod
    def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
        if value not in known:
            raise ConfigError(f"{name} is {value!r}; choose {', '.join(known[:-1])} or {known[-1]}")

    @staticmethod
    def _at_least_one(name: str, value: int) -> None:
        if value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1")
