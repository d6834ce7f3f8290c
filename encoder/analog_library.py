"""All that one encoder saw, with what followed: the memory in which analogs are looked for and tested."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from encoder.schema import HORIZONS_S
from shared.analog_bands import (
    CALIBRATION_S,
    LEAST_MOMENTS,
    LEVELS,
    band_scores,
    calibrated_half_widths,
    conformal_factors,
    rescaled,
    rolling_factors,
)
from shared.analogs import DAY_S, Analogs, nearest_moments
from shared.clock import to_unix
from shared.db import Database
from shared.embeddings import read_embeddings
from shared.job import JobError
from shared.market_data import read_candles
from shared.rows import Candles, FloatArray, IntArray

ASKED = 500  # daily moments of the past at which the same question is asked
HALF_LIFE_S = DAY_S  # of the exponentially weighted variance
HALF_LIVES = 8  # after which its weights are cut off: what is left out is 1/256


@dataclass(frozen=True, slots=True)
class Library:
    """M moments in order of time: ``embedding`` float32 [M, 64]; ``as_of`` [M]; ``instrument`` [M]; ``outcomes``
    [M, H], NaN where not known at the end of the library; ``volatility`` [M] of a candle, known at the close."""

    embedding: NDArray[np.float32]
    as_of: IntArray
    instrument: IntArray
    outcomes: FloatArray
    volatility: FloatArray

    def volatility_at(self, instrument: IntArray, as_of: IntArray) -> FloatArray:
        """Of the moments named, [n]; each must be in the library."""
        order = np.lexsort((self.as_of, self.instrument))
        keys = self.as_of[order] + (self.instrument[order] << 40)
        return self.volatility[order[np.searchsorted(keys, as_of + (instrument << 40))]]


@dataclass(frozen=True, slots=True)
class Outlook:
    """Calibrated half widths [H, L] of the central bands of LEVELS for the log returns over HORIZONS_S.

    ``moments`` [H] past ones calibrated them, ``honest`` [H] of those came after the model was known; ``factors``
    [H, L] is by what they stretched the bands. ``covered`` [H, L]: the share of ``tested`` [H] past outcomes inside
    bands that were calibrated by the moments before them alone.
    """

    half_widths: FloatArray
    factors: FloatArray
    moments: IntArray
    honest: IntArray
    covered: FloatArray
    tested: IntArray


def read_library(
    database: Database, model_id: int, timeframe_s: int, instruments: Sequence[int], at: datetime, known_by: datetime
) -> Library:
    """What ``model_id`` saw of ``instruments`` up to ``at``, with the outcomes that were known then."""
    until = to_unix(at)
    parts = []
    for instrument_id in instruments:
        seen = read_embeddings(database, model_id, [instrument_id], timeframe_s, 0, until, known_by)[instrument_id]
        candles = read_candles(database, instrument_id, timeframe_s, 0, until)
        rows = np.searchsorted(candles.as_of, seen.as_of)  # each embedding refers to its candle
        which = np.full(len(rows), instrument_id)
        volatility = ewma_volatility(candles, timeframe_s)[rows]
        parts.append((seen.embedding, seen.as_of, which, log_returns(candles, HORIZONS_S)[rows], volatility))
    embedding, as_of, instrument, outcomes, volatility = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((instrument, as_of))
    return Library(embedding[order], as_of[order], instrument[order], outcomes[order], volatility[order])


def log_returns(candles: Candles, horizons_s: Sequence[int]) -> FloatArray:
    """Over each horizon after each candle [n, H], NaN where there is no candle at its end."""
    close = np.log(candles.close)
    returns = np.full((len(candles), len(horizons_s)), np.nan)
    for column, horizon_s in enumerate(horizons_s):
        later = np.searchsorted(candles.as_of, candles.as_of + horizon_s)
        there = np.flatnonzero(later < len(candles))
        there = there[candles.as_of[later[there]] == candles.as_of[there] + horizon_s]
        returns[there, column] = close[later[there]] - close[there]
    return returns


def ewma_volatility(candles: Candles, timeframe_s: int) -> FloatArray:
    """Of a candle's log return at each close [n]: squares weigh half after a day (RiskMetrics, 1996), cut off after
    eight; NaN at the first. A return over a gap is spread over its slots."""
    if len(candles) < 2:
        return np.full(len(candles), np.nan)
    squares = np.diff(np.log(candles.close)) ** 2 / (np.diff(candles.as_of) / timeframe_s)
    decay = math.exp(-math.log(2) * timeframe_s / HALF_LIFE_S)
    weights = decay ** np.arange(HALF_LIVES * HALF_LIFE_S // timeframe_s)
    total = np.convolve(squares, weights)[: len(squares)]
    weight = np.cumsum(weights)[np.minimum(np.arange(len(squares)), len(weights) - 1)]
    return np.concatenate([[np.nan], np.sqrt(np.maximum(total / weight, 1e-12))])


def outlook(library: Library, analogs: Analogs, instrument_id: int, at: datetime, known_from: datetime) -> Outlook:
    """What ``analogs`` of ``at`` say about the next hours, calibrated by asking the same question on the days before.

    JobError when fewer than 50 of those days can be asked.
    """
    moment = np.array([to_unix(at)])
    now = library.volatility_at(np.array([instrument_id]), moment)
    then = library.volatility_at(analogs.instrument, analogs.as_of)
    asked, found = ask_the_past(library, instrument_id, int(moment[0]), len(analogs))
    parts = []
    for h, horizon_s in enumerate(HORIZONS_S):
        magnitudes = rescaled(library.outcomes[found, h], library.volatility[found], library.volatility[asked])
        as_of, realised = library.as_of[asked], library.outcomes[asked, h]
        scores = band_scores(magnitudes, realised)
        recent = as_of >= moment[0] - CALIBRATION_S
        if recent.sum() < LEAST_MOMENTS:
            raise JobError(
                f"only {int(recent.sum())} of the 250 days before {at:%Y-%m-%d %H:%M} have {len(analogs)} analogs of "
                f"their own, at least {LEAST_MOMENTS} are needed to calibrate: embed a longer past with "
                "`make run-encoder FROM=… TO=…`"
            )
        factors = conformal_factors(scores[recent])
        rolling = rolling_factors(as_of, horizon_s, scores)
        tested = np.isfinite(rolling[:, 0])
        covered = np.abs(realised)[:, None] <= calibrated_half_widths(magnitudes, rolling)
        present = rescaled(analogs.outcomes[None, :, h], then[None], now)
        parts.append((
            calibrated_half_widths(present, factors[None])[0],
            factors,
            recent.sum(),
            (as_of[recent] >= to_unix(known_from)).sum(),
            covered[tested].mean(axis=0) if tested.any() else np.full(len(LEVELS), np.nan),
            tested.sum(),
        ))  # fmt: skip
    return Outlook(*(np.array(column) for column in zip(*parts, strict=True)))


def ask_the_past(library: Library, instrument_id: int, at: int, k: int) -> tuple[IntArray, IntArray]:
    """Rows of the newest daily moments of one instrument whose outcomes are known and which have k analogs, [n], and
    the rows of those [n, k]; no analog's outcome ended after the moment that asks."""
    measured = np.isfinite(library.outcomes).all(axis=1) & np.isfinite(library.volatility)
    known = np.flatnonzero(measured & (library.as_of <= at - max(HORIZONS_S)))
    own = library.instrument[known] == instrument_id
    daily = (at - library.as_of[known]) % DAY_S == 0
    asked = known[own & daily][-ASKED:]
    until = library.as_of[asked] - max(HORIZONS_S)
    memory = library.embedding[known], library.instrument[known], library.as_of[known]
    found = nearest_moments(*memory, library.embedding[asked], until, k)
    whole = (found >= 0).all(axis=1)
    return asked[whole], known[found[whole]]
