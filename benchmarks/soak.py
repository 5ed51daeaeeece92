"""A soak: mixed traffic over HTTP for many minutes, then a verdict.

``python -m benchmarks.soak --minutes 20`` starts ``headrace serve`` on a free port, keeps 64
clients busy (whole and streamed answers, chats, shared prefixes, several choices, stop strings,
seeds, clients that hang up, requests that must be refused), and looks at the server's memory and
metrics every five seconds. At the end, with the traffic gone, it holds that

- no cache block is in use, and no sequence runs or waits
- resident memory was flat: in the last quarter of the time its median is at most 2 % + 8 MiB above
  the median of the second quarter (the first is the warm-up)
- no error occurred that was not asked for, and the server went down by SIGTERM with code 0

and exits with 1 where one of these fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import aiohttp
import numpy as np
import psutil

from benchmarks.server_process import ServerProcess
from benchmarks.soak_traffic import Tally, Traffic
from headrace.engine.config import DEFAULT_MODEL

EVERY = 5.0
SETTLE_SECONDS = 30.0
MIB = 2**20
GROWTH_SHARE, GROWTH_BYTES = 0.02, 8 * MIB


@dataclass(frozen=True, slots=True)
class Sample:
    """A look at the server, ``at`` seconds after the start. ``rss`` in bytes."""

    at: float
    rss: int
    used_blocks: int
    total_blocks: int
    running: int
    waiting: int
    steps: int
    requests: int
    generated: int
    preemptions: int


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold at the end."""

    name: str
    holds: bool
    detail: str


async def look(session: aiohttp.ClientSession, url: str, pid: int, start: float) -> Sample:
    """Reads /metrics and the resident memory of the server's process and its children."""
    async with session.get(f"{url}/metrics") as response:
        metrics = parse_metrics(await response.text())

    def metric(name: str) -> int:
        return int(metrics.get(f"headrace_{name}", 0))

    return Sample(
        at=time.monotonic() - start,
        rss=resident(pid),
        used_blocks=metric("cache_blocks_used"),
        total_blocks=metric("cache_blocks_total"),
        running=metric("running_sequences"),
        waiting=metric("waiting_sequences"),
        steps=metric("steps"),
        requests=metric("requests_total"),
        generated=metric("generated_tokens_total"),
        preemptions=metric("preemptions_total"),
    )


