"""``headrace plan``: the cheapest fleet that meets latency targets under a load."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli import service as services
from headrace.cli.options import (
    DEFAULT_MODEL,
    EngineOptions,
    ModelOption,
    SeedOption,
    parse_policies,
    with_engine_options,
)
from headrace.cli.simulate import RequestsOption, RouterOption, TokensOption, TraceArgument
from headrace.nouns.errors import ConfigError

if TYPE_CHECKING:
    from headrace.engine.config import EngineConfig

FAILED = 1
REQUESTS = 2000  # of a trace, where no number is given: each is simulated many times
DEVICE_HELP = (
    "What is offered, repeatable: a name of docs/cost-models.md, a .toml file, or this; NAME:8"
    " for at most eight instances, 2xNAME for instances of two devices each."
)


def _option(name: str, metavar: str, help: str) -> Any:
    return typer.Option(name, metavar=metavar, help=help)


@with_engine_options
def plan(
    engine: EngineOptions,
    trace: TraceArgument = None,
    model: ModelOption = DEFAULT_MODEL,
    device: Annotated[list[str] | None, _option("--device", "NAME", DEVICE_HELP)] = None,
    policy: Annotated[
        list[str] | None,
        _option(
            "--policy",
            "[KIND=]NAME",
            "Scheduling policy, repeatable; several of a kind are tried one by one.",
        ),
    ] = None,
    router: RouterOption = "least-tokens",
    tokens: TokensOption = None,
    rate: Annotated[
        str | None,
        _option("--rate", "R", "Requests a second (Poisson, or the trace rescaled), or 2x its."),
    ] = None,
    requests: RequestsOption = None,
    slo: Annotated[
        str | None,
        _option(
            "--slo", "TARGETS", "Targets and the share inside: ttft=1s,tpot=100ms,share=99% (95 %)."
        ),
    ] = None,
    seed: SeedOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    plot: Annotated[
        Path | None, _option("--plot", "FILE", "Draw the result into a .png or .html file.")
    ] = None,
) -> None:
    """Find the cheapest of the offered devices, in number and policy, that meets latency targets.

    Each number of instances that is tried is a simulation of the whole load; requests state the
    targets to the engines. docs/simulation.md says how the search goes and how sure it is.
    """
    if slo is None:
        raise ConfigError("plan needs targets: give --slo, such as ttft=1s,tpot=100ms,share=99%")
    if not device:
        raise ConfigError("plan needs devices to choose from: give --device, repeatedly")
    configs = list(configurations(engine.config(model), policy or []))
    from headrace.cli.plan_report import console_report, plan_json, write_plan_plot
    from headrace.cli.plan_search import PlanSearch
    from headrace.cli.plan_targets import PlanTargets
    from headrace.cli.simulated_load import SimulatedLoadOptions
    from headrace.simulation.routers import registry
    from headrace.workloads.plots import check_plot_path

    targets = PlanTargets.parse(slo)
    if plot is not None:
        check_plot_path(plot)
    registry.create(router)  # said at once where there is none
    options = SimulatedLoadOptions(trace, tokens, rate, requests, seed or 0)
    loads = options.loads(None, targets.stated, REQUESTS)
    if len(loads) != 1:
        raise ConfigError(f"--rate {rate} has {len(loads)} rates; plan is for one load: give one")
    search = PlanSearch(loads[0], targets, router, seed or 0, services.say)
    candidates = search.candidates(device, configs)
    best = search.run(candidates)
    found = plan_json(search, candidates, best)
    console_report(found, as_json)
    if plot is not None:
        write_plan_plot(found, plot)
        services.say(f"drew {plot}")
    if best is None:
        typer.secho(f"headrace: {found['verdict']}", err=True, fg=typer.colors.RED)
        raise typer.Exit(FAILED)


def configurations(base: EngineConfig, policies: list[str]) -> Iterator[tuple[str, EngineConfig]]:
    """The configuration with every combination of policies, one of each kind that is given, and
    what it is called. Raises ConfigError."""
    kinds: dict[str, list[str]] = {}
    for value in policies:
        ((kind, name),) = parse_policies([value]).items()
        if name not in kinds.setdefault(kind, []):
            kinds[kind].append(name)
    for names in product(*kinds.values()):
        chosen = dict(zip(kinds, names, strict=True))
        yield ", ".join(names) or "default", replace(base, **chosen)  # type: ignore[arg-type]
