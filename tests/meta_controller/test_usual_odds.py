from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_controller.controller import LEANING, LONG_HORIZON_S, call_of
from meta_controller.market_index import DAY_S
from meta_controller.usual_odds import LEAST_S, REACH_S, UsualOdds

HOUR_S = 3600


def habit(odds: float, days: int, start: int = 0) -> UsualOdds:
    usual = UsualOdds()
    for t in range(start, start + days * DAY_S, HOUR_S):
        usual.add(t, 0.1, 0.1 * odds)
    return usual


def test_a_habit_is_the_mean_of_the_log_odds_before() -> None:
    usual = habit(2.0, 30)
    usual.add(30 * DAY_S, 0.1, 0.9)  # of the moment itself nothing is taken
    assert usual.before(30 * DAY_S) == pytest.approx(2.0)
    assert usual.before(31 * DAY_S) == pytest.approx(math.exp((720 * math.log(2.0) + math.log(9.0)) / 721))


def test_a_short_habit_is_none_and_an_old_one_is_forgotten() -> None:
    usual = habit(2.0, 20)
    assert usual.before(LEAST_S - 1) == 1.0
    assert usual.before(LEAST_S) == pytest.approx(2.0)
    assert usual.before(REACH_S) == pytest.approx(2.0)
    assert usual.before(REACH_S + 20 * DAY_S) == 1.0
    assert UsualOdds().before(0) == 1.0


def test_what_is_there_stays() -> None:
    usual = habit(2.0, 20)
    usual.add(HOUR_S, 0.5, 0.1)
    assert usual.before(20 * DAY_S) == pytest.approx(2.0)


@given(st.integers(0, 1000))
def test_the_order_of_adding_changes_no_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    calls = [(int(t), *rng.uniform(0.01, 0.5, 2).tolist()) for t in range(0, 20 * DAY_S, 8 * HOUR_S)]
    one, other = UsualOdds(), UsualOdds()
    for call in calls:
        one.add(*call)
    for k in rng.permutation(len(calls)):
        other.add(*calls[k])
    assert one.before(20 * DAY_S) == other.before(20 * DAY_S)


@pytest.mark.parametrize(
    ("down", "up", "usual", "regime"),
    [
        (0.10, 0.20, 1.0, "bull"), (0.10, 0.20, 2.0, "sideways"),  # up twice as likely as down, as ever: no news
        (0.10, 0.20, 2.4, "bear"), (0.20, 0.20, 1.0, "sideways"), (0.20, 0.20, 0.5, "bull"),
        (0.0, 0.0, 1.0, "sideways"), (0.0, 0.2, 1.0, "bull"), (0.2, 0.0, 1.0, "bear"),
    ],
)  # fmt: skip
def test_a_trend_is_a_leaning_away_from_what_was_usual(down: float, up: float, usual: float, regime: str) -> None:
    six = [down, 1 - down - up, up, 0.3, 0.4, 0.3]
    assert call_of(LONG_HORIZON_S, six, "made up", usual).regime == regime
    wild = [*six[:3], 0.2, 0.2, 0.6]
    expected = "volatile" if regime == "sideways" else regime
    assert call_of(LONG_HORIZON_S, wild, "made up", usual).regime == expected


def test_the_edge_belongs_to_the_trend() -> None:
    six = [0.2, 0.8 - 0.2 * LEANING, 0.2 * LEANING, 0.3, 0.4, 0.3]
    assert call_of(LONG_HORIZON_S, six, "made up").regime == "bull"
