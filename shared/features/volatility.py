"""How much the price moves, and how that changes."""

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

PERCENT = 0.01  # the unit of a volatility whose logarithm is taken
HALF_LIFE = 48.0  # candles
STRETCH = 24  # candles whose volatility is ranked among all such stretches


def _log(variance: FloatArray) -> FloatArray:
    """ln(sqrt(variance) / 1 %), the volatility at least 1e-6"""
    return 0.5 * np.log(np.maximum(variance, SMALLEST**2) / PERCENT**2)


def log_volatility(w: Windows) -> FloatArray:
    return _log(mean(returns(w) ** 2))


def log_ewma_volatility(w: Windows) -> FloatArray:
    return _log(total(returns(w) ** 2 * decay(w.length - 1, HALF_LIFE)))


def log_parkinson(w: Windows) -> FloatArray:
    return _log(mean((w.high - w.low) ** 2) / (4 * math.log(2)))


def log_garman_klass(w: Windows) -> FloatArray:
    return _log(mean(0.5 * (w.high - w.low) ** 2 - (2 * math.log(2) - 1) * (w.close - w.open) ** 2))


def log_rogers_satchell(w: Windows) -> FloatArray:
    return _log(mean((w.high - w.close) * (w.high - w.open) + (w.low - w.close) * (w.low - w.open)))


def volatility_of_volatility(w: Windows) -> FloatArray:
    ranges = w.high - w.low
    return rms(centred(np.log(ratio(ranges, ranges.mean(axis=1, keepdims=True), 1.0) + 0.1)))


def volatility_percentile(w: Windows) -> FloatArray:
    stretches = np.cumsum(returns(w) ** 2, axis=1)
    stretches[:, STRETCH:] -= stretches[:, :-STRETCH]
    stretches = stretches[:, STRETCH - 1 :]
    return np.asarray(2 * (stretches <= stretches[:, -1:]).mean(axis=1) - 1)


def volatility_change(w: Windows) -> FloatArray:
    squares = returns(w) ** 2
    half = squares.shape[1] // 2
    return _log(mean(squares[:, half:])) - _log(mean(squares[:, :half]))


def jump_share(w: Windows) -> FloatArray:
    r = returns(w)
    bipower = math.pi / 2 * total(np.abs(r[:, 1:]) * np.abs(r[:, :-1]))
    return np.maximum(1 - ratio(bipower, total(r * r), 1.0), 0.0)


def downside_share(w: Windows) -> FloatArray:
    r = returns(w)
    return 2 * ratio(total(np.minimum(r, 0.0) ** 2), total(r * r), 0.5) - 1


def largest_move(w: Windows) -> FloatArray:
    return np.asarray(np.log(np.maximum(np.abs(returns(w)).max(axis=1) / unit_return(w), 1.0)))


def _standardised(w: Windows) -> FloatArray:
    """The returns less their mean, over their standard deviation, [N, L-1]"""
    x = centred(returns(w))
    return x / np.maximum(rms(x), SMALLEST)[:, None]


def skewness(w: Windows) -> FloatArray:
    x = _standardised(w)
    return mean(x * x * x)


def kurtosis(w: Windows) -> FloatArray:
    squares = _standardised(w) ** 2
    return np.log(np.maximum(mean(squares * squares), 1.0) / 3)


def volatility_autocorrelation(w: Windows) -> FloatArray:
    return autocorrelation(np.abs(returns(w)))


def leverage_effect(w: Windows) -> FloatArray:
    r = returns(w)
    return correlation(r[:, :-1], np.abs(r[:, 1:]))


VOLATILITY: dict[str, Feature] = {
    **of_returns(
        "log_volatility",
        (1, 4, 12, 24, 48, 96, 168, 287),
        "ln(rms of {n} returns / 1 %), rms at least 1e-6",
        "Andersen & Bollerslev 1998",
        log_volatility,
    ),
    "log_ewma_volatility": Feature(
        288,
        "ln(sqrt(Σ w·return²) / 1 %), the root at least 1e-6; w halves every 48 candles of age, Σ w = 1",
        "RiskMetrics 1996",
        log_ewma_volatility,
    ),
    **of_candles(
        "log_parkinson",
        (1, 4, 12, 24, 96, 288),
        "ln(sqrt(mean of (high - low)² of {n} / (4 ln 2)) / 1 %), the root at least 1e-6",
        "Parkinson 1980",
        log_parkinson,
    ),
    "log_garman_klass_24": Feature(
        24,
        "ln(sqrt(mean of (high - low)² / 2 - (2 ln 2 - 1)·(close - open)²) / 1 %), the root at least 1e-6",
        "Garman & Klass 1980",
        log_garman_klass,
    ),
    "log_rogers_satchell_24": Feature(
        24,
        "ln(sqrt(mean of (high - close)·(high - open) + (low - close)·(low - open)) / 1 %), the root at least 1e-6",
        "Rogers & Satchell 1991",
        log_rogers_satchell,
    ),
    **of_candles(
        "volatility_of_volatility",
        (24, 288),
        "standard deviation of ln((high - low) / mean (high - low) + 0.1) over {n}",
        "Corsi et al. 2008, of ranges",
        volatility_of_volatility,
    ),
    "volatility_percentile": Feature(
        288,
        "2·(share of all stretches of 24 returns whose Σ return² is at most that of the last) - 1",
        "own",
        volatility_percentile,
    ),
    **of_returns(
        "volatility_change",
        (12, 48),
        "ln(rms of the younger half of {n} returns / rms of the older), both at least 1e-6",
        "own",
        volatility_change,
    ),
    **of_returns(
        "jump_share",
        (48, 287),
        "max(0, 1 - π/2 · Σ |return|·|return before| / Σ return²) of {n} returns; 0 without movement",
        "Barndorff-Nielsen & Shephard 2004",
        jump_share,
    ),
    **of_returns(
        "downside_share",
        (24, 96),
        "2·Σ min(return, 0)² / Σ return² - 1 of {n} returns; 0 without movement",
        "Barndorff-Nielsen, Kinnebrock & Shephard 2010",
        downside_share,
    ),
    **of_returns(
        "largest_move",
        (24, 168),
        "ln(max(1, max |return| / rms)) of {n} returns, rms at least 1e-6",
        "own",
        largest_move,
    ),
    **of_returns(
        "skewness",
        (168,),
        "mean z³ of {n}, z: (return - mean return) / standard deviation, at least 1e-6",
        "Amaya et al. 2015, of centred returns",
        skewness,
    ),
    **of_returns(
        "kurtosis",
        (168,),
        "ln(max(1, mean z⁴) / 3) of {n}, z: (return - mean return) / standard deviation, at least 1e-6",
        "Amaya et al. 2015, of centred returns",
        kurtosis,
    ),
    **of_returns(
        "volatility_autocorrelation",
        (168,),
        "correlation of |return| with the |return| before, of {n} returns",
        "Ding, Granger & Engle 1993",
        volatility_autocorrelation,
    ),
    **of_returns(
        "leverage_effect",
        (168,),
        "correlation of a return with the next |return|, of {n} returns",
        "Black 1976",
        leverage_effect,
    ),
}
