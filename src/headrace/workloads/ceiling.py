"""The generator's own ceiling: the same load on a server that answers at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from headrace.nouns.errors import HeadraceError


@contextmanager
def null_server() -> Iterator[str]:
    """URL of a null server in a process of its own, which ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace.workloads.null_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        if not port:
            raise HeadraceError("the null server did not start; see the message above")
        yield f"http://127.0.0.1:{int(port)}"
    finally:
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
