"""What this engine answers to a task in one format, and the task itself from texts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality_figures import last_number
from benchmarks.quality_file import BASE, Row, Task
from benchmarks.quality_scores import Logits, score, until
from headrace.execution.build import BuiltExecutor, build_executor, stored_bits
from headrace.kernels.formats import choose_format
from headrace.kernels.layout import lay_out
from headrace.llm import LLM
from headrace.models.loader import ModelFiles, open_model
from headrace.models.source import resolve
from headrace.nouns.sampling_params import SamplingParams

PIECE = 128  # rows whose logits are held at a time: 25 MB with a vocabulary of 49,152
BLOCK_SIZE = 16
MAX_SEQUENCES = 64
TRUTH = "#### "  # what GSM8K writes before the answer
AUTO_CACHE = "bf16"
WATCHDOG = 3600.0  # seconds a step may take: quality can be measured on a busy machine


@dataclass(frozen=True, slots=True)
class Texts:
    """Where a task comes from: a text, and JSON lines of conversations and of questions."""

    text: Path
    windows: int
    window_tokens: int
    chat: Path | None = None
    questions: Path | None = None
    sample: int = 100


def make_task(model: str, texts: Texts) -> Task:
    """Token ids of windows spread evenly over the text, first turns, and sampled questions.

    Ends the program where a file is at fault.
    """
    files = open_model(resolve(model))
    ids = files.tokenizer.encode(_read(texts.text), add_special=False)
    prompts = [line["turns"][0] for line in _lines(texts.chat, "turns")]
    asked = _lines(texts.questions, "question", "answer")
    asked = [asked[i * len(asked) // texts.sample] for i in range(min(texts.sample, len(asked)))]
    return Task(
        model=files.name,
        windows=spread(ids, texts.windows, texts.window_tokens),
        prompts=[_render(files, text) for text in prompts],
        questions=[_render(files, line["question"]) for line in asked],
        truths=[last_number(line["answer"].rpartition(TRUTH)[2]) or "" for line in asked],
        eos=sorted(files.eos_ids),
    )


def spread(ids: Sequence[int], count: int, length: int) -> list[list[int]]:
    """``count`` windows of ``length`` tokens, begun at equal distances. Ends the program."""
    if count * length > len(ids) or count < 1 or length < 2:
        raise SystemExit(
            f"{count} windows of {length} tokens were asked for; the text has {len(ids)} tokens:"
            " ask for less or give a longer text"
        )
    return [list(ids[i * len(ids) // count :][:length]) for i in range(count)]


def auto_format(model: str) -> str:
    """The format that ``auto`` is for the model on this machine."""
    files = open_model(resolve(model))
    return choose_format("auto", files.config.head_dim, stored_bits(files)).name


def engine_options(weights: str, cache: str) -> dict[str, Any]:
    """The engine's options for a format of weights and one of the cache."""
    # float32 is computed by torch, whose cache is of the weights' own type
    return {"weights": weights, "cache_format": "auto" if weights == BASE else cache}


def measure(model: str, task: Task, weights: str, cache: str, threads: int | None) -> Row:
    """Every answer to ``task``. Raises ConfigError where the format does not run here."""
    options = engine_options(weights, cache)
    longest = max(map(len, task.windows))
    built = build_executor(
        open_model(resolve(model)), **options, block_size=BLOCK_SIZE, cache_bytes=None,
        max_context=-(-longest // BLOCK_SIZE) * BLOCK_SIZE, max_sequences=1, threads=threads,
        report=lambda line: None,
    )  # fmt: skip
    scores = [score(window_logits(built, window), window) for window in task.windows]
    nbytes = built.executor.transformer.nbytes
    built.executor.close()
    outputs, answers = None, None
    if task.prompts or task.questions:
        outputs, answers = _continue(model, task, options, threads)
    return Row(
        name=weights if weights == BASE else f"{weights}, {cache} cache",
        nbytes=nbytes,
        nll=[nll for nll, _ in scores],
        top=[top for _, top in scores],
        outputs=outputs,
        answers=answers,
        auto=auto_format(model) == weights and cache == AUTO_CACHE,
    )


@torch.inference_mode()
def window_logits(built: BuiltExecutor, window: Sequence[int]) -> Iterator[Logits]:
    """Logits of all tokens of a window, a piece at a time; each may overwrite the one before.

    Uses the cache's first blocks, whatever they held.
    """
    model, cache = built.executor.transformer, built.executor.cache
    blocks = list(range(-(-len(window) // built.block_size)))
    cache.clear(blocks)
    for start in range(0, len(window), PIECE):
        tokens = window[start : start + PIECE]
        layout = lay_out(
            tokens, [start], [len(tokens)], blocks[: -(-(start + len(tokens)) // built.block_size)],
            range(len(tokens)), block_size=built.block_size, null_block=cache.null_block,
            padded=model.padded_rows(len(tokens)), device=model.device,
        )  # fmt: skip
        logits = model.forward(layout, cache)
        yield logits.cpu().numpy() if isinstance(logits, torch.Tensor) else logits


def _continue(
    model: str, task: Task, options: dict[str, Any], threads: int | None
) -> tuple[list[list[int]] | None, list[str | None] | None]:
    """Greedy continuations of the prompts, and the last numbers of those of the questions."""
    longest = max(
        [len(p) + task.prompt_tokens for p in task.prompts]
        + [len(q) + task.question_tokens for q in task.questions]
    )
    with LLM(
        model, **options, threads=threads, max_sequences=MAX_SEQUENCES, token_budget=512,
        max_context=-(-longest // BLOCK_SIZE) * BLOCK_SIZE, watchdog=WATCHDOG,
    ) as llm:  # fmt: skip
        outputs, answers = None, None
        if task.prompts:
            greedy = SamplingParams(temperature=0.0, max_tokens=task.prompt_tokens)
            done = llm.generate(task.prompts, greedy)
            outputs = [until(c.raise_for_error().tokens, task.eos) for c in done]
        if task.questions:
            greedy = SamplingParams(temperature=0.0, max_tokens=task.question_tokens)
            done = llm.generate(task.questions, greedy)
            answers = [last_number(c.raise_for_error().text) for c in done]
    return outputs, answers


def _render(files: ModelFiles, text: str) -> list[int]:
    if files.chat_template is None:
        raise SystemExit(f"{files.name} has no chat template; leave --chat and --questions out")
    shown = files.chat_template.render([{"role": "user", "content": text}], tools=None)
    return files.tokenizer.encode(shown, add_special=False)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path} cannot be read: {error}") from error


def _lines(path: Path | None, *fields: str) -> list[dict[str, Any]]:
    """JSON objects, one a line, that have the fields."""
    if path is None:
        return []
    found: list[dict[str, Any]] = []
    for place, line in enumerate(_read(path).splitlines(), 1):
        try:
            values = json.loads(line)
            missing = [name for name in fields if name not in values]
        except (ValueError, TypeError) as error:
            raise SystemExit(f"{path}, line {place} is not a JSON object: {error}") from error
        if missing:
            raise SystemExit(f"{path}, line {place} has no field {missing[0]!r}")
        found.append(values)
    return found
