"""Headrace: an inference serving engine for language models.

The library is ``LLM`` and what its methods take and return; all of it is imported on first use, so
that ``import headrace`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.completion import Completion, Output
    from headrace.llm import LLM
    from headrace.nouns.delta import Delta
    from headrace.nouns.errors import HeadraceError
    from headrace.nouns.sampling_params import SamplingParams

    __version__: str

_HOMES = {
    "LLM": "headrace.llm",
    "Completion": "headrace.completion",
    "Output": "headrace.completion",
    "Delta": "headrace.nouns.delta",
    "SamplingParams": "headrace.nouns.sampling_params",
    "HeadraceError": "headrace.nouns.errors",
}

__all__ = [
    "LLM",
    "Completion",
    "Delta",
    "HeadraceError",
    "Output",
    "SamplingParams",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from headrace.environment import version

        return version()
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
