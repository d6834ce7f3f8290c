from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from meta_controller.market_index import BLOCK_S, DAY_S
from meta_controller.regimes import change_point
from meta_controller.regimes.change_point import (
    DRIFT_T,
    EXPERT,
    MEMORY_S,
    RUN_S,
    SHAPE,
    STEP_S,
    run_posterior,
    student_cdf,
)
from tests.meta_controller.markets import HOUR_S, SEGMENT_BARS, history_of, segments
from tests.meta_controller.test_logit import (
    assert_a_call_knows_its_own_past_only,
    assert_bars_may_be_of_any_length,
    assert_calls_are_probabilities,
    assert_too_short_a_past_is_not_learnt_from,
    market,
)

Run = tuple[int, float, float, float, float, float]  # start, probability; mean, precision, shape, rate


def density(x: float, freedom: float, centre: float = 0.0, scale: float = 1.0) -> float:
    """Student's t."""
    z = (x - centre) / scale
    log_norm = math.lgamma(0.5 * (freedom + 1)) - math.lgamma(0.5 * freedom) - 0.5 * math.log(freedom * math.pi)
    return math.exp(log_norm - 0.5 * (freedom + 1) * math.log1p(z * z / freedom)) / scale


def below(x: float, freedom: float) -> float:
    """P(T < x), by Simpson's rule from 0."""
    values = [density(x * k / 200, freedom) for k in range(201)]
    return 0.5 + x / 600 * (values[0] + 4 * sum(values[1:-1:2]) + 2 * sum(values[2:-1:2]) + values[-1])


def test_calls_are_probabilities_whatever_the_market() -> None:
    assert_calls_are_probabilities(EXPERT)


def test_a_call_knows_its_own_past_only() -> None:
    assert_a_call_knows_its_own_past_only(EXPERT)


def test_bars_may_be_of_any_length() -> None:
    assert_bars_may_be_of_any_length(EXPERT)


def test_too_short_a_past_is_not_learnt_from() -> None:
    assert_too_short_a_past_is_not_learnt_from(EXPERT)


def test_a_return_is_measured_in_the_volatility_before_it() -> None:
    scaled = change_point._scaled(history_of(np.append(np.tile([0.001, -0.001], 100), 0.003)))
    assert np.diff(scaled.first)[-1] == pytest.approx(3.0, abs=1e-9)
    jump = change_point._scaled(history_of(np.append(np.tile([0.001, -0.001], 100), -0.1)))
    assert np.diff(jump.first)[-1] == pytest.approx(-change_point.LONGEST_Z, abs=1e-9)


def test_the_posterior_is_that_of_adams_and_mackay() -> None:
    """Their recursion, bar by bar: grow each run by its Student's t predictive, or let one begin where it may."""
    history = market(60 * 24, seed=5)
    n, step = len(history), STEP_S // HOUR_S
    scaled = change_point._scaled(history)
    z = np.diff(scaled.first)
    week = (history.first + (n - 1) * HOUR_S - 1) // BLOCK_S * BLOCK_S
    phase = (week - MEMORY_S - history.first) // HOUR_S + 1
    survival = 1 - STEP_S / RUN_S
    prior = RUN_S / HOUR_S / DRIFT_T**2
    runs: list[Run] = [(0, 1.0, 0.0, prior, SHAPE, SHAPE)]  # start, probability, mean, precision, shape, rate
    for t in range(n):
        if t and (t - phase) % step == 0:
            runs = [(s, p * survival, m, k, a, b) for s, p, m, k, a, b in runs]
            runs.append((t, 1 - survival, 0.0, prior, SHAPE, SHAPE))
        grown: list[Run] = []
        for s, p, m, k, a, b in runs:
            likelihood = density(z[t], 2 * a, m, math.sqrt(b * (k + 1) / (a * k)))
            rate = b + 0.5 * k * (z[t] - m) ** 2 / (k + 1)
            grown.append((s, p * likelihood, (k * m + z[t]) / (k + 1), k + 1, a + 0.5, rate))
        total = sum(run[1] for run in grown)
        runs = [(s, p / total, m, k, a, b) for s, p, m, k, a, b in grown if p / total > 1e-12]
    found = run_posterior(history, np.array([n - 1]))
    recent = sum(p for s, p, *_ in runs if n - s <= DAY_S // HOUR_S)
    assert found.changed[0] == pytest.approx(recent, rel=1e-4, abs=1e-9)
    assert found.age[0] == pytest.approx(math.log(sum(p * (n - s) for s, p, *_ in runs) / step), abs=1e-4)
    t_value = sum(p * m / math.sqrt(b / (a * k)) for _, p, m, k, a, b in runs)
    assert found.t[0] == pytest.approx(t_value, abs=1e-4)
    up = sum(p * below(m / math.sqrt(b / (a * k)), 2 * a) for _, p, m, k, a, b in runs)
    assert found.up[0] == pytest.approx(up, abs=3e-3)


@pytest.mark.parametrize("freedom", [4.0, 5.0, 30.0, 1000.0])
def test_students_distribution_is_close(freedom: float) -> None:
    t = np.linspace(-8.0, 8.0, 161)
    assert student_cdf(t, np.full(161, freedom)) == pytest.approx(np.array([below(x, freedom) for x in t]), abs=8e-3)


def test_a_change_is_noticed_and_forgotten() -> None:
    rng = np.random.default_rng(3)
    returns = 0.005 * rng.standard_normal(3000)
    returns[2600:] *= 3.0
    changed = run_posterior(history_of(returns), np.arange(2400, 3000)).changed
    assert changed[:190].max() < 0.2
    assert changed[205:225].max() > 0.9
    assert np.quantile(changed[250:], 0.9) < 0.2


def test_a_rise_is_a_fall_with_the_sign_turned() -> None:
    history = market(3000)
    rows = np.arange(2900, 3000)
    rise = run_posterior(history, rows)
    fall = run_posterior(dataclasses.replace(history, returns=-history.returns), rows)
    assert fall.t == pytest.approx(-rise.t, abs=1e-9)
    assert fall.up == pytest.approx(1.0 - rise.up, abs=1e-9)
    assert fall.log_volatility == pytest.approx(rise.log_volatility, abs=1e-12)


def test_synthetic_segments_are_told_apart() -> None:
    returns, trend, wild = segments(seed=11, count=40)
    rows = np.arange(60 * 24, len(returns))
    found = run_posterior(history_of(returns), rows)
    settled = rows % SEGMENT_BARS >= 48
    rising, high = found.t > 0, found.log_volatility > np.log(0.005 * math.sqrt(2.0))
    right = ((rising == (trend[rows] == 2))[settled].mean(), (high == (wild[rows] == 2))[settled].mean())
    turns = (np.diff(rising.astype(int)) != 0).mean() * 24
    print(f"trend {right[0]:.1%} right, volatility {right[1]:.1%}, {turns:.2f} turns a day")
    assert min(right) >= 0.9
    assert turns < 1.0
