"""Whether what followed the moments that an encoder finds says more than what followed moments found simply.

Every method draws k past moments, has its outcomes rescaled, mirrored and calibrated alike (shared/analog_bands.py),
and is scored by CRPS and by the coverage of its bands. The same rows are scored for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.schema import HORIZONS_S
from shared.analog_bands import (
    LEVELS,
    band_scores,
    calibrated_ensemble,
    calibrated_half_widths,
    rescaled,
    rolling_factors,
)
from shared.analogs import nearest_moments
from shared.forecast_tests import Estimate, coverage_error, estimate
from shared.market_data import BoolArray
from shared.rows import FloatArray, IntArray
from shared.scores import crps_loss, pit

K = 50
EMBARGO_S = 86_400  # between the end of an analog's outcome and the question
DECILES = np.arange(1, 10) / 10
PIT_BINS = 10

# How each method finds its moments, and whose volatility forecast rescales their outcomes (None: as they were).
METHODS: dict[str, tuple[str, str | None]] = {
    "analogs": ("analogs", "forecast"),
    "analogs_ewma": ("analogs", "volatility"),  # as `make analogs` shows them
    "analogs_raw": ("analogs", None),
    "matched_random": ("matched", None),
    "ewma_random": ("random", "volatility"),
    "har_random": ("random", "har"),
    "forecast_random": ("random", "forecast"),
    "unconditional": ("random", None),
}
BASELINES = ("matched_random", "ewma_random", "har_random", "forecast_random", "unconditional")


@dataclass(frozen=True, slots=True)
class Moments:
    """n moments. ``embedding`` float32 [n, 64], of length 1; ``as_of`` [n] closes in Unix seconds; ``instrument`` [n];
    ``outcomes`` [n, H] log returns over the horizons, NaN where not known; volatility of a candle as known at the
    close: ``volatility`` [n] EWMA of half-life one day, ``har`` [n, H] and ``forecast`` [n, H] those of the next
    horizons by HAR and by the encoder."""

    embedding: NDArray[np.float32]
    as_of: IntArray
    instrument: IntArray
    outcomes: FloatArray
    volatility: FloatArray
    har: FloatArray
    forecast: FloatArray

    def __len__(self) -> int:
        return len(self.as_of)

    def select(self, chosen: BoolArray | IntArray) -> Moments:
        return replace(self, **{name: getattr(self, name)[chosen] for name in self.__slots__})


def score_retrieval(
    library: Moments,
    queries: Moments,
    horizons_s: Sequence[int] = HORIZONS_S,
    k: int = K,
    seed: int = 0,
    scored_after: int | None = None,
) -> dict[str, Any]:
    """The scores of every method by horizon (as ``"86400s"``), fit for JSON; ValueError where nothing can be scored.

    A question at t is answered from moments of ``library`` whose longest outcome ended a day before t. Questions
    with fewer than k such moments, or too few past ones to calibrate by, are not scored; those up to
    ``scored_after`` (Unix seconds) only calibrate later ones: give 250 days of them. Matched moments are of the same
    decile of trailing volatility; the deciles are of the moments known by the first question scored.
    """
    library = library.select(np.flatnonzero(np.isfinite(library.outcomes).all(axis=1)))
    library = library.select(np.argsort(library.as_of, kind="stable"))
    queries = queries.select(np.lexsort((queries.as_of, queries.instrument)))
    drawn, answered = _draw(library, queries, max(horizons_s) + EMBARGO_S, k, seed, scored_after)
    queries = queries.select(answered)
    scores: dict[str, Any] = {"k": k, "library": len(library), "horizons": {}}
    for h, horizon_s in enumerate(horizons_s):
        scores["horizons"][f"{horizon_s}s"] = _score_horizon(library, queries, drawn, h, horizon_s, scored_after)
    return scores


def _draw(
    library: Moments, queries: Moments, before_s: int, k: int, seed: int, scored_after: int | None
) -> tuple[dict[str, IntArray], BoolArray]:
    """Indices into ``library`` [answered, k] by way of finding them, and which questions got all of theirs."""
    until = queries.as_of - before_s
    edges = _deciles(library, queries, before_s, k, scored_after)
    rng = np.random.default_rng(seed)
    ends = np.searchsorted(library.as_of, until, side="right")
    nearest = nearest_moments(library.embedding, library.instrument, library.as_of, queries.embedding, until, k)
    matched = _draw_matched(library, queries, until, k, edges, rng)
    answered = np.asarray((np.hstack([nearest, matched]) >= 0).all(axis=1))
    if not answered.any():
        raise ValueError(
            f"none of {len(queries)} questions finds {k} analogs among {len(library)} moments that ended a day before: "
            "evaluate over a longer span"
        )
    random = np.minimum((rng.random((len(queries), k)) * ends[:, None]).astype(np.int64), ends[:, None] - 1)
    found = {"analogs": nearest, "matched": matched, "random": random}
    return {name: rows[answered] for name, rows in found.items()}, answered


def _deciles(library: Moments, queries: Moments, before_s: int, k: int, scored_after: int | None) -> FloatArray:
    """The bounds of trailing volatility [9], of what was known at the first question scored: those before it only
    calibrate, and would leave too little to take deciles of."""
    scored = queries.as_of if scored_after is None else queries.as_of[queries.as_of > scored_after]
    least = (len(DECILES) + 1) * k
    known = library.volatility[library.as_of <= scored.min() - before_s] if len(scored) else library.volatility[:0]
    if len(known) < least:
        raise ValueError(
            f"{len(known)} of {len(library)} moments ended a day before the first question scored, at least {least} "
            "are needed: evaluate over a longer span"
        )
    return np.asarray(np.quantile(known, DECILES))


def _draw_matched(
    library: Moments, queries: Moments, until: IntArray, k: int, edges: FloatArray, rng: np.random.Generator
) -> IntArray:
    """Random moments of the same decile, by its bounds, of trailing volatility; -1 where it has none yet."""
    of_library, of_queries = np.searchsorted(edges, library.volatility), np.searchsorted(edges, queries.volatility)
    found = np.full((len(queries), k), -1, dtype=np.int64)
    for decile in range(len(DECILES) + 1):
        pool, asked = np.flatnonzero(of_library == decile), np.flatnonzero(of_queries == decile)
        ends = np.searchsorted(library.as_of[pool], until[asked], side="right")
        asked, ends = asked[ends > 0], ends[ends > 0]
        place = (rng.random((len(asked), k)) * ends[:, None]).astype(np.int64)
        found[asked] = pool[np.minimum(place, ends[:, None] - 1)]
    return found


@dataclass(frozen=True, slots=True)
class _Forecasts:
    """One method's calibrated distributions for the scored questions of one horizon."""

    loss: FloatArray  # [n], CRPS
    half_widths: FloatArray  # [n, L]
    pit: FloatArray  # [n]


