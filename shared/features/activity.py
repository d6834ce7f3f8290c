"""How much is traded, on which side, and when it is: volume and the calendar."""

from __future__ import annotations

import math

import numpy as np

from shared.features.feature import (
    DAY_S,
    WEEK_S,
    Feature,
    autocorrelation,
    centred,
    correlation,
    mean,
    of_candles,
    of_returns,
    ratio,
    returns,
    rms,
    total,
    unit_return,
)
from shared.features.windows import Windows
from shared.rows import FloatArray

MONDAY_S = 4 * DAY_S  # the Unix epoch was a Thursday, the first Monday came four days later
TRACE = 0.001  # of the usual: keeps the logarithm of none finite


def _relative_volume(n: int) -> Feature:
    def compute(w: Windows) -> FloatArray:
        return np.log(ratio(mean(w.volume[:, -n:]), mean(w.volume), 1.0) + TRACE)

    return Feature(288, f"ln(mean volume of {n} / of 288 + 0.001); the ratio is 1 without volume", "own", compute)


def signed_volume(w: Windows) -> FloatArray:
    return ratio(total(np.sign(returns(w)) * w.volume[:, 1:]), total(w.volume[:, 1:]))


def volume_concentration(w: Windows) -> FloatArray:
    return ratio(w.volume.max(axis=1), total(w.volume), 1 / w.length)


def volume_volatility_correlation(w: Windows) -> FloatArray:
    return correlation(np.abs(returns(w)), w.volume[:, 1:])


def volume_variation(w: Windows) -> FloatArray:
    return ratio(rms(centred(w.volume)), mean(w.volume))


def volume_autocorrelation(w: Windows) -> FloatArray:
    return autocorrelation(w.volume)


def illiquidity_change(w: Windows) -> FloatArray:
    size, volume, young = np.abs(returns(w)), w.volume[:, 1:], (w.length - 1) // 4
    recent = total(size[:, -young:]) * total(volume)
    usual = total(size) * total(volume[:, -young:])
    return np.log(ratio(recent, usual, 1.0) + TRACE)


def vwap_distance(w: Windows) -> FloatArray:
    below = w.close[:, -1:] - w.close
    return ratio(total(w.volume * below), total(w.volume)) / (unit_return(w) * math.sqrt(w.length))


def money_flow(w: Windows) -> FloatArray:
    side = np.sign(np.diff(w.high + w.low + w.close, axis=1))
    return ratio(total(side * w.volume[:, 1:]), total(np.abs(side) * w.volume[:, 1:]))


def missing_share(w: Windows) -> FloatArray:
    return mean(w.missing)


def still_share(w: Windows) -> FloatArray:
    return np.asarray((w.high == w.low).mean(axis=1))


def _cycle(wave: np.ufunc, harmonic: int, period_s: int, start_s: int, period: str) -> Feature:
    def compute(w: Windows) -> FloatArray:
        return np.asarray(wave(((w.as_of - start_s) % period_s) * (2 * math.pi * harmonic / period_s)))

    formula = f"{wave.__name__}({2 * harmonic}π · share of the {period} gone by at the close, UTC)"
    return Feature(1, formula, "Andersen & Bollerslev 1997", compute)


def _of_day(wave: np.ufunc, harmonic: int) -> Feature:
    return _cycle(wave, harmonic, DAY_S, 0, "day")


def _of_week(wave: np.ufunc, harmonic: int) -> Feature:
    return _cycle(wave, harmonic, WEEK_S, MONDAY_S, "week (from Monday)")


ACTIVITY: dict[str, Feature] = {
    **{f"relative_volume_{n}": _relative_volume(n) for n in (1, 6, 24, 96)},
    **of_returns(
        "signed_volume",
        (12, 96),
        "Σ sign(return)·volume / Σ volume of {n} returns; 0 without volume",
        "Granville 1963 (OBV)",
        signed_volume,
    ),
    **of_candles(
        "volume_concentration",
        (24,),
        "largest volume / Σ volume of {n}; 1/{n} without volume",
        "own",
        volume_concentration,
    ),
    **of_returns(
        "volume_volatility_correlation",
        (96,),
        "correlation of |return| and volume of {n} returns",
        "Karpoff 1987",
        volume_volatility_correlation,
    ),
    **of_candles(
        "volume_variation",
        (96,),
        "standard deviation / mean of volume of {n}; 0 without volume",
        "own",
        volume_variation,
    ),
    **of_candles(
        "volume_autocorrelation",
        (168,),
        "correlation of volume with the volume before, of {n} pairs",
        "own",
        volume_autocorrelation,
        before=1,
    ),
    **of_returns(
        "illiquidity_change",
        (96,),
        "ln(a / b + 0.001), a and b: Σ |return| / Σ volume of the last quarter and of all {n} returns; "
        "a/b is 1 without volume in that quarter or without movement",
        "after Amihud 2002",
        illiquidity_change,
    ),
    **of_candles(
        "vwap_distance",
        (96,),
        "(last close - Σ volume·close / Σ volume) / (rms return · sqrt({n})), rms at least 1e-6; 0 without volume",
        "Berkowitz, Logue & Noser 1988 (VWAP)",
        vwap_distance,
    ),
    **of_returns(
        "money_flow",
        (48,),
        "Σ s·volume / Σ |s|·volume of {n}, s: sign of the change of high + low + close; 0 without any",
        "Quong & Soudack 1989, by volume alone",
        money_flow,
    ),
    **of_candles("missing_share", (288,), "share of {n} slots without a candle", "own", missing_share),
    **of_candles("still_share", (96,), "share of {n} slots with high = low, the empty ones too", "own", still_share),
    "day_sine": _of_day(np.sin, 1),
    "day_cosine": _of_day(np.cos, 1),
    "half_day_sine": _of_day(np.sin, 2),
    "half_day_cosine": _of_day(np.cos, 2),
    "week_sine": _of_week(np.sin, 1),
    "week_cosine": _of_week(np.cos, 1),
    "half_week_sine": _of_week(np.sin, 2),
    "half_week_cosine": _of_week(np.cos, 2),
}
