"""Options that several commands share, each declared once.

``EngineOptions`` is the one list of the engine's public options. A command takes them by having a
parameter ``engine: EngineOptions`` under ``@with_engine_options``.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from headrace.nouns.errors import ConfigError

if TYPE_CHECKING:
    from headrace.engine.config import EngineConfig

DEFAULT_MODEL = "smollm2:135m"
PANEL = "Engine"
POLICY_KINDS = ("order", "admission", "batching", "preemption")
MODEL_HELP = "Name (see 'headrace models list'), .gguf file, Hugging Face directory or hub id."
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help=MODEL_HELP,
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help=MODEL_HELP,
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Use this OpenAI-compatible server instead of an engine in this process.",
    ),
]
ApiKeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file",
        metavar="FILE",
        help="API keys, one a line, or a .toml of tenants (or set HEADRACE_API_KEYS).",
    ),
]
TemperatureOption = Annotated[
    float | None,
    typer.Option("--temperature", "-t", metavar="T", help="0 always takes the likeliest token."),
]
MaxTokensOption = Annotated[
    int | None,
    typer.Option("--max-tokens", metavar="N", help="Most tokens of an answer."),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="Makes random choices repeatable.")
]


def _option(*names: str, metavar: str, help: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=PANEL)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The engine's public options. ``cache`` is text such as "512MiB" or "2GB"."""

    weights: Annotated[
        str,
        _option(
            "--weights",
            metavar="FORMAT",
            help="Weights and products: auto, float32, bf16, int8 or native.",
        ),
    ] = "auto"
    device: Annotated[
        str,
        _option("--device", metavar="NAME", help="Where to compute: auto, cpu or cuda."),
    ] = "auto"
    cache: Annotated[
        str | None,
        _option("--cache", metavar="SIZE", help="Memory for the KV cache, such as 512MiB or 2GB."),
    ] = None
    cache_format: Annotated[
        str,
        _option("--cache-format", metavar="FORMAT", help="KV cache in: auto, bf16 or int8."),
    ] = "auto"
    max_context: Annotated[
        int | None,
        _option("--max-context", metavar="N", help="Most tokens of a prompt and its output."),
    ] = None
    max_sequences: Annotated[
        int, _option("--max-sequences", metavar="N", help="Most sequences computed together.")
    ] = 64
    max_queue: Annotated[
        int, _option("--max-queue", metavar="N", help="Most sequences waiting; then HTTP 429.")
    ] = 1024
    token_budget: Annotated[
        int | None,
        _option("--token-budget", metavar="N", help="Tokens a step; measured when not given."),
    ] = None
    tpot_target: Annotated[
        float | None,
        _option("--tpot-target", metavar="SEC", help="Aimed-at seconds per output token."),
    ] = None
    policy: Annotated[
        list[str] | None,
        _option(
            "--policy",
            metavar="[KIND=]NAME",
            help="Scheduling policy, repeatable; KIND is order, admission, batching, preemption.",
        ),
    ] = None
    prefix_cache: Annotated[
        bool,
        typer.Option(
            "--prefix-cache/--no-prefix-cache",
            help="Share the state of equal prompt beginnings.",
            rich_help_panel=PANEL,
        ),
    ] = True
    threads: Annotated[
        int | None, _option("--threads", metavar="N", help="CPU threads; all cores by default.")
    ] = None

    def config(self, model: str) -> EngineConfig:
        """The engine's configuration for ``model``. Raises ConfigError."""
        from headrace.engine.config import EngineConfig

        base = EngineConfig(
            model=model,
            weights=self.weights,
            device=self.device,
            cache_bytes=None if self.cache is None else parse_size(self.cache),
            cache_format=self.cache_format,
            max_context=self.max_context,
            max_sequences=self.max_sequences,
            max_queue=self.max_queue,
            token_budget=self.token_budget,
            tpot_target=self.tpot_target,
            prefix_cache=self.prefix_cache,
            threads=self.threads,
        )
        chosen = parse_policies(self.policy or [])
        return replace(
            base,
            order=chosen.get("order", base.order),
            admission=chosen.get("admission", base.admission),
            batching=chosen.get("batching", base.batching),
            preemption=chosen.get("preemption", base.preemption),
        )


def parse_size(text: str) -> int:
    """Bytes of "1500000", "512MiB", "2GB" or "2g". Raises ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?)B?", text.strip().upper())
    if match is None or match[2] not in UNITS:
        raise ConfigError(f"the size {text!r} is not understood; write it like 512MiB or 2GB")
    size = int(float(match[1]) * UNITS[match[2]])
    if size <= 0:
        raise ConfigError(f"the size {text!r} is not positive; write it like 512MiB or 2GB")
    return size


def parse_policies(values: list[str]) -> dict[str, str]:
    """``{kind: name}`` of "kind=name" or "name" values. Raises ConfigError."""
    from headrace.scheduling import registry

    chosen: dict[str, str] = {}
    for value in values:
        kind, equals, name = value.partition("=")
        if not equals:
            kind, name = _kind_of(value, {k: registry.names(k) for k in POLICY_KINDS}), value
        elif kind not in POLICY_KINDS:
            raise ConfigError(
                f"--policy {value}: {kind!r} is no kind of policy; use one of"
                f" {', '.join(POLICY_KINDS)}"
            )
        elif name not in registry.names(kind):
            raise ConfigError(
                f"--policy {value}: there is no {kind} policy {name!r}; use one of"
                f" {', '.join(registry.names(kind))}"
            )
        if chosen.setdefault(kind, name) != name:
            raise ConfigError(f"--policy gives two {kind} policies, {chosen[kind]} and {name}")
    return chosen


def _kind_of(name: str, names: dict[str, list[str]]) -> str:
    kinds = [kind for kind, known in names.items() if name in known]
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        raise ConfigError(
            f"--policy {name} is ambiguous; write {' or '.join(f'{k}={name}' for k in kinds)}"
        )
    known = "; ".join(f"{kind}: {', '.join(found)}" for kind, found in names.items())
    raise ConfigError(f"--policy {name}: there is no such policy ({known})")


def with_engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces the command's ``engine: EngineOptions`` parameter by one option for each field.

    A field whose name the command has as a parameter of its own keeps its default.
    """
    hints = get_type_hints(command, include_extras=True)
    of_fields = get_type_hints(EngineOptions, include_extras=True)
    kept = [p for p in inspect.signature(command).parameters.values() if p.name != "engine"]
    added = [field for field in fields(EngineOptions) if field.name not in {p.name for p in kept}]
    parameters = [p.replace(annotation=hints[p.name]) for p in kept] + [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=of_fields[field.name],
        )
        for field in added
    ]

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        chosen = {field.name: values.pop(field.name) for field in added}
        command(engine=EngineOptions(**chosen), **values)

    wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    )
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    return wrapper
