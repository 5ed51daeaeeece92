"""Routers by name: the built-in ones, and other packages' through entry points."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from headrace.nouns.errors import ConfigError
from headrace.simulation.router import Router
from headrace.simulation.routers.least_tokens import LeastTokens
from headrace.simulation.routers.prefix_aware import PrefixAware
from headrace.simulation.routers.round_robin import RoundRobin
from headrace.simulation.routers.two_choices import TwoChoices

GROUP = "headrace.router"
DEFAULT = "least-tokens"
BUILT_IN: dict[str, Callable[[int], Router]] = {
    "least-tokens": LeastTokens,
    "round-robin": RoundRobin,
    "two-choices": TwoChoices,
    "prefix-aware": PrefixAware,
}


def names() -> list[str]:
    """Names that ``create`` knows: built in, then third parties'."""
    others = {point.name for point in entry_points(group=GROUP)}
    return [*BUILT_IN, *sorted(others - BUILT_IN.keys())]


def create(name: str, seed: int = 0) -> Router:
    """A new router.

    Another package registers a class that takes a seed under the entry-point group
    ``headrace.router``. Built-in names cannot be replaced. Raises ConfigError.
    """
    if name in BUILT_IN:
        return BUILT_IN[name](seed)
    for point in entry_points(group=GROUP):
        if point.name == name:
            try:
                router: Router = point.load()(seed)
            except Exception as error:  # a third party's code may fail in any way
                raise ConfigError(
                    f"router {name!r} from {point.value} cannot be loaded: {error}"
                ) from error
            for member in ("choose", "lost"):
                if not hasattr(router, member):
                    raise ConfigError(
                        f"router {name!r} from {point.value} is none: it has no {member!r};"
                        " headrace.simulation.router says what it needs"
                    )
            return router
    raise ConfigError(f"router {name!r} is not known; choose one of {', '.join(names())}")
