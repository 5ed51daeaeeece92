"""What a request waits for, in a form to be printed or sent."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.nouns.event import Event
from headrace.nouns.sequence import Sequence, Status


def explain(
    request_id: str,
    sequences: list[Sequence],
    events: list[Event],
    now: float,
    starts: Mapping[int, float],
) -> dict[str, object] | None:
    """State, waits in seconds by cause, and the events with their reasons.

    ``sequences`` is empty for a request that has ended; then the events tell the rest. Times of
    events are seconds before now, ``starts`` the predicted seconds until sequences that wait start,
    by index.
    """
    if not sequences and not events:
        return None
    arrived = next((event for event in events if "tenant" in event.data), None)
    tenant = sequences[0].request.tenant if sequences else arrived and arrived.data["tenant"]
    return {
        "id": request_id,
        "tenant": tenant,
        "state": "active" if sequences else "ended",
        "sequences": [_sequence(seq, now, starts.get(seq.index)) for seq in sequences],
        "events": [_event(event, now) for event in events],
    }


def _sequence(seq: Sequence, now: float, start: float | None) -> dict[str, object]:
    # A copy first: the engine's thread may book a wait meanwhile.
    waits = {cause.value: seconds for cause, seconds in dict(seq.waits).items()}
    if seq.wait is not None:
        waits[seq.wait.value] = waits.get(seq.wait.value, 0.0) + now - seq.wait_since
    return {
        "index": seq.index,
        "status": seq.status.value,
        "prompt_tokens": seq.prompt_len,
        "output_tokens": seq.output_len,
        "computed_tokens": seq.computed,
        "cached_tokens": seq.cached or 0,
        "preemptions": seq.preemptions,
        "waits_for": None if seq.wait is None else seq.wait.value,
        "because": seq.wait_detail if seq.wait is not None else "",
        "waited_seconds": waits,
        "predicted_start": start if seq.status is Status.WAITING else None,
    }


def _event(event: Event, now: float) -> dict[str, object]:
    return {
        "kind": event.kind.value,
        "seconds_ago": now - event.time,
        "sequence": event.index,
        "step": event.step_id,
        "reason": event.reason,
        **event.data,
    }
