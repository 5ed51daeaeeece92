"""Workload file: named lists of prompts with the output to ask for.

The format is ``{"A": [{"prompt": [ids] or "text", "out": tokens}, ...], "B": ...}``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from headrace.nouns.errors import ConfigError
from headrace.workloads.job import Job, Prompt


def read_workloads(path: Path) -> dict[str, list[Job]]:
    """The file's workloads by name, every job at time 0. Raises ConfigError naming the fault."""
    try:
        content = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"the workload file {path} cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"the workload file {path} is not valid JSON: {error}") from error
    if not isinstance(content, dict) or not content:
        raise _fault(path, "", "is no object of named lists")
    return {name: _jobs(path, name, entries) for name, entries in content.items()}


def select(path: Path, names: str | None) -> dict[str, list[Job]]:
    """The workloads named in "A,C" or "AC", in that order; all where ``names`` is None."""
    known = read_workloads(path)
    if names is None:
        return known
    wanted = names.split(",")
    if len(wanted) == 1 and wanted[0] not in known:
        wanted = list(names)  # ABCD
    unknown = [name for name in wanted if name not in known]
    if unknown or not names:
        raise ConfigError(
            f"the workload file {path} has no workload {names!r}; it has {', '.join(known)}"
        )
    return {name: known[name] for name in wanted}


def _jobs(path: Path, name: str, entries: Any) -> list[Job]:
    if not isinstance(entries, list) or not entries:
        raise _fault(path, name, "is no list with at least one entry")
    return [_job(path, f"{name}[{i}]", entry) for i, entry in enumerate(entries)]


def _job(path: Path, where: str, entry: Any) -> Job:
    if not isinstance(entry, dict) or "prompt" not in entry or "out" not in entry:
        raise _fault(path, where, "has no 'prompt' or no 'out'")
    out = entry["out"]
    if type(out) is not int or out < 1:
        raise _fault(path, f"{where}.out", f"is {str(out)[:40]!r}, not a number of tokens above 0")
    return Job(0.0, _prompt(path, f"{where}.prompt", entry["prompt"]), out)


def _prompt(path: Path, where: str, prompt: Any) -> Prompt:
    if isinstance(prompt, str) and prompt:
        return prompt
    if isinstance(prompt, list) and prompt and all(type(t) is int and t >= 0 for t in prompt):
        return tuple(prompt)
    raise _fault(path, where, "is neither a text nor a list of token ids")


def _fault(path: Path, where: str, what: str) -> ConfigError:
    return ConfigError(
        f"the workload file {path}: {where or 'its content'} {what}; the format is"
        ' {"NAME": [{"prompt": [ids] or "text", "out": tokens}, ...]}'
    )
