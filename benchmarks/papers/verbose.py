"""Energy-latency attacks: clients that force outputs of the greatest length, and what is left for
the others.

``python -m benchmarks.papers.verbose`` adds such clients to a load that is served well without.
"""

from __future__ import annotations

from benchmarks.papers.claim import Claim, Figure, Finding, Trial, judge
from benchmarks.papers.hardware import gpus
from benchmarks.papers.load import Answer, Ask, Ran, lognormal, make, uniform
from benchmarks.papers.program import Options, main
from benchmarks.papers.setup import Setup
from headrace.nouns.tenant import Tenants, Terms

CLAIM = Claim(
    short="clients that force maximal output lengths: goodput of the others kept",
    paper="Gao et al.: Inducing High Energy-Latency of Large Vision-Language Models with Verbose"
    " Images, ICLR 2024, arXiv:2401.11170",
    said="Perturbed images make outputs 7.87x (MS-COCO) and 8.56x (ImageNet) as long (abstract);"
    " energy and latency grow with the length. The paper has no defence; the claim tested is the"
    " engine's own: that others keep their goodput.",
    expected="an attack of 7.87x to 8.56x; no defence stated",
    baseline="none; here first come, first served without limits.",
)
TTFT, TPOT = 1.0, 0.1
LONGER = 7.87
USERS, ATTACKER = 8, "attacker"
NOBODY_LIMITED = Tenants()


def run(options: Options) -> Finding:
    trials = [trial(options)] if options.simulated else []
    return Finding("verbose", CLAIM, tuple(trials), judge(trials), WHY)


def setup(order: str, max_running: int | None = None) -> Setup:
    tenants = Tenants({ATTACKER: Terms(max_running=max_running)}) if max_running else NOBODY_LIMITED
    return Setup(order=order, sequences=64, token_budget=256, tenants=tenants)


SETUPS = {
    "fcfs": setup("fcfs"),
    "fair": setup("fair"),
    "fair and a limit": setup("fair", 8),
}


def trial(options: Options) -> Trial:
    engine = gpus("llama-2-7b", "a100-80g")
    count = options.size(600, 60)
    kept: dict[str, list[float]] = {name: [] for name in SETUPS}
    gains: list[float] = []
    for seed in options.seeds:
        asks, attack = load(count, seed)
        quiet = goodput(engine.run(asks, SETUPS["fcfs"]))
        good = {name: goodput(engine.run(attack, found)) for name, found in SETUPS.items()}
        for name, value in good.items():
            kept[name].append(100 * (1 - value / quiet))
        gains.append(good["fair and a limit"] / max(good["fcfs"], 1e-3))
    return Trial(
        engine.where,
        f"{count} requests of {USERS} tenants, Poisson at 8 a second, prompts of 64 to 512 tokens,"
        " outputs log-normal (median 100, 90th percentile 250); beside them one tenant at 4"
        f" requests/s whose outputs are {LONGER} times as long; goodput of the others: TTFT within"
        f" {TTFT:g} s, TPOT within {1e3 * TPOT:g} ms",
        "fair order, the attacker's tenant may run 8 sequences (max_running)",
        f"{SETUPS['fcfs'].describe()}, no limits",
        (
            Figure("goodput of the others lost to the attack, fair and a limit",
                   tuple(kept["fair and a limit"]), 5.0, at_most=True, unit=" %"),
            Figure("the same, fair alone", tuple(kept["fair"]), unit=" %"),
            Figure("the same, fcfs", tuple(kept["fcfs"]), unit=" %"),
            Figure("goodput of the others, fair and a limit over fcfs", tuple(gains)),
        ),
    )  # fmt: skip


def load(count: int, seed: int) -> tuple[list[Ask], list[Ask]]:
    """The others' asks alone, and with the attacker's among them."""
    output = lognormal(100, 250, 520)
    asks = [
        Ask(ask.at, ask.prompt, ask.output, 4096 - ask.prompt, tenant=f"user-{number % USERS}")
        for number, ask in enumerate(make(count, uniform(64, 512), output, seed=seed, rate=8))
    ]
    until = asks[-1].at
    attack = [
        Ask(ask.at, ask.prompt, round(LONGER * ask.output), 4096 - ask.prompt, tenant=ATTACKER)
        for ask in make(count, uniform(64, 512), output, seed=seed + 1000, rate=4)
        if ask.at <= until
    ]
    return asks, sorted(asks + attack, key=lambda ask: ask.at)


def goodput(ran: Ran) -> float:
    """Good requests of the others for each second in which they came."""
    others = [a for a in ran.done if a.ask.tenant != ATTACKER]
    return sum(map(inside, others)) / max(a.ask.at for a in others)


def inside(answer: Answer) -> bool:
    return answer.ttft <= TTFT and answer.tpot <= TPOT


WHY = (
    "The attack works against first come, first served without limits. Fair order alone"
    " repairs only a part: an attacker's sequences start less often, but those that run hold"
    " their places for as long as their outputs last. A limit to the tenant's running"
    " sequences closes that, at no cost to the others."
)

if __name__ == "__main__":
    main(run, __doc__ or "")
