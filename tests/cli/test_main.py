"""The program as a whole: names, help, errors, options, imports."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from headrace.cli import main
from headrace.cli.main import COMMANDS, app
from headrace.nouns.errors import ConfigError

MOST_OPTIONS = 40


def options_of(command: Any) -> set[str]:
    """Long names of a command's options; a flag and its opposite are one."""
    return {
        param.opts[0]
        for param in command.params
        if param.param_type_name == "option" and "--help" not in param.opts
    }


def all_commands() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in COMMANDS:
        command = main.load(entry)
        found[entry.name] = command
        for name, sub in getattr(command, "commands", {}).items():
            found[f"{entry.name} {name}"] = sub
    return found


def test_help_names_every_command() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    shown = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("│ ")]
    assert shown[-8:] == [
        "serve", "chat", "run", "bench", "simulate", "plan", "models", "doctor",
    ]  # fmt: skip


def test_help_of_every_command_names_its_options() -> None:
    for name, command in all_commands().items():
        result = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        for option in options_of(command):
            assert option in result.stdout, f"{name}: {option}"


def test_help_loads_no_command() -> None:
    code = (
        "import sys\nfrom headrace.cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('LOADED', [m for m in sys.modules if m.startswith('headrace.cli.')],"
        " [m for m in ('torch', 'numpy', 'fastapi', 'prompt_toolkit') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED ['headrace.cli.main'] []"


QUICK = {
    "models list": 0,
    "serve --help": 0,
    "serve --port none": 2,
    "serve --weights int3": 2,
    "serve --policy nobody": 2,
    "serve --cache lots": 2,
    "run --help": 0,
    "bench --help": 0,
    "simulate --help": 0,
    "simulate --cache lots": 2,
    "plan --help": 0,
    "plan --slo ttft=1s": 2,
    "doctor --unknown": 2,
}


@pytest.mark.parametrize("arguments", QUICK)
def test_what_needs_no_engine_loads_none(arguments: str) -> None:
    heavy = ("torch", "numpy", "tokenizers", "fastapi", "uvicorn", "matplotlib", "aiohttp", "gguf")
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('LOADED', [m for m in {heavy!r} if m in sys.modules]))\n"
        "from headrace.cli.main import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments.split()],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == QUICK[arguments], done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_all_commands_together_have_few_options() -> None:
    options = {"--version"}
    for command in all_commands().values():
        options |= options_of(command)
    assert len(options) <= MOST_OPTIONS, sorted(options)


def test_an_option_means_the_same_in_every_command() -> None:
    kinds: dict[str, set[str]] = {}
    for command in all_commands().values():
        for param in command.params:
            if param.param_type_name == "option":
                kinds.setdefault(param.opts[0], set()).add(str(param.metavar))
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("headrace ")


def test_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(app, ["serv"])
    assert result.exit_code == 2
    assert "serv" in result.stderr


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("headrace.cli.doctor")
    monkeypatch.setitem(sys.modules, "headrace.cli.doctor", module)
    return module


def test_our_errors_are_one_line_and_exit_code_2(failing: types.ModuleType) -> None:
    def doctor() -> None:
        raise ConfigError("port is 70000;\n  it must be in [0, 65535]")

    failing.doctor = doctor  # type: ignore[attr-defined]
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 2
    assert result.stderr == "headrace: port is 70000; it must be in [0, 65535]\n"


def test_an_interrupt_exits_with_130(failing: types.ModuleType) -> None:
    def doctor() -> None:
        raise KeyboardInterrupt

    failing.doctor = doctor  # type: ignore[attr-defined]
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 130


def test_a_command_that_cannot_be_loaded_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "headrace.cli.doctor", None)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 2
    assert "'doctor' cannot be loaded" in result.stderr


def test_a_typer_of_its_own_can_be_a_command(failing: types.ModuleType) -> None:
    failing.doctor = typer.Typer()  # type: ignore[attr-defined]
    failing.doctor.command("one")(lambda: typer.echo("first"))
    failing.doctor.command("two")(lambda: typer.echo("second"))
    assert CliRunner().invoke(app, ["doctor", "two"]).stdout == "second\n"


def test_documentation_names_every_command_and_option() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    for name, command in all_commands().items():
        assert f"headrace {name}" in page
        for option in options_of(command):
            assert f"`{option}" in page, f"{name}: {option}"


def test_an_engine_still_at_work_does_not_turn_the_end_into_an_abort() -> None:
    program = """
import atexit, sys, threading
from headrace.cli import main
atexit.register(print, "an orderly end")
threading.Thread(target=threading.Event().wait, name=sys.argv[1], daemon=True).start()
main.app = lambda prog_name: sys.exit(main.INTERRUPTED)
main.main()
"""
    for name, shown in (("headrace-engine", ""), ("another", "an orderly end\n")):
        command = [sys.executable, "-c", program, name]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stdout) == (130, shown)
