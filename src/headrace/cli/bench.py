"""``headrace bench``: latency, throughput and goodput under a load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
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
    UrlOption,
    with_engine_options,
)
from headrace.cli.report_output import print_report
from headrace.nouns.errors import ConfigError

if TYPE_CHECKING:
    from headrace.cli.bench_load import LoadOptions, Vocabulary
    from headrace.engine.reach import Reach
    from headrace.workloads.endpoint import Endpoint
    from headrace.workloads.job import Job
    from headrace.workloads.load import Load
    from headrace.workloads.slo import Slo

FAILED = 1
CEILING_IDS = 1000
BEATEN = 1.02  # a share of the limit above this says that the limit is wrong
CEILING_STREAMS, CEILING_REQUESTS = 64, 1024


def _option(name: str, metavar: str, help: str) -> Any:
    return typer.Option(name, metavar=metavar, help=help)


@with_engine_options
def bench(
    engine: EngineOptions,
    model: ModelOption = DEFAULT_MODEL,
    url: UrlOption = None,
    api_key_file: ApiKeyFileOption = None,
    workload: Annotated[
        str | None,
        _option(
            "--workload",
            "FILE[:NAMES]",
            "Prompts: a text to cut them from, or a .json of named lists, such as w.json:A,C.",
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        _option("--trace", "FILE", "CSV with time, prompt tokens and output tokens, to replay."),
    ] = None,
    tokens: Annotated[
        str | None,
        _option("--tokens", "IN:OUT", "Lengths, as 128:64 or 32-512:16-256 (log-uniform)."),
    ] = None,
    rate: Annotated[
        str | None,
        _option(
            "--rate",
            "R",
            "Requests a second (Poisson, or the trace rescaled), or 2x the trace's;"
            " 1,2,4 or 1:8:1 sweeps.",
        ),
    ] = None,
    concurrency: Annotated[
        int | None, _option("--concurrency", "N", "Send the next when fewer than N are open.")
    ] = None,
    requests: Annotated[int | None, _option("--requests", "N", "How many to send.")] = None,
    slo: Annotated[
        str | None,
        _option("--slo", "TARGETS", "Targets for goodput, such as ttft=1s,tpot=100ms,e2e=10s."),
    ] = None,
    repeat: Annotated[int, _option("--repeat", "N", "Runs of each load; medians are shown.")] = 1,
    seed: SeedOption = None,
    stream: Annotated[
        bool, typer.Option("--stream/--no-stream", help="Ask for answers in pieces or whole.")
    ] = True,
    ceiling: Annotated[
        bool,
        typer.Option(
            "--ceiling", help="Measure this load generator, on a server that does nothing."
        ),
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show where the time of the engine's steps goes.")
    ] = False,
    profile_trace: Annotated[
        Path | None,
        _option(
            "--profile-trace",
            "FILE",
            "Write the first steps, operator by operator, as a trace (.json) for ui.perfetto.dev.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    plot: Annotated[
        Path | None, _option("--plot", "FILE", "Draw the result into a .png or .html file.")
    ] = None,
) -> None:
    """Measure latency, throughput and goodput under a load.

    The load goes to an engine in this process, or with --url to any OpenAI-compatible server
    (--model then names the tokenizer that cuts the prompts). By default 64 requests are sent at
    once. docs/benchmarking.md defines every figure.
    """
    from headrace.cli.bench_load import LoadOptions
    from headrace.execution.perfetto import check_trace_path
    from headrace.workloads.plots import check_plot_path, write_plot
    from headrace.workloads.report import render
    from headrace.workloads.slo import NO_TARGETS, Slo

    options = LoadOptions(workload, trace, tokens, rate, concurrency, requests, seed or 0)
    options.check()
    targets = Slo.parse(slo) if slo is not None else NO_TARGETS
    if repeat < 1:
        raise ConfigError(f"--repeat is {repeat}; it must be at least 1")
    if plot is not None:
        check_plot_path(plot)
    if profile_trace is not None:
        profile = True
        check_trace_path(profile_trace)
    if url is not None and ceiling:
        raise ConfigError("--ceiling measures the generator itself: leave out --url")
    remote = url is not None or ceiling
    if remote and profile:
        raise ConfigError("--profile looks into an engine in this process: leave out --url")
    if not stream and (not remote or targets.ttft or targets.tpot):
        raise ConfigError(
            "--no-stream knows no tokens' times: use it with --url, and no such --slo"
        )
    if ceiling and concurrency is None and rate is None and requests is None:
        options = replace(options, concurrency=CEILING_STREAMS, requests=CEILING_REQUESTS)
    plan = Plan(options, repeat, targets)
    if remote:
        source = _null() if ceiling else nullcontext(url or "")
        report = _over_http(plan, model, source, api_key_file, stream, ceiling)
    else:
        report, found = _in_process(plan, engine, model, profile)
    print_report(
        report, as_json, render
    )  # first: what was measured must not be lost with a full disk
    if plot is not None:
        write_plot(report, plot)
        services.say(f"drew {plot}")
    if profile_trace is not None:
        _write_trace(found, profile_trace)
    if not any(run["summary"]["answered"] for p in report["points"] for run in p["runs"]):
        raise typer.Exit(FAILED)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, how often, against which targets."""

    options: LoadOptions
    repeat: int
    slo: Slo

    async def measure(
        self,
        loads: list[Load],
        endpoint: Callable[[str], Endpoint],
        reach: Reach | None = None,
    ) -> list[dict[str, Any]]:
        """The points of the report. ``endpoint`` gets a name of its own for each run; ``reach``
        adds up the engine's steps."""
        from headrace.engine.reach import Reached
        from headrace.workloads.generator import drive
        from headrace.workloads.metrics import summarise
        from headrace.workloads.record import Record
        from headrace.workloads.report import point_json, run_json

        points, number = [], 0
        for load in loads:
            runs = []
            for turn in range(self.repeat):
                services.say(f"{load.label} (run {turn + 1} of {self.repeat})")
                records: list[Record] = []
                before = reach.total if reach is not None else Reached()
                jobs, limit = load.jobs(number), load.arrivals.limit
                effort = await drive(endpoint(f"run-{number}"), jobs, limit, records.append)
                number += 1
                if not records:
                    raise ConfigError(f"the load {load.label} has no requests")
                work = asdict(reach.total.since(before)) if reach is not None else None
                runs.append(run_json(summarise(records, self.slo), effort, records, work))
            points.append(point_json(load.label, load.rate, runs))
        return points

    def report(
        self, points: list[dict[str, Any]], about: dict[str, Any], notes: list[str]
    ) -> dict[str, Any]:
        import os
        import platform

        from headrace import __version__
        from headrace.workloads.report import report_json

        first = next((r for p in points for run in p["runs"] for r in run["requests"]
                      if r["error"]), None)  # fmt: skip
        if first is not None:
            notes = [*notes, f"the first failure was {first['error']}: {first['detail']}"]
        about = about | {
            "headrace": __version__,
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} processors",
            "seed": self.options.seed,
            "repeat": self.repeat,
        }
        return report_json(about, self.slo, points, notes)


