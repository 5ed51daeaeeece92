"""Admission by forecasts: the peak against brute force, perfect knowledge, shared blocks, words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.nouns.errors import ConfigError
from headrace.nouns.event import Event, Kind
from headrace.nouns.sequence import FinishReason, Sequence, Wait
from headrace.scheduling.forecast import Forecast, uniform
from headrace.scheduling.future_admission import GLANCES, Future
from headrace.scheduling.memory_peak import Peak
from headrace.scheduling.output_lengths import OutputLengths
from headrace.scheduling.scheduler import Scheduler
from tests.scheduling.mock_executor import (
    MockExecutor,
    cause,
    make_request,
    make_scheduler,
    run_all,
    run_step,
)

EOS = frozenset([0])


def running_ids(scheduler: Scheduler) -> set[str]:
    return {seq.request.id for seq in scheduler.running}


def taught(*lengths: int) -> OutputLengths:
    """Knows sequences that ended by themselves after so many tokens."""
    known = OutputLengths()
    for length in lengths:
        seq = Sequence.of(make_request("past", [1], 10_000, eos=EOS), 0)
        seq.tokens.extend([5] * length)
        seq.finish_reason = FinishReason.STOP
        known.observe(seq)
    return known


@given(
    sequences=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 50)), min_size=1, max_size=12),
    size=st.sampled_from([1, 3, 4, 16]),
    spare=st.integers(-3, 3),
)
def test_memory_overflows_if_it_ever_does(
    sequences: list[tuple[int, int]], size: int, spare: int
) -> None:
    until = sequences[0][0]
    use = {
        t: sum((base + t) // size for left, base in sequences if left >= t)
        for t in range(1, 1 + max(left for left, _ in sequences))
    }
    most = max(used for t, used in use.items() if t <= until)
    peak = Peak(sequences, size, until)
    assert peak.excess(most) is None
    assert peak.tokens >= max(use.values()) * size
    room = most + spare
    found = peak.excess(room)
    assert (found is not None) == (most > room)
    if found is not None:
        blocks, when = found
        assert use[when] == blocks > room
        assert when <= until


JOBS = st.lists(
    st.tuples(
        st.one_of(st.integers(1, 20), st.integers(30, 60)),  # prompt
        st.integers(1, 20),  # output
        st.integers(1, 3),  # n
        st.integers(0, 6),  # steps since the last arrival
        st.integers(0, 2),  # what the prompt begins with
    ),
    min_size=2,
    max_size=10,
)


@settings(max_examples=60)
@given(
    jobs=JOBS,
    blocks=st.integers(20, 30),
    budget=st.integers(9, 24),
    prefix_cache=st.booleans(),
    block_size=st.sampled_from([1, 4]),
)
def test_with_perfect_knowledge_nobody_yields_and_everybody_ends(
    jobs: list[tuple[int, int, int, int, int]],
    blocks: int,
    budget: int,
    prefix_cache: bool,
    block_size: int,
) -> None:
    """Outputs that can only end at their bound are known in advance."""
    events: list[Event] = []
    scheduler = make_scheduler(
        admission="future",
        blocks=blocks * 4 // block_size,
        block_size=block_size,
        budget=budget,
        sequences=8,
        prefix_cache=prefix_cache,
        events=events,
    )
    executor, now, sequences = MockExecutor(block_size), 0.0, 0
    for i, (prompt, output, n, pause, start) in enumerate(jobs):
        tokens = ([start] * 8 + [i] * 60)[:prompt]
        scheduler.add(make_request(f"r{i}", tokens, output, n=n, arrival=now), now)
        sequences += n
        for _ in range(pause):
            run_step(scheduler, executor, now)
            scheduler.check_integrity()
            now += 1.0
    run_all(scheduler, executor)
    kinds = [event.kind for event in events]
    assert Kind.PREEMPTED not in kinds
    assert kinds.count(Kind.FINISHED) == sequences


def test_admits_more_than_full_lengths_at_once_where_others_end_in_time() -> None:
    """Two that need 5 blocks each at their end, 7 blocks: the second fits once the first has
    come so far that it ends before the second is large. Full lengths are never both free."""
    started: dict[str, float] = {}
    for admission in ("future", "reserve"):
        scheduler, executor = make_scheduler(admission=admission, blocks=7), MockExecutor(4)
        scheduler.add(make_request("first", [1], 20), 0.0)
        for now in range(8):
            run_step(scheduler, executor, float(now))
        (second,) = scheduler.add(make_request("second", [2], 20, arrival=8.0), 8.0)
        run_all(scheduler, executor)
        assert second.admitted_at is not None
        assert second.preemptions == 0
        started[admission] = second.admitted_at
    assert started["future"] < started["reserve"]


def test_a_refusal_says_what_is_foreseen() -> None:
    scheduler, executor = make_scheduler(admission="future", blocks=9), MockExecutor(4)
    for i in range(2):
        scheduler.add(make_request(f"r{i}", [i] * 4, 13), 0.0)
    run_step(scheduler, executor, 0.0)
    scheduler.add(make_request("r2", [2] * 4, 12), 1.0)
    run_step(scheduler, executor, 1.0)
    assert running_ids(scheduler) == {"r0", "r1"}
    (waiting,) = scheduler.waiting
    assert cause(waiting) is Wait.MEMORY
    assert waiting.wait_detail == (
        "with it, expected to go on for 12 tokens, 12 blocks would be in use in 12 steps and"
        " there are 9; it has to fit in 3 of 4 forecasts"
    )


def test_learns_how_long_answers_are() -> None:
    """Clients allow 100 tokens, answers have 4: once that is known, more of them run at once."""

    class Short(MockExecutor):
        def sample(self, seq: Sequence, token: int) -> object:  # type: ignore[override]
            return super().sample(seq, 0 if seq.output_len == 3 else 7)

    policy = Future()
    scheduler = make_scheduler(admission=policy, blocks=26, budget=64, sequences=16)
    executor, started = Short(4), []
    for wave in range(3):
        for i in range(20):
            request = make_request(f"w{wave} {i}", [i, wave], 100, eos=EOS)
            scheduler.add(request, float(wave))
        run_step(scheduler, executor, float(wave))
        started.append(len(scheduler.running))
        run_all(scheduler, executor)
    assert started[0] < 4
    assert started[1] == started[2] > 6
    assert policy.lengths.observed == 60


@pytest.mark.parametrize(("samples", "confidence"), [(1, 1.0), (4, 0.5), (32, 0.97)])
def test_confidence_is_the_share_of_forecasts_in_which_it_fits(
    samples: int, confidence: float
) -> None:
    """Answers have 1 or, three times as often, 50 tokens; two fit unless both are long."""
    known = taught(*[1, 50, 50, 50] * 25)
    refused = 0
    for trial in range(200):
        policy = Future(samples, confidence, 0.0, known)
        scheduler = make_scheduler(admission=policy, blocks=18, budget=64)
        for _ in range(trial):  # other draws
            scheduler.abort("x", 0.0, "") if scheduler.add(make_request("x", [1]), 0.0) else None
        for name in ("a", "b"):
            scheduler.add(make_request(name, [ord(name)] * 4, 60, eos=EOS), 0.0)
        run_step(scheduler, MockExecutor(4), 0.0)
        draws = [policy._forecasts[scheduler.sequences(name)[0]].totals for name in ("a", "b")]
        fits = sum(min(pair) == 5 for pair in zip(*draws, strict=True))
        assert (fits / samples >= confidence) == (running_ids(scheduler) == {"a", "b"})
        refused += len(scheduler.waiting)
    assert 0 < refused < 200 or samples == 32


@pytest.mark.parametrize(("spare", "starts"), [(0.0, True), (0.1, True), (0.3, False)])
def test_a_share_of_memory_stays_free_where_somebody_has_to_end(spare: float, starts: bool) -> None:
    """Each needs 10 of 18 blocks; when the first ends, 15 or 16 are in use."""
    scheduler = make_scheduler(admission=Future(spare=spare), blocks=18, budget=64)
    executor = MockExecutor(4)
    scheduler.add(make_request("first", [1] * 4, 37), 0.0)
    for now in range(24):
        run_step(scheduler, executor, float(now))
    scheduler.add(make_request("second", [2] * 4, 37), 24.0)
    run_step(scheduler, executor, 24.0)
    assert (len(scheduler.running) == 2) == starts
    run_all(scheduler, executor)


def test_a_draw_stands_until_it_is_outlived() -> None:
    known = taught(*range(1, 101))
    seq = Sequence.of(make_request("r", [1, 2], 300, eos=EOS), 0)
    forecast = Forecast(seq, 16, known)
    first = list(forecast.totals)
    assert all(3 <= total <= 102 for total in first)
    seq.tokens.extend([9] * 50)
    forecast.extend(known)
    for before, after in zip(first, forecast.totals, strict=True):
        assert after == before if before > 52 else after > 52
    assert (forecast.shortest, forecast.longest) == (min(forecast.totals), max(forecast.totals))


def test_draws_are_a_systematic_sample_and_independent_between_sequences() -> None:
    known = taught(*range(1, 101))
    counts = [0] * 10
    for ticket in range(500):
        seq = Sequence.of(make_request("r", [1], 300, eos=EOS), 0)
        seq.ticket = ticket
        lengths = [total - 1 for total in Forecast(seq, 4, known).totals]
        assert sorted((length - 1) // 25 for length in lengths) == [0, 1, 2, 3]
        counts[(lengths[0] - 1) // 10] += 1
    assert sum(counts) == 500
    assert all(30 <= count <= 70 for count in counts)


def test_uniform_numbers_are_evenly_spread_and_depend_on_each_counter() -> None:
    numbers = [uniform(ticket, known) for ticket in range(100) for known in range(100)]
    assert len(set(numbers)) == 10_000
    for tenth in range(10):
        share = sum(tenth / 10 <= number < (tenth + 1) / 10 for number in numbers) / 10_000
        assert abs(share - 0.1) < 0.015
    assert uniform(1, 2) == uniform(1, 2) != uniform(2, 1)


def test_a_shared_prefix_is_counted_once() -> None:
    """Alone each needs 3 blocks; 2 of them are the same. The last that fits begins block 6."""
    scheduler, executor = make_scheduler(admission="future", blocks=6, budget=64), MockExecutor(4)
    prefix = list(range(8))
    scheduler.add(make_request("a", [*prefix, 1], 4), 0.0)
    run_step(scheduler, executor, 0.0)
    for i, name in enumerate("bcde"):
        scheduler.add(make_request(name, [*prefix, 2 + i], 4), 1.0)
    run_step(scheduler, executor, 1.0)
    assert running_ids(scheduler) == {"a", "b", "c", "d"}
    assert cause(scheduler.sequences("e")[0]) is Wait.MEMORY
    run_all(scheduler, executor)


def test_a_block_that_another_came_to_share_outlives_its_first_holder() -> None:
    """``a`` ends first, but the prefix that ``b`` shares with it stays; ``c`` must wait for it."""
    events: list[Event] = []
    scheduler = make_scheduler(admission="future", blocks=8, budget=64, events=events)
    executor, prefix = MockExecutor(4), list(range(8))
    scheduler.add(make_request("a", [*prefix, 1], 3), 0.0)
    run_step(scheduler, executor, 0.0)
    scheduler.add(make_request("b", [*prefix, 2], 12), 1.0)
    scheduler.add(make_request("c", [9] * 9, 8), 1.0)
    run_all(scheduler, executor)
    assert not [event for event in events if event.kind is Kind.PREEMPTED]


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_siblings_share_their_prompt(prefix_cache: bool) -> None:
    """3 siblings of 8 + 8 tokens: 2 blocks of prompt for all, 2 blocks of their own each."""
    scheduler = make_scheduler(
        admission="future", blocks=8, budget=64, prefix_cache=prefix_cache, events=(events := [])
    )
    executor = MockExecutor(4)
    scheduler.add(make_request("r", list(range(9)), 8, n=3), 0.0)
    run_step(scheduler, executor, 0.0)
    run_step(scheduler, executor, 1.0)
    assert len(scheduler.running) == 3
    run_all(scheduler, executor)
    assert not [event for event in events if event.kind is Kind.PREEMPTED]


def test_one_that_yielded_returns_with_what_it_has_produced() -> None:
    """Everybody outlives what was foreseen, yields, returns, and ends."""
    events: list[Event] = []
    policy = Future(lengths=taught(*[2] * 50))
    scheduler = make_scheduler(admission=policy, blocks=8, budget=64, events=events)
    for i in range(6):
        scheduler.add(make_request(f"r{i}", [i] * 3, 20, eos=frozenset([1234567])), 0.0)
    run_all(scheduler, MockExecutor(4))
    kinds = [event.kind for event in events]
    assert Kind.PREEMPTED in kinds
    assert kinds.count(Kind.FINISHED) == 6
    assert not policy._forecasts


class Counting(Future):
    """Notes whom it had to think about."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def _foresee(self, seq: Sequence, *rest: object) -> str | None:
        self.asked.append(seq.request.id)
        return super()._foresee(seq, *rest)  # type: ignore[arg-type]


