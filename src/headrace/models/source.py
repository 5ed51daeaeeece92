"""ModelSource: where a model's files are, and how to get from a name to them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headrace.models.catalogue import CATALOGUE, fetch
from headrace.models.hub import fetch_file, fetch_snapshot
from headrace.nouns.errors import ModelError

DEFAULT_MODEL = "smollm2:135m"

_HUB_ID = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(/(?P<file>[^@]+\.gguf))?(@(?P<revision>[\w./-]+))?"
)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model on this machine: one ``gguf`` file, or one ``hf`` directory."""

    name: str
    path: Path
    kind: Literal["gguf", "hf"]


def resolve(model: str, progress: bool = True) -> ModelSource:
    """Find, and if need be fetch, the model that ``model`` names.

    In this order: a name of the catalogue; a path to a GGUF file or to a directory with
    ``config.json``; a hub id ``org/name``, ``org/name@revision`` or ``org/name/file.gguf``.
    ``progress`` shows a bar on standard error while something is fetched.

    Raises ModelError saying what to do when there is no such model or it cannot be fetched.
    """
    if model in CATALOGUE:
        return ModelSource(model, fetch(CATALOGUE[model], progress=progress), "gguf")
    if not model or "\0" in model:
        raise ModelError(f"{model!r} is no model's name; {_choices()}")
    path = Path(model).expanduser()
    try:
        if path.is_file():
            return ModelSource(path.stem, path, "gguf")
        if path.is_dir():
            return _directory(path)
    except OSError as error:
        raise ModelError(f"cannot look at {path}: {error.strerror or error}") from error
    match = _HUB_ID.fullmatch(model)
    looks_like_path = model.startswith((".", "/", "~")) or "\\" in model
    if match is None or looks_like_path:
        raise ModelError(f"there is no model {model!r}; {_choices()}")
    repo, name, revision = match["repo"], match["file"], match["revision"]
    if name:
        return ModelSource(model, fetch_file(repo, name, revision, progress), "gguf")
    return ModelSource(model, _checked(fetch_snapshot(repo, revision, progress), repo), "hf")


def _directory(path: Path) -> ModelSource:
    name = path.resolve().name
    if (path / "config.json").is_file():
        return ModelSource(name, path, "hf")
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return ModelSource(files[0].stem, files[0], "gguf")
    if files:
        raise ModelError(
            f"{path} holds {len(files)} GGUF files; name one, such as {files[0].name!r}"
        )
    raise ModelError(f"{path} holds neither a config.json nor a GGUF file")


def _checked(folder: Path, repo: str) -> Path:
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{repo} on the hub has no config.json; for a GGUF file in it give its name too:"
            f" {repo}/FILE.gguf"
        )
    return folder


def _choices() -> str:
    return (
        f"give one of {', '.join(sorted(CATALOGUE))}, the path of a GGUF file or of a Hugging Face"
        " directory, or a hub id such as org/name"
    )
