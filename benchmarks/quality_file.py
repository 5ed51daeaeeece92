"""The file that holds what a comparison of quality asks and what each engine answered.

Standard library only: peers read and write it under interpreters of their own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

BASE = "float32"  # the row that all others are compared with


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked, as token ids, so that every engine sees the same.

    ``windows`` are stretches of text whose tokens are predicted one from those before it,
    ``prompts`` conversations to continue greedily by ``prompt_tokens``, ``questions`` those whose
    answer is a number, with ``truths``, by ``question_tokens``. An output ends before an id of
    ``eos``.
    """

    model: str
    windows: list[list[int]]
    prompts: list[list[int]] = field(default_factory=list)
    prompt_tokens: int = 128
    questions: list[list[int]] = field(default_factory=list)
    truths: list[str] = field(default_factory=list)
    question_tokens: int = 256
    eos: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Row:
    """What one engine in one format answered.

    ``nll`` is the sum of negative log-likelihoods of each window's tokens but the first, in nats;
    ``top`` the most likely token at the same places; ``outputs`` continue the prompts;
    ``answers`` are the last numbers said to the questions. None where it was not measured.
    ``nbytes`` are bytes of weights, in memory for this engine's rows and on disk for a peer's.
    """

    name: str
    nbytes: int | None
    nll: list[float]
    top: list[list[int]]
    outputs: list[list[int]] | None = None
    answers: list[str | None] | None = None
    peer: bool = False
    auto: bool = False
    note: str = ""


class QualityFile:
    """A task and its rows. A new row replaces one of the same name and is saved at once."""

    def __init__(self, path: Path, task: Task, rows: Sequence[Row] = ()) -> None:
        self.path, self.task = path, task
        self.rows = list(rows)

    @classmethod
    def read(cls, path: Path) -> QualityFile:
        """Ends the program with a message where the file cannot be read."""
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            task = Task(**values["task"])
            rows = [Row(**row) for row in values["rows"]]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SystemExit(
                f"{path} is not a file of benchmarks.quality: {error!r}; make one with"
                " python -m benchmarks.quality --file FILE --text TEXT"
            ) from error
        return cls(path, task, rows)

    def add(self, row: Row) -> None:
        """Rows that other programs added to the file meanwhile are kept.

        Raises ValueError for a row that does not answer this task.
        """
        task = self.task
        counts = [len(window) - 1 for window in task.windows]
        if len(row.nll) != len(counts) or [len(top) for top in row.top] != counts:
            raise ValueError(f"{row.name}: the windows' scores are not those of {self.path}")
        for what, given, asked in (
            ("outputs", row.outputs, task.prompts),
            ("answers", row.answers, task.questions),
        ):
            if given is not None and len(given) != len(asked):
                raise ValueError(f"{row.name} has {len(given)} {what}; {len(asked)} were asked for")
        if self.path.exists():
            self.rows = QualityFile.read(self.path).rows
        names = [other.name for other in self.rows]
        if row.name in names:
            self.rows[names.index(row.name)] = row
        else:
            self.rows.append(row)
        self.save()

    def save(self) -> None:
        values = {"task": asdict(self.task), "rows": [asdict(row) for row in self.rows]}
        written = self.path.with_name(self.path.name + ".new")
        written.write_text(json.dumps(values) + "\n", encoding="utf-8")
        written.replace(self.path)

    @property
    def base(self) -> Row | None:
        """The float32 row."""
        return next((row for row in self.rows if row.name == BASE), None)
