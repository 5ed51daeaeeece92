"""/tokenize and /detokenize."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from headrace.api.context import Context, encode
from headrace.api.conversation import prompt_of
from headrace.api.openapi import takes
from headrace.api.schemas.tokens import DetokenizeBody, TokenizeBody
from headrace.nouns.errors import InvalidRequest


def router(context: Context) -> APIRouter:
    routes = APIRouter(tags=["tokens"])

    @routes.post("/tokenize", summary="Token ids of a text", **takes(TokenizeBody))
    async def tokenize(request: HttpRequest) -> dict[str, Any]:
        body = await context.body(request, TokenizeBody)
        body.check()
        model = context.model(body.model)
        if body.prompt is not None:
            tokens = await encode(model, body.prompt, body.add_special_tokens)
        else:
            tokens = await prompt_of(model, body.messages or [], body.tools)
        return {"count": len(tokens), "max_model_len": model.max_context, "tokens": tokens}

    @routes.post("/detokenize", summary="Text of token ids", **takes(DetokenizeBody))
    async def detokenize(request: HttpRequest) -> dict[str, Any]:
        body = await context.body(request, DetokenizeBody)
        model = context.model(body.model)
        for i, token in enumerate(body.tokens):
            if not 0 <= token < model.vocab_size:
                raise InvalidRequest(
                    f"tokens[{i}] is {token}; the model's tokens are 0 to {model.vocab_size - 1}",
                    f"tokens[{i}]",
                )
        return {"prompt": model.tokenizer.decode(body.tokens, skip_special=False)}

    return routes
