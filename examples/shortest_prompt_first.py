"""A scheduling policy of your own: whoever has the shortest prompt goes first, but nobody starves.

In the ``pyproject.toml`` of your package, with this file in it as ``shortest_prompt_first``:

    [project.entry-points."headrace.order"]
    shortest-prompt = "shortest_prompt_first:ShortestPromptFirst"

``headrace serve --policy order=shortest-prompt`` then finds it. Run this file to compare it with
``fcfs`` on the scheduler alone, without a model: a step takes as long as its tokens.
"""

from __future__ import annotations

from headrace.memory.sequence_memory import SequenceMemory
from headrace.nouns.request import Request
from headrace.nouns.sequence import Sequence
from headrace.nouns.step import Sampled, StepResult
from headrace.scheduling.limits import Limits
from headrace.scheduling.order import FirstComeFirstServed
from headrace.scheduling.policy import OrderPolicy
from headrace.scheduling.registry import create
from headrace.scheduling.scheduler import Policies, Scheduler


class ShortestPromptFirst:
    """A second of waiting is worth ``tokens_per_second`` fewer tokens, so long prompts get on."""

    dynamic = False  # all age alike: the order of two waiting sequences never changes
    tokens_per_second = 20.0

    def key(self, seq: Sequence, now: float) -> float:
        return seq.prompt_len + seq.request.arrival * self.tokens_per_second


def waits(order: OrderPolicy) -> list[float]:
    """Seconds to the first token of prompts of 500 and 20 tokens in turn, 16 a second."""
    rest = (create("admission", "watermark"), create("batching", "stall-free"))
    policies = Policies(order, *rest, create("preemption", "recompute"))
    memory = SequenceMemory(num_blocks=4096, block_size=16)
    scheduler = Scheduler(memory, policies, Limits(256, 512, 64), lambda event: None)
    prompts = [((i,) * (20 if i % 2 else 500), i / 16) for i in range(64)]
    late = [Request(id=f"{at}", prompt=p, max_tokens=8, arrival=at) for p, at in prompts]
    now, started = 0.0, list[Sequence]()
    while late or scheduler.has_work:
        while late and late[0].arrival <= now:
            started += scheduler.add(late.pop(0), now)
        step = scheduler.plan(now)
        now += 0.01 if step is None else 0.01 + step.tokens / 2000
        if step is not None:
            tokens = tuple(Sampled(1) if piece.samples else None for piece in step.slices)
            scheduler.commit(step, StepResult(step.id, tokens), now)
    return [(seq.first_token_at or now) - seq.request.arrival for seq in started]


if __name__ == "__main__":
    for policy in (FirstComeFirstServed(), ShortestPromptFirst()):
        found = waits(policy)
        mean = sum(found) / len(found)
        print(f"{type(policy).__name__:20} mean {mean:.2f} s, longest {max(found):.2f} s")
