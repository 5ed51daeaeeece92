"""/v1/completions and /v1/chat/completions: from a body to an answer."""

from __future__ import annotations

import time

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import Response

from headrace.api.chat_answer import ChatAnswer
from headrace.api.completion_answer import CompletionAnswer
from headrace.api.context import Context, encode_all, new_id, tenant_of
from headrace.api.conversation import prompt_of
from headrace.api.demand import HEADERS, Demand
from headrace.api.event_stream import EventStream
from headrace.api.generation import ClientGone, Generation
from headrace.api.openapi import takes
from headrace.api.schemas.chat import ChatBody
from headrace.api.schemas.completion import DEFAULT_MAX_TOKENS, CompletionBody
from headrace.api.schemas.sampling import SamplingBody
from headrace.api.vocabulary import Vocabulary
from headrace.nouns.request import Request
from headrace.nouns.sampling_params import SamplingParams


def router(context: Context) -> APIRouter:
    routes = APIRouter(tags=["generation"])

    @routes.post("/v1/completions", summary="Continue prompts", **takes(CompletionBody, HEADERS))
    async def completions(request: HttpRequest) -> Response:
        body = await context.body(request, CompletionBody)
        body.check()
        model = context.model(body.model)
        max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
        params = body.sampling(model.vocab_size, body.logprobs, max_tokens)
        id = new_id("cmpl")
        prompts = await encode_all(model, body.prompt)
        answer = CompletionAnswer(
            id,
            model.name,
            int(time.time()),
            Vocabulary(model.tokenizer),
            logprobs=body.logprobs,
            usage_chunk=body.wants_usage_chunk,
        )
        requests = _requests(context, request, body, id, prompts, params)
        return await _answer(context, request, body, answer, requests)

    @routes.post(
        "/v1/chat/completions", summary="Answer a conversation", **takes(ChatBody, HEADERS)
    )
    async def chat(request: HttpRequest) -> Response:
        body = await context.body(request, ChatBody)
        body.check()
        model = context.model(body.model)
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        max_tokens = body.max_completion_tokens or body.max_tokens
        params = body.sampling(model.vocab_size, logprobs, max_tokens)
        id = new_id("chatcmpl")
        tools = None if body.tool_choice == "none" else body.tools
        prompt = await prompt_of(model, body.messages, tools)
        answer = ChatAnswer(
            id,
            model.name,
            int(time.time()),
            Vocabulary(model.tokenizer),
            logprobs=bool(body.logprobs),
            usage_chunk=body.wants_usage_chunk,
        )
        requests = _requests(context, request, body, id, [prompt], params)
        return await _answer(context, request, body, answer, requests)

    return routes


def _requests(
    context: Context,
    request: HttpRequest,
    body: SamplingBody,
    id: str,
    prompts: list[list[int]],
    params: SamplingParams,
) -> list[Request]:
    """One engine request a prompt; where there are several, ``.0``, ``.1`` ... end their ids."""
    demand = Demand.of(request.headers, body)
    targets = demand.targets.since(context.engine.now())
    return [
        context.engine.request(
            prompt,
            params,
            n=body.n or 1,
            id=id if len(prompts) == 1 else f"{id}.{i}",
            tenant=tenant_of(request),
            priority=demand.priority,
            targets=targets,
            category=demand.category,
        )
        for i, prompt in enumerate(prompts)
    ]


async def _answer(
    context: Context,
    request: HttpRequest,
    body: SamplingBody,
    answer: ChatAnswer | CompletionAnswer,
    requests: list[Request],
) -> Response:
    generation = Generation(context.engine, context.mailbox(), context.metrics, requests)
    generation.start()
    headers = {"X-Request-Id": requests[0].id.partition(".")[0]}
    if body.stream:
        return EventStream(generation, answer, context.metrics, headers)
    try:
        async with generation.watched(request.receive):
            choices = await generation.choices()
    except ClientGone:
        return Response(status_code=499)  # nobody reads it
    content = answer.whole(choices, generation.usage)
    return Response(content, headers=headers, media_type="application/json")
