"""The ``headrace`` program: commands, imported only when they run, and one way to fail.

A command's module is imported when the command is called, so ``headrace --help`` is quick. Any
HeadraceError ends the program with one line on standard error and exit code 2.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from headrace.nouns.errors import HeadraceError

USAGE_ERROR = 2
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command lives: ``attribute`` of ``headrace.cli.<module>`` (function or Typer)."""

    name: str
    module: str
    attribute: str
    summary: str


COMMANDS = (
    Entry("serve", "serve", "serve", "Serve a model over an OpenAI-compatible HTTP API."),
    Entry("chat", "chat", "chat", "Talk to a model in the terminal."),
    Entry("run", "run", "run", "Answer a file of requests offline; resumes after a kill."),
    Entry("bench", "bench", "bench", "Measure latency, throughput and goodput under a load."),
    Entry("simulate", "simulate", "simulate", "Foretell what a machine or a fleet would do."),
    Entry("plan", "plan", "plan", "Find the cheapest fleet that meets latency targets."),
    Entry("models", "models", "app", "List, fetch and inspect models."),
    Entry("doctor", "doctor", "doctor", "Say what this machine is and which kernels it runs."),
)


def load(entry: Entry) -> TyperCommand | TyperGroup:
    """Imports a command. Raises HeadraceError when its module cannot be imported."""
    try:
        module = importlib.import_module(f"headrace.cli.{entry.module}")
    except ImportError as error:
        raise HeadraceError(
            f"the command '{entry.name}' cannot be loaded: {error}; reinstall headrace"
        ) from error
    found = getattr(module, entry.attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(entry.name)(found)
        found = single
    command = typer.main.get_command(found)
    command.name = entry.name
    assert isinstance(command, TyperCommand | TyperGroup)
    return command


class LazyGroup(TyperGroup):
    """A group whose commands are imported when called, not when listed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [entry.name for entry in COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | TyperGroup | None:
        entry = next((e for e in COMMANDS if e.name == cmd_name), None)
        return load(entry) if entry else None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help page from the summaries alone."""
        outline = TyperGroup(
            name=self.name,
            help=self.help,
            params=self.params,
            commands={e.name: TyperCommand(e.name, help=e.summary) for e in COMMANDS},
        )
        outline.format_help(ctx, formatter)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HeadraceError as error:
            typer.secho(f"headrace: {one_line(error)}", err=True, fg=typer.colors.RED)
            raise typer.Exit(USAGE_ERROR) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(INTERRUPTED) from error


def one_line(error: BaseException) -> str:
    """The error's message without line breaks; its type's name when it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def _print_version(asked: bool) -> None:
    if asked:
        from headrace import __version__

        typer.echo(f"headrace {__version__}")
        raise typer.Exit()


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    """Headrace serves language models: one command, an OpenAI-compatible API, a fast engine."""


def main() -> None:
    """Entry point of the ``headrace`` program."""
    try:
        app(prog_name="headrace")
    except SystemExit as ended:
        # A second Ctrl-C leaves an engine at work; under it, an orderly end of Python is an abort.
        if any(thread.name == "headrace-engine" for thread in threading.enumerate()):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended.code if isinstance(ended.code, int) else 1)
        raise


if __name__ == "__main__":
    main()
