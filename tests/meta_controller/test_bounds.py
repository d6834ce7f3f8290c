from __future__ import annotations

import math
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.errors import CheckViolation
from psycopg.types.json import Jsonb

from meta_controller.bounds import BOUNDS, OPERATOR_LIMITS, check, within_operator
from meta_controller.controller import HORIZONS_S, HorizonCall, Proposal, Steering
from shared.db import Database, load_queries
from shared.settings import RiskSettings
from tests.helpers import DatabaseFor

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


def insert(database: Database, as_of: datetime, **changes: Any) -> int:
    row = asdict(STEERING) | changes
    row |= {"strategy_weights": Jsonb(row["strategy_weights"])}
    row |= {"track": "rules", "as_of": as_of, "source": "test", "reasons": "made up", "known_from": as_of}
    row |= {"valid_until": as_of + timedelta(hours=3), "recorded_at": as_of}
    return database.execute(load_queries("meta_controller")["insert_policy_config"], row)


def test_the_database_has_the_same_bounds(database_for: DatabaseFor) -> None:
    database = database_for("meta_controller")
    for hours, (name, edge) in enumerate(EDGES):
        as_of = AS_OF + timedelta(hours=hours)
        for value in (beyond(name, edge), math.nan):
            with pytest.raises(CheckViolation):
                insert(database, as_of, **{name: value})
        assert insert(database, as_of, **{name: BOUNDS[name][edge]}) == 1


NUMBERS = """
SELECT attname AS name FROM pg_attribute
WHERE attrelid = 'policy_config'::regclass AND attnum > 0 AND atttypid = 'float8'::regtype
"""


def test_every_number_of_policy_config_has_bounds(database_for: DatabaseFor) -> None:
    assert {row["name"] for row in database_for("meta_controller").fetch(NUMBERS)} == set(BOUNDS)
