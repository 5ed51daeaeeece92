"""Hang-ups, draining, signals, and failures to start."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.api.run import bind, serve
from headrace.api.settings import ServerSettings
from headrace.engine.service import EngineService
from headrace.nouns.errors import ConfigError, ModelError
from tests.api.live_server import LiveServer, serving, until
from tests.api.toy_engine import toy_service

ENDLESS = {"prompt": "<slow>abc", "max_tokens": 400, "ignore_eos": True}


@pytest.fixture
def slow() -> Iterator[tuple[EngineService, LiveServer]]:
    service = toy_service()
    with serving(service) as server:
        service.wait_ready(20)
        yield service, server


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("shape", [{}, {"n": 3}, {"prompt": ["<slow>a", "<slow>b"], "n": 2}])
def test_a_hang_up_ends_the_request_within_two_steps(
    slow: tuple[EngineService, LiveServer],
    monkeypatch: pytest.MonkeyPatch,
    stream: bool,
    shape: dict[str, Any],
) -> None:
    service, server = slow
    aborted_at: list[int] = []
    abort = service.abort

    def watched_abort(request_id: str) -> None:
        aborted_at.append(service.status().steps)
        abort(request_id)

    monkeypatch.setattr(service, "abort", watched_abort)
    body = json.dumps({**ENDLESS, "stream": stream, **shape}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(head.encode() + b"\r\n" + body)
        until(lambda: service.status().running > 0)
        until(lambda: service.status().steps > 3)
    until(lambda: service.status().running == 0)
    assert service.status().waiting == 0
    assert service.status().steps <= aborted_at[0] + 2
    assert service.status().free_blocks == service.status().total_blocks


def test_a_hang_up_leaves_others_alone(slow: tuple[EngineService, LiveServer]) -> None:
    service, server = slow
    url = f"{server.url}/v1/completions"
    with httpx.stream("POST", url, json={**ENDLESS, "stream": True}) as leaving:
        lines = leaving.iter_lines()  # the client hangs up when this is collected
        next(lines)
        answers: list[httpx.Response] = []
        body = {"prompt": "<slow>" + "hello" * 20, "max_tokens": 200}
        other = threading.Thread(target=lambda: answers.append(httpx.post(url, json=body)))
        other.start()
        until(lambda: service.status().running == 2)
    other.join(20)
    assert answers[0].json()["choices"][0]["text"] == "hello" * 20


def test_a_client_that_goes_while_it_sends_its_body(
    slow: tuple[EngineService, LiveServer],
) -> None:
    _, server = slow
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"
        )
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_draining_lets_requests_end(slow: tuple[EngineService, LiveServer]) -> None:
    service, server = slow
    url = f"{server.url}/v1/completions"
    with httpx.stream("POST", url, json={**ENDLESS, "max_tokens": 20, "stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
        drain = threading.Thread(target=lambda: service.drain(20))
        drain.start()
        until(lambda: service.status().draining)
        ready = httpx.get(f"{server.url}/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "draining")
        assert httpx.get(f"{server.url}/health").status_code == 200
        refused = httpx.post(url, json={"prompt": "a"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_stopped")
        assert "retry-after" in refused.headers
        rest = [line for line in lines if line]
        assert '"finish_reason":"length"' in rest[-2]
        assert rest[-1] == "data: [DONE]"
        drain.join(20)


@pytest.mark.parametrize("stream", [False, True])
def test_draining_aborts_what_is_left(slow: tuple[EngineService, LiveServer], stream: bool) -> None:
    service, server = slow
    answers: list[httpx.Response] = []
    body = {**ENDLESS, "stream": stream}
    url = f"{server.url}/v1/completions"
    client = threading.Thread(target=lambda: answers.append(httpx.post(url, json=body, timeout=20)))
    client.start()
    until(lambda: service.status().running == 1)
    assert not service.drain(0.05)
    client.join(20)
    if stream:
        events = [line for line in answers[0].text.split("\n\n") if line]
        assert '"code":"aborted"' in events[-2]
        assert events[-1] == "data: [DONE]"
    else:
        assert answers[0].status_code == 503
        assert answers[0].json()["error"]["code"] == "aborted"


PROGRAM = """
import sys
from headrace.api.run import serve
from headrace.api.settings import ServerSettings
from tests.api.toy_engine import toy_service
settings = ServerSettings(port=0, drain_seconds=float(sys.argv[1]))
sys.exit(serve(toy_service(), settings, lambda line: print(line, flush=True)))
"""


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and its URL. The parameter is its drain deadline."""
    root = Path(__file__).parents[2]
    running = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(request.param)],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    url = running.stdout.readline().split()[-1]
    assert running.stdout.readline().startswith("ready: toy at http://127.0.0.1")
    try:
        yield running, url
    finally:
        running.kill()
        running.communicate()


