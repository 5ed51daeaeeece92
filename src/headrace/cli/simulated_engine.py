"""From options and a device to a simulated engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from headrace.engine.config import EngineConfig
from headrace.nouns.errors import ConfigError
from headrace.nouns.step_cost import StepCost, StepLoad
from headrace.scheduling.limits import Limits
from headrace.simulation.instance import InstanceSpec
from headrace.simulation.model_shape import ModelShape, load_shape, shape_names

if TYPE_CHECKING:
    from collections.abc import Callable

THIS = "this"
FORMATS = {"float32": "float32", "bf16": "bfloat16", "int8": "int8"}
CACHE_BITS = {"auto": 16.0, "bf16": 16.0, "int8": 8.0}
ROWS = (16, 32, 64, 128, 256, 512, 1024)
SLICE = 256


@dataclass(frozen=True, slots=True)
class SimulatedEngine:
    """What an instance is: its parts, and what the answers to questions about it rest on.

    ``price`` is in dollars per hour, None where none is known. ``notes`` are said to the user.
    """

    name: str
    spec: InstanceSpec
    max_context: int
    price: float | None
    notes: tuple[str, ...] = ()

    @property
    def speed(self) -> float:
        """Tokens a second of steps that mix 32 decodes with prefill, to compare devices by."""
        budget = self.spec.limits.token_budget
        return budget / self.spec.cost.seconds(mixed_load(budget))


def mixed_load(rows: int, decodes: int = 32, context: int = 1024) -> StepLoad:
    """A step of decodes with some context, filled up with one slice of prefill."""
    decodes = min(decodes, rows)
    prefill = rows - decodes
    pairs = decodes * context + prefill * (prefill + 1) // 2
    return StepLoad(
        rows=rows,
        slices=decodes + (prefill > 0),
        decodes=decodes,
        samples=decodes,
        pairs=pairs,
        decode_pairs=decodes * context,
        sample_pairs=decodes * context,
        read=decodes * (context - 1),
    )


def model_shape(config: EngineConfig) -> ModelShape:
    """The model's shape, built in or from its file, in the formats asked for. ConfigError."""
    shape = load_shape(config.model.lower().replace(":", "-"))
    if shape is None:
        shape = _shape_of_file(config.model)
    if config.weights == "native":
        raise ConfigError(
            "--weights native depends on a file's blocks; simulate with auto, float32, bf16 or"
            " int8, or with --device this"
        )
    if config.weights != "auto":
        shape = shape.served_in(FORMATS[config.weights])
    if config.cache_format != "auto":
        shape = replace(shape, cache_bits=CACHE_BITS[config.cache_format])
    if config.max_context is not None:
        if config.max_context > shape.max_context:
            raise ConfigError(
                f"max_context is {config.max_context}, more than the {shape.max_context} of"
                f" {shape.name}; lower it"
            )
        shape = replace(shape, max_context=config.max_context)
    return shape


def _shape_of_file(model: str) -> ModelShape:
    from headrace.models.loader import open_model
    from headrace.models.source import resolve
    from headrace.nouns.errors import ModelError

    try:
        files = open_model(resolve(model))
    except ModelError as error:
        raise ConfigError(
            f"{error}; shapes that need no file are {', '.join(shape_names())}"
        ) from error
    config = files.config
    return ModelShape(
        name=files.name,
        layers=config.num_layers,
        hidden=config.hidden_size,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        intermediate=config.intermediate_size,
        vocabulary=config.vocab_size,
        max_context=config.max_context,
        tied=config.tied_embeddings,
    )


