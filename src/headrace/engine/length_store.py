"""LengthStore: what is known of output lengths, kept on disk between starts."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headrace.nouns.event import Event, Kind
from headrace.scheduling.output_lengths import OutputLengths

FORMAT = 1  # of the file; another number makes a file foreign
MAX_BYTES = 4 << 20
PERIOD = 300.0
"""Seconds of serving after which what has been learnt is written."""
PAUSE = 0.001  # seconds between classes that are written beside running steps

log = logging.getLogger(__name__)


class LengthStore:
    """An event sink that writes a model's ``OutputLengths`` now and then, and when it is closed.

    The file holds, for each tenant by name, for each of its categories and for everybody, the
    last output lengths in tokens: nothing of what was written. A file that is damaged, of another
    format or for another model counts as empty. Writing happens on a thread of its own, a class at
    a time, so that no step waits for more than the copying of a few thousand numbers; what cannot
    be written costs a line in the log and nothing else.
    """

    def __init__(self, lengths: OutputLengths, path: Path, model: str) -> None:
        self.path = path
        self._lengths, self._model = lengths, model
        self._written = lengths.observed
        self._due: float | None = None
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, lengths: OutputLengths, model: str) -> LengthStore:
        """For the model of this name, beside what was measured of the machine."""
        from headrace.execution import tuning

        digest = hashlib.sha256(model.encode(errors="surrogatepass")).hexdigest()[:24]
        return cls(lengths, tuning.tuning_folder() / f"lengths-{digest}.json", model)

    def load(self) -> str:
        """Takes over what the file holds; says what that is. Never raises."""
        from headrace.execution.tuning import parse_object

        try:
            with self.path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return "nothing known yet"
        except OSError as error:
            log.warning("output lengths are not used: cannot read %s: %s", self.path, error)
            return "nothing known yet"
        fault, found = parse_object(raw, MAX_BYTES)
        if not fault and found.get("format") != FORMAT:
            fault = f"it is of format {found.get('format')!r}, not {FORMAT}"
        elif not fault and found.get("model") != self._model:
            fault = "it was made for another model"
        if not fault:
            try:
                self._lengths.restore(found)
            except ValueError as error:
                fault = str(error)
        if fault:
            log.warning("output lengths in %s are ignored: %s", self.path, fault)
            return "nothing known yet"
        return f"{self._lengths.known} known, of {len(self._lengths)} classes"

    def __call__(self, event: Event) -> None:
        if event.kind is not Kind.FINISHED:
            return
        if self._due is None:
            self._due = event.time + PERIOD
        elif event.time >= self._due and (self._thread is None or not self._thread.is_alive()):
            self._due = event.time + PERIOD
            data = self._snapshot()
            self._thread = threading.Thread(
                target=self._write, args=(data, PAUSE), name="headrace-lengths", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Writes what has been learnt since, and waits until it is written."""
        if self._thread is not None:
            self._thread.join()
        if self._lengths.observed != self._written:
            self._write(self._snapshot(), 0.0)

    def _snapshot(self) -> dict[str, Any]:
        self._written = self._lengths.observed
        return self._lengths.to_json()

    def _write(self, data: dict[str, Any], pause: float) -> None:
        from headrace.execution.tuning import replace_file

        try:
            replace_file(self.path, self._parts(data, pause))
        except OSError as error:
            log.warning("output lengths are not kept: cannot write %s: %s", self.path, error)

    def _parts(self, data: dict[str, Any], pause: float) -> Iterator[str]:
        head = json.dumps({"format": FORMAT, "model": self._model})
        yield head[:-1] + ', "classes": ['
        for at, entry in enumerate(data["classes"]):
            yield (",\n" if at else "\n") + json.dumps(entry, separators=(",", ":"))
            time.sleep(pause)  # others get their turn between two of them
        yield "\n]}\n"
