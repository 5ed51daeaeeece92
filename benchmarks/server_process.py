"""ServerProcess: ``headrace serve`` in a process of its own, on a free port."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import IO

START_SECONDS = 600.0  # the first start fetches the default model
STOP_SECONDS = 60.0


class ServerProcess:
    """Use as ``with``: started and ready inside, stopped by SIGTERM at the end.

    What the server says goes to standard error. Raises SystemExit when it does not get ready.
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        command = [sys.executable, "-m", "headrace.cli.main", "serve", "--port", "0", *arguments]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._ready: queue.Queue[str | None] = queue.Queue()
        self.url = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def __enter__(self) -> ServerProcess:
        assert self._process.stdout is not None
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()
        try:
            url = self._ready.get(timeout=START_SECONDS)
        except queue.Empty:
            url = None
        if url is None:
            self.stop()
            raise SystemExit("the server did not get ready; see its messages above")
        self.url = url
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> int:
        """Its exit code, after SIGTERM or, if that does not help, SIGKILL."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _read(self, output: IO[str]) -> None:
        for line in output:
            print(f"server: {line.rstrip()}", file=sys.stderr)
            if line.startswith("ready: "):
                self._ready.put(line.split()[-1])
        self._ready.put(None)
