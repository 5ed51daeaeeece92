"""PromptTree: waiting prompts by what they begin with, laid out for one pass over them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from headrace.nouns.sequence import Sequence

UNIT = 16
"""Tokens in which prefixes are compared; a shorter one in common saves next to nothing."""


@dataclass(slots=True, eq=False)
class _Node:
    """``prompt[start:end]`` after what leads here; whole units. ``ends`` go on with less than one
    unit. ``decode`` and ``prefill`` are sums over everything below."""

    prompt: tuple[int, ...]
    start: int
    end: int
    children: dict[tuple[int, ...], _Node] = field(default_factory=dict)
    ends: list[Sequence] = field(default_factory=list)
    decode: float = 0.0
    prefill: int = 0
    first: int = 0


class PromptTree:
    """A radix tree over the prompts of each tenant, in units of ``UNIT`` tokens.

    Adding takes time by the prefix that is shared, laying out by the number of prompts.
    """

    def __init__(self) -> None:
        self._roots: dict[str, _Node] = {}

    def add(self, seq: Sequence) -> None:
        prompt = seq.request.prompt
        whole = len(prompt) // UNIT * UNIT
        node = self._roots.get(seq.request.tenant)
        if node is None:
            node = self._roots[seq.request.tenant] = _Node((), 0, 0)
        at = 0
        while at < whole:
            head = prompt[at : at + UNIT]
            child = node.children.get(head)
            if child is None:
                child = node.children[head] = _Node(prompt, at, whole)
                at = whole
            else:
                same = _in_common(child, prompt, at, whole)
                if same < child.end - child.start:
                    child = node.children[head] = _split(child, same)
                at += same
            node = child
        node.ends.append(seq)

    def lay_out(
        self, output: Callable[[Sequence], float], wanted: Callable[[Sequence], bool]
    ) -> Iterator[Sequence]:
        """Those wanted: sharers together, siblings so that decodes and prefill keep in step.

        ``output`` gives the tokens that a sequence will decode.
        """
        for root in self._roots.values():
            _sum_up(root, output, wanted)
        ahead: list[_Node | Sequence] = _siblings(list(self._roots.values()), [], output)
        while ahead:
            item = ahead.pop()
            if isinstance(item, Sequence):
                yield item
            else:
                ends = [seq for seq in item.ends if wanted(seq)]
                ahead.extend(_siblings(list(item.children.values()), ends, output))


def _in_common(node: _Node, prompt: tuple[int, ...], at: int, whole: int) -> int:
    """Tokens of whole units that ``prompt`` from ``at`` on has in common with the node's."""
    most = min(node.end - node.start, whole - at)
    if prompt[at : at + most] == node.prompt[node.start : node.start + most]:
        return most
    low, high = 1, most // UNIT - 1  # the first unit led here, the last cannot be the same
    while low < high:
        middle = (low + high + 1) // 2
        tokens = middle * UNIT
        if prompt[at : at + tokens] == node.prompt[node.start : node.start + tokens]:
            low = middle
        else:
            high = middle - 1
    return low * UNIT


def _split(node: _Node, tokens: int) -> _Node:
    """A node for the first ``tokens`` of a node's, with the rest of it below."""
    middle = node.start + tokens
    upper = _Node(node.prompt, node.start, middle)
    node.start = middle
    upper.children[node.prompt[middle : middle + UNIT]] = node
    return upper


def _sum_up(
    root: _Node, output: Callable[[Sequence], float], wanted: Callable[[Sequence], bool]
) -> None:
    """Fills in the sums, without recursion: prompts may nest deeply."""
    nodes = [root]
    for node in nodes:  # parents before children
        nodes.extend(node.children.values())
    for node in reversed(nodes):
        ends = [seq for seq in node.ends if wanted(seq)]
        below = node.children.values()
        node.decode = sum(child.decode for child in below) + sum(output(seq) for seq in ends)
        node.prefill = sum(child.prefill for child in below)
        node.prefill += sum(seq.prompt_len % UNIT + 1 for seq in ends)
        if node.decode:  # somebody is below
            node.prefill += node.end - node.start
        tickets = [seq.ticket for seq in ends] + [child.first for child in below if child.decode]
        node.first = min(tickets, default=0)


def _siblings(
    nodes: list[_Node], ends: list[Sequence], output: Callable[[Sequence], float]
) -> list[_Node | Sequence]:
    """In the order in which they are left for later: the first to start is the last.

    Started are, from both ends of the list by decodes for each token of prefill, whoever keeps the
    two of what has started in the proportion that they have in all.
    """
    ranked: list[tuple[float, int, float, int, _Node | Sequence]] = [
        (node.decode / node.prefill, -node.first, node.decode, node.prefill, node)
        for node in nodes
        if node.decode
    ]
    for seq in ends:
        decode, prefill = output(seq), seq.prompt_len % UNIT + 1
        ranked.append((decode / prefill, -seq.ticket, decode, prefill, seq))
    ranked.sort(key=lambda entry: entry[:2])
    waiting = deque(ranked)
    all_decode, all_prefill = sum(entry[2] for entry in ranked), sum(entry[3] for entry in ranked)
    decode, prefill, order = 0.0, 0, []
    while waiting:
        behind = decode * all_prefill <= prefill * all_decode
        entry = waiting.pop() if behind else waiting.popleft()
        decode, prefill = decode + entry[2], prefill + entry[3]
        order.append(entry[4])
    order.reverse()
    return order
