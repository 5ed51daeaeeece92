"""A fleet: engines behind a router, all on one calendar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from math import inf
from typing import Final

from headrace.nouns.errors import ConfigError
from headrace.nouns.event import Sink, ignore
from headrace.simulation.arrival import Arrival
from headrace.simulation.bookings import Bookings
from headrace.simulation.collector import rare_collections
from headrace.simulation.fleet_totals import FleetTotals
from headrace.simulation.member import Member
from headrace.simulation.post import Post, Watch
from headrace.simulation.router import Load, Router
from headrace.simulation.run import HELD_BACK
from headrace.simulation.served import Served

NOBODY = "no instance of the fleet takes requests"
Listen = Callable[[int], Sink]
"""The sink of the events of the instance with a number."""

# What happens, in the order in which it happens at one and the same time.
UP, DRAIN, DOWN, ARRIVAL, END, BEGIN = range(6)


@rare_collections()
def simulate_fleet(
    arrivals: Iterable[Arrival],
    members: Sequence[Member],
    router: Router,
    on_served: Callable[[Served], None],
    listen: Listen = lambda index: ignore,
    watch: Watch | None = None,
) -> FleetTotals:
    """Serves ``arrivals`` (in the order of their times) to the end by ``members``.

    What a front does for its clients: a request goes to the instance that the router names. When
    an instance fails, requests of which no token has been seen go through the router again, at
    that moment and with their first time of arrival; an answer that has begun ends as failed,
    since its client has read a part of it. Where no instance takes requests, they are refused.

    At one and the same time instances come and go first, then requests arrive, then steps end and
    begin. Memory does not grow with the number of requests. Raises ConfigError where times
    decrease or there are no members.
    """
    if not members:
        raise ConfigError("a fleet has no instances; give at least one")
    return _Fleet(members, router, on_served, listen, watch).run(iter(arrivals))


class _Fleet:
    def __init__(
        self,
        members: Sequence[Member],
        router: Router,
        on_served: Callable[[Served], None],
        listen: Listen,
        watch: Watch | None,
    ) -> None:
        self._posts: Final = [Post(i, member, listen(i)) for i, member in enumerate(members)]
        self._watch = watch
        for post in self._posts:
            post.watch(watch)
        self._router = router
        self._on_served = on_served
        self._totals = FleetTotals([post.totals for post in self._posts])
        self._calendar: list[tuple[float, int, int, int, int]] = []
        self._entries = 0
        self._changes: list[float] = []  # times at which instances come or go, as a heap
        self._loads: list[Load] = []  # of those that take requests, by index
        self._smallest = 0  # tokens that each of those can hold
        self._bookings = Bookings()
        self._coming: Arrival | None = None

    def run(self, stream: Iterator[Arrival]) -> FleetTotals:
        for post in self._posts:
            self._note(post.member.starts + post.member.start_up, UP, post)
            if post.member.drains is not None:
                self._note(post.member.drains, DRAIN, post)
            self._note_outage(post)
        self._await(next(stream, None))
        now = 0.0
        while self._calendar and (self._coming is not None or self._bookings.open):
            now, kind, _, index, turn = heappop(self._calendar)
            if kind == ARRIVAL:
                assert self._coming is not None
                arrival = self._coming
                self._totals.requests += 1
                self._route(arrival, now)
                self._await(next(stream, None), arrival.at)
                continue
            post = self._posts[index]
            if kind in (END, BEGIN):
                if turn == post.turn:
                    self._end(post, now) if kind == END else self._begin(post, now)
            elif kind == UP:
                if turn == post.turn:  # else it failed while it started
                    self._up(post, now)
            elif kind == DRAIN:
                self._drain(post, now)
            else:
                self._down(post, now)
        for post in self._posts:
            post.close_books(self._totals.end)
            post.totals.steps, post.totals.tokens = post.instance.steps, post.instance.tokens
        return self._totals

    # The calendar

    def _note(self, time: float, kind: int, post: Post | None = None) -> None:
        self._entries += 1
        index, turn = (-1, 0) if post is None else (post.index, post.turn)
        heappush(self._calendar, (time, kind, self._entries, index, turn))
        if kind in (UP, DRAIN, DOWN):
            heappush(self._changes, time)

    def _undisturbed(self, now: float) -> float:
        """Until when nothing can be offered to an instance."""
        while self._changes and self._changes[0] <= now:
            heappop(self._changes)
        change = self._changes[0] if self._changes else inf
        return change if self._coming is None else min(change, self._coming.at)

    def _await(self, arrival: Arrival | None, before: float = 0.0) -> None:
        """One arrival at a time is in the calendar."""
        self._coming = arrival
        if arrival is None:
            return
        if arrival.at < before:
            raise ConfigError(f"an arrival at {arrival.at} s comes after one at {before} s")
        self._note(arrival.at, ARRIVAL)

    def _note_outage(self, post: Post) -> None:
        outage = post.next_outage()
        if outage is not None:
            self._note(outage.down, DOWN, post)

    # Steps

    def _begin(self, post: Post, now: float) -> None:
        post.waiting = False
        instance = post.instance
        if not instance.has_work:
            return
        end = post.begin(now, self._undisturbed(now))
        if end is not None:
            self._note(end, END, post)
        elif instance.has_work:  # a policy holds everybody back
            self._note(now + HELD_BACK, BEGIN, post)

    def _end(self, post: Post, now: float) -> None:
        post.totals.busy += now - post.began
        for served in post.instance.finish():
            self._tell(served, post)
        self._begin(post, now)

    # Requests

    def _route(self, arrival: Arrival, now: float) -> None:
        if not self._loads:
            self._refuse(Served(arrival, now, refusal=NOBODY, code="no_instance"))
            return
        load = self._router.choose(arrival, self._roomy(arrival) or self._loads)
        post = self._posts[load.index]
        if not post.open:
            raise ConfigError(
                f"the router chose {post.totals.name}, which takes no requests; it has to return"
                " one of the loads that it is given"
            )
        refused = post.instance.offer(arrival, now)
        if refused is not None:
            self._refuse(refused)
            return
        post.totals.requests += 1
        self._bookings.book(arrival, load)
        if not post.instance.busy and not post.waiting:
            post.turn += 1  # it may have been about to look again later
            post.waiting = True
            self._note(now, BEGIN, post)

    def _refuse(self, served: Served) -> None:
        self._totals.refused += 1
        self._finish(served)

    def _tell(self, served: Served, post: Post) -> None:
        self._leave(served, post)
        if not served.completed:
            self._totals.failed += 1
        self._finish(served)

    def _finish(self, served: Served) -> None:
        totals = self._totals
        totals.output += served.output
        totals.preemptions += served.preemptions
        totals.end = max(totals.end, served.end)
        self._on_served(served)

    def _leave(self, served: Served, post: Post) -> None:
        """The request is no longer at this instance."""
        self._bookings.release(served, post.load)
        if post.draining and not post.load.requests:
            post.close_books(served.end)

    # Coming and going

    def _up(self, post: Post, now: float) -> None:
        if not post.draining:
            post.open = True
            post.since = now
            self._list_loads()

    def _drain(self, post: Post, now: float) -> None:
        post.draining, post.open = True, False
        if not post.load.requests:
            post.close_books(now)
        self._list_loads()

    def _down(self, post: Post, now: float) -> None:
        assert post.outage is not None
        up = post.outage.up
        post.open = False
        post.turn += 1
        post.waiting = False
        if post.instance.busy:
            post.totals.busy += now - post.began
        post.totals.failures += 1
        post.close_books(now)
        self._router.lost(post.index)
        self._list_loads()
        if up < float("inf"):
            self._note(up + post.member.start_up, UP, post)
            self._note_outage(post)
        lost = post.instance.abort_all(now, f"{post.totals.name} failed")
        post.watch(self._watch)
        for served in lost:
            if served.first_token is None:
                self._leave(served, post)
                self._totals.retries += 1
                self._route(served.arrival, now)
            else:
                self._tell(served, post)

    def _list_loads(self) -> None:
        posts = [post for post in self._posts if post.open]
        self._loads = [post.load for post in posts]
        self._smallest = min((post.capacity for post in posts), default=0)

    def _roomy(self, arrival: Arrival) -> list[Load]:
        """Those whose memory can hold the request, of instances that differ."""
        tokens = arrival.prompt_tokens + arrival.asked - 1
        if tokens <= self._smallest:
            return self._loads
        return [load for load in self._loads if tokens <= self._posts[load.index].capacity]


def copies(member: Member, count: int) -> list[Member]:
    """So many members like it, each with a name of its own and no outages."""
    return [replace(member, name=f"{member.name} {i}".strip()) for i in range(count)]
