"""PrefixAware: where the longest part of the prompt is known, unless too much waits there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from headrace.simulation.arrival import Arrival
from headrace.simulation.router import Load

KEPT = 65_536  # prefixes remembered; the least recently used are forgotten first
APART = 16  # requests that an instance may have beyond the idlest one ...
RATIO = 1.5  # ... and beyond this multiple of the idlest one's

_Path = tuple[object, ...]


class PrefixAware:
    """Exploits what an instance has in its cache, explores where that is little.

    The rule is that of Preble (arXiv:2407.00023, algorithm E2): an instance that has more of the
    prompt than it lacks gets the request, the least loaded one of those that have most; otherwise
    the instance that would be through with its backlog and what it lacks of the prompt first.
    Imbalance is bounded as in SGLang's router, by a difference and a ratio (its options
    ``balance-abs-threshold`` and ``balance-rel-threshold``; the difference is 64 there and less
    here, which docs/simulation.md compares): an instance that is too far ahead of the idlest one
    gets nothing for its cache's sake. What instances have is what was sent there, not what they
    tell.
    """

    def __init__(self, seed: int = 0) -> None:
        self._known: OrderedDict[_Path, dict[int, int]] = OrderedDict()

    def choose(self, arrival: Arrival, loads: Sequence[Load]) -> Load:
        found = self._found(arrival) if arrival.prefix else {}
        chosen = min(
            loads,
            key=lambda load: (
                (load.tokens + arrival.prompt_tokens - found.get(load.index, 0)) / load.speed
            ),
        )
        most = max((found.get(load.index, 0) for load in loads), default=0)
        if 2 * most > arrival.prompt_tokens:
            those = [load for load in loads if found.get(load.index, 0) == most]
            warmest = min(those, key=lambda load: load.backlog)
            idlest = min(load.requests for load in loads)
            if warmest.requests <= max(idlest + APART, RATIO * idlest):
                chosen = warmest
        self._remember(arrival, chosen.index)
        return chosen

    def lost(self, index: int) -> None:
        for instances in self._known.values():
            instances.pop(index, None)

    def _found(self, arrival: Arrival) -> dict[int, int]:
        """Tokens of the prompt's beginning that were sent to each instance before."""
        found: dict[int, int] = {}
        begun = 0
        whole: set[int] | None = None  # instances that know everything up to here
        for path, tokens in _paths(arrival):
            instances = self._known.get(path, {})
            knowing = {
                index: min(known, tokens)
                for index, known in instances.items()
                if whole is None or index in whole
            }
            for index, known in knowing.items():
                found[index] = begun + known
            begun += tokens
            whole = {index for index, known in knowing.items() if known == tokens}
            if not whole:
                break
        return found

    def _remember(self, arrival: Arrival, index: int) -> None:
        for path, tokens in _paths(arrival):
            instances = self._known.setdefault(path, {})
            instances[index] = max(instances.get(index, 0), tokens)
            self._known.move_to_end(path)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)


def _paths(arrival: Arrival) -> Iterator[tuple[_Path, int]]:
    """(what leads to a part of the prefix, tokens of that part), part by part."""
    before: _Path = (arrival.tenant,)
    for group, tokens in arrival.prefix:
        yield (*before, group), tokens
        before = (*before, group, tokens)
