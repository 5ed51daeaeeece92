"""``headrace models``: what can be served, fetching it, looking into it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.options import MODEL_HELP

if TYPE_CHECKING:
    from headrace.models.inspect import ModelDescription

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="List, fetch and inspect models.",
)

NamedModel = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]


@app.command("list")
def list_models() -> None:
    """List the models that have a short name, and which of them are fetched."""
    from headrace.models.catalogue import CATALOGUE

    for entry in CATALOGUE.values():
        state = str(entry.path) if entry.is_fetched() else "not fetched"
        typer.echo(f"{entry.name}  {entry.summary}")
        typer.echo(f"    {size(entry.size)}, {entry.licence}, {state}")
    typer.echo("Any .gguf file, Hugging Face directory or hub id (org/name) can be used as well.")


@app.command()
def fetch(model: NamedModel) -> None:
    """Fetch a model, unless it is here, and print where it is."""
    from headrace.models.source import resolve

    typer.echo(resolve(model).path)


@app.command()
def inspect(model: NamedModel) -> None:
    """Show what is in a model's files: shape, weights, tokenizer, chat template."""
    from headrace.models.inspect import describe
    from headrace.models.source import resolve

    rows = table(describe(resolve(model)))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        typer.echo(f"{name:<{width}}  {value}")


def table(found: ModelDescription) -> list[tuple[str, str]]:
    """Names and values, as shown."""
    config = found.config
    tensors = ", ".join(
        f"{summary.type} ({summary.count} tensors, {size(summary.nbytes)})"
        for summary in found.tensor_types
    )
    context = f"{found.max_context:,} tokens"
    sharing = "as many for keys and values"
    if config.num_kv_heads != config.num_heads:
        sharing = f"{config.num_kv_heads} for keys and values"
    return [
        ("name", found.name),
        ("path", str(found.path)),
        ("size", size(found.file_bytes)),
        ("architecture", found.architecture),
        ("parameters", f"{found.parameters:,}"),
        ("layers", f"{config.num_layers} of width {config.hidden_size}"),
        ("heads", f"{config.num_heads} of {config.head_dim}, {sharing}"),
        ("context", f"{context} ({found.context_note})" if found.context_note else context),
        ("weights", tensors),
        ("tokenizer", f"{found.tokenizer}, {found.tokens:,} tokens"),
        ("end tokens", ", ".join(found.eos) or "none"),
        ("chat template", "yes" if found.chat_template else "no; only completions work"),
        ("tools", "the template takes them" if found.tools else "the template has no place"),
    ]


def size(nbytes: int) -> str:
    """Bytes for people."""
    value = float(nbytes)
    for unit in ("bytes", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"
