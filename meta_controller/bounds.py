"""What no controller may exceed: anything out of bounds rejects the whole proposal.

BOUNDS are the CHECK constraints of policy_config, field by field, MAX_CHANGE and MAX_WEIGHT_CHANGE the steps of its
trigger refuse_jerked_steering (tests/meta_controller/test_bounds.py proves them equal); the operator's own limits,
which are settings, come on top of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from meta_controller.controller import HORIZONS_S, HorizonCall, Proposal, Steering
from shared.rows import POLICY_CONFIG_BOUNDS
from shared.settings import RiskSettings

BOUNDS = POLICY_CONFIG_BOUNDS
OPERATOR_LIMITS = ("max_position", "max_exposure", "daily_loss_limit", "max_drawdown")
TRIPLES = (("p_down", "p_flat", "p_up"), ("p_vol_low", "p_vol_mid", "p_vol_high"))
SUM_TOLERANCE = 1e-9
LONGEST_REASONS = 2000  # characters

# The largest change in one hour, in the field's own unit. Pausing and resuming are no matter of degree.
MAX_CHANGE: Mapping[str, float] = {
    "risk_aversion": 1.0,
    "turnover_penalty": 1.0,
    "drawdown_penalty": 1.0,
    "target_volatility": 0.1,
    "max_exposure": 0.2,
    "max_position": 0.1,
    "daily_loss_limit": 0.01,
    "max_drawdown": 0.05,
}
MAX_WEIGHT_CHANGE = 0.25  # of one strategy's weight, in one hour
CHANGE_TOLERANCE = 1e-9

# A book that still trades, and in no field takes more risk than the rules do in their most careful regime.
SAFE_DEFAULT = Steering(
    risk_aversion=5.0,
    turnover_penalty=2.0,
    drawdown_penalty=2.0,
    target_volatility=0.25,
    max_exposure=0.3,
    max_position=0.15,
    daily_loss_limit=0.03,
    max_drawdown=0.15,
    pause=False,
    strategy_weights={"drl": 1.0},
)


def within_operator(steering: Steering, risk: RiskSettings) -> Steering:
    """The same steering, tightened to the operator's limits where it asks for more than they allow."""
    tightened = {name: min(getattr(steering, name), getattr(risk, name)) for name in OPERATOR_LIMITS}
    return dataclasses.replace(steering, **tightened)


def check(proposal: Proposal) -> list[str]:
    """Every violation as a sentence; an empty list means that the proposal may become rows.

    Takes nothing on trust, types included: a proposal may come from an LLM's answer.
    """
    return [*_check_calls(proposal.calls), *_check_steering(proposal.steering), *_check_reasons(proposal.reasons)]


def check_operator(steering: Steering, risk: RiskSettings) -> list[str]:
    """Every limit of the operator's that ``steering`` exceeds, as a sentence; an empty list means none."""
    return [
        f"{name} is {asked!r}, above the operator's limit of {limit:g}"
        for name in OPERATOR_LIMITS
        if (asked := getattr(steering, name)) > (limit := getattr(risk, name))
    ]


def check_change(before: Steering, after: Steering, hours: float) -> list[str]:
    """Every field of ``after`` that has moved too far from ``before``, as a sentence; an empty list means none has.

    ``hours`` lie between the two: how long ago the track's newest row that is at least an hour older was made, for
    younger rows bind nobody. ValueError if they are fewer than 1. Both steerings have passed ``check``.
    """
    _at_least_an_hour(hours)
    problems: list[str] = []
    for name, step in MAX_CHANGE.items():
        problems += _check_step(name, getattr(before, name), getattr(after, name), step * hours)
    for name, was, is_now in _weight_pairs(before, after):
        problems += _check_step(f"weight of {name!r}", was, is_now, MAX_WEIGHT_CHANGE * hours)
    return problems


def approach(before: Steering, target: Steering, hours: float) -> Steering:
    """The steering nearest to ``target`` that ``hours`` allow from ``before``: each number moves by at most its step.

    The weights stay a simplex: they move along the straight line between the two by the largest share that every
    weight may move. Pause is taken at once. ValueError if ``hours`` are fewer than 1. If both steerings pass
    ``check``, so does the result, and ``check_change`` finds nothing in it.
    """
    _at_least_an_hour(hours)
    moved: dict[str, Any] = {
        name: _move(getattr(before, name), getattr(target, name), step * hours) for name, step in MAX_CHANGE.items()
    }
    moved["strategy_weights"] = _move_weights(before, target, hours)
    return dataclasses.replace(target, **moved)


