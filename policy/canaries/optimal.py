"""The best that can be done in a market whose drift is known: a dynamic programme over drift and weight.

One instrument, long only. The drift is one of K values that follow a Markov chain. A step at weight w earns
w·μ − ½·λ·σ²·w², and changing the weight costs c a unit: a mean-variance investor (Merton, 1969) with proportional
costs, whose best trade is to the edge of a region in which nothing is traded (Davis & Norman, 1990). A weight that is
held moves with the price: dw = w(1 − w)(μ − w·σ²) + w(1 − w)·σ·ε a step; a programme that forgot this would pay for
corrections that nobody makes, or not know of those that everybody must.

Solved by relative value iteration (White, 1963) for the mean a step; the weight moves on its grid as in the Markov
chain approximation of Kushner & Dupuis (2001): to the neighbours, with the mean and the variance of the true step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from shared.rows import FloatArray

WEIGHTS = 41
STATES = 61
TOLERANCE = 1e-5  # between the largest and the smallest change of a value, relative to the largest step's gain
MOST_ITERATIONS = 50_000


@dataclass(frozen=True, slots=True)
class Optimum:
    """At each drift of ``drifts`` [K] a weight below ``lower`` [K] is bought up to it, one above ``upper`` [K] sold
    down to it; between them nothing is traded. ``value``: the utility a step that this is worth on the grid."""

    drifts: FloatArray
    lower: FloatArray
    upper: FloatArray
    value: float

    def weight(self, drift: FloatArray, held: FloatArray) -> FloatArray:
        """What to hold at these drifts when this is held; shapes as given, drifts between those of the grid."""
        lower, upper = (np.interp(drift, self.drifts, edge) for edge in (self.lower, self.upper))
        return np.clip(held, lower, upper)


def drift_grid(deviation: float, states: int = STATES) -> tuple[FloatArray, FloatArray]:
    """Values [K] over ±4 deviations and the edges [K + 1] between them."""
    values = np.linspace(-4.0, 4.0, states) * deviation
    middle = (values[1:] + values[:-1]) / 2.0
    return values, np.r_[-np.inf, middle, np.inf]


def _normal(x: FloatArray) -> FloatArray:
    return np.array([0.5 * (1.0 + math.erf(v / math.sqrt(2.0))) for v in np.ravel(x)]).reshape(np.shape(x))


def autoregressive(persistence: float, deviation: float) -> tuple[FloatArray, FloatArray]:
    """Values [K] and transitions [K, K] of an AR(1) of this stationary deviation (Tauchen, 1986); ``persistence`` 0: a
    drift that is drawn anew at each step."""
    values, edges = drift_grid(deviation)
    shock = deviation * math.sqrt(1.0 - persistence**2)
    cumulative = _normal((edges[None, :] - persistence * values[:, None]) / shock)
    return values, np.diff(cumulative, axis=1)


def redrawn(stay: float, deviation: float) -> tuple[FloatArray, FloatArray]:
    """The same of a drift that stays with this probability a step, and else is drawn anew from a normal law."""
    values, edges = drift_grid(deviation)
    law = np.diff(_normal(edges / deviation))
    return values, stay * np.eye(len(values)) + (1.0 - stay) * law[None, :]


def solve(
    drifts: FloatArray, transitions: FloatArray, aversion: float, volatility: float, cost: float, most: float
) -> Optimum:
    """``drifts`` [K] a step; relative risk aversion λ; ``volatility`` σ a step; ``cost`` a unit of weight; weights lie
    in [0, ``most``], and one that grows beyond is sold down to it. ArithmeticError when it does not converge."""
    grid = np.linspace(0.0, most, WEIGHTS)
    width = float(grid[1])
    gain = drifts[:, None] * grid - 0.5 * aversion * (volatility * grid) ** 2  # [K, W]
    up, down = _drifting(grid, drifts, volatility)
    paid = cost * grid
    value, enough = np.zeros(gain.shape), TOLERANCE * max(float(np.abs(gain).max()), 1e-12)
    for _ in range(MOST_ITERATIONS):
        ahead = gain + _expected(transitions @ value, up, down, cost * width)
        bought = np.maximum.accumulate((ahead - paid)[:, ::-1], axis=1)[:, ::-1] + paid
        better = np.maximum(bought, np.maximum.accumulate(ahead + paid, axis=1) - paid)
        change = better - value
        value = better - better[0, 0]
        if float(change.max() - change.min()) < enough:
            slope = np.diff(ahead, axis=1) / width
            lower, upper = _edges(slope, cost, grid), _edges(slope, -cost, grid)
            return Optimum(drifts, lower, np.maximum(lower, upper), float(change.mean()))
    raise ArithmeticError(
        f"the dynamic programme has not converged in {MOST_ITERATIONS} iterations (cost {cost}, aversion {aversion})"
    )


def _drifting(grid: FloatArray, drifts: FloatArray, volatility: float) -> tuple[FloatArray, FloatArray]:
    """The probabilities [K, W] that a held weight moves one up and one down the grid."""
    width = float(grid[1])
    both = 0.5 * (grid * (1.0 - grid) * volatility / width) ** 2
    mean = grid * (1.0 - grid) * (drifts[:, None] - grid * volatility**2) / width
    room = 1.0 - 2.0 * both
    assert (room > 0.0).all(), "the grid of weights is too fine for a step's volatility"
    mean = np.clip(mean, -room, room)  # only at extreme drifts
    return both + np.maximum(mean, 0.0), both + np.maximum(-mean, 0.0)


def _expected(ahead: FloatArray, up: FloatArray, down: FloatArray, forced: float) -> FloatArray:
    """Of ``ahead`` [K, W], the values at the next step's weights; beyond the last one all is sold (``forced``)."""
    above = np.concatenate([ahead[:, 1:], ahead[:, -1:] - forced], axis=1)
    below = np.concatenate([ahead[:, :1], ahead[:, :-1]], axis=1)
    return ahead + up * (above - ahead) + down * (below - ahead)


def _edges(slope: FloatArray, level: float, grid: FloatArray) -> FloatArray:
    """[K]: the weight, between those of the grid, at which the slope [K, W - 1] of a concave value is ``level``."""
    middle = (grid[1:] + grid[:-1]) / 2.0
    falling = np.minimum.accumulate(slope, axis=1)
    edges = np.array([np.interp(-level, -row, middle) for row in falling])
    edges[falling[:, 0] <= level] = grid[0]
    edges[falling[:, -1] > level] = grid[-1]
    return edges


def utility(weights: FloatArray, traded: FloatArray, drifts: FloatArray, aversion: float, volatility: float,
            cost: float) -> float:  # fmt: skip
    """Mean a step of what weights [...] are worth at the drifts [...] they were held at, less ``cost`` of what was
    ``traded`` [...], as a share of equity: no luck is in it."""
    return float((weights * drifts - 0.5 * aversion * (volatility * weights) ** 2 - cost * traded).mean())
