"""The C++ extension, or the reason why it is not there."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from functools import cache
from types import ModuleType

_NAME = "headrace.kernels._cpu"
_REMEDY = "install a C++ compiler (such as g++) and CMake, then install headrace again"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Extension:
    """``module`` is None when the extension cannot be loaded; ``reason`` says how it stands."""

    module: ModuleType | None
    reason: str

    @property
    def available(self) -> bool:
        return self.module is not None


@cache
def load_extension(name: str = _NAME) -> Extension:
    """Load the extension once per process; where it is missing, warn once and go on without.

    Never raises: a missing or broken extension only means that the torch reference is used.
    """
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == name
        state = "not built at installation" if absent else f"built but not loadable ({error})"
        reason = f"{state}; {_REMEDY}"
    else:
        return Extension(module, "built and loaded")
    log.warning("the C++ extension is off, torch operators are used instead: %s", reason)
    return Extension(None, reason)
