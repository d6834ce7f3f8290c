from __future__ import annotations

import math
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st
from psycopg.errors import CheckViolation
from psycopg.types.json import Jsonb

from meta_controller.bounds import (
    BOUNDS,
    CHANGE_TOLERANCE,
    MAX_CHANGE,
    MAX_WEIGHT_CHANGE,
    OPERATOR_LIMITS,
    SAFE_DEFAULT,
    approach,
    check,
    check_change,
    check_operator,
    within_operator,
)
from meta_controller.controller import HORIZONS_S, HorizonCall, Proposal, Steering
from meta_controller.rules import STEERING as RULES
from meta_controller.rules import TARGET_VOLATILITY
from shared.db import Database, load_queries
from shared.settings import RiskSettings
from tests.helpers import DatabaseFor

pytestmark = pytest.mark.usefixtures("rolled_back")

AS_OF = datetime(2024, 6, 1, 12, tzinfo=UTC)
STEERING = Steering(3.0, 1.0, 1.0, 0.35, 0.8, 0.4, 0.05, 0.15, False, {"drl": 1.0})
CALLS = tuple(HorizonCall(h, 0.2, 0.3, 0.5, 0.1, 0.6, 0.3, 0.2, "made up") for h in HORIZONS_S)
SOUND = Proposal(CALLS, STEERING, "made up")
EDGES = [(name, edge) for name in BOUNDS for edge in (0, 1)]


def with_steering(**changes: Any) -> Proposal:
    return replace(SOUND, steering=replace(STEERING, **changes))


def with_call(**changes: Any) -> Proposal:
    return replace(SOUND, calls=(CALLS[0], replace(CALLS[1], **changes)))


def beyond(name: str, edge: int) -> float:
    return math.nextafter(BOUNDS[name][edge], math.inf if edge else -math.inf)


def test_a_sound_proposal_passes() -> None:
    assert check(SOUND) == []


@pytest.mark.parametrize(("name", "edge"), EDGES)
def test_a_number_at_its_bound_passes_and_the_next_one_is_refused(name: str, edge: int) -> None:
    assert check(with_steering(**{name: BOUNDS[name][edge]})) == []
    assert len(check(with_steering(**{name: beyond(name, edge)}))) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308, None, "0.3", True, [0.3]])
@pytest.mark.parametrize("name", BOUNDS)
def test_what_is_no_number_is_refused(name: str, value: Any) -> None:
    (problem,) = check(with_steering(**{name: value}))
    assert problem.startswith(f"{name} is ")


@pytest.mark.parametrize(
    "proposal",
    [
        with_steering(pause="no"),
        with_steering(pause=0),
        with_steering(strategy_weights={}),
        with_steering(strategy_weights=[("drl", 1.0)]),
        with_steering(strategy_weights={"drl": 0.5}),
        with_steering(strategy_weights={"drl": 1.5, "trend_vol_target": -0.5}),
        with_steering(strategy_weights={"drl": math.nan}),
        with_call(p_up=0.6),
        with_call(p_up=math.nan),
        with_call(p_down=-0.2, p_flat=0.7),
        with_call(p_vol_low=0.2),
        with_call(conviction=1.01),
        with_call(conviction=math.nan),
        with_call(horizon_s=HORIZONS_S[0]),
        with_call(horizon_s=7 * 86400),
        with_call(reasons=""),
        replace(SOUND, calls=CALLS[:1]),
        replace(SOUND, calls=()),
        replace(SOUND, reasons=""),
        replace(SOUND, reasons="x" * 2001),
    ],
)
def test_anything_out_of_bounds_rejects_the_proposal(proposal: Proposal) -> None:
    assert check(proposal)


def test_every_violation_is_named() -> None:
    problems = check(replace(with_steering(risk_aversion=99.0, pause=None), reasons=""))
    assert [problem.split()[0] for problem in problems] == ["risk_aversion", "pause", "reasons"]


def test_the_operator_only_tightens() -> None:
    risk = RiskSettings(max_position=0.1, max_exposure=1.0, daily_loss_limit=0.05, max_drawdown=0.02)
    tightened = within_operator(STEERING, risk)
    assert tightened == replace(STEERING, max_position=0.1, max_drawdown=0.02)
    assert set(OPERATOR_LIMITS) < set(BOUNDS)
    assert check_operator(tightened, risk) == []
    assert [problem.split()[0] for problem in check_operator(STEERING, risk)] == ["max_position", "max_drawdown"]


def test_the_safe_default_trades_and_takes_no_more_risk_than_any_rule() -> None:
    assert check(replace(SOUND, steering=SAFE_DEFAULT)) == []
    assert not SAFE_DEFAULT.pause
    assert SAFE_DEFAULT.target_volatility <= min(TARGET_VOLATILITY.values())
    for rule in RULES.values():
        for name in ("risk_aversion", "turnover_penalty", "drawdown_penalty"):
            assert getattr(SAFE_DEFAULT, name) >= getattr(rule, name)
        for name in OPERATOR_LIMITS:
            assert getattr(SAFE_DEFAULT, name) <= getattr(rule, name)


