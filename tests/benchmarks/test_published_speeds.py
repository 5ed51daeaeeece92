"""What docs/cost-models.md says of the analytic model's errors."""

from __future__ import annotations

import json
import statistics
import sys

import pytest

from benchmarks import published_speeds as published


def test_errors_are_as_the_documentation_says() -> None:
    steps = [published.check_step(case) for case in published.CASES]
    rates = [published.check_throughput(case) for case in published.THROUGHPUTS]
    for results, median in ((steps, 0.08), (rates, 0.09), (published.check_ours(), 0.11)):
        assert statistics.median(abs(r.error) for r in results) < median


def test_every_figure_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["published_speeds", "--json"])
    published.main()
    found = json.loads(capsys.readouterr().out)
    assert len(found) == len(published.CASES) + len(published.THROUGHPUTS) + 14
    assert all(f["error"] == pytest.approx(f["predicted"] / f["published"] - 1) for f in found)
    monkeypatch.setattr(sys, "argv", ["published_speeds"])
    published.main()
    assert "at the median" in capsys.readouterr().out
