"""Where the C++ decoder runs a model, torch is never imported: a second and 180 MB saved."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.kernels.extension import load_extension
from tests.models.tiny import write_gguf

pytestmark = pytest.mark.skipif(not load_extension().available, reason="needs the C++ extension")

PROGRAM = """
import sys
from headrace.execution import ceilings
from headrace.kernels.device import find

ceilings._buffer_bytes = lambda machine: 8 << 20
find.gpu_driver = lambda: False
from headrace import LLM, SamplingParams

model, weights = sys.argv[1:]
with LLM(model, weights=weights, cache_bytes=4 << 20, max_context=128, max_sequences=4) as llm:
    drawn = SamplingParams(max_tokens=6, seed=1, presence_penalty=0.5, logprobs=2, top_p=0.9)
    answers = llm.generate([[1, 2, 3], [4, 5]], [drawn, SamplingParams(max_tokens=6)], n=2)
    assert all(output.tokens for answer in answers for output in answer.outputs)
print("imported:", *sorted({"torch", "fastapi", "matplotlib", "transformers"} & set(sys.modules)))
"""


@pytest.mark.parametrize("weights", ["int8", "native", "bf16"])
def test_an_engine_answers_without_torch(tmp_path: Path, weights: str) -> None:
    module = load_extension().module
    assert module is not None
    if weights == "bf16" and not module.kernels_name().startswith("avx512"):
        pytest.skip("bf16 is computed by torch here")
    if weights != "native" and module.kernels_name() == "portable":
        pytest.skip("tokens are drawn by torch here")
    path = tmp_path / "m.gguf"
    write_gguf(path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), weights],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "HEADRACE_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "imported:"
