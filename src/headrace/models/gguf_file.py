"""GgufFile: the header of a GGUF file (metadata and where each tensor lies), read defensively.

Format: the GGUF specification in the ggml repository, versions 2 and 3. The ``gguf`` package
supplies the tensor types and their sizes; its reader is not used, since it maps the file and
trusts its counts, and takes seconds for a large vocabulary.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from headrace.models.gguf_types import TensorType, supported_types, tensor_type
from headrace.nouns.errors import ModelError

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_DIMS = 4
_MAX_COUNT = 1 << 20  # entries of metadata, tensors
_MAX_NAME = 1 << 16
_CHUNK = 1 << 20

# GGUF's value types by number; 8 is a string, 9 an array.
_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor's place: ``shape`` row-major [out, in], ``offset`` and ``nbytes`` in the file."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """Metadata by key (numbers, strings, flags, lists of these) and tensors by name."""

    path: Path
    size: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Read the header of ``path``; every tensor is checked to lie inside the file.

        Raises ModelError when the file cannot be read, is not GGUF, is cut short or damaged, or
        holds a tensor type that cannot be dequantised.
        """
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(0)
                return _Header(path, file, size).read()
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror or error}") from error


class _Header:
    """A cursor over the start of a file that reads on as far as the header goes."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path, self._file, self._size = path, file, size
        self._buffer = bytearray()
        self._at = 0

    def read(self) -> GgufFile:
        if self._size < 24 or bytes(self._take(4)) != MAGIC:
            raise ModelError(f"{self._path} is not a GGUF file: it does not begin with 'GGUF'")
        version = self._number("I")
        if version not in _VERSIONS:
            hint = " (big-endian?)" if version & 0xFFFF == 0 else ""
            raise ModelError(
                f"{self._path} is GGUF version {version}{hint}; supported are little-endian"
                f" versions {' and '.join(map(str, _VERSIONS))}"
            )
        tensor_count, entry_count = self._count("tensors"), self._count("metadata entries")
        metadata: dict[str, Any] = {}
        for _ in range(entry_count):
            key = self._text(_MAX_NAME)
            metadata[key] = self._value(self._number("I"), key)
        tensors = {info.name: info for info in self._tensors(tensor_count, metadata)}
        if len(tensors) != tensor_count:
            raise self._damaged("two tensors have the same name")
        return GgufFile(self._path, self._size, metadata, tensors)

    def _tensors(self, count: int, metadata: Mapping[str, Any]) -> Iterator[TensorInfo]:
        found = []
        for _ in range(count):
            name = self._text(_MAX_NAME)
            dims = self._number("I")
            if not 1 <= dims <= _MAX_DIMS:
                raise self._damaged(f"tensor {name!r} has {dims} dimensions")
            shape = tuple(self._number("Q") for _ in range(dims))[::-1]
            type_id = self._number("I")
            kind = tensor_type(type_id)
            if kind is None:
                raise ModelError(
                    f"{self._path}: tensor {name!r} has type number {type_id}, which cannot be"
                    f" dequantised; supported are {', '.join(supported_types())}"
                )
            found.append((name, shape, kind, self._number("Q")))
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
            raise self._damaged(f"its alignment is {alignment!r}")
        start = -(-self._at // alignment) * alignment
        for name, shape, kind, offset in found:
            values = 1
            for extent in shape:
                values *= extent
            if values < 1 or shape[-1] % kind.block:
                raise self._damaged(f"tensor {name!r} has the shape {list(shape)}")
            nbytes = values // kind.block * kind.block_bytes
            if start + offset + nbytes > self._size:
                raise ModelError(
                    f"{self._path} is cut short: tensor {name!r} ends at byte"
                    f" {start + offset + nbytes}, the file at {self._size}; fetch it again"
                )
            yield TensorInfo(name, kind, shape, start + offset, nbytes)

    def _value(self, kind: int, key: str, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._text(self._size)
        if kind != _ARRAY or depth > 2:
            raise self._damaged(f"the value of {key!r} has the unknown type {kind}")
        element, count = self._number("I"), self._number("Q")
        if element in _SCALARS:
            code = _SCALARS[element]
            raw = self._take(count * struct.calcsize(code))
            return list(struct.unpack(f"<{count}{code}", raw))
        if count * 8 > self._size:
            raise self._damaged(
                f"the list {key!r} says it has {count} entries, more than the file can hold"
            )
        if element == _STRING:
            return self._texts(count, key)
        return [self._value(element, key, depth + 1) for _ in range(count)]

    def _texts(self, count: int, key: str) -> list[str]:
        """Vocabularies have a hundred thousand entries, so this reads the buffer by itself."""
        texts: list[str] = []
        buffer, at, length = self._buffer, self._at, struct.Struct("<Q").unpack_from
        for i in range(count):
            if at + 8 > len(buffer):
                self._need(at + 8 - self._at)
            start = at + 8
            at = start + length(buffer, at)[0]
            if at > len(buffer):
                self._need(at - self._at)
            try:
                texts.append(buffer[start:at].decode("utf-8"))
            except UnicodeDecodeError:
                raise self._damaged(f"entry {i} of {key!r} is not UTF-8") from None
        self._at = at
        return texts

    def _text(self, limit: int) -> str:
        length = self._number("Q")
        if length > limit:
            raise self._damaged(f"a string says it has {length} bytes")
        return self._take(length).decode("utf-8", errors="replace")

    def _count(self, what: str) -> int:
        count: int = self._number("Q")
        if count > _MAX_COUNT:
            raise self._damaged(f"it says it has {count} {what}")
        return count

    def _number(self, code: str) -> Any:
        size = struct.calcsize("<" + code)
        self._need(size)
        value = struct.unpack_from("<" + code, self._buffer, self._at)[0]
        self._at += size
        return value

    def _take(self, size: int) -> bytearray:
        self._need(size)
        self._at += size
        return self._buffer[self._at - size : self._at]

    def _need(self, size: int) -> None:
        end = self._at + size
        if end <= len(self._buffer):
            return
        if end > self._size:
            raise ModelError(
                f"{self._path} is cut short or damaged: its header runs past the end of the file"
                f" at byte {self._size}; fetch it again"
            )
        self._buffer += self._file.read(max(end - len(self._buffer), len(self._buffer), _CHUNK))
        if len(self._buffer) < end:
            raise ModelError(f"{self._path} was cut short while being read")

    def _damaged(self, what: str) -> ModelError:
        return ModelError(f"{self._path} is damaged: {what}; fetch it again")
