"""``headrace doctor``: what this machine is, how fast it can be, which kernels run and why."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.nouns.errors import HeadraceError

if TYPE_CHECKING:
    from headrace.execution.ceilings import Ceiling
    from headrace.execution.machine import Machine
    from headrace.kernels.self_check import Check

FAILED = 1
# What the choice of kernels depends on besides the machine; most models have heads of this size.
HEAD_DIM = 64


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that ``doctor`` found; ``problems`` is empty when everything is as it should be."""

    versions: dict[str, str]
    machine: Machine
    ceilings: list[Ceiling]
    kernels: list[str]
    checks: list[Check]
    problems: list[str]


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            metavar="FORMAT",
            help="Weights and products: auto, float32, bf16, int8 or native.",
        ),
    ] = "auto",
) -> None:
    """Say what this machine is, how fast it can be, and which kernels it runs and why.

    Checks the chosen kernels against exact results; ends with 1 when a check fails.
    """
    found = diagnose(weights)
    if as_json:
        import json

        typer.echo(json.dumps(to_json(found), indent=2))
    else:
        show(found)
    if found.problems:
        raise typer.Exit(FAILED)


def diagnose(weights: str = "auto", seconds: float = 0.5) -> Diagnosis:
    """Look, measure for ``seconds`` per ceiling, and check. Raises ConfigError for a bad format."""
    import torch

    from headrace.execution.ceilings import measure_ceilings
    from headrace.execution.machine import detect_machine
    from headrace.kernels.dispatch import choose, choose_dtype
    from headrace.kernels.extension import load_extension
    from headrace.kernels.self_check import check_operators

    choose_dtype(weights)
    machine = detect_machine()
    extension = load_extension()
    kernels = [f"C++ extension: {extension.reason}"]
    checks: list[Check] = []
    problems: list[str] = []
    ceilings: list[Ceiling] = []
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(machine.threads)
        ceilings = measure_ceilings(machine, seconds)
        chosen = choose(weights, HEAD_DIM)
        kernels += chosen.report
        checks = check_operators(chosen.operators)
    except HeadraceError as error:
        problems.append(str(error))
    finally:
        torch.set_num_threads(before)
    problems += [f"{check.name}: {check.detail}" for check in checks if not check.passed]
    return Diagnosis(_versions(), machine, ceilings, kernels, checks, problems)


def to_json(found: Diagnosis) -> dict[str, Any]:
    """The diagnosis as plain numbers, strings, lists and dictionaries."""
    return asdict(found)


def show(found: Diagnosis) -> None:
    """Print the diagnosis as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()

    def table(title: str, rows: list[tuple[str, ...]]) -> None:
        grid = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
        for row in rows:
            grid.add_row(*row)
        console.print(grid)
        console.print()

    table("Machine", _machine_rows(found))
    table("Ceilings, measured", [_ceiling_row(ceiling) for ceiling in found.ceilings])
    table("Kernels", [(line,) for line in found.kernels])
    table(
        "Self-check of the kernels",
        [("passed" if c.passed else "FAILED", c.name, c.detail) for c in found.checks],
    )
    for problem in found.problems:
        console.print(f"problem: {problem}", style="red", markup=False)


def _machine_rows(found: Diagnosis) -> list[tuple[str, ...]]:
    machine = found.machine
    quota = "no CPU quota" if machine.quota is None else f"quota of {machine.quota:g} CPUs"
    nodes = len(machine.numa)
    return [
        ("versions", ", ".join(f"{name} {version}" for name, version in found.versions.items())),
        ("system", f"{machine.system}, {machine.architecture}"),
        ("processor", machine.processor),
        (
            "instruction sets",
            f"{' '.join(machine.features) or 'none known'} ({machine.features_from})",
        ),
        (
            "cores",
            f"{machine.cores} physical, {len(machine.cpus)} of {machine.cpus_online} logical"
            f" usable, {quota}, {nodes} memory node{'s' if nodes > 1 else ''}",
        ),
        ("threads", f"{machine.threads}: {machine.threads_reason}"),
        (
            "memory",
            f"{_gib(machine.memory)} ({machine.memory_reason}), {_gib(machine.memory_available)}"
            " available",
        ),
        ("last-level cache", f"{machine.last_level_cache / 2**20:g} MiB"),
    ]


def _ceiling_row(ceiling: Ceiling) -> tuple[str, str, str]:
    value = "-" if ceiling.value is None else f"{ceiling.value:,.1f} {ceiling.unit}"
    return ceiling.name, value, ceiling.how


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _versions() -> dict[str, str]:
    import torch

    from headrace import __version__

    return {
        "headrace": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
