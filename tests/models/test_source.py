"""From a name to files: paths, and the hub's cache without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.models.source import resolve
from headrace.nouns.errors import ModelError
from tests.models.tiny import write_gguf

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RESOLVE = """
import sys
from headrace.models.source import resolve
from headrace.nouns.errors import ModelError
try:
    source = resolve(sys.argv[1], progress=False)
    print(source.kind, source.path)
except ModelError as error:
    print("ModelError", error)
"""


def resolved_offline(model: str, cache: Path) -> str:
    """What a fresh process makes of a hub id: the hub's library reads its settings on import."""
    environment = {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    out = subprocess.run(
        [sys.executable, "-c", RESOLVE, model],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    return out.stdout.strip()


def snapshot(cache: Path, *names: str) -> Path:
    """A repository in the layout of the hub's cache."""
    folder = cache / "models--org--tiny"
    place = folder / "snapshots" / COMMIT
    place.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    for name in names:
        (place / name).write_text("{}")
    return place


def test_gguf_file(tmp_path: Path) -> None:
    write_gguf(tmp_path / "Tiny-Q4.gguf")
    source = resolve(str(tmp_path / "Tiny-Q4.gguf"))
    assert (source.name, source.kind) == ("Tiny-Q4", "gguf")


def test_directories(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    with pytest.raises(ModelError, match=r"neither a config\.json nor a GGUF file"):
        resolve(str(folder))
    (folder / "a.gguf").write_text("")
    assert resolve(str(folder)).path == folder / "a.gguf"
    (folder / "b.gguf").write_text("")
    with pytest.raises(ModelError, match=r"2 GGUF files; name one, such as 'a\.gguf'"):
        resolve(str(folder))
    (folder / "config.json").write_text("{}")
    source = resolve(str(folder))
    assert (source.name, source.path, source.kind) == ("my-model", folder, "hf")


def test_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.gguf").write_text("")
    assert resolve("~/a.gguf").path == tmp_path / "a.gguf"


@pytest.mark.parametrize(
    "model",
    ["", "smollm", "./missing", "/missing/model", "missing.gguf", "a/b/c", "a\0b", "x" * 5000],
)
def test_names_of_nothing(model: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve(model)
    assert "smollm2:135m" in str(caught.value) or "cannot look" in str(caught.value)


def test_hub_id_in_the_local_cache(tmp_path: Path) -> None:
    place = snapshot(tmp_path, "config.json", "model.safetensors", "tokenizer.json")
    assert resolved_offline("org/tiny", tmp_path) == f"hf {place}"
    assert resolved_offline(f"org/tiny@{COMMIT}", tmp_path) == f"hf {place}"
    missing = resolved_offline("org/other", tmp_path)
    assert "'org/other' is not in the local cache" in missing
    assert "HF_HUB_OFFLINE" in missing


def test_gguf_file_of_a_hub_id(tmp_path: Path) -> None:
    place = snapshot(tmp_path, "tiny-Q4_0.gguf")
    assert resolved_offline("org/tiny/tiny-Q4_0.gguf", tmp_path) == f"gguf {place}/tiny-Q4_0.gguf"
    assert "give its name too: org/tiny/FILE.gguf" in resolved_offline("org/tiny", tmp_path)
