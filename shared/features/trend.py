"""Where the price goes, how steadily, and where it stands in its range."""

from __future__ import annotations

import math

import numpy as np

from shared.features.feature import (
    SMALLEST,
    Feature,
    autocorrelation,
    centred,
    correlation,
    decay,
    location_of_close,
    lower_wick,
    mean,
    of_candles,
    of_returns,
    ratio,
    returns,
    rms,
    total,
    unit_return,
    upper_wick,
)
from shared.features.windows import Windows
from shared.rows import FloatArray

UNIT_RETURNS = 96  # returns that set the unit of the shorter moves
VARIANCE_RATIO = 6  # candles


def drift(w: Windows) -> FloatArray:
    r = returns(w)
    return ratio(total(r), np.sqrt(total(r * r)))


def _scaled_return(n: int) -> Feature:
    def compute(w: Windows) -> FloatArray:
        return (w.close[:, -1] - w.close[:, -1 - n]) / (unit_return(w) * math.sqrt(n))

    formula = f"Σ of {n} returns / (rms of {UNIT_RETURNS} returns · sqrt({n})), rms at least 1e-6"
    return Feature(UNIT_RETURNS + 1, formula, "own", compute)


def efficiency(w: Windows) -> FloatArray:
    r = returns(w)
    return ratio(total(r), total(np.abs(r)))


def _crossover(fast: int, slow: int) -> Feature:
    def compute(w: Windows) -> FloatArray:
        weights = decay(w.length, fast) - decay(w.length, slow)
        return total(w.close * weights) / (unit_return(w) * math.sqrt(slow))

    formula = (
        f"(EWMA of close with half-life {fast} - with half-life {slow}, both over 288) / "
        f"(rms of 287 returns · sqrt({slow})), rms at least 1e-6"
    )
    return Feature(288, formula, "after Baz et al. 2015", compute)


def range_position(w: Windows) -> FloatArray:
    high, low = w.high.max(axis=1), w.low.min(axis=1)
    return 2 * ratio(w.close[:, -1] - low, high - low, 0.5) - 1


def _since(peaks: FloatArray) -> FloatArray:
    """How long ago each row was highest, [N]: -1 in the last slot, +1 in the first; the youngest of equals counts."""
    return np.asarray(2 * np.argmax(peaks[:, ::-1], axis=1) / (peaks.shape[1] - 1) - 1)


def since_high(w: Windows) -> FloatArray:
    return _since(w.high)


def since_low(w: Windows) -> FloatArray:
    return _since(-w.low)


def z_score(w: Windows) -> FloatArray:
    x = centred(w.close)
    return x[:, -1] / np.maximum(rms(x), SMALLEST)


def relative_strength(w: Windows) -> FloatArray:
    r = returns(w)
    weights = (13 / 14) ** np.arange(r.shape[1])[::-1]
    return ratio(total(r * weights), total(np.abs(r) * weights))


def linearity(w: Windows) -> FloatArray:
    return correlation(w.close, np.broadcast_to(np.arange(float(w.length)), w.close.shape))


def return_autocorrelation(w: Windows) -> FloatArray:
    return autocorrelation(returns(w))


def variance_ratio(w: Windows) -> FloatArray:
    long = w.close[:, VARIANCE_RATIO:] - w.close[:, :-VARIANCE_RATIO]
    return np.log(np.maximum(ratio(mean(long**2) / VARIANCE_RATIO, mean(returns(w) ** 2), 1.0), SMALLEST))


def drawdown(w: Windows) -> FloatArray:
    return np.asarray((w.close[:, -1] - w.close.max(axis=1)) / (unit_return(w) * math.sqrt(w.length)))


def mean_close_location(w: Windows) -> FloatArray:
    return mean(location_of_close(w))


def body_share(w: Windows) -> FloatArray:
    return mean(ratio(np.abs(w.close - w.open), w.high - w.low))


def mean_upper_wick(w: Windows) -> FloatArray:
    return mean(upper_wick(w))


def mean_lower_wick(w: Windows) -> FloatArray:
    return mean(lower_wick(w))


TREND: dict[str, Feature] = {
    **of_returns(
        "drift",
        (24, 96, 287),
        "Σ return / sqrt(Σ return²) of {n} returns; 0 without movement",
        "after Moskowitz, Ooi & Pedersen 2012",
        drift,
    ),
    **{f"scaled_return_{n}": _scaled_return(n) for n in (1, 4, 12)},
    **of_returns(
        "efficiency",
        (12, 48),
        "Σ return / Σ |return| of {n} returns; 0 without movement",
        "Kaufman 1995, signed",
        efficiency,
    ),
    "crossover_8_32": _crossover(8, 32),
    "crossover_24_96": _crossover(24, 96),
    **of_candles(
        "range_position",
        (24, 96, 288),
        "2·(close - lowest low) / (highest high - lowest low) - 1 of {n}; 0 without range",
        "Donchian's channel",
        range_position,
    ),
    **of_candles(
        "since_high",
        (288,),
        "2·(candles since the highest high of {n}, the youngest of equals) / ({n} - 1) - 1",
        "Chande 1995 (Aroon)",
        since_high,
    ),
    **of_candles(
        "since_low",
        (288,),
        "2·(candles since the lowest low of {n}, the youngest of equals) / ({n} - 1) - 1",
        "Chande 1995 (Aroon)",
        since_low,
    ),
    **of_candles(
        "z_score",
        (48,),
        "(close - mean) / standard deviation of close over {n}, at least 1e-6",
        "Bollinger 1992",
        z_score,
    ),
    "relative_strength_14": Feature(
        97,
        "Σ w·return / Σ w·|return| of 96 returns, w = (13/14)^age (so 2·RSI - 1); 0 without movement",
        "Wilder 1978 (RSI)",
        relative_strength,
    ),
    **of_candles("linearity", (96,), "correlation of close with time over {n}", "own", linearity),
    **of_returns(
        "return_autocorrelation",
        (168,),
        "correlation of a return with the return before, of {n} returns",
        "Lo & MacKinlay 1988",
        return_autocorrelation,
    ),
    **of_candles(
        "variance_ratio",
        (288,),
        "ln(mean (Σ of 6 returns)², overlapping, / 6 / mean return²) of {n}, the ratio at least 1e-6; "
        "0 without movement",
        "Lo & MacKinlay 1988, not centred",
        variance_ratio,
    ),
    **of_candles(
        "drawdown",
        (288,),
        "(close - highest close) / (rms return · sqrt({n})), rms at least 1e-6",
        "own",
        drawdown,
    ),
    **of_candles(
        "close_location",
        (1, 24),
        "mean of (2·close - high - low) / (high - low) over {n}; 0 without range",
        "Chaikin (accumulation/distribution)",
        mean_close_location,
    ),
    **of_candles("body_share", (24,), "mean of |close - open| / (high - low); 0 without range", "own", body_share),
    **of_candles(
        "upper_wick",
        (24,),
        "mean of (high - max(open, close)) / (high - low) over {n}; 0 without range",
        "own",
        mean_upper_wick,
    ),
    **of_candles(
        "lower_wick",
        (24,),
        "mean of (min(open, close) - low) / (high - low) over {n}; 0 without range",
        "own",
        mean_lower_wick,
    ),
}
