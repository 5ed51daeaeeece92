from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from headrace.sampling.history import TokenHistory
from headrace.sampling.penalties import Edit, apply
from tests.sampling.sequences import random_logits

VOCAB = 50
TOKENS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=200)


def edit_of(prompt: list[int], output: list[int], r: float, p: float, f: float) -> Edit:
    history = TokenHistory(VOCAB, len(prompt))
    history.update(prompt + output)
    return Edit(history.ids, history.outputs, r, p, f)


@given(st.lists(TOKENS, min_size=1, max_size=5), st.floats(0.01, 5.0), st.integers(0, 1000))
def test_repetition_parity_with_transformers(
    prompts: list[list[int]], penalty: float, seed: int
) -> None:
    logits = random_logits(len(prompts), VOCAB, seed)
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    expected = [
        processor(torch.tensor([tokens]), logits[r : r + 1].clone())[0]
        for r, tokens in enumerate(prompts)
    ]
    # Prompt and output count alike.
    edits = [edit_of(t[: len(t) // 2], t[len(t) // 2 :], penalty, 0, 0) for t in prompts]
    apply(logits, edits)
    torch.testing.assert_close(logits, torch.stack(expected), rtol=1e-6, atol=0)


@given(TOKENS, TOKENS, st.floats(-2, 2), st.floats(-2, 2), st.integers(0, 1000))
def test_presence_and_frequency_count_the_output_only(
    prompt: list[int], output: list[int], presence: float, frequency: float, seed: int
) -> None:
    logits = random_logits(1, VOCAB, seed)
    expected = logits[0].double()
    for token, count in Counter(output).items():
        expected[token] -= frequency * count + presence
    apply(logits, [edit_of(prompt, output, 1.0, presence, frequency)])
    torch.testing.assert_close(logits[0].double(), expected, rtol=1e-5, atol=1e-4)


@settings(max_examples=40)
@given(TOKENS, st.integers(0, 200), st.data())
def test_a_history_grown_in_steps_is_one_built_afresh(
    tokens: list[int], prompt_len: int, data: st.DataObject
) -> None:
    grown, fresh = TokenHistory(VOCAB, prompt_len), TokenHistory(VOCAB, prompt_len)
    end = 0
    while end < len(tokens):
        end += data.draw(st.integers(1, 50))
        grown.update(tokens[:end])
    grown.update(tokens)
    fresh.update(tokens)
    counts = dict(zip(grown.ids.tolist(), grown.outputs.tolist(), strict=True))
    assert counts == dict(zip(fresh.ids.tolist(), fresh.outputs.tolist(), strict=True))
    assert counts == {t: tokens[prompt_len:].count(t) for t in tokens}


def test_tokens_outside_the_vocabulary_have_no_logit() -> None:
    history = TokenHistory(VOCAB, 1)
    history.update([VOCAB, 3, VOCAB + 7, 3])
    assert history.ids.tolist() == [3]
    assert history.outputs.tolist() == [2.0]


def test_order_of_changes_and_rows_kept_apart() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0, 4.0], [2.0, -2.0, 1.0, 4.0], [2.0, -2.0, 1.0, 4.0]])
    everything = Edit(
        seen=np.array([0, 1]),
        outputs=np.array([3.0, 0.0], np.float32),
        repetition=2.0,
        presence=0.5,
        frequency=0.25,
        bias_ids=np.array([0, 3]),
        biases=np.array([10.0, -1.0], np.float32),
        suppressed=np.array([3]),
    )
    apply(logits, [Edit(), everything, Edit(suppressed=np.array([0]))])
    inf = float("inf")
    assert logits.tolist() == [
        [2.0, -2.0, 1.0, 4.0],
        [2.0 / 2 - 3 * 0.25 - 0.5 + 10, -4.0, 1.0, -inf],
        [-inf, -2.0, 1.0, 4.0],
    ]


@given(TOKENS, TOKENS, st.floats(0.01, 5), st.floats(-2, 2), st.floats(-2, 2), st.integers(0, 99))
def test_arrays_and_tensors_get_the_same_bits(
    prompt: list[int], output: list[int], r: float, p: float, f: float, seed: int
) -> None:
    logits = random_logits(2, VOCAB, seed)
    logits[0, :3] = torch.tensor([float("inf"), float("-inf"), 3e38])
    array = logits.numpy().copy()
    bias = np.array([1.5, -7.0], np.float32)
    history = edit_of(prompt, output, r, p, f)
    edits = [history, replace(history, bias_ids=np.array([2, 9]), biases=bias)]
    apply(logits, edits)
    apply(array, edits)
    assert logits.numpy().tobytes() == array.tobytes()
