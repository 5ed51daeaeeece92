"""An engine in this process, and workloads sent to it with a fresh prefix cache each time."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from headrace.engine.config import DEFAULT_MODEL, EngineConfig
from headrace.engine.reach import Reach
from headrace.engine.service import EngineService
from headrace.nouns.errors import HeadraceError
from headrace.workloads.engine_endpoint import EngineEndpoint
from headrace.workloads.generator import drive
from headrace.workloads.job import Job
from headrace.workloads.record import Record
from headrace.workloads.workload_file import select

WEIGHTS = ("auto", "float32", "bf16", "int8", "native")
WARM_UP_REQUESTS = 64


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Options that every benchmark of an engine has."""
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--weights", choices=WEIGHTS, default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; all cores by default")
    parser.add_argument("--token-budget", type=int, help="tokens a step; measured by default")


def config_of(options: argparse.Namespace) -> EngineConfig:
    return EngineConfig(
        model=options.model,
        weights=options.weights,
        threads=options.threads,
        token_budget=options.token_budget,
    )


def read_jobs(path: Path, names: str) -> dict[str, list[Job]]:
    """The named workloads; ends the program where the file is at fault."""
    try:
        return select(path, names)
    except HeadraceError as error:
        raise SystemExit(str(error)) from error


class Bench:
    """A loaded engine. Every ``run`` is a tenant of its own, so it finds no cached prefixes.

    ``reach`` adds up what the engine's steps had to do.
    """

    def __init__(self, service: EngineService) -> None:
        self.service = service
        self.reach = Reach()
        service.add_sink(self.reach)
        self._runs = 0

    def run(self, jobs: Sequence[Job], limit: int | None = None) -> list[Record]:
        """The records of all jobs, sent at once or ``limit`` at a time.

        Raises HeadraceError when one fails or gives another number of tokens than asked for.
        """
        self._runs += 1
        encode = self.service.model.tokenizer.encode
        endpoint = EngineEndpoint(self.service, "engine", encode, f"run-{self._runs}")
        records: list[Record] = []
        asyncio.run(drive(endpoint, jobs, limit, records.append))
        for record in records:
            if record.error is not None:
                raise HeadraceError(f"a request failed with {record.error}: {record.detail}")
        if sum(r.output_tokens for r in records) != sum(job.output_tokens for job in jobs):
            raise HeadraceError("the outputs are not as long as was asked for")
        return records

    def warm_up(self, requests: int = WARM_UP_REQUESTS) -> None:
        """A batch of other prompts, after which every shape of matrix has been met."""
        vocabulary = min(self.service.model.vocab_size, 40_000)
        self.run([Job(0.0, tuple((i * 7 + j * 3 + 100) % vocabulary for j in range(100)), 8)
                  for i in range(requests)])  # fmt: skip


@contextmanager
def loaded(config: EngineConfig) -> Iterator[Bench]:
    """A bench on a loaded engine, which says on standard error what it chose."""
    service = EngineService(config, report=lambda line: print(line, file=sys.stderr))
    service.start()
    try:
        service.wait_ready()
        yield Bench(service)
    except HeadraceError as error:
        raise SystemExit(str(error)) from error
    finally:
        service.close()


def wall(records: Sequence[Record]) -> float:
    """Seconds from the first request's time to the last output."""
    return max(r.end for r in records) - min(r.due for r in records)
