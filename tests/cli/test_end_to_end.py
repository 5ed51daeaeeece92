"""Commands and library on the default model: one question, the same answer by every way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headrace import LLM, SamplingParams
from headrace.cli.main import app
from headrace.models.loader import ModelFiles

QUESTION = {"role": "user", "content": "What is 2+2?"}
PROMPT = "The three longest rivers are"
GREEDY = SamplingParams(temperature=0.0, max_tokens=8)
# Small, and nothing to be measured first.
ENGINE = [
    "--weights",
    "float32",
    "--token-budget",
    "64",
    "--cache",
    "64MiB",
    "--max-context",
    "256",
]
ANSWER = ["--temperature", "0", "--max-tokens", "8"]


@pytest.fixture(scope="module")
def llm(default_model: ModelFiles) -> Iterator[LLM]:
    with LLM(weights="float32", token_budget=64, cache_bytes=64 * 2**20, max_context=256) as found:
        yield found


@pytest.fixture(scope="module")
def expected(llm: LLM) -> tuple[str, str]:
    """The answer to the question, and the prompt's continuation."""
    [continuation] = llm.generate(PROMPT, GREEDY)
    return llm.chat([QUESTION], GREEDY).text, continuation.text


def test_the_model_answers(llm: LLM, expected: tuple[str, str]) -> None:
    assert llm.model_name == "smollm2:135m"
    assert llm.max_context == 256
    assert expected[0].startswith("The answer to this classic math problem")
    assert "".join(d.text for d in llm.stream(PROMPT, GREEDY)) == expected[1]


def test_run_answers_as_the_library(tmp_path: Path, expected: tuple[str, str]) -> None:
    lines, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"messages": [QUESTION]}, PROMPT, {"prompt": PROMPT, "n": 2}]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = CliRunner().invoke(app, ["run", str(lines), "-o", str(out), *ANSWER, *ENGINE])
    assert result.exit_code == 0, result.output
    assert "token budget: 64 a step (set by the user)" in result.stderr
    records = [json.loads(text) for text in out.read_text(encoding="utf-8").splitlines()]
    found = {record["custom_id"]: record["response"]["body"]["choices"] for record in records}
    assert found["line-1"][0]["message"]["content"] == expected[0]
    assert [choice["text"] for choice in found["line-2"]] == [expected[1]]
    assert [choice["text"] for choice in found["line-3"]] == [expected[1]] * 2


def test_chat_answers_as_the_library(expected: tuple[str, str]) -> None:
    said = f"{QUESTION['content']}\n"
    result = CliRunner().invoke(app, ["chat", *ANSWER, *ENGINE], input=said)
    assert (result.exit_code, result.stdout) == (0, f"{expected[0]}\n"), result.output


def test_serve_answers_as_the_library(expected: tuple[str, str]) -> None:
    command = [sys.executable, "-m", "headrace.cli.main", "serve", "--port", "0", *ENGINE]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        shown = []
        for line in process.stdout:
            shown.append(line)
            if line.startswith("ready: smollm2:135m at "):
                break
        printed = "".join(shown)
        assert all(word in printed for word in ("weights", "cache", "workspace", "token budget"))
        url = shown[-1].split()[-1]
        said = f"{QUESTION['content']}\n"
        result = CliRunner().invoke(app, ["chat", "--url", url, *ANSWER], input=said)
        assert (result.exit_code, result.stdout) == (0, f"{expected[0]}\n"), result.output
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--weights", "int3"], "int3"),
        (["--cache", "1KB"], "cache"),
        (["--max-context", "100000"], "100000"),
    ],
)
def test_what_the_model_cannot_do_is_one_line(args: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["chat", *ENGINE, *args], input="hello\n")
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("headrace: ")
    assert result.stderr.count("\n") == 1
    assert told in result.stderr
