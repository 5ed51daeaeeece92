"""Traces of profiled steps in Chrome's trace event format, for ui.perfetto.dev.

The format is that of the document "Trace Event Format" (Chromium project): complete events (``X``)
with times in microseconds, counters (``C``) and names of threads (``M``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headrace.execution.profile import NO_LAYER, Profile, Span, TracedStep
from headrace.nouns.errors import ConfigError

PROCESS, STEPS, LAYOUTS = 1, 1, 2
SHARE = "share of the limit, %"


def check_trace_path(path: Path) -> None:
    """Raises ConfigError unless a trace can be written to ``path``."""
    if path.suffix.lower() != ".json":
        raise ConfigError(f"the trace {path} must end in .json")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"the trace {path} cannot be written: its directory does not exist")


def write_trace(profile: Profile, path: Path) -> None:
    """Write the traced steps of a profile. Raises ConfigError when the file cannot be written."""
    check_trace_path(path)
    try:
        with path.open("w", encoding="utf-8") as file:
            json.dump(trace(profile), file, separators=(",", ":"))
    except OSError as error:
        raise ConfigError(f"the trace {path} cannot be written: {error.strerror}") from error


def trace(profile: Profile) -> dict[str, Any]:
    """The traced steps as the format's object. Times begin with the first step."""
    zero = min((min(step.start, step.layout[2]) for step in profile.traced), default=0)
    events = [
        _name("process_name", 0, "headrace"),
        _name("thread_name", STEPS, "steps"),
        _name("thread_name", LAYOUTS, "layout"),
    ]
    for step in profile.traced:
        events.extend(_step(step, zero))
    about = {"steps": len(profile.traced), "steps_profiled": profile.steps}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}


def _step(step: TracedStep, zero: int) -> Iterator[dict[str, Any]]:
    args: dict[str, Any] = {"step": step.id, "rows": step.rows, "slices": step.slices}
    if step.work is not None:
        share = 1e11 * step.work.seconds / max(step.end - step.start, 1)
        args |= {
            "operations": step.work.operations,
            "bytes": step.work.bytes,
            "limit_ms": 1e3 * step.work.seconds,
            SHARE: share,
        }
        yield {
            "name": SHARE, "ph": "C", "pid": PROCESS, "ts": (step.start - zero) / 1e3,
            "args": {"%": share},
        }  # fmt: skip
    name = f"{step.rows} row{'s' if step.rows > 1 else ''}"
    yield _complete((name, NO_LAYER, step.start, step.end), STEPS, zero, args)
    yield _complete(step.layout, LAYOUTS, zero, {"step": step.id})
    for span in step.spans:
        yield _complete(span, STEPS, zero, {} if span[1] == NO_LAYER else {"layer": span[1]})


def _complete(span: Span, thread: int, zero: int, args: dict[str, Any]) -> dict[str, Any]:
    name, _, start, end = span
    return {
        "name": name, "ph": "X", "pid": PROCESS, "tid": thread, "ts": (start - zero) / 1e3,
        "dur": (end - start) / 1e3, "args": args,
    }  # fmt: skip


def _name(kind: str, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": PROCESS, "tid": thread, "args": {"name": name}}
