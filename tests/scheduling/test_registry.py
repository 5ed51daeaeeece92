"""Policies by name, other packages' included."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from headrace.nouns.errors import ConfigError
from headrace.nouns.sequence import Sequence
from headrace.scheduling import registry
from headrace.scheduling.batching import StallFree
from headrace.scheduling.registry import create, names

HERE = "tests.scheduling.test_registry"


class Backwards:
    """A third party's order: last come, first served."""

    dynamic = False

    def key(self, seq: Sequence, now: float) -> float:
        return -seq.request.arrival


class Broken:
    def __init__(self) -> None:
        raise RuntimeError("no licence")


class Half:
    """Not quite an order."""

    def key(self, seq: Sequence, now: float) -> float:
        return 0.0


@pytest.fixture(autouse=True)
def third_parties(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("backwards", f"{HERE}:Backwards", "headrace.order"),
        EntryPoint("fcfs", f"{HERE}:Backwards", "headrace.order"),
        EntryPoint("broken", f"{HERE}:Broken", "headrace.order"),
        EntryPoint("half", f"{HERE}:Half", "headrace.order"),
        EntryPoint("gone", "no_such_package:Policy", "headrace.order"),
        EntryPoint("mine", f"{HERE}:Backwards", "headrace.admission"),
    ]
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [p for p in points if p.group == group]
    )


def test_each_call_makes_a_new_object() -> None:
    first, second = create("batching", "stall-free"), create("batching", "stall-free")
    assert isinstance(first, StallFree)
    assert first is not second


def test_every_built_in_policy_is_what_it_has_to_be() -> None:
    for kind in registry.BUILT_IN:
        for name in registry.BUILT_IN[kind]:
            policy = create(kind, name)
            assert all(hasattr(policy, member) for member in registry.MEMBERS[kind])


def test_other_packages_policies_are_found_after_our_own() -> None:
    others = ["backwards", "broken", "gone", "half"]
    assert names("order") == [*registry.BUILT_IN["order"], *others]
    assert names("preemption") == list(registry.BUILT_IN["preemption"])
    assert type(create("order", "backwards")).__name__ == "Backwards"


def test_built_in_names_cannot_be_taken() -> None:
    assert type(create("order", "fcfs")).__name__ == "FirstComeFirstServed"


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"order policy 'fifo' is not known.*'fcfs', 'deadline'"):
        create("order", "fifo")
    with pytest.raises(ConfigError, match="'mine' is not known"):
        create("order", "mine")


@pytest.mark.parametrize(
    ("kind", "name", "why"),
    [
        ("order", "broken", "no licence"),
        ("order", "gone", "no_such_package"),
        ("order", "half", "it has no 'dynamic'"),
        ("admission", "mine", "it has no 'refusal'"),
    ],
)
def test_a_policy_that_cannot_be_used_is_named_with_the_reason(
    kind: str, name: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=f"{kind} policy '{name}' from .*{why}"):
        create(kind, name)
