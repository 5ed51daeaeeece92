"""Queue order for offline batches: sharers of a prefix together, prompts and decodes mixed."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator

from headrace.nouns.sequence import Sequence
from headrace.scheduling.policy import Queue
from headrace.scheduling.prompt_tree import PromptTree

NEWS = 0.05  # weight of the last output in the mean length of its category's
CATEGORIES = 1024

Place = tuple[int, int]  # number of the plan, position in it


class Lookahead:
    """Orders what waits as a whole, after BatchLLM (arXiv:2412.03594, sections 4.1 and 4.2).

    Everything that waits is made into one tree of prompts; who shares a prefix, on whatever level,
    starts one after the other, so that the prefix is computed once and its blocks are given up
    once. (BatchLLM keeps one level, which its attention kernel needs; a tree of blocks keeps all.)
    Among siblings in the tree, those with more tokens to decode for each token to prefill come
    first, so that their decodes go along with the prompts of those behind. BatchLLM sorts by that
    ratio; here the other end of the list follows as soon as decodes are ahead, so that every part
    of the batch has prompts and decodes in the proportion of the whole. How many run together is
    up to memory: the batching fills steps by tokens, the admission fills the memory.

    Tokens to decode are the mean output of the request's category, ``max_tokens`` until one of
    that category has ended. What arrives meanwhile waits until the present plan has started as a
    whole, then the next is made of it. So nobody starves: a sequence is overtaken only by those
    that arrived before the first plan after its arrival was made.
    """

    dynamic = False

    def __init__(self) -> None:
        self._outputs: dict[str, float] = {}
        self._queue = LookaheadQueue(self.expected_output)

    def queue(self) -> Queue:
        return self._queue

    def key(self, seq: Sequence, now: float) -> Place:
        return self._queue.place(seq)

    def expected_output(self, seq: Sequence) -> float:
        """Tokens that it will probably still produce, at least one."""
        most = seq.request.max_tokens
        mean = self._outputs.get(seq.request.category, most)
        return max(1.0, min(mean, most) - seq.output_len)

    def ended(self, seq: Sequence, now: float) -> None:
        self._queue.forget(seq)
        category, length = seq.request.category, seq.output_len
        if length:
            mean = self._outputs.pop(category, length)
            if len(self._outputs) >= CATEGORIES:
                del self._outputs[next(iter(self._outputs))]
            self._outputs[category] = mean + NEWS * (length - mean)


class LookaheadQueue:
    """Implements ``Queue``: the present plan, and the tree of those for the next.

    Who yielded its memory goes back to its place in the plan.
    """

    def __init__(self, output: Callable[[Sequence], float]) -> None:
        self._output = output
        self._plans = 0
        self._places: dict[Sequence, Place] = {}  # of those planned and not ended
        self._plan: list[Sequence] = []  # the next at the end
        self._arrivals: dict[Sequence, None] = {}
        self._tree = PromptTree()

    def __len__(self) -> int:
        return len(self._plan) + len(self._arrivals)

    def __iter__(self) -> Iterator[Sequence]:
        yield from reversed(self._plan)
        yield from self._arrivals

    def __getitem__(self, position: int) -> Sequence:
        if position >= len(self._plan) and self._arrivals:
            self._look_ahead()
        return self._plan[-1 - position]

    def place(self, seq: Sequence) -> Place:
        """Where it stands among all, those to be planned last."""
        return self._places.get(seq, (self._plans + 1, seq.ticket))

    def push(self, seq: Sequence, now: float) -> None:
        if seq in self._places:
            insort(self._plan, seq, key=self._from_the_end)
        else:
            self._arrivals[seq] = None
            self._tree.add(seq)

    def pop(self, position: int) -> Sequence:
        seq = self[position]
        del self._plan[-1 - position]
        return seq

    def remove(self, seq: Sequence, now: float) -> None:
        if seq in self._arrivals:
            del self._arrivals[seq]  # the tree's pass leaves it out
            if not self._arrivals:
                self._tree = PromptTree()
            return
        if seq in self._places:
            key = self._from_the_end
            at = bisect_left(self._plan, key(seq), key=key)
            if at < len(self._plan) and self._plan[at] is seq:
                del self._plan[at]
                return
        raise ValueError(f"sequence {seq.key} is not waiting")

    def refresh(self, now: float) -> None:
        """Places stay as they are."""

    def forget(self, seq: Sequence) -> None:
        """It has ended."""
        self._places.pop(seq, None)

    def check_integrity(self) -> None:
        """The plan is sorted by place; nobody is in it twice or without a place."""
        places = [self._from_the_end(seq) for seq in self._plan]
        assert places == sorted(places), "the queue is out of order"
        assert len(set(places)) == len(places), "two sequences have one place"
        assert not self._arrivals.keys() & self._places.keys(), "a sequence is planned again"

    def _look_ahead(self) -> None:
        """Plans those that have arrived, to start after all that are planned."""
        self._plans += 1
        ordered = list(self._tree.lay_out(self._output, self._arrivals.__contains__))
        for position, seq in enumerate(ordered):
            self._places[seq] = (self._plans, position)
        self._plan[:0] = reversed(ordered)
        self._arrivals.clear()
        self._tree = PromptTree()

    def _from_the_end(self, seq: Sequence) -> Place:
        plan, position = self._places[seq]
        return (-plan, -position)
