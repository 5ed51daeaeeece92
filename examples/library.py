"""The library in one page: many prompts at once, a stream, a conversation, asyncio.

Run it with ``python examples/library.py [MODEL]``.
"""

from __future__ import annotations

import asyncio
import sys

from headrace import LLM, SamplingParams


async def together(llm: LLM, prompts: list[str]) -> list[str]:
    """Requests of one event loop share the engine's steps; cancelling a task frees its memory."""
    params = SamplingParams(temperature=0.8, seed=7, max_tokens=12)
    found = await asyncio.gather(*(llm.agenerate(prompt, params) for prompt in prompts))
    return [completion.text for completion in found]


def main(model: str = "smollm2:135m") -> None:
    greedy = SamplingParams(temperature=0.0, max_tokens=16)
    prompts = ["The capital of France is", "Water boils at", "The three primary colours are"]
    with LLM(model, max_context=1024) as llm:
        for prompt, completion in zip(prompts, llm.generate(prompts, greedy), strict=True):
            print(f"{prompt}{completion.text!r}")

        print("\nA stream:", end="")
        for delta in llm.stream("Once upon a time", greedy):
            print(delta.text, end="", flush=True)

        question = {"role": "user", "content": "Name three rivers."}
        answer = llm.chat([question], greedy)
        print(f"\n\nA conversation: {answer.text!r}, {answer.outputs[0].usage}")

        print("\nWith asyncio:", asyncio.run(together(llm, prompts)))


if __name__ == "__main__":
    main(*sys.argv[1:])
