"""Calibration: what a step costs on this machine, measured by running steps of every kind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

from headrace.cli.service import running_service
from headrace.engine.known_cost import KeptCost
from headrace.nouns.errors import ConfigError
from headrace.workloads.calibration_load import Block, CalibrationLoad

if TYPE_CHECKING:
    from headrace.engine.config import EngineConfig
    from headrace.engine.service import EngineService
    from headrace.nouns.step_cost import StepCost, StepLoad
    from headrace.scheduling.limits import Limits
    from headrace.scheduling.linear_cost import CostError, LinearCost

SECONDS = 80.0
"""After so long no further block is begun, if all kinds have been met."""
LONGEST = 150.0
"""After so long what runs is broken off."""
TURN = 40.0
"""Seconds that one turn through all kinds of blocks is meant to take on a slow model."""
WARM_UP = 16
QUEUE = 4096

Report = Callable[[str], None]
Samples = list[tuple["StepLoad", float]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a simulation of an engine on this machine needs.

    ``cost`` predicts its steps, ``errors`` says how well, by phase, cross-validated. The engine has
    ``num_blocks`` cache blocks of ``block_size`` tokens, plans within ``limits``, and takes
    sequences of up to ``max_context`` tokens. ``date`` is the day of the measurement, ``steps``
    were measured, ``disturbed`` by other programs or not.
    """

    model: str
    weights: str
    cost: LinearCost
    num_blocks: int
    block_size: int
    limits: Limits
    max_context: int
    date: str
    steps: int
    disturbed: bool = False

    @property
    def errors(self) -> dict[str, CostError]:
        return dict(self.cost.errors)


def calibrated_cost(config: EngineConfig, report: Report, *, again: bool = False) -> Calibration:
    """The calibration of the engine that ``config`` describes on this machine.

    The one kept from an earlier time, or (also with ``again``) one made now, which takes one to
    two and a half minutes and is kept: for the day only, if other programs disturbed it. The model
    is loaded either way, to know its memory and token budget. ``report`` gets lines of progress.
    Raises ConfigError and ModelError.
    """
    # The kinds of steps are set by the load; these policies let it have them.
    plain = replace(config, order="fcfs", admission="watermark", batching="stall-free",
                    preemption="recompute", max_queue=max(QUEUE, config.max_queue))  # fmt: skip
    with running_service(plain, report) as service:
        built = service.built
        kept = None if again or built.keeper is None else built.keeper.load()
        if kept is None or (kept.disturbed and kept.date != _today()):
            report(f"measuring what steps cost; this takes about {SECONDS:.0f} s")
            kept = calibrate(service, report, SECONDS)
            if built.keeper is not None:
                built.keeper.save(kept)
        return Calibration(
            model=built.model.name,
            weights=built.model.weights,
            cost=kept.cost,
            num_blocks=built.total_blocks,
            block_size=built.block_size,
            limits=built.engine.scheduler.limits,
            max_context=built.model.max_context,
            date=kept.date,
            steps=kept.steps,
            disturbed=kept.disturbed,
        )


def calibrate(service: EngineService, report: Report, seconds: float) -> KeptCost:
    """Runs the calibration's load on an idle engine and fits prices to its steps.

    Raises ConfigError where too few steps could be run.
    """
    from headrace.simulation.fit import fit_cost, wander

    samples = asyncio.run(measure(service, seconds))
    cost = fit_cost(samples)
    kept = KeptCost(cost, _today(), len(samples), wander(cost, samples))
    report(f"step times: {kept.describe()}")
    return kept


def _today() -> str:
    return date.today().isoformat()


async def measure(service: EngineService, seconds: float) -> Samples:
    """Loads and times of the steps of ``seconds`` of blocks, at least one of each kind if those
    take no longer than ``LONGEST``."""
    built = service.built
    capacity = built.total_blocks * built.block_size
    limits = built.engine.scheduler.limits
    load = CalibrationLoad(
        max_sequences=limits.sequences,
        max_context=min(built.model.max_context, capacity),
        cache_tokens=capacity,
        step_tokens=limits.step_tokens,
        vocabulary=built.model.vocab_size,
    )
    if built.cost is not None:
        load = replace(load, scale=_scale(load, built.cost, limits))
    samples: Samples = []

    def listen(of: StepLoad, took: float) -> None:
        samples.append((of, took))

    await _run(service, _warm_up(load))
    begun = time.monotonic()
    built.engine.times.add(listen)
    try:
        for turn, blocks in enumerate(load.turns()):
            for block in blocks:
                passed = time.monotonic() - begun
                if passed > (seconds if turn else LONGEST):
                    return samples
                async with asyncio.timeout(LONGEST - passed):
                    await _run(service, block)
    except TimeoutError:  # slower than anything foreseen; what was measured counts
        return samples
    finally:
        built.engine.times.remove(listen)
        built.engine.scheduler.limits = limits
    raise AssertionError("the load has no end")


async def _run(service: EngineService, block: Block) -> None:
    """Sends a block's jobs as benchmarks do. Raises ConfigError when one fails."""
    from headrace.workloads.engine_endpoint import EngineEndpoint
    from headrace.workloads.generator import drive
    from headrace.workloads.record import Record

    scheduler = service.built.engine.scheduler
    limits = scheduler.limits
    if block.token_budget is not None:  # read anew for each step
        scheduler.limits = replace(limits, token_budget=block.token_budget)
    records: list[Record] = []
    endpoint = EngineEndpoint(service, "engine", lambda text: [], "calibration")
    try:
        await drive(endpoint, block.jobs, block.limit, records.append)
    finally:
        scheduler.limits = limits
    failed = next((record for record in records if record.error is not None), None)
    if failed is not None:
        raise ConfigError(f"the calibration's load fails: {failed.error}: {failed.detail}")


def _warm_up(load: CalibrationLoad) -> Block:
    """Something of everything, before anything is measured."""
    blocks = next(load.turns())
    return Block(tuple(block.jobs[0] for block in blocks[:WARM_UP]))


def _scale(load: CalibrationLoad, cost: StepCost, limits: Limits) -> float:
    """How much to shorten the load's prompts so that a turn does not take much over ``TURN``."""
    from headrace.nouns.step_cost import StepLoad

    rows, batch = limits.token_budget, limits.sequences
    prefill = cost.seconds(StepLoad(rows=rows, slices=1, pairs=rows * (rows + 1) // 2)) / rows
    decode = StepLoad(rows=batch, slices=batch, decodes=batch, samples=batch)
    blocks = next(load.turns())
    prompts = prefill * sum(block.prompt_tokens for block in blocks)
    outputs = cost.seconds(decode) / batch * sum(block.output_tokens for block in blocks)
    return min(1.0, max(0.02, (TURN - min(outputs, TURN / 2)) / max(prompts, 1e-9)))
