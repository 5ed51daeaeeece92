"""Engine options: sizes, policies, and the configuration they make."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from headrace.cli.options import EngineOptions, parse_policies, parse_size
from headrace.engine.config import EngineConfig
from headrace.nouns.errors import ConfigError
from headrace.scheduling import registry
from tests.cli.conftest import Invoke


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1500000", 1_500_000),
        ("512MiB", 512 * 2**20),
        ("2GB", 2 * 10**9),
        ("2g", 2 * 10**9),
        ("1.5 GiB", 3 * 2**29),
        ("64ki", 64 * 1024),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "1TBB", "1e9", "12 apples", "i", "5I"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="size"):
        parse_size(text)


@given(st.text())
def test_any_text_is_a_size_or_an_error(text: str) -> None:
    try:
        assert parse_size(text) > 0
    except ConfigError:
        return


def test_the_defaults_are_the_engine_s_own() -> None:
    assert EngineOptions().config("smollm2:135m") == EngineConfig()


def test_options_reach_the_configuration() -> None:
    options = EngineOptions(
        weights="float32",
        device="cpu",
        cache="1MiB",
        max_context=128,
        max_sequences=3,
        max_queue=4,
        token_budget=5,
        tpot_target=0.1,
        policy=["order=priority", "static"],
        prefix_cache=False,
        threads=1,
    )
    assert options.config("m") == EngineConfig(
        model="m",
        weights="float32",
        device="cpu",
        cache_bytes=2**20,
        max_context=128,
        max_sequences=3,
        max_queue=4,
        token_budget=5,
        tpot_target=0.1,
        order="priority",
        batching="static",
        prefix_cache=False,
        threads=1,
    )


def test_every_option_reaches_the_configuration() -> None:
    """Guards against an option that is declared and then forgotten."""
    changed = {
        "weights": "float32", "device": "cpu", "cache": "1MB",
        "cache_format": "int8", "max_context": 7, "max_sequences": 7,
        "max_queue": 7, "token_budget": 7, "tpot_target": 7.0, "policy": ["static"],
        "prefix_cache": False, "threads": 7,
    }  # fmt: skip
    assert set(changed) == set(EngineOptions.__slots__)
    for name, value in changed.items():
        options = replace(EngineOptions(), **{name: value})  # type: ignore[arg-type]
        assert options.config("smollm2:135m") != EngineConfig(), name


def test_policies_by_bare_name_and_by_kind() -> None:
    for kind, known in registry.BUILT_IN.items():
        for name in known:
            assert parse_policies([name]) == {kind: name}
            assert parse_policies([f"{kind}={name}"]) == {kind: name}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (["fastest"], "no such policy"),
        (["order=fastest"], "no order policy 'fastest'"),
        (["colour=red"], "'colour' is no kind"),
        (["fcfs", "priority"], "two order policies"),
    ],
)
def test_wrong_policies(values: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_policies(values)


def test_an_ambiguous_policy_asks_for_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "names", lambda kind: ["same"])
    with pytest.raises(ConfigError, match="write order=same or admission=same"):
        parse_policies(["same"])


@pytest.mark.parametrize(
    "args",
    [
        ["--cache", "lots"],
        ["--weights", "int4"],
        ["--policy", "fastest"],
        ["--max-sequences", "0"],
        ["--tpot-target", "-1"],
        ["--port", "70000"],
        ["--host", "0.0.0.0"],
        ["--api-key-file", "missing-keys.txt"],
        ["--drain-seconds", "-1"],
    ],
)
def test_a_wrong_option_of_serve_is_one_line(invoke: Invoke, args: list[str]) -> None:
    result = invoke("serve", *args)
    assert result.exit_code == 2
    assert result.stderr.startswith("headrace: ")
    assert result.stderr.count("\n") == 1


def test_an_option_of_the_wrong_type_is_a_usage_error() -> None:
    from headrace.cli.main import app

    result = CliRunner().invoke(app, ["serve", "--max-sequences", "many"])
    assert result.exit_code == 2
    assert "--max-sequences" in result.stderr
