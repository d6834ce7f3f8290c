"""Bands cover what they claim, also where the ensemble they are drawn from is wrong; nothing of the future is used."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.analog_bands import (
    CALIBRATION_S,
    LEAST_MOMENTS,
    LEVELS,
    band_scores,
    calibrated_ensemble,
    calibrated_half_widths,
    conformal_factors,
    half_widths,
    rescaled,
    rolling_factors,
)
from shared.rows import FloatArray

DAY = 86_400


def draw(rng: np.random.Generator, n: int, k: int = 50, wrong: float = 1.0) -> tuple[FloatArray, FloatArray]:
    """Magnitudes [n, k] ``wrong`` times too small, and outcomes [n] of the true distribution (Student, 4 degrees)."""
    volatility = rng.lognormal(-5, 0.5, n)
    outcomes = rng.standard_t(4, (n, k)) / wrong
    return rescaled(outcomes, np.ones((n, k)), volatility), rng.standard_t(4, n) * volatility


def covered(magnitudes: FloatArray, factors: FloatArray, realised: FloatArray) -> FloatArray:
    return np.asarray((np.abs(realised)[:, None] <= calibrated_half_widths(magnitudes, factors)).mean(axis=0))


@pytest.mark.parametrize("wrong", [0.5, 1.0, 3.0])
def test_a_miscalibrated_ensemble_is_mended(wrong: float) -> None:
    rng = np.random.default_rng(1)
    magnitudes, realised = draw(rng, 4_000, wrong=wrong)
    raw = covered(magnitudes, np.ones((4_000, 3)), realised)
    if wrong != 1.0:
        assert np.abs(raw - LEVELS).max() > 0.1
    factors = rolling_factors(np.arange(4_000) * DAY, DAY, band_scores(magnitudes, realised))
    known = np.isfinite(factors[:, 0])
    assert known.sum() == 4_000 - LEAST_MOMENTS
    assert covered(magnitudes[known], factors[known], realised[known]) == pytest.approx(LEVELS, abs=0.015)


def test_the_factor_of_a_right_ensemble_is_one() -> None:
    rng = np.random.default_rng(2)
    magnitudes, realised = draw(rng, 20_000, k=400)
    assert conformal_factors(band_scores(magnitudes, realised)) == pytest.approx(1.0, abs=0.03)


def test_conformal_ranks_are_those_of_the_theorem() -> None:
    """⌈(n + 1)·level⌉-th smallest: of 99 scores the 50th, 80th and 90th, of 100 one more."""
    scores = np.repeat(np.random.default_rng(3).permutation(np.arange(1.0, 101.0))[:, None], 3, axis=1)
    assert conformal_factors(scores).tolist() == [51.0, 81.0, 91.0]
    assert conformal_factors(scores[scores[:, 0] < 100]).tolist() == [50.0, 80.0, 90.0]
    with pytest.raises(ValueError, match="49 past moments"):
        conformal_factors(scores[:49])


@given(st.integers(0, 200), st.integers(1, 12))
def test_no_factor_knows_an_outcome_that_had_not_ended(changed: int, horizon_hours: int) -> None:
    rng = np.random.default_rng(changed)
    as_of = np.cumsum(rng.integers(1, 9, 240)) * 3600
    scores = rng.lognormal(0, 1, (240, 3))
    before = rolling_factors(as_of, horizon_hours * 3600, scores)
    scores[changed:] = 1e6
    after = rolling_factors(as_of, horizon_hours * 3600, scores)
    safe = as_of < as_of[changed] + horizon_hours * 3600
    assert np.array_equal(before[safe], after[safe], equal_nan=True)
    late = np.flatnonzero(~safe & np.isfinite(before[:, 0]))
    if len(late):
        assert not np.array_equal(before[late], after[late])


def test_rolling_factors_forget_what_is_older_than_250_days_and_skip_the_unknown() -> None:
    as_of = np.arange(600) * DAY
    scores = np.ones((600, 3))
    scores[:200] = 9.0
    assert rolling_factors(as_of, DAY, scores)[450].tolist() == [1.0, 1.0, 1.0]
    assert CALIBRATION_S == 250 * DAY
    scores[300:, 1] = np.nan
    assert (
        rolling_factors(as_of, DAY, scores)[301].tolist()
        == rolling_factors(as_of[:300], DAY, scores[:300])[-1].tolist()
    )
    assert np.isnan(rolling_factors(as_of, DAY, scores)[599]).all()


def test_rescaling_is_free_of_scale() -> None:
    """Outcomes at twice the volatility, seen from half of it, say the same."""
    outcomes = np.random.default_rng(4).normal(0, 1, (3, 20))
    plain = rescaled(outcomes, np.ones((3, 20)), np.ones(3))
    assert np.array_equal(plain, np.sort(np.abs(outcomes), axis=1))
    assert rescaled(2 * outcomes, np.full((3, 20), 2.0), np.full(3, 0.5)) == pytest.approx(plain / 2)


def test_the_ensemble_and_the_bands_are_of_one_distribution() -> None:
    rng = np.random.default_rng(5)
    magnitudes, _ = draw(rng, 50, k=2_000)
    factors = np.tile([1.1, 1.3, 1.6], (50, 1))
    ensemble = calibrated_ensemble(magnitudes, factors)
    assert ensemble.shape == (50, 4_000)
    assert np.array_equal(np.sort(ensemble, axis=1), np.sort(-ensemble, axis=1))
    of_ensemble = np.quantile(np.abs(ensemble), LEVELS, axis=1).T
    assert of_ensemble == pytest.approx(calibrated_half_widths(magnitudes, factors), rel=0.01)
    assert np.array_equal(calibrated_ensemble(magnitudes, np.ones((50, 3)))[:, 2_000:], magnitudes)


def test_a_wider_band_never_reaches_less_far() -> None:
    magnitudes, _ = draw(np.random.default_rng(6), 5)
    widths = calibrated_half_widths(magnitudes, np.tile([3.0, 1.0, 0.1], (5, 1)))
    assert (np.diff(widths, axis=1) >= 0).all()
    assert np.array_equal(widths[:, 0], 3.0 * half_widths(magnitudes)[:, 0])
