from __future__ import annotations

import numpy as np
import pytest

from meta_controller.controller import LONG_HORIZON_S
from meta_controller.outcomes import outcomes, volatility_terciles
from meta_controller.regimes.har_logit import EXPERT, SPANS_S, features
from tests.meta_controller.markets import HOUR_S, history_of
from tests.meta_controller.test_logit import (
    assert_a_call_knows_its_own_past_only,
    assert_bars_may_be_of_any_length,
    assert_calls_are_probabilities,
    assert_too_short_a_past_is_not_learnt_from,
    market,
)


def test_calls_are_probabilities_whatever_the_market() -> None:
    assert_calls_are_probabilities(EXPERT)


def test_a_call_knows_its_own_past_only() -> None:
    assert_a_call_knows_its_own_past_only(EXPERT)


def test_bars_may_be_of_any_length() -> None:
    assert_bars_may_be_of_any_length(EXPERT)


def test_too_short_a_past_is_not_learnt_from() -> None:
    assert_too_short_a_past_is_not_learnt_from(EXPERT)


def test_volatility_is_measured_against_the_terciles_of_its_label() -> None:
    history = market(2000)
    _, volatility = features(history, LONG_HORIZON_S, np.array([1999]))
    terciles = np.log(volatility_terciles(history, 24)[1999])
    for column, span in enumerate(SPANS_S):
        window = history.returns[2000 - span // HOUR_S :]
        of_a_day = 0.5 * np.log((window**2).mean() * 24)
        assert volatility[0, column] == pytest.approx(of_a_day - terciles.mean(), abs=1e-9)
    assert volatility[0, 4] == pytest.approx(terciles[1] - terciles[0], abs=1e-12)


def test_a_fall_is_a_rise_with_the_sign_turned() -> None:
    returns = market(2000).returns
    rise, _ = features(history_of(returns), LONG_HORIZON_S, np.arange(1900, 2000))
    fall, _ = features(history_of(-returns), LONG_HORIZON_S, np.arange(1900, 2000))
    assert fall[:, :4] == pytest.approx(-rise[:, :4])
    assert fall[:, 4:] == pytest.approx(rise[:, 4:])
    last = returns[-24:]
    assert rise[-1, 1] == pytest.approx(np.clip(last.sum() / np.sqrt((last**2).sum()), -4, 4))


def test_volatility_that_lasts_is_called_better_than_its_frequencies() -> None:
    history = market(10_000, seed=2)
    past = history.upto(history.first + 6999 * HOUR_S)
    assert EXPERT.fit is not None
    calls = EXPERT.call(history, EXPERT.fit(past) or {}, 3000)[:-24, 1, 3:]
    happened = np.eye(3)[outcomes(history, LONG_HORIZON_S).volatility[7000:-24]]
    brier = ((calls - happened) ** 2).sum(axis=1).mean()
    assert brier < 0.9 * ((happened - happened.mean(axis=0)) ** 2).sum(axis=1).mean()