def _at_least_an_hour(hours: float) -> None:
    if not hours >= 1.0:  # NaN fails this too
        raise ValueError(f"{hours!r} hours: compare with the newest row that is at least an hour older")


def _move(before: float, target: float, step: float) -> float:
    if abs(target - before) <= step:
        return target
    return before + math.copysign(step, target - before)


def _move_weights(before: Steering, target: Steering, hours: float) -> Mapping[str, float]:
    pairs = list(_weight_pairs(before, target))
    furthest = max(abs(wanted - was) for _, was, wanted in pairs)
    if furthest <= MAX_WEIGHT_CHANGE * hours:
        return target.strategy_weights
    share = MAX_WEIGHT_CHANGE * hours / furthest
    return {name: was + share * (wanted - was) for name, was, wanted in pairs}


def _weight_pairs(before: Steering, after: Steering) -> Iterator[tuple[str, float, float]]:
    """Each strategy that has a weight in either, by name, with its weight before and after; 0 where it has none."""
    for name in sorted({*before.strategy_weights, *after.strategy_weights}):
        yield name, before.strategy_weights.get(name, 0.0), after.strategy_weights.get(name, 0.0)


def _check_step(name: str, was: float, is_now: float, step: float) -> Iterator[str]:
    if not abs(is_now - was) <= step + CHANGE_TOLERANCE:
        yield f"{name} goes from {was!r} to {is_now!r}, by more than {step:g}"


def _check_calls(calls: tuple[HorizonCall, ...]) -> Iterator[str]:
    horizons = [call.horizon_s for call in calls]
    if sorted(horizons) != list(HORIZONS_S):
        yield f"calls are for the horizons {horizons} s, not once for each of {list(HORIZONS_S)} s"
    for call in calls:
        where = f"{call.horizon_s} s call: "
        for names in TRIPLES:
            yield from (where + problem for problem in _check_triple(call, names))
        yield from (where + problem for problem in _check_number("conviction", call.conviction, -1.0, 1.0))
        yield from (where + problem for problem in _check_reasons(call.reasons))


def _check_triple(call: HorizonCall, names: tuple[str, ...]) -> Iterator[str]:
    values = [getattr(call, name) for name in names]
    problems = [p for name, value in zip(names, values, strict=True) for p in _check_number(name, value, 0.0, 1.0)]
    yield from problems
    if not problems and abs(sum(values) - 1.0) >= SUM_TOLERANCE:
        yield f"{' + '.join(names)} is {sum(values)!r}, not 1"


def _check_steering(steering: Steering) -> Iterator[str]:
    for name, (low, high) in BOUNDS.items():
        yield from _check_number(name, getattr(steering, name), low, high)
    pause: Any = steering.pause
    if not isinstance(pause, bool):
        yield f"pause is {pause!r}, neither true nor false"
    yield from _check_weights(steering.strategy_weights)


def _check_weights(weights: Any) -> Iterator[str]:
    if not isinstance(weights, Mapping) or not weights:
        yield f"strategy_weights is {weights!r}, not a weight for at least one strategy"
        return
    problems = [p for name, value in weights.items() for p in _check_number(f"weight of {name!r}", value, 0.0, 1.0)]
    yield from problems
    if not problems and abs(sum(weights.values()) - 1.0) >= SUM_TOLERANCE:
        yield f"strategy_weights sum to {sum(weights.values())!r}, not 1"


def _check_number(name: str, value: Any, low: float, high: float) -> Iterator[str]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        yield f"{name} is {value!r}, not a number"
    elif not low <= value <= high:  # NaN fails this too
        yield f"{name} is {value!r}, outside {low:g} to {high:g}"


def _check_reasons(reasons: Any) -> Iterator[str]:
    if not isinstance(reasons, str) or not 0 < len(reasons) <= LONGEST_REASONS:
        yield f"reasons must be a text of 1 to {LONGEST_REASONS} characters"