def _score_horizon(
    library: Moments, queries: Moments, drawn: dict[str, IntArray], h: int, horizon_s: int, scored_after: int | None
) -> dict[str, Any]:
    realised = queries.outcomes[:, h]
    magnitudes: dict[str, FloatArray] = {}
    factors: dict[str, FloatArray] = {}
    for method, (way, scale) in METHODS.items():
        rows = drawn[way]
        then, now = _scale(library, scale, h)[rows], _scale(queries, scale, h)
        magnitudes[method] = rescaled(library.outcomes[rows, h], then, now)
        factors[method] = _factors(queries, horizon_s, band_scores(magnitudes[method], realised))
    scored = np.isfinite(realised) & np.isfinite(np.stack([f[:, 0] for f in factors.values()])).all(axis=0)
    if scored_after is not None:
        scored &= queries.as_of > scored_after
    if not scored.any():
        raise ValueError(f"no question over {horizon_s} s can be calibrated by past ones: evaluate over a longer span")
    forecasts = {
        name: _forecasts(magnitudes[name][scored], factors[name][scored], realised[scored]) for name in METHODS
    }
    asked = queries.select(scored)
    return {
        "questions": int(scored.sum()),
        "methods": {name: _score(f, asked, realised[scored], horizon_s) for name, f in forecasts.items()},
        "gains": {
            name: {other: _gain(f, forecasts[other], asked, horizon_s) for other in BASELINES}
            for name, f in forecasts.items()
            if name not in BASELINES
        },
    }


