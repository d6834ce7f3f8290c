"""Minimum variance: the long-only portfolio that swings least, at the volatility that is asked for (Markowitz, 1952).

Its covariances are the forecast volatilities and the correlations of the last 90 daily returns, CORRELATION where two
instruments have too few. A full position of one instrument alone is policy.decision_kernel's; of several, correlations
that are known make the difference. Returns play no part: what falls is held like what rises.
"""

from __future__ import annotations

import numpy as np

from policy.decision_kernel import CORRELATION, Bools
from policy.observation import Market, View
from policy.strategies.residual import Residual
from shared.rows import FloatArray

LEAST_EIGENVALUE = 1e-3  # of a correlation matrix: below it a portfolio would be made of the estimates' errors
ROUNDING = 1e-9  # of the largest gain, which is 1


def wanted_weights(view: View, residual: Residual | None = None) -> FloatArray:
    market, steering = view.market, view.steering
    known = market.volatility > 0.0
    wanted = np.zeros(len(known))
    if known.any():
        unit = least_variance(market.volatility[known], correlation_of(market)[np.ix_(known, known)])
        asked = steering.target_volatility / steering.risk_aversion
        wanted[known] = np.minimum(asked * unit, steering.max_position)
    return wanted


def correlation_of(market: Market) -> FloatArray:
    """[N, N] of daily returns, as policy.risk.correlated_exposure has them: CORRELATION where it is not known."""
    n, history = len(market.volatility), market.history
    between = np.full((n, n), np.nan) if history is None else history.closes.correlations(history.row)
    between = np.where(np.isnan(between), CORRELATION, between)
    np.fill_diagonal(between, 1.0)
    return between


def least_variance(volatility: FloatArray, correlation: FloatArray) -> FloatArray:
    """Weights [N] >= 0 in the proportions of the least variance, with a volatility of 1 together. ``volatility`` [N] is
    above 0. Correlations that no returns could have together, as pairs of different days may, are made smaller alike
    until some could."""
    short = LEAST_EIGENVALUE - float(np.linalg.eigvalsh(correlation)[0])
    if short > 0.0:
        correlation = (correlation + short * np.eye(len(volatility))) / (1.0 + short)
    gain = volatility.min() / volatility
    risk = _most_gain(correlation, gain)
    unit: FloatArray = risk / np.sqrt((gain * risk).sum()) / volatility
    return unit


def _most_gain(correlation: FloatArray, gain: FloatArray) -> FloatArray:
    """The y [N] >= 0 with the most gain'y - y'Ry / 2, exactly: of all portfolios the one of the least variance for its
    sum, in shares of risk. By the active set of Lawson & Hanson (Solving Least Squares Problems, 1974, chapter 23): let
    in what gains most, solve for all that are in, let out what would be sold short, until nothing gains."""
    y, held = np.zeros(len(gain)), np.zeros(len(gain), dtype=np.bool_)
    while True:
        gains = np.where(held, 0.0, gain - correlation @ y)
        enters = int(gains.argmax())
        if gains[enters] <= ROUNDING:
            return y
        held[enters] = True
        trial = _solved(correlation, gain, held)
        if trial[enters] <= 0.0:  # it gained by rounding only
            return y
        while (trial[held] <= 0.0).any():
            short = np.flatnonzero(held & (trial <= 0.0))
            ways = y[short] / (y[short] - trial[short])  # how far towards ``trial`` each stays above 0
            y = y + ways.min() * (trial - y)
            held[short[ways.argmin()]] = False
            held &= y > 0.0
            y[~held] = 0.0
            trial = _solved(correlation, gain, held)
        y = trial


def _solved(correlation: FloatArray, gain: FloatArray, held: Bools) -> FloatArray:
    """The y [N] with the most gain, of any sign, in what is ``held`` alone."""
    y = np.zeros(len(gain))
    y[held] = np.linalg.solve(correlation[np.ix_(held, held)], gain[held])
    return y
