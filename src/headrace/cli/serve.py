"""``headrace serve``: an OpenAI-compatible server."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from headrace.cli import service as services
from headrace.cli.options import (
    DEFAULT_MODEL,
    ApiKeyFileOption,
    EngineOptions,
    ModelArgument,
    with_engine_options,
)


@with_engine_options
def serve(
    engine: EngineOptions,
    model: ModelArgument = DEFAULT_MODEL,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", "-p", metavar="N", help="Port to listen on; 0 takes any.")
    ] = 8000,
    api_key_file: ApiKeyFileOption = None,
    allow_unauthenticated: Annotated[
        bool,
        typer.Option(
            "--allow-unauthenticated", help="Let everyone in who can reach --host, without keys."
        ),
    ] = False,
    drain_seconds: Annotated[
        float,
        typer.Option(
            "--drain-seconds", metavar="SEC", help="Time for open requests after SIGTERM."
        ),
    ] = 30.0,
) -> None:
    """Serve a model over an OpenAI-compatible HTTP API.

    Says what it found and chose (memory, computation type, token budget) and where it listens.
    SIGTERM or Ctrl-C lets open requests end first; a second one does not.
    """
    config = engine.config(model)
    from headrace.api.keys import ApiKeys, read
    from headrace.api.run import serve as serve_http
    from headrace.api.settings import ServerSettings

    if api_key_file is not None:
        config = replace(config, tenants=read(api_key_file).tenants)

    settings = ServerSettings(
        host=host,
        port=port,
        keys=ApiKeys.load(api_key_file),
        allow_unauthenticated=allow_unauthenticated,
        drain_seconds=drain_seconds,
    )
    raise typer.Exit(serve_http(services.open_service(config, _announce), settings, _announce))


def _announce(line: str) -> None:
    typer.echo(line)
    # A reader at the other end of a pipe waits for "ready".
    typer.get_text_stream("stdout").flush()
