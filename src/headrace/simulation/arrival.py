"""Arrival: a request as a simulation knows it, with the length that its output will have."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from headrace.nouns.request import Request, Targets
from headrace.nouns.sampling_params import SamplingParams

END = -1
"""The end token of simulated outputs. Tokens of private content are smaller, of groups larger."""
EOS_IDS = frozenset([END])
PARAMS = SamplingParams(temperature=0.0)
NO_TARGETS = Targets()


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that arrives at ``at`` seconds and will have ``output_tokens`` tokens of output.

    ``max_tokens`` is what its client asked for, None for just ``output_tokens``: the output then
    ends by its length. A larger one is not used up: the last of ``output_tokens`` is an end token.
    The deadline in ``targets`` is in seconds after the arrival. ``prefix`` are (group, tokens)
    pairs: the prompt begins with so many tokens of each group's content, in that order; what
    follows is nobody else's. ``id`` has to be unique where it is given.
    """

    at: float
    prompt_tokens: int
    output_tokens: int
    max_tokens: int | None = None
    tenant: str = "default"
    priority: int = 0
    targets: Targets = NO_TARGETS
    category: str = ""
    id: str = ""
    n: int = 1
    prefix: tuple[tuple[str, int], ...] = ()

    @property
    def asked(self) -> int:
        """Most output tokens that it may have, as its server knows it."""
        return self.output_tokens if self.max_tokens is None else self.max_tokens

    @property
    def shared(self) -> int:
        """Tokens at the prompt's beginning that others may have, too."""
        return min(self.prompt_tokens, sum(tokens for _, tokens in self.prefix))

    def request(self, serial: int, unknown: bool = False) -> Request:
        """As an engine gets it; ``serial`` makes private content and missing ids unique.

        With ``unknown`` it is not told what content is private, as none is live.
        """
        targets = self.targets
        if targets.deadline is not None:
            targets = Targets(targets.ttft, targets.tpot, self.at + targets.deadline)
        asked = self.asked
        return Request(
            id=self.id or f"#{serial}",
            prompt=self._prompt(serial),
            max_tokens=asked,
            params=PARAMS,
            n=self.n,
            arrival=self.at,
            eos_ids=EOS_IDS,
            tenant=self.tenant,
            priority=self.priority,
            targets=targets,
            category=self.category,
            common=None if unknown or self.n > 1 else self.shared,
        )

    def _prompt(self, serial: int) -> tuple[int, ...]:
        prompt: tuple[int, ...] = ()
        for group, tokens in self.prefix:
            prompt += (content_of(group),) * tokens
        private = self.prompt_tokens - len(prompt)
        if private <= 0:
            return prompt[: self.prompt_tokens]
        return prompt + (-2 - 2 * serial,) * private


@lru_cache(maxsize=4096)
def content_of(group: str) -> int:
    """The token that a group's content consists of; the same wherever the group's name is."""
    digest = blake2b(group.encode(errors="surrogatepass"), digest_size=7).digest()
    return 1 + int.from_bytes(digest)
