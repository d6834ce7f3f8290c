"""All moments that are asked about, over all series: what simple baselines know at each, and what came after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from encoder.evaluation.slots import Slots, behind, lay_out, log_volatility
from encoder.evaluation.targets import (
    DAY_S,
    HOUR_S,
    HOURS_4_S,
    future,
    large_move,
    sign,
    terciles,
    trend_class,
    volatility_class,
)
from shared.features import Grid
from shared.job import JobError
from shared.market_data import BoolArray
from shared.rows import Candles, FloatArray, IntArray

STRIDE_S = 3600  # one moment an hour
PAST = {"1h": HOUR_S, "4h": HOURS_4_S, "1d": DAY_S, "1w": 7 * DAY_S, "30d": 30 * DAY_S}
LEAST_PAST = 0.75  # of a span's candles, else its volatility is not known
HALF_LIFE_S = DAY_S  # of the exponentially weighted variance


@dataclass(frozen=True, slots=True)
class Panel:
    """N moments. ``series`` [N]: which one; ``as_of`` [N]; ``known``: columns [N] known at the moment; ``targets``:
    columns [N] that came after, NaN where not known."""

    series: IntArray
    as_of: IntArray
    known: Mapping[str, FloatArray]
    targets: Mapping[str, FloatArray]

    def __len__(self) -> int:
        return len(self.as_of)

    def select(self, chosen: BoolArray | IntArray) -> Panel:
        known = {name: column[chosen] for name, column in self.known.items()}
        targets = {name: column[chosen] for name, column in self.targets.items()}
        return Panel(self.series[chosen], self.as_of[chosen], known, targets)


def build_panel(series: Sequence[Candles], timeframe_s: int) -> Panel:
    """Every whole hour at which a window closes and what baselines need is known, series after series."""
    panels = [_moments(k, candles, timeframe_s) for k, candles in enumerate(series) if len(candles)]
    if not panels:
        raise JobError(f"there are no candles of {timeframe_s} s to evaluate on; run `make backfill`")
    return Panel(
        np.concatenate([p.series for p in panels]),
        np.concatenate([p.as_of for p in panels]),
        {name: np.concatenate([p.known[name] for p in panels]) for name in panels[0].known},
        {name: np.concatenate([p.targets[name] for p in panels]) for name in panels[0].targets},
    )


def _moments(k: int, candles: Candles, timeframe_s: int) -> Panel:
    slots = lay_out(candles, timeframe_s)
    bounds = terciles(slots)
    known = past(slots, bounds)
    targets = future(slots, known["log_ewma"], bounds)
    whole = np.isfinite(np.column_stack([known[name] for name in (*PAST, "log_ewma")])).all(axis=1)
    usable = np.isin(slots.as_of, Grid(candles, timeframe_s).usable())
    chosen = whole & usable & (slots.as_of % STRIDE_S == 0)
    return Panel(np.full(len(slots.as_of), k), slots.as_of, known, targets).select(chosen)


def past(slots: Slots, bounds: FloatArray) -> dict[str, FloatArray]:
    """What is known at each close [n]: log volatility of the last 1h … 30d (named as in PAST), ``log_ewma``,
    ``tercile_low`` and ``tercile_high``, and ``last_<task>``, each class as it was over the horizon before."""
    known = {name: _past_volatility(slots, span) for name, span in PAST.items()}
    known["log_ewma"] = _log_ewma(slots)
    known["tercile_low"], known["tercile_high"] = bounds.T
    r, day, hours_4 = slots.returns, slots.count(DAY_S), slots.count(HOURS_4_S)
    before = np.append(np.full(hours_4, np.nan), known["log_ewma"])[: len(r)]  # not yet swollen by the move it judges
    known["last_volatility_class"] = volatility_class(known["1d"], bounds)
    known["last_trend_class"] = trend_class(*(behind(x, day, LEAST_PAST) for x in (r, r * r, np.abs(r))))
    known["last_large_move"] = large_move(behind(r, hours_4, LEAST_PAST), before, hours_4)
    for h in (HOURS_4_S, DAY_S):
        known[f"last_direction_{h}s"] = sign(behind(r, slots.count(h), LEAST_PAST))
    return known


def _past_volatility(slots: Slots, span_s: int) -> FloatArray:
    n = slots.count(span_s)
    squares = slots.ranges**2 if n == 1 else slots.returns**2
    return log_volatility(behind(squares, n, LEAST_PAST) / n)


def _log_ewma(slots: Slots) -> FloatArray:
    """ln of the volatility of a candle: squares weighing half after a day (RiskMetrics, 1996), begun with the mean of
    the first day; a missing candle changes nothing."""
    day = slots.count(DAY_S)
    squares = slots.returns**2
    there = np.flatnonzero(np.isfinite(squares))
    variance = np.full(len(squares), np.nan)
    if len(there) <= day:
        return variance
    start = int(there[day - 1])
    value, weight = float(squares[there[:day]].mean()), -math.expm1(-math.log(2) * slots.timeframe_s / HALF_LIFE_S)
    for i, square in enumerate(squares[start + 1 :].tolist(), start=start + 1):
        if square == square:
            value += weight * (square - value)
        variance[i] = value
    return log_volatility(variance)
