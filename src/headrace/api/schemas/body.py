"""Body: what every request body has in common, and fields that take a neutral value only."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError


class Body(BaseModel):
    """Types are taken as they are in JSON, never converted; a field not declared is refused."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


Item = TypeVar("Item")
Items = Annotated[list[Item], Field(fail_fast=True)]
"""A list of which one wrong item says enough: a body may hold millions."""


def only(*neutral: object, because: str) -> AfterValidator:
    """Accepts null and the values that change nothing; refuses others and says why."""

    def check(value: Any) -> Any:
        if value is None or any(type(value) is type(n) and value == n for n in neutral):
            return value
        raise unsupported(f"must be {_listed(neutral)} or left out: {because}")

    return AfterValidator(check)


def unsupported(message: str) -> PydanticCustomError:
    """The error for a value that could be meant well but is not supported."""
    return PydanticCustomError("unsupported_value", "{text}", {"text": message})


def invalid(message: str) -> PydanticCustomError:
    """The error for a value that no server could honour."""
    return PydanticCustomError("invalid_value", "{text}", {"text": message})


def one_or_many(value: Any) -> Any:
    """A single text becomes a list of one."""
    return [value] if isinstance(value, str) else value


def _listed(values: tuple[object, ...]) -> str:
    shown = {True: "true", False: "false"}
    names = [shown[v] if isinstance(v, bool) else repr(v) for v in values]
    return ", ".join([*names, "null"])
