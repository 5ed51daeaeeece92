"""Settings that every test shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from headrace.models.loader import ModelFiles

# Read by OpenMP when torch is loaded. Threads that spin while they wait make each other slow by an
# order of magnitude where servers, clients and other programs share few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# No deadline: the time an example takes says nothing on a shared machine. In CI the examples are
# the same in every run, so that a failure is the change's own.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci", parent=settings.get_profile("local"), derandomize=True, print_blob=True
)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def default_model() -> ModelFiles:
    """The default model, fetched once into the user's cache."""
    from headrace.models.loader import open_model
    from headrace.models.source import resolve

    return open_model(resolve("smollm2:135m", progress=False))


@pytest.fixture(scope="session", autouse=True)
def _own_tuning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tests neither use nor leave measurements in the user's cache."""
    from headrace.execution import tuning

    folder = tmp_path_factory.mktemp("tuning")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "tuning_folder", lambda: folder)
        yield folder
