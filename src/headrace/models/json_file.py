"""Reading the JSON files of a model directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headrace.nouns.errors import ModelError


def read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``. Raises ModelError when it is missing, damaged or no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value


def read_json_if_there(path: Path) -> dict[str, Any]:
    """As read_json, and an empty object where there is no such file."""
    return read_json(path) if path.is_file() else {}