def _in_process(
    plan: Plan, engine: EngineOptions, model: str, profile: bool
) -> tuple[dict[str, Any], Any]:
    """The report, and the profile if it was wanted."""
    from headrace.cli.bench_load import warm_up_job
    from headrace.engine.reach import Reach
    from headrace.workloads.engine_endpoint import EngineEndpoint

    with services.running_service(engine.config(model), services.say) as service:
        served = service.model
        vocabulary = _vocabulary(lambda: served.tokenizer)
        loads = plan.options.loads(vocabulary, served.max_context)
        name = f"{served.name} ({served.weights}) in this process"

        def endpoint(tenant: str) -> EngineEndpoint:
            return EngineEndpoint(service, name, served.tokenizer.encode, tenant)

        asyncio.run(_warm_up(endpoint("warm-up"), warm_up_job(loads[0])))
        reach = Reach()
        service.add_sink(reach)
        with _profiling(service.built.engine.executor, profile) as found:
            points = asyncio.run(plan.measure(loads, endpoint, reach))
    for point in points:  # the process's time is the engine's here, not the generator's
        for measured in point["runs"]:
            measured["generator"] = None
    about = {"endpoint": name, "transport": "in-process", "stream": True}
    report = plan.report(points, about, _limit_notes(reach.total.share))
    if found is not None:
        report["profile"] = _profile_json(found)
    return report, found


