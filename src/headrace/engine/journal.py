"""Journal: what happened to each request, for those who ask why it waits or waited."""

from __future__ import annotations

from collections import OrderedDict, deque

from headrace.nouns.event import Event

KEPT_REQUESTS = 1024
KEPT_EVENTS = 64


class Journal:
    """An event sink that keeps the last events of the last requests, in bounded memory.

    A request's first event, its arrival, is kept besides: it says whose request it is.
    """

    def __init__(self) -> None:
        self._requests: OrderedDict[str, tuple[Event, deque[Event]]] = OrderedDict()

    def __call__(self, event: Event) -> None:
        if event.request_id is None:
            return
        known = self._requests.get(event.request_id)
        if known is not None:
            known[1].append(event)
            return
        self._requests[event.request_id] = (event, deque(maxlen=KEPT_EVENTS - 1))
        if len(self._requests) > KEPT_REQUESTS:
            self._requests.popitem(last=False)

    def events(self, request_id: str) -> list[Event]:
        """Oldest first; empty if the request is unknown or forgotten."""
        known = self._requests.get(request_id)
        return [] if known is None else [known[0], *known[1]]
