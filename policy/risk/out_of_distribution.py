"""An instrument whose window is unlike all that its encoder was trained on: its position shrinks, down to none.

The policy never met such a window, or something is wrong with the candles. Measured on clean hourly candles, 2018-2024,
of the months after training, this takes on average 0.2 % of the exposure or less where the encoder was trained on half
a year or more, or on ten coins; 0.5 to 1.3 % after 60 to 91 days of BTC and ETH. Single starts are worse: 8 to 14 % of
those short spans lose more than 2 %, the worst 35 % of two months. Prices ten times too high, a
volume a thousand times, a day without any or frozen are above FROM in 99 % of windows or more (two coins, 60 days or
more); six hours without volume in 82 to 100 %; a single bar of ten deviations seldom, for markets do that.
"""

from __future__ import annotations

from policy.risk.context import Notes, RiskContext
from shared.simulation.kernel import Floats

FROM = 0.999  # of the calibration windows are less unusual: up to here nothing is cut
TO = 0.9999  # from here on nothing is held


def apply(weights: Floats, context: RiskContext) -> None:
    for n in range(len(weights)):
        if context.ood[n] > FROM:  # not for NaN: fresh_data has its say about what is not known
            weights[n] *= max((TO - context.ood[n]) / (TO - FROM), 0.0)


def because(n: int, context: RiskContext, notes: Notes) -> str:
    return (
        f"unlike what the encoder knows (ood {context.ood[n]:.6g}): "
        f"from {FROM} on a position shrinks, at {TO} to nothing"
    )
