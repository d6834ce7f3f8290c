"""A fold's test: policies and baselines through the backtest's own machinery, on candles that nobody learnt from.

Paired by design: the comparison runs without the operator's limits, which would cut both alike, and with the static
steering; a second line shows the ensemble under the limits. Costs are a side: fee and half the spread; what an order
moves the price by comes on top. Every line that changes costs or delay runs both the ensemble and the baseline anew.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from pipeline.evaluation.contestants import BASELINE, BASELINES
from policy.decision_path import Act
from policy.laboratory import BookPath, Laboratory, Request
from policy.result import Curve
from policy.simulator import Costs
from shared.clock import to_unix
from shared.performance import (
    DAY_S,
    daily_equity,
    daily_returns,
    profits_over_time,
    round_trips,
    summarise,
)
from shared.rows import FloatArray
from shared.settings import Settings

CAPITAL = 10_000.0
HEADLINE_FEE_BPS, HALF_SPREAD_BPS = 40.0, 5.0  # Kraken's entry tier
COSTS_BPS = (10.0, 25.0, 45.0, 80.0)  # a side, fee and half spread together; 45 is the headline
DELAYS_MIN = (0, 5, 15, 60)
COST_CURVE_BPS = (0.0, 10.0, 25.0, 45.0, 65.0, 90.0, 130.0, 190.0, 280.0, 400.0, 600.0, 900.0)
LEAST_SHIFT_DAYS = 30
LEAST_SHIFTED_DAYS = 90  # a shorter span has too few shifts that are far from it both ways


@dataclass(frozen=True, slots=True)
class Tested:
    """One book of the test: daily returns [days] and its figures (shared.performance.Summary as a dict)."""

    path: BookPath
    returns: FloatArray
    figures: Mapping[str, Any]


def wallet_of(settings: Settings) -> dict[str, Any]:
    """The wallet that would trade the fold's universe at the headline costs; it is in no table."""
    universe = settings.universe
    return {
        "name": "evaluation",
        "venue": universe.venue,
        "quote": universe.symbols[0].partition("/")[2],
        "symbols": list(universe.symbols),
        "track": "rules",
        "taker_fee_bps": HEADLINE_FEE_BPS,
        "slippage_bps": HALF_SPREAD_BPS,
        "impact": settings.execution.impact,
        "max_order_notional": settings.risk.max_order_notional,
    }


def request_of(settings: Settings, first: datetime, last: datetime, limits: str) -> Request:
    return Request(wallet_of(settings), first, last, CAPITAL, limits, config="static")


def try_policy(lab: Laboratory, act: Act | None, benchmark: FloatArray | None = None) -> Tested:
    return measure(lab, lab.trade("policy", act), benchmark)


def measure(lab: Laboratory, path: BookPath, benchmark: FloatArray | None = None) -> Tested:
    """The figures of one book; ``benchmark``: daily returns for alpha and beta."""
    curve = path.curve
    weights = gross_weights(lab, path)
    summary = summarise(
        curve.times, curve.equity, curve.traded, curve.fees, curve.trades, slippage=curve.slippage, weights=weights,
        trade_profits=round_trips([*path.fills, *path.closing]), benchmark=benchmark,
    )  # fmt: skip
    return Tested(path, daily_returns(curve.times, curve.equity), asdict(summary))


