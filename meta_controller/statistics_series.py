"""Numbers without units about price series: what the language model is shown of a market. Pure.

All are of log returns r, one a bar, oldest first, up to the moment. A return over h bars is Σr ÷ (σ√h) with σ the
root mean square of the last 30 days; t = Σr ÷ √Σr² and efficiency = |Σr| ÷ Σ|r| are those of the labels
(meta_controller/outcomes.py), of the past instead of the future. NaN where there are too few bars.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from meta_controller.market_index import DAY_S, MarketHistory
from meta_controller.outcomes import LEAST_REFERENCE_S, REFERENCE_S
from shared.rows import Candles, FloatArray

Numbers = dict[str, float]

SPANS_S: Mapping[str, int] = {"1h": 3600, "4h": 14_400, "24h": DAY_S, "7d": 7 * DAY_S, "30d": 30 * DAY_S}
TREND_SPANS = ("4h", "24h", "7d", "30d")
VOLATILITY_SPANS = ("4h", "24h")
EXTREME_SPANS_S: Mapping[str, int] = {"30d": 30 * DAY_S, "90d": 90 * DAY_S}
SCALE_S = 30 * DAY_S  # what volatility is measured over where it is a unit
LEAST_SCALE_S = 7 * DAY_S
READ_S = 182 * DAY_S  # the terciles' half year, and the longest horizon before its first moment
MOST_SIGNIFICANT, MOST_DECIMALS = 3, 3


def short(value: float | None) -> float | int | None:
    """Three significant digits, at most three decimals: what a reader can use and no token more. None if unknown."""
    if value is None or not np.isfinite(value):
        return None
    if value == 0:
        return 0
    decimals = MOST_SIGNIFICANT - 1 - int(np.floor(np.log10(abs(value))))
    rounded = round(float(value), min(decimals, MOST_DECIMALS))
    return int(rounded) if rounded == int(rounded) else rounded


def shortened(value: Any) -> Any:
    """The same table with every number ``short``."""
    if isinstance(value, dict):
        return {key: shortened(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [shortened(part) for part in value]
    return short(value) if isinstance(value, float) else value


@dataclass(frozen=True, slots=True)
class Asset:
    """One instrument on the market's grid, every array [n]: log returns (0 where a bar is missing, the next catches
    up) and volumes (0 where missing). ``close`` is the last there was."""

    symbol: str
    instrument_id: int
    returns: FloatArray
    volume: FloatArray
    close: float


def asset_of(symbol: str, instrument_id: int, candles: Candles, first: int, timeframe_s: int, bars: int) -> Asset:
    """``candles`` (at least one) on a grid whose column i closes at first + i·timeframe_s; bars before the first candle
    are left out."""
    slots = (candles.as_of - first) // timeframe_s
    close, volume = np.full(bars, np.nan), np.zeros(bars)
    close[slots], volume[slots] = candles.close, candles.volume
    begin = int(slots[0])
    close, volume = close[begin:], volume[begin:]
    seen = np.maximum.accumulate(np.where(np.isnan(close), 0, np.arange(len(close))))
    return Asset(symbol, instrument_id, np.diff(np.log(close[seen])), volume[1:], float(candles.close[-1]))


def bars_of(seconds: int, timeframe_s: int) -> int | None:
    """How many bars a span is; None where a bar is longer."""
    return seconds // timeframe_s if seconds >= timeframe_s else None


def scale(returns: FloatArray, timeframe_s: int) -> float:
    """σ a bar: the root mean square of the last 30 days' returns; NaN for less than a week of them, or no movement."""
    recent = returns[-max(1, SCALE_S // timeframe_s) :]
    if len(recent) < max(2, LEAST_SCALE_S // timeframe_s):
        return float("nan")
    return float(np.sqrt(np.mean(recent**2))) or float("nan")


def last(returns: FloatArray, seconds: int, timeframe_s: int) -> FloatArray | None:
    """The returns of the span that has just passed; None where there are fewer."""
    h = bars_of(seconds, timeframe_s)
    return returns[-h:] if h and len(returns) >= h else None


def scaled_returns(returns: FloatArray, timeframe_s: int) -> Numbers:
    sigma = scale(returns, timeframe_s)
    parts = {name: last(returns, seconds, timeframe_s) for name, seconds in SPANS_S.items()}
    return {name: _nan_or(part, lambda r: r.sum() / (sigma * np.sqrt(len(r)))) for name, part in parts.items()}


def trends(returns: FloatArray, timeframe_s: int) -> tuple[Numbers, Numbers]:
    """t-statistic and efficiency of the path over each of TREND_SPANS."""
    parts = {name: last(returns, SPANS_S[name], timeframe_s) for name in TREND_SPANS}
    t = {name: _nan_or(part, lambda r: _ratio(r.sum(), np.sqrt((r**2).sum()))) for name, part in parts.items()}
    efficiency = {name: _nan_or(part, lambda r: _ratio(abs(r.sum()), np.abs(r).sum())) for name, part in parts.items()}
    return t, efficiency


def volatility(returns: FloatArray, seconds: int, timeframe_s: int) -> Numbers:
    """The realised volatility √Σr² of the span just passed, held against those of the last 180 days: ``pct``, the
    share in percent that was not above it; ``low`` and ``high``, the terciles in multiples of it: the next span is
    labelled low at or below ``low`` times the last, high above ``high`` times."""
    h = bars_of(seconds, timeframe_s)
    if h is None or len(returns) < h + LEAST_REFERENCE_S // timeframe_s - 1:
        return dict.fromkeys(("pct", "low", "high"), float("nan"))
    recent = returns[-(REFERENCE_S // timeframe_s + h - 1) :]
    realised = np.sqrt(np.lib.stride_tricks.sliding_window_view(recent**2, h).sum(axis=1))
    now, ordered = float(realised[-1]), np.sort(realised)
    low, high = ordered[len(ordered) // 3], ordered[2 * len(ordered) // 3]
    return {"pct": 100.0 * float((realised <= now).mean()), "low": _ratio(low, now), "high": _ratio(high, now)}


def extremes(returns: FloatArray, timeframe_s: int) -> tuple[Numbers, Numbers]:
    """How far the price is below its highest close and above its lowest one of each of EXTREME_SPANS_S, in units of
    a day's volatility: the first is never positive, the second never negative."""
    unit = scale(returns, timeframe_s) * np.sqrt(max(1.0, DAY_S / timeframe_s))
    below, above = {}, {}
    for name, seconds in EXTREME_SPANS_S.items():
        part = last(returns, seconds, timeframe_s)
        path = None if part is None else np.concatenate([[0.0], np.cumsum(part)])
        below[name] = _nan_or(path, lambda p: (p[-1] - p.max()) / unit)
        above[name] = _nan_or(path, lambda p: (p[-1] - p.min()) / unit)
    return below, above


def volume_ratio(volume: FloatArray, timeframe_s: int) -> float:
    """The last day's mean volume a bar by that of the last 30 days."""
    day, month = last(volume, DAY_S, timeframe_s), last(volume, SCALE_S, timeframe_s)
    return float("nan") if day is None or month is None else _ratio(day.mean(), month.mean())


def mean_correlation(assets: list[Asset], seconds: int, timeframe_s: int) -> float:
    """The mean correlation of all pairs over a span; NaN for fewer than two assets that have it and move."""
    parts = [last(asset.returns, seconds, timeframe_s) for asset in assets]
    moving = [part for part in parts if part is not None and part.std() > 0]
    if len(moving) < 2:
        return float("nan")
    pairs: FloatArray = np.asarray(np.corrcoef(np.stack(moving)))
    return float(pairs[np.triu_indices(len(moving), 1)].mean())


def market_section(history: MarketHistory, assets: list[Asset]) -> dict[str, Any]:
    """What is said of the equal-weight index, which is what the calls are about."""
    returns, step = history.returns, history.timeframe_s
    t, efficiency = trends(returns, step)
    below, above = extremes(returns, step)
    return {
        "ret": scaled_returns(returns, step),
        "t": t,
        "eff": efficiency,
        "vol": {name: volatility(returns, SPANS_S[name], step) for name in VOLATILITY_SPANS},
        "below_high": below,
        "above_low": above,
        "corr": {name: mean_correlation(assets, SPANS_S[name], step) for name in ("7d", "30d")},
    }


def asset_section(asset: Asset, timeframe_s: int) -> dict[str, Any]:
    below, above = extremes(asset.returns, timeframe_s)
    vol = {name: volatility(asset.returns, SPANS_S[name], timeframe_s)["pct"] for name in VOLATILITY_SPANS}
    return {
        "ret": scaled_returns(asset.returns, timeframe_s),
        "t": {name: value for name, value in trends(asset.returns, timeframe_s)[0].items() if name != "4h"},
        "vol_pct": vol,
        "below_high": below,
        "above_low": above,
        "volume": volume_ratio(asset.volume, timeframe_s),
    }


def across(sections: list[dict[str, Any]]) -> dict[str, Any]:
    """Many assets as one: lowest, median and highest of each number; unknown ones are left out."""

    def spread(parts: list[Any]) -> Any:
        if isinstance(parts[0], dict):
            return {key: spread([part[key] for part in parts]) for key in parts[0]}
        known = [part for part in parts if np.isfinite(part)]
        return np.quantile(known, [0.0, 0.5, 1.0]).tolist() if known else None

    spreads: dict[str, Any] = spread(sections)
    return spreads


def _nan_or(values: FloatArray | None, number: Any) -> float:
    return float("nan") if values is None else float(number(values))


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below > 0 else float("nan")
