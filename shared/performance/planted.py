"""Worlds whose truth is known, to try the verdict on: daily returns of a policy and its baseline, skill planted or not.

Both are fat-tailed (Student t, 5 degrees of freedom) with volatility that clusters (GARCH(1, 1), 0.08 + 0.90), the same
for both at the same time; the active return is a little autocorrelated; each seed has its own noise and a little skill
or harm of its own. Figures are what hourly crypto books at a 20 % volatility target look like.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from shared.performance.returns import DAYS_A_YEAR
from shared.rows import FloatArray, IntArray

FREEDOM = 5
SHOCK, MEMORY = 0.08, 0.90
BURN_IN = 200  # days


@dataclass(frozen=True, slots=True)
class World:
    """What is planted; annual figures. ``information_ratio``: of each seed's active return, 0 in a null world.

    ``same_volatility``: the policy is as volatile as the baseline, as of two books steered to one target, so that an
    information ratio of 0 is a Sharpe difference of exactly 0: the hardest null. Else active noise comes on top,
    raises the volatility, and lowers the policy's Sharpe ratio even in the null.
    """

    information_ratio: float = 0.0
    same_volatility: bool = True
    volatility: float = 0.20
    baseline_sharpe: float = 0.8
    tracking_error: float = 0.10
    autocorrelation: float = 0.05
    seeds: int = 3
    seed_noise: float = 0.03  # part of the tracking error that each seed has to itself
    seed_skill: float = 0.01  # deviation of the mean active returns among seeds and folds: each is trained anew
    folds: int = 4


def planted_worlds(
    world: World, worlds: int, days: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Daily returns of the policy [worlds, seeds, days] of the baseline [worlds, days], and each day's fold."""
    folds = np.arange(days) * world.folds // days
    level, own = _shocks(world.autocorrelation, worlds, days, rng)
    shared = math.sqrt(world.tracking_error**2 - world.seed_noise**2)
    # Var(b + a) = Var(b) where corr(b, a) = -TE² / (2·TE_shared·σ): the active part leans against the baseline.
    lean = -(world.tracking_error**2) / (2.0 * shared * world.volatility) if world.same_volatility else 0.0
    day = 1.0 / math.sqrt(DAYS_A_YEAR)
    baseline = world.volatility * day * level + world.baseline_sharpe * world.volatility / DAYS_A_YEAR
    active = shared * day * (lean * level + math.sqrt(1.0 - lean**2) * own)
    luck = world.seed_skill * rng.standard_normal((worlds, world.seeds, world.folds))
    skill = world.information_ratio * world.tracking_error + luck[:, :, folds]
    noise = world.seed_noise * day * rng.standard_normal((worlds, world.seeds, days))
    return (baseline + active)[:, None, :] + skill / DAYS_A_YEAR + noise, baseline, folds


def _shocks(autocorrelation: float, worlds: int, days: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Two rows of shocks [worlds, days] of unit variance under one GARCH(1, 1); the second is autocorrelated."""
    raw = rng.standard_t(FREEDOM, (2, BURN_IN + days, worlds)) / math.sqrt(FREEDOM / (FREEDOM - 2))
    variance, last = np.ones(worlds), np.zeros(worlds)
    first, second = np.empty((BURN_IN + days, worlds)), np.empty((BURN_IN + days, worlds))
    for day in range(BURN_IN + days):
        first[day] = np.sqrt(variance) * raw[0, day]
        last = autocorrelation * last + math.sqrt(1.0 - autocorrelation**2) * np.sqrt(variance) * raw[1, day]
        second[day] = last
        variance = (1.0 - SHOCK - MEMORY) + SHOCK * first[day] ** 2 + MEMORY * variance
    return first[BURN_IN:].T.copy(), second[BURN_IN:].T.copy()
