"""Scores on planted forecasters, whose truth is known: calibrated, overconfident, lucky, ahead of their time."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_controller import scoring
from meta_controller.scored_rows import Happened
from meta_controller.scoring import (
    BLOCK_DAYS,
    DAY_S,
    PRIOR_CALLS,
    YEAR_S,
    calibration_error,
    climatology,
    compare,
    fit_temperature,
    mean_interval,
    persistence,
    recalibrate,
    recalibrate_as_known,
    reliability,
    rps_loss,
    scores_of,
)
from shared.rows import FloatArray, IntArray
from shared.scores import brier_loss, log_loss
from shared.settings import PROJECT

HOUR = 3600
Loss = Callable[[FloatArray, IntArray], FloatArray]
TRIPLES = st.tuples(*[st.floats(0.01, 1.0)] * 3).map(lambda w: np.array(w) / sum(w))


def drawn(p: FloatArray, rng: np.random.Generator) -> IntArray:
    """What happens when the calls are true."""
    return (rng.random(len(p))[:, None] > np.cumsum(p, axis=1)[:, :2]).sum(axis=1)


def calibrated(n: int, seed: int, sharpness: float = 2.0) -> tuple[FloatArray, IntArray]:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([sharpness] * 3, n)
    return p, drawn(p, rng)


def daily(n: int) -> IntArray:
    return DAY_S * np.arange(n)


def followed(classes: IntArray, as_of: IntArray, horizon_s: int) -> Happened:
    zeros = np.zeros(len(as_of))
    return Happened(as_of, np.column_stack([classes, classes]), zeros, zeros, as_of + horizon_s)


# ── scores ──


@pytest.mark.parametrize("loss", [brier_loss, rps_loss, log_loss])
@given(truth=TRIPLES, called=TRIPLES)
def test_nobody_gains_by_calling_what_they_do_not_believe(loss: Loss, truth: FloatArray, called: FloatArray) -> None:
    every = np.arange(3)

    def expected(p: FloatArray) -> float:
        return float(truth @ loss(np.tile(p, (3, 1)), every))

    assert expected(truth) <= expected(called) + 1e-12
    if np.abs(truth - called).max() > 0.01:
        assert expected(truth) < expected(called)


def test_to_miss_by_two_classes_costs_more_than_by_one() -> None:
    sure_of_up = np.tile([0.0, 0.0, 1.0], (3, 1))
    assert rps_loss(sure_of_up, np.array([0, 1, 2])).tolist() == [1.0, 0.5, 0.0]
    assert brier_loss(sure_of_up, np.array([0, 1, 2])).tolist() == [2.0, 2.0, 0.0]  # which does not know of order


def test_scores_are_means_over_all_calls() -> None:
    p, happened = calibrated(60, seed=1)
    scores = scores_of(p, happened, daily(60))
    assert scores.calls == 60
    assert scores.brier == pytest.approx(brier_loss(p, happened).mean())
    assert scores.log_loss == pytest.approx(log_loss(p, happened).mean())
    with pytest.raises(ValueError, match="cannot be scored"):
        rps_loss(p[:1], happened)
    with pytest.raises(ValueError, match="no call"):
        scores_of(p[:0], happened[:0], daily(0))


# ── the references ──


def test_climatology_counts_a_year_of_what_was_known_and_one_more_of_each() -> None:
    as_of = DAY_S * np.arange(500)
    classes = np.where(np.arange(500) < 120, 0, 2)
    past = followed(classes, as_of, DAY_S)
    shares = climatology(past, 0, as_of[[0, 1, 10, 499]])
    np.testing.assert_allclose(shares[0], [1 / 3] * 3)  # nothing has happened yet
    np.testing.assert_allclose(shares[1], [2 / 4, 1 / 4, 1 / 4])  # the first day has passed
    np.testing.assert_allclose(shares[2], [11 / 13, 1 / 13, 1 / 13])
    np.testing.assert_allclose(shares[3], [1 / 368, 1 / 368, 366 / 368])  # the first months are forgotten


def test_climatology_has_no_skill_against_itself() -> None:
    as_of, rng = daily(300), np.random.default_rng(2)
    past = followed(rng.integers(0, 3, 300), as_of, DAY_S)
    loss = brier_loss(climatology(past, 0, as_of), past.classes[:, 0])
    assert compare(loss, loss, as_of) == scoring.Comparison(300, 0.0, 1.0)


def markov_chain(n: int, matrix: FloatArray, seed: int) -> IntArray:
    rng, state, states = np.random.default_rng(seed), 0, []
    for u in rng.random(n):
        state = int((u > np.cumsum(matrix[state])[:2]).sum())
        states.append(state)
    return np.array(states)


MATRIX = np.array([[0.8, 0.17, 0.03], [0.03, 0.7, 0.27], [0.37, 0.03, 0.6]])  # it goes round: backwards is another


def test_persistence_reaches_the_brier_score_that_a_markov_chain_allows() -> None:
    """Knowing the chain, the expected loss is 1 - Σ_j P_ij² in state i."""
    as_of = daily(6000)
    past = followed(markov_chain(6000, MATRIX, seed=3), as_of, DAY_S)
    values, vectors = np.linalg.eig(MATRIX.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    theory = float((stationary / stationary.sum()) @ (1.0 - (MATRIX**2).sum(axis=1)))
    told = as_of[YEAR_S // DAY_S :]
    reached = brier_loss(persistence(past, 0, DAY_S, told), past.classes[YEAR_S // DAY_S :, 0]).mean()
    assert reached == pytest.approx(theory, abs=0.02)
    usual = brier_loss(climatology(past, 0, told), past.classes[YEAR_S // DAY_S :, 0]).mean()
    assert reached < usual - 0.1


def test_persistence_counts_from_horizon_to_horizon_not_from_row_to_row() -> None:
    """Hourly rows of a horizon of four hours: hour by hour nothing changes, horizon by horizon everything does."""
    as_of = HOUR * np.arange(800)
    past = followed((np.arange(800) // 4) % 2 * 2, as_of, 4 * HOUR)
    p = persistence(past, 0, 4 * HOUR, as_of[-1:])
    assert past.classes[-5, 0] != past.classes[-1, 0]
    assert p[0, past.classes[-1, 0]] > 0.95


def test_a_gap_is_no_transition_and_what_ended_long_ago_does_not_persist() -> None:
    as_of = np.concatenate([daily(100), daily(100) + 200 * DAY_S])
    classes = np.concatenate([np.zeros(100, np.int64), np.full(100, 2)])
    past = followed(classes, as_of, DAY_S)
    end = as_of[-1] + DAY_S
    np.testing.assert_allclose(persistence(past, 0, DAY_S, np.array([end]))[0], [1 / 102, 1 / 102, 100 / 102])
    to_up_from_down = persistence(past, 0, DAY_S, np.array([100 * DAY_S]))[0]  # the first run has just ended
    np.testing.assert_allclose(to_up_from_down, [100 / 102, 1 / 102, 1 / 102])
    in_the_gap = np.array([150 * DAY_S])
    np.testing.assert_array_equal(persistence(past, 0, DAY_S, in_the_gap), climatology(past, 0, in_the_gap))


@given(cut=st.integers(1, 59), seed=st.integers(0, 1000))
def test_no_reference_knows_what_was_not_known_yet(cut: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    as_of = np.sort(rng.choice(200, 60, replace=False)) * HOUR
    classes, other = rng.integers(0, 3, (2, 60))
    now = np.array([as_of[cut] + 4 * HOUR - 1])  # the horizon of row `cut` has not ended
    changed = followed(np.where(np.arange(60) < cut, classes, other), as_of, 4 * HOUR)
    past = followed(classes, as_of, 4 * HOUR)
    np.testing.assert_array_equal(climatology(past, 0, now), climatology(changed, 0, now))
    np.testing.assert_array_equal(persistence(past, 0, 4 * HOUR, now), persistence(changed, 0, 4 * HOUR, now))


def test_a_reference_without_any_past_calls_a_third_each() -> None:
    nothing = followed(np.empty(0, np.int64), np.empty(0, np.int64), DAY_S)
    for p in (climatology(nothing, 1, daily(2)), persistence(nothing, 1, DAY_S, daily(2))):
        np.testing.assert_allclose(p, np.full((2, 3), 1 / 3))


# ── differences and chance ──


def overlapping(days: int, rng: np.random.Generator) -> FloatArray:
    """Hourly differences of forecasts for 48 hours, none on average: each shares 47 hours with the next."""
    noise = np.cumsum(np.concatenate([[0.0], rng.standard_normal(days * 24 + 47)]))
    return np.asarray(noise[48:] - noise[:-48]) / 48


def test_two_equally_good_forecasters_are_told_apart_about_as_often_as_promised() -> None:
    as_of, rng = HOUR * np.arange(150 * 24), np.random.default_rng(4)
    worlds = [compare(1.0 + 0.0 * d, 1.0 + d, as_of).p < 0.05 for d in (overlapping(150, rng) for _ in range(300))]
    assert 0.02 <= np.mean(worlds) <= 0.09


def test_a_better_forecaster_is_found_and_the_worse_one_is_not() -> None:
    as_of, rng = HOUR * np.arange(200 * 24), np.random.default_rng(5)
    worse = 0.6 + overlapping(200, rng)
    found = compare(worse - 0.06, worse, as_of)
    assert found.p < 0.01
    assert found.skill == pytest.approx(0.1, abs=0.01)
    assert compare(worse, worse - 0.06 + 0.01 * overlapping(200, rng), as_of).p > 0.99


def test_less_than_four_blocks_of_days_prove_nothing() -> None:
    few = HOUR * np.arange(4 * BLOCK_DAYS * 24)
    assert math.isnan(compare(np.zeros(len(few)), np.ones(len(few)), few).p)
    assert math.isnan(mean_interval(np.ones(len(few)), few).low)
    enough = HOUR * np.arange(4 * BLOCK_DAYS * 24 + 1)
    assert compare(np.zeros(len(enough)), np.ones(len(enough)), enough).p < 0.01


def test_days_without_calls_weigh_nothing() -> None:
    rng = np.random.default_rng(6)
    days = np.concatenate([np.arange(60), 400 + np.arange(60)]) * DAY_S
    values = rng.standard_normal(120) + 5.0
    interval = mean_interval(values, days)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low < 5.0 < interval.high
    assert interval.high - interval.low == pytest.approx(4 / math.sqrt(120), rel=0.5)


# ── calibration and its repair ──


def uncorrected(p: FloatArray, happened: IntArray, as_of: IntArray) -> float:
    squares = []
    for k in range(3):
        calls, _, gap, _ = scoring._bins(p[:, k], happened == k, as_of)
        squares.append((gap**2 * calls).sum() / calls.sum())
    return float(np.sqrt(np.mean(squares)))


def test_what_is_calibrated_has_no_calibration_error_though_chance_alone_looks_like_one() -> None:
    found = [(calibration_error(*one, daily(200)), uncorrected(*one, daily(200)))
             for one in (calibrated(200, seed) for seed in range(60))]  # fmt: skip
    corrected, plain = np.median(found, axis=0)
    assert corrected < 0.03
    assert plain > 0.08


def test_calls_that_say_the_same_24_times_a_day_are_no_evidence_of_miscalibration() -> None:
    """As if each were new, the correction would be 24 times too small."""
    found = []
    for seed in range(60):
        p, happened = (np.repeat(part, 24, axis=0) for part in calibrated(120, seed))
        found.append(calibration_error(p, happened, HOUR * np.arange(120 * 24)))
    assert np.median(found) < 0.04


def test_the_overconfident_are_found_out_and_their_temperature_is_the_planted_one() -> None:
    p, happened = calibrated(3000, seed=8)
    shouted = recalibrate(p, 0.5)
    before, after = (scores_of(q, happened, daily(3000)) for q in (shouted, recalibrate(shouted, 2.0)))
    assert before.ece > 0.05 > 0.02 > after.ece
    assert before.temperature == pytest.approx(2.0 ** (3000 / (3000 + PRIOR_CALLS)), rel=0.05)
    assert after.temperature == pytest.approx(1.0, abs=0.05)
    assert before.log_loss > after.log_loss


def test_the_band_of_the_curve_holds_what_is_calibrated_and_not_what_is_not() -> None:
    inside, outside = [], []
    for seed in range(40):
        p, happened = calibrated(600, seed)
        for called, kept in ((p, inside), (recalibrate(p, 0.4), outside)):
            curve = reliability(called, happened, daily(600))
            kept.append(np.mean((curve.observed >= curve.low) & (curve.observed <= curve.high)))
    assert np.mean(inside) > 0.88
    assert np.mean(outside) < 0.5


def test_a_forecaster_who_always_says_the_same_has_one_bin() -> None:
    happened = np.random.default_rng(9).integers(0, 3, 300)
    constant = np.tile([0.2, 0.3, 0.5], (300, 1))
    assert len(reliability(constant, happened, daily(300)).forecast) == 3
    expected = math.sqrt(((np.array([0.2, 0.3, 0.5]) - np.bincount(happened) / 300) ** 2).mean())
    assert calibration_error(constant, happened, daily(300)) == pytest.approx(expected, abs=0.01)


@given(p=TRIPLES, temperature=st.floats(0.25, 10.0))
def test_a_temperature_keeps_order_and_sum_and_moves_towards_even_odds(p: FloatArray, temperature: float) -> None:
    cooled = recalibrate(p, temperature)
    assert cooled.sum() == pytest.approx(1.0, abs=1e-12)
    assert (np.diff(cooled[np.argsort(p)]) >= -1e-12).all()
    assert (cooled.max() - p.max()) * (temperature - 1.0) <= 1e-12
    np.testing.assert_allclose(recalibrate(p, 1.0), p, atol=1e-15)


def test_a_temperature_leaves_what_was_impossible_finite() -> None:
    sure = np.array([[1.0, 0.0, 0.0]])
    assert np.isfinite(recalibrate(sure, 0.25)).all()
    assert 1.0 < fit_temperature(np.tile(sure, (30, 1)), np.tile([0, 0, 1], 10)) <= 10.0
    for nonsense in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature"):
            recalibrate(sure, nonsense)


def test_few_calls_hardly_move_the_temperature_and_none_leave_it_at_one() -> None:
    p, happened = calibrated(5000, seed=10)
    shouted = recalibrate(p, 1 / 3)
    found = [fit_temperature(shouted[:n], happened[:n]) for n in (0, 10, 100, 5000)]
    assert found[0] == 1.0
    assert abs(math.log(found[1])) < math.log(3.0) / 2
    assert found[3] == pytest.approx(3.0, rel=0.1)
    assert fit_temperature(np.full((50, 3), 1 / 3), happened[:50]) == 1.0  # no temperature changes even odds


def test_a_call_is_corrected_only_by_what_was_known_before_it() -> None:
    p, happened = calibrated(400, seed=11)
    shouted, as_of = recalibrate(p, 0.5), daily(400)
    corrected = recalibrate_as_known(shouted, happened, as_of, as_of + DAY_S)
    changed = np.where(np.arange(400) < 200, happened, (happened + 1) % 3)
    np.testing.assert_array_equal(corrected[:200], recalibrate_as_known(shouted, changed, as_of, as_of + DAY_S)[:200])
    np.testing.assert_allclose(corrected[:5], shouted[:5], atol=1e-12)  # nothing was known
    assert log_loss(corrected, happened)[100:].mean() < log_loss(shouted, happened)[100:].mean()


def test_who_reads_the_scorecard_for_a_prompt_loads_no_table_and_no_picture() -> None:
    code = "import sys, meta_controller.scoring; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert {"rich", "matplotlib", "scipy", "pandas"}.isdisjoint(run.stdout.split())
