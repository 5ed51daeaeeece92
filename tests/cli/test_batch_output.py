"""The answers' file: torn ends, damage, locks, other people's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.cli.batch_input import COMPLETIONS, BadLine, BatchLine
from headrace.cli.batch_output import BatchOutput, errors_path
from headrace.cli.ledger import Claim, digest
from headrace.nouns.errors import ConfigError


def line(number: int) -> BatchLine:
    return BatchLine(number, f"id-{number}", COMPLETIONS, {}, digest(str(number).encode()))


def answers(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, numbers: list[int]) -> bytes:
    out = BatchOutput(path)
    for number in numbers:
        out.answer(line(number), 200, b'{"text": "caf\xc3\xa9"}')
    out.close()
    return path.read_bytes()


def test_an_answer_has_openai_s_shape(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, [1])
    [answer] = answers(path)
    assert answer["custom_id"] == "id-1"
    assert answer["error"] is None
    assert answer["id"].startswith("batch_req_")
    assert answer["response"] == {
        "status_code": 200,
        "request_id": answer["id"],
        "body": {"text": "café"},
    }
    assert not errors_path(path).exists()


def test_faults_are_kept_apart_and_begin_anew(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    for _ in range(2):
        out = BatchOutput(path)
        out.bad(BadLine(3, None, "not valid JSON", "{oops"))
        out.refusal(line(4), 400, b'{"error": {"code": "too_long", "message": "no"}}')
        out.close()
    assert answers(path) == []
    bad, refused = answers(tmp_path / "out.errors.jsonl")
    assert bad["error"] == {
        "code": "invalid_line", "message": "not valid JSON", "line": 3, "input": "{oops"
    }  # fmt: skip
    assert refused["custom_id"] == "id-4"
    assert refused["response"]["status_code"] == 400
    assert refused["error"] == {"code": "too_long", "message": "no", "line": 4}


def test_no_cut_loses_or_repeats_an_answer(tmp_path: Path) -> None:
    """A kill can cut the file anywhere in its last line: what is whole before stays."""
    path = tmp_path / "out.jsonl"
    whole = write(path, [1, 2, 3])
    last = whole.rindex(b"\n", 0, -1)
    for cut in [*range(0, last, 7), *range(last, len(whole) + 1)]:
        path.write_bytes(whole[:cut])
        kept = whole[:cut].count(b"\n")
        out = BatchOutput(path)
        claims = [out.ledger.claim(f"id-{n}", line(n).digest) for n in (1, 2, 3)]
        assert claims == [Claim.ANSWERED] * kept + [Claim.NEW] * (3 - kept)
        for number in range(kept + 1, 4):
            out.answer(line(number), 200, b'{"text": "caf\xc3\xa9"}')
        out.close()
        assert path.read_bytes() == whole


@given(data=st.data())
def test_damage_anywhere_costs_only_the_damaged_lines(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("damage") / "out.jsonl"
    whole = bytearray(write(path, [1, 2, 3]))
    lines = bytes(whole).splitlines(keepends=True)
    hit = data.draw(st.sets(st.integers(0, 2), min_size=1, max_size=2))
    path.write_bytes(
        b"".join(b"\0" * (len(x) - 1) + b"\n" if i in hit else x for i, x in enumerate(lines))
    )
    BatchOutput(path).close()
    assert path.read_bytes() == b"".join(x for i, x in enumerate(lines) if i not in hit)


def test_a_repeated_answer_is_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    whole = write(path, [1, 2])
    path.write_bytes(whole + whole)
    BatchOutput(path).close()
    assert path.read_bytes() == whole


def test_a_file_of_nothing_but_zeros_is_what_a_power_cut_left(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"\0" * 100)
    assert write(path, [1]).count(b"\n") == 1


@pytest.mark.parametrize("content", [b"notes\n", b'"a prompt"\n', b'{"prompt": "a"}\n', b"x"])
def test_somebody_else_s_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="holds no answers"):
        BatchOutput(path)
    assert path.read_bytes() == content


def test_one_run_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    first = BatchOutput(path)
    with pytest.raises(ConfigError, match="another run"):
        BatchOutput(path)
    first.close()
    BatchOutput(path).close()


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        BatchOutput(tmp_path / "missing" / "out.jsonl")
    with pytest.raises(ConfigError, match="cannot be written"):
        BatchOutput(tmp_path)


def test_a_full_disk_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    out = BatchOutput(tmp_path / "out.jsonl")
    with Path("/dev/full").open("wb", buffering=0) as full:
        out._file = full
        with pytest.raises(ConfigError, match="make room"):
            out.answer(line(1), 200, b"{}")
