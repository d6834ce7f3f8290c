"""What a portfolio risks, in figures; and whether its value at risk was right.

Nothing here limits anything: policy.risk does, and policy.risk.emergency stops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from policy.decision_kernel import CORRELATION
from policy.risk.context import VAR_DAYS, VAR_MIN_DAYS, VAR_ONE_IN, RiskContext, stop_of
from shared.rows import FloatArray

CRITICAL = 0.05  # of a Kupiec test's p: below it the value at risk is refused


@dataclass(frozen=True, slots=True)
class Risk:
    """Of weights [N], in shares of equity. ``heat``: lost if every position falls to its stop; ``correlated``: the
    largest exposure to one group; ``concentration``: sum of squared weights; ``diversification``: the number of equal
    positions that would be as concentrated, 0 where nothing is held; ``value_at_risk`` and ``cvar`` (95 %, daily)
    are NaN where too little is known."""

    exposure: float
    heat: float
    correlated: float
    concentration: float
    diversification: float
    value_at_risk: float
    cvar: float


@dataclass(frozen=True, slots=True)
class Kupiec:
    """A test of value at risk: ``exceptions`` of ``days`` lost more; ``p`` of as many, or as few, if it is right."""

    days: int
    exceptions: int
    p: float

    @property
    def refused(self) -> bool:
        return self.p < CRITICAL


def risk_of(weights: FloatArray, context: RiskContext) -> Risk:
    """Of any weights [N] in the market of ``context``; its correlations count where its rule is on, as there."""
    squares = float(weights @ weights)
    exposure = float(np.abs(weights).sum())
    between = np.where(np.isnan(context.correlation), CORRELATION, context.correlation)
    near = (between >= context.rules.correlated_from) | np.eye(len(weights), dtype=np.bool_)
    tail = value_at_risk(portfolio_returns(weights, context))
    return Risk(
        exposure=exposure,
        heat=float(sum(weight * stop_of(n, context) for n, weight in enumerate(weights.tolist()))),
        correlated=float((near @ weights).max(initial=0.0)),
        concentration=squares,
        diversification=exposure * exposure / squares if squares > 0.0 else 0.0,
        value_at_risk=tail[0],
        cvar=tail[1],
    )


def portfolio_returns(weights: FloatArray, context: RiskContext) -> FloatArray:
    """What these weights would have returned on each of the days that policy.risk.value_at_risk looks back on, where
    every one of them is known."""
    rows = context.day_row - context.day_stride * np.arange(VAR_DAYS)
    held = weights > 0.0
    days = context.daily[rows[rows >= 0]][:, context.column[held]]
    returns: FloatArray = days @ weights[held]
    return returns[np.isfinite(returns)]


def value_at_risk(returns: FloatArray) -> tuple[float, float]:
    """(value at risk, CVaR) of daily returns [days], as losses: one day in VAR_ONE_IN lost more than the first, and on
    average the second. NaN with fewer than VAR_MIN_DAYS; below 0 where even such days gained."""
    if len(returns) < VAR_MIN_DAYS:
        return math.nan, math.nan
    losses, beyond = np.sort(-returns)[::-1], len(returns) // VAR_ONE_IN
    return float(losses[beyond]), float(losses[:beyond].mean())


def kupiec(days: int, exceptions: int, expected: float = 1.0 / VAR_ONE_IN) -> Kupiec:
    """The proportion of failures test: the likelihood ratio of ``exceptions`` in ``days`` against the ``expected``
    share is χ² of one degree of freedom (Kupiec, J. of Derivatives 3(2), 1995). ValueError for impossible counts."""
    if not 0 <= exceptions <= days or days == 0:
        raise ValueError(
            f"{exceptions} exceptions in {days} days: count days with a forecast, and those that lost more"
        )
    found = exceptions / days
    ratio = 2.0 * (_log_likelihood(days, exceptions, found) - _log_likelihood(days, exceptions, expected))
    return Kupiec(days, exceptions, math.erfc(math.sqrt(max(ratio, 0.0) / 2.0)))


def _log_likelihood(days: int, exceptions: int, share: float) -> float:
    """Of so many exceptions where each day is one with probability ``share``; 0 · log 0 is 0."""
    quiet = days - exceptions
    return (exceptions * math.log(share) if exceptions else 0.0) + (quiet * math.log1p(-share) if quiet else 0.0)


def kupiec_of(forecasts: FloatArray, returns: FloatArray) -> Kupiec:
    """Value at risk said before each day [D] against what the day returned [D]; days without a forecast do not count.
    ValueError where none has one."""
    said = np.isfinite(forecasts) & np.isfinite(returns)
    return kupiec(int(said.sum()), int((-returns[said] > forecasts[said]).sum()))
