"""Batching: how a step's token budget is spent."""

from __future__ import annotations

from headrace.nouns.sequence import Sequence, Status, Wait
from headrace.scheduling.policy import PlanningRound
from headrace.scheduling.target_pace import TargetPace, describe


class StallFree(TargetPace):
    """All decodes first, then prefill chunks in what is left of the budget.

    Nobody's decoding stalls for somebody's prompt (Sarathi-Serve, arXiv:2403.02310,
    section 4.1, algorithm 3). Where requests have targets for the time per output token and the
    time of steps can be predicted, prompts get less than the budget if it would take too long
    (``TargetPace``).
    """

    only_decodes = True

    def fill(self, round: PlanningRound) -> str:
        round.decode_all()
        decoding, allowance = round.spent, self.allowance(round)
        self.prefill(round, allowance)
        return describe(round, decoding, allowance)


class PrefillFirst:
    """Whole prompts as soon as they may start; decodes only when no prompt is left.

    Iteration-level scheduling (Orca, OSDI '22, section 3.1) with the prefill priority of
    vLLM's first scheduler. A prompt is split only where the executor's limit forces it.
    """

    only_decodes = True

    def fill(self, round: PlanningRound) -> str:
        for seq in round.prefilling():
            if round.spent < round.limit:
                round.take(seq, min(seq.uncomputed, round.limit - round.spent))
        while round.spent < round.limit:
            new = round.admit()
            if new is None:
                break
            round.take(new, min(new.uncomputed, round.limit - round.spent))
        if round.spent:
            return f"{round.spent} prefill tokens; decodes wait for them"
        round.decode_all()
        return f"{round.spent} decodes; no prompt may start"


class Static:
    """Request-level batches, padded: the baseline of the literature.

    A batch is formed when the one before has ended; its prompts are padded to the longest, and
    rows of ended sequences go on being computed until the last one ends (FasterTransformer as
    described by Orca, OSDI '22, section 2). Padding rows are really computed.
    """

    def __init__(self) -> None:
        self._batch: list[Sequence] = []
        self._longest = 0

    def fill(self, round: PlanningRound) -> str:
        if not any(seq.status is Status.RUNNING for seq in self._batch):
            self._form(round)
        else:
            round.hold(Wait.BATCH, f"a batch of {len(self._batch)} has to end first")
        if self._prefill(round):
            return f"padded prefill of a batch of {len(self._batch)}"
        ended = sum(seq.status is not Status.RUNNING for seq in self._batch)
        for seq in round.running():
            round.take(seq, 1)
        round.pad(ended)
        return f"padded decode: {round.spent} sequences, {ended} ended rows"

    def _form(self, round: PlanningRound) -> None:
        self._batch = []
        while len(self._batch) < round.max_sequences:
            new = round.admit(wait_for_prefix=False)
            if new is None:
                break
            self._batch.append(new)
        self._longest = max((seq.uncomputed for seq in self._batch), default=0)

    def _prefill(self, round: PlanningRound) -> bool:
        """Whole prompts, as many as the executor's limit allows, each padded to the longest."""
        padding = 0
        for seq in round.running():
            room = round.limit - round.spent - padding
            if seq.uncomputed > 1 and room > 0:
                length = min(seq.uncomputed, room)
                if round.take(seq, length):
                    padding += max(0, min(self._longest - length, room - length))
        round.pad(padding)
        return round.spent > 0
