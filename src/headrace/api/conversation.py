"""Conversation: from messages to prompt tokens, through the model's chat template."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson

from headrace.api.context import LONG_TEXT, encode
from headrace.api.engine import Model
from headrace.api.schemas.chat import Message, Tool
from headrace.nouns.errors import InvalidRequest


async def prompt_of(
    model: Model, messages: Sequence[Message], tools: Sequence[Tool] | None
) -> list[int]:
    """The prompt's token ids. Raises InvalidRequest (a TemplateError where the template fails).

    The template writes special tokens itself, so the tokenizer adds none.
    """
    template = model.chat_template
    if template is None:
        raise InvalidRequest(
            f"the model {model.name!r} has no chat template; use /v1/completions", "messages"
        )
    if tools and not template.supports_tools:
        raise InvalidRequest(
            f"the chat template of {model.name!r} has no place for tools; leave tools out,"
            " or set tool_choice to 'none'",
            "tools",
            "unsupported_parameter",
        )
    shown = [_plain(message, i) for i, message in enumerate(messages)]
    defined = [tool.model_dump(exclude_unset=True) for tool in tools or []] or None
    if len(shown) + sum(len(message["content"]) for message in shown) < LONG_TEXT:
        text = template.render(shown, tools=defined)
    else:
        text = await asyncio.to_thread(template.render, shown, defined)
    return await encode(model, text, add_special=False)


def _plain(message: Message, number: int) -> dict[str, Any]:
    """The message as templates expect it."""
    if message.content is None and not message.tool_calls:
        raise InvalidRequest(
            "the message has no content; give a text", f"messages[{number}].content"
        )
    role = "system" if message.role == "developer" else message.role
    plain: dict[str, Any] = {"role": role, "content": message.content or ""}
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        plain["tool_calls"] = [
            {
                "id": call.id,
                "type": call.type,
                "function": {
                    "name": call.function.name,
                    "arguments": _arguments(call.function.arguments),
                },
            }
            for call in message.tool_calls
        ]
    return plain


def _arguments(text: str) -> Any:
    """The arguments as an object, which templates write as JSON; as they are if they are none."""
    try:
        arguments = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return arguments if isinstance(arguments, dict) else text
