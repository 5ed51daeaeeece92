"""The comparison of formats as a program, on a tiny model, beside transformers on the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks import quality, quality_peers
from benchmarks.quality_figures import figures
from benchmarks.quality_file import QualityFile, Task
from benchmarks.quality_measure import Texts, make_task, spread, window_logits
from benchmarks.quality_scores import Logits, score
from headrace.execution.build import build_executor
from headrace.models.loader import open_model
from headrace.models.source import resolve
from tests.models.test_parity import save

TEMPLATE = "{% for m in messages %}<s>{{ m.content }}{% endfor %}</s>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and the texts of a task."""
    folder = tmp_path_factory.mktemp("quality")
    save(folder, "Llama", {})
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    (folder / "text.txt").write_text("What is said thrice is true, 1 2 3 and so on. " * 30)
    turns = [{"turns": [f"Count to {i}", "Again"]} for i in range(3)]
    asked = [{"question": f"{i} + {i}?", "answer": f"It is\n#### {2 * i}"} for i in range(9)]
    for name, lines in (("chat", turns), ("asked", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def run(monkeypatch: pytest.MonkeyPatch, program: object, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
    program.main()  # type: ignore[attr-defined]


def test_formats_and_a_peer_fill_one_file(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, page = tmp_path / "q.json", tmp_path / "page.md"
    run(
        monkeypatch, quality, "--file", path, "--text", folder / "text.txt",
        "--chat", folder / "chat.jsonl", "--questions", folder / "asked.jsonl",
        "--windows", 3, "--window-tokens", 150, "--sample", 4, "--model", folder,
        "--weights", "bf16", "--threads", 1,
    )  # fmt: skip
    run(monkeypatch, quality_peers, "transformers", folder, "--file", path, "--name", "peer",
        "--threads", 1)  # fmt: skip
    page.write_text(f"{quality.BEGIN}\n{quality.END}\n")
    capsys.readouterr()
    run(monkeypatch, quality, "--file", path, "--table", "--page", page)
    assert capsys.readouterr().out.strip() in page.read_text()

    file = QualityFile.read(path)
    assert [row.name for row in file.rows] == ["float32", "bf16, bf16 cache", "peer"]
    assert [len(window) for window in file.task.windows] == [150] * 3
    assert file.task.truths == ["0", "4", "8", "12"]  # questions 0, 2, 4 and 6 of 9
    base, bf16, peer = file.rows
    assert base.outputs is not None
    assert len(base.outputs) == 3
    assert base.answers is not None
    assert len(base.answers) == 4
    assert base.nll == pytest.approx(peer.nll, rel=1e-5)
    assert base.top == peer.top
    assert base.outputs == peer.outputs
    assert peer.nbytes == (folder / "model.safetensors").stat().st_size
    found = figures(bf16, base, file.task)
    assert found.change is not None
    assert 0 < abs(found.change) < 0.02
    assert found.same_top is not None
    assert 0.9 < found.same_top <= 1


def test_a_task_is_taken_up_only_by_the_same_texts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "q.json"
    with pytest.raises(SystemExit, match="is not there; give --text"):
        run(monkeypatch, quality, "--file", path, "--model", folder)
    QualityFile(path, make_task(str(folder), Texts(folder / "text.txt", 3, 100))).save()
    with pytest.raises(SystemExit, match="holds another task"):
        run(monkeypatch, quality, "--file", path, "--text", folder / "text.txt", "--windows", 2,
            "--window-tokens", 50, "--model", folder)  # fmt: skip
    with pytest.raises(SystemExit, match="--weights has 'int2'; choose among auto, float32"):
        run(monkeypatch, quality, "--file", path, "--model", folder, "--weights", "int2")
    with pytest.raises(SystemExit, match="100 windows of 512 tokens were asked for"):
        run(monkeypatch, quality, "--file", tmp_path / "new.json", "--text", folder / "text.txt",
            "--windows", 100, "--model", folder)  # fmt: skip


def test_windows_begin_at_equal_distances() -> None:
    assert spread(range(100), 3, 10) == [
        list(range(10)), list(range(33, 43)), list(range(66, 76)),
    ]  # fmt: skip
    assert spread(range(100), 10, 10)[9] == list(range(90, 100))


def test_a_window_scores_the_same_after_another(folder: Path) -> None:
    files = open_model(resolve(str(folder)))
    built = build_executor(
        files, weights="float32", block_size=16, cache_bytes=None, max_context=320,
        max_sequences=1, threads=1, report=lambda line: None,
    )  # fmt: skip
    first, second = ([(7 * i + shift) % 117 + 3 for i in range(300)] for shift in (0, 50))
    alone = score(window_logits(built, first), first)
    assert score(window_logits(built, second), second) != alone
    assert score(window_logits(built, first), first) == alone
    assert score(window_logits(built, first[:200]), first[:200])[1] == alone[1][:199]


@pytest.mark.parametrize("line", ['{"turn": ["a"]}', "[1", "3"])
def test_lines_without_the_field_end_the_program(folder: Path, tmp_path: Path, line: str) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text('{"turns": ["a"]}\n' + line)
    with pytest.raises(SystemExit, match="line 2"):
        make_task(str(folder), Texts(folder / "text.txt", 1, 10, path))


class Parrot(quality_peers.LogitsPeer):
    """Finds each token itself the most likely to follow, the end after a 3."""

    def begin(self, tokens: Sequence[int]) -> Logits:
        return np.stack([self.extend(token) for token in tokens])

    def extend(self, token: int) -> Logits:
        return np.eye(9, dtype=np.float32)[2 if token == 3 else token]


def test_a_peer_that_shows_logits_continues_up_to_an_end() -> None:
    task = Task("m", [[1, 1, 1, 4]], [[5], [5, 3]], 6, eos=[2])
    row = quality_peers.answer(Parrot(), QualityFile(Path("none"), task), "p", None, True)
    assert row.outputs == [[5] * 6, []]
    assert row.top == [[1, 1, 1]]
    assert row.peer
    without = quality_peers.answer(Parrot(), QualityFile(Path("none"), task), "p", None, False)
    assert without.outputs is None


def test_weight_files_are_told_from_others(tmp_path: Path) -> None:
    for name, size in (("openvino_model.bin", 5), ("openvino_tokenizer.bin", 7), ("a.json", 9)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert quality_peers.weight_bytes(tmp_path) == 5
    assert quality_peers.weight_bytes(tmp_path / "a.json") == 0
