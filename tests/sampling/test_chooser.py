"""Which chooser is used, and what it is given."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.kernels.extension import Extension, load_extension
from headrace.sampling import native_chooser
from headrace.sampling.chooser import Columns
from headrace.sampling.native_chooser import NativeChooser, find_chooser
from headrace.sampling.recipe import Recipe
from headrace.sampling.torch_chooser import TorchChooser
from tests.sampling.sequences import sequence


class Portable:
    """An extension on a processor that none of its faster builds are for."""

    @staticmethod
    def kernels_name() -> str:
        return "portable"


def test_kernels_are_used_where_they_are_built() -> None:
    extension = load_extension()
    chooser, why = find_chooser()
    if extension.module is None or extension.module.kernels_name() == "portable":
        assert isinstance(chooser, TorchChooser)
        assert "C++" in why
    else:
        assert isinstance(chooser, NativeChooser)
        assert chooser.name == f"C++ kernels {extension.module.kernels_name()}"


@pytest.mark.parametrize(
    ("extension", "reason"),
    [(Extension(None, "not built"), "not built"), (Extension(Portable, "built"), "no build for")],  # type: ignore[arg-type]
)
def test_torch_is_used_elsewhere_and_says_why(
    extension: Extension, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_chooser, "load_extension", lambda: extension)
    chooser, why = find_chooser()
    assert isinstance(chooser, TorchChooser)
    assert reason in why


def test_logits_elsewhere_are_for_torch() -> None:
    chooser, why = find_chooser("meta")
    assert isinstance(chooser, TorchChooser)
    assert why == "the logits are on meta"


def test_columns_of_some_rows() -> None:
    kinds: list[dict[str, object]] = [{"temperature": 0.0}, {"top_p": 0.5}, {"top_k": 3}]
    recipes = [Recipe.of(sequence(seed=i, **kind), 10) for i, kind in enumerate(kinds)]  # type: ignore[arg-type]
    columns = Columns.of(recipes)
    assert columns.temperature.tolist() == [0.0, 1.0, 1.0]
    part = columns.take([1, 2])
    assert np.array_equal(part.streams, columns.streams[1:])
    assert part.top_p.tolist() == [0.5, 2.0]
    assert part.top_k.tolist() == [2**31, 3]