def _scale(moments: Moments, scale: str | None, h: int) -> FloatArray:
    if scale is None:
        return np.ones(len(moments))
    volatility: FloatArray = getattr(moments, scale)
    return volatility if volatility.ndim == 1 else volatility[:, h]


def _factors(queries: Moments, horizon_s: int, scores: FloatArray) -> FloatArray:
    factors = np.empty_like(scores)
    for instrument in np.unique(queries.instrument):
        own = queries.instrument == instrument
        factors[own] = rolling_factors(queries.as_of[own], horizon_s, scores[own])
    return factors


def _forecasts(magnitudes: FloatArray, factors: FloatArray, realised: FloatArray) -> _Forecasts:
    ensemble = calibrated_ensemble(magnitudes, factors)
    return _Forecasts(
        crps_loss(ensemble, realised), calibrated_half_widths(magnitudes, factors), pit(ensemble, realised)
    )


def _score(forecasts: _Forecasts, asked: Moments, realised: FloatArray, horizon_s: int) -> dict[str, Any]:
    """CRPS as the mean over instruments of their means; coverage with its error by a test that knows that horizons
    overlap and instruments move together; Spearman's rank correlation of the 80 % band with what it was for."""
    steps = _steps(asked.as_of, horizon_s)
    coverage = {}
    for column, level in enumerate(LEVELS.tolist()):
        hits = np.abs(realised) <= forecasts.half_widths[:, column]
        error = coverage_error(hits, level, steps, asked.as_of)
        coverage[f"{level:.0%}"] = {"share": float(hits.mean()), "error": _plain(error), "p": error.p_two_sided}
    counts, _ = np.histogram(forecasts.pit, bins=PIT_BINS, range=(0.0, 1.0))
    spread = [
        _spearman(forecasts.half_widths[own, 1], np.abs(realised[own])) for own in _each_instrument(asked.instrument)
    ]
    return {
        "crps": _mean_over_instruments(forecasts.loss, asked.instrument),
        "coverage": coverage,
        "pit": (counts / counts.sum()).tolist(),
        "spread_spearman": float(np.mean(spread)),
    }


def _gain(own: _Forecasts, other: _Forecasts, asked: Moments, horizon_s: int) -> dict[str, Any]:
    """By what share the CRPS is lower, instruments weighing alike, and whether by chance (Diebold and Mariano)."""
    share = np.empty(len(asked))
    for mask in _each_instrument(asked.instrument):
        share[mask] = (other.loss[mask] - own.loss[mask]) / other.loss[mask].mean()
    test = estimate(share, _steps(asked.as_of, horizon_s), asked.as_of)
    mean = _mean_over_instruments(share, asked.instrument)
    return {"share": mean, "test": _plain(test), "p_better": test.p_above, "t": test.statistic}


def _plain(test: Estimate) -> dict[str, float]:
    return {"mean": float(test.mean), "variance": float(test.variance), "n": int(test.n)}


def _steps(as_of: IntArray, horizon_s: int) -> int:
    """How many questions, at the usual distance, a horizon spans."""
    times = np.unique(as_of)
    return 1 if len(times) < 2 else max(1, int(np.ceil(horizon_s / np.median(np.diff(times)))))


def _each_instrument(instrument: IntArray) -> list[BoolArray]:
    return [np.asarray(instrument == one) for one in np.unique(instrument)]


def _mean_over_instruments(values: FloatArray, instrument: IntArray) -> float:
    return float(np.mean([values[own].mean() for own in _each_instrument(instrument)]))


def _spearman(a: FloatArray, b: FloatArray) -> float:
    """Rank correlation; 0 where one of them does not vary. Ties, rare in measured values, rank as they come."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    x, y = (np.argsort(np.argsort(values, kind="stable")) for values in (a, b))
    return float(np.corrcoef(x, y)[0, 1])
