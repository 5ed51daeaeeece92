"""Figures of quality by hand: scores of logits, perplexity, agreement, answers, the table."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import BEGIN, END, put_table
from benchmarks.quality_figures import agreed, figures, last_number, table
from benchmarks.quality_file import QualityFile, Row, Task
from benchmarks.quality_scores import score, until

TASK = Task(
    model="m", windows=[[1, 2, 3], [4, 5, 6]], prompts=[[1], [2]], questions=[[3]], truths=["7"]
)
BASE = Row("float32", 1 << 20, [2.0, 4.0], [[1, 2], [3, 4]], [[1] * 128, [2, 3]], ["7"])


def test_scores_of_logits_in_any_pieces() -> None:
    rng = np.random.default_rng(0)
    window = rng.integers(0, 11, 200).tolist()
    logits = (4 * rng.standard_normal((200, 11))).astype(np.float32)
    odds = np.exp(logits.astype(np.float64))
    chosen = odds[np.arange(199), window[1:]] / odds[:199].sum(1)
    for cuts in ([], [1], [64, 65], [199], [130, 199]):
        nll, top = score(np.split(logits, cuts), window)
        assert nll == pytest.approx(-np.log(chosen).sum(), rel=1e-12)
        assert top == logits[:199].argmax(1).tolist()
    assert score([logits[:199]], window)[0] == pytest.approx(nll, rel=1e-12)


def test_logits_that_are_missing_or_not_finite_are_no_score() -> None:
    logits = np.zeros((3, 5), dtype=np.float32)
    with pytest.raises(ValueError, match="logits of 2 tokens were given; the window has 4"):
        score([logits[:2]], [0, 1, 2, 3])
    logits[1, 4] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        score([logits], [0, 1, 2, 3])
    assert score([1e4 * np.eye(3, dtype=np.float32)], [0, 0, 1])[0] == 0.0  # no overflow


def test_an_output_ends_before_an_end_token() -> None:
    assert until([5, 6, 2, 7], [2, 3]) == [5, 6]
    assert until([5, 6], [2]) == [5, 6]


def test_perplexity_against_the_base() -> None:
    row = Row("int8", None, [2.2, 4.6], [[1, 2], [3, 9]])
    found = figures(row, BASE, TASK)
    assert found.nll == pytest.approx(6.8 / 4)
    assert found.perplexity == pytest.approx(math.exp(1.7))
    assert found.change == pytest.approx(math.exp(0.2) - 1)
    # differences a token are 0.1 and 0.3: their deviation is 0.2 / sqrt(2)
    assert found.error == pytest.approx(math.exp(0.2) * 0.1)
    assert found.same_top == 0.75
    assert found.first_difference is found.same_64 is found.same_answers is None


def test_agreement_of_outputs_and_answers() -> None:
    outputs = [[1] * 70 + [9] * 58, [2, 3]]
    row = Row("int8", None, [2.0, 4.0], BASE.top, outputs, ["8"])
    found = figures(row, BASE, TASK)
    assert (found.change, found.error, found.same_top) == (0.0, 0.0, 1.0)
    assert found.first_difference == (70 + 128) / 2
    assert (found.same_64, found.same_128) == (1.0, 0.5)
    assert (found.same_answers, found.right_answers) == (0.0, 0.0)
    own = figures(BASE, BASE, TASK)
    assert own.right_answers == 1.0
    assert own.change is own.first_difference is None


@pytest.mark.parametrize(
    ("output", "expected"), [([1, 2, 3], 128), ([1, 2, 4], 2), ([1, 2], 2), ([1, 2, 3, 4], 3)]
)
def test_tokens_before_the_first_difference(output: list[int], expected: int) -> None:
    assert agreed(output, [1, 2, 3], 128) == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She makes 9 * 2 = $18 a day.", "18"),
        ("#### 1,250.0", "1250"),
        ("about -3.50 or so", "-3.5"),
        ("2,000, or 1 of 100", "100"),
        ("-0", "0"),
        ("none at all", None),
    ],
)
def test_the_last_number_of_an_answer(text: str, number: str | None) -> None:
    assert last_number(text) == number


def test_the_table_has_a_line_for_each_row() -> None:
    peer = Row("vLLM W8A8", 3 << 20, [2.4, 4.4], BASE.top, peer=True)
    int8 = Row("int8, bf16 cache", 2 << 20, [2.0, 4.0], BASE.top, auto=True)
    lines = table([peer, int8, BASE], BASE, TASK).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| float32", "| int8, bf16 cache (`auto`)", "| vLLM W8A8",
    ]  # fmt: skip
    assert len({line.count("|") for line in lines}) == 1
    assert "| 1.5000 | 4.482 | - |" in lines[2]
    assert "| 2 | 1.5000 | 4.482 | +0.00 % ± 0.00 | 100.0 % | - |" in lines[3]
    assert "+22.14 % ± 0.00" in lines[4]


def test_rows_are_kept_replaced_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    file = QualityFile(path, TASK)
    file.add(BASE)
    QualityFile.read(path).add(Row("peer", None, [3.0, 3.0], BASE.top, peer=True))  # meanwhile
    file.add(Row("float32", 5, BASE.nll, BASE.top))
    read = QualityFile.read(path)
    assert [row.name for row in read.rows] == ["float32", "peer"]
    assert read.task == TASK
    assert read.base is not None
    assert (read.base.nbytes, read.base.outputs) == (5, None)
    with pytest.raises(ValueError, match="short: the windows' scores are not those of"):
        file.add(Row("short", None, [1.0], [[1, 2]]))
    with pytest.raises(ValueError, match="few has 1 outputs; 2 were asked for"):
        file.add(Row("few", None, BASE.nll, BASE.top, [[1]]))
    assert [row.name for row in QualityFile.read(path).rows] == ["float32", "peer"]


def test_a_file_of_something_else_ends_the_program(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"task": {"windows": 3}, "rows": []}')
    for given in (path, tmp_path / "none.json"):
        with pytest.raises(SystemExit, match=r"is not a file of benchmarks\.quality"):
            QualityFile.read(given)


def test_a_page_gets_the_table_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# A\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    put_table(page, "new")
    put_table(page, "| new |")
    assert page.read_text() == f"# A\n\n{BEGIN}\n| new |\n{END}\n\nafter\n"
    page.write_text("nothing")
    with pytest.raises(SystemExit, match="has no lines"):
        put_table(page, "new")
