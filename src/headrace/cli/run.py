"""``headrace run``: answers a file of requests, as fast as the machine can."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli import service as services
from headrace.cli.options import (
    DEFAULT_MODEL,
    EngineOptions,
    MaxTokensOption,
    ModelOption,
    TemperatureOption,
    parse_policies,
    with_engine_options,
)
from headrace.nouns.errors import ConfigError, EngineStopped

if TYPE_CHECKING:
    from headrace.cli.batch_input import BatchLine
    from headrace.cli.batch_output import BatchOutput
    from headrace.cli.batch_progress import BatchProgress
    from headrace.cli.in_process import InProcessClient
    from headrace.engine.config import EngineConfig
    from headrace.engine.service import EngineService

FAILED = 1


@with_engine_options
def run(
    engine: EngineOptions,
    input: Annotated[
        Path,
        typer.Argument(
            metavar="IN.jsonl", help="OpenAI batch lines, or prompts, one JSON value a line."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT.jsonl", help="Where answers go.")
    ],
    model: ModelOption = DEFAULT_MODEL,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = None,
) -> None:
    """Answer a file of requests offline.

    Every line of IN is a batch line of the OpenAI API (custom_id, method, url, body), an object
    with "prompt" or "messages" and any field of the API, or a JSON string. Every answer is a line
    of OUT, in the order of completion. Lines that cannot be answered go to OUT.errors.jsonl.

    Run the same command again after a kill: what is answered is kept and not computed again.
    """
    from headrace.cli.batch_input import count_lines, open_input
    from headrace.cli.batch_output import BatchOutput, errors_path
    from headrace.cli.batch_progress import BatchProgress

    for written in (output, errors_path(output)):
        if input.exists() and written.exists() and input.samefile(written):
            raise ConfigError(f"{input} is both read and written; choose another output")
    defaults = {"max_tokens": max_tokens, "temperature": temperature}
    defaults = {name: value for name, value in defaults.items() if value is not None}
    config, in_flight = for_a_batch(engine, model)
    with open_input(input) as lines:
        out = BatchOutput(output)
        try:
            total = count_lines(lines)
            with services.running_service(config, services.say) as service:
                batch = Batch(service, out, BatchProgress(total), in_flight)
                with batch.progress:
                    asyncio.run(batch.answer_all(lines, defaults))
        except KeyboardInterrupt:
            services.say(f"stopped; run the same command again to go on with {output}")
            raise
        finally:
            out.close()
    typer.echo(batch.progress.summary())
    if batch.progress.faults:
        services.say(f"lines without an answer are in {out.errors_path}")
        raise typer.Exit(FAILED)


def for_a_batch(engine: EngineOptions, model: str) -> tuple[EngineConfig, int]:
    """The engine's configuration, and how many lines to have in it at a time.

    Unless another order is asked for, order 'lookahead' arranges as many as may wait.
    """
    config = engine.config(model)
    if "order" not in parse_policies(engine.policy or []):
        config = replace(config, order="lookahead")
    least = 2 * config.max_sequences
    return config, max(least, config.max_queue) if config.order == "lookahead" else least


class Batch:
    """Answers a batch through the server's own application, so that bodies mean the same.

    At most ``in_flight`` requests are in the engine at a time; lines are read as they are needed.
    """

    def __init__(
        self, service: EngineService, out: BatchOutput, progress: BatchProgress, in_flight: int
    ) -> None:
        self.progress = progress
        self._service = service
        self._out = out
        self._in_flight = max(1, in_flight)

    async def answer_all(self, lines: Any, defaults: dict[str, Any]) -> None:
        """Reads and answers to the end. Raises EngineStopped when the engine fails."""
        from headrace.api.app import create_app
        from headrace.api.keys import ApiKeys
        from headrace.api.settings import ServerSettings
        from headrace.cli.batch_input import BadLine, read_lines
        from headrace.cli.in_process import InProcessClient

        client = InProcessClient(create_app(self._service, ServerSettings(keys=ApiKeys())))
        running: set[asyncio.Task[None]] = set()
        try:
            for line in read_lines(lines, defaults):
                if isinstance(line, BadLine):
                    self._out.bad(line)
                    self.progress.fault(f"line {line.number}: {line.reason}")
                elif self._claimed(line):
                    running.add(asyncio.ensure_future(self._answer(client, line)))
                    if len(running) >= self._in_flight:
                        running = await _some_done(running)
            while running:
                running = await _some_done(running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _claimed(self, line: BatchLine) -> bool:
        """True if the line is to be answered now. Raises ConfigError when OUT is another's."""
        from headrace.cli.batch_input import BadLine
        from headrace.cli.ledger import Claim

        claim = self._out.ledger.claim(line.custom_id, line.digest)
        if claim is Claim.CHANGED:
            raise ConfigError(
                f"line {line.number} ({line.custom_id!r}) was answered with other content, so the"
                " output belongs to another input; choose another output or remove it"
            )
        if claim is Claim.ANSWERED:
            self.progress.skip()
        elif claim is Claim.DUPLICATE:
            reason = f"custom_id {line.custom_id!r} is on an earlier line; give each line its own"
            self._out.bad(BadLine(line.number, line.custom_id, reason, ""))
            self.progress.fault(f"line {line.number}: {reason}")
        return claim is Claim.NEW

    async def _answer(self, client: InProcessClient, line: BatchLine) -> None:
        import orjson

        body = orjson.dumps(line.body)
        answer = await client.post(line.url, body)
        while answer.status == 429:  # somebody else fills the engine's queue
            await asyncio.sleep(min(float(answer.headers.get("retry-after", "1")), 5.0))
            answer = await client.post(line.url, body)
        if answer.status == 200:
            usage = orjson.loads(answer.body)["usage"]
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            self._out.answer(line, answer.status, answer.body)
            self.progress.answer(usage["prompt_tokens"], usage["completion_tokens"], cached)
            return
        failure = self._service.status().failure
        if answer.status == 503 or failure is not None:
            raise EngineStopped(
                f"the engine stopped: {failure or 'it takes no more requests'};"
                " run the same command again to resume"
            )
        self._out.refusal(line, answer.status, answer.body)
        message = orjson.loads(answer.body)["error"]["message"]
        self.progress.fault(f"line {line.number} ({line.custom_id}): {message}")


async def _some_done(running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Waits for the first to end and returns the others. Raises what the ended ones raised."""
    done, left = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    return left