def parse_metrics(text: str) -> dict[str, float]:
    """Metrics without labels by name, of Prometheus' text format."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if not line.startswith("#") and "{" not in name and value:
            found[name] = float(value)
    return found


def resident(pid: int) -> int:
    """Resident bytes of a process and its children."""
    parent = psutil.Process(pid)
    return sum(p.memory_info().rss for p in [parent, *parent.children(recursive=True)])


async def soak(
    server: ServerProcess, minutes: float, clients: int, seed: int
) -> tuple[list[Sample], Sample, Tally]:
    """(samples under load, a last one at rest, what the clients saw)."""
    traffic, samples = Traffic(server.url, seed), list[Sample]()
    start = time.monotonic()
    async with aiohttp.ClientSession() as session:
        load = asyncio.create_task(traffic.run(clients))
        while time.monotonic() - start < 60 * minutes and not load.done():
            await asyncio.sleep(EVERY)
            if server.exit_code is not None:
                load.cancel()
                raise SystemExit(f"the server died with code {server.exit_code}")
            samples.append(await look(session, server.url, server.pid, start))
            _progress(samples[-1], traffic.tally)
        traffic.stopped.set()
        await load
        rest = await look(session, server.url, server.pid, start)
        settle = time.monotonic() + SETTLE_SECONDS
        while (rest.used_blocks or rest.running or rest.waiting) and time.monotonic() < settle:
            await asyncio.sleep(0.5)
            rest = await look(session, server.url, server.pid, start)
    return samples, rest, traffic.tally


def verdict(
    samples: Sequence[Sample], rest: Sample, tally: Tally, exit_code: int
) -> tuple[list[Check], float]:
    """(the checks, the slope of resident memory after the warm-up in bytes a minute)."""
    quarter = max(1, len(samples) // 4)
    early = statistics.median(s.rss for s in samples[quarter : 2 * quarter] or samples)
    late = statistics.median(s.rss for s in samples[-quarter:])
    growth, allowed = late - early, GROWTH_SHARE * early + GROWTH_BYTES
    slope = slope_per_minute([s for s in samples if s.at >= samples[quarter - 1].at])
    return [
        Check("no block in use at rest", rest.used_blocks == 0,
              f"{rest.used_blocks} of {rest.total_blocks}"),
        Check("no sequence left", rest.running == rest.waiting == 0,
              f"{rest.running} running, {rest.waiting} waiting"),
        Check("memory flat", growth <= allowed,
              f"{growth / MIB:+.1f} MiB, {allowed / MIB:.1f} MiB allowed;"
              f" slope {slope / MIB:+.2f} MiB a minute"),
        Check("no error that was not asked for", not tally.done["surprise"],
              f"{tally.done['surprise']} in {tally.done.total()} requests"),
        Check("the server ended in good order", exit_code == 0, f"exit code {exit_code}"),
    ], slope  # fmt: skip


def slope_per_minute(samples: Sequence[Sample]) -> float:
    """Least-squares slope of resident memory in bytes a minute; 0 for fewer than two samples."""
    if len(samples) < 2:
        return 0.0
    minutes = np.array([s.at / 60 for s in samples])
    return float(np.polyfit(minutes, np.array([s.rss for s in samples], dtype=float), 1)[0])


def _progress(sample: Sample, tally: Tally) -> None:
    print(
        f"{sample.at:7.0f} s  {sample.rss / MIB:8.1f} MiB  blocks {sample.used_blocks:5d}/"
        f"{sample.total_blocks}  running {sample.running:3d}  waiting {sample.waiting:3d}"
        f"  requests {sample.requests:6d}  preemptions {sample.preemptions:4d}"
        f"  surprises {tally.done['surprise']}",
        file=sys.stderr,
    )


def _print(
    samples: Sequence[Sample], tally: Tally, checks: Sequence[Check], minutes: float
) -> None:
    last = samples[-1]
    print(
        f"{minutes:g} minutes: {tally.done.total()} requests, {last.steps} steps,"
        f" {last.generated} tokens generated, {last.preemptions} preemptions"
    )
    for kind, count in sorted(tally.done.items()):
        print(f"  {kind:<12}{count:8d}")
    print(f"{'minute':>8}{'RSS, MiB':>12}{'blocks used':>14}{'running':>10}{'requests':>10}")
    for i in np.unique(np.linspace(0, len(samples) - 1, 13).astype(int)):
        s = samples[i]
        print(f"{s.at / 60:8.1f}{s.rss / MIB:12.1f}{s.used_blocks:14d}{s.running:10d}"
              f"{s.requests:10d}")  # fmt: skip
    for check in checks:
        print(f"{'ok  ' if check.holds else 'FAIL'}  {check.name}: {check.detail}")
    for surprise in tally.surprises[:20]:
        print(f"      {surprise}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--cache", default="256MiB", help="so small that memory gets short")
    parser.add_argument("--serve", default="", help="further options for the server, in one text")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    arguments = [options.model, "--cache", options.cache, *options.serve.split()]
    with ServerProcess(arguments) as server:
        samples, rest, tally = asyncio.run(
            soak(server, options.minutes, options.clients, options.seed)
        )
        exit_code = server.stop()
    if not samples:
        raise SystemExit(f"no sample within {options.minutes} minutes; give it more time")
    checks, slope = verdict(samples, rest, tally, exit_code)
    if options.json:
        found = {
            "minutes": options.minutes,
            "clients": options.clients,
            "requests": dict(tally.done),
            "checks": [asdict(check) for check in checks],
            "slope_bytes_per_minute": slope,
            "surprises": tally.surprises,
            "samples": [asdict(sample) for sample in [*samples, rest]],
        }
        print(json.dumps(found, indent=1))
    else:
        _print(samples, tally, checks, options.minutes)
    return 0 if all(check.holds for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
