"""The papers' programs: the rules of a verdict, the load, the pipeline, and every simulated trial
at a tiny size."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from benchmarks.papers import __main__ as papers
from benchmarks.papers.claim import Figure, Finding, Trial, Verdict, judge
from benchmarks.papers.hyperparameters import peaks
from benchmarks.papers.live import FIRST_ID, EndedBy, book
from benchmarks.papers.load import (
    Answer,
    Ask,
    Ran,
    highest,
    lognormal,
    make,
    normal,
    uniform,
    windowed,
    zipf,
)
from benchmarks.papers.pipeline import Pipeline, slice_load
from benchmarks.papers.program import Options, describe, page
from benchmarks.papers.setup import Setup
from benchmarks.papers.simulated import SimulatedEngine
from benchmarks.papers.vtc_fairness import FAIR_SHARE, FCFS_SHARE
from headrace.nouns.delta import Delta, Usage
from headrace.nouns.request import Request
from headrace.nouns.sequence import FinishReason, Sequence
from headrace.nouns.step import Sampled, Slice
from headrace.nouns.step_cost import StepLoad

QUICK = Options(quick=True, live=False)
SIMULATED = [name for name in papers.NAMES if name != "prepacking"]  # which is live only


class RowCost:
    """A millisecond a row, and ten a step."""

    def seconds(self, load: StepLoad) -> float:
        return 0.01 + 0.001 * (load.rows + load.padding)


def figures_of(finding: Finding) -> dict[str, Figure]:
    return {figure.what: figure for trial in finding.trials for figure in trial.figures}


@pytest.fixture(scope="module")
def findings() -> dict[str, Finding]:
    """Every simulated program, run once."""
    return {name: import_module(f"benchmarks.papers.{name}").run(QUICK) for name in SIMULATED}


@pytest.mark.parametrize("name", SIMULATED)
def test_a_program_says_what_it_found(name: str, findings: dict[str, Finding]) -> None:
    finding = findings[name]
    claim = finding.claim
    assert finding.name == name
    assert all((claim.short, claim.paper, claim.said, claim.expected, claim.baseline))
    assert finding.trials
    assert finding.verdict is judge(finding.trials)
    assert any(f.paper is not None for trial in finding.trials for f in trial.figures)
    for trial in finding.trials:
        assert trial.where.startswith("Simulated: ")
        assert all(np.isfinite(value) for f in trial.figures for value in f.values)
    assert Finding.from_json(json.loads(json.dumps(finding.to_json()))) == finding
    assert finding.why


def test_directions_that_are_certain(findings: dict[str, Finding]) -> None:
    def median(name: str, what: str) -> float:
        return figures_of(findings[name])[what].median

    assert median("flover_orca", "time until all are served") > 1.5
    assert median("sarathi_serve", "capacity, mistral-7b, openchat_sharegpt4") > 1.0
    assert median("sarathi", "bubble time of the median request") > 2.0
    assert median("sarathi", "stages idle, ours") < median("sarathi", "stages idle, baseline")
    assert median("fastgen", "best effective throughput") > 1.0
    assert median("past_future", "requests with a longer gap, worst load, reserve") == 0
    grouped = median("batchllm", "prompt tokens found in the cache, grouped, 4 sharers")
    assert grouped > median("batchllm", "prompt tokens found in the cache, by arrival, 4 sharers")
    assert median("vtc_fairness", FAIR_SHARE) < 10 < median("vtc_fairness", FCFS_SHARE)
    lost = "goodput of the others lost to the attack, fair and a limit"
    assert median("verbose", lost) <= median("verbose", "the same, fcfs")


def test_verdicts() -> None:
    def of(*figures: Figure) -> Verdict:
        return judge([Trial("Live: x", "w", "a", "b", figures)])

    gain = Figure("gain", (1.9, 2.0, 2.5), 2.25)  # a gain of 1.0, of 1.25 claimed
    assert of(gain) is Verdict.REPRODUCED
    assert of(Figure("gain", (1.2, 1.3, 1.4), 2.25)) is Verdict.PARTLY
    assert of(Figure("gain", (0.9, 1.3, 1.4), 2.25)) is Verdict.NOT
    assert of(gain, Figure("other", (0.9,), 3)) is Verdict.PARTLY
    bound = Figure("error", (1.0, 2.0), 2.0, at_most=True, unit=" %")
    assert of(bound) is Verdict.REPRODUCED
    assert of(Figure("error", (1.0, 2.1), 2.0, at_most=True, unit=" %")) is Verdict.NOT
    assert of(Figure("speed", (5.0,))) is Verdict.OPEN  # the paper states nothing
    low = Trial("Live: y", "w", "a", "b", (Figure("gain", (1.0,), 2.25),))
    assert judge([low, Trial("Live: x", "w", "a", "b", (gain,))]) is Verdict.REPRODUCED
    assert (gain.show(), gain.show_paper()) == ("2x (1.9 to 2.5)", "2.25x")
    assert bound.show_paper() == "at most 2 %"


def test_the_page_and_its_data(findings: dict[str, Finding], tmp_path: Path) -> None:
    out = tmp_path / "papers"
    known = dict(list(findings.items())[2:])
    papers.write(known, out)
    assert papers.read(out.with_suffix(".json")) == known
    papers.write(known | findings, out)  # in the programs' order whatever came first
    text = out.with_suffix(".md").read_text(encoding="utf-8")
    assert text == page(findings.values())
    for finding in findings.values():
        assert f"| {finding.claim.short} | {finding.claim.expected} |" in text
        assert "\n".join(describe(finding)) in text
    assert papers.read(tmp_path / "none.json") == {}


def test_a_program_that_fails_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, findings: dict[str, Finding]
) -> None:
    asked: list[list[str]] = []

    def run_one(name: str, arguments: list[str]) -> Finding | None:
        asked.append([name, *arguments])
        return None if name == "sarathi" else findings[name]

    monkeypatch.setattr(papers, "run_one", run_one)
    out = tmp_path / "papers"
    with pytest.raises(SystemExit, match="failed: sarathi"):
        papers.main(["sarathi", "fastgen", "--quick", "--only", "simulated", "--out", str(out)])
    assert [found[0] for found in asked] == ["sarathi", "fastgen"]
    assert {"--quick", "--only", "simulated"} <= set(asked[0])
    assert list(papers.read(out.with_suffix(".json"))) == ["fastgen"]
    with pytest.raises(SystemExit):
        papers.main(["no-such-program", "--out", str(out)])


def test_lengths_have_the_stated_statistics() -> None:
    rng = np.random.default_rng(0)
    drawn = [lognormal(100, 400, 10_000)(rng) for _ in range(4000)]
    assert np.median(drawn) == pytest.approx(100, rel=0.06)
    assert np.percentile(drawn, 90) == pytest.approx(400, rel=0.08)
    drawn = [normal(600, 0.3)(rng) for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(600, rel=0.03)
    assert np.std(drawn) == pytest.approx(180, rel=0.06)
    drawn = [zipf(10, 40, 1.0)(rng) for _ in range(4000)]
    assert (min(drawn), max(drawn)) == (10, 40)
    assert drawn.count(10) / drawn.count(40) == pytest.approx(4, rel=0.5)


def test_asks_of_two_rates_differ_in_their_clock_only() -> None:
    slow, fast = (make(50, uniform(1, 9), uniform(2, 9), seed=3, rate=r) for r in (1.0, 4.0))
    assert [a.at for a in slow] == pytest.approx([4 * a.at for a in fast])
    assert [(a.prompt, a.output) for a in slow] == [(a.prompt, a.output) for a in fast]
    cut = make(50, uniform(90, 99), uniform(20, 29), seed=3, context=100, max_tokens=50)
    assert all(a.prompt + max(a.output, a.bound) <= 100 and a.bound == 50 for a in cut)


def test_dynamic_batching_holds_back() -> None:
    asks = [Ask(at, 1, 1) for at in (0.0, 0.1, 0.2, 5.0, 9.0, 9.9)]
    sent = [ask.at + ask.held for ask in windowed(asks, 1.0, 3)]
    assert sent == pytest.approx([0.2, 0.2, 0.2, 6.0, 10.0, 10.0])


@pytest.mark.parametrize("start", [0.1, 3.0, 50.0])
def test_the_highest_rate_that_holds(start: float) -> None:
    found = highest(lambda rate: rate <= 3.3, start)
    assert 3.3 / 1.06 <= found <= 3.3
    assert highest(lambda rate: False, start) == 0
    assert highest(lambda rate: True, start) > 1000 * start


def test_answers_by_hand() -> None:
    answer = Answer(Ask(1.0, 10, 3))
    answer.times.extend([2.0, 2.5, 4.0])
    assert (answer.ttft, answer.e2e, answer.tpot, answer.per_token) == (1.0, 3.0, 1.0, 1.0)
    assert answer.gaps.tolist() == [0.5, 1.5]
    ran = Ran([answer])
    assert (ran.seconds, ran.tokens_per_second) == (3.0, 1.0)
    assert ran.goodput(lambda a: a.ttft <= 1.0) == pytest.approx(1 / 3)


def test_a_simulated_run_gives_every_token_its_time() -> None:
    engine = SimulatedEngine("rows", RowCost(), 100)
    first, second = engine.run([Ask(0.0, 20, 3), Ask(0.5, 10, 1)], Setup()).answers
    assert first.times.tolist() == pytest.approx([0.03, 0.041, 0.052])
    assert (second.admitted, second.times.tolist()) == (0.5, pytest.approx([0.52]))
    ran = engine.run_clients([Ask(0.0, 20, 3)] * 5, 2, Setup())
    assert [len(a.times) for a in ran.answers] == [3] * 5
    assert [a.ask.at for a in ran.answers[:2]] == [0.0, 0.0]
    ends = sorted(a.times[-1] for a in ran.answers)
    assert ran.answers[2].ask.at == ends[0]  # sent when the first had been answered


def test_a_live_sequence_ends_where_its_script_says() -> None:
    class Constant:
        def __init__(self) -> None:
            self.forgotten: list[Sequence] = []

        def sample(self, logits: object, sequences: list[Sequence]) -> list[Sampled]:
            return [Sampled(seq.request.prompt[-1]) for seq in sequences]

        def forget(self, sequence: Sequence) -> None:
            self.forgotten.append(sequence)

    inner, eos = Constant(), 7
    sampler = EndedBy(inner, {"a": 2, "b": 3}, eos)
    sequences = [
        Sequence.of(Request(id=id, prompt=(5, last), max_tokens=9), 0)
        for id, last in (("a", 200), ("b", eos))
    ]
    tokens = []
    for _ in range(3):
        chosen = sampler.sample(None, sequences)
        tokens.append([sampled.token for sampled in chosen])
        for seq, sampled in zip(sequences, chosen, strict=True):
            seq.tokens.append(sampled.token)
    # The model's own end token is replaced by another, the scripted one comes in its place.
    assert tokens == [[200, FIRST_ID], [eos, FIRST_ID], [eos, eos]]
    sampler.forget(sequences[0])
    assert inner.forgotten == sequences[:1]


def test_deltas_are_booked_with_their_times() -> None:
    answers = {"a": Answer(Ask(0.0, 4, 3)), "b": Answer(Ask(0.0, 4, 1))}
    book([Delta("a", 0, tokens=(1, 2))], answers, 1.5)
    book([Delta("a", 0, finish_reason=FinishReason.STOP, usage=Usage(4, 3, 2))], answers, 2.0)
    book([Delta("b", 0, finish_reason=FinishReason.ERROR, error="broken")], answers, 2.5)
    assert answers["a"].times.tolist() == [1.5, 1.5, 2.0]
    assert (answers["a"].cached, answers["a"].error) == (2, None)
    assert (answers["b"].times.tolist(), answers["b"].error) == ([], "broken")


def test_slices_of_the_pipeline_weigh_what_the_engines_do() -> None:
    class Known:
        pass

    for start, length, samples in ((0, 1, True), (7, 1, False), (5, 12, True)):
        mine = slice_load(start, length, samples)
        assert mine == StepLoad.sum([Slice(Known(), start, length, samples)])  # type: ignore[arg-type]


def test_a_pipeline_by_hand() -> None:
    asks = [Ask(0.0, 4, 2), Ask(0.0, 4, 2)]
    piped = Pipeline(lambda load: 0.001 * load.rows, stages=2, seats=1, chunk=None).run(asks)
    # Prompts follow each other: 4 ms a stage. The first token's iteration waits for both stages.
    assert piped.seconds == pytest.approx(0.013 + 0.001)
    busy = 2 * (4 + 1) * 0.001
    assert piped.idle == pytest.approx(1 - busy / piped.seconds)
    chunked = Pipeline(lambda load: 0.001 * load.rows, stages=2, seats=1, chunk=2).run(asks)
    assert chunked.idle < piped.idle


def test_peaks_of_a_landscape() -> None:
    hill = {(0, b, c): 10.0 - abs(b - 1) - abs(c - 1) for b in range(3) for c in range(3)}
    assert peaks(hill) == 1
    assert peaks(hill | {(0, 2, 2): 20.0}) == 2
    assert peaks({(0, b, 0): 5.0 for b in range(4)} | {(0, 4, 0): 1.0}) == 1  # a plateau
