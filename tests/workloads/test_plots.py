"""Plots: valid files of both kinds that refer to nothing outside themselves."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from headrace.nouns.errors import ConfigError
from headrace.workloads.plots import check_plot_path, figure, write_plot
from headrace.workloads.slo import Slo
from tests.workloads.timelines import report

FAILED_ONLY = report()
for _run in FAILED_ONLY["points"][0]["runs"]:
    _run["requests"] = [r for r in _run["requests"] if r["error"]]


def check_image(data: bytes) -> None:
    """Fails unless ``data`` is a PNG on which something is drawn."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    pixels = imread(io.BytesIO(data))
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 800
    assert len({tuple(row) for row in pixels.reshape(-1, pixels.shape[2])[::97].tolist()}) > 3


@pytest.mark.parametrize(
    "found", [report(), report((1.0, 2.0, 4.0), runs=2), report((1.0, 2.0), slo=Slo()), FAILED_ONLY]
)
def test_an_image(found: dict[str, Any], tmp_path: Path) -> None:
    write_plot(found, tmp_path / "plot.PNG")
    check_image((tmp_path / "plot.PNG").read_bytes())


def test_panels_by_kind_of_report() -> None:
    assert len(figure(report()).axes) == 2
    sweep = figure(report((1.0, 2.0)))
    assert [axes.get_title() for axes in sweep.axes][2:] == [
        "rate against goodput", "rate against latency",
    ]  # fmt: skip
    goodput = sweep.axes[2].get_lines()
    assert {line.get_label() for line in goodput} == {"offered", "answered", "goodput"}


class References(HTMLParser):
    """Collects whatever a page would load or link to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [v or "" for name, v in attrs if name in ("src", "href", "data", "srcset")]
        assert tag not in ("script", "link", "iframe", "object")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_page_holds_all_it_needs(tmp_path: Path) -> None:
    write_plot(report((1.0, 2.0)), tmp_path / "plot.html")
    page = (tmp_path / "plot.html").read_text(encoding="utf-8")
    parser = References()
    parser.feed(page)
    (image,) = parser.found
    head, _, data = image.partition(",")
    assert head == "data:image/png;base64"
    check_image(base64.b64decode(data, validate=True))
    assert re.search(r"https?://|@import|url\(", page) is None
    text = "".join(parser.text)
    assert "a <b> & c" in text  # escaped in the page, itself again when read
    assert '"attained": 0.4' in text


def test_wrong_paths(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.png or \.html"):
        check_plot_path(tmp_path / "plot.pdf")
    with pytest.raises(ConfigError, match="directory does not exist"):
        check_plot_path(tmp_path / "none" / "plot.png")
    (tmp_path / "is_a_directory.png").mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_plot(report(), tmp_path / "is_a_directory.png")
