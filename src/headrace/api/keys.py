"""ApiKeys: who may use the server, and as which tenant."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path

from headrace.api.tenant_file import TenantFile
from headrace.environment import api_keys
from headrace.nouns.errors import ConfigError

DEFAULT_TENANT = "default"


class ApiKeys:
    """Keys and their tenants; empty means that nobody has to show one.

    Only digests are kept. Every lookup compares with every key in constant time, so that answers
    take as long for a key that is nearly right as for one that is not.
    """

    def __init__(self, tenants: Mapping[str, str] | None = None) -> None:
        self._tenants = [(_digest(key), tenant) for key, tenant in (tenants or {}).items()]

    def __len__(self) -> int:
        return len(self._tenants)

    def tenant(self, key: str) -> str | None:
        """The tenant whose key this is, or None."""
        digest = _digest(key)
        found: str | None = None
        for known, tenant in self._tenants:
            if hmac.compare_digest(known, digest):
                found = tenant
        return found

    @classmethod
    def load(cls, path: Path | None = None, more: Iterable[str] | None = None) -> ApiKeys:
        """Keys of a file, and ``more`` (by default those of HEADRACE_API_KEYS).

        The file is one of ``read``'s. Raises ConfigError.
        """
        tenants = dict.fromkeys(api_keys() if more is None else more, DEFAULT_TENANT)
        if path is not None:
            tenants.update(read(path).keys)
        return cls(tenants)


def read(path: Path) -> TenantFile:
    """A file of keys: a ``.toml`` as ``TenantFile`` says, any other in plain lines.

    A plain line is ``key`` or ``key tenant``; blank lines and those that begin with # are passed
    over. Raises ConfigError for a file that cannot be read or holds no key.
    """
    found = TenantFile.read(path) if path.suffix == ".toml" else TenantFile(_read(path))
    if not found.keys:
        raise ConfigError(
            f"the API key file {path} holds no key; docs/tenants.md says how to write"
        )
    return found


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the API key file {path} cannot be read: {error}") from error
    tenants: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) > 2:
            raise ConfigError(
                f"line {number} of the API key file {path} has {len(words)} words;"
                " write a key, or a key and its tenant"
            )
        if not words[0].isascii():
            raise ConfigError(
                f"the key in line {number} of the API key file {path} has characters that an HTTP"
                " header cannot carry; use ASCII"
            )
        tenant = words[1] if len(words) == 2 else DEFAULT_TENANT
        if tenants.setdefault(words[0], tenant) != tenant:
            raise ConfigError(f"line {number} of the API key file {path} repeats a key")
    return tenants


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
