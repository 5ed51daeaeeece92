"""What loads are made of: lengths, prompts, workload files, and jobs at their times."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.nouns.errors import ConfigError
from headrace.workloads.arrivals import AllAtOnce, Replayed
from headrace.workloads.job import Job, Shape
from headrace.workloads.lengths import Lengths
from headrace.workloads.load import MADE_AHEAD, Load, repeated, shaped
from headrace.workloads.prompts import RandomPrompts, TextPrompts, read_text
from headrace.workloads.workload_file import read_workloads, select

JOBS = [Job(0.0, (1, 2), 3), Job(0.0, "text", 4)]


@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(2, 4096))
def test_shapes_fit_into_a_context(prompt: int, output: int, context: int) -> None:
    fitted = Shape(prompt, output).within(context)
    assert fitted.prompt_tokens >= 1
    assert fitted.output_tokens >= 1
    assert fitted.prompt_tokens + fitted.output_tokens <= context
    if prompt >= 1 and output >= 1 and prompt + output <= context and output <= context // 2:
        assert fitted == Shape(prompt, output)


def test_lengths_as_text() -> None:
    assert Lengths.parse("128:64") == Lengths((128, 128), (64, 64))
    assert Lengths.parse("32-512:16-256", 3) == Lengths((32, 512), (16, 256), 3)
    assert list(islice(Lengths.parse("8:9"), 2)) == [Shape(8, 9), Shape(8, 9)]


@pytest.mark.parametrize("text", ["", "8", "8:", "0:1", "1:0", "9-8:1", "1:-2", "a:b", "1:2:3"])
def test_lengths_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="lengths"):
        Lengths.parse(text)


def test_lengths_are_log_uniform_and_seeded() -> None:
    shapes = list(islice(Lengths((32, 512), (1, 1), 5), 8000))
    drawn = np.array([s.prompt_tokens for s in shapes])
    assert drawn.min() >= 32
    assert drawn.max() <= 512
    # Each doubling gets the same share.
    for low in (32, 64, 128, 256):
        assert ((drawn >= low) & (drawn < 2 * low)).mean() == pytest.approx(0.25, abs=0.02)
    assert shapes == list(islice(Lengths((32, 512), (1, 1), 5), 8000))
    assert shapes != list(islice(Lengths((32, 512), (1, 1), 6), 8000))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(1, 70))
def test_text_prompts_are_stretches_of_the_text(ids: list[int], tokens: int) -> None:
    made = TextPrompts(ids, (1,)).prompt(tokens)
    assert len(made) == tokens
    starts = range(len(ids))
    assert any(made == tuple(ids[(s + i) % len(ids)] for i in range(tokens)) for s in starts)


def test_random_prompts_draw_from_the_allowed_ids() -> None:
    maker = RandomPrompts([3, 5, 9], (1, 2))
    first, second = maker.prompt(200), maker.prompt(200)
    assert set(first) == {3, 5, 9}
    assert first != second
    assert all(type(token) is int for token in first)
    assert RandomPrompts([3, 5, 9], (1, 2)).prompt(200) == first
    assert RandomPrompts([3, 5, 9], (1, 3)).prompt(200) != first


def test_prompts_need_something_to_be_made_of() -> None:
    with pytest.raises(ConfigError, match="no tokens"):
        TextPrompts([])
    with pytest.raises(ConfigError, match="no token ids"):
        RandomPrompts([])


def test_a_text_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("one\n\ntwo", encoding="utf-8")
    assert read_text(path, lambda text: list(text.encode())) == list(b"one\n\ntwo")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_text(tmp_path / "none.txt", lambda text: [])


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_a_workload_file(tmp_path: Path) -> None:
    entries = [{"prompt": [1, 2], "out": 3}, {"prompt": "text", "out": 4}]
    path = write(tmp_path / "w.json", {"A": entries, "B": entries[:1], "long": entries[1:]})
    assert read_workloads(path) == {"A": JOBS, "B": JOBS[:1], "long": JOBS[1:]}
    assert list(select(path, None)) == ["A", "B", "long"]
    assert list(select(path, "BA")) == ["B", "A"]
    assert list(select(path, "long,A")) == ["long", "A"]
    for names in ("C", "A,C", ""):
        with pytest.raises(ConfigError, match="has no workload"):
            select(path, names)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([], "no object of named lists"),
        ({"A": []}, "A is no list"),
        ({"A": [{"prompt": [1]}]}, r"A\[0\] has no 'prompt' or no 'out'"),
        ({"A": [{"prompt": [1], "out": 0}]}, r"A\[0\].out is '0'"),
        ({"A": [{"prompt": [1], "out": True}]}, r"A\[0\].out"),
        ({"A": [{"prompt": [], "out": 1}]}, r"A\[0\].prompt is neither"),
        ({"A": [{"prompt": [-1], "out": 1}]}, r"A\[0\].prompt is neither"),
        ({"A": [{"prompt": "", "out": 1}]}, r"A\[0\].prompt is neither"),
    ],
)
def test_faults_of_a_workload_file_say_where(tmp_path: Path, content: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_workloads(write(tmp_path / "w.json", content))


def test_workload_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_workloads(tmp_path / "none.json")
    (tmp_path / "w.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        read_workloads(tmp_path / "w.json")


def test_a_load_repeats_its_jobs_at_the_times_of_its_arrivals() -> None:
    load = Load(repeated(JOBS), Replayed(lambda: [0.0, 1.0, 2.0]), 3, "x")
    expected = [Job(0.0, (1, 2), 3), Job(1.0, "text", 4), Job(2.0, (1, 2), 3)]
    assert list(load.jobs()) == expected


def test_the_shorter_of_contents_and_times_ends_a_load() -> None:
    assert len(list(Load(repeated(JOBS), Replayed(lambda: [0.0]), None, "x").jobs())) == 1
    assert len(list(Load(lambda run: JOBS, AllAtOnce(), None, "x").jobs())) == 2


def test_long_loads_are_made_as_they_are_sent() -> None:
    load = Load(repeated(JOBS), AllAtOnce(), MADE_AHEAD + 1, "x")
    assert not isinstance(load.jobs(), list)
    assert len(list(load.jobs())) == MADE_AHEAD + 1


def test_shaped_jobs_have_the_lengths_asked_for_and_fit() -> None:
    shapes = [Shape(5, 3), Shape(50, 4)]
    contents = shaped(shapes, lambda run: RandomPrompts(range(100), (run,)), max_context=20)
    first, second = contents(0)
    assert (len(first.prompt), first.output_tokens) == (5, 3)
    assert (len(second.prompt), second.output_tokens) == (16, 4)
    assert [job.prompt for job in contents(1)] != [first.prompt, second.prompt]
    assert next(iter(contents(0))) == first
