"""Trace: recorded arrivals with their lengths, read line by line in bounded memory."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TextIO

from headrace.nouns.errors import ConfigError
from headrace.workloads.job import Shape

# Names of the three columns, in lower case without spaces and underscores.
TIME = {"time", "timestamp", "at", "arrival", "arrivaltime"}
PROMPT = {"prompttokens", "contexttokens", "prompt", "input", "inputtokens"}
OUTPUT = {"outputtokens", "generatedtokens", "output", "completiontokens"}
MAX_TOKENS = 2**31
NANO = 10**9

_DATE = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:?\d\d)?")


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """A request of a trace: seconds after the first one, and its lengths in tokens."""

    at: float
    shape: Shape


@dataclass(frozen=True, slots=True)
class Trace:
    """A CSV file with a column each for time, prompt tokens and output tokens.

    The columns are found by a header line (such as the Azure traces' ``TIMESTAMP,ContextTokens,
    GeneratedTokens``), or are the first three where there is none. Times are seconds, or dates
    with any number of fractional digits, and do not decrease. At most ``limit`` entries are read.
    Nothing is kept: each iteration reads the file anew. Raises ConfigError naming file and line.
    """

    path: Path
    limit: int | None = None

    def __iter__(self) -> Iterator[TraceEntry]:
        return islice(self._entries(), self.limit)

    def times(self) -> Iterator[float]:
        """Seconds after the first entry."""
        return (entry.at for entry in self)

    def mean_rate(self) -> tuple[int, float]:
        """(entries, entries a second between the first and the last). Reads the whole trace.

        Raises ConfigError where there are too few entries to tell.
        """
        count, last = 0, 0.0
        for entry in self:
            count, last = count + 1, entry.at
        if last <= 0:
            raise ConfigError(
                f"the trace {self.path} has {count} entries within {last:g} s, so it has no rate"
            )
        return count, (count - 1) / last

    def _entries(self) -> Iterator[TraceEntry]:
        first: int | None = None
        last = 0
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                for line, fields in _rows(file, self.path):
                    time, prompt, output = fields
                    now = _nanoseconds(time, self.path, line)
                    if first is None:
                        first = last = now
                    if now < last:
                        raise _fault(self.path, line, f"time {time!r} is before the line above")
                    last = now
                    shape = Shape(
                        _tokens(prompt, "prompt tokens", self.path, line),
                        _tokens(output, "output tokens", self.path, line),
                    )
                    yield TraceEntry((now - first) / NANO, shape)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"the trace {self.path} cannot be read: {error}") from error
        if first is None:
            raise ConfigError(f"the trace {self.path} has no entries")


def _rows(file: TextIO, path: Path) -> Iterator[tuple[int, tuple[str, str, str]]]:
    """(line number, the three fields) of each line with content, the header left out."""
    reader = csv.reader(file)
    columns: tuple[int, int, int] | None = None
    for row in reader:
        if not any(cell.strip() for cell in row):
            continue
        if columns is None:
            columns = _columns(row, path)
            if columns is not None:
                continue
            columns = (0, 1, 2)
        if len(row) <= max(columns):
            raise _fault(path, reader.line_num, f"{len(row)} columns, too few")
        time, prompt, output = (row[i].strip() for i in columns)
        yield reader.line_num, (time, prompt, output)


def _columns(row: list[str], path: Path) -> tuple[int, int, int] | None:
    """Where the header has the three columns; None where the first line is no header."""
    names = [re.sub(r"[\s_-]", "", cell).lower() for cell in row]
    found = [next((i for i, n in enumerate(names) if n in known), None)
             for known in (TIME, PROMPT, OUTPUT)]  # fmt: skip
    time, prompt, output = found
    if time is not None and prompt is not None and output is not None:
        return time, prompt, output
    if re.match(r"\s*[+-]?\.?\d", row[0]):
        return None
    missing = [
        name
        for name, index in zip(("time", "prompt tokens", "output tokens"), found, strict=True)
        if index is None
    ]
    raise _fault(path, 1, f"the header {','.join(row)[:100]!r} has no column {missing[0]!r}")


def _nanoseconds(text: str, path: Path, line: int) -> int:
    """A time as a whole number, so that the digits of dates far from zero are kept."""
    match = _DATE.fullmatch(text)
    try:
        if match is None:
            return int(Decimal(text) * NANO)
        date = datetime.fromisoformat(match[1] + (match[3] or ""))
        whole = date if date.tzinfo else date.replace(tzinfo=UTC)
        return int(whole.timestamp()) * NANO + int(Decimal(match[2] or 0) * NANO)
    except (ValueError, ArithmeticError):
        raise _fault(path, line, f"time {text[:60]!r} is neither seconds nor a date") from None


def _tokens(text: str, what: str, path: Path, line: int) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:11]) <= MAX_TOKENS):
        raise _fault(path, line, f"{what} is {text[:60]!r}, not a whole number of tokens")
    return int(text)


def _fault(path: Path, line: int, what: str) -> ConfigError:
    return ConfigError(
        f"the trace {path}, line {line}: {what};"
        " each line has a time, prompt tokens and output tokens, in the order of time"
    )
