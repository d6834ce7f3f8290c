"""What a feature is, how families of them are registered, and the arithmetic that they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from shared.features.windows import Windows
from shared.rows import FloatArray

SMALLEST = 1e-6  # of a volatility: a market without any movement must not divide by zero
STILL = 1e-20  # of a row's mean square: less variance than this is rounding
DAY_S, WEEK_S = 86_400, 604_800

Compute = Callable[[Windows], FloatArray]  # windows of exactly the feature's length → [N]


@dataclass(frozen=True, slots=True)
class Feature:
    """One number a window: ``compute`` is handed the window's last ``length`` slots and nothing else.

    In a ``formula`` prices are logarithms where their differences are meant (open, high, low and close of a
    candle; typical price), a return is ln(close / close before), Σ and mean run over the slots (or returns)
    that the name counts, and a slot without a candle is as ``Windows`` lays it out.
    """

    length: int
    formula: str
    source: str
    compute: Compute


def of_candles(
    name: str, counts: Sequence[int], formula: str, source: str, compute: Compute, before: int = 0
) -> dict[str, Feature]:
    """A feature ``name_n`` for each count n, of n candles and ``before`` more; ``{n}`` in the formula is the count."""
    return {f"{name}_{n}": Feature(n + before, formula.format(n=n), source, compute) for n in counts}


def of_returns(name: str, counts: Sequence[int], formula: str, source: str, compute: Compute) -> dict[str, Feature]:
    """The same of n returns, so of n + 1 candles."""
    return of_candles(name, counts, formula, source, compute, before=1)


def returns(w: Windows) -> FloatArray:
    """ln(close / close before), [N, L-1]"""
    return np.asarray(np.diff(w.close, axis=1))


def total(values: FloatArray) -> FloatArray:
    """Sum of each row, [N]"""
    return np.asarray(values.sum(axis=1))


def mean(values: FloatArray) -> FloatArray:
    """Mean of each row, [N]"""
    return np.asarray(values.mean(axis=1))


def rms(values: FloatArray) -> FloatArray:
    """Root mean square of each row, [N]"""
    return np.asarray(np.sqrt(mean(values * values)))


def unit_return(w: Windows) -> FloatArray:
    """The root mean square return, [N], at least 1e-6: what moves are measured in."""
    return np.asarray(np.maximum(rms(returns(w)), SMALLEST))


def ratio(over: FloatArray, under: FloatArray, otherwise: float = 0.0) -> FloatArray:
    """``over / under`` in the shape of ``over``; ``otherwise`` where there is nothing to divide by."""
    return np.asarray(np.divide(over, under, out=np.full(over.shape, otherwise), where=under > 0))


def centred(values: FloatArray) -> FloatArray:
    """Each row less its mean."""
    return np.asarray(values - values.mean(axis=1, keepdims=True))


def correlation(x: FloatArray, y: FloatArray) -> FloatArray:
    """Pearson's correlation of each pair of rows, [N]; 0 where one of them does not move."""
    a, b = centred(x), centred(y)
    moving = (total(a * a) > STILL * total(x * x)) & (total(b * b) > STILL * total(y * y))
    return np.where(moving, ratio(total(a * b), np.sqrt(total(a * a) * total(b * b))), 0.0)


def autocorrelation(values: FloatArray) -> FloatArray:
    """Correlation of each row with itself one slot earlier, [N]"""
    return correlation(values[:, 1:], values[:, :-1])


def decay(length: int, half_life: float) -> FloatArray:
    """Weights [length] that halve with every ``half_life`` slots of age and sum to 1; the last is the youngest."""
    weights = 0.5 ** (np.arange(length)[::-1] / half_life)
    return np.asarray(weights / weights.sum())


def location_of_close(w: Windows) -> FloatArray:
    """Where each close lies between its low (-1) and its high (+1), [N, L]; 0 without range"""
    return ratio(2 * w.close - w.high - w.low, w.high - w.low)


def upper_wick(w: Windows) -> FloatArray:
    """(high - max(open, close)) / (high - low), [N, L]; 0 without range"""
    return ratio(w.high - np.maximum(w.open, w.close), w.high - w.low)


def lower_wick(w: Windows) -> FloatArray:
    """(min(open, close) - low) / (high - low), [N, L]; 0 without range"""
    return ratio(np.minimum(w.open, w.close) - w.low, w.high - w.low)
