"""Output lengths on disk: what is kept, when it is written, and that no fault does any harm."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from headrace.engine.build import BuiltEngine, _length_store, build, policies
from headrace.engine.config import EngineConfig
from headrace.engine.length_store import FORMAT, MAX_BYTES, PERIOD, LengthStore
from headrace.engine.service import EngineService
from headrace.execution import tuning
from headrace.nouns.event import Event, Kind, Sink
from headrace.nouns.sampling_params import SamplingParams
from headrace.nouns.sequence import FinishReason, Sequence
from headrace.scheduling.future_admission import Future
from headrace.scheduling.output_lengths import OutputLengths
from tests.engine.engines import Typist, builder_of
from tests.models.tiny import write_gguf
from tests.scheduling.mock_executor import make_request

EOS = frozenset([0])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Not there yet."""
    monkeypatch.setattr(tuning, "tuning_folder", lambda: tmp_path / "cache" / "tuning")
    return tmp_path / "cache" / "tuning"


def learn(lengths: OutputLengths, *tokens: int, tenant: str = "t") -> None:
    for length in tokens:
        seq = Sequence.of(make_request("r", [1], 1000, tenant=tenant, eos=EOS), 0)
        seq.tokens.extend([5] * length)
        seq.finish_reason = FinishReason.STOP
        lengths.observe(seq)


def known(model: str = "m") -> OutputLengths:
    lengths = OutputLengths()
    LengthStore.of(lengths, model).load()
    return lengths


def finished(at: float) -> Event:
    return Event(Kind.FINISHED, at, "r")


def test_what_was_learnt_is_known_at_the_next_start(folder: Path) -> None:
    lengths = OutputLengths()
    store = LengthStore.of(lengths, "m")
    assert store.load() == "nothing known yet"
    learn(lengths, 5, 7, 9)
    learn(lengths, 30, tenant="\ud800 other")
    store.close()
    assert known().to_json() == lengths.to_json()
    assert LengthStore.of(OutputLengths(), "m").load() == "4 known, of 2 classes"
    assert [path.suffix for path in folder.iterdir()] == [".json"]
    assert known("another").to_json() == {"classes": []}


def test_nothing_new_is_not_written_again(folder: Path) -> None:
    lengths = OutputLengths()
    store = LengthStore.of(lengths, "m")
    store.close()
    assert not folder.exists()
    learn(lengths, 5)
    store.close()
    store.path.unlink()
    store.close()
    assert not store.path.exists()


def test_is_written_every_few_minutes_of_serving(folder: Path) -> None:
    lengths = OutputLengths()
    store = LengthStore.of(lengths, "m")

    def after(at: float) -> int:
        store(finished(at))
        if store._thread is not None:
            store._thread.join()
        return known().known

    learn(lengths, 5)
    assert after(1000.0) == 0
    assert after(1000.0 + PERIOD - 1) == 0
    store(Event(Kind.PLANNED, 1000.0 + PERIOD))
    assert after(1000.0 + PERIOD) == 1
    learn(lengths, 6)
    assert after(1000.0 + PERIOD + 1) == 1
    assert after(1000.0 + 2 * PERIOD) == 2


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda text: text[: len(text) // 2], "no JSON"),
        (lambda text: "[" * 100_000, "no JSON"),
        (lambda text: "[]", "no object"),
        (lambda text: text + " " * MAX_BYTES, "more than"),
        (lambda text: text.replace(f'"format": {FORMAT}', '"format": 99'), "of format 99"),
        (lambda text: text.replace('"m"', '"n"'), "another model"),
        (lambda text: text.replace("[5,7]", "[5,0]"), "whole numbers"),
        (lambda text: text.replace("[5,7]", "{}"), "whole numbers"),
        (lambda text: text.replace('"classes"', '"class"'), "no list of classes"),
    ],
)
def test_a_file_that_is_not_right_counts_as_empty_and_is_replaced(
    folder: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[str], str], fault: str
) -> None:
    lengths = OutputLengths()
    learn(lengths, 5, 7)
    store = LengthStore.of(lengths, "m")
    store._written = 0
    store.close()
    text = store.path.read_text()
    damaged = damage(text)
    assert damaged != text
    store.path.write_text(damaged)
    with caplog.at_level(logging.WARNING):
        again = OutputLengths()
        store = LengthStore.of(again, "m")
        assert store.load() == "nothing known yet"
    assert fault in caplog.text
    learn(again, 9)
    store.close()
    assert known().known == 1


def test_what_cannot_be_read_or_written_costs_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    lengths = OutputLengths()
    for path in (tmp_path / "file" / "lengths.json", tmp_path):
        store = LengthStore(lengths, path, "m")
        assert store.load() == "nothing known yet"
        learn(lengths, 5)
        store.close()
    assert caplog.text.count("are not kept") == 2
    assert not list(tmp_path.glob("*.writing"))


def test_a_service_writes_when_it_closes(folder: Path) -> None:
    executor = Typist()
    executor.texts["r"] = b"hello"
    policy = Future()
    make = builder_of(executor)

    def with_store(config: EngineConfig, emit: Sink, report: Callable[[str], None]) -> BuiltEngine:
        built = make(config, emit, report)
        built.engine.scheduler._ended = (policy.ended,)
        return BuiltEngine(
            built.engine, built.model, built.total_blocks, built.block_size,
            lengths=LengthStore.of(policy.lengths, "mock"),
        )  # fmt: skip

    service = EngineService(EngineConfig(max_sequences=4), builder=with_store)
    service.start()
    service.wait_ready(10)
    request = service.request([1, 2], SamplingParams(max_tokens=20), id="r")
    service.submit(request, lambda delta: None)
    assert service.drain(10)
    service.close()
    assert known("mock").to_json()["classes"][0]["lengths"] == [6]


def test_a_built_engine_knows_what_the_last_one_learnt(folder: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    config = EngineConfig(
        model=str(tmp_path / "m.gguf"), cache_bytes=1 << 20, max_context=64, max_sequences=2,
        token_budget=16, admission="future", device="cpu",
    )  # fmt: skip
    said: list[str] = []
    built = build(config, lambda event: None, said.append)
    assert "output lengths: nothing known yet" in said
    assert built.lengths is not None
    policy = cast(Future, built.engine.scheduler._policies.admission)
    learn(policy.lengths, 5)
    built.lengths.close()
    built.engine.executor.close()
    assert known(built.model.name).known == 1
    chosen = policies(config)
    assert _length_store(chosen, built.model.name, said.append) is not None
    assert said[-1] == "output lengths: 1 known, of 1 classes"
    assert _length_store(policies(replace(config, admission="reserve")), "m", said.append) is None
