from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_controller.bounds import BOUNDS, check, check_change
from meta_controller.controller import HORIZONS_S, Proposal, Steering, call_of
from meta_controller.rules import STEERING
from meta_controller.steering import Past, blend, config_row, moved_by, operators_choice, state_rows, steering_of
from shared.settings import RiskSettings
from tests.helpers import NOON

HOUR = timedelta(hours=1)
BULL, BEAR = STEERING["bull"], STEERING["bear"]
NAMES = ("drl", "cash", "trend_vol_target")


@st.composite
def steerings(draw: st.DrawFn) -> Steering:
    numbers = {name: draw(st.floats(low, high)) for name, (low, high) in BOUNDS.items()}
    raw = draw(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=3))
    weights = {name: value / sum(raw) for name, value in zip(NAMES, raw, strict=False)}
    return Steering(**numbers, pause=draw(st.booleans()), strategy_weights=weights)


def proposed(steering: Steering) -> Proposal:
    calls = tuple(call_of(horizon_s, [0.2, 0.5, 0.3, 0.3, 0.4, 0.3], "made up") for horizon_s in HORIZONS_S)
    return Proposal(calls, steering, "made up")


@settings(deadline=None)
@given(steerings(), steerings(), st.floats(0.0, 1.0))
def test_a_blend_lies_between_and_within_bounds(rules: Steering, llm: Steering, weight: float) -> None:
    mixed = blend(rules, llm, weight)
    assert check(proposed(mixed)) == []
    for name in BOUNDS:
        low, high = sorted((getattr(rules, name), getattr(llm, name)))
        assert low - 1e-12 <= getattr(mixed, name) <= high + 1e-12
    assert mixed.pause == (rules.pause or llm.pause)


def test_a_blend_of_none_or_all_of_the_llm_is_one_of_the_two() -> None:
    llm = replace(BEAR, strategy_weights={"cash": 0.6, "drl": 0.4})
    assert blend(BULL, llm, 0.0) == BULL
    assert blend(BULL, llm, 1.0) == llm
    half = blend(BULL, llm, 0.5)
    assert half.max_exposure == pytest.approx(0.65)
    assert half.strategy_weights == {"cash": pytest.approx(0.3), "drl": pytest.approx(0.7)}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 30), steerings()), min_size=1, max_size=8))
def test_a_track_never_moves_faster_than_an_hours_change_allows(steps: list[tuple[int, Steering]]) -> None:
    past, at = Past([]), NOON
    for hours, target in steps:
        at += hours * HOUR
        before = past.before("live", at)
        moved = past.move("live", at, target)
        assert check(proposed(moved)) == []
        if before is None:
            assert moved == target
        else:
            assert check_change(before[0], moved, before[1]) == []


def test_the_row_an_hour_earlier_is_what_a_change_is_measured_from() -> None:
    rows = [config_row("live", NOON + minutes * HOUR / 60, "rules", replace(BULL, max_exposure=x), "", 3600)
            for minutes, x in ((0, 0.5), (30, 0.6), (45, 0.7))]  # fmt: skip
    past = Past(rows)
    assert past.before("live", NOON + HOUR / 2) is None
    found = past.before("live", NOON + HOUR)
    assert found is not None
    assert (found[0].max_exposure, found[1]) == (0.5, 1.0)
    found = past.before("live", NOON + 2 * HOUR)
    assert found is not None
    assert (found[0].max_exposure, found[1]) == (0.7, 1.25)
    assert past.before("rules", NOON + 2 * HOUR) is None


def test_the_stored_row_in_force_is_the_newest_before() -> None:
    rows = [
        replace(config_row("live", NOON + hours * HOUR, "rules", BULL, "", 3600), id=10 + hours) for hours in (2, 0, 1)
    ]
    past = Past([*rows, replace(config_row("rules", NOON + 2 * HOUR, "rules", BULL, "", 3600), id=99)])
    past.move("live", NOON + 3 * HOUR, BEAR)  # not stored
    assert [past.newest_id("live", NOON + hours * HOUR) for hours in (0, 1, 2, 3, 4)] == [None, 10, 11, 12, 12]


def test_a_stored_row_stands_for_what_would_be_computed_anew() -> None:
    past = Past([config_row("rules", NOON, "rules", BULL, "", 3600)])
    assert past.has("rules", NOON)
    assert past.move("rules", NOON, BEAR) == BEAR  # no earlier row: nothing holds it
    found = past.before("rules", NOON + HOUR)
    assert found is not None
    assert found[0] == BULL  # but what was stored at noon is what counts afterwards


def test_rows_say_what_they_are_still_on_their_way_to() -> None:
    past = Past([config_row("live", NOON, "rules", BULL, "", 3600)])
    moved = past.move("live", NOON + HOUR, BEAR)
    told = moved_by("bear", BEAR, moved)
    assert told.startswith("bear; still on its way in risk_aversion, ")
    assert "max_exposure" in told
    assert moved_by("bull", BULL, BULL) == "bull"
    row = config_row("live", NOON + HOUR, "rules", moved, told, 3600)
    assert steering_of(row) == moved
    assert (row.known_from, row.valid_until) == (NOON + HOUR, NOON + 4 * HOUR)


def test_the_static_track_is_the_operators_limits() -> None:
    risk = RiskSettings(max_position=0.2, max_exposure=0.6, daily_loss_limit=0.03, max_drawdown=0.1)
    chosen = operators_choice(NOON, risk)
    assert (chosen.max_position, chosen.max_exposure, chosen.daily_loss_limit, chosen.max_drawdown) == (
        0.2,
        0.6,
        0.03,
        0.1,
    )
    assert check(proposed(chosen)) == []


def test_a_state_is_valid_for_its_horizon() -> None:
    rows = state_rows("llm", NOON, "llm", proposed(BULL).calls)
    assert [(row.horizon_s, row.valid_until - NOON) for row in rows] == [
        (horizon_s, timedelta(seconds=horizon_s)) for horizon_s in HORIZONS_S
    ]
    assert {row.regime for row in rows} == {"bull"}  # up 1.5 times as likely as down
