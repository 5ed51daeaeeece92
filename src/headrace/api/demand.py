"""Demand: how urgent an HTTP request is and of what kind, by its body, its headers or neither."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.datastructures import Headers

from headrace.api.schemas.sampling import MAX_PRIORITY, MAX_SECONDS, SamplingBody
from headrace.nouns.errors import InvalidRequest
from headrace.nouns.request import CATEGORY, Targets

PRIORITY, TTFT, TPOT = "X-Priority", "X-Target-TTFT", "X-Target-TPOT"
DEADLINE, KIND = "X-Deadline", "X-Category"
SECONDS_SCHEMA = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_SECONDS}
HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    PRIORITY: (
        {"type": "integer", "minimum": -MAX_PRIORITY - 1, "maximum": MAX_PRIORITY},
        "As the body's `priority`, which wins.",
    ),
    TTFT: (SECONDS_SCHEMA, "As the body's `targets.ttft`, which wins: seconds."),
    TPOT: (SECONDS_SCHEMA, "As the body's `targets.tpot`, which wins: seconds."),
    DEADLINE: (SECONDS_SCHEMA, "As the body's `targets.deadline`, which wins: seconds from now."),
    KIND: (
        {"type": "string", "pattern": CATEGORY.pattern},
        "As the body's `category`, which wins.",
    ),
}
"""Headers of both kinds of completion: schema and meaning, for the OpenAPI document."""

NO_TARGETS = Targets()
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Demand:
    """None, and "" as the category, where neither body nor header says anything.

    The deadline in ``targets`` is in seconds from now.
    """

    priority: int | None
    targets: Targets
    category: str

    @classmethod
    def of(cls, headers: Headers, body: SamplingBody) -> Demand:
        """Each value is the body's, else the header's. Raises InvalidRequest for a header that
        is not understood, even where the body overrules it."""
        asked = body.targets or NO_TARGETS
        return cls(
            _first(body.priority, _read(headers, PRIORITY, _priority)),
            Targets(
                _first(asked.ttft, _read(headers, TTFT, _seconds)),
                _first(asked.tpot, _read(headers, TPOT, _seconds)),
                _first(asked.deadline, _read(headers, DEADLINE, _seconds)),
            ),
            _first(body.category, _read(headers, KIND, _category)) or "",
        )


def _first(value: Value | None, other: Value | None) -> Value | None:
    return other if value is None else value


def _read(headers: Headers, name: str, parse: Callable[[str, str], Value]) -> Value | None:
    found = headers.getlist(name)
    if len(found) > 1:
        raise InvalidRequest(f"the header {name} is there {len(found)} times; send it once", name)
    return parse(name, found[0].strip()) if found else None


def _priority(name: str, text: str) -> int:
    if re.fullmatch(r"[+-]?[0-9]{1,10}", text) is not None:
        value = int(text)
        if -MAX_PRIORITY - 1 <= value <= MAX_PRIORITY:
            return value
    bounds = f"[{-MAX_PRIORITY - 1}, {MAX_PRIORITY}]"
    raise InvalidRequest(f"the header {name} is {text[:40]!r}; send an integer in {bounds}", name)


def _seconds(name: str, text: str) -> float:
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}", text) is not None:
        value = float(text)
        if 0 < value <= MAX_SECONDS:
            return value
    raise InvalidRequest(
        f"the header {name} is {text[:40]!r}; send seconds such as 0.5, above 0 and at most"
        f" {MAX_SECONDS}",
        name,
    )


def _category(name: str, text: str) -> str:
    if CATEGORY.fullmatch(text) is None:
        raise InvalidRequest(
            f"the header {name} is {text[:40]!r}; send 1 to 64 letters, digits or ._:/-", name
        )
    return text
