"""SamplingBody: the fields that completions and chat completions share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from headrace.api.schemas.body import Body, Items, one_or_many
from headrace.nouns.errors import InvalidRequest
from headrace.nouns.request import CATEGORY, MAX_N
from headrace.nouns.sampling_params import MAX_LOGPROBS, SamplingParams

MAX_COUNT = 2**31
MAX_PRIORITY = 2**31 - 1
MAX_SECONDS = 10**6

Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Logprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS)]
Stop = Annotated[
    Items[str],
    BeforeValidator(one_or_many),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class StreamOptions(Body):
    """How a stream is sent."""

    include_usage: bool | None = Field(
        None, description="A last chunk reports the tokens used; `usage` is null in the others."
    )


class TargetsBody(Body):
    """How soon the answer is wanted. What is left out is the tenant's default, or no target."""

    ttft: Seconds | None = Field(None, description="Seconds to the first token.")
    tpot: Seconds | None = Field(None, description="Seconds per output token after the first.")
    deadline: Seconds | None = Field(
        None, description="Seconds from now until the whole answer is wanted."
    )


class SamplingBody(Body):
    """Fields of OpenAI's API for the choice of tokens, and our extensions. Null means: default."""

    model: str | None = Field(None, description="Name of the served model; may be left out.")
    n: int | None = Field(None, ge=1, le=MAX_N, description="Choices per prompt. Default 1.")
    temperature: float | None = Field(
        None, description="0 always takes the likeliest token. Default 1."
    )
    top_p: float | None = Field(None, description="Nucleus sampling, in (0, 1]. Default 1: off.")
    presence_penalty: float | None = Field(None, description="In [-2, 2]. Default 0.")
    frequency_penalty: float | None = Field(None, description="In [-2, 2]. Default 0.")
    logit_bias: dict[str, float] | None = Field(
        None, description="Token id to a bias in [-100, 100] that is added to its logit."
    )
    seed: int | None = Field(
        None, ge=-(2**63), le=2**64 - 1, description="The same seed repeats the same output."
    )
    stop: Stop | None = Field(
        None, description="Up to 16 texts that end the output; they are not part of it."
    )
    stream: bool | None = Field(None, description="Send the output as server-sent events.")
    stream_options: StreamOptions | None = Field(None, description="With `stream` only.")
    user: str | None = Field(None, description="Accepted; changes nothing.")

    top_k: int | None = Field(
        None, ge=0, le=MAX_COUNT, description="Extension: the k likeliest only. Default 0: off."
    )
    min_p: float | None = Field(
        None, description="Extension: drop tokens below min_p times the likeliest. Default 0: off."
    )
    repetition_penalty: float | None = Field(
        None, description="Extension: divides the logits of tokens seen before. Default 1: off."
    )
    ignore_eos: bool | None = Field(
        None, description="Extension: go on after the model's end tokens. Default false."
    )
    min_tokens: int | None = Field(
        None, ge=0, le=MAX_COUNT, description="Extension: no end before this many. Default 0."
    )
    stop_token_ids: Items[int] | None = Field(
        None, description="Extension: token ids that end the output; not part of it."
    )
    priority: int | None = Field(
        None,
        ge=-MAX_PRIORITY - 1,
        le=MAX_PRIORITY,
        description="Extension: lower goes first where the order policy is `priority`."
        " Default: the tenant's, or 0.",
    )
    targets: TargetsBody | None = Field(
        None, description="Extension: how soon the answer is wanted. Default: the tenant's."
    )
    category: str | None = Field(
        None,
        pattern=f"^{CATEGORY.pattern}$",
        description="Extension: the kind of request, for predictions of its length.",
    )

    def check_stream_options(self) -> None:
        """Raises InvalidRequest for options of a stream that was not asked for."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "stream_options is set but stream is not true; remove it or set stream",
                "stream_options",
            )

    @property
    def wants_usage_chunk(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def sampling(
        self, vocab_size: int, logprobs: int | None, max_tokens: int | None
    ) -> SamplingParams:
        """The engine's parameters. Raises InvalidRequest naming the field at fault."""
        values: dict[str, Any] = {
            name: value
            for name in (
                "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed",
                "top_k", "min_p", "repetition_penalty", "ignore_eos", "min_tokens",
            )
            if (value := getattr(self, name)) is not None
        }  # fmt: skip
        return SamplingParams(
            **values,
            stop=tuple(self.stop or ()),
            stop_token_ids=tuple(_tokens(self.stop_token_ids or [], vocab_size)),
            logit_bias=tuple(_biases(self.logit_bias or {}, vocab_size)),
            logprobs=logprobs,
            max_tokens=max_tokens,
        )


def _tokens(ids: list[int], vocab_size: int) -> list[int]:
    for token in ids:
        _check(token, vocab_size, "stop_token_ids")
    return ids


def _biases(biases: dict[str, float], vocab_size: int) -> list[tuple[int, float]]:
    pairs = []
    for name, bias in biases.items():
        if not (name.isascii() and name.isdigit() and len(name) < 20):
            raise InvalidRequest(
                f"logit_bias names {name[:40]!r}; its keys are token ids such as '42'", "logit_bias"
            )
        pairs.append((_check(int(name), vocab_size, "logit_bias"), bias))
    return sorted(pairs)


def _check(token: int, vocab_size: int, field: str) -> int:
    if not 0 <= token < vocab_size:
        raise InvalidRequest(
            f"{field} names token {token}; the model's tokens are 0 to {vocab_size - 1}", field
        )
    return token
