"""MemoryPlan: what memory goes where, decided before any of it is taken."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.models.config import ModelConfig
from headrace.nouns.errors import ConfigError

FLOAT32 = 4
STEP_ROWS = 2048  # rows of the largest step that workspace is kept for
ATTENTION_BYTES = 64 << 20  # gathered keys and values, and scores, of one tile, with copies
LOGITS_COPIES = 4  # logits, and what the sampler derives from them
SEQUENCE_TOKENS = 1024  # context per sequence that the default cache is sized for
CACHE_SHARE = 0.5  # of what weights and workspace leave; the rest stays with the system
SPARE_SHARE = 0.05  # of the memory available, never planned for


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes for one purpose, and why so many."""

    name: str
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class WeightSizes:
    """Bytes a value in memory: of the layers' matrices, the embedding table, the output matrix."""

    layers: float
    embedding: float
    head: float


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Weights, cache, workspace and spare; they add up to the memory available.

    ``num_blocks`` blocks of ``block_size`` tokens fit the cache; no sequence may be longer than
    ``max_context`` tokens.
    """

    parts: tuple[Part, ...]
    num_blocks: int
    block_size: int
    max_context: int
    available: int
    available_reason: str

    def bytes(self, name: str) -> int:
        """Bytes of the part called ``name``. Raises KeyError."""
        for part in self.parts:
            if part.name == name:
                return part.bytes
        raise KeyError(name)

    def lines(self) -> list[str]:
        """The plan as text, a part a line."""
        head = f"memory: {_size(self.available)} available ({self.available_reason})"
        return [head, *(f"  {p.name:<10}{_size(p.bytes):>10}  {p.reason}" for p in self.parts)]


def weight_bytes(config: ModelConfig, sizes: WeightSizes, max_context: int) -> Part:
    """Packed matrices, the embedding twice (as table and as output matrix), rope tables."""
    matrices = round(config.num_layers * config.layer_parameters * sizes.layers)
    tables = round(config.embedding_parameters * (sizes.embedding + sizes.head))
    rope = 2 * max_context * config.head_dim * FLOAT32
    reason = (
        f"{config.num_layers} layers {_size(matrices)}, embedding and output matrix"
        f" {_size(tables)}, rotation tables {_size(rope)}; {sizes.layers:g} bytes a weight"
    )
    return Part("weights", matrices + tables + rope, reason)


def workspace_bytes(
    config: ModelConfig, max_sequences: int, attention_bytes: int = ATTENTION_BYTES
) -> Part:
    """What a step needs besides weights and cache, at most."""
    widths = 3 * config.hidden_size + 2 * (config.q_size + 2 * config.kv_size)
    row = FLOAT32 * (widths + 2 * config.q_size + 4 * config.intermediate_size)
    logits = LOGITS_COPIES * FLOAT32 * max_sequences * config.vocab_size
    single = 2 * FLOAT32 * config.cache_values_per_token() // config.num_layers
    reason = (
        f"a step of {STEP_ROWS} rows {_size(STEP_ROWS * row)}, logits of {max_sequences}"
        f" sequences {_size(logits)}, attention tiles {_size(attention_bytes)}"
    )
    # a decoding row's context is gathered whole
    gathered = single * config.max_context // 4
    return Part("workspace", STEP_ROWS * row + logits + attention_bytes + gathered, reason)


def plan_memory(
    config: ModelConfig,
    *,
    sizes: WeightSizes,
    block_size: int,
    block_bytes: int,
    cache_bytes: int | None,
    max_context: int | None,
    max_sequences: int,
    available: int,
    available_reason: str,
    attention_bytes: int = ATTENTION_BYTES,
    cache_share: float = CACHE_SHARE,
) -> MemoryPlan:
    """Divide the memory available.

    ``block_bytes`` is what a block of ``block_size`` tokens takes; ``max_context`` None
    means the model's, or what the cache can hold. ``attention_bytes`` is what attention needs
    besides, ``cache_share`` the most of what is left that a cache not asked for may take.
    Raises ConfigError naming the option to change when something does not fit.
    """
    context = _context(config, max_context)
    weights = weight_bytes(config, sizes, context)
    workspace = workspace_bytes(config, max_sequences, attention_bytes)
    spare = int(available * SPARE_SHARE)
    free = available - weights.bytes - workspace.bytes - spare
    if free < 2 * block_bytes:
        raise ConfigError(
            f"the model does not fit: weights {_size(weights.bytes)} and workspace"
            f" {_size(workspace.bytes)} of {_size(available)} ({available_reason}) leave no"
            " room for a cache; choose smaller --weights, fewer --max-sequences or a smaller model"
        )
    wanted, reason = _cache(
        config, cache_bytes, context, max_sequences, free, block_bytes, block_size, cache_share
    )
    num_blocks = wanted // block_bytes - 1  # one block stays zero
    held = num_blocks * block_size
    if num_blocks < 1 or (max_context is not None and held < context):
        need = (-(-context // block_size) + 1) * block_bytes
        raise ConfigError(
            f"a cache of {_size(wanted)} holds {max(held, 0)} tokens, less than one sequence of"
            f" max_context {context}; give --cache (cache_bytes) at least {-(-need >> 20)}MiB or"
            " lower max_context"
        )
    if held < context:
        reason += f"; max_context lowered from {context} to what it holds"
    used = (num_blocks + 1) * block_bytes
    parts = (
        weights,
        Part("cache", used, f"{num_blocks} blocks of {block_size} tokens; {reason}"),
        workspace,
        Part("spare", available - weights.bytes - workspace.bytes - used, "not planned for"),
    )
    return MemoryPlan(
        parts, num_blocks, block_size, min(context, held), available, available_reason
    )


def _context(config: ModelConfig, asked: int | None) -> int:
    if asked is not None and asked > config.max_context:
        raise ConfigError(
            f"max_context is {asked}, more than the model's {config.max_context}"
            f"{f' ({config.context_note})' if config.context_note else ''}; lower it"
        )
    return asked if asked is not None else config.max_context


def _cache(
    config: ModelConfig, asked: int | None, context: int, max_sequences: int, free: int,
    block_bytes: int, block_size: int, cache_share: float,
) -> tuple[int, str]:  # fmt: skip
    if asked is not None:
        if asked > free:
            raise ConfigError(
                f"a cache of {_size(asked)} was asked for, and weights, workspace and spare leave"
                f" {_size(free)} for it; lower --cache (cache_bytes) or --max-sequences"
            )
        return asked, "as asked for"
    length = min(context, SEQUENCE_TOKENS)
    wanted = (
        max(max_sequences * -(-length // block_size), -(-context // block_size)) + 1
    ) * block_bytes
    share = int(free * cache_share)
    if wanted <= share:
        return wanted, (
            f"room for {max_sequences} sequences of {length} tokens, or one of {context};"
            " more with --cache (cache_bytes)"
        )
    return max(share, 2 * block_bytes), (
        f"{cache_share:.0%} of what weights and workspace leave; more with --cache (cache_bytes)"
    )


def _size(count: int) -> str:
    """Bytes in a unit that reads well."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"