def test_those_that_outlived_their_forecasts_are_noticed() -> None:
    policy = Future(lengths=taught(*[2] * 50))
    scheduler, executor = make_scheduler(admission=policy, blocks=9), MockExecutor(4)
    (long,) = scheduler.add(make_request("long", [1] * 3, 20, eos=frozenset([1234567])), 0.0)
    for now in range(9):
        run_step(scheduler, executor, float(now))
    assert policy._forecasts[long].longest == 5
    policy._glances = GLANCES
    scheduler.add(make_request("next", [2] * 3, 20, eos=frozenset([1234567])), 9.0)
    run_step(scheduler, executor, 9.0)
    assert policy._forecasts[long].shortest > 12
    assert policy._forecasts[long].promised >= 4
    assert policy._promised == sum(policy._forecasts[s].promised for s in scheduler.running)


def test_full_memory_is_looked_at_whatever_was_promised() -> None:
    """Twelve that were to have 2 tokens have 8 and fill the memory."""
    policy = Future(lengths=taught(*[2] * 50))
    scheduler = make_scheduler(admission=policy, blocks=40, budget=64, sequences=20)
    for i in range(12):
        scheduler.add(make_request(f"r{i}", [i] * 3, 20, eos=frozenset([1234567])), 0.0)
    executor = MockExecutor(4)
    for now in range(9):
        run_step(scheduler, executor, float(now))
    assert len(scheduler.running) == 12
    scheduler.add(make_request("next", [99] * 3, 20, eos=frozenset([1234567])), 9.0)
    run_step(scheduler, executor, 9.0)
    assert len(scheduler.waiting) == 1


