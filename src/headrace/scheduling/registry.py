"""Policies by name: the built-in ones, and other packages' through entry points."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from headrace.nouns.errors import ConfigError
from headrace.scheduling.admission import Reserve, Watermark
from headrace.scheduling.batching import PrefillFirst, StallFree, Static
from headrace.scheduling.deadline_order import EarliestDue
from headrace.scheduling.fair_order import FairShares
from headrace.scheduling.future_admission import Future
from headrace.scheduling.least_lost_preemption import LeastLost
from headrace.scheduling.lookahead_order import Lookahead
from headrace.scheduling.order import ByPriority, FirstComeFirstServed
from headrace.scheduling.preemption import Recompute
from headrace.scheduling.shortest_order import ShortestFirst
from headrace.scheduling.uniform_batching import Uniform

BUILT_IN: dict[str, dict[str, Callable[[], Any]]] = {
    "order": {
        "fcfs": FirstComeFirstServed,
        "deadline": EarliestDue,
        "fair": FairShares,
        "lookahead": Lookahead,
        "priority": ByPriority,
        "shortest": ShortestFirst,
    },
    "admission": {"reserve": Reserve, "watermark": Watermark, "future": Future},
    "batching": {
        "stall-free": StallFree,
        "uniform": Uniform,
        "prefill-first": PrefillFirst,
        "static": Static,
    },
    "preemption": {"recompute": Recompute, "least-lost": LeastLost},
}

MEMBERS = {
    "order": ("key", "dynamic"),
    "admission": ("refusal",),
    "batching": ("fill",),
    "preemption": ("victim",),
}


def names(kind: str) -> list[str]:
    """Names that ``create`` knows for a kind of policy: built in, then third parties'."""
    others = {point.name for point in entry_points(group=f"headrace.{kind}")}
    return [*BUILT_IN[kind], *sorted(others - BUILT_IN[kind].keys())]


def create(kind: str, name: str) -> Any:
    """A new policy object. ``kind`` is order, admission, batching or preemption.

    Another package registers a class that takes no arguments under the entry-point group
    ``headrace.<kind>``. Built-in names cannot be replaced. Raises ConfigError.
    """
    if name in BUILT_IN[kind]:
        return BUILT_IN[kind][name]()
    for point in entry_points(group=f"headrace.{kind}"):
        if point.name == name:
            try:
                policy = point.load()()
            except Exception as error:  # a third party's code may fail in any way
                raise ConfigError(
                    f"{kind} policy {name!r} from {point.value} cannot be loaded: {error}"
                ) from error
            for member in MEMBERS[kind]:
                if not hasattr(policy, member):
                    raise ConfigError(
                        f"{kind} policy {name!r} from {point.value} is none: it has no {member!r};"
                        " headrace.scheduling.policy says what it needs"
                    )
            return policy
    raise ConfigError(f"{kind} policy {name!r} is not known; choose one of {names(kind)}")
