"""SamplingParams: how a request's next tokens are chosen."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.nouns.errors import InvalidRequest

MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024  # of all stop strings: every sequence keeps a state for each
MAX_STOP_TOKENS = 256  # looked through for every token of the output
MIN_REPETITION_PENALTY = 0.01  # logits divided by less may overflow


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampling parameters of one request, in the meaning of the OpenAI API where it has one.

    Raises InvalidRequest, naming the field, when a value is out of range.

    ``temperature`` 0 is greedy. ``top_k`` 0 and ``top_p`` 1 and ``min_p`` 0 switch the truncation
    off. ``logprobs`` None reports none, 0 only the chosen token's, k the k most likely besides.
    ``seed`` None lets the engine draw one on arrival. ``max_tokens`` None means: up to the
    context's end. ``stop`` are strings, ``stop_token_ids`` tokens; neither is part of the output.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        self._between("temperature", self.temperature, 0.0, 100.0)
        self._between("top_k", self.top_k, 0, 2**31)
        self._between("min_p", self.min_p, 0.0, 1.0)
        self._between("presence_penalty", self.presence_penalty, -2.0, 2.0)
        self._between("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        self._between("min_tokens", self.min_tokens, 0, 2**31)
        if self.seed is not None:
            self._between("seed", self.seed, -(2**63), 2**64 - 1)
        if not 0.0 < self.top_p <= 1.0:
            raise InvalidRequest(f"top_p is {self.top_p}; it must be in (0, 1]", "top_p")
        self._between("repetition_penalty", self.repetition_penalty, MIN_REPETITION_PENALTY, 100.0)
        if self.logprobs is not None:
            self._between("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        if self.max_tokens is not None:
            self._between("max_tokens", self.max_tokens, 1, 2**31)
            if self.min_tokens > self.max_tokens:
                raise InvalidRequest(
                    f"min_tokens is {self.min_tokens}, more than max_tokens {self.max_tokens};"
                    " lower the one or raise the other",
                    "min_tokens",
                )
        if len(self.stop) > MAX_STOPS:
            raise InvalidRequest(
                f"stop has {len(self.stop)} strings; at most {MAX_STOPS} are allowed", "stop"
            )
        if any(not s for s in self.stop):
            raise InvalidRequest("stop has an empty string; remove it", "stop")
        if (characters := sum(map(len, self.stop))) > MAX_STOP_CHARACTERS:
            raise InvalidRequest(
                f"stop has {characters} characters; at most {MAX_STOP_CHARACTERS} are allowed",
                "stop",
            )
        if len(self.stop_token_ids) > MAX_STOP_TOKENS:
            raise InvalidRequest(
                f"stop_token_ids has {len(self.stop_token_ids)} tokens; at most"
                f" {MAX_STOP_TOKENS} are allowed",
                "stop_token_ids",
            )
        for token, bias in self.logit_bias:
            if token < 0 or not -100.0 <= bias <= 100.0:
                raise InvalidRequest(
                    f"logit_bias gives token {token} a bias of {bias};"
                    " token ids are not negative and biases lie in [-100, 100]",
                    "logit_bias",
                )

    @property
    def greedy(self) -> bool:
        """True when the most likely token is always taken."""
        return self.temperature == 0.0

    @staticmethod
    def _between(name: str, value: float, low: float, high: float) -> None:
        if not low <= value <= high:  # false for NaN too
            raise InvalidRequest(f"{name} is {value}; it must be in [{low}, {high}]", name)