def open_stream(url: str, tokens: int) -> tuple[threading.Thread, list[str]]:
    """A stream that has begun, and the lines it brings until it ends."""
    lines: list[str] = []

    def read() -> None:
        body = {**ENDLESS, "max_tokens": tokens, "stream": True}
        try:
            with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=20) as response:
                lines.extend(line for line in response.iter_lines() if line)
        except httpx.TransportError:
            lines.append("cut")

    thread = threading.Thread(target=read)
    thread.start()
    until(lambda: httpx.get(f"{url}/ready").json()["running"] == 1)
    return thread, lines


@pytest.mark.parametrize("process", [20], indirect=True)
def test_sigterm_drains_and_exits_0(process: tuple[subprocess.Popen[str], str]) -> None:
    running, url = process
    thread, lines = open_stream(url, tokens=120)
    running.send_signal(signal.SIGTERM)
    thread.join(20)
    assert lines[-1] == "data: [DONE]"
    assert '"finish_reason":"length"' in lines[-2]
    assert running.wait(20) == 0
    out, err = running.communicate()
    assert "draining: 1 open, at most 20 s" in out
    assert err == ""


@pytest.mark.parametrize("process", [0.1], indirect=True)
def test_sigterm_has_a_deadline(process: tuple[subprocess.Popen[str], str]) -> None:
    running, url = process
    thread, lines = open_stream(url, tokens=400)
    running.send_signal(signal.SIGTERM)
    assert running.wait(20) == 0
    thread.join(20)
    assert '"code":"aborted"' in lines[-2]


@pytest.mark.parametrize("process", [600], indirect=True)
def test_a_second_signal_exits_at_once(process: tuple[subprocess.Popen[str], str]) -> None:
    running, url = process
    thread, lines = open_stream(url, tokens=400)
    running.send_signal(signal.SIGINT)
    until(lambda: httpx.get(f"{url}/ready").json()["status"] == "draining")
    running.send_signal(signal.SIGTERM)
    assert running.wait(20) == 128 + signal.SIGTERM
    thread.join(20)
    assert lines[-1] == "cut"


def test_a_model_that_cannot_be_loaded_ends_the_server() -> None:
    service = toy_service(load_error=ModelError("the file is truncated"))
    with pytest.raises(ModelError, match="truncated"):
        serve(service, ServerSettings(port=0), lambda line: None)


def test_an_address_that_is_taken() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}"):
            bind("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"nowhere\.invalid"):
        bind("nowhere.invalid", 0)


def test_chunks_are_sent_without_delay() -> None:
    async def accepted_socket() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            made: socket.socket = writer.get_extra_info("socket")
            accepted.set_result(made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with bind("127.0.0.1", 0) as listener:
            async with await asyncio.start_server(accept, sock=listener):
                _, writer = await asyncio.open_connection(*listener.getsockname())
                writer.close()
                return await asyncio.wait_for(accepted, 20)

    assert asyncio.run(accepted_socket())


def test_an_idle_server_takes_no_steps(slow: tuple[EngineService, LiveServer]) -> None:
    service, server = slow
    httpx.post(f"{server.url}/v1/completions", json={"prompt": "abc"})
    steps = service.status().steps
    time.sleep(0.1)
    assert service.status().steps == steps
