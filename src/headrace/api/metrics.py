"""Metrics: what the server and its engine did, for Prometheus. docs/metrics.md defines each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from headrace.api.histogram import TOKENS, Histogram
from headrace.api.tenant_metrics import TenantMetrics
from headrace.nouns.event import Event, Kind
from headrace.nouns.sequence import Wait

if TYPE_CHECKING:
    from headrace.api.engine import Engine

MEMORY = 0.98  # weight of the step before in the recent share: some 50 steps count
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics(Collector):
    """An event sink (called on the engine's thread) that Prometheus reads (on the server's)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ttft, self._tpot, self._itl, self._e2e = (Histogram() for _ in range(4))
        self._step_seconds, self._step_tokens = Histogram(), Histogram(TOKENS)
        self._waits = {cause.value: Histogram() for cause in Wait}
        self._finished: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._by_tenant = TenantMetrics(engine.tenants)
        self._tokens = {"prompt": 0, "generated": 0, "cached": 0}
        self._arrived = self._preemptions = 0
        self._spared = 0.0
        self._work = {"operations": 0.0, "bytes": 0.0, "limit": 0.0}
        self._recent_limit = self._recent_elapsed = 0.0
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def __call__(self, event: Event) -> None:
        """Counts an event of the engine."""
        kind = event.kind
        self._by_tenant(event)
        if kind is Kind.RAN:
            self._ran(event)
        elif kind in (Kind.FINISHED, Kind.ABORTED):
            self._end(event)
        elif kind is Kind.ARRIVED:
            self._arrived += 1
        elif kind is Kind.PREEMPTED:
            self._preemptions += 1
        elif kind is Kind.THRASHING:
            self._spared = float(event.data["spare"])

    def inter_token(self, seconds: float) -> None:
        """Counts the time between two deliveries of tokens to one choice."""
        self._itl.observe(seconds)

    def failed(self, code: str | None) -> None:
        """Counts an error that a client was told."""
        self._errors[code or "other"] += 1

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        from prometheus_client.exposition import generate_latest

        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        yield from self._histograms()
        yield from self._counters()
        yield from self._gauges()
        yield from self._by_tenant.collect()

    def _ran(self, event: Event) -> None:
        data = event.data
        elapsed = float(data.get("elapsed", 0.0))
        self._step_seconds.observe(elapsed)
        self._step_tokens.observe(float(data.get("tokens", 0)))
        if "limit" in data:
            for name in self._work:
                self._work[name] += float(data[name])
            self._recent_limit = MEMORY * self._recent_limit + float(data["limit"])
            self._recent_elapsed = MEMORY * self._recent_elapsed + elapsed

    def _end(self, event: Event) -> None:
        data = event.data
        output = int(data.get("output", 0))
        ttft, e2e = data.get("ttft"), float(data.get("e2e", 0.0))
        self._finished[str(data.get("finish_reason", event.kind.value))] += 1
        self._tokens["generated"] += output
        if not event.index:  # the choices of a request share its prompt
            self._tokens["prompt"] += int(data.get("prompt", 0))
            self._tokens["cached"] += int(data.get("cached", 0))
        self._e2e.observe(e2e)
        if ttft is not None:
            self._ttft.observe(float(ttft))
            if output > 1:
                self._tpot.observe((e2e - float(ttft)) / (output - 1))
        for cause, histogram in self._waits.items():
            if seconds := data.get(f"wait_{cause}"):
                histogram.observe(float(seconds))

    def _histograms(self) -> Iterator[Metric]:
        for name, text, histogram in (
            ("ttft_seconds", "Arrival of a request to the first token of a choice.", self._ttft),
            ("tpot_seconds", "Mean time per output token after the first.", self._tpot),
            ("itl_seconds", "Time between two deliveries of tokens to one choice.", self._itl),
            ("e2e_seconds", "Arrival of a request to the end of a choice.", self._e2e),
            ("step_seconds", "Time that a step took to run.", self._step_seconds),
            ("step_tokens", "Tokens that a step computed.", self._step_tokens),
        ):
            yield HistogramMetricFamily(
                f"headrace_{name}", text, buckets=histogram.buckets(), sum_value=histogram.total
            )
        waits = HistogramMetricFamily(
            "headrace_wait_seconds", "Time that a choice waited, by cause.", labels=["cause"]
        )
        for cause, histogram in self._waits.items():
            waits.add_metric([cause], histogram.buckets(), histogram.total)
        yield waits

    def _counters(self) -> Iterator[Metric]:
        for kind, text in (
            ("prompt", "Tokens of prompts that were taken on and have ended."),
            ("generated", "Tokens generated for choices that have ended."),
            ("cached", "Prompt tokens that did not have to be computed."),
        ):
            name = f"headrace_{kind}_tokens"
            yield CounterMetricFamily(name, text, value=self._tokens[kind])
        text = "Engine requests taken on."
        yield CounterMetricFamily("headrace_requests", text, value=self._arrived)
        for name, kind, text in (
            ("step_operations", "operations", "Operations that the steps had to do."),
            ("step_bytes", "bytes", "Bytes that the steps had to move to and from memory."),
            ("step_limit_seconds", "limit", "Least time that this machine needs for the steps."),
        ):
            yield CounterMetricFamily(f"headrace_{name}", text, value=self._work[kind])
        text = "Preemptions of running sequences."
        yield CounterMetricFamily("headrace_preemptions", text, value=self._preemptions)
        text = "Choices that have ended, by reason."
        ended = CounterMetricFamily("headrace_finished", text, labels=["reason"])
        for reason in ("stop", "length", "abort", "error"):
            ended.add_metric([reason], self._finished[reason])
        yield ended
        text = "Errors that clients were told, by code."
        errors = CounterMetricFamily("headrace_errors", text, labels=["code"])
        for code, count in sorted(self._errors.copy().items()):
            errors.add_metric([code], count)
        yield errors

    def _gauges(self) -> Iterator[Metric]:
        status = self._engine.status()
        used = status.total_blocks - status.free_blocks
        for name, text, value in (
            ("running_sequences", "Sequences that are being computed.", status.running),
            ("waiting_sequences", "Sequences in the queue.", status.waiting),
            ("cache_blocks_used", "Cache blocks that sequences hold.", used),
            ("cache_blocks_total", "Cache blocks in all.", status.total_blocks),
            ("cache_share_spared", "Share that starts leave free after thrashing.", self._spared),
            ("steps", "Steps run since the start.", status.steps),
            ("ready", "1 when requests are taken on.", int(status.ready)),
        ):
            yield GaugeMetricFamily(f"headrace_{name}", text, value=value)
        if (wait := self._engine.predicted_wait()) is not None:
            text = "Predicted seconds until a request that came last would start."
            yield GaugeMetricFamily("headrace_predicted_wait_seconds", text, value=wait)
        if self._recent_elapsed:
            text = "Share of the machine's limit that the last steps reached."
            share = self._recent_limit / self._recent_elapsed
            yield GaugeMetricFamily("headrace_limit_share", text, value=share)
        if status.last_step_age is not None:
            text = "Seconds since the last step ended; grows while the engine has no work."
            yield GaugeMetricFamily("headrace_last_step_age_seconds", text, status.last_step_age)