def test_what_a_writer_leaves_out_gets_its_safe_default(database_for: DatabaseFor) -> None:
    database = database_for("meta_controller")
    told = {"as_of": AS_OF, "until": AS_OF + timedelta(hours=1)}
    database.execute(
        "INSERT INTO policy_config (track, as_of, source, reasons, valid_until, known_from, recorded_at)"
        " VALUES ('live', %(as_of)s, 'a hand', '', %(until)s, %(as_of)s, %(as_of)s)",
        told,
    )
    (row,) = database.fetch("SELECT * FROM policy_config")
    assert {name: row[name] for name in asdict(SAFE_DEFAULT)} == asdict(SAFE_DEFAULT)


def insert(database: Database, as_of: datetime, **changes: Any) -> int:
    row = asdict(STEERING) | changes
    row |= {"strategy_weights": Jsonb(row["strategy_weights"])}
    row |= {"track": "rules", "as_of": as_of, "source": "test", "reasons": "made up", "known_from": as_of}
    row |= {"valid_until": as_of + timedelta(hours=3), "recorded_at": as_of}
    return database.execute(load_queries("meta_controller")["insert_policy_config"], row)


def test_the_database_has_the_same_bounds(database_for: DatabaseFor) -> None:
    database = database_for("meta_controller")
    for n, (name, edge) in enumerate(EDGES):
        as_of = AS_OF - timedelta(hours=n)  # backwards: no row is older, so that no change is too large
        for value in (beyond(name, edge), math.nan):
            with pytest.raises(CheckViolation, match=f"policy_config_{name}_check"):
                insert(database, as_of, **{name: value})
        assert insert(database, as_of, **{name: BOUNDS[name][edge]}) == 1


@pytest.mark.parametrize(
    "weights",
    [{}, {"drl": 0.5}, {"drl": 1.5, "cash": -0.5}, {"drl": "1"}, {"drl": 1.0, "cash": None}, {"drl": 1e308},
     {"drl": 0.5, "cash": 0.5 + 2e-9}, {"drl": [1.0]}],
)  # fmt: skip
def test_the_database_takes_only_weights_that_are_shares(database_for: DatabaseFor, weights: Any) -> None:
    with pytest.raises(CheckViolation, match=r"strategy_weights of track rules at .* their sum 1"):
        insert(database_for("meta_controller"), AS_OF, strategy_weights=weights)
    assert insert(database_for("meta_controller"), AS_OF, strategy_weights={"drl": 0.5, "cash": 0.5 - 5e-10}) == 1


@pytest.mark.parametrize("weights", [[1.0], 1.0, "drl", None])
def test_the_database_takes_only_an_object_of_weights(database_for: DatabaseFor, weights: Any) -> None:
    with pytest.raises(CheckViolation, match="policy_config_strategy_weights_check"):
        insert(database_for("meta_controller"), AS_OF, strategy_weights=weights)


NUMBERS = """
SELECT attname AS name FROM pg_attribute
WHERE attrelid = 'policy_config'::regclass AND attnum > 0 AND atttypid = 'float8'::regtype
"""


def test_every_number_of_policy_config_has_bounds(database_for: DatabaseFor) -> None:
    assert {row["name"] for row in database_for("meta_controller").fetch(NUMBERS)} == set(BOUNDS)


# ── the largest change ──

NEAR = CHANGE_TOLERANCE / 10
HOURS = (1.0, 2.5, 30.0)  # in 30 hours any number may go anywhere


def with_numbers(numbers: Any, **others: Any) -> Steering:
    return replace(STEERING, **numbers, **others)


def a_step(name: str, hours: float, up: bool, beyond: float) -> tuple[Steering, Steering]:
    """Two steerings one largest change of ``name`` apart (or its whole range), and ``beyond`` it."""
    low, high = BOUNDS[name]
    step = min(MAX_CHANGE[name] * hours + CHANGE_TOLERANCE, high - low) + beyond
    before, after = (low, low + step) if up else (high, high - step)
    return with_numbers({name: before}), with_numbers({name: after})


def a_weight_step(hours: float, up: bool, beyond: float) -> tuple[Steering, Steering]:
    """Likewise for the weight of a strategy that only one of the two names."""
    step = min(MAX_WEIGHT_CHANGE * hours + CHANGE_TOLERANCE, 1.0) + beyond
    one, both = ({"drl": 1.0}, {"drl": 1.0 - step, "cash": step})
    before, after = (one, both) if up else (both, one)
    return replace(STEERING, strategy_weights=before), replace(STEERING, strategy_weights=after)