def test_a_refusal_stands_until_somebody_starts_ends_or_yields() -> None:
    policy = Counting()
    scheduler, executor = make_scheduler(admission=policy, blocks=8), MockExecutor(4)
    scheduler.add(make_request("a", [1] * 4, 28), 0.0)
    run_step(scheduler, executor, 0.0)
    scheduler.add(make_request("b", [2] * 4, 28), 0.0)
    scheduler.add(make_request("c", [3] * 4, 28), 0.0)
    for now in range(1, 6):
        run_step(scheduler, executor, float(now))
    assert policy.asked == ["b"]
    scheduler.abort("b", 6.0, "test")
    run_step(scheduler, executor, 6.0)
    run_step(scheduler, executor, 7.0)
    assert policy.asked == ["b", "c"]


@settings(max_examples=50)
@given(jobs=JOBS, blocks=st.integers(20, 30))
def test_a_refusal_that_stands_is_one_that_would_be_made_again(
    jobs: list[tuple[int, int, int, int, int]], blocks: int
) -> None:
    """Thinking anew for every plan admits nobody who decodes only beside others sooner."""

    class Anew(Future):
        steady = False  # nobody's prompt was being computed when it was last thought about

        def _foresee(self, seq: Sequence, running: list[Sequence], *rest: object) -> str | None:
            self.steady = all(other.uncomputed == 1 for other in running)
            return super()._foresee(seq, running, *rest)  # type: ignore[arg-type]

        def refusal(self, seq: Sequence, *rest: object) -> str | None:
            standing = super().refusal(seq, *rest)  # type: ignore[arg-type]
            if standing and self.steady:
                assert super()._foresee(seq, *rest) is not None  # type: ignore[arg-type]
            return standing

    scheduler = make_scheduler(admission=Anew(), blocks=blocks, budget=64)
    executor, now = MockExecutor(4), 0.0
    for i, (prompt, output, _, pause, start) in enumerate(jobs):
        tokens = ([start] * 8 + [i] * 60)[:prompt]
        scheduler.add(make_request(f"r{i}", tokens, output, arrival=now), now)
        for _ in range(pause):
            run_step(scheduler, executor, now)
            now += 1.0
    run_all(scheduler, executor)


def test_parameters_are_checked() -> None:
    with pytest.raises(ConfigError, match="samples is 0"):
        Future(samples=0)
    for confidence in (0.0, 1.1):
        with pytest.raises(ConfigError, match="confidence is"):
            Future(confidence=confidence)
    with pytest.raises(ConfigError, match="spare is"):
        Future(spare=1.0)


def test_targets_of_a_request_do_not_matter() -> None:
    request = replace(make_request("r", [1], 3), category="chat")
    scheduler = make_scheduler(admission="future")
    scheduler.add(request, 0.0)
    run_all(scheduler, MockExecutor(4))