def described_engine(name: str, tensor: int, config: EngineConfig) -> SimulatedEngine:
    """An instance of described devices, by their roofline. Raises ConfigError."""
    from headrace.simulation.analytic_cost import AnalyticCost, cache_blocks
    from headrace.simulation.device import load_device

    device, shape = load_device(name), model_shape(config)
    cost = AnalyticCost(device, shape, tensor=tensor)
    blocks = cache_blocks(device, shape, block_size=config.block_size, tensor=tensor)
    if config.cache_bytes is not None:
        asked = int(config.cache_bytes // (config.block_size * shape.token_bytes))
        if not 1 <= asked <= blocks:
            most = blocks * config.block_size * shape.token_bytes
            raise ConfigError(
                f"a cache of {config.cache_bytes / 1e9:.3g} GB holds {asked} blocks; beside"
                f" {shape.name}, {tensor} x {name} has room for 1 to {blocks}"
                f" ({most / 1e9:.3g} GB): change --cache"
            )
        blocks = asked
    budget, why = token_budget(cost, config)
    full = f"{tensor} x {device.name}" if tensor > 1 else device.name
    notes = (
        f"{full}: {blocks * config.block_size:,} tokens of cache; token budget {budget} ({why})",
    )
    price = None if device.price is None else tensor * device.price
    context = min(shape.max_context, blocks * config.block_size)
    return SimulatedEngine(full, instance_spec(config, cost, blocks, budget), context, price, notes)


def instance_spec(config: EngineConfig, cost: StepCost, blocks: int, budget: int) -> InstanceSpec:
    """The parts of an engine of this configuration. Raises ConfigError."""
    from headrace.execution.memory_plan import STEP_ROWS

    spec = InstanceSpec(
        cost=cost,
        num_blocks=blocks,
        limits=Limits(budget, STEP_ROWS, config.max_sequences),
        block_size=config.block_size,
        order=config.order,
        admission=config.admission,
        batching=config.batching,
        preemption=config.preemption,
        prefix_cache=config.prefix_cache,
        max_queue=config.max_queue,
        tenants=config.tenants,
    )
    spec.policies()  # said at once where one cannot be loaded
    return spec


def token_budget(cost: StepCost, config: EngineConfig) -> tuple[int, str]:
    """Tokens a step, chosen as a live engine chooses them by measuring, and why."""
    from headrace.engine.build import PREFILL_ROOM
    from headrace.execution.token_budget import choose_budget

    if config.token_budget is not None:
        return config.token_budget, "set by the user"
    points = tuple((rows, cost.seconds(_prompts(rows))) for rows in ROWS)
    chosen = choose_budget(points, config.tpot_target)
    least = config.max_sequences + PREFILL_ROOM
    if config.tpot_target is not None or chosen.tokens >= least:
        return chosen.tokens, chosen.reason
    return least, (
        f"{chosen.reason}; raised so that prefill goes on beside {config.max_sequences} decodes"
    )


def _prompts(rows: int) -> StepLoad:
    """So many rows in prompts of up to ``SLICE`` tokens, as the live measurement has them."""
    whole, rest = divmod(rows, SLICE)
    lengths = [SLICE] * whole + [rest] * (rest > 0)
    pairs = sum(n * (n + 1) // 2 for n in lengths)
    return StepLoad(rows=rows, slices=len(lengths), pairs=pairs)


def measured_engine(config: EngineConfig, report: Callable[[str], None]) -> SimulatedEngine:
    """The engine that this machine would run, by its measured step times. Raises ConfigError."""
    from headrace.cli.calibration import calibrated_cost

    found = calibrated_cost(config, report)
    errors = "; ".join(f"{phase} {error}" for phase, error in found.errors.items())
    notes: tuple[str, ...] = (
        f"this: {found.model} ({found.weights}), step times measured on {found.date} over"
        f" {found.steps} steps; error of {errors}",
        f"this: {found.num_blocks * found.block_size:,} tokens of cache; token budget"
        f" {found.limits.token_budget}",
    )
    if found.disturbed:
        notes += (
            "this: other programs ran while step times were measured, so these figures are off;"
            " such a measurement is kept for the day only, then it is taken again",
        )
    spec = instance_spec(config, found.cost, found.num_blocks, found.limits.token_budget)
    spec = replace(spec, limits=found.limits, block_size=found.block_size)
    return SimulatedEngine("this machine", spec, found.max_context, None, notes)


def simulated_engine(
    name: str, tensor: int, config: EngineConfig, report: Callable[[str], None]
) -> SimulatedEngine:
    """An instance of ``tensor`` devices of a name, or of this machine. Raises ConfigError."""
    if name == THIS:
        return measured_engine(config, report)
    return described_engine(name, tensor, config)
