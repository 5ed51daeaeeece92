"""Errors a caller can act on. Each message names the thing, the value, the limit and the remedy."""

from __future__ import annotations


class HeadraceError(Exception):
    """Base of every error raised for a reason outside our own code."""


class InvalidRequest(HeadraceError):
    """A request that cannot be honoured as asked (HTTP 400).

    ``param`` names the field at fault; ``code`` is a stable identifier such as
    ``context_length_exceeded``.
    """

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class ContextLengthExceeded(InvalidRequest):
    """The prompt, or prompt plus asked-for output, can never fit (HTTP 400)."""

    def __init__(self, message: str, param: str | None = "prompt") -> None:
        super().__init__(message, param=param, code="context_length_exceeded")


class QueueFull(HeadraceError):
    """Not now: a queue is at its limit, or a target is out of reach (HTTP 429).

    ``retry_after`` is in seconds; ``code`` is a stable identifier.
    """

    def __init__(self, message: str, retry_after: float, code: str = "queue_full") -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.code = code


class EngineStopped(HeadraceError):
    """The engine is draining, stopped or broken and takes no more work (HTTP 503)."""


class ModelError(HeadraceError):
    """A model, weight file, tokenizer or chat template cannot be used as it is."""


class TemplateError(InvalidRequest):
    """The model's chat template refused these messages (HTTP 400)."""


class ConfigError(HeadraceError):
    """An option, or a combination of options, cannot work on this machine."""
