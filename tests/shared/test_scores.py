"""Each score against its slow definition, and the laws it keeps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import scores
from shared.rows import FloatArray

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(2, 40)


def drawn(seed: int, n: int) -> tuple[FloatArray, FloatArray]:
    """Two series with ties between and within them."""
    rng = np.random.default_rng(seed)
    return np.round(rng.normal(0, 1, n), 1), np.round(rng.normal(0, 1, n), 1)


def test_r2_is_one_for_the_truth_zero_for_its_mean_and_undefined_for_a_constant() -> None:
    actual = np.array([1.0, 2.0, 6.0])
    assert scores.r2(actual, actual) == 1.0
    assert scores.r2(actual, np.full(3, 3.0)) == 0.0
    assert scores.r2(actual, np.array([1.0, 2.0, 3.0])) == pytest.approx(1 - 9 / 14)
    assert math.isnan(scores.r2(np.ones(3), np.ones(3)))
    assert math.isnan(scores.r2(np.empty(0), np.empty(0)))


@given(seeds, sizes, st.floats(0.1, 10))
def test_qlike_is_zero_for_the_truth_above_it_elsewhere_and_without_unit(seed: int, n: int, unit: float) -> None:
    rng = np.random.default_rng(seed)
    variance, forecast = rng.uniform(0.1, 5, n), rng.uniform(0.1, 5, n)
    loss = scores.qlike_loss(variance, forecast)
    assert (loss >= 0).all()
    assert scores.qlike_loss(variance, variance) == pytest.approx(np.zeros(n))
    assert scores.qlike_loss(unit * variance, unit * forecast) == pytest.approx(loss)


def test_qlike_of_half_and_double() -> None:
    loss = scores.qlike_loss(np.array([1.0, 2.0]), np.array([2.0, 1.0]))
    assert loss == pytest.approx([0.5 + math.log(2) - 1, 2 - math.log(2) - 1])
    with pytest.raises(ValueError, match="above zero"):
        scores.qlike_loss(np.array([0.0]), np.array([1.0]))
    with pytest.raises(ValueError, match="above zero"):
        scores.qlike_loss(np.array([1.0]), np.array([0.0]))


def test_log_loss_and_brier_by_hand() -> None:
    probability = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    happened = np.array([1, 1, 2])
    assert scores.log_loss(probability, happened) == pytest.approx([math.log(4), 0.0, -math.log(1e-12)])
    assert scores.brier_loss(probability, happened) == pytest.approx([0.25 + 0.5625 + 0.0625, 0.0, 2.0])


def test_macro_f1_by_hand() -> None:
    actual, forecast = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    assert scores.macro_f1(actual, forecast, 2) == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert scores.macro_f1(actual, forecast, 3) == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert scores.macro_f1(actual, np.zeros(4, int), 2) == pytest.approx((2 / 3 + 0) / 2)
    assert math.isnan(scores.macro_f1(np.empty(0, int), np.empty(0, int), 2))


@given(seeds, sizes)
def test_auroc_is_the_share_of_pairs_in_order(seed: int, n: int) -> None:
    score, other = drawn(seed, n)
    happened = other > 0
    pairs = [(1.0 if a > b else 0.5 if a == b else 0.0) for a in score[happened] for b in score[~happened]]
    area, influence = scores.auroc_parts(score, happened)
    if not pairs:
        assert math.isnan(area)
        return
    assert area == pytest.approx(np.mean(pairs))
    assert scores.auroc(score, happened) == area
    assert influence.mean() == pytest.approx(0, abs=1e-12)
    assert scores.auroc(np.exp(score), happened) == pytest.approx(area)
    assert scores.auroc(-score, happened) == pytest.approx(1 - area)


def test_the_influences_have_the_variance_of_the_area() -> None:
    rng = np.random.default_rng(3)
    areas, variances = [], []
    for _ in range(400):
        happened = rng.random(200) < 0.3
        area, influence = scores.auroc_parts(rng.normal(0, 1, 200) + happened, happened)
        areas.append(area)
        variances.append(influence.var() / 200)
    assert np.mean(variances) == pytest.approx(np.var(areas), rel=0.15)


@given(seeds, sizes)
def test_average_precision_is_the_sum_over_thresholds(seed: int, n: int) -> None:
    score, other = drawn(seed, n)
    happened = other > 0
    if not happened.any():
        assert math.isnan(scores.average_precision(score, happened))
        return
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(score), reverse=True):
        called = score >= threshold
        recall = (called & happened).sum() / happened.sum()
        total += (recall - recall_before) * (called & happened).sum() / called.sum()
        recall_before = recall
    assert scores.average_precision(score, happened) == pytest.approx(total)


@given(seeds, sizes, st.integers(1, 12))
def test_crps_is_the_expectation_over_all_pairs(seed: int, n: int, members: int) -> None:
    rng = np.random.default_rng(seed)
    samples, actual = np.round(rng.normal(0, 1, (n, members)), 1), np.round(rng.normal(0, 1, n), 1)
    weights = rng.uniform(0.1, 1, (n, members))
    for given_weights, w in ((None, np.ones_like(samples)), (weights, weights)):
        w = w / w.sum(1, keepdims=True)
        pairs = np.abs(samples[:, :, None] - samples[:, None, :]) * w[:, :, None] * w[:, None, :]
        slow = (w * np.abs(samples - actual[:, None])).sum(1) - pairs.sum((1, 2)) / 2
        fast = scores.crps_loss(samples, actual, given_weights)
        assert fast == pytest.approx(slow)
        assert (fast >= -1e-12).all()
        assert scores.crps_loss(samples + 5, actual + 5, given_weights) == pytest.approx(fast)
        assert scores.crps_loss(-3 * samples, -3 * actual, given_weights) == pytest.approx(3 * fast)


def test_crps_is_twice_the_integral_of_the_pinball_loss() -> None:
    rng = np.random.default_rng(1)
    samples, actual = rng.normal(0, 1, (3, 7)), rng.normal(0, 1, 3)
    levels = (np.arange(7000) + 0.5) / 7000
    error = actual[:, None] - np.sort(samples, axis=1)[:, (levels * 7).astype(int)]
    pinball = np.maximum(levels * error, (levels - 1) * error).mean(axis=1)
    assert 2 * pinball == pytest.approx(scores.crps_loss(samples, actual), abs=1e-4)


def test_pit_by_hand_and_uniform_when_calibrated() -> None:
    samples = np.array([[1.0, 2.0, 3.0, 4.0]])
    assert scores.pit(samples, np.array([2.0])) == pytest.approx([0.375])
    assert scores.pit(samples, np.array([2.5]), np.array([[3.0, 1.0, 0.0, 0.0]])) == pytest.approx([1.0])
    rng = np.random.default_rng(5)
    ranks = scores.pit(rng.normal(0, 1, (4000, 200)), rng.normal(0, 1, 4000))
    assert np.quantile(ranks, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.03)


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="3 forecasts cannot be scored against 2 outcomes"):
        scores.crps_loss(np.zeros((3, 2)), np.zeros(2))
