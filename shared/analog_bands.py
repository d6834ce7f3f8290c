"""Honest bands from what followed analogs: rescaled, mirrored, and stretched until they cover what they claim.

The direction of what follows cannot be told from analogs (the median of fifty returns is mostly noise, and costs
about 2 % of CRPS over 24 hours), so an ensemble is the outcomes' magnitudes, each with either sign. Bands are
central: that of level p reaches as far as p of the magnitudes. Split conformal prediction stretches them by how far
past outcomes lay beyond the bands that were drawn for them (Lei et al., JASA 113, 2018; scores as ratios to the band).
"""

from __future__ import annotations

import numpy as np

from shared.rows import FloatArray, IntArray

LEVELS = np.array([0.5, 0.8, 0.9])
CALIBRATION_S = 250 * 86_400
LEAST_MOMENTS = 50  # fewer past outcomes say too little about a band of 90 %
SMALLEST = 1e-12


def rescaled(outcomes: FloatArray, then: FloatArray, now: FloatArray) -> FloatArray:
    """Magnitudes [Q, k], ascending, of ``outcomes`` [Q, k] at the volatility forecast ``now`` [Q] instead of the
    one that was made ``then`` [Q, k] for each of them."""
    return np.sort(np.abs(outcomes) * (now[:, None] / then), axis=1)


def half_widths(magnitudes: FloatArray) -> FloatArray:
    """How far each central band of LEVELS reaches from 0 [Q, L]; ``magnitudes`` [Q, k]."""
    return np.asarray(np.quantile(magnitudes, LEVELS, axis=1).T)


def band_scores(magnitudes: FloatArray, realised: FloatArray) -> FloatArray:
    """How far outcomes ``realised`` [Q] lay out, in half widths of each band [Q, L]; NaN where not known."""
    return np.asarray(np.abs(realised)[:, None] / np.maximum(half_widths(magnitudes), SMALLEST))


def conformal_factors(scores: FloatArray) -> FloatArray:
    """What to stretch each band by [L], so that an outcome like those of ``scores`` [n, L] is inside with at least
    its level's probability: the ⌈(n + 1)·level⌉-th smallest score. ValueError for fewer than 50."""
    n = len(scores)
    if n < LEAST_MOMENTS:
        raise ValueError(f"{n} past moments cannot calibrate bands, at least {LEAST_MOMENTS} are needed")
    ranks = np.minimum(np.ceil((n + 1) * LEVELS - SMALLEST).astype(np.int64), n) - 1
    return np.asarray(np.sort(scores, axis=0)[ranks, np.arange(len(LEVELS))])


def rolling_factors(as_of: IntArray, horizon_s: int, scores: FloatArray) -> FloatArray:
    """The factors [Q, L] that could be had at each of one instrument's moments ``as_of`` [Q], ascending.

    Each from the ``scores`` [Q, L] of the 250 days before whose outcome was known by then; NaN where those are
    fewer than 50. A score that is not known (NaN) is left out.
    """
    known = np.flatnonzero(~np.isnan(scores).any(axis=1))
    first = np.searchsorted(as_of[known], as_of - CALIBRATION_S, side="left")
    last = np.searchsorted(as_of[known], as_of - horizon_s, side="right")
    factors = np.full(scores.shape, np.nan)
    for row, (a, b) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        if b - a >= LEAST_MOMENTS:
            factors[row] = conformal_factors(scores[known[a:b]])
    return factors


def calibrated_half_widths(magnitudes: FloatArray, factors: FloatArray) -> FloatArray:
    """Half widths [Q, L] stretched by ``factors`` [Q, L]; a wider band never reaches less far than a narrower."""
    return np.asarray(np.maximum.accumulate(half_widths(magnitudes) * factors, axis=1))


def calibrated_ensemble(magnitudes: FloatArray, factors: FloatArray) -> FloatArray:
    """The whole distribution [Q, 2k]: each magnitude stretched by the factor of its own level (between LEVELS by
    interpolation, beyond them by the nearest), with either sign."""
    k = magnitudes.shape[1]
    levels = (np.arange(k) + 0.5) / k
    share = np.stack([np.interp(levels, LEVELS, unit) for unit in np.eye(len(LEVELS))])  # [L, k]
    stretched = magnitudes * (factors @ share)
    return np.concatenate([-stretched, stretched], axis=1)
