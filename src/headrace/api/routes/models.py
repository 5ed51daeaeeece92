"""/v1/models: which model is served."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from headrace.api.context import Context
from headrace.api.engine import Model


def router(context: Context) -> APIRouter:
    routes = APIRouter(tags=["models"])

    @routes.get("/v1/models", summary="The served models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card(context.model())]}

    @routes.get("/v1/models/{model:path}", summary="One served model")
    async def model(model: str) -> dict[str, Any]:
        return card(context.model(model))

    return routes


def card(model: Model) -> dict[str, Any]:
    """A model as OpenAI's API describes it, and the most tokens of a prompt and its output."""
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "headrace",
        "max_model_len": model.max_context,
    }
