"""What a portfolio risks, in figures, each beside its limit; and whether its value at risk was right.

Nothing here limits anything: policy.risk does, and policy.risk.emergency stops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policy.decision_kernel import CORRELATION
from policy.risk.context import VAR_DAYS, VAR_MIN_DAYS, VAR_ONE_IN, RiskContext, stop_of
from policy.risk.history import CORRELATION_MIN_DAYS
from shared.rows import FloatArray, IntArray

CRITICAL = 0.05  # of a Kupiec test's p: below it the value at risk is refused
MONTH_DAYS = 30
ROUNDING = 1e-9  # of a limit: weights that were scaled down to it miss it by so little


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
    returns = returns_by_day(weights, context)[-VAR_DAYS:]
    return returns[np.isfinite(returns)]


def returns_by_day(weights: FloatArray, context: RiskContext) -> FloatArray:
    """What these weights would have returned on each day that there are closes of [D], the oldest first; NaN where a
    return of something held is not known."""
    held = weights > 0.0
    rows = np.arange(context.day_row, -1, -context.day_stride)[::-1]
    returns: FloatArray = context.daily[rows][:, context.column[held]] @ weights[held]
    return returns


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


def kupiec_of(returns: FloatArray, last: int | None = None) -> Kupiec | None:
    """Whether value at risk was right about daily returns [D], the oldest first, or about the ``last`` of them: what it
    said before each day, from no more than the VAR_DAYS days before, against the day. Days that are not known (NaN) are
    left out. None where there were too few days for it to say anything."""
    tested = range(0 if last is None else max(len(returns) - last, 0), len(returns))
    before = (returns[max(0, day - VAR_DAYS) : day] for day in tested)
    said = np.array([value_at_risk(past[np.isfinite(past)])[0] for past in before])
    days = returns[tested.start :]
    known = np.isfinite(said) & np.isfinite(days)
    return kupiec(int(known.sum()), int((-days[known] > said[known]).sum())) if known.any() else None


def held_from_the_start(daily: FloatArray) -> FloatArray:
    """The returns [D] of equal values of everything [D, N], bought before the first day and left to drift: of what has
    a return on every day. NaN where nothing has."""
    whole = np.isfinite(daily).all(axis=0)
    if not whole.any():
        return np.full(len(daily), np.nan)
    worth = np.vstack([np.ones(int(whole.sum())), np.cumprod(1.0 + daily[:, whole], axis=0)]).sum(axis=1)
    returns: FloatArray = worth[1:] / worth[:-1] - 1.0
    return returns


def correlation_with(returns: FloatArray, benchmark: FloatArray) -> tuple[float, int]:
    """Of two rows of daily returns [D], over the days that both know: (correlation, days). NaN with fewer than
    CORRELATION_MIN_DAYS, or where one never moved."""
    both = np.isfinite(returns) & np.isfinite(benchmark)
    days = int(both.sum())
    if days < CORRELATION_MIN_DAYS or not returns[both].std() or not benchmark[both].std():
        return math.nan, days
    return float(np.corrcoef(returns[both], benchmark[both])[0, 1]), days


def consecutive_returns(days: IntArray, values: FloatArray, until: int, count: int) -> FloatArray:
    """Returns [count] of the days that end at ``until``, the newest last, from values at UTC midnights ``days`` (days
    since the epoch); NaN where the value on either side is not known."""
    known = dict(zip(days.tolist(), values.tolist(), strict=True))
    worth = np.array([known.get(day, math.nan) for day in range(until - count, until + 1)])
    returns: FloatArray = worth[1:] / worth[:-1] - 1.0
    return returns


# ── figures beside their limits ──────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Figure:
    """``now`` NaN: not known, and ``unknown`` says why. ``limit`` None: there is none; infinite: its rule is off.
    ``reached``: at its limit already it fails, as what stops entries does; others fail beyond it."""

    name: str
    now: float
    limit: float | None = None
    note: str = ""
    unknown: str = ""
    reached: bool = False
    share: bool = True  # of equity; else a number

    @property
    def verdict(self) -> str:
        """pass or FAIL; off, not known, or '' where nothing is asked of it."""
        if math.isnan(self.now):
            return "not known"
        if self.limit is None:
            return ""
        if math.isinf(self.limit):
            return "off"
        beyond = self.now >= self.limit if self.reached else self.now > self.limit * (1.0 + ROUNDING)
        return "FAIL" if beyond else "pass"


def figures(context: RiskContext, symbols: Sequence[str]) -> list[Figure]:
    """What is held, in figures, beside the limits that ``context`` decides under; ``symbols`` [N]. Its correlations are
    to be those of the market, whether or not a rule asks for them."""
    rules, weights = context.rules, context.held_weights
    risk = risk_of(weights, context)
    largest, few = int(weights.argmax()), f"fewer than {VAR_MIN_DAYS} daily returns of all that is held"
    names = f"{symbols[largest]}" if weights[largest] > 0.0 else "nothing is held"
    own = [
        Figure(f"position of {symbols[n]}", float(weights[n]), cap, "its own bound")
        for n, cap in enumerate(context.symbol_caps.tolist())
        if cap < 1.0
    ]
    return [
        Figure("exposure", risk.exposure, context.max_exposure),
        Figure("leverage", risk.exposure, rules.max_leverage, share=False),
        Figure("largest position", float(weights[largest]), context.max_position, names),
        *own,
        Figure("heat", risk.heat, rules.max_heat, "lost if each falls to its stop"),
        Figure(
            "correlated exposure", risk.correlated, _limit(rules.max_correlated_exposure),
            f"of those that correlate by {rules.correlated_from:.3g} or more",
        ),
        Figure("concentration", risk.concentration, _limit(rules.max_concentration), "sum of w²", share=False),
        Figure("diversification", risk.diversification, None, "equal positions as concentrated", share=False),
        Figure("value at risk, a day", risk.value_at_risk, _limit(rules.max_value_at_risk), "1 in 20 costs more", few),
        Figure("value at risk, a month", risk.value_at_risk * math.sqrt(MONTH_DAYS), None, "a day's × √30", few),
        Figure("CVaR, a day", risk.cvar, _limit(rules.max_cvar), "what such days cost on average", few),
        Figure("loss of the day", max(0.0, -context.day_return), context.daily_loss_limit, reached=True),
        Figure("drawdown", context.drawdown, context.max_drawdown, "from the peak", reached=True),
    ]  # fmt: skip


def _limit(share: float) -> float:
    """Of what cannot exceed equity: a limit of all of it is none."""
    return share if share < 1.0 else math.inf
