"""open_model: from a ModelSource to everything about the model but its weights in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headrace.models.chat_template import ChatTemplate
from headrace.models.config import ModelConfig
from headrace.models.fields import Fields
from headrace.models.gguf_config import gguf_config
from headrace.models.gguf_file import GgufFile
from headrace.models.gguf_tokenizer import gguf_tokenizer
from headrace.models.gguf_weights import GgufWeights
from headrace.models.hf_config import hf_config
from headrace.models.hf_weights import HfWeights
from headrace.models.json_file import read_json, read_json_if_there
from headrace.models.source import ModelSource
from headrace.models.tokenizer import Tokenizer
from headrace.models.tokenizer_json import tokenizer_from_json
from headrace.models.weights import WeightReader
from headrace.nouns.errors import ModelError


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """An opened model. ``weights`` reads tensors when asked; nothing else touches the files.

    The tokenizer may know fewer tokens than ``config.vocab_size`` (padding), and a damaged or
    carelessly extended one more: token ids are valid below ``config.vocab_size`` only.
    """

    name: str
    config: ModelConfig
    weights: WeightReader
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return self.tokenizer.eos_ids

    @property
    def bos_id(self) -> int | None:
        return self.tokenizer.bos_id


def open_model(source: ModelSource) -> ModelFiles:
    """Read and check everything but the weights' values; imports no torch.

    Raises ModelError when a file is missing, damaged or not supported.
    """
    return _open_gguf(source) if source.kind == "gguf" else _open_hf(source)


def _open_gguf(source: ModelSource) -> ModelFiles:
    file = GgufFile.open(source.path)
    config = gguf_config(file)
    weights = GgufWeights(file, config)
    tokenizer = gguf_tokenizer(file.metadata, str(file.path))
    fields = Fields(file.metadata, str(file.path))
    pieces = fields.texts("tokenizer.ggml.tokens")

    def piece(name: str) -> str:
        token = fields.integer(f"tokenizer.ggml.{name}", -1)
        return pieces[token] if 0 <= token < len(pieces) else ""

    template = None
    if "tokenizer.chat_template" in fields:
        key = "tokenizer.chat_template.tool_use"
        template = ChatTemplate(
            fields.text("tokenizer.chat_template"),
            bos_token=piece("bos_token_id"),
            eos_token=piece("eos_token_id"),
            tool_source=fields.text(key) if key in fields else None,
        )
    return ModelFiles(source.name, config, weights, tokenizer, template)


def _open_hf(source: ModelSource) -> ModelFiles:
    folder = source.path
    values = read_json(folder / "config.json")
    config = hf_config(values, str(folder / "config.json"))
    weights = HfWeights(folder, config)
    generation = read_json_if_there(folder / "generation_config.json")
    names = read_json_if_there(folder / "special_tokens_map.json")
    names |= read_json_if_there(folder / "tokenizer_config.json")
    ends = _token_ids(generation, "eos_token_id") or _token_ids(values, "eos_token_id")
    starts = _token_ids(values, "bos_token_id")
    tokenizer = tokenizer_from_json(
        folder / "tokenizer.json", names, starts[0] if starts else None, ends
    )
    return ModelFiles(source.name, config, weights, tokenizer, _hf_template(source, names))


def _token_ids(values: dict[str, Any], key: str) -> list[int]:
    """A token id or a list of them; anything else counts as none."""
    value = values.get(key)
    entries = value if isinstance(value, list) else [value]
    return [v for v in entries if isinstance(v, int) and not isinstance(v, bool) and v >= 0]


def _hf_template(source: ModelSource, names: dict[str, Any]) -> ChatTemplate | None:
    """From ``chat_template.jinja``, or a string or list of named ones in the configuration."""
    path = source.path / "chat_template.jinja"
    found: Any = names.get("chat_template")
    if path.is_file():
        try:
            found = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"cannot read {path}: {error}") from error
    named: dict[str, str] = {}
    if isinstance(found, str):
        named["default"] = found
    elif isinstance(found, list):
        for entry in found:
            if isinstance(entry, dict):
                named[str(entry.get("name"))] = str(entry.get("template", ""))
    if "default" not in named:
        return None
    return ChatTemplate(
        named["default"],
        bos_token=_name(names.get("bos_token")),
        eos_token=_name(names.get("eos_token")),
        tool_source=named.get("tool_use"),
    )


def _name(value: Any) -> str:
    """A special token's text: a string, or an object with ``content``."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""
