"""``headrace serve``: from the command to answers, and out again."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from headrace.cli import service
from headrace.engine.config import EngineConfig
from headrace.nouns.errors import ModelError
from headrace.nouns.request import Targets
from headrace.nouns.tenant import Terms
from tests.cli.conftest import Invoke, Start
from tests.cli.toy_program import toy_factory


def complete(url: str, **headers: str) -> str:
    body = json.dumps({"prompt": "hello"}).encode()
    fields = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(f"{url}/v1/completions", body, fields)
    with urllib.request.urlopen(request, timeout=20) as response:
        return str(json.load(response)["choices"][0]["text"])


@pytest.fixture
def process(start: Start, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    keys = tmp_path / "keys"
    keys.write_text("secret me\n")
    found = start(
        0.0, "serve", "toy", "--port", "0", "--api-key-file", keys, stdout=subprocess.PIPE
    )
    yield found
    if found.poll() is None:
        found.kill()
    found.communicate()


def wait_ready(process: subprocess.Popen[bytes]) -> str:
    """Reads what is printed up to the line that says ready; returns the URL in it."""
    assert process.stdout is not None
    shown = []
    for raw in process.stdout:
        shown.append(raw.decode())
        if shown[-1].startswith("ready: toy at "):
            return shown[-1].split()[-1]
    raise AssertionError(f"it ended: {shown}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    url = wait_ready(process)
    assert complete(url, Authorization="Bearer secret") == "hello"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        complete(url)
    process.send_signal(number)
    assert process.wait(20) == 0


def test_a_file_of_tenants_gives_keys_and_terms(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "tenants.toml"
    path.write_text('[defaults]\nttft = 3\n[tenants.a]\nkeys = ["secret"]\nmax_running = 2')
    configs: list[EngineConfig] = []

    def fail(config: EngineConfig, report: object) -> NoReturn:
        configs.append(config)
        raise ModelError("far enough")

    monkeypatch.setattr(service, "open_service", fail)
    assert invoke("serve", "--api-key-file", path).exit_code == 2
    tenants = configs[0].tenants
    assert tenants.terms("a") == Terms(max_running=2, targets=Targets(ttft=3.0))
    assert tenants.terms("b") == Terms(targets=Targets(ttft=3.0))


def test_a_wrong_file_of_tenants_is_one_line_without_keys(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "tenants.toml"
    path.write_text('[tenants.a]\nkeys = ["secret-key"]\nwieght = 2')
    result = invoke("serve", "--api-key-file", path)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "[tenants.a] has no 'wieght'" in result.stderr
    assert "secret-key" not in result.output


def test_a_port_that_is_taken(invoke: Invoke, process: subprocess.Popen[bytes]) -> None:
    port = wait_ready(process).rsplit(":", 1)[1]
    result = invoke("serve", "--port", port)
    assert result.exit_code == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_model_that_cannot_be_loaded(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    error = ModelError("there is no model 'x'; give another")
    monkeypatch.setattr(service, "open_service", toy_factory(load_error=error))
    result = invoke("serve", "x", "--port", "0")
    assert (result.exit_code, result.stderr) == (2, f"headrace: {error}\n")
