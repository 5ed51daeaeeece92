"""Journal: what happened to each request, for those who ask why it waits or waited."""

from __future__ import annotations

from collections import OrderedDict, deque

from headrace.nouns.event import Event

KEPT_REQUESTS = 1024
KEPT_EVENTS = 64


class Journal:
    """An event sink that keeps the last events of the last requests, in bounded memory."""

    def __init__(self) -> None:
        self._requests: OrderedDict[str, deque[Event]] = OrderedDict()

    def __call__(self, event: Event) -> None:
        if event.request_id is None:
            return
        events = self._requests.get(event.request_id)
        if events is None:
            events = self._requests[event.request_id] = deque(maxlen=KEPT_EVENTS)
            if len(self._requests) > KEPT_REQUESTS:
                self._requests.popitem(last=False)
        events.append(event)

    def events(self, request_id: str) -> list[Event]:
        """Oldest first; empty if the request is unknown or forgotten."""
        return list(self._requests.get(request_id, ()))
