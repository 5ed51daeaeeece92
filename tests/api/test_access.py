"""API keys, the address the server listens on, and what browsers may not do."""

from __future__ import annotations

from pathlib import Path

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.api.keys import ApiKeys
from headrace.api.settings import ServerSettings
from headrace.nouns.errors import ConfigError
from tests.api.conftest import client_of
from tests.api.live_server import LiveServer, serving
from tests.api.toy_engine import toy_service


def test_keys_of_a_file_and_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\nalpha\n\nbeta  team-b\n")
    monkeypatch.setenv("HEADRACE_API_KEYS", "gamma, delta")
    keys = ApiKeys.load(path)
    assert [keys.tenant(k) for k in ("alpha", "gamma", "delta")] == ["default"] * 3
    assert keys.tenant("beta") == "team-b"
    assert keys.tenant("alph") is None
    assert keys.tenant("") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a b c", "line 1 .* 3 words"),
        ("# none", "holds no key"),
        ("a\na x", "line 2 .* repeats"),
        ("schlüssel", "line 1 .* ASCII"),
    ],
)
def test_bad_key_files(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ConfigError, match=told):
        ApiKeys.load(tmp_path / "keys", more=())


def test_key_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        ApiKeys.load(tmp_path / "missing", more=())
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        ApiKeys.load(tmp_path / "binary", more=())


@given(st.dictionaries(st.text(min_size=1), st.text()), st.text())
def test_a_key_is_its_own_tenants_or_nobodys(tenants: dict[str, str], key: str) -> None:
    assert ApiKeys(tenants).tenant(key) == tenants.get(key)


def test_open_addresses_need_keys() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(ConfigError, match="--allow-unauthenticated"):
            ServerSettings(host=host)
        ServerSettings(host=host, keys=ApiKeys({"k": "t"}))
        ServerSettings(host=host, allow_unauthenticated=True)
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert ServerSettings(host=host).local


def test_only_holders_of_a_key_get_in() -> None:
    settings = ServerSettings(keys=ApiKeys({"right": "team-a", "other": "team-b"}))
    service = toy_service()
    with serving(service, settings) as server:
        service.wait_ready(20)
        with pytest.raises(openai.AuthenticationError) as refused:
            client_of(server, "wrong").models.list()
        assert refused.value.code == "invalid_api_key"
        for path in ("/v1/models", "/metrics", "/requests/x", "/nothing"):
            bare = httpx.get(f"{server.url}{path}")
            assert (bare.status_code, bare.headers["www-authenticate"]) == (401, "Bearer")
        for path in ("/health", "/ready", "/docs", "/openapi.json"):
            assert httpx.get(f"{server.url}{path}").status_code == 200
        basic = httpx.get(f"{server.url}/v1/models", auth=("right", "right"))
        assert basic.status_code == 401
        assert client_of(server, "right").models.list().data[0].id == "toy"


def test_tenants_do_not_share_the_prefix_cache() -> None:
    settings = ServerSettings(keys=ApiKeys({"a1": "a", "a2": "a", "b": "b"}))
    with serving(toy_service(), settings) as server:
        prompt = "a long prompt that fills some blocks of the cache"

        def cached(key: str) -> int | None:
            answer = client_of(server, key).completions.create(model="toy", prompt=prompt)
            assert answer.usage is not None
            assert answer.usage.prompt_tokens_details is not None
            return answer.usage.prompt_tokens_details.cached_tokens

        assert [cached("a1"), cached("b"), cached("a2")] == [0, 0, 48]


def test_a_body_that_is_too_large() -> None:
    with serving(toy_service(), ServerSettings(max_body_bytes=1000)) as server:
        url = f"{server.url}/v1/completions"
        announced = httpx.post(url, json={"prompt": "x" * 1000})
        in_chunks = httpx.post(url, content=(b"x" * 500 for _ in range(3)))
        for refused in (announced, in_chunks):
            assert refused.status_code == 413
            assert refused.json()["error"]["code"] == "body_too_large"
        assert httpx.post(url, json={"prompt": "x"}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:8000"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
        ({"Host": "[", "Origin": "http://["}, 403),
    ],
)
def test_web_pages_of_others(server: LiveServer, headers: dict[str, str], status: int) -> None:
    assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == status


def test_keys_or_permission_switch_the_browser_checks_off() -> None:
    for settings in (
        ServerSettings(allow_unauthenticated=True),
        ServerSettings(keys=ApiKeys({"k": "t"})),
    ):
        service = toy_service()
        with serving(service, settings) as server:
            service.wait_ready(20)
            headers = {"Host": "models.example", "Authorization": "Bearer k"}
            assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 200
