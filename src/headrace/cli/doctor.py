"""``headrace doctor``: what this machine is, how fast it can be, which kernels run and why."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.options import DEFAULT_MODEL
from headrace.nouns.errors import HeadraceError

if TYPE_CHECKING:
    import torch

    from headrace.execution.bounds import Bounds
    from headrace.execution.ceilings import Ceiling
    from headrace.execution.machine import Machine
    from headrace.execution.peaks import Peaks
    from headrace.kernels.self_check import Check

FAILED = 1
# What the choice of kernels depends on besides the machine; most models have heads of this size.
HEAD_DIM = 64
FLOAT_BITS = 16.0  # a weight, in a file that is not quantised


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that ``doctor`` found; ``problems`` is empty when everything is as it should be.

    ``bounds`` are of the default model, ``bounds_note`` says of what else they depend on, or why
    there are none.
    """

    versions: dict[str, str]
    machine: Machine
    tuning: str
    ceilings: list[Ceiling]
    bounds: list[Bounds]
    bounds_note: str
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
    device: Annotated[
        str,
        typer.Option("--device", metavar="NAME", help="Where to compute: auto, cpu or cuda."),
    ] = "auto",
) -> None:
    """Say what this machine is, how fast it can be, and which kernels it runs and why.

    Checks the chosen kernels against exact results; ends with 1 when a check fails.
    """
    found = diagnose(weights, device)
    if as_json:
        import json

        typer.echo(json.dumps(to_json(found), indent=2))
    else:
        show(found)
    if found.problems:
        raise typer.Exit(FAILED)


def diagnose(weights: str = "auto", device: str = "auto", seconds: float = 0.5) -> Diagnosis:
    """Look, measure for ``seconds`` per ceiling, and check the kernels of ``device``.

    Raises ConfigError for a format or device that cannot be had here.
    """
    import torch

    from headrace.execution.ceilings import measure_ceilings
    from headrace.execution.machine import detect_machine
    from headrace.kernels.device.choose import choose_device, describe_device
    from headrace.kernels.extension import load_extension
    from headrace.kernels.formats import choose_format

    where, why = choose_device(device, weights)
    if where.type == "cpu":
        choose_format(weights, HEAD_DIM, FLOAT_BITS)
    machine = detect_machine()
    extension = load_extension()
    kernels = [f"C++ extension: {extension.reason}", describe_device(where, why)]
    checks: list[Check] = []
    problems: list[str] = []
    ceilings: list[Ceiling] = []
    peaks: Peaks | None = None
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(machine.threads)
        ceilings = measure_ceilings(machine, seconds)
        peaks = _keep(machine, ceilings)
        formats = _formats(weights) if where.type == "cpu" else _on_device(weights, where)
        for line, found in formats:
            kernels.append(line)
            checks += [check for check in found if check not in checks]
    except HeadraceError as error:
        problems.append(str(error))
    finally:
        torch.set_num_threads(before)
    problems += [f"{check.name}: {check.detail}" for check in checks if not check.passed]
    bounds, note = _bounds(peaks)
    return Diagnosis(
        versions=_versions(),
        machine=machine,
        tuning=_tuning(),
        ceilings=ceilings,
        bounds=bounds,
        bounds_note=note,
        kernels=kernels,
        checks=checks,
        problems=problems,
    )


def _formats(weights: str) -> Iterator[tuple[str, list[Check]]]:
    """What computes models, a line for each kind of file where that matters, and its checks."""
    from headrace.kernels.dispatch import choose
    from headrace.kernels.extension import load_extension
    from headrace.kernels.formats import QUANTISED_BITS, choose_format
    from headrace.kernels.native_check import check_native
    from headrace.kernels.self_check import check_operators

    kinds = {"": FLOAT_BITS}
    if weights == "auto":
        few = f" of files of at most {QUANTISED_BITS:g} bits a weight"
        kinds = {few: QUANTISED_BITS, " of other files": FLOAT_BITS}
    for kind, bits in kinds.items():
        chosen = choose_format(weights, HEAD_DIM, bits)
        why = "" if bits == QUANTISED_BITS and chosen.name == "int8" else f" ({chosen.why})"
        line = f"weights{kind}: {chosen.name}{why}"
        cpu = load_extension().module
        if chosen.native_code and cpu is not None:
            yield f"{line}, C++ kernels {cpu.kernels_name()}", check_native(cpu, chosen.name)
        else:
            dispatch = choose(chosen.name, HEAD_DIM)
            yield "; ".join((line, *dispatch.report)), check_operators(dispatch.operators)


def _on_device(weights: str, device: torch.device) -> Iterator[tuple[str, list[Check]]]:
    """What computes models on a device with its own memory, and its checks."""
    from headrace.kernels.device.choose import choose_on_device
    from headrace.kernels.self_check import check_operators

    dispatch = choose_on_device(device, weights, HEAD_DIM)
    yield "; ".join(dispatch.report), check_operators(dispatch.operators)


def _keep(machine: Machine, ceilings: list[Ceiling]) -> Peaks | None:
    """What was measured here, for the next start of an engine; the best that is known now."""
    from headrace.execution.peaks import Peaks, peaks_of, remember
    from headrace.execution.tuning import PEAKS, Tuning

    kept = Tuning.of(machine, machine.threads)
    known = Peaks.from_json(kept.get(PEAKS))
    return remember(peaks_of(ceilings), known, lambda found: kept.put(PEAKS, found))


def _tuning() -> str:
    """Where measurements are kept, and how many files of them there are."""
    from headrace.execution.tuning import tuning_folder

    folder = tuning_folder()
    count = len(list(folder.glob("*.json")))
    return f"{folder}, {count} file{'' if count == 1 else 's'}; may be deleted"


def _bounds(peaks: Peaks | None) -> tuple[list[Bounds], str]:
    """What the best ceilings known allow the default model, if its files are here; a note."""
    from headrace.execution.bounds import bounds_by_format
    from headrace.models.catalogue import CATALOGUE
    from headrace.models.loader import open_model
    from headrace.models.source import resolve

    if peaks is None:
        return [], "none without the ceilings of memory and float32"
    if not CATALOGUE[DEFAULT_MODEL].is_fetched():  # to look is not to download
        return [], f"none without the model: headrace models fetch {DEFAULT_MODEL}"
    try:
        files = open_model(resolve(DEFAULT_MODEL, progress=False))
    except HeadraceError as error:
        return [], f"none: {error}"
    bounds = bounds_by_format(files.config, files.weights, peaks)
    first = bounds[0]
    return bounds, f"{DEFAULT_MODEL}; decoding at a context of {first.context} tokens"


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
    table("Bounds, tokens per second at best", _bounds_rows(found))
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
        ("measurements kept", found.tuning),
    ]


def _ceiling_row(ceiling: Ceiling) -> tuple[str, str, str]:
    value = "-" if ceiling.value is None else f"{ceiling.value:,.1f} {ceiling.unit}"
    return ceiling.name, value, ceiling.how


def _bounds_rows(found: Diagnosis) -> list[tuple[str, ...]]:
    rows = [
        (
            b.weights,
            f"{b.one_stream:,.0f} one stream",
            f"{b.streams:,.0f} {b.batch} streams",
            f"{b.prompt:,.0f} prompt, {b.rows} rows a step",
        )
        for b in found.bounds
    ]
    return [*rows, ("of", found.bounds_note)]


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
