"""Trend and volatility of one instrument, from exactly its last SIGNAL_WINDOW closes.

The forecast is an equal mix of EWMA crossovers, each scaled by the volatility of price changes (Carver,
Systematic Trading, 2015, ch. 7); the volatility is an EWMA of squared log returns (RiskMetrics, 1996).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.rows import Candles, FloatArray

SIGNAL_WINDOW = 720  # bars of the decision timeframe: 30 days of hours
MIN_HISTORY = 240  # bars; a younger series has no signal, a younger one than the window starts flat
MIN_PRESENT = 0.9  # of the bars since the series' first
CROSSOVERS = ((24, 96), (48, 192), (96, 384))  # fast and slow spans, in bars
VOLATILITY_SPAN = 72
FORECAST_CAP = 2.0
SECONDS_A_YEAR = 365 * 86400


@dataclass(frozen=True, slots=True)
class Signal:
    """``trend`` in [-1, 1]; ``volatility`` annualised, as a fraction; ``price`` is the last close."""

    price: float
    trend: float
    volatility: float


def _ewma_weights(span: int) -> FloatArray:
    """Weights of an EWMA over the window, oldest first, summing to 1."""
    weights = (1 - 2 / (span + 1)) ** np.arange(SIGNAL_WINDOW - 1, -1, -1)
    normalised: FloatArray = weights / weights.sum()
    return normalised


FAST = np.stack([_ewma_weights(fast) for fast, _ in CROSSOVERS])  # [3, window]
SLOW = np.stack([_ewma_weights(slow) for _, slow in CROSSOVERS])
RISK = _ewma_weights(VOLATILITY_SPAN)[1:]


def _standard_deviations() -> FloatArray:
    """Of each crossover, in bars' volatilities, on a random walk: the crossover is a weighted sum of returns."""
    response = np.cumsum((FAST - SLOW)[:, ::-1], axis=1)[:, :-1]  # weight of each return, newest first
    deviations: FloatArray = np.sqrt((response**2).sum(axis=1))
    return deviations


CROSSOVER_SD = _standard_deviations()


def closes_on_grid(candles: Candles, as_of: int, timeframe_s: int) -> FloatArray | None:
    """The window's closes on the grid, gaps filled with the close before; None when it cannot be trusted.

    That is: the last bar missing, fewer than MIN_HISTORY bars, or too many missing. Before its first bar a
    young series is flat, which shrinks its trend towards none.
    """
    slots = SIGNAL_WINDOW - 1 - (as_of - candles.as_of) // timeframe_s
    in_window = (slots >= 0) & (slots < SIGNAL_WINDOW)
    inside = slots[in_window]
    if len(inside) < MIN_HISTORY or inside[-1] != SIGNAL_WINDOW - 1:
        return None
    if len(inside) < MIN_PRESENT * (SIGNAL_WINDOW - inside[0]):
        return None
    newest = np.full(SIGNAL_WINDOW, 0)
    newest[inside] = np.arange(len(inside))
    closes: FloatArray = candles.close[in_window][np.maximum.accumulate(newest)]
    return closes


def compute_signal(candles: Candles, as_of: int, timeframe_s: int) -> Signal | None:
    """The signal at ``as_of`` (Unix seconds of a close), or None when there is too little to go by."""
    closes = closes_on_grid(candles, as_of, timeframe_s)
    return None if closes is None else signal_of_closes(closes, timeframe_s)


def signal_of_closes(closes: FloatArray, timeframe_s: int) -> Signal:
    """The signal of a full window [SIGNAL_WINDOW] of positive closes."""
    log_close = np.log(np.ascontiguousarray(closes))
    returns = np.diff(log_close)
    bar_volatility = float(np.sqrt(RISK @ (returns * returns)))
    if bar_volatility == 0.0:
        return Signal(price=float(closes[-1]), trend=0.0, volatility=0.0)
    crossovers = (FAST @ log_close - SLOW @ log_close) / bar_volatility / CROSSOVER_SD
    forecast = float(np.clip(crossovers, -FORECAST_CAP, FORECAST_CAP).mean() / FORECAST_CAP)
    annual = bar_volatility * float(np.sqrt(SECONDS_A_YEAR / timeframe_s))
    return Signal(price=float(closes[-1]), trend=forecast, volatility=annual)
