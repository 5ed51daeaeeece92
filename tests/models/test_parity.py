"""Logits and greedy tokens against transformers, for every architecture and rope kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from headrace.execution.kv_cache import KVCache
from headrace.execution.local import LocalExecutor
from headrace.kernels.dispatch import choose
from headrace.models.loader import ModelFiles, open_model
from headrace.models.source import resolve
from headrace.models.transformer import Transformer
from headrace.nouns.step import Slice
from tests.execution.tiny import Recorder, logits_of, run, sequence

VOCAB = 120
BASE: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "intermediate_size": 96, "vocab_size": VOCAB, "max_position_embeddings": 512,
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
        "original_max_position_embeddings": 128}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "llama-linear": ("Llama", {"rope_parameters": LINEAR}),
    "llama-yarn": ("Llama", {"rope_parameters": YARN}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral-window": ("Mistral", {"sliding_window": 256}),
    "qwen2": ("Qwen2", {}),
    "qwen2-tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {}),
    "qwen3-yarn": ("Qwen3", {"rope_parameters": YARN, "tie_word_embeddings": True}),
}


def save(folder: Path, kind: str, changes: dict[str, Any]) -> Any:
    """A random model of transformers, in evaluation mode, saved to ``folder``."""
    torch.manual_seed(len(kind))
    config = getattr(transformers, f"{kind}Config")(**(BASE | changes))
    model = getattr(transformers, f"{kind}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # the initial scale makes attention flat and biases zero; spread them
            scale = 0.3 if name.endswith("bias") or "norm" in name else 0.15
            parameter.copy_(("norm" in name) + scale * torch.randn_like(parameter))
    model.save_pretrained(folder)
    _save_tokenizer(folder)
    return model


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[: VOCAB - 3]
    vocabulary = {piece: i for i, piece in enumerate(["<unk>", "<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))


def executor(files: ModelFiles, dtype: str = "float32") -> LocalExecutor:
    operators = choose(dtype, files.config.head_dim).operators
    context = min(files.config.max_context, 512)
    transformer = Transformer(files.config, files.weights, operators, context)
    cache = KVCache(files.config.num_layers, transformer.shape, 200, 16, operators.cache_dtype)
    return LocalExecutor(transformer, cache, Recorder())


@torch.no_grad()
def reference_logits(model: Any, tokens: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model(torch.tensor([tokens])).logits[0]
    return logits


@pytest.mark.parametrize("case", CASES)
def test_logits_agree_whole_chunked_and_on_a_shared_prefix(case: str, tmp_path: Path) -> None:
    model = save(tmp_path, *CASES[case])
    local = executor(open_model(resolve(str(tmp_path))))
    tokens = [int(t) for t in torch.randint(0, VOCAB, (230,))]
    expected = reference_logits(model, tokens)

    def check(at: int) -> None:
        assert (logits_of(local)[0] - expected[at]).abs().max() < 1e-4, at

    whole = sequence(tokens, range(15))
    run(local, Slice(whole, 0, 230, True))
    check(229)
    chunked = sequence(tokens, range(20, 35))
    for start, end in ((0, 3), (3, 4), (4, 70), (70, 197), (197, 230)):
        run(local, Slice(chunked, start, end - start, True))
        check(end - 1)
    shared = sequence(tokens, [*range(12), 40, 41, 42])
    run(local, Slice(shared, 192, 20, True))
    check(211)
    for at in range(212, 216):
        run(local, Slice(shared, at, 1, True))
        check(at)


def test_greedy_tokens_of_the_default_model(default_model: ModelFiles) -> None:
    """Eight prompts of 64 tokens, 24 more tokens each, all in one batch here."""
    local = executor(default_model)
    model = _reference(default_model)
    prompts = [_prompt(default_model, i) for i in range(8)]
    seqs = [sequence(p, range(i * 6, i * 6 + 6)) for i, p in enumerate(prompts)]
    for _ in range(24):
        result = run(local, *(Slice(s, s.computed, len(s.tokens) - s.computed, True) for s in seqs))
        for seq, sampled in zip(seqs, result.sampled, strict=True):
            assert sampled is not None
            seq.tokens.append(sampled.token)
    with torch.no_grad():
        expected = model.generate(
            torch.tensor(prompts), attention_mask=torch.ones(8, 64, dtype=torch.int64),
            max_new_tokens=24, min_new_tokens=24, do_sample=False,
        )  # fmt: skip
    assert [seq.tokens for seq in seqs] == expected.tolist()


TEXTS = (
    "The history of the steam engine begins long before James Watt. In the first century",
    "def quicksort(items):\n    if len(items) <= 1:\n        return items\n    pivot = items[0]\n",
    "Dear colleagues, after the meeting last Tuesday I would like to sum up what we decided",
    "Water boils at a lower temperature on a mountain because the pressure of the air is",
    "Once upon a time a miller lived with his three sons by a small river. When he grew old",
    "The committee found that the bridge had failed for four reasons. First, the steel was",
    "To bake bread you need flour, water, salt and yeast. Mix the flour with the salt, then",
    "In number theory, a prime is a natural number greater than one that has no divisors",
)


def _prompt(files: ModelFiles, i: int) -> list[int]:
    text = " ".join(TEXTS[i:] + TEXTS[:i])
    return files.tokenizer.encode(text)[:64]


def _reference(files: ModelFiles) -> Any:
    """transformers' Llama with the very weights, dequantised to float32."""
    c = files.config
    config = transformers.LlamaConfig(
        hidden_size=c.hidden_size, num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads, num_key_value_heads=c.num_kv_heads,
        head_dim=c.head_dim, intermediate_size=c.intermediate_size, vocab_size=c.vocab_size,
        max_position_embeddings=c.max_context, rms_norm_eps=c.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope.theta},
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    names = {
        "attn_norm": "input_layernorm", "q": "self_attn.q_proj", "k": "self_attn.k_proj",
        "v": "self_attn.v_proj", "o": "self_attn.o_proj", "mlp_norm": "post_attention_layernorm",
        "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
    }  # fmt: skip
    state = {"model.embed_tokens.weight": "embed", "model.norm.weight": "norm"}
    for i in range(c.num_layers):
        state |= {f"model.layers.{i}.{v}.weight": f"layers.{i}.{k}" for k, v in names.items()}
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    model.to_empty(device="cpu")
    weights = {k: files.weights.get(v, torch.float32) for k, v in state.items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()
