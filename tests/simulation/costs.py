"""A step cost for tests: affine in the load, with figures that no sum makes round."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.nouns.step_cost import StepLoad


@dataclass(frozen=True, slots=True)
class AffineCost:
    step: float = 7.3e-3
    row: float = 31e-6
    pair: float = 17e-9
    sample: float = 3.1e-6

    def seconds(self, load: StepLoad) -> float:
        rows = load.rows + load.padding
        return self.step + rows * self.row + load.pairs * self.pair + load.samples * self.sample
