"""Timeline: chosen seconds of a simulated fleet, in Chrome's trace event format.

The format is that of the document "Trace Event Format" (Chromium project), which
ui.perfetto.dev opens: steps are complete events (``X``), the phases of a request are nestable
asynchronous ones (``b``, ``e``), counters are ``C``. Times are in microseconds of the simulation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.nouns.event import Event, Kind, Sink

MOST_EVENTS = 400_000  # about 80 MB of JSON
STEPS = 1  # the thread of an instance's steps

_NEXT = {
    Kind.ADMITTED: "prefill",
    Kind.FIRST_TOKEN: "decode",
    Kind.PREEMPTED: "preempted",
}
_ENDS = (Kind.FINISHED, Kind.ABORTED)


class Timeline:
    """Gathers what happens from ``start`` to ``stop`` seconds, on a track for each instance.

    At most ``most`` entries are kept: ``full_at`` is then the time at which it was full.
    """

    def __init__(self, start: float, stop: float, most: int = MOST_EVENTS) -> None:
        self.start, self.stop = start, stop
        self.full_at: float | None = None
        self._most = most
        self._entries: list[dict[str, Any]] = []
        self._names: list[dict[str, Any]] = []

    def listen(self, index: int, name: str) -> Sink:
        """The event sink of the instance with this number."""
        pid = index + 1
        self._names += [
            {"name": "process_name", "ph": "M", "pid": pid, "tid": 0, "args": {"name": name}},
            {"name": "thread_name", "ph": "M", "pid": pid, "tid": STEPS, "args": {"name": "steps"}},
        ]
        return _Track(self, pid)

    def to_json(self) -> dict[str, Any]:
        """The format's object."""
        about = {"from_seconds": self.start, "to_seconds": self.end}
        return {
            "traceEvents": self._names + self._entries,
            "displayTimeUnit": "ms",
            "otherData": about,
        }

    @property
    def end(self) -> float:
        """What happened up to then is in it."""
        return self.stop if self.full_at is None else min(self.stop, self.full_at)

    def add(self, now: float, *entries: dict[str, Any]) -> None:
        if self.full_at is not None:
            return
        if len(self._entries) + len(entries) > self._most:
            self.full_at = now
            return
        self._entries += entries


class _Track:
    """An event sink: one instance's steps, requests and counters."""

    def __init__(self, timeline: Timeline, pid: int) -> None:
        self._timeline = timeline
        self._pid = pid
        self._planned: Event | None = None
        self._phases: dict[tuple[str, int], tuple[str, float]] = {}

    def __call__(self, event: Event) -> None:
        kind, timeline = event.kind, self._timeline
        if event.time > timeline.end:
            self._phases.clear()
            return
        if kind is Kind.PLANNED:
            self._planned = event
            if event.time >= timeline.start:
                self._count(event)
        elif kind is Kind.RAN:
            if event.time >= timeline.start and self._planned is not None:
                self._step(self._planned, event)
            self._planned = None
        elif kind is Kind.ARRIVED:
            assert event.request_id is not None
            for index in range(int(event.data["n"])):
                self._phases[event.request_id, index] = ("waiting", event.time)
        elif kind in _NEXT or kind in _ENDS:
            self._request(event)
        elif kind is Kind.REFUSED and event.time >= timeline.start:
            entry = self._entry("i", "refused", event.time) | {"tid": STEPS, "s": "p"}
            timeline.add(event.time, entry | {"args": {"reason": event.reason}})

    def _step(self, planned: Event, ran: Event) -> None:
        tokens = ran.data["tokens"]
        entry = self._entry("X", f"{tokens} token{'s' if tokens != 1 else ''}", planned.time)
        args = dict(planned.data) | {"step": ran.step_id, "reason": ran.reason}
        entry |= {"tid": STEPS, "dur": 1e6 * (ran.time - planned.time), "args": args}
        self._timeline.add(ran.time, entry)

    def _count(self, planned: Event) -> None:
        data = planned.data
        blocks = {"free": data["free_blocks"]}
        sequences = {"running": data["running"], "waiting": data["waiting"]}
        self._timeline.add(
            planned.time,
            self._entry("C", "cache blocks", planned.time) | {"args": blocks},
            self._entry("C", "sequences", planned.time) | {"args": sequences},
        )

    def _request(self, event: Event) -> None:
        assert event.request_id is not None
        assert event.index is not None
        key = (event.request_id, event.index)
        before = self._phases.pop(key, None)
        if before is not None and event.time >= self._timeline.start:
            self._phase(key, *before, event)
        if event.kind in _NEXT:
            name = _NEXT[event.kind]
            if event.kind is Kind.ADMITTED and event.data["preemptions"]:
                name = "resumed"
            self._phases[key] = (name, event.time)

    def _phase(self, key: tuple[str, int], name: str, since: float, event: Event) -> None:
        of = {"cat": "request", "id": f"{self._pid} {key[0]} {key[1]}", "tid": STEPS}
        args: Mapping[str, float | int | str] = {"request": key[0], "until": event.kind.value}
        if event.reason:
            args = {**args, "why": event.reason}
        if event.kind in _ENDS:
            args = {**args, **event.data}
        self._timeline.add(
            event.time,
            self._entry("b", name, since) | of | {"args": dict(args)},
            self._entry("e", name, event.time) | of,
        )

    def _entry(self, phase: str, name: str, time: float) -> dict[str, Any]:
        return {"name": name, "ph": phase, "pid": self._pid, "ts": 1e6 * time}
