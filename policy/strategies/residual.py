"""What a policy model adds to the baseline."""

from __future__ import annotations

from dataclasses import dataclass

from shared.rows import FloatArray


@dataclass(frozen=True, slots=True)
class Residual:
    """``action`` [N] in [-1, 1], in shares of a full position once multiplied by ``reach``; ``agreement`` [N] in [0, 1]
    of the models that made it. An action of 0 in full agreement is the baseline."""

    action: FloatArray
    agreement: FloatArray
    reach: float
