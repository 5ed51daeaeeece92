"""describe: what is in a model's files, for people."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from headrace.models.config import ModelConfig
from headrace.models.gguf_file import GgufFile
from headrace.models.hf_weights import tensor_sizes, weight_files
from headrace.models.loader import open_model
from headrace.models.source import ModelSource
from headrace.nouns.errors import ModelError


@dataclass(frozen=True, slots=True)
class TensorSummary:
    """All tensors of one type in the file: how many, and their bytes."""

    type: str
    count: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """``tensor_types`` are sorted by bytes, largest first; ``file_bytes`` is on disk.

    ``eos`` are the names of the tokens that end an answer.
    """

    name: str
    path: Path
    kind: str
    architecture: str
    config: ModelConfig
    parameters: int
    tensor_types: tuple[TensorSummary, ...]
    file_bytes: int
    max_context: int
    context_note: str
    tokenizer: str
    tokens: int
    eos: tuple[str, ...]
    chat_template: bool
    tools: bool


def describe(source: ModelSource) -> ModelDescription:
    """Open the model as for serving and sum up what is there; raises ModelError as open_model."""
    files = open_model(source)
    sizes, paths = _tensors(source)
    counts, nbytes = Counter[str](), Counter[str]()
    for kind, size in sizes:
        counts[kind] += 1
        nbytes[kind] += size
    template = files.chat_template
    try:
        file_bytes = sum(path.stat().st_size for path in paths)
    except OSError as error:
        raise ModelError(f"cannot look at {source.path}: {error.strerror or error}") from error
    return ModelDescription(
        name=files.name,
        path=source.path,
        kind=source.kind,
        architecture=files.config.architecture,
        config=files.config,
        parameters=files.config.num_parameters,
        tensor_types=tuple(
            TensorSummary(kind, counts[kind], size) for kind, size in nbytes.most_common()
        ),
        file_bytes=file_bytes,
        max_context=files.config.max_context,
        context_note=files.config.context_note,
        tokenizer=files.tokenizer.kind,
        tokens=files.tokenizer.vocab_size,
        eos=tuple(
            files.tokenizer.special_text(token) or str(token) for token in sorted(files.eos_ids)
        ),
        chat_template=template is not None,
        tools=template is not None and template.supports_tools,
    )


def _tensors(source: ModelSource) -> tuple[list[tuple[str, int]], list[Path]]:
    """Type and bytes of every tensor, and the files they are in."""
    if source.kind == "gguf":
        file = GgufFile.open(source.path)
        return [(i.type.name, i.nbytes) for i in file.tensors.values()], [source.path]
    return tensor_sizes(source.path), weight_files(source.path)
