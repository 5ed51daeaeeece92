"""Door: which requests are let in at all."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import ceil, inf

from headrace.nouns.event import Event, Kind
from headrace.nouns.request import Request
from headrace.scheduling.outlook import Outlook
from headrace.scheduling.scheduler import Scheduler

HOPELESS = 2.0
"""What takes this many times what its target allows, with nobody else there, is out of reach for
ever: predictions are seldom off by so much."""
SPARE = 1024
"""Tenants whose counts may be kept besides those of whom somebody waits."""
ROUNDING = 1e-6
"""Seconds by which sums of the same times may differ."""


class Cause(Enum):
    """Why a request is not let in."""

    QUEUE = "queue_full"
    TENANT = "tenant_queue_full"
    TARGET = "target_out_of_reach"


@dataclass(frozen=True, slots=True)
class Refusal:
    """``retry_after`` are seconds after which it might be let in; None if it never would."""

    cause: Cause
    message: str
    retry_after: float | None

    def event(self, request: Request, now: float) -> Event:
        """The refusal as an event."""
        data: dict[str, float | int | str] = {"tenant": request.tenant, "cause": self.cause.value}
        if self.retry_after is not None:
            data["retry_after"] = self.retry_after
        return Event(Kind.REFUSED, now, request.id, reason=self.message, data=data)


class Door:
    """Keeps the bounds on those that wait, all together and of each tenant, and turns away
    requests whose first token, or even a short answer, is predicted too late for their targets:
    nothing is accepted that cannot be honoured. A door any wider would be no use: past saturation
    the queue grows until those at its end are predicted to be as late as the door allows, and
    nobody is in time.

    The live service and the simulator ask the same object. Between ``enter`` and ``passed`` a
    request is on its way to the scheduler, for instance while a step runs. One thread at a time
    may ask and enter, one other may call ``passed``.
    """

    def __init__(
        self, scheduler: Scheduler, max_queue: int, outlook: Outlook | None = None
    ) -> None:
        """Without an ``outlook`` nobody is turned away for a target; one may be set later."""
        self.max_queue = max_queue
        self.outlook = outlook
        self._scheduler = scheduler
        self._entered: dict[str, int] = {}  # sequences so far, by tenant
        self._passed: dict[str, int] = {}
        self._all_entered = self._all_passed = 0

    @property
    def pending(self) -> int:
        """Sequences on their way to the scheduler."""
        return self._all_entered - self._all_passed

    @property
    def waiting(self) -> int:
        """Sequences that wait, those on their way included."""
        return len(self._scheduler.waiting) + self.pending

    def most(self, tenant: str) -> int:
        """How many of a tenant's sequences can ever wait at once."""
        own = self._scheduler.tenants.terms(tenant).max_waiting
        return self.max_queue if own is None else min(own, self.max_queue)

    def refusal(self, request: Request, now: float) -> Refusal | None:
        """Why ``request`` may not come in, if it may not. Its ``n`` is at most ``most``."""
        return self.full(request.tenant, request.n, now) or self._late(request, now)

    def full(self, tenant: str, n: int, now: float) -> Refusal | None:
        """The part of ``refusal`` that holds for any request of a tenant's for n sequences."""
        if self.waiting + n > self.max_queue:
            who, waiting, most, cause = "", self.waiting, self.max_queue, Cause.QUEUE
        else:
            own = self._scheduler.tenants.terms(tenant).max_waiting
            if own is None:
                return None
            here = self._entered.get(tenant, 0) - self._passed.get(tenant, 0)
            waiting, most = self._scheduler.usage.waiting(tenant) + here, own
            if waiting + n <= most:
                return None
            who, cause = f" of tenant {tenant!r}", Cause.TENANT
        wait = None if self.outlook is None else self.outlook.wait(now, tenant)
        retry = 1.0 if wait is None else max(1.0, wait)
        holds = "the queue holds" if not who else "it may have"
        message = (
            f"{waiting} sequences{who} wait already and {holds} {most};"
            f" try again in {ceil(retry)} s"
        )
        return Refusal(cause, message, retry)

    def enter(self, request: Request, now: float) -> None:
        """``request`` is let in."""
        tenant = request.tenant
        if len(self._entered) >= 2 * self.max_queue + SPARE:
            self._forget()
        self._entered[tenant] = self._entered.get(tenant, 0) + request.n
        self._all_entered += request.n
        if self.outlook is not None:
            self.outlook.accepted(request, now)

    def passed(self, request: Request) -> None:
        """The scheduler has taken or refused ``request``."""
        tenant = request.tenant
        self._passed[tenant] = self._passed.get(tenant, 0) + request.n
        self._all_passed += request.n

    def _forget(self) -> None:
        """Drops tenants of whom nobody is on the way: no other thread looks at their counts."""
        for tenant, entered in list(self._entered.items()):
            if entered == self._passed.get(tenant, 0):
                del self._entered[tenant], self._passed[tenant]

    def _late(self, request: Request, now: float) -> Refusal | None:
        targets, outlook = request.targets, self.outlook
        if outlook is None or (targets.ttft is None and targets.deadline is None):
            return None
        first = inf if targets.ttft is None else request.arrival + targets.ttft - now
        last = inf if targets.deadline is None else targets.deadline - now
        if min(first, last) <= 0:
            message = "the time that its targets allow has passed; set them later or leave them out"
            return Refusal(Cause.TARGET, message, None)
        found = outlook.prospect(request, now)
        if found is None:
            return None
        margin = found.margin
        return _out_of_reach(
            "the first token", first, found.first, found.alone, margin, request
        ) or _out_of_reach("the answer", last, found.last, found.alone_last, margin, request)


def _out_of_reach(
    what: str, allowed: float, predicted: float, alone: float, margin: float, request: Request
) -> Refusal | None:
    """A refusal if ``what`` is wanted sooner than it is predicted; all in seconds."""
    if alone > HOPELESS * allowed:
        message = (
            f"{what} is wanted within {allowed:.3g} s from now and takes about {alone:.2g} s"
            f" even with nobody else here ({len(request.prompt)} prompt tokens); raise the target"
            " or ask for less"
        )
        return Refusal(Cause.TARGET, message, None)
    # Whom only its own length delays need not come again. The margin is in ``predicted``, too: a
    # large one, once learnt, would keep such requests from an idle server for ever.
    limit = max(allowed, margin * alone + ROUNDING)
    if predicted <= limit:
        return None
    retry = max(1.0, predicted - limit)
    message = (
        f"{what} is wanted within {allowed:.3g} s and would take about {predicted:.2g} s now; try"
        f" again in {ceil(retry)} s or raise the target"
    )
    return Refusal(Cause.TARGET, message, retry)
