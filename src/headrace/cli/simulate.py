"""``headrace simulate``: what a machine or a fleet would do under a load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli import service as services
from headrace.cli.options import (
    DEFAULT_MODEL,
    ApiKeyFileOption,
    EngineOptions,
    ModelOption,
    SeedOption,
    with_engine_options,
)
from headrace.cli.report_output import print_report

if TYPE_CHECKING:
    from headrace.engine.config import EngineConfig

FAILED = 1
DEVICE_HELP = (
    "What to simulate, repeatable: a name of docs/cost-models.md, a .toml file, or this (this"
    " machine, measured); NAME:4 for four instances, 2xNAME for two devices each."
)

TraceArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[TRACE]",
        help="CSV with time, prompt tokens and output tokens.",
        show_default=False,
    ),
]
RouterOption = Annotated[
    str,
    typer.Option(
        "--router",
        metavar="NAME",
        help="Spreads requests over a fleet: least-tokens, round-robin, two-choices, prefix-aware.",
    ),
]
TokensOption = Annotated[
    str | None,
    typer.Option(
        "--tokens",
        metavar="IN:OUT",
        help="Without a TRACE: lengths, as 128:64 or 32-512:16-256 (log-uniform).",
    ),
]
RequestsOption = Annotated[
    int | None, typer.Option("--requests", metavar="N", help="How many arrive, at most.")
]


def _option(name: str, metavar: str, help: str) -> Any:
    return typer.Option(name, metavar=metavar, help=help)


@with_engine_options
def simulate(
    engine: EngineOptions,
    trace: TraceArgument = None,
    model: ModelOption = DEFAULT_MODEL,
    device: Annotated[list[str] | None, _option("--device", "NAME", DEVICE_HELP)] = None,
    router: RouterOption = "least-tokens",
    tokens: TokensOption = None,
    rate: Annotated[
        str | None,
        _option(
            "--rate",
            "R",
            "Requests a second (Poisson, or the trace rescaled), or 2x the trace's;"
            " 1,2,4 or 1:8:1 sweeps.",
        ),
    ] = None,
    requests: RequestsOption = None,
    slo: Annotated[
        str | None,
        _option("--slo", "TARGETS", "Targets for goodput, such as ttft=1s,tpot=100ms,e2e=10s."),
    ] = None,
    api_key_file: ApiKeyFileOption = None,
    seed: SeedOption = None,
    profile_trace: Annotated[
        str | None,
        _option(
            "--profile-trace",
            "FILE",
            "Write steps and requests of the first 10 s, or of FILE:FROM-TO, for ui.perfetto.dev.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    plot: Annotated[
        Path | None, _option("--plot", "FILE", "Draw the result into a .png or .html file.")
    ] = None,
) -> None:
    """Foretell latency, throughput and goodput of a machine or a fleet under a load.

    The scheduler is the server's own; only the time of a step comes from a model, measured on this
    machine or computed for a described device. The report is that of bench. docs/simulation.md
    says what is modelled and what is not.
    """
    config = with_tenants(engine.config(model), api_key_file)
    from headrace.cli.simulated_fleet import SimulatedFleet
    from headrace.cli.simulated_load import SimulatedLoadOptions
    from headrace.cli.simulation_run import SimulationRun, parse_window
    from headrace.cli.simulation_tables import render
    from headrace.simulation.routers import registry
    from headrace.workloads.plots import check_plot_path, write_plot
    from headrace.workloads.slo import NO_TARGETS, Slo

    options = SimulatedLoadOptions(trace, tokens, rate, requests, seed or 0)
    options.check()
    targets = Slo.parse(slo) if slo is not None else NO_TARGETS
    if plot is not None:
        check_plot_path(plot)
    window = None if profile_trace is None else parse_window(profile_trace)
    registry.create(router)  # said at once where there is none
    fleet = SimulatedFleet.build(device or ["this"], config, services.say, seed or 0)
    loads = options.loads(fleet.max_context, config.tenants.terms("default").targets)
    run = SimulationRun(fleet, config, router, targets, seed or 0)
    report = run.report(loads, window)
    print_report(report, as_json, render)
    if plot is not None:
        write_plot(report, plot)
        services.say(f"drew {plot}")
    if not any(point["median"]["answered"] for point in report["points"]):
        raise typer.Exit(FAILED)


def with_tenants(config: EngineConfig, path: Path | None) -> EngineConfig:
    """The configuration with the tenants of a file of keys, as ``serve`` reads it."""
    if path is None:
        return config
    from headrace.api.keys import read

    return replace(config, tenants=read(path).tenants)
