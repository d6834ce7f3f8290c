"""An instrument whose window is unlike all that its encoder was trained on: its position shrinks, down to none.

The policy never met such a window, or something is wrong with the candles. Measured on hourly candles of 10 coins,
2019-2024: with a year of training or more, at most 1 % of the clean hours of the two years after it are above FROM;
of windows with a price ten times too high, a volume a thousand times, or six hours without any or frozen, all are.
"""

from __future__ import annotations

import numpy as np

from policy.risk.context import RiskContext
from shared.rows import FloatArray

FROM = 0.999  # of the calibration windows are less unusual: up to here nothing is cut
TO = 0.9999  # from here on nothing is held


def apply(proposed: FloatArray, context: RiskContext) -> tuple[FloatArray, str]:
    if context.ood is None:  # fresh_data says so
        return proposed, ""
    factor = np.clip((TO - context.ood) / (TO - FROM), 0.0, 1.0)
    unusual = ", ".join(f"{ood:.6g}" for ood in context.ood[factor < 1.0])
    return proposed * factor, (
        f"unlike what the encoder knows (ood {unusual}): from {FROM} on a position shrinks, at {TO} to nothing"
    )
