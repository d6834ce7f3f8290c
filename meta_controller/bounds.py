"""What no controller may exceed: anything out of bounds rejects the whole proposal.

BOUNDS are the CHECK constraints of policy_config, field by field (tests/meta_controller/test_bounds.py
proves them equal); the operator's own limits, which are settings, come on top of them.
"""

from __future__ import annotations

import dataclasses
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


def within_operator(steering: Steering, risk: RiskSettings) -> Steering:
    """The same steering, tightened to the operator's limits where it asks for more than they allow."""
    tightened = {name: min(getattr(steering, name), getattr(risk, name)) for name in OPERATOR_LIMITS}
    return dataclasses.replace(steering, **tightened)


def check(proposal: Proposal) -> list[str]:
    """Every violation as a sentence; an empty list means that the proposal may become rows.

    Takes nothing on trust, types included: a proposal may come from an LLM's answer.
    """
    return [*_check_calls(proposal.calls), *_check_steering(proposal.steering), *_check_reasons(proposal.reasons)]


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
