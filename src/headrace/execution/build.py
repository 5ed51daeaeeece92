"""From opened model files to an executor that runs steps."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.execution import memory_plan
from headrace.execution.bounds import bounds_of
from headrace.execution.cache import new_cache
from headrace.execution.heap import trim_heap
from headrace.execution.local import LocalExecutor
from headrace.execution.machine import Machine, detect_machine
from headrace.execution.memory_plan import MemoryPlan, WeightSizes, plan_memory
from headrace.execution.peaks import Load, Save, known_peaks
from headrace.execution.roofline import Roofline, weight_format
from headrace.execution.token_budget import TokenBudget, find_token_budget
from headrace.execution.tuning import Tuning, model_fingerprint
from headrace.kernels.device.find import choose_device, describe_device
from headrace.kernels.extension import load_extension
from headrace.kernels.formats import Format, choose_format
from headrace.models.model import Model
from headrace.models.native import (
    NATIVE_BLOCK,
    NativeTransformer,
    native_build,
    native_cache_width,
    native_sizes,
)
from headrace.nouns.errors import ConfigError
from headrace.sampling.native_chooser import find_chooser
from headrace.sampling.sampler import Sampler

if TYPE_CHECKING:
    import torch

    from headrace.models.loader import ModelFiles

BLOCK_SIZES = (8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class BuiltExecutor:
    """An executor, the memory it has, and what was chosen for it and why (``report``).

    ``tuning`` keeps measurements of this model, ``machine_tuning`` those that hold for every model;
    ``settings`` names what else the time of a step depends on.
    """

    executor: LocalExecutor
    num_blocks: int
    block_size: int
    max_context: int
    plan: MemoryPlan
    weights: str
    report: tuple[str, ...]
    tuning: Tuning
    machine_tuning: Tuning
    settings: str


def set_threads(threads: int | None, machine: Machine) -> str:
    """Fix the number of threads of all products, for the whole process; says how many and why.

    Those of torch only where it has been imported: the C++ decoder needs none of it. Raises
    ConfigError when more are asked for than this process may use.
    """
    most = len(machine.cpus)
    if threads is not None and not 1 <= threads <= most:
        raise ConfigError(
            f"threads is {threads}; this process may run on {most} CPUs, choose from 1 to {most}"
        )
    count, why = (
        (machine.threads, machine.threads_reason) if threads is None else (threads, "asked for")
    )
    _set_torch_threads(count)
    extension = load_extension().module
    if extension is not None:
        extension.set_threads(count)
    return f"threads: {count} ({why})"


def _set_torch_threads(count: int) -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)


def build_executor(
    files: ModelFiles,
    *,
    weights: str,
    device: str = "auto",
    block_size: int,
    cache_bytes: int | None,
    cache_format: str = "auto",
    max_context: int | None,
    max_sequences: int,
    threads: int | None,
    report: Callable[[str], None],
) -> BuiltExecutor:
    """Choose a device and operators, size the memory, load the weights.

    ``report`` gets a line for each choice. Raises ConfigError for options that cannot work here
    and ModelError for files that cannot be read.
    """
    if block_size not in BLOCK_SIZES:
        raise ConfigError(f"block_size is {block_size}; choose one of {BLOCK_SIZES}")
    machine = detect_machine()
    where, why = choose_device(device, weights)
    lines = [describe_device(where, why)]
    config = files.config
    available, reason = machine.memory_available, machine.memory_reason
    if str(where) == "cpu":
        chosen = choose_format(weights, config.head_dim, stored_bits(files))
        if not chosen.native_code:
            import torch  # noqa: F401 (so that its threads are set before its products are tried)
        lines.append(set_threads(threads, machine))
        footprint, describe, make = _plan_model(files, chosen, block_size, cache_format)
    else:
        from headrace.execution.device_build import device_memory

        assert not isinstance(where, str)
        lines.append(set_threads(threads, machine))
        chosen, footprint, describe, make = _plan_on_device(
            files, where, weights, cache_format, block_size, max_context
        )
        available, reason = device_memory(where)
    lines.extend(describe)
    chooser, why = find_chooser(where)
    lines.append(f"sampling: {chooser.name} ({why})")
    plan = plan_memory(
        config,
        sizes=footprint.sizes,
        block_size=block_size,
        block_bytes=footprint.block_bytes,
        cache_bytes=cache_bytes,
        max_context=max_context,
        max_sequences=max_sequences,
        available=available,
        available_reason=reason,
        attention_bytes=footprint.attention_bytes,
        cache_share=footprint.cache_share,
    )
    lines.extend(plan.lines())
    for line in lines:
        report(line)
    begun = time.perf_counter()
    model = make(plan.max_context)
    if chosen.native_code:
        # What torch is left with is small, and two pools would fight for the same cores.
        _set_torch_threads(1)
    loaded = (
        f"weights loaded in {time.perf_counter() - begun:.2f} s,"
        f" {model.nbytes / 2**20:.0f} MiB in memory"
    )
    report(loaded)
    trim_heap()
    cache = new_cache(model, plan.num_blocks, block_size)
    executor = LocalExecutor(model, cache, Sampler(config.vocab_size, chooser))
    count = threads or machine.threads
    return BuiltExecutor(
        executor, plan.num_blocks, block_size, plan.max_context, plan, chosen.name,
        (*lines, loaded),
        tuning=Tuning.of(machine, count, model_fingerprint(config, files.weights)),
        machine_tuning=Tuning.of(machine, count),
        settings="; ".join([*describe, f"blocks of {block_size}"]),
    )  # fmt: skip


def stored_bits(files: ModelFiles) -> float:
    """Bits a weight in the model's files."""
    config = files.config
    tables = 1 if config.tied_embeddings else 2
    count = config.num_layers * config.layer_parameters + tables * config.embedding_parameters
    return 8 * files.weights.nbytes / count


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of a model before it is made."""

    sizes: WeightSizes
    block_bytes: int
    attention_bytes: int = memory_plan.ATTENTION_BYTES
    cache_share: float = memory_plan.CACHE_SHARE


def _plan_model(
    files: ModelFiles, chosen: Format, block_size: int, cache_format: str
) -> tuple[Footprint, list[str], Callable[[int], Model]]:
    """What the model will take, lines that say what was chosen, and what makes it."""
    config = files.config
    rows = 2 * config.num_layers * config.num_kv_heads
    if not chosen.native_code:
        if cache_format != "auto" and cache_format != chosen.name:
            raise ConfigError(
                f"cache_format {cache_format} needs the C++ decoder; with weights {chosen.name}"
                f" computed by torch ({chosen.why}) choose auto"
            )
        from headrace.kernels.dispatch import choose
        from headrace.models.transformer import Transformer

        dispatch = choose(chosen.name, config.head_dim)
        operators = dispatch.operators
        size = operators.weight_dtype.itemsize
        width = block_size * config.head_dim * operators.cache_dtype.itemsize
        return (
            Footprint(WeightSizes(size, size, size), rows * width),
            [f"weights: {chosen.name} ({chosen.why})", *dispatch.report],
            lambda context: Transformer(config, files.weights, operators, context),
        )
    if block_size % NATIVE_BLOCK:
        raise ConfigError(
            f"block_size is {block_size}; the C++ decoder takes multiples of {NATIVE_BLOCK}"
        )
    cache = "bf16" if cache_format == "auto" else cache_format
    return (
        Footprint(
            WeightSizes(*native_sizes(files.weights, chosen.name)),
            rows * native_cache_width(cache, block_size, config.head_dim),
        ),
        [f"weights: {chosen.name} ({chosen.why}), C++ kernels {native_build()}", f"cache: {cache}"],
        lambda context: NativeTransformer(
            config, files.weights, chosen.name, context, block_size=block_size, cache_format=cache
        ),
    )


def _plan_on_device(
    files: ModelFiles,
    device: torch.device,
    weights: str,
    cache_format: str,
    block_size: int,
    max_context: int | None,
) -> tuple[Format, Footprint, list[str], Callable[[int], Model]]:
    """The same on a device with its own memory."""
    from headrace.execution import device_build

    context = max_context or files.config.max_context
    found = device_build.plan_on_device(files, device, weights, cache_format, block_size, context)
    size = Footprint(
        found.sizes, found.block_bytes, found.attention_bytes, device_build.CACHE_SHARE
    )
    return Format(found.weights, False, found.lines[0]), size, found.lines, found.make


def measure_budget(built: BuiltExecutor, tpot_target: float | None = None) -> TokenBudget:
    """Tokens a step of the executor just built; see find_token_budget."""
    return find_token_budget(built.executor, tpot_target, built.tuning, built.settings)


def measure_roofline(
    built: BuiltExecutor, files: ModelFiles, threads: int | None, load: Load, save: Save
) -> str:
    """Tell the executor just built the machine's limits; says in a line what they allow.

    ``load`` and ``save`` keep the measurement, see known_peaks. ``threads`` as in build_executor.
    """
    executor, machine = built.executor, detect_machine()
    if str(executor.transformer.device) != "cpu":
        return "limits: not known of this device"
    threads = threads or machine.threads
    peaks = known_peaks(machine, threads, load, save)
    if peaks is None:
        return "limits: too little memory is free to measure them"
    format = weight_format(built.weights, files.config, files.weights, _cache_name(built))
    executor.roofline = roofline = Roofline(files.config, format, peaks)
    bounds = bounds_of(built.weights, roofline, built.max_context)
    return f"limits: {peaks.describe(format.products)}; {bounds.describe()}"


def _cache_name(built: BuiltExecutor) -> str:
    model = built.executor.transformer
    if isinstance(model, NativeTransformer):
        return model.cache_format
    return {"torch.float32": "float32", "torch.bfloat16": "bf16"}[str(model.cache_dtype)]
