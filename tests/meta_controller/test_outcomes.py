from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_controller.outcomes import (
    LEAST_REFERENCE_S,
    REFERENCE_S,
    UNKNOWN,
    outcomes,
    realised_volatility,
    volatility_terciles,
)
from tests.meta_controller.markets import HOUR_S, history_of, wandering

DAY = 24
HORIZON_S = DAY * HOUR_S


def test_a_label_is_of_what_follows_and_known_when_it_has_passed() -> None:
    history = history_of(wandering(2000)[0])
    found = outcomes(history, HORIZON_S)
    i = 1000
    ahead = history.returns[i + 1 : i + 1 + DAY]
    assert found.log_return[i] == pytest.approx(ahead.sum())
    assert found.realised[i] == pytest.approx(np.sqrt((ahead**2).sum()))
    assert found.t_statistic[i] == pytest.approx(ahead.sum() / np.sqrt((ahead**2).sum()))
    assert found.efficiency[i] == pytest.approx(abs(ahead.sum()) / np.abs(ahead).sum())
    assert (found.trend[-DAY:] == UNKNOWN).all()
    assert (found.volatility[-DAY:] == UNKNOWN).all()
    assert found.trend[-DAY - 1] != UNKNOWN


@pytest.mark.parametrize(
    ("path", "trend"),
    [
        ([1.0] * 24, 2), ([-1.0] * 24, 0), ([1.0, -1.0] * 12, 1),
        ([3.0] + [0.2, -0.2] * 11 + [0.2], 2),  # t = 1, efficiency 0.4
        ([1.0, -0.6] * 12, 1),  # t = 1.2 but efficiency 0.25: it went up and down
    ],
)  # fmt: skip
def test_a_trend_is_strong_and_straight(path: list[float], trend: int) -> None:
    returns = wandering(1000)[0]
    returns[501:525] = np.array(path) * 1e-3
    assert outcomes(history_of(returns), HORIZON_S).trend[500] == trend


def test_terciles_are_of_the_last_half_year_and_known_at_the_moment() -> None:
    history = history_of(wandering(9000)[0])
    longest = REFERENCE_S // HOUR_S
    found, volatility = volatility_terciles(history, DAY), realised_volatility(history, DAY)
    for i in (3000, 5000, 8999):
        seen = np.sort(volatility[max(DAY - 1, i - longest + 1) : i + 1])
        assert found[i].tolist() == [seen[len(seen) // 3], seen[2 * len(seen) // 3]]
    least = LEAST_REFERENCE_S // HOUR_S
    assert np.isnan(found[: DAY - 1 + least - 1]).all()
    assert not np.isnan(found[DAY - 1 + least - 1 :]).any()


def test_the_classes_are_a_third_each_where_nothing_changes() -> None:
    found = outcomes(history_of(0.01 * np.random.default_rng(1).standard_normal(9000)), HORIZON_S)
    share = np.bincount(found.volatility[found.volatility >= 0], minlength=3) / (found.volatility >= 0).sum()
    assert share == pytest.approx([1 / 3] * 3, abs=0.05)


def test_a_market_that_stands_still_is_flat_and_low() -> None:
    found = outcomes(history_of(np.zeros(1000)), HORIZON_S)
    assert (found.trend[600], found.volatility[600]) == (1, 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(400, 700), st.sampled_from([1, 4, 24]), st.integers(0, 100))
def test_a_longer_history_changes_no_label(end: int, h: int, seed: int) -> None:
    returns = wandering(720, seed)[0]
    whole, early = outcomes(history_of(returns), h * HOUR_S), outcomes(history_of(returns[:end]), h * HOUR_S)
    for name in ("trend", "volatility", "log_return", "realised", "t_statistic", "efficiency"):
        assert getattr(early, name)[: end - h].tobytes() == getattr(whole, name)[: end - h].tobytes()
    assert volatility_terciles(history_of(returns[:end]), h).tobytes() == (
        volatility_terciles(history_of(returns), h)[:end].tobytes()
    )


def test_without_two_weeks_to_compare_with_there_is_no_label() -> None:
    found = outcomes(history_of(wandering(600)[0]), HORIZON_S)
    first = DAY - 1 + LEAST_REFERENCE_S // HOUR_S - 1  # the terciles' first bar
    for labels in (found.trend, found.volatility):
        assert (labels[:first] == UNKNOWN).all()
        assert (labels[first:-DAY] != UNKNOWN).all()
