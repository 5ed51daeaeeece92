"""Past-Future: admission by predicted memory peaks against full reservation and a watermark.

``python -m benchmarks.papers.past_future`` raises the number of clients until memory is short. The
scheduler is told the model's longest output, not the one that a request will have.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.papers.claim import Claim, Figure, Finding, Trial, judge
from benchmarks.papers.hardware import gpus
from benchmarks.papers.live import LiveEngine
from benchmarks.papers.load import Answer, Length, Ran, lognormal, make, uniform
from benchmarks.papers.program import Options, main
from benchmarks.papers.setup import Setup
from headrace.scheduling.thrash_guard import ThrashGuard

CLAIM = Claim(
    short="goodput of past-future against reserve and watermark under heavy load",
    paper="Gong et al.: Past-Future Scheduler for LLM Serving under SLA Guarantees, ASPLOS 2025,"
    " arXiv:2507.10150",
    said="Up to 2-3x the goodput of conservative and aggressive schedulers under heavy loads"
    " (abstract).",
    expected="2x to 3x",
    baseline="conservative (the whole output reserved) and aggressive admission (what fits now).",
)
TTFT, LONGEST_GAP = 10.0, 1.5
FUTURE, RESERVE, WATERMARK, AGGRESSIVE = "future", "reserve", "watermark", "aggressive"
RIVALS = (RESERVE, AGGRESSIVE, WATERMARK)
WAVES = 4  # requests of each client; the first one and a half and the last are not counted


@dataclass(frozen=True, slots=True)
class Case:
    """Lengths in tokens; ``clients`` around and beyond what memory holds."""

    name: str
    prompt: Length
    output: Length
    clients: tuple[int, ...]


MOST = 4096  # tokens that every request asks for
CASES = (
    Case(
        "decode-heavy: prompts of 32 to 2048, outputs of 1024 to 4096 tokens, uniform",
        uniform(32, 2048),
        uniform(1024, MOST),
        (24, 36, 48),
    ),
    Case(
        "chat: prompts log-normal (median 200, 90th percentile 900), outputs (250, 800)",
        lognormal(200, 900, 4000),
        lognormal(250, 800, MOST),
        (32, 160, 190),
    ),
)


def run(options: Options) -> Finding:
    trials = []
    if options.simulated:
        trials += [simulated(case, options) for case in CASES[1 if options.quick else 0 :]]
    if options.live:
        engine = LiveEngine(options.model)
        trials.append(live(engine, options))
        engine.close()
    return Finding("past_future", CLAIM, tuple(trials), judge(trials), WHY)


def setup(name: str, sequences: int = 512, blocks: int | None = None) -> Setup:
    admission = WATERMARK if name == AGGRESSIVE else name
    return Setup(admission=admission, sequences=sequences, blocks=blocks)


@contextmanager
def guard_of(name: str) -> Iterator[None]:
    """Schedulers have a guard against thrashing; the aggressive ones of the paper had none."""
    refusal = ThrashGuard.refusal
    if name == AGGRESSIVE:
        ThrashGuard.refusal = lambda *_: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        ThrashGuard.refusal = refusal  # type: ignore[method-assign]


@dataclass(frozen=True, slots=True)
class Served:
    """``good`` output tokens a second inside the targets, ``stalled`` requests in percent."""

    good: float
    stalled: float


Loads = dict[str, list[list[Served]]]
"""By policy, for each repeat, one entry for each load."""


def simulated(case: Case, options: Options) -> Trial:
    engine = gpus("llama-2-7b", "a100-80g", token_budget=1024)
    clients = (8,) if options.quick else case.clients
    waves = 2 if options.quick else WAVES
    blocks = engine.blocks // 6 if options.quick else None
    found: Loads = {name: [] for name in (FUTURE, *RIVALS)}
    for seed in options.seeds:
        loads = [
            make(number * waves, case.prompt, case.output, seed=seed, max_tokens=MOST)
            for number in clients
        ]
        for name, repeats in found.items():
            chosen = setup(name, blocks=blocks)
            with guard_of(name):
                runs = [
                    engine.run_clients(asks, number, chosen)
                    for asks, number in zip(loads, clients, strict=True)
                ]
            repeats.append([served(*pair) for pair in zip(runs, clients, strict=True)])
    return Trial(
        engine.where,
        f"{', '.join(map(str, clients))} clients in a closed loop; {case.name}; max_tokens {MOST}"
        f" in every request; targets: first token within {TTFT:g} s, no gap above {LONGEST_GAP} s",
        setup(FUTURE).describe(),
        "reserve; aggressive (watermark without the thrash guard, as in the paper); watermark",
        figures(found, f"{clients[-1]} clients"),
    )


def figures(found: Loads, heaviest: str) -> tuple[Figure, ...]:
    ours = found[FUTURE]
    stated = {RESERVE: 2, AGGRESSIVE: 2}
    return (
        *(
            Figure(
                f"best goodput over the loads, against {rival}",
                tuple(best(ours, found[rival])),
                stated.get(rival),
            )
            for rival in RIVALS
        ),
        *(
            Figure(
                f"goodput of {heaviest}, against {rival}",
                tuple(best([a[-1:] for a in ours], [b[-1:] for b in found[rival]])),
            )
            for rival in (AGGRESSIVE, WATERMARK)
        ),
        *(
            Figure(
                f"requests with a longer gap, worst load, {name}",
                tuple(max(each.stalled for each in runs) for runs in repeats),
                unit=" %",
            )
            for name, repeats in found.items()
        ),
    )


def served(ran: Ran, clients: int) -> Served:
    """Of those requests that neither filled nor drained the system."""
    answers = ran.answers[clients * 3 // 2 : -clients] or ran.answers
    tokens = sum(len(a.times) for a in answers)
    good = sum(len(a.times) for a in answers if a.ttft <= TTFT and not stalled(a))
    return Served(
        ran.tokens_per_second * good / tokens,
        100 * sum(map(stalled, answers)) / len(answers),
    )


def stalled(answer: Answer) -> bool:
    return len(answer.times) > 1 and bool(answer.gaps.max() > LONGEST_GAP)


def best(ours: list[list[Served]], theirs: list[list[Served]]) -> list[float]:
    """For each repeat the ratio of the highest goodputs over the loads."""
    return [
        max(a.good for a in mine) / max(1e-3, *(b.good for b in their))
        for mine, their in zip(ours, theirs, strict=True)
    ]


def live(engine: LiveEngine, options: Options) -> Trial:
    """All at once on a small cache."""
    count, size = options.size(48, 8), options.size(32, 4)
    most, blocks = 384, options.size(240, 60)
    names = (FUTURE, *RIVALS)
    rates: dict[str, list[float]] = {name: [] for name in names}
    preempted: dict[str, list[float]] = {name: [] for name in names}
    for seed in options.seeds:
        asks = make(count, uniform(16, 128), lognormal(60, 200, most), seed=seed, max_tokens=most)
        for name in names:
            with guard_of(name):
                ran = engine.run(asks, setup(name, size, blocks))
            rates[name].append(ran.tokens_per_second)
            preempted[name].append(float(ran.preemptions))
    return Trial(
        engine.where,
        f"{count} requests at once, prompts of 16 to 128 tokens, outputs log-normal (median 60,"
        f" 90th percentile 200), max_tokens {most}; a cache of {blocks} blocks of 16 tokens",
        setup(FUTURE).describe(),
        "reserve; aggressive (watermark without the thrash guard); watermark",
        (
            *(
                Figure(
                    f"throughput against {rival}",
                    tuple(a / b for a, b in zip(rates[FUTURE], rates[rival], strict=True)),
                )
                for rival in RIVALS
            ),
            *(Figure(f"preemptions, {name}", tuple(preempted[name]), unit="") for name in names),
        ),
    )


WHY = (
    "Against full reservation the gain is about the paper's at each policy's best load; at the"
    " heavier ones reservation keeps hardly a request inside the targets, since clients wait for"
    " memory that others have reserved and will not use. Against admission by what fits now it is"
    " not reproduced: past-future does avoid most evictions (see the requests with a gap), but a"
    " request that waits longer for its first token misses its target as surely as one that is"
    " evicted, and the two about cancel. Eviction is cheap here: who was evicted goes back to the"
    " head of the queue, and its prompt and output are computed again in one go, in well under a"
    " second on this device."
)

if __name__ == "__main__":
    main(run, __doc__ or "")
