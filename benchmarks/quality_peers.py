"""Other engines' answers to a task of ``benchmarks.quality``, added to its file.

``PEER/bin/python -m benchmarks.quality_peers KIND MODEL --file F.json --name NAME`` in the root of
the repository, under the interpreter that has the peer; this program imports numpy and the peer
only. KIND is transformers, vllm, openvino, llamacpp (the package llama-cpp-python) or ort (ONNX
Runtime GenAI). Run-time settings are the peers' own defaults on two threads.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.quality_file import QualityFile, Row
from benchmarks.quality_scores import Logits, score, until

CONTEXT = 2048
WEIGHT_FILES = (".safetensors", ".gguf", ".bin", ".onnx.data")
NOT_WEIGHTS = ("tokenizer.bin",)  # OpenVINO's


class Peer(Protocol):
    """Another engine with a model loaded."""

    def score(self, window: Sequence[int]) -> tuple[float, list[int]]:
        """See quality_scores.score."""
        ...

    def greedy(
        self, prompts: Sequence[Sequence[int]], tokens: int, ends: Sequence[int]
    ) -> list[list[int]]:
        """Each prompt's next ``tokens`` most likely tokens, or fewer up to one of ``ends``."""
        ...


class LogitsPeer(ABC):
    """A peer that shows logits: ``begin`` a sequence [tokens, V], ``extend`` it by a token [V]."""

    @abstractmethod
    def begin(self, tokens: Sequence[int]) -> Logits: ...

    @abstractmethod
    def extend(self, token: int) -> Logits: ...

    def score(self, window: Sequence[int]) -> tuple[float, list[int]]:
        return score([self.begin(window)], window)

    def greedy(
        self, prompts: Sequence[Sequence[int]], tokens: int, ends: Sequence[int]
    ) -> list[list[int]]:
        return [self._one(prompt, tokens, ends) for prompt in prompts]

    def _one(self, prompt: Sequence[int], tokens: int, ends: Sequence[int]) -> list[int]:
        output = [int(self.begin(prompt)[-1].argmax())]
        while output[-1] not in ends and len(output) < tokens:
            output.append(int(self.extend(output[-1]).argmax()))
        return output


