"""ServerSettings: how the HTTP server listens and what it lets in."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from headrace.api.keys import ApiKeys
from headrace.nouns.errors import ConfigError

MAX_BODY_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Options of the server. ``port`` 0 takes a free one.

    ``max_body_bytes`` bounds a request's body, ``drain_seconds`` how long requests may go on after
    SIGTERM. Raises ConfigError where others than this machine could reach a server without keys.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: ApiKeys = field(default_factory=ApiKeys)
    allow_unauthenticated: bool = False
    max_body_bytes: int = MAX_BODY_BYTES
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}; it must be in [0, 65535]")
        if self.max_body_bytes < 1:
            raise ConfigError(f"max_body_bytes is {self.max_body_bytes}; it must be at least 1")
        if not self.drain_seconds >= 0:
            raise ConfigError(f"drain_seconds is {self.drain_seconds}; it must not be negative")
        if not (self.keys or self.allow_unauthenticated or self.local):
            raise ConfigError(
                f"host {self.host} can be reached from other machines and there are no API keys;"
                " give a key file, set HEADRACE_API_KEYS, listen on 127.0.0.1, or pass"
                " --allow-unauthenticated if everyone may use this server"
            )

    @property
    def local(self) -> bool:
        """True when only this machine can connect."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """True for ``localhost`` and loopback addresses (an IPv6 one may be in brackets)."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
