"""ChatBody: what POST /v1/chat/completions takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from headrace.api.schemas.body import Body, Items, invalid, only, unsupported
from headrace.api.schemas.sampling import Count, Logprobs, SamplingBody
from headrace.nouns.errors import InvalidRequest

Role = Literal["system", "developer", "user", "assistant", "tool"]


def read_content(value: Any) -> Any:
    """A message's content as one text: parts are joined by line breaks."""
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            raise invalid("every part is an object with a type, such as {'type': 'text', ...}")
        if kind != "text":
            raise unsupported(f"has a part of type {kind[:40]!r}; only text parts are supported")
        if set(part) != {"type", "text"} or not isinstance(part["text"], str):
            raise invalid("a text part has the fields type and text, and nothing else")
        texts.append(part["text"])
    return "\n".join(texts)


CONTENT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
            },
        },
        {"type": "null"},
    ]
}


class CalledFunction(Body):
    """Name and arguments (a JSON text) of a call."""

    name: str
    arguments: str


class ToolCall(Body):
    """A call that the assistant made earlier in the conversation."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Body):
    """One message of the conversation."""

    role: Role = Field(description="`developer` is treated as `system`.")
    content: Annotated[
        str | None, BeforeValidator(read_content), WithJsonSchema(CONTENT_SCHEMA)
    ] = Field(None, description="A text, or a list of text parts (joined by line breaks).")
    name: str | None = Field(None, description="Handed to the model's chat template.")
    tool_calls: Items[ToolCall] | None = Field(None, description="With role assistant.")
    tool_call_id: str | None = Field(None, description="With role tool.")
    refusal: Annotated[str | None, only(because="refusals are not told apart")] = None
    annotations: Annotated[list[Any] | None, only([], because="there are none")] = None
    audio: Annotated[Any, only(because="models read text only")] = None
    function_call: Annotated[Any, only(because="use tool_calls")] = None


class Function(Body):
    """A function that the model may name; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Annotated[bool | None, only(False, because="output follows no schema")] = None


class Tool(Body):
    """A tool definition."""

    type: Literal["function"]
    function: Function


class ResponseFormat(Body):
    """The output's form."""

    type: Annotated[str, only("text", because="output follows no grammar")]


NO_TOOL_PARSING = "the output is never forced into, nor parsed for, tool calls"
NOT_STORED = "nothing is stored"


class ChatBody(SamplingBody):
    """A conversation to be answered."""

    messages: Items[Message] = Field(description="The conversation so far, oldest first.")
    max_tokens: Count | None = Field(None, description="Older name of max_completion_tokens.")
    max_completion_tokens: Count | None = Field(
        None, description="Most tokens of the output. Default: to the context's end."
    )
    logprobs: bool | None = Field(None, description="Report log-probabilities.")
    top_logprobs: Logprobs | None = Field(
        None, description="Report this many of the likeliest tokens. Needs `logprobs`."
    )
    tools: Items[Tool] | None = Field(
        None,
        description="Handed to the model's chat template; refused if it has no place for them.",
    )
    tool_choice: Annotated[Any, only("none", "auto", because=NO_TOOL_PARSING)] = Field(
        None, description="`auto`: tools are shown to the model. `none`: they are not."
    )
    parallel_tool_calls: bool | None = Field(
        None, description="Accepted; changes nothing, as no call is parsed."
    )
    response_format: ResponseFormat | None = None
    metadata: dict[str, str] | None = Field(None, description="Accepted; changes nothing.")
    store: Annotated[bool | None, only(False, because=NOT_STORED)] = None
    service_tier: Annotated[str | None, only("auto", "default", because="there is one")] = None
    safety_identifier: str | None = Field(None, description="Accepted; changes nothing.")
    prompt_cache_key: str | None = Field(
        None, description="Accepted; changes nothing: prompts share by content."
    )
    modalities: Annotated[Items[str] | None, only(["text"], because="output is text")] = None
    audio: Annotated[Any, only(because="output is text")] = None
    functions: Annotated[Any, only(because="use tools")] = None
    function_call: Annotated[Any, only(because="use tools")] = None
    prediction: Annotated[Any, only(because="predicted output is not used")] = None
    reasoning_effort: Annotated[Any, only(because="models have no such control")] = None
    verbosity: Annotated[Any, only("medium", because="models have no such control")] = None
    web_search_options: Annotated[Any, only(because="nothing is searched")] = None

    def check(self) -> None:
        """Raises InvalidRequest for fields that do not go together."""
        self.check_stream_options()
        if not self.messages:
            raise InvalidRequest("messages is empty; give at least one message", "messages")
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest(
                f"top_logprobs is {self.top_logprobs} but logprobs is not true; set it",
                "top_logprobs",
            )
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) == 2:
            raise InvalidRequest(
                f"max_tokens is {self.max_tokens} and max_completion_tokens is"
                f" {self.max_completion_tokens}; give one of them",
                "max_tokens",
            )
