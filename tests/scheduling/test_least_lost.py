"""Preemption 'least-lost': who has least to compute again yields, the best rank never."""

from __future__ import annotations

from headrace.nouns.event import Event, Kind
from headrace.nouns.sequence import Sequence
from headrace.nouns.tenant import Tenants
from headrace.scheduling.least_lost_preemption import LeastLost
from headrace.scheduling.limits import Limits
from headrace.scheduling.policy import Surroundings
from tests.scheduling.mock_executor import (
    MockExecutor,
    alone,
    make_request,
    make_scheduler,
    run_all,
    run_step,
)


class Memory:
    """Says how many leading blocks each sequence shares."""

    def __init__(self, shared: dict[str, int]) -> None:
        self._shared = shared

    def shared(self, seq: Sequence) -> int:
        return self._shared.get(seq.request.id, 0)


def victim(blocks: dict[str, int], shared: dict[str, int], needy: str) -> str:
    """Sequences in the order of their ranks, the best first, with their blocks."""
    policy = LeastLost()
    policy.bind(
        Surroundings(
            Memory(shared),  # type: ignore[arg-type]
            Limits(8, 8, 8),
            Tenants(),
            None,
            lambda event: None,
        )
    )
    sequences = {name: Sequence.of(make_request(name, [1]), 0) for name in blocks}
    for name, count in blocks.items():
        sequences[name].blocks = list(range(count))
    ranks = {seq: place for place, seq in enumerate(sequences.values())}
    chosen = policy.victim(list(sequences.values()), sequences[needy], ranks.__getitem__)
    return chosen.request.id


def test_the_one_with_the_fewest_blocks_of_its_own_yields() -> None:
    assert victim({"a": 9, "b": 5, "c": 7}, {}, "a") == "b"
    assert victim({"a": 9, "b": 5, "c": 7}, {"c": 6}, "a") == "c"


def test_of_equal_losses_the_worst_rank_yields() -> None:
    assert victim({"a": 5, "b": 5, "c": 5}, {}, "b") == "c"


def test_the_best_rank_never_yields_to_others() -> None:
    assert victim({"a": 1, "b": 50}, {}, "b") == "b"
    assert victim({"a": 1, "b": 50, "c": 40}, {}, "b") == "c"


def test_who_would_free_nothing_yields_last() -> None:
    assert victim({"a": 9, "b": 4, "c": 7}, {"b": 4}, "a") == "c"
    assert victim({"a": 9, "b": 4}, {"b": 4}, "a") == "b"


def test_one_that_is_alone_yields_itself() -> None:
    assert victim({"a": 9}, {}, "a") == "a"


def test_it_loses_less_than_the_worst_rank_would() -> None:
    lost: dict[str, int] = {}
    for preemption in ("recompute", "least-lost"):
        events: list[Event] = []
        scheduler = make_scheduler(
            blocks=30, preemption=preemption, events=events, prefix_cache=False
        )
        for i, (prompt, output) in enumerate([(8, 40), (4, 40), (4, 40), (40, 30), (4, 40)]):
            scheduler.add(make_request(f"r{i}", [i] * prompt, output), 0.0)
        run_all(scheduler, MockExecutor(4))
        lost[preemption] = sum(
            int(event.data["lost"]) for event in events if event.kind is Kind.PREEMPTED
        )
    assert 0 < lost["least-lost"] < lost["recompute"]


def test_who_yields_is_told_why() -> None:
    """Three start; the last is the longest, so that it is seldom the one to yield."""
    reasons: set[str] = set()
    for prompts in ([4, 4, 5], [4, 4, 12], [4, 4, 14]):
        events: list[Event] = []
        scheduler = make_scheduler(
            blocks=16, preemption="least-lost", events=events, prefix_cache=False, budget=64
        )
        for i, prompt in enumerate(prompts):
            scheduler.add(make_request(f"r{i}", [i] * prompt, 24), 0.0)
        run_all(scheduler, MockExecutor(4))
        reasons |= {event.reason for event in events if event.kind is Kind.PREEMPTED}
    assert "request r0 ranks before it and found no free block" in reasons
    assert "request r2 found no free block and this one loses less" in reasons
    assert "its own growth found no free block and it loses least" in reasons
    assert "it had the worst rank when its own growth found no free block" in reasons


def test_what_siblings_hold_too_is_not_counted_as_lost() -> None:
    """Two siblings on a long prompt lose next to nothing; a stranger would lose it all."""
    scheduler = make_scheduler(preemption="least-lost", blocks=21, budget=64)
    executor = MockExecutor(4)
    scheduler.add(make_request("first", [1] * 4, 40), 0.0)
    scheduler.add(make_request("shared", [2] * 40, 12, n=2), 0.0)
    scheduler.add(make_request("stranger", [3] * 12, 12, arrival=1.0), 0.0)
    groups = [scheduler.sequences(name) for name in ("first", "shared", "stranger")]
    now = 0.0
    while not any(seq.preemptions for group in groups for seq in group):
        run_step(scheduler, executor, now)
        now += 1.0
    assert groups[1][1].preemptions == 1
    run_all(scheduler, executor)
    assert all(seq.tokens == alone(seq) for group in groups for seq in group)