class TransformersPeer(LogitsPeer):
    """Hugging Face transformers, in the type that the directory's config names."""

    def __init__(self, model: Path, threads: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        self._torch = torch
        self._model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
        self._past: Any = None

    def begin(self, tokens: Sequence[int]) -> Logits:
        self._past = None
        return self._run(tokens)

    def extend(self, token: int) -> Logits:
        return self._run([token])[-1]

    def _run(self, tokens: Sequence[int]) -> Logits:
        with self._torch.inference_mode():
            ids = self._torch.tensor([list(tokens)])
            out = self._model(input_ids=ids, past_key_values=self._past, use_cache=True)
        self._past = out.past_key_values
        logits: Logits = out.logits[0].float().numpy()
        return logits


class OpenVinoPeer(LogitsPeer):
    """The exported model in OpenVINO's runtime; precisions are what its CPU plugin chooses."""

    def __init__(self, model: Path, threads: int) -> None:
        import openvino

        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        compiled = core.compile_model(str(model / "openvino_model.xml"), "CPU", settings)
        for name in ("INFERENCE_PRECISION_HINT", "DYNAMIC_QUANTIZATION_GROUP_SIZE",
                     "KV_CACHE_PRECISION"):  # fmt: skip
            print(f"{name}: {compiled.get_property(name)}", file=sys.stderr)
        self._request = compiled.create_infer_request()
        self._inputs = {name for i in compiled.inputs for name in i.get_names()}
        self._past = 0

    def begin(self, tokens: Sequence[int]) -> Logits:
        self._request.reset_state()
        self._past = 0
        return self._run(tokens)

    def extend(self, token: int) -> Logits:
        return self._run([token])[-1]

    def _run(self, tokens: Sequence[int]) -> Logits:
        end = self._past + len(tokens)
        given = {
            "input_ids": np.array([tokens], dtype=np.int64),
            "attention_mask": np.ones((1, end), dtype=np.int64),
            "position_ids": np.arange(self._past, end, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        self._request.infer({k: v for k, v in given.items() if k in self._inputs})
        self._past = end
        logits: Logits = self._request.get_tensor("logits").data[0].copy()
        return logits


class LlamaCppPeer(LogitsPeer):
    """llama.cpp through llama-cpp-python; LLAMA_CPP_LIB_PATH may name the libraries' folder.

    Batch sizes, flash attention and the cache's float16 are llama-server's defaults.
    """

    def __init__(self, model: Path, threads: int) -> None:
        import llama_cpp

        self._llama = llama_cpp.Llama(
            str(model), n_ctx=CONTEXT, n_batch=CONTEXT, n_ubatch=512, n_threads=threads,
            n_threads_batch=threads, logits_all=True, flash_attn=True, verbose=False,
        )  # fmt: skip

    def begin(self, tokens: Sequence[int]) -> Logits:
        self._llama.reset()
        self._llama.eval(list(tokens))
        return self._scores(len(tokens))

    def extend(self, token: int) -> Logits:
        self._llama.eval([token])
        return self._scores(1)[-1]

    def _scores(self, count: int) -> Logits:
        end = self._llama.n_tokens
        scores: Logits = self._llama.scores[end - count : end]
        return scores


class OrtPeer(LogitsPeer):
    """ONNX Runtime GenAI."""

    def __init__(self, model: Path, threads: int) -> None:
        import onnxruntime_genai

        self._og = onnxruntime_genai
        config = onnxruntime_genai.Config(str(model))
        session = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = onnxruntime_genai.Model(config)
        self._generator: Any = None

    def begin(self, tokens: Sequence[int]) -> Logits:
        params = self._og.GeneratorParams(self._model)
        params.set_search_options(max_length=CONTEXT, do_sample=False, batch_size=1)
        self._generator = self._og.Generator(self._model, params)
        return self._append(tokens)

    def extend(self, token: int) -> Logits:
        return self._append([token])[-1]

    def _append(self, tokens: Sequence[int]) -> Logits:
        self._generator.append_tokens(np.array([tokens], dtype=np.int32))
        logits: Logits = self._generator.get_output("logits")[0]
        return logits


class VllmPeer:
    """vLLM on the CPU, through the log-probabilities of prompts."""

    def __init__(self, model: Path, threads: int) -> None:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{threads - 1}")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        import vllm

        self._vllm = vllm
        self._llm = vllm.LLM(
            str(model), dtype="bfloat16", max_model_len=CONTEXT, max_num_seqs=64, seed=0,
            max_num_batched_tokens=1024,
        )  # fmt: skip

    def score(self, window: Sequence[int]) -> tuple[float, list[int]]:
        params = self._vllm.SamplingParams(
            temperature=0, max_tokens=1, prompt_logprobs=1, detokenize=False
        )
        [result] = self._generate([window], params)
        total, top = 0.0, []
        for token, shown in zip(window[1:], result.prompt_logprobs[1:], strict=True):
            total -= shown[token].logprob
            top.append(next(id for id, one in shown.items() if one.rank == 1))
        return total, top

    def greedy(
        self, prompts: Sequence[Sequence[int]], tokens: int, ends: Sequence[int]
    ) -> list[list[int]]:
        params = self._vllm.SamplingParams(
            temperature=0, max_tokens=tokens, stop_token_ids=list(ends), detokenize=False
        )
        return [list(r.outputs[0].token_ids) for r in self._generate(prompts, params)]

    def _generate(self, prompts: Sequence[Sequence[int]], params: Any) -> Any:
        given = [self._vllm.TokensPrompt(prompt_token_ids=list(p)) for p in prompts]
        return self._llm.generate(given, params, use_tqdm=False)


KINDS: dict[str, Any] = {
    "transformers": TransformersPeer,
    "vllm": VllmPeer,
    "openvino": OpenVinoPeer,
    "llamacpp": LlamaCppPeer,
    "ort": OrtPeer,
}


def answer(peer: Peer, file: QualityFile, name: str, nbytes: int | None, prompts: bool) -> Row:
    """The peer's row."""
    task = file.task
    scores = [peer.score(window) for window in task.windows]
    outputs = None
    if prompts and task.prompts:
        done = peer.greedy(task.prompts, task.prompt_tokens, task.eos)
        outputs = [until(output, task.eos) for output in done]
    return Row(
        name, nbytes, [nll for nll, _ in scores], [top for _, top in scores], outputs, peer=True
    )


def weight_bytes(model: Path) -> int:
    """Bytes of a model's weight files."""
    paths: Iterable[Path] = model.iterdir() if model.is_dir() else [model]
    return sum(
        path.stat().st_size
        for path in paths
        if path.name.endswith(WEIGHT_FILES) and not path.name.endswith(NOT_WEIGHTS)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("model", type=Path, help="directory or GGUF file")
    parser.add_argument("--file", type=Path, required=True, help="what benchmarks.quality made")
    parser.add_argument("--name", required=True, help="name of the row")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-greedy", action="store_true", help="perplexity only")
    options = parser.parse_args()
    file = QualityFile.read(options.file)
    peer = KINDS[options.kind](options.model, options.threads)
    row = answer(peer, file, options.name, weight_bytes(options.model), not options.no_greedy)
    file.add(row)
    counts = sum(len(window) - 1 for window in file.task.windows)
    print(f"{row.name}: mean NLL {sum(row.nll) / counts:.4f}", file=sys.stderr)


if __name__ == "__main__":
    main()
