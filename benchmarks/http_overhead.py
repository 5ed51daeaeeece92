"""What HTTP costs: a workload sent to the engine in process and to its server, in turns.

``python -m benchmarks.http_overhead WORKLOADS.json`` prints output tokens per second of workload C
both ways and their ratio. The server streams to 64 clients in this process, so both share the
machine's cores, as they would with clients on the same machine. The engine in process and the
server are never loaded at the same time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.in_process import Bench, add_engine_options, config_of, loaded, read_jobs, wall
from benchmarks.server_process import ServerProcess
from headrace.nouns.errors import HeadraceError
from headrace.workloads.generator import Effort, drive
from headrace.workloads.http_endpoint import HttpEndpoint
from headrace.workloads.job import Job
from headrace.workloads.record import Record


def in_process(options: argparse.Namespace, jobs: Sequence[Job]) -> tuple[float, int]:
    """(output tokens a second, the token budget that the engine chose)."""
    with loaded(config_of(options)) as bench:
        bench.warm_up()
        return _rate(bench.run(jobs)), _budget(bench)


def over_http(
    options: argparse.Namespace, jobs: Sequence[Job], budget: int, stream: bool
) -> tuple[float, Effort]:
    """(output tokens a second, what the clients cost) on a server with the same token budget."""
    arguments = [options.model, "--weights", options.weights, "--token-budget", str(budget)]
    if options.threads is not None:
        arguments += ["--threads", str(options.threads)]
    with ServerProcess(arguments) as server:
        records, effort = asyncio.run(_send(server.url, jobs, stream))
    failed = next((r for r in records if r.error is not None), None)
    if failed is not None:
        raise HeadraceError(f"a request failed with {failed.error}: {failed.detail}")
    return _rate(records), effort


async def _send(url: str, jobs: Sequence[Job], stream: bool) -> tuple[list[Record], Effort]:
    records: list[Record] = []
    async with HttpEndpoint(url, stream=stream) as endpoint:
        # The same warm-up as in process: another batch of prompts.
        await endpoint.warm_up(Job(0.0, tuple(range(100, 200)), 4))
        warm = [Job(0.0, tuple((i * 7 + j * 3 + 100) % 40_000 for j in range(100)), 8)
                for i in range(64)]  # fmt: skip
        await drive(endpoint, warm, None, lambda record: None)
        effort = await drive(endpoint, jobs, None, records.append)
    return records, effort


def _rate(records: Sequence[Record]) -> float:
    return sum(r.output_tokens for r in records) / wall(records)


def _budget(bench: Bench) -> int:
    return bench.service.built.engine.scheduler.limits.token_budget


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("workloads", type=Path, help="JSON file of named lists of prompts")
    parser.add_argument("--only", default="C", help="which workload (default C)")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--no-stream", action="store_true", help="answers in one piece")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_engine_options(parser)
    options = parser.parse_args()
    (jobs,) = read_jobs(options.workloads, options.only).values()
    direct, served, shares = [], [], []
    for turn in range(options.reps):
        rate, budget = in_process(options, jobs)
        options.token_budget = budget  # the same in every later turn
        direct.append(rate)
        rate, effort = over_http(options, jobs, budget, not options.no_stream)
        served.append(rate)
        shares.append(effort.share)
        print(f"turn {turn + 1}: {direct[-1]:.1f} and {served[-1]:.1f} tok/s", file=sys.stderr)
    ratio = statistics.median(served) / statistics.median(direct)
    if options.json:
        found = {
            "in_process_tok_s": direct,
            "http_tok_s": served,
            "ratio": ratio,
            "clients_share_of_a_core": shares,
            "token_budget": options.token_budget,
        }
        print(json.dumps(found, indent=1))
        return
    print(f"in process   {statistics.median(direct):10.1f} output tok/s")
    print(f"over HTTP    {statistics.median(served):10.1f} output tok/s   ratio {ratio:.3f}")
    print(f"the clients took {100 * statistics.median(shares):.0f} % of a core")


if __name__ == "__main__":
    main()
