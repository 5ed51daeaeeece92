"""TenantMetrics: what was done for each tenant, and which targets were met."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric

from headrace.api.tenant_file import OTHER
from headrace.nouns.event import Event, Kind
from headrace.nouns.tenant import Tenants

CAUSES = ("queue_full", "tenant_queue_full", "target_out_of_reach", "context_length_exceeded")
TOKENS = ("prompt", "cached", "generated")
TARGETS = ("ttft", "tpot", "e2e")


class TenantMetrics:
    """An event sink. Tenants that have no terms of their own are counted together, so that the
    number of series is bounded by the configuration."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants
        self._requests: Counter[str] = Counter()
        self._refused: Counter[tuple[str, str]] = Counter()
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._targets: Counter[tuple[str, str, str]] = Counter()

    def __call__(self, event: Event) -> None:
        if event.kind is Kind.ARRIVED:
            self._requests[self._label(event)] += 1
        elif event.kind is Kind.REFUSED:
            cause = str(event.data.get("cause", "context_length_exceeded"))
            self._refused[self._label(event), cause] += 1
        elif event.kind in (Kind.FINISHED, Kind.ABORTED):
            self._end(event)

    def collect(self) -> Iterator[Metric]:
        """All series that there can be, so that rates have a start."""
        tenants = [*sorted(self._tenants.named), OTHER]
        text = "Engine requests taken on, by tenant."
        requests = CounterMetricFamily("headrace_tenant_requests", text, labels=["tenant"])
        text = "Requests turned away, by tenant and reason."
        refused = CounterMetricFamily("headrace_refused", text, labels=["tenant", "reason"])
        text = "Tokens of requests and choices that have ended, by tenant and kind."
        tokens = CounterMetricFamily("headrace_tenant_tokens", text, labels=["tenant", "kind"])
        text = "Choices that have ended and had a target, by tenant, target and whether it was met."
        labels = ["tenant", "target", "met"]
        targets = CounterMetricFamily("headrace_targets", text, labels=labels)
        for tenant in tenants:
            requests.add_metric([tenant], self._requests[tenant])
            for cause in CAUSES:
                refused.add_metric([tenant, cause], self._refused[tenant, cause])
            for kind in TOKENS:
                tokens.add_metric([tenant, kind], self._tokens[tenant, kind])
            for target in TARGETS:
                for met in ("yes", "no"):
                    targets.add_metric([tenant, target, met], self._targets[tenant, target, met])
        yield from (requests, refused, tokens, targets)

    def _label(self, event: Event) -> str:
        tenant = str(event.data.get("tenant", OTHER))
        return tenant if tenant in self._tenants.named else OTHER

    def _end(self, event: Event) -> None:
        data, tenant = event.data, self._label(event)
        output, e2e = int(data.get("output", 0)), float(data.get("e2e", 0.0))
        self._tokens[tenant, "generated"] += output
        if not event.index:  # the choices of a request share its prompt
            self._tokens[tenant, "prompt"] += int(data.get("prompt", 0))
            self._tokens[tenant, "cached"] += int(data.get("cached", 0))
        if event.kind is Kind.ABORTED:
            return
        ttft = float(data["ttft"]) if "ttft" in data else None
        reached = {"ttft": ttft, "e2e": e2e, "tpot": None}
        if ttft is not None and output > 1:
            reached["tpot"] = (e2e - ttft) / (output - 1)
        for target in TARGETS:
            due, took = data.get(f"target_{target}"), reached[target]
            if due is not None and (took is not None or target != "tpot"):
                met = "yes" if took is not None and took <= float(due) else "no"
                self._targets[tenant, target, met] += 1
