"""TokenizeBody and DetokenizeBody: what POST /tokenize and /detokenize take."""

from __future__ import annotations

from pydantic import Field

from headrace.api.schemas.body import Body, Items
from headrace.api.schemas.chat import Message, Tool
from headrace.nouns.errors import InvalidRequest


class TokenizeBody(Body):
    """A text or a conversation."""

    model: str | None = Field(None, description="Name of the served model; may be left out.")
    prompt: str | None = Field(None, description="A text, tokenised as /v1/completions does.")
    messages: Items[Message] | None = Field(
        None, description="A conversation, tokenised as /v1/chat/completions does."
    )
    tools: Items[Tool] | None = Field(None, description="With `messages`.")
    add_special_tokens: bool = Field(
        True, description="Begin a text with the model's own special tokens, if it has any."
    )

    def check(self) -> None:
        """Raises InvalidRequest unless exactly one of prompt and messages is given."""
        if (self.prompt is None) == (not self.messages):
            raise InvalidRequest("give either prompt or messages", "prompt")
        if self.tools is not None and self.prompt is not None:
            raise InvalidRequest("tools goes with messages only; remove it", "tools")


class DetokenizeBody(Body):
    """Token ids."""

    model: str | None = Field(None, description="Name of the served model; may be left out.")
    tokens: Items[int] = Field(description="Token ids.")
