"""``headrace chat``: a conversation in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli import service as services
from headrace.cli.api_key import first_key
from headrace.cli.options import (
    DEFAULT_MODEL,
    ApiKeyFileOption,
    EngineOptions,
    MaxTokensOption,
    ModelArgument,
    SeedOption,
    TemperatureOption,
    UrlOption,
    with_engine_options,
)
from headrace.cli.talker import LocalTalker, RemoteTalker, Talker, Wishes

FAILED = 1


@with_engine_options
def chat(
    engine: EngineOptions,
    model: ModelArgument = DEFAULT_MODEL,
    url: UrlOption = None,
    api_key_file: ApiKeyFileOption = None,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="What the model is told first.")
    ] = None,
    temperature: TemperatureOption = None,
    max_tokens: MaxTokensOption = None,
    seed: SeedOption = None,
) -> None:
    """Talk to a model in the terminal.

    /help lists what can be typed besides messages. Ctrl-C stops an answer; twice, or Ctrl-D,
    leaves. With --url the model is one that the server has, by default the first that it lists.
    Where standard input is no terminal, every line is a message.
    """
    from headrace.cli.chat_input import LineSource, StreamLines, TerminalLines
    from headrace.cli.conversation import Conversation
    from headrace.environment import cache_dir

    wishes = Wishes(temperature, max_tokens, seed)
    if url is None:
        source = _local(engine, model, wishes)
    else:
        source = _remote(url, None if model == DEFAULT_MODEL else model, api_key_file, wishes)
    with source as talker:
        lines: LineSource
        if sys.stdin.isatty() and sys.stdout.isatty():
            services.say(f"{talker.name}: /help for help, Ctrl-D to leave")
            lines = TerminalLines(cache_dir() / "chat_history")
        else:
            lines = StreamLines(sys.stdin)
        if not Conversation(talker, lines, _write, services.say, system).hold():
            raise typer.Exit(FAILED)


@contextmanager
def _local(engine: EngineOptions, model: str, wishes: Wishes) -> Iterator[Talker]:
    from headrace.llm import LLM

    config = engine.config(model)
    if sys.stdin.isatty():
        services.say(f"loading {model}")
    with services.running_service(config, lambda line: None) as service:
        yield LocalTalker(LLM.over(service), wishes)


@contextmanager
def _remote(
    url: str, model: str | None, api_key_file: Path | None, wishes: Wishes
) -> Iterator[Talker]:
    yield RemoteTalker(url, model, first_key(api_key_file), wishes)


def _write(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
