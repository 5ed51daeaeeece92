"""CompletionBody: what POST /v1/completions takes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema

from headrace.api.schemas.body import invalid, only
from headrace.api.schemas.sampling import Count, Logprobs, SamplingBody
from headrace.nouns.errors import InvalidRequest

MAX_PROMPTS = 1024
DEFAULT_MAX_TOKENS = 16

Prompts = list[str] | list[list[int]]


def read_prompts(value: Any) -> Prompts:
    """Prompts in their four forms as a list of texts or of token id lists."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise invalid("give a text, a list of texts, a list of token ids, or a list of such lists")
    if _all_ids(value):
        return [value]
    if len(value) > MAX_PROMPTS:
        raise invalid(f"it holds {len(value)} prompts; at most {MAX_PROMPTS} are allowed")
    if all(isinstance(item, str) for item in value):
        return value
    if all(isinstance(item, list) and item and _all_ids(item) for item in value):
        return value
    raise invalid("its items must all be texts, all token ids, or all lists of token ids")


def _all_ids(items: list[Any]) -> bool:
    return all(type(item) is int for item in items)


PROMPT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ]
}


class CompletionBody(SamplingBody):
    """A prompt, or several, to be continued."""

    prompt: Annotated[Any, PlainValidator(read_prompts), WithJsonSchema(PROMPT_SCHEMA)] = Field(
        description="A text, texts, token ids, or lists of token ids."
    )
    max_tokens: Count | None = Field(
        None, description=f"Most tokens of the output. Default {DEFAULT_MAX_TOKENS}, as OpenAI's."
    )
    logprobs: Logprobs | None = Field(
        None, description="Report log-probabilities, and this many of the likeliest tokens."
    )
    echo: Annotated[bool | None, only(False, because="the prompt is not sent back")] = None
    suffix: Annotated[str | None, only("", because="models are not run in fill-in mode")] = None
    best_of: int | None = Field(None, ge=1, description="Must equal `n`: nothing is ranked.")

    def check(self) -> None:
        """Raises InvalidRequest for fields that do not go together."""
        self.check_stream_options()
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise InvalidRequest(
                f"best_of is {self.best_of} and n is {self.n or 1}; they must be equal,"
                " because choices are not ranked",
                "best_of",
                "unsupported_value",
            )