def _limit_notes(share: float | None) -> list[str]:
    if share is None or share <= BEATEN:
        return []
    return [
        "the steps beat the machine's limit: it was measured while other programs ran, or what"
        " was read lay in the processor's caches; headrace doctor measures it again"
    ]


def _write_trace(found: Any, path: Path) -> None:
    from headrace.execution.perfetto import write_trace

    write_trace(found, path)
    kept, steps = len(found.traced), found.steps
    services.say(f"wrote {kept} of {steps} steps to {path}; open it in https://ui.perfetto.dev")


async def _warm_up(endpoint: Endpoint, job: Job) -> None:
    from headrace.workloads.endpoint import clock

    await endpoint.send(job, clock())


def _over_http(
    plan: Plan,
    model: str,
    source: AbstractContextManager[str],
    api_key_file: Path | None,
    stream: bool,
    ceiling: bool,
) -> dict[str, Any]:
    from headrace.cli.api_key import first_key
    from headrace.cli.bench_load import warm_up_job
    from headrace.workloads.http_endpoint import HttpEndpoint

    key = None if ceiling else first_key(api_key_file)

    async def run(url: str) -> dict[str, Any]:
        async with HttpEndpoint(url, None, key, stream) as endpoint:
            vocabulary = (
                _ceiling_vocabulary() if ceiling else _vocabulary(lambda: _tokenizer(model))
            )
            loads = plan.options.loads(vocabulary, endpoint.max_context)
            await endpoint.warm_up(warm_up_job(loads[0]))
            points = await plan.measure(loads, lambda run: endpoint)
            transport = "null server" if ceiling else "http"
            about = {"endpoint": endpoint.name, "transport": transport, "stream": stream}
            notes = [*endpoint.notes, *([_ceiling_note(points)] if ceiling else [])]
            return plan.report(points, about, notes)

    with source as url:
        return asyncio.run(run(url))


@contextmanager
def _null() -> Iterator[str]:
    from headrace.workloads.ceiling import null_server

    with null_server() as url:
        yield url


def _ceiling_note(points: list[dict[str, Any]]) -> str:
    """What the generator can do at most, measured and by its own processor time."""
    runs = [run for point in points for run in point["runs"]]
    best = max(runs, key=lambda run: float(run["summary"]["output_rate"]))
    summary, cost = best["summary"], best["generator"]["processor_seconds"]
    return (
        f"generator and null server together carried {summary['output_rate']:,.0f} output tok/s"
        f" and {summary['request_rate']:,.0f} req/s; the generator alone spent"
        f" {1e6 * cost / max(summary['output_tokens'], 1):.1f} µs of a core per output token,"
        f" so its own limit is near {summary['output_tokens'] / max(cost, 1e-9):,.0f} tok/s"
    )


def _tokenizer(model: str) -> Any:
    from headrace.models.loader import open_model
    from headrace.models.source import resolve

    return open_model(resolve(model)).tokenizer


def _vocabulary(tokenizer: Callable[[], Any]) -> Vocabulary:
    """The vocabulary of a tokenizer, which is opened only when it is needed."""
    from functools import cache

    from headrace.cli.bench_load import Vocabulary

    opened = cache(tokenizer)

    def ids() -> list[int]:
        known = opened()
        return [i for i in range(known.vocab_size) if not known.is_special(i)]

    return Vocabulary(lambda text: list(opened().encode(text, add_special=False)), ids)


def _ceiling_vocabulary() -> Vocabulary:
    from headrace.cli.bench_load import Vocabulary

    return Vocabulary(lambda text: list(text.encode()), lambda: list(range(CEILING_IDS)))


@contextmanager
def _profiling(executor: Any, wanted: bool) -> Iterator[Any]:
    if not wanted:
        yield None
    elif not hasattr(executor, "profile"):
        raise ConfigError("--profile: this engine's executor cannot be profiled")
    else:
        with executor.profile() as found:
            yield found


def _profile_json(found: Any) -> dict[str, Any]:
    rows = [
        {"operator": name, "ms_per_step": ms, "share": share, "calls_per_step": calls}
        for name, ms, share, calls in found.table()
    ]
    return {
        "steps": found.steps,
        "rows": found.rows,
        "seconds": found.elapsed,
        "limit_share": found.limit / found.elapsed if found.elapsed else None,
        "operators": rows,
    }
