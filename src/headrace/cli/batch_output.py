"""BatchOutput: the answers' file, which outlives a kill without losing or repeating a line."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from headrace.cli.batch_input import BadLine, BatchLine
from headrace.cli.ledger import Ledger
from headrace.nouns.errors import ConfigError

SYNC_SECONDS = 5.0
_PREFIX = "batch_req_"


def request_id(line_digest: int) -> str:
    """The ``id`` of an answer: it carries the digest of the line that it answers."""
    return f"{_PREFIX}{line_digest:016x}"


def errors_path(output: Path) -> Path:
    """OUT.errors.jsonl, beside OUT.jsonl."""
    return output.with_name(f"{output.stem}.errors.jsonl")


class BatchOutput:
    """Appends one JSON line an answer to ``path``; bad lines go to ``errors_path``.

    Each line is one write to the kernel, so a killed process leaves at most the last line torn;
    every ``SYNC_SECONDS`` the file is forced to disk, so a power cut costs no more than that.
    Opening it repairs what a kill or a power cut left: lines that are not whole are taken out
    and their requests are answered again. The errors' file begins anew, as reading the input
    again finds the same faults.

    Raises ConfigError when the file cannot be written, is in use by another run, or holds
    something that is not a batch's output.
    """

    def __init__(self, path: Path) -> None:
        self.ledger = Ledger()
        self._errors: BinaryIO | None = None
        self.errors_path = errors_path(path)
        self._synced = time.monotonic()
        try:
            self._file = self._open(path)
            self.errors_path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"the output {path} cannot be written: {error.strerror}") from error

    def answer(self, line: BatchLine, status: int, body: bytes) -> None:
        """Writes a request's answer; ``body`` is JSON."""
        record = _record(line.custom_id, line.digest, status, body, None)
        self._write(self._file, record)
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self._sync()

    def refusal(self, line: BatchLine, status: int, body: bytes) -> None:
        """Writes apart a request that was not answered, with the error that it got."""
        error = orjson.loads(body).get("error", {})
        reason = {"code": error.get("code"), "message": error.get("message"), "line": line.number}
        record = _record(line.custom_id, line.digest, status, body, reason)
        self._write(self._errors_file(), record)

    def bad(self, line: BadLine) -> None:
        """Writes apart a line that is no request."""
        reason = {
            "code": "invalid_line",
            "message": line.reason,
            "line": line.number,
            "input": line.raw,
        }
        record = {"id": None, "custom_id": line.custom_id, "response": None, "error": reason}
        self._write(self._errors_file(), record)

    def close(self) -> None:
        """Forces everything to disk."""
        self._sync()
        self._file.close()
        if self._errors is not None:
            os.fsync(self._errors.fileno())
            self._errors.close()

    def _open(self, path: Path) -> BinaryIO:
        file = path.open("a+b", buffering=0)
        _lock(file, path)
        damaged, end = self._read(path)
        if damaged and end == 0 and not _is_torn_answer(path):
            raise ConfigError(
                f"the output {path} exists and holds no answers of a batch; choose another file"
            )
        if damaged and damaged[0] < end:
            return _without(file, path, frozenset(damaged))
        file.truncate(end)
        return file

    def _read(self, path: Path) -> tuple[list[int], int]:
        """Fills the ledger. Offsets of lines to take out, and where the last good one ends."""
        damaged, end = [], 0
        for offset, raw in _lines(path):
            entry = _entry(raw)
            if entry is not None and self.ledger.answered(*entry):
                end = offset + len(raw)
            else:
                damaged.append(offset)
        return damaged, end

    def _errors_file(self) -> BinaryIO:
        if self._errors is None:
            self._errors = self.errors_path.open("wb", buffering=0)
        return self._errors

    @staticmethod
    def _write(file: BinaryIO, record: dict[str, Any]) -> None:
        data = memoryview(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        try:
            while data:
                data = data[file.write(data) :]
        except OSError as error:
            raise ConfigError(
                f"the output {file.name} cannot be written: {error.strerror};"
                " make room and run the same command again to resume"
            ) from error

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


def _record(
    custom_id: str, line_digest: int, status: int, body: bytes, error: dict[str, Any] | None
) -> dict[str, Any]:
    id = request_id(line_digest)
    response = {"status_code": status, "request_id": id, "body": orjson.Fragment(body)}
    return {"id": id, "custom_id": custom_id, "response": response, "error": error}


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ConfigError(
            f"the output {path} is being written by another run; wait for it or choose another file"
        ) from None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with path.open("rb") as file:
        for raw in file:
            yield offset, raw
            offset += len(raw)


def _entry(raw: bytes) -> tuple[str, int] | None:
    """The custom id and line digest of a whole answer; None for anything else."""
    if not raw.endswith(b"\n"):
        return None
    try:
        record = orjson.loads(raw)
        custom_id, id = record["custom_id"], record["id"]
        if not isinstance(custom_id, str) or record["response"] is None:
            return None
        return custom_id, int(id.removeprefix(_PREFIX), 16)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _is_torn_answer(path: Path) -> bool:
    """True for a file of nothing but the beginning of an answer, or of what a power cut left."""
    start = b'{"id":"' + _PREFIX.encode()
    with path.open("rb") as file:
        head = file.read(len(start))
    return start.startswith(head) or not head.strip(b"\0")


def _without(file: BinaryIO, path: Path, damaged: frozenset[int]) -> BinaryIO:
    """The file rewritten without the lines at these offsets, replaced in one move."""
    fresh = path.with_name(f".{path.name}.repair")
    with fresh.open("wb") as out:
        for offset, raw in _lines(path):
            if offset not in damaged:
                out.write(raw)
        out.flush()
        os.fsync(out.fileno())
    file.close()
    repaired = fresh.open("a+b", buffering=0)
    _lock(repaired, path)
    fresh.replace(path)
    return repaired
