from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from meta_controller.controller import LONG_HORIZON_S
from meta_controller.market_index import MarketHistory
from meta_controller.outcomes import outcomes
from meta_controller.regimes import har_logit
from meta_controller.regimes.range_logit import EXPERT, RANGE_SPANS_S, features, weekly_pattern
from shared.rows import FloatArray
from tests.meta_controller.markets import HOUR_S, history_of
from tests.meta_controller.test_logit import (
    assert_a_call_knows_its_own_past_only,
    assert_bars_may_be_of_any_length,
    assert_calls_are_probabilities,
    assert_too_short_a_past_is_not_learnt_from,
    market,
)


def weekly(bars: int, seed: int = 0) -> tuple[MarketHistory, FloatArray]:
    """A market whose volatility wanders and is three times as high on four days as on three; the pattern [168].

    The range is that of 40 steps within the hour.
    """
    base = market(bars, seed)
    hours = (base.as_of - HOUR_S) // HOUR_S % 168
    pattern = np.where(hours // 24 < 4, 1.5, 0.5)
    rng = np.random.default_rng(seed)
    steps = (
        rng.standard_normal((bars, 40)) * (0.005 * pattern * np.sqrt(np.abs(base.variance) / 1e-5) / 40**0.5)[:, None]
    )
    paths = np.concatenate([np.zeros((bars, 1)), steps.cumsum(axis=1)], axis=1)
    variance = (paths.max(axis=1) - paths.min(axis=1)) ** 2 / (4 * np.log(2))
    history = dataclasses.replace(base, returns=paths[:, -1].copy(), variance=variance)
    return history, np.where(np.arange(168) // 24 < 4, 1.5, 0.5) ** 2


def test_calls_are_probabilities_whatever_the_market() -> None:
    assert_calls_are_probabilities(EXPERT)


def test_a_call_knows_its_own_past_only() -> None:
    assert_a_call_knows_its_own_past_only(EXPERT)


def test_bars_may_be_of_any_length() -> None:
    assert_bars_may_be_of_any_length(EXPERT)


def test_too_short_a_past_is_not_learnt_from() -> None:
    assert_too_short_a_past_is_not_learnt_from(EXPERT)


def test_the_weeks_pattern_is_found() -> None:
    history, pattern = weekly(9000)
    found = weekly_pattern(history)
    assert np.corrcoef(found, pattern)[0, 1] > 0.9
    assert found.mean() == pytest.approx(1.0, abs=0.1)


def test_without_a_pattern_none_is_found() -> None:
    rng = np.random.default_rng(0)
    found = weekly_pattern(history_of(0.005 * rng.choice([-1.0, 1.0], 9000)))
    assert np.abs(found - 1.0).max() < 1e-9


def test_the_pattern_is_taken_out_of_the_past_and_put_into_the_hours_ahead() -> None:
    pattern = np.where(np.arange(168) % 24 < 12, 1.6, 0.4)
    hours = (history_of(np.zeros(3000)).as_of - HOUR_S) // HOUR_S % 168
    history = history_of(0.005 * np.sqrt(pattern[hours]))
    rows = np.arange(2900, 3000)
    known = features(history, 4 * HOUR_S, rows, pattern)
    logs = known.volatility[:, : len(RANGE_SPANS_S)]
    assert logs == pytest.approx(np.full(logs.shape, np.log(0.005)), abs=1e-9)
    ahead = [0.5 * np.log(pattern[(hours[row] + np.arange(1, 5)) % 168].mean()) for row in rows]
    assert known.volatility[:, -1] == pytest.approx(np.array(ahead), abs=1e-12)


def test_where_the_week_has_a_pattern_it_calls_better_than_har_logit() -> None:
    history, _ = weekly(9000, seed=1)
    past = history.upto(history.first + 6999 * HOUR_S)
    happened = np.eye(3)[outcomes(history, LONG_HORIZON_S).volatility[7000:-24]]
    brier = {}
    for name, expert in (("range", EXPERT), ("har", har_logit.EXPERT)):
        assert expert.fit is not None
        calls = expert.call(history, expert.fit(past) or {}, 2000)[:-24, 1, 3:]
        brier[name] = ((calls - happened) ** 2).sum(axis=1).mean()
    assert brier["range"] < 0.9 * brier["har"]
