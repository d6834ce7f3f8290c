"""Whether choosing the best of several was choosing luck: PBO by CSCV, and Hansen's test of superior ability."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from shared.performance.bootstrap import LEAST_BLOCK, REPLICATES, block_length
from shared.performance.returns import NO_VOLATILITY
from shared.rows import FloatArray

BLOCKS = 16  # 12,870 ways to take half of them
CHUNK = 1_024  # ways computed at once


@dataclass(frozen=True, slots=True)
class Overfitting:
    """``probability``: share of splits where the best in sample ranks at or below the median out of sample.

    ``logits`` [splits]: of that rank, above 0 is good; ``loss``: share of splits where it loses money out of sample.
    """

    probability: float
    loss: float
    logits: FloatArray


@dataclass(frozen=True, slots=True)
class SuperiorAbility:
    """p-values of "no model beats the benchmark": Hansen's consistent one, and its lower and upper bounds."""

    lower: float
    consistent: float
    upper: float


def probability_of_backtest_overfitting(returns: FloatArray, blocks: int = BLOCKS) -> Overfitting:
    """PBO of N candidates' returns [days, N] by combinatorially symmetric cross-validation over all C(S, S/2) halves
    of S = ``blocks`` blocks of days (Bailey, Borwein, López de Prado and Zhu, J. Computational Finance 20(4), 2017).

    Ranked by Sharpe ratio. Days beyond a multiple of ``blocks`` are left out, the oldest ones. ValueError for fewer
    than two candidates, an odd number of blocks or fewer than two days a block.
    """
    if returns.ndim != 2 or returns.shape[1] < 2:
        raise ValueError(f"overfitting needs returns [days, candidates] of two candidates or more, not {returns.shape}")
    if blocks < 2 or blocks % 2 or len(returns) < 2 * blocks:
        raise ValueError(f"{blocks} blocks of {len(returns)} days: take an even number, with two days a block or more")
    days = len(returns) // blocks
    cut = returns[len(returns) - days * blocks :].reshape(blocks, days, -1)
    sums, squares = cut.sum(axis=1), (cut**2).sum(axis=1)
    chosen = np.array(list(combinations(range(blocks), blocks // 2)))
    taken = np.zeros((len(chosen), blocks))
    np.put_along_axis(taken, chosen, 1.0, axis=1)
    parts = [_split(taken[i : i + CHUNK], sums, squares, days * blocks // 2) for i in range(0, len(taken), CHUNK)]
    logits, gains = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    return Overfitting(float(np.mean(logits <= 0.0)), float(np.mean(gains < 0.0)), logits)


def _split(taken: FloatArray, sums: FloatArray, squares: FloatArray, days: int) -> tuple[FloatArray, FloatArray]:
    """For each half [C, S]: the logit of the out-of-sample rank of the best in sample, and its return there."""
    inside = _ratios(taken @ sums, taken @ squares, days)
    outside_sums = (1.0 - taken) @ sums
    outside = _ratios(outside_sums, (1.0 - taken) @ squares, days)
    best = inside.argmax(axis=1)[:, None]
    own = np.take_along_axis(outside, best, axis=1)
    # Ranks 1…N, equals sharing the mean of theirs, so that copies of one candidate rank in the middle.
    rank = 1.0 + (outside < own).sum(axis=1) + 0.5 * ((outside == own).sum(axis=1) - 1)
    omega = rank / (outside.shape[1] + 1.0)
    return np.log(omega / (1.0 - omega)), np.take_along_axis(outside_sums, best, axis=1)[:, 0]


def _ratios(sums: FloatArray, squares: FloatArray, days: int) -> FloatArray:
    """Mean over deviation from sums [C, N] of ``days`` returns and their squares; 0 where nothing moved."""
    mean = sums / days
    deviation = np.sqrt(np.maximum(squares / days - mean**2, 0.0))
    moves = deviation >= NO_VOLATILITY
    return np.asarray(np.where(moves, mean, 0.0) / np.where(moves, deviation, 1.0))


def superior_predictive_ability(
    models: FloatArray, benchmark: FloatArray, *, replicates: int = REPLICATES, seed: int = 0
) -> SuperiorAbility:
    """Whether the best of the models' net returns [days, N] beats the ``benchmark`` [days] beyond the luck of the best
    of N (Hansen, Journal of Business & Economic Statistics 23(4), 2005; ``arch.bootstrap.SPA``, loss = -net return).

    ValueError for shapes that do not match or where a model is the benchmark itself: leave that one out.
    """
    from arch.bootstrap import SPA  # brings pandas: a second and a half

    if models.ndim != 2 or len(models) != len(benchmark):
        raise ValueError(f"models must be [days, N] of the benchmark's days, not {models.shape} and {benchmark.shape}")
    active = models - benchmark[:, None]
    same = np.flatnonzero(active.std(axis=0) < NO_VOLATILITY)
    if len(same):
        raise ValueError(f"model {same[0]} never differs from the benchmark: leave it out of the comparison")
    block = math.ceil(max(LEAST_BLOCK, *(block_length(one) for one in active.T)))
    test = SPA(-benchmark, -models, block_size=block, reps=replicates, seed=seed)
    test.compute()
    return SuperiorAbility(*(float(test.pvalues[name]) for name in ("lower", "consistent", "upper")))
