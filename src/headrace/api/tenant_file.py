"""TenantFile: API keys and the terms of their tenants, from one TOML file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from headrace.nouns.errors import ConfigError, HeadraceError
from headrace.nouns.request import Targets
from headrace.nouns.tenant import Tenants, Terms

OTHER = "other"
"""What metrics call all tenants that are not named."""
WHOLE = ("max_waiting", "max_running", "max_tokens", "priority")
LARGEST = 2**63
"""Of whole numbers: TOML has no larger ones."""
TARGETS = tuple(target.name for target in fields(Targets))
ENTRIES = ("weight", *WHOLE, *TARGETS)


@dataclass(frozen=True, slots=True)
class TenantFile:
    """``keys`` maps each API key to its tenant. docs/tenants.md describes the file."""

    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    tenants: Tenants = field(default_factory=Tenants)

    @classmethod
    def read(cls, path: Path) -> TenantFile:
        """Raises ConfigError, naming the table at fault and never a key."""
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the tenant file {path} cannot be read: {error}") from error
        except (ValueError, RecursionError) as error:  # endless numbers and lists are no TOML, too
            raise ConfigError(f"the tenant file {path} is not valid TOML: {error}") from None
        try:
            return cls._of(content)
        except HeadraceError as error:
            raise ConfigError(f"the tenant file {path}: {error}") from None

    @classmethod
    def _of(cls, content: dict[str, Any]) -> TenantFile:
        _known("the file", content, ("defaults", "tenants"), "tables")
        defaults = _table("[defaults]", content.get("defaults", {}))
        _known("[defaults]", defaults, ENTRIES)
        others = _terms("[defaults]", defaults, Terms())
        keys: dict[str, str] = {}
        named: dict[str, Terms] = {}
        for name, found in _table("[tenants]", content.get("tenants", {})).items():
            where = f"[tenants.{name}]"
            if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) is None or name == OTHER:
                raise ConfigError(
                    f"{where[:80]}: a tenant's name has 1 to 64 letters, digits or ._- and is not"
                    f" {OTHER!r}"
                )
            table = _table(where, found)
            _known(where, table, ("keys", *ENTRIES))
            named[name] = _terms(where, table, others)
            for key in _keys(where, table.get("keys", [])):
                if key in keys:
                    raise ConfigError(
                        f"{where} has a key that [tenants.{keys[key]}] has; change it"
                    )
                keys[key] = name
        return cls(keys, Tenants(named, others))


def _known(where: str, table: Mapping[str, Any], known: tuple[str, ...], kind: str = "") -> None:
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ConfigError(
            f"{where} has no {unknown[0][:40]!r}; the {kind or 'entries'} are {', '.join(known)}"
        )


def _table(where: str, found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ConfigError(f"{where} has to be a table")
    return found


def _keys(where: str, found: Any) -> list[str]:
    texts: list[str] = []
    for key in found if isinstance(found, list) else [None]:
        if not isinstance(key, str) or not key or not key.isascii() or len(key.split()) != 1:
            raise ConfigError(
                f"{where}: keys has to be a list of texts of ASCII characters without blanks,"
                ' such as ["a1b2c3"]'
            )
        if key.strip() != key or not key.isprintable():
            raise ConfigError(f"{where}: a key begins or ends with a blank, or has control signs")
        texts.append(key)
    return texts


def _terms(where: str, table: Mapping[str, Any], base: Terms) -> Terms:
    for name in ENTRIES:
        value = table.get(name, 1)
        allowed = int if name in WHOLE else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed):
            kind = "a whole number" if name in WHOLE else "a number"
            raise ConfigError(f"{where}: {name} is {value!r}; it must be {kind}")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ConfigError(f"{where}: {name} is too large; TOML ends at {LARGEST - 1}")
    own = {name: table[name] for name in ("weight", *WHOLE) if name in table}
    aims = {name: float(table[name]) for name in TARGETS if name in table}
    try:
        return replace(base, **own, targets=Targets(**aims).over(base.targets))
    except HeadraceError as error:
        raise ConfigError(f"{where}: {error}") from None