def gross_weights(lab: Laboratory, path: BookPath) -> FloatArray:
    """What was held, as a share of equity, at each bar's close [B]."""
    held = np.zeros((len(lab.grid.close), lab.grid.close.shape[1]))
    for fill in path.fills:
        held[(fill.filled_at - lab.grid.start) // lab.grid.base_s, fill.instrument] += fill.quantity
    held = np.cumsum(held, axis=0)
    prices = _filled_forward(lab.grid.close)
    value = np.where(held > 0.0, held * np.nan_to_num(prices), 0.0).sum(axis=1)
    equity: FloatArray = path.curve.equity[1:].copy()
    equity[-1] = path.curve.last_marked
    shares: FloatArray = value / equity
    return shares


def _filled_forward(prices: FloatArray) -> FloatArray:
    rows = np.where(np.isnan(prices), 0, np.arange(len(prices))[:, None])
    filled: FloatArray = np.take_along_axis(prices, np.maximum.accumulate(rows, axis=0), axis=0)
    return filled


def try_baselines(lab: Laboratory) -> dict[str, Tested]:
    """Every rule at the headline costs; alpha and beta are against buy and hold."""
    paths = {name: lab.rule(name, name) for name in BASELINES}
    hold = paths["buy_and_hold"].curve
    benchmark = daily_returns(hold.times, hold.equity)
    return {name: measure(lab, path, benchmark) for name, path in paths.items()}


def under_other_terms(lab: Laboratory, act: Act) -> dict[str, dict[str, list[float]]]:
    """Daily returns of policy and baseline at each other cost and delay: {'cost 10': {'policy': [...], 'baseline':
    [...]}, …, 'delay 60': …}. The policy sees the cost, as the trader would."""
    found = {}
    for label, other in _other_terms(lab):
        policy, baseline = other.trade("policy", act).curve, other.rule(BASELINE, BASELINE).curve
        found[label] = {name: _days(curve).tolist() for name, curve in (("policy", policy), ("baseline", baseline))}
    return found


def _other_terms(lab: Laboratory) -> Iterator[tuple[str, Laboratory]]:
    for bps in COSTS_BPS:
        costs = costs_of(bps, lab.costs.impact)
        if costs != lab.costs:
            yield f"cost {bps:g}", _altered(lab, costs, lab.delay_s)
    for minutes in DELAYS_MIN:
        if minutes * 60 != lab.delay_s:
            yield f"delay {minutes}", _altered(lab, lab.costs, minutes * 60)


def costs_of(bps: float, impact: float) -> Costs:
    """So much a side altogether: half the spread as it is (or less, where all is less), the rest is fee."""
    half_spread = min(HALF_SPREAD_BPS, bps)
    return Costs(bps - half_spread, half_spread, impact)


def _altered(lab: Laboratory, costs: Costs, delay_s: int) -> Laboratory:
    """The same markets, which depend on neither; what does is computed anew."""
    other = copy.copy(lab)
    other.costs, other.delay_s = costs, delay_s
    other.__dict__.pop("occasions", None)
    return other


def cost_curve(lab: Laboratory, allowed: FloatArray) -> dict[str, list[float]]:
    """Log growth of the policy's and the baseline's weights, as they were wanted at the headline, at other costs a
    side: what break-even costs are read from. ``allowed`` [T, N]."""
    paths, found = lab.weight_paths(), {}
    for name, weights in (("policy", allowed), ("baseline", lab.weights_of(BASELINE))):
        runs = (paths.run(weights, costs_of(bps, lab.costs.impact)).closed for bps in COST_CURVE_BPS)
        found[name] = [float(np.log(closed / CAPITAL)) if closed > 0.0 else float("-inf") for closed in runs]
    return {"bps": list(COST_CURVE_BPS), **{name: [max(g, -50.0) for g in growth] for name, growth in found.items()}}


def shifted(lab: Laboratory, allowed: FloatArray, shifts: int, seed: int) -> dict[str, Any] | None:
    """The policy's own weights at other times, each a circular shift of at least 30 days: sums and squares of their
    daily returns [shifts], so that folds can be pooled. None where the span is too short."""
    moments, a_day = len(allowed), DAY_S // lab.step_s
    if moments < LEAST_SHIFTED_DAYS * a_day:
        return None
    rng = np.random.default_rng(seed)
    drawn = rng.integers(LEAST_SHIFT_DAYS * a_day, moments - LEAST_SHIFT_DAYS * a_day, shifts)
    times, sums, squares = lab.curve_times(), [], []
    for run in lab.weight_paths().run_shifts(allowed, drawn.tolist(), lab.costs):
        equity = np.r_[CAPITAL, run.equity_by_bar]
        equity[-1] = run.closed
        days = daily_returns(times, equity)
        sums.append(float(days.sum()))
        squares.append(float(days @ days))
    return {"sums": sums, "squares": squares, "days": len(days)}


def regimes_by_day(lab: Laboratory, days: int) -> list[str]:
    """The 24 h call that stood as each day of the test began; 'unknown' where there was none."""
    called = {to_unix(at): market.states[1].regime for at, market in lab.moments if market.states is not None}
    first = to_unix(lab.request.first)
    return [called.get(first + DAY_S * day, "unknown") for day in range(days)]


def contributions_by_day(lab: Laboratory, path: BookPath) -> FloatArray:
    """[days, N]: what each symbol added to each day's return (profit over the book's equity as the day began)."""
    times = lab.curve_times()
    closes = np.vstack([lab.grid.open[:1], lab.grid.close])
    fills = sorted([*path.fills, *_within(path, int(times[-1]))], key=lambda fill: fill.filled_at)
    profits = np.cumsum(profits_over_time(fills, times, closes), axis=0)
    midnights, equity = daily_equity(times, path.curve.equity)
    at = np.searchsorted(times, midnights, side="right") - 1
    by_day: FloatArray = np.diff(profits[at], axis=0) / equity[:-1, None]
    return by_day


def _within(path: BookPath, last: int) -> list[Any]:
    """The closing fills as of the last bar's end: a fill belongs to the bar that closes after it."""
    return [replace(fill, filled_at=min(fill.filled_at, last - 1)) for fill in path.closing]


def _days(curve: Curve) -> FloatArray:
    return daily_returns(curve.times, curve.equity)
