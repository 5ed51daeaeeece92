"""The TOML file of tenants: what it gives, what it refuses, and that it never shows a key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.api.keys import ApiKeys, read
from headrace.api.tenant_file import ENTRIES, TenantFile
from headrace.cli.api_key import first_key
from headrace.nouns.errors import ConfigError
from headrace.nouns.request import Targets
from headrace.nouns.tenant import Terms

PAGE = Path(__file__).parents[2] / "docs" / "tenants.md"
SECRET = "s3cr3t-key"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tenants.toml"


def test_the_example_of_the_documentation(path: Path) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    path.write_text(example)
    found = TenantFile.read(path)
    assert found.keys == {
        "web-6f1c2e9a": "website",
        "rep-b7d03a51": "reports",
        "rep-0c4415fe": "reports",
    }
    tenants = found.tenants
    assert tenants.others == Terms(max_waiting=200, targets=Targets(ttft=5.0))
    assert tenants.terms("website") == Terms(
        weight=4, max_waiting=200, priority=-1, targets=Targets(ttft=1.0, tpot=0.1)
    )
    assert tenants.terms("reports") == Terms(
        max_running=8, max_waiting=1000, max_tokens=2000, targets=Targets(ttft=5.0, deadline=600.0)
    )
    assert tenants.terms("somebody") is tenants.others


def test_every_entry_is_documented() -> None:
    page = PAGE.read_text()
    assert [name for name in ("keys", *ENTRIES) if f"`{name}`" not in page] == []


def test_its_keys_let_in_and_a_client_shows_the_first(path: Path) -> None:
    path.write_text(f'[tenants.a]\nkeys = ["{SECRET}", "two"]\n[tenants.b]\nkeys = ["three"]')
    keys = ApiKeys.load(path, more=["of-the-environment"])
    found = [keys.tenant(key) for key in (SECRET, "two", "three", "of-the-environment", "four")]
    assert found == ["a", "a", "b", "default", None]
    assert first_key(path) == SECRET


def test_plain_files_have_keys_and_no_terms(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("alpha\nbeta team\n")
    found = read(tmp_path / "keys")
    assert found.keys == {"alpha": "default", "beta": "team"}
    assert found.tenants.terms("team") == Terms()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[tenants.a\n", "not valid TOML.*line 1"),
        ("[tenant.a]", "the file has no 'tenant'; the tables are defaults, tenants"),
        ("[tenants.a]\nwieght = 2", r"\[tenants.a\] has no 'wieght'; the entries are keys, weight"),
        ('[defaults]\nkeys = ["s3cr3t-key"]', r"\[defaults\] has no 'keys'; the entries are"),
        ("tenants = 1", r"\[tenants\] has to be a table"),
        ("[tenants]\na = 1", r"\[tenants.a\] has to be a table"),
        ("defaults = []", r"\[defaults\] has to be a table"),
        ("[tenants.other]", "name has 1 to 64 letters"),
        ("[tenants.'a b']", "name has 1 to 64 letters"),
        ("[tenants.a]\nweight = 0", r"\[tenants.a\]: weight is 0; it must be a number from 1e-06"),
        ("[tenants.a]\nweight = 1e17", r"weight is 1e\+17; it must be a number.* to 1e\+06"),
        ("[tenants.a]\nweight = 1e-320", "weight is 1e-320"),
        ("[tenants.a]\nweight = 1" + "0" * 400, r"\[tenants.a\]: weight is too large"),
        ("[tenants.a]\nttft = 1" + "0" * 400, r"\[tenants.a\]: ttft is too large"),
        ("[tenants.a]\npriority = 0x" + "F" * 5000, r"\[tenants.a\]: priority is too large"),
        ("[tenants.a]\nttft = " + "1" * 5000, "not valid TOML"),
        ("a = " + "[" * 5000 + "]" * 5000, "not valid TOML"),
        ("[tenants.a]\nweight = nan", "weight is nan"),
        ("[tenants.a]\nweight = '2'", r"weight is '2'; it must be a number"),
        ("[tenants.a]\nmax_running = 0", r"\[tenants.a\]: max_running is 0; .* at least 1"),
        ("[tenants.a]\nmax_waiting = 1.5", "max_waiting is 1.5; it must be a whole number"),
        ("[tenants.a]\npriority = true", "priority is True; it must be a whole number"),
        ("[defaults]\nttft = -1", r"\[defaults\]: the target ttft is -1.0"),
        ("[defaults]\ndeadline = 0", r"\[defaults\]: deadline is 0.0; .* above 0"),
        ("[defaults]\ndeadline = inf", r"\[defaults\]: the deadline is inf"),
        ('[tenants.a]\nkeys = "s3cr3t-key"', r"\[tenants.a\]: keys has to be a list"),
        ("[tenants.a]\nkeys = [1]", "keys has to be a list of texts"),
        ('[tenants.a]\nkeys = [""]', "keys has to be a list of texts"),
        ('[tenants.a]\nkeys = ["s3cr3t-key x"]', "without blanks"),
        ('[tenants.a]\nkeys = ["s3cr3t-key\\u00e9"]', "ASCII"),
        ('[tenants.a]\nkeys = ["s3cr3t-key\\n"]', "blank"),
        ('[tenants.a]\nkeys = ["s3cr3t-key"]\n[tenants.b]\nkeys = ["s3cr3t-key"]',
         r"\[tenants.b\] has a key that \[tenants.a\] has"),
        ('[tenants.a]\nkeys = ["s3cr3t-key", "s3cr3t-key"]', r"has a key that \[tenants.a\] has"),
        ("[defaults]\nweight = 2", "holds no key"),
        ("", "holds no key"),
    ],
)  # fmt: skip
def test_what_is_refused(path: Path, text: str, told: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert SECRET not in str(caught.value)


def test_files_that_cannot_be_read(path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(path)


VALUES: Any = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)


@given(st.dictionaries(st.sampled_from([*ENTRIES, "keys", "x"]), VALUES | st.lists(VALUES)))
def test_any_table_is_terms_or_an_error(table: dict[str, Any]) -> None:
    told = ""
    try:
        terms = TenantFile._of({"tenants": {"a": table}}).tenants.terms("a")
        assert 0 < terms.weight < float("inf")
    except ConfigError as error:
        told = str(error)
    assert not told or "[tenants.a]" in told


def test_keys_are_not_shown(path: Path) -> None:
    path.write_text(f'[tenants.a]\nkeys = ["{SECRET}"]')
    assert SECRET not in repr(TenantFile.read(path))