@pytest.mark.parametrize("name", [*MAX_CHANGE, "strategy_weights"])
def test_the_database_has_the_same_largest_changes(database_for: DatabaseFor, name: str) -> None:
    database = database_for("meta_controller")
    cases = [(hours, up, beyond) for hours in HOURS for up in (True, False) for beyond in (-NEAR, NEAR)]
    for n, (hours, up, beyond) in enumerate(cases):
        before, after = (
            a_weight_step(hours, up, beyond) if name == "strategy_weights" else a_step(name, hours, up, beyond)
        )
        began = AS_OF + timedelta(hours=200 * n)
        then = began + timedelta(hours=hours)
        if beyond > 0 and hours == HOURS[-1]:
            continue
        assert insert(database, began, **asdict(before)) == 1
        assert len(check_change(before, after, hours)) == (0 if beyond < 0 else 2 if name == "strategy_weights" else 1)
        if beyond < 0:
            assert insert(database, then, **asdict(after)) == 1
        else:
            with pytest.raises(CheckViolation, match="changes too fast"):
                insert(database, then, **asdict(after))


def test_every_field_that_moves_too_far_is_named_with_its_step() -> None:
    after = replace(STEERING, risk_aversion=5.5, max_exposure=0.2, pause=True, strategy_weights={"cash": 1.0})
    assert check_change(STEERING, after, 2) == [
        "risk_aversion goes from 3.0 to 5.5, by more than 2",
        "max_exposure goes from 0.8 to 0.2, by more than 0.4",
        "weight of 'cash' goes from 0.0 to 1.0, by more than 0.5",
        "weight of 'drl' goes from 1.0 to 0.0, by more than 0.5",
    ]
    assert check_change(STEERING, replace(STEERING, pause=True), 1) == []


@pytest.mark.parametrize("hours", [0.999, 0.0, -1.0, math.nan])
def test_a_row_less_than_an_hour_older_is_not_compared_with(hours: float) -> None:
    for compare in (check_change, approach):
        with pytest.raises(ValueError, match="at least an hour older"):
            compare(STEERING, STEERING, hours)


def simplex(parts: dict[str, float]) -> dict[str, float]:
    total = sum(parts.values())
    return {name: part / total for name, part in parts.items()}


FIELDS = st.fixed_dictionaries({name: st.floats(*bounds) for name, bounds in BOUNDS.items()})
NAMES = st.sampled_from(["drl", "trend_vol_target", "vol_target", "cash"])
WEIGHTS = st.dictionaries(NAMES, st.floats(0, 1), min_size=1).filter(lambda parts: sum(parts.values()) > 0.001)
STEERINGS = st.builds(
    lambda numbers, pause, parts: with_numbers(numbers, pause=pause, strategy_weights=simplex(parts)),
    FIELDS,
    st.booleans(),
    WEIGHTS,
)
laws = tried(max_examples=120, deadline=None, derandomize=True)


@laws
@given(STEERINGS, STEERINGS, st.floats(1.0, 40.0))
def test_an_approach_is_within_bounds_and_never_too_fast(before: Steering, target: Steering, hours: float) -> None:
    moved = approach(before, target, hours)
    assert check(replace(SOUND, steering=moved)) == []
    assert check_change(before, moved, hours) == []
    assert moved.pause == target.pause


@laws
@given(STEERINGS, STEERINGS, st.floats(1.0, 12.0))
def test_an_approach_goes_as_far_as_it_may_and_no_further_than_the_target(
    before: Steering, target: Steering, hours: float
) -> None:
    moved = approach(before, target, hours)
    for name, step in MAX_CHANGE.items():
        was, wanted, is_now = (getattr(one, name) for one in (before, target, moved))
        assert is_now == wanted or abs(is_now - was) == pytest.approx(step * hours)
        assert min(was, wanted) <= is_now <= max(was, wanted)
    names = {*before.strategy_weights, *target.strategy_weights}
    gone, ahead = (
        {name: b.strategy_weights.get(name, 0.0) - a.strategy_weights.get(name, 0.0) for name in names}
        for a, b in ((before, moved), (before, target))
    )
    furthest = max(abs(change) for change in gone.values())
    assert moved.strategy_weights == target.strategy_weights or furthest == pytest.approx(MAX_WEIGHT_CHANGE * hours)
    share = furthest / (max(abs(change) for change in ahead.values()) or 1.0)
    assert gone == pytest.approx({name: share * change for name, change in ahead.items()}, abs=1e-9)  # a straight line


@laws
@given(STEERINGS, STEERINGS)
def test_an_approach_arrives_and_stays(before: Steering, target: Steering) -> None:
    now = before
    for _ in range(21):  # hours; daily_loss_limit has the longest way, 0.195 at 0.01 an hour
        now = approach(now, target, 1)
    assert now == target
    assert approach(before, target, 40) == approach(target, target, 1) == target
