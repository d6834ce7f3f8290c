"""What an entry is to be left at: its stop, its target and its trail, from the price that it was sized at.

Levels are named where a position is opened, from flat; the buys that come after leave them alone, but for averaging's
(policy.averaging), which name them anew from the average price that the position then has. Paper and live hold to what
the newest entry named (policy.execution.brackets and paper_brackets). Common numbers are a stop of 2 %, a target of 5 %
and a trail of 0.5 % (the ensemble bots' defaults, features.md M55).

Temperature is the signal bots' word for |score|, here of the trend when the position is opened: FROZEN < 0.05 <= COOL
< 0.15 <= WARM < 0.30 <= HOT. The colder, the nearer the stop: a stop costs the rebound where the trend goes on, and
saves the rest of the fall where there was none; so the less speaks for a trend, the less of a fall is sat out. What
each temperature leaves of the distance is ours, even steps: no source names any. It may only tighten (contradiction
C19), and only the stop: the trail is near already, and the target is no loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policy.decision_kernel import Bools
from shared.exit_settings import COLDEST, ExitSettings
from shared.rows import FloatArray
from shared.simulation.kernel import ceil_to_step, floor_to_step

COOL, WARM, HOT = 0.05, 0.15, 0.30  # from which |score| on


@dataclass(frozen=True, slots=True)
class ExitRules:
    """The operator's, as fractions of the entry's price; 0 is off. ``trail``: below the highest price since."""

    stop: float = 0.0
    target: float = 0.0
    trail: float = 0.0
    tightens: bool = False

    @property
    def any(self) -> bool:
        return self.stop > 0.0 or self.target > 0.0 or self.trail > 0.0


NO_EXITS = ExitRules()


@dataclass(frozen=True, slots=True)
class Brackets:
    """What the orders of one decision name, [N]: ``stop`` and ``target`` in quote, on the tick, ``trail`` a fraction;
    0 where none is named."""

    stop: FloatArray
    target: FloatArray
    trail: FloatArray

    @property
    def named(self) -> Bools:
        """[N]: whose order names any."""
        found: Bools = (self.stop > 0.0) | (self.target > 0.0) | (self.trail > 0.0)
        return found


def exit_rules(exits: ExitSettings) -> ExitRules:
    return ExitRules(exits.stop_loss, exits.take_profit, exits.trailing_stop, exits.temperature_tightens)


def tightened(score: float) -> float:
    """What is left of the stop's distance at this temperature, in (0, 1]; ``score`` in [-1, 1]."""
    heat = abs(score)
    if heat >= HOT:
        return 1.0
    if heat >= WARM:
        return 0.75
    return 0.5 if heat >= COOL else COLDEST


def name_brackets(entries: Bools, price: FloatArray, trend: FloatArray, tick: FloatArray, rules: ExitRules) -> Brackets:
    """The brackets of ``entries`` [N] at ``price`` [N], the stop rounded down to the tick and the target up. A stop
    that would be rounded to nothing is none."""
    n = len(entries)
    stop, target, trail = np.zeros(n), np.zeros(n), np.where(entries, rules.trail, 0.0)
    for k in np.flatnonzero(entries):
        if rules.stop > 0.0:
            share = rules.stop * (tightened(float(trend[k])) if rules.tightens else 1.0)
            stop[k] = floor_to_step(float(price[k]) * (1.0 - share), float(tick[k]))
        if rules.target > 0.0:
            target[k] = ceil_to_step(float(price[k]) * (1.0 + rules.target), float(tick[k]))
    return Brackets(stop, target, trail)
