"""Tuning: what was measured on this machine, kept on disk between starts."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headrace import environment
from headrace.execution.machine import Machine
from headrace.kernels.extension import load_extension
from headrace.models.config import ModelConfig
from headrace.models.weights import WeightReader

FORMAT = 1  # of the file; another number makes a file foreign
MAX_BYTES = 1 << 20
PEAKS = "peaks"  # the name of the machine's limits, see execution/peaks.py

log = logging.getLogger(__name__)


def tuning_folder() -> Path:
    """Where the files are; each is named after a digest of what it holds for."""
    return environment.cache_dir() / "tuning"


@dataclass(frozen=True, slots=True)
class Tuning:
    """Measurements that hold for ``made_for``: a machine, a version of headrace, maybe a model.

    A file that is damaged, of another format or made for something else counts as empty. A
    measurement is data like any other in it: who asks for one checks its form. Processes that
    write at the same time lose at worst a measurement, which is then taken again.
    """

    path: Path
    made_for: Mapping[str, Any]

    @classmethod
    def of(cls, machine: Machine, threads: int, model: str = "") -> Tuning:
        """For ``threads`` threads on ``machine`` and the model with this fingerprint, or for what
        is the same for every model."""
        made_for = {
            "headrace": environment.version(),
            "kernels": _kernels(),
            "processor": machine.processor,
            "features": list(machine.features),
            "cpus": len(machine.cpus),
            "cores": machine.cores,
            "quota": machine.quota,
            "last_level_cache": machine.last_level_cache,
            "threads": threads,
            "model": model,
        }
        name = hashlib.sha256(_canonical(made_for)).hexdigest()[:24]
        return cls(tuning_folder() / f"{name}.json", made_for)

    def get(self, name: str) -> Any:
        """What was put under ``name``; None where there is nothing usable. Never raises."""
        return self._read().get(name)

    def put(self, name: str, value: Any) -> None:
        """Keep ``value`` (plain JSON) under ``name``; where that fails, a line in the log."""
        entries = {**self._read(), name: value}
        text = json.dumps(
            {"format": FORMAT, "made_for": dict(self.made_for), "entries": entries}, indent=1
        )
        try:
            replace_file(self.path, (text,))
        except OSError as error:
            log.warning("tuning is not kept: cannot write %s: %s", self.path, error)

    def _read(self) -> dict[str, Any]:
        try:
            with self.path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            log.warning("tuning is not used: cannot read %s: %s", self.path, error)
            return {}
        fault, found = parse_object(raw)
        if not fault and found.get("format") != FORMAT:
            fault = f"it is of format {found.get('format')!r}, not {FORMAT}"
        elif not fault and found.get("made_for") != dict(self.made_for):
            fault = "it was made for another machine, model or version"
        entries = found.get("entries")
        if not fault and not isinstance(entries, dict):
            fault = "it has no entries"
        if fault or not isinstance(entries, dict):
            log.warning("tuning in %s is ignored and will be measured again: %s", self.path, fault)
            return {}
        return entries


def model_fingerprint(config: ModelConfig, weights: WeightReader) -> str:
    """A digest of what a model's speed depends on: its shape, and how its file stores each weight.

    The weights' values are left out: they would have to be read, and change no measurement.
    """
    stored = {name: weights.stored_type(name) for name in weights.names()}
    return hashlib.sha256(_canonical([asdict(config), stored])).hexdigest()[:24]


def _kernels() -> str:
    """The extension's size and time: in development it changes while the version does not."""
    module = load_extension().module
    try:
        found = os.stat(getattr(module, "__file__", None) or "")
    except OSError:
        return "none"
    return f"{found.st_size}-{found.st_mtime_ns}"


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()


def parse_object(raw: bytes, limit: int = MAX_BYTES) -> tuple[str, dict[str, Any]]:
    """What is wrong with a file of JSON ("" for nothing), and the object in it."""
    if len(raw) > limit:
        return f"it has more than {limit} bytes", {}
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return f"it is no JSON ({error})", {}
    if not isinstance(found, dict):
        return "it holds no object", {}
    return "", found


def replace_file(path: Path, parts: Iterable[str]) -> None:
    """Write the file whole or not at all; nobody sees it half written. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(prefix=path.stem, suffix=".writing", dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            for part in parts:
                file.write(part)
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
