"""Where the time of a step goes, by operator, for steps of several kinds.

``python -m benchmarks.step_time`` runs prompts alone, decoding at several batch sizes, and a mix on
the default model. Times outside the executor (planning, committing, delivering) are the difference
between the wall time of the stretch and the steps' own time.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.in_process import Bench, add_engine_options, config_of, loaded
from headrace.nouns.delta import Delta
from headrace.nouns.sampling_params import SamplingParams

OUTSIDE = "plan, commit, deliver"


@dataclass(frozen=True, slots=True)
class Stretch:
    """Steps of one kind: ``rows`` are operator, milliseconds a step, share, calls a step.

    ``limit_share`` is the share of the machine's limit, of all of the time; None where unknown.
    """

    name: str
    steps: int
    tokens_per_step: float
    ms_per_step: float
    limit_share: float | None
    rows: list[tuple[str, float, float, int]]


class Watched:
    """Requests in the engine, and events for their beginnings and their end."""

    def __init__(self, bench: Bench, prompts: Sequence[Sequence[int]], output: int) -> None:
        self._unbegun, self._open = set[str](), set[str]()
        self.begun, self.ended = threading.Event(), threading.Event()
        params = SamplingParams(temperature=0.0, max_tokens=output, ignore_eos=True)
        self._service = service = bench.service
        requests = [service.request(p, params, tenant=str(time.monotonic_ns())) for p in prompts]
        self._unbegun |= {r.id for r in requests}
        self._open |= {r.id for r in requests}
        for request in requests:
            service.submit(request, self._on_delta)

    def abort(self) -> None:
        """Ends what has not ended, and waits for it."""
        for id in list(self._open):
            self._service.abort(id)
        self.ended.wait()

    def _on_delta(self, delta: Delta) -> None:
        self._unbegun.discard(delta.request_id)
        if not self._unbegun:
            self.begun.set()
        if delta.finish_reason is not None:
            self._open.discard(delta.request_id)
            if not self._open:
                self.ended.set()


def prompts(count: int, tokens: int, vocabulary: int) -> list[list[int]]:
    return [[(i * 7919 + j * 31 + 100) % vocabulary for j in range(tokens)] for i in range(count)]


def prefill(bench: Bench, tokens: int, requests: int) -> Stretch:
    """Steps that compute prompts only: one output token each."""
    made = prompts(requests, tokens, bench.service.model.vocab_size)
    with _executor(bench).profile() as found:
        start = time.perf_counter()
        Watched(bench, made, 1).ended.wait()
        seconds = time.perf_counter() - start
    return _stretch(f"prompts of {tokens}", found, seconds)


def decode(bench: Bench, batch: int, context: int, steps: int) -> Stretch:
    """Steps in which ``batch`` sequences of about ``context`` tokens get a token each."""
    made = prompts(batch, context, bench.service.model.vocab_size)
    # Those that begin first decode while the others' prompts are computed: leave room for that.
    watched = Watched(bench, made, steps + 2 * batch + batch * context // 8)
    watched.begun.wait()
    with _executor(bench).profile() as found:
        start, before = time.perf_counter(), bench.service.status().steps
        while bench.service.status().steps - before < steps and not watched.ended.is_set():
            time.sleep(0.001)
        seconds = time.perf_counter() - start
    watched.abort()
    return _stretch(f"decode, batch {batch}, context {context}", found, seconds)


def mixed(bench: Bench, requests: int) -> Stretch:
    """All steps of a batch of requests of mixed lengths, sent at once."""
    vocabulary = bench.service.model.vocab_size
    made = [prompts(1, 32 + 37 * i % 480, vocabulary)[0] for i in range(requests)]
    with _executor(bench).profile() as found:
        start = time.perf_counter()
        Watched(bench, made, 64).ended.wait()
        seconds = time.perf_counter() - start
    return _stretch(f"mix of {requests} requests", found, seconds)


def _executor(bench: Bench) -> Any:
    return bench.service.built.engine.executor


def _stretch(name: str, found: Any, seconds: float) -> Stretch:
    steps = max(found.steps, 1)
    outside = max(0.0, seconds - found.elapsed)
    inside = found.elapsed / (found.elapsed + outside)
    rows = [(n, ms, share * inside, calls) for n, ms, share, calls in found.table()]
    rows.append((OUTSIDE, 1e3 * outside / steps, 1 - inside, 1))
    rows.sort(key=lambda row: -row[1])
    total = 1e3 * (found.elapsed + outside) / steps
    share = found.limit / (found.elapsed + outside) if found.limit else None
    return Stretch(name, found.steps, found.rows / steps, total, share, rows)


def print_table(stretch: Stretch) -> None:
    print(
        f"\n{stretch.name}: {stretch.steps} steps of {stretch.tokens_per_step:.1f} tokens,"
        f" {stretch.ms_per_step:.2f} ms each"
        + (f", {stretch.limit_share:.1%} of the machine's limit" if stretch.limit_share else "")
    )
    for name, ms, share, calls in stretch.rows:
        print(f"  {name:<24}{ms:>10.3f} ms{100 * share:>8.1f} %{calls:>6} calls")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--batches", default="1,8,32,64", help="batch sizes of decoding")
    parser.add_argument("--context", type=int, default=128, help="tokens of each sequence")
    parser.add_argument("--steps", type=int, default=64, help="steps of each decoding")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_engine_options(parser)
    options = parser.parse_args()
    batches = [int(batch) for batch in options.batches.split(",")]
    with loaded(config_of(options)) as bench:
        bench.warm_up()
        stretches = [prefill(bench, 1024, 3)]
        stretches += [decode(bench, batch, options.context, options.steps) for batch in batches]
        stretches.append(mixed(bench, 64))
        model = bench.service.model
    if options.json:
        found = {"model": model.name, "weights": model.weights,
                 "stretches": [asdict(s) for s in stretches]}  # fmt: skip
        print(json.dumps(found, indent=1))
        return
    print(f"{model.name}, {model.weights}")
    for stretch in stretches:
        print_table(stretch)


if __name__ == "__main__":
    main()
