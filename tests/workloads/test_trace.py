"""Reading traces: the forms of their columns and times, faults by line, bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from headrace.nouns.errors import ConfigError
from headrace.workloads.job import Shape
from headrace.workloads.trace import Trace, TraceEntry

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:16:51.2224671,879,55
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str) -> Path:
        path = tmp_path / "trace.csv"
        path.write_bytes(text.encode())
        return path

    return to_file


def test_the_azure_format(write: Write) -> None:
    entries = list(Trace(write(AZURE)))
    assert [e.shape for e in entries] == [Shape(374, 44), Shape(396, 109), Shape(879, 55)]
    # Seven digits of a second are kept.
    assert [e.at for e in entries] == [0.0, 4.314579, 64.5418771]


@pytest.mark.parametrize(
    "text",
    [
        "time,prompt tokens,output tokens\n5,10,20\n6.5,30,40\n",
        "time,prompt_tokens,output_tokens\n5,10,20\n6.5,30,40\n",
        "id,Output Tokens,Prompt Tokens,Time\na,20,10,5\nb,40,30,6.5\n",
        "5,10,20\n6.5,30,40",
        "\ufefftime,prompt tokens,output tokens\r\n5,10,20\r\n\r\n 6.5 , 30,40\r\n",
        "2024-05-10T00:00:05Z,10,20\n2024-05-10T00:00:06.5Z,30,40\n",
        "2024-05-10 00:00:05.000+00:00,10,20\n2024-05-10 02:00:06.5+02:00,30,40\n",
    ],
)
def test_other_forms(write: Write, text: str) -> None:
    expected = [TraceEntry(0.0, Shape(10, 20)), TraceEntry(1.5, Shape(30, 40))]
    assert list(Trace(write(text))) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("time,prompt tokens,output tokens\n1,2,3\n1,x,3\n", "line 3: prompt tokens is 'x'"),
        ("time,prompt tokens,output tokens\n1,2,-3\n", "line 2: output tokens is '-3'"),
        ("1,2,3\n1,2,3.5\n", "line 2: output tokens is '3.5'"),
        ("1,2,3\n1,2,99999999999999\n", "line 2: output tokens"),
        ("1,2,3\n1,2\n", "line 2: 2 columns"),
        ("2,2,3\n1,2,3\n", "line 2: time '1' is before"),
        ("soon,prompt tokens,output tokens\n", "line 1: the header .* no column 'time'"),
        ("time,prompt tokens,answer\n", "no column 'output tokens'"),
        ("1,2,3\nnan,2,3\n", "line 2: time 'nan'"),
        ("1,2,3\ninf,2,3\n", "line 2: time 'inf'"),
        ("1,2,3\n2024-13-40 00:00:00,2,3\n", "line 2: time '2024-13-40"),
        ("1,2,3\n\n\nlater,2,3\n", "line 4: time 'later'"),
        ("time,prompt tokens,output tokens\n", "no entries"),
        ("", "no entries"),
    ],
)
def test_faults_name_the_line(write: Write, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        list(Trace(write(text)))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        list(Trace(tmp_path / "none.csv"))
    (tmp_path / "bytes.csv").write_bytes(b"1,2,3\n\xff\xfe\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        list(Trace(tmp_path / "bytes.csv"))


def test_no_more_is_read_than_asked_for(write: Write) -> None:
    lines = "".join(f"{i},1,1\n" for i in range(50_000))
    trace = Trace(write(lines + "broken\n"))
    assert [e.at for e in islice(trace, 3)] == [0.0, 1.0, 2.0]
    assert len(list(Trace(trace.path, limit=50_000))) == 50_000
    with pytest.raises(ConfigError, match="line 50001"):
        list(trace)


def test_a_trace_can_be_read_again_and_knows_its_rate(write: Write) -> None:
    trace = Trace(write("1,1,1\n2,1,1\n5,1,1\n"))
    assert list(trace.times()) == list(trace.times()) == [0.0, 1.0, 4.0]
    assert trace.mean_rate() == (3, 0.5)
    with pytest.raises(ConfigError, match="no rate"):
        Trace(trace.path, limit=1).mean_rate()
