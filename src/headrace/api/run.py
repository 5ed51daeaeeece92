"""serve: listens, drains on SIGTERM, and says how it went."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from headrace.api.app import create_app
from headrace.api.engine import Engine
from headrace.api.settings import ServerSettings
from headrace.nouns.errors import ConfigError

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75
FLUSH_SECONDS = 5
"""What clients get, after the drain, to read what was already written to them."""

Announce = Callable[[str], None]


class Server(uvicorn.Server):
    """Drains at the first SIGTERM or SIGINT, leaves the process at the second."""

    def __init__(
        self, config: uvicorn.Config, engine: Engine, drain_seconds: float, announce: Announce
    ) -> None:
        super().__init__(config)
        self._engine = engine
        self._drain_seconds = drain_seconds
        self._announce = announce
        self._asked_to_stop = False
        self.load_error: BaseException | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals while serving; uvicorn's own version would raise them again at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._asked_to_stop:
            os._exit(128 + sig)
        self.stop()

    def stop(self) -> None:
        """Takes no new work, ends open requests within the deadline, then ends the server."""
        self._asked_to_stop = True
        threading.Thread(target=self._drain, name="headrace-drain", daemon=True).start()

    def watch_loading(self, url: str) -> None:
        """Announces the model when it is loaded; ends the server if it cannot be."""
        try:
            self._engine.wait_ready()
        except BaseException as error:  # serve raises it again
            self.load_error = error
            self.should_exit = True
        else:
            self._announce(f"ready: {self._engine.model.name} at {url}")

    def _drain(self) -> None:
        status = self._engine.status()
        open_requests = status.running + status.waiting
        if open_requests:
            self._announce(
                f"draining: {open_requests} open, at most {self._drain_seconds:g} s;"
                " a second signal leaves at once"
            )
        if not self._engine.drain(self._drain_seconds):
            self._announce("the deadline passed; open requests were aborted")
        self.should_exit = True


def serve(engine: Engine, settings: ServerSettings, announce: Announce = print) -> int:
    """Starts ``engine``, serves until a signal, closes it; returns the exit status 0.

    Listens at once: /health answers, and /ready says "loading", while the model loads. Raises
    ConfigError when the address cannot be had, and what loading the model raised.
    """
    listener = bind(settings.host, settings.port)
    url = f"http://{_host_of(settings.host)}:{listener.getsockname()[1]}"
    config = uvicorn.Config(
        create_app(engine, settings),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=FLUSH_SECONDS,
    )
    server = Server(config, engine, settings.drain_seconds, announce)
    engine.start()
    announce(f"listening: {url}")
    threading.Thread(target=server.watch_loading, args=(url,), daemon=True).start()
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()
        if engine.ready or engine.status().draining:
            engine.close()
    if server.load_error is not None:
        raise server.load_error
    return 0


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        # asyncio sends without delay (TCP_NODELAY) on sockets that name their protocol only.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            if os.name == "posix":  # elsewhere this would let two servers share the port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error};"
            " choose another with --host or --port"
        ) from error
    return listener


def _host_of(host: str) -> str:
    return f"[{host}]" if ":" in host else host
