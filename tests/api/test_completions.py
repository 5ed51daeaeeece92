"""/v1/completions as the unmodified openai client sees it. The toy model echoes its prompt."""

from __future__ import annotations

import pytest
from openai import OpenAI


def test_a_text_prompt(client: OpenAI) -> None:
    answer = client.completions.create(model="toy", prompt="hello", max_tokens=50)
    assert answer.object == "text_completion"
    assert answer.model == "toy"
    assert answer.id.startswith("cmpl-")
    assert answer.choices[0].text == "hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 6  # with the start token
    assert answer.usage.completion_tokens == 6  # with the end token
    assert answer.usage.total_tokens == 12


def test_sixteen_tokens_by_default(client: OpenAI) -> None:
    answer = client.completions.create(model="toy", prompt="x" * 40)
    assert answer.choices[0].text == "x" * 16
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        (["ab", "cde"], ["ab", "cde"]),
        ([256 + 1, 97, 98], ["ab"]),
        ([[97], [98, 99]], ["a", "bc"]),
    ],
)
def test_other_forms_of_prompts(client: OpenAI, prompt: list[str], texts: list[str]) -> None:
    answer = client.completions.create(model="toy", prompt=prompt)
    assert [choice.text for choice in answer.choices] == texts


def test_several_prompts_with_several_choices_are_numbered_through(client: OpenAI) -> None:
    whole = client.completions.create(model="toy", prompt=["ab", "c"], n=3, temperature=1)
    assert [choice.index for choice in whole.choices] == list(range(6))
    assert [choice.text for choice in whole.choices] == ["ab"] * 3 + ["c"] * 3
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == 3 + 2
    assert whole.usage.completion_tokens == 3 * 3 + 3 * 2

    texts = [""] * 6
    reasons: list[str | None] = [None] * 6
    for chunk in client.completions.create(model="toy", prompt=["ab", "c"], n=3, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == ["ab"] * 3 + ["c"] * 3
    assert reasons == ["stop"] * 6


def test_a_stream_with_usage(client: OpenAI) -> None:
    chunks = list(
        client.completions.create(
            model="toy", prompt="héé!", stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].text for c in chunks[:-1]) == "héé!"
    assert all("�" not in c.choices[0].text for c in chunks[:-1])
    assert all(c.usage is None for c in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 7
    assert chunks[-1].usage.prompt_tokens_details is not None


def test_no_usage_chunk_unless_asked(client: OpenAI) -> None:
    chunks = list(client.completions.create(model="toy", prompt="ab", stream=True))
    assert all(chunk.choices for chunk in chunks)
    assert "usage" not in chunks[0].model_fields_set


def test_cached_tokens_are_reported(client: OpenAI) -> None:
    prompt = "a prefix that fills several blocks of the cache, twice over " * 2
    first = client.completions.create(model="toy", prompt=prompt, max_tokens=1)
    again = client.completions.create(model="toy", prompt=prompt, max_tokens=1)
    assert first.usage is not None
    assert again.usage is not None
    assert first.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details is not None
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert again.usage.prompt_tokens_details.cached_tokens == 112  # whole blocks of 121 tokens


def test_logprobs(client: OpenAI) -> None:
    answer = client.completions.create(model="toy", prompt="aé", logprobs=2)
    report = answer.choices[0].logprobs
    assert report is not None
    assert report.tokens == ["a", "bytes:\\xc3", "bytes:\\xa9"]
    assert report.token_logprobs == [-0.5] * 3
    assert report.text_offset == [0, 1, 1]
    assert report.top_logprobs is not None
    assert report.top_logprobs[0] == {"A": -1.0, "B": -2.0, "a": -0.5}


def test_logprobs_in_a_stream_have_the_same_offsets(client: OpenAI) -> None:
    chunks = client.completions.create(model="toy", prompt="aéb", logprobs=0, stream=True)
    tokens: list[str] = []
    offsets: list[int] = []
    for chunk in chunks:
        if (report := chunk.choices[0].logprobs) is not None:
            tokens += report.tokens or []
            offsets += report.text_offset or []
            assert report.top_logprobs is None
    assert tokens == ["a", "bytes:\\xc3", "bytes:\\xa9", "b"]
    assert offsets == [0, 1, 1, 2]


@pytest.mark.parametrize("stop", ["lo w", ["lo w", "never"]])
@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(client: OpenAI, stop: str | list[str], stream: bool) -> None:
    if stream:
        chunks = list(
            client.completions.create(model="toy", prompt="hello world", stop=stop, stream=True)
        )
        text, reason = (
            "".join(c.choices[0].text for c in chunks),
            chunks[-1].choices[0].finish_reason,
        )
    else:
        choice = client.completions.create(model="toy", prompt="hello world", stop=stop).choices[0]
        text, reason = choice.text, choice.finish_reason
    assert (text, reason) == ("hel", "stop")


def test_our_extensions(client: OpenAI) -> None:
    def text(**extra: object) -> str:
        answer = client.completions.create(
            model="toy", prompt="abc", max_tokens=7, extra_body=extra
        )
        return answer.choices[0].text

    assert text(ignore_eos=True) == "abcabc"  # the end token in between has no text
    assert text(stop_token_ids=[98]) == "a"
    neutral: dict[str, object] = {
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "min_tokens": 1,
        "priority": 3,
    }
    assert text(**neutral) == "abc"


def test_fields_that_change_nothing(client: OpenAI) -> None:
    answer = client.completions.create(
        model="toy", prompt="ab", best_of=1, n=1, echo=False, suffix=None, user="someone",
        logit_bias={"42": 1.5}, seed=7, temperature=0, top_p=1, presence_penalty=0,
        frequency_penalty=0, stream=False,
    )  # fmt: skip
    assert answer.choices[0].text == "ab"


def test_every_answer_has_its_request_id(client: OpenAI) -> None:
    answer = client.completions.create(model="toy", prompt=["a", "b"])
    assert answer._request_id == answer.id
