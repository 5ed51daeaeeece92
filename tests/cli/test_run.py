"""``headrace run`` on the toy model: forms of lines, faults, resuming after a kill."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from headrace.cli import service
from headrace.cli.batch_input import BatchLine
from headrace.cli.batch_output import BatchOutput
from headrace.cli.batch_progress import BatchProgress
from headrace.cli.options import EngineOptions
from headrace.cli.run import Batch, for_a_batch
from headrace.nouns.errors import ModelError
from tests.api.toy_engine import toy_service
from tests.cli.conftest import Invoke, Start
from tests.cli.toy_program import toy_factory

ROWS = 120


def write_lines(path: Path, *values: Any) -> Path:
    texts = [v if isinstance(v, str) and v.startswith("raw:") else json.dumps(v) for v in values]
    path.write_text("".join(f"{t.removeprefix('raw:')}\n" for t in texts), encoding="utf-8")
    return path


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Records by custom id. Fails if one comes twice."""
    records = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    found = {record["custom_id"]: record for record in records}
    assert len(found) == len(records)
    return found


def batch_line(custom_id: str, url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def test_every_form_of_line_is_answered(invoke: Invoke, tmp_path: Path) -> None:
    lines = write_lines(
        tmp_path / "in.jsonl",
        batch_line("one", "/v1/completions", prompt="abc", model="toy"),
        batch_line("two", "/v1/chat/completions", messages=[{"role": "user", "content": "hi"}]),
        {"prompt": "xyz", "max_tokens": 2},
        {"messages": [{"role": "user", "content": "yo"}]},
        "plain",
    )
    out = tmp_path / "out.jsonl"
    result = invoke("run", lines, "-o", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("5 answered;")
    found = {k: v["response"]["body"]["choices"][0] for k, v in read(out).items()}
    assert found["one"]["text"] == "abc"
    assert found["two"]["message"] == {"role": "assistant", "content": "hi", "refusal": None}
    assert (found["line-3"]["text"], found["line-3"]["finish_reason"]) == ("xy", "length")
    assert found["line-4"]["message"]["content"] == "yo"
    assert found["line-5"]["text"] == "plain"
    assert not (tmp_path / "out.errors.jsonl").exists()


def test_faults_are_reported_and_kept_apart(invoke: Invoke, tmp_path: Path) -> None:
    lines = write_lines(
        tmp_path / "in.jsonl",
        {"prompt": "abc", "custom_id": "good"},
        "raw:{oops",
        {"prompt": "again", "custom_id": "good"},
        {"prompt": "abc", "custom_id": "unknown", "colour": "red"},
        {"prompt": "abc", "custom_id": "long", "max_tokens": 10_000},
        {"prompt": "abc", "custom_id": "other", "model": "gpt"},
        {"prompt": "<fault>", "custom_id": "fault"},
    )
    out = tmp_path / "out.jsonl"
    result = invoke("run", lines, "-o", out)
    assert result.exit_code == 1
    assert result.stdout.startswith("1 answered, 6 kept apart;")
    assert list(read(out)) == ["good"]
    errors = [json.loads(x) for x in (tmp_path / "out.errors.jsonl").read_text().splitlines()]
    told = {e["error"]["line"]: (e["custom_id"], e["error"]["code"]) for e in errors}
    assert told == {
        2: (None, "invalid_line"),
        3: ("good", "invalid_line"),
        4: ("unknown", "unknown_parameter"),
        5: ("long", "context_length_exceeded"),
        6: ("other", "model_not_found"),
        7: ("fault", "engine_error"),
    }
    assert "line 2: not valid JSON" in result.stderr
    assert "colour" in result.stderr


def test_options_are_defaults_for_the_lines(invoke: Invoke, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "in.jsonl", "abc", {"prompt": "abc", "max_tokens": 2})
    result = invoke("run", lines, "-o", tmp_path / "out.jsonl", "--max-tokens", "1")
    assert result.exit_code == 0
    found = read(tmp_path / "out.jsonl")
    texts = {k: v["response"]["body"]["choices"][0]["text"] for k, v in found.items()}
    assert texts == {"line-1": "a", "line-2": "ab"}


def test_lines_may_have_targets_priorities_and_categories(invoke: Invoke, tmp_path: Path) -> None:
    lines = write_lines(
        tmp_path / "in.jsonl",
        {"prompt": "abc", "targets": {"ttft": 60, "deadline": 90}, "category": "c", "priority": 1},
        batch_line("two", "/v1/completions", prompt="abc", targets={"tpot": 1}),
        {"prompt": "abc", "targets": {"ttft": -1}, "custom_id": "bad"},
    )
    out = tmp_path / "out.jsonl"
    result = invoke("run", lines, "-o", out)
    assert result.exit_code == 1
    assert set(read(out)) == {"line-1", "two"}
    assert "targets.ttft is -1" in (tmp_path / "out.errors.jsonl").read_text()


def test_more_lines_than_the_queue_holds(invoke: Invoke, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "in.jsonl", *[f"row {i}" for i in range(50)])
    out = tmp_path / "out.jsonl"
    result = invoke("run", lines, "-o", out, "--max-sequences", "2", "--max-queue", "4")
    assert result.exit_code == 0, result.output
    assert len(read(out)) == 50


def test_what_is_answered_is_not_answered_again(invoke: Invoke, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "in.jsonl", "a", "b")
    out = tmp_path / "out.jsonl"
    invoke("run", lines, "-o", out)
    before = out.read_bytes()
    write_lines(lines, "a", "b", "c")
    result = invoke("run", lines, "-o", out)
    assert result.stdout.startswith("1 answered, 2 were answered before;")
    assert out.read_bytes().startswith(before)
    assert len(read(out)) == 3


def test_an_output_of_another_input_is_refused(invoke: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    invoke("run", write_lines(tmp_path / "in.jsonl", "a"), "-o", out)
    result = invoke("run", write_lines(tmp_path / "in.jsonl", "b"), "-o", out)
    assert result.exit_code == 2
    assert "belongs to another input" in result.stderr


def test_input_and_output_must_differ(invoke: Invoke, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "in.jsonl", "a")
    result = invoke("run", lines, "-o", lines)
    assert result.exit_code == 2
    assert "both read and written" in result.stderr
    assert lines.read_text() == '"a"\n'


def test_input_and_file_of_errors_must_differ(invoke: Invoke, tmp_path: Path) -> None:
    """The file of errors begins anew with each run: it would delete the input."""
    lines = write_lines(tmp_path / "out.errors.jsonl", "a")
    result = invoke("run", lines, "-o", tmp_path / "out.jsonl")
    assert result.exit_code == 2
    assert "both read and written" in result.stderr
    assert lines.read_text() == '"a"\n'


def test_a_missing_input(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("run", tmp_path / "missing.jsonl", "-o", tmp_path / "out.jsonl")
    assert result.exit_code == 2
    assert "cannot be read" in result.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_an_empty_input(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("run", write_lines(tmp_path / "in.jsonl"), "-o", tmp_path / "out.jsonl")
    assert result.exit_code == 0
    assert result.stdout.startswith("0 answered;")


def test_a_model_that_cannot_be_loaded(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ModelError("there is no model 'x'; give another")
    monkeypatch.setattr(service, "open_service", toy_factory(load_error=error))
    lines = write_lines(tmp_path / "in.jsonl", "a")
    result = invoke("run", lines, "-o", tmp_path / "out.jsonl")
    assert (result.exit_code, result.stderr) == (2, f"headrace: {error}\n")


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, "it ended before it was to be killed"
        assert time.monotonic() < until, "no answers came"
        time.sleep(0.005)


def test_kills_neither_lose_nor_repeat_a_line(start: Start, tmp_path: Path) -> None:
    rows = [{"custom_id": f"row-{i}", "prompt": f"text {i}"} for i in range(ROWS)]
    lines = write_lines(tmp_path / "in.jsonl", *rows, "raw:{oops")
    out = tmp_path / "out.jsonl"
    kept = b""
    for goal in (10, 50, 90):
        process = start(0.01, "run", lines, "-o", out, "--max-sequences", "8")
        wait_for_lines(out, goal, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        after = out.read_bytes()
        assert after.startswith(kept)
        kept = after[: after.rindex(b"\n") + 1]
        with out.open("ab") as torn:  # a write that the kill cut short
            torn.write(b'{"id":"batch_req_0123456789abcdef","custom_id":"row-119","respo')
    process = start(0.0, "run", lines, "-o", out, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1, stderr
    assert b"were answered before, 1 kept apart" in stdout
    assert out.read_bytes().startswith(kept)
    found = read(out)
    assert set(found) == {f"row-{i}" for i in range(ROWS)}
    for i in range(ROWS):
        answer = found[f"row-{i}"]["response"]
        assert answer["status_code"] == 200
        assert answer["body"]["choices"][0]["text"] == f"text {i}"
    assert len((tmp_path / "out.errors.jsonl").read_text().splitlines()) == 1


def test_an_interrupt_stops_in_order(start: Start, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "in.jsonl", *[f"row {i}" for i in range(ROWS)])
    out = tmp_path / "out.jsonl"
    process = start(0.02, "run", lines, "-o", out, "--max-sequences", "4", stderr=subprocess.PIPE)
    wait_for_lines(out, 5, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"run the same command again" in stderr
    assert b"Traceback" not in stderr
    assert out.read_bytes().endswith(b"\n")
    assert 5 <= len(read(out)) < ROWS


def test_a_batch_is_looked_at_as_a_whole_unless_another_order_is_asked_for() -> None:
    config, in_flight = for_a_batch(EngineOptions(max_queue=500), "toy")
    assert (config.order, in_flight) == ("lookahead", 500)
    config, in_flight = for_a_batch(EngineOptions(policy=["order=fcfs"]), "toy")
    assert (config.order, in_flight) == ("fcfs", 128)
    config, in_flight = for_a_batch(EngineOptions(policy=["reserve"], max_queue=10), "toy")
    assert (config.order, config.admission, in_flight) == ("lookahead", "reserve", 128)


async def test_lines_are_read_as_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the input, few lines are in memory."""
    read_ahead: list[int] = []
    answered = 0

    async def answer(batch: Batch, client: object, line: BatchLine) -> None:
        nonlocal answered
        await asyncio.sleep(0)
        read_ahead.append(lines.tell() - answered)
        answered += 1

    class Lines(io.BytesIO):
        """Its position is the number of lines that were read."""

        count = 0

        def readline(self, size: int | None = -1, /) -> bytes:
            self.count += 1
            return f'"row {self.count}"\n'.encode() if self.count <= 5000 else b""

        def tell(self) -> int:
            return self.count

    monkeypatch.setattr(Batch, "_answer", answer)
    lines = Lines()
    out = BatchOutput(tmp_path / "out.jsonl")
    service = toy_service()
    batch = Batch(service, out, BatchProgress(5000), in_flight=16)
    await batch.answer_all(lines, {})
    out.close()
    assert answered == 5000
    assert max(read_ahead) <= 17
