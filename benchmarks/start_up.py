"""How long a server takes to get ready, what takes it, and the memory it then holds.

``python -m benchmarks.start_up`` starts ``headrace serve`` again and again on the default model,
which has to be fetched already, and asks GET /ready until it answers 200. Measurements that the
server keeps on disk go to a folder of the benchmark's own: the first start finds none of them,
later ones measure again until the figures have settled, and starts are counted after that.
Resident memory is read once the server has been idle for a second; it is without the cache, of
which a server that has not answered yet holds nothing.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import psutil

from headrace import environment

LONGEST = 300.0  # seconds; the slowest machine is ready by then
POLL = 0.005
IDLE = 1.0
WARM_UPS = 12  # starts at most until the server measures nothing any more
MEASURES = 0.1  # seconds from which on "limits" were measured
QUICK = {
    "python": ["-c", "pass"],
    "import headrace": ["-c", "import headrace"],
    "headrace --help": ["-m", "headrace.cli.main", "--help"],
    "headrace models list": ["-m", "headrace.cli.main", "models", "list"],
    "an argument error": ["-m", "headrace.cli.main", "serve", "--port", "none"],
}


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from the command to GET /ready 200, its parts, and MiB in memory when idle.

    ``processor`` is the time of all processors that it took, which other programs change little.
    """

    ready: float
    processor: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    resident: float = 0.0
    peak: float = 0.0


def quick(arguments: Sequence[str], runs: int) -> list[float]:
    """Seconds of a command of Python, run ``runs`` times."""
    found = []
    for _ in range(runs):
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, *arguments], check=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        found.append(time.perf_counter() - begun)
    return found


def start(arguments: Sequence[str], cache: Path) -> Start:
    """Start a server, wait until it is ready and idle, stop it. Raises SystemExit if it fails."""
    command = [sys.executable, "-m", "headrace.cli.main", "serve", "--port", "0", *arguments]
    environ = {**os.environ, "HEADRACE_CACHE": str(cache)}
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ
    )
    assert process.stdout is not None
    said: list[tuple[float, str]] = []
    listening = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.append((time.perf_counter() - begun, line.rstrip()))
            if line.startswith("listening: "):
                listening.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        _until(listening.is_set, process, begun)
        url = next(line for _, line in said if line.startswith("listening: ")).split()[-1]
        _until(lambda: is_ready(url), process, begun)
        ready = time.perf_counter() - begun
        times = psutil.Process(process.pid).cpu_times()
        time.sleep(IDLE)
        resident, peak = memory(process.pid)
    except TimeoutError as error:
        raise SystemExit(f"{error}\n" + "\n".join(line for _, line in said)) from None
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        reader.join()
    return Start(ready, times.user + times.system, phases(said, ready), resident, peak)


def is_ready(url: str) -> bool:
    address = urlsplit(url)
    assert address.hostname is not None
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def phases(said: Sequence[tuple[float, str]], ready: float) -> dict[str, float]:
    """Seconds by phase from what the server said and when: to the socket, the engine's own account
    of its parts, and the rest."""
    found: dict[str, float] = {}
    for seconds, line in said:
        if line.startswith("listening: "):
            found["command to socket"] = seconds
        match = re.fullmatch(r"loaded in [\d.]+ s \((.*)\)", line)
        if match:
            for part in match[1].split(", "):
                name, _, value = part.rpartition(" ")
                found[name] = float(value)
    found["the rest"] = ready - sum(found.values())
    return found


def memory(pid: int) -> tuple[float, float]:
    """MiB resident now and at most so far (0 where that is not known)."""
    resident = psutil.Process(pid).memory_info().rss / 2**20
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return resident, 0.0
    match = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return resident, int(match[1]) / 2**10 if match else 0.0


def _until(holds: Callable[[], bool], process: subprocess.Popen[str], begun: float) -> None:
    while not holds():
        if process.poll() is not None:
            raise TimeoutError(f"the server ended with {process.returncode}")
        if time.perf_counter() - begun > LONGEST:
            raise TimeoutError(f"the server was not ready within {LONGEST:g} s")
        time.sleep(POLL)


@contextmanager
def own_cache() -> Iterator[Path]:
    """A cache folder with the user's models and no measurements."""
    with tempfile.TemporaryDirectory(prefix="headrace-start-up-") as folder:
        models = environment.cache_dir() / "models"
        if models.is_dir():
            (Path(folder) / "models").symlink_to(models, target_is_directory=True)
        yield Path(folder)


def spread(values: Sequence[float]) -> str:
    return f"{min(values):7.2f} s at best, {median(values):.2f} s in the middle of {len(values)}"


def show(commands: dict[str, list[float]], first: Start, starts: Sequence[Start]) -> None:
    for name, seconds in commands.items():
        print(f"{name:<22}{spread(seconds)}")
    print(
        f"{'serve, first start':<22}{first.ready:7.2f} s, nothing measured before;"
        f" {first.processor:.2f} s of processors"
    )
    print(f"{'serve to ready':<22}{spread([s.ready for s in starts])}")
    print(f"{'  of processors':<22}{spread([s.processor for s in starts])}")
    for name in starts[0].phases:
        print(f"  {name:<20}{spread([s.phases.get(name, 0.0) for s in starts])}")
    resident, peak = (median(getattr(s, name) for s in starts) for name in ("resident", "peak"))
    print(f"{'resident when idle':<22}{resident:7.0f} MiB, {peak:.0f} MiB at most")
    print(f"{'  after a first start':<22}{first.resident:7.0f} MiB, {first.peak:.0f} MiB at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=5, help="starts that are counted")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("arguments", nargs="*", help="arguments for headrace serve, after --")
    options = parser.parse_args()
    commands = {name: quick(command, options.runs) for name, command in QUICK.items()}
    with own_cache() as cache:
        first = start(options.arguments, cache)
        for _ in range(WARM_UPS):
            if start(options.arguments, cache).phases.get("limits", 0.0) < MEASURES:
                break
        starts = [start(options.arguments, cache) for _ in range(options.runs)]
    if options.json:
        found = {"commands": commands, "first": asdict(first), "starts": list(map(asdict, starts))}
        print(json.dumps(found, indent=1))
        return
    show(commands, first, starts)


if __name__ == "__main__":
    main()
