"""A uvicorn server on a free port of the loopback address, in a thread of the test's process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import uvicorn

from headrace.api.app import create_app
from headrace.api.engine import Engine
from headrace.api.run import Server, bind
from headrace.api.settings import ServerSettings

PATIENCE = 20.0


class LiveServer:
    """``url`` of a server on ``engine``, which is started already."""

    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        self._listener = bind("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(
            create_app(engine, settings), log_level="warning", lifespan="off", ws="none"
        )
        self.server = Server(config, engine, settings.drain_seconds, lambda line: None)
        self._thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self._listener]}, daemon=True
        )
        self._thread.start()
        until(lambda: self.server.started)

    def close(self) -> None:
        self.server.should_exit = True
        self._thread.join(PATIENCE)
        self._listener.close()


@contextlib.contextmanager
def serving(engine: Engine, settings: ServerSettings | None = None) -> Iterator[LiveServer]:
    """Starts the engine and a server on it; closes both."""
    engine.start()
    server = LiveServer(engine, settings or ServerSettings())
    try:
        yield server
    finally:
        server.close()
        engine.close()


def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Waits for a condition; fails the test if it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)
