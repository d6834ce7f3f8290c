"""Steering: what the action layer promises, measured on a policy that looks at everything."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from policy.inputs import static_config
from policy.policy_network import ActorNet, act_of
from policy.risk.context import NO_LIMITS
from policy.simulator import Costs
from policy.steering_report import Cell, measure_grid, violations, write_steering
from policy.strategies.residual import Residual
from policy.trading_env import Terms
from shared.clock import from_unix
from tests.policy.test_training import noise_market

TERMS = Terms(costs=Costs(10.0, 2.0, 0.0), delays_s=(0,), no_trade_band=0.1)
CONFIG = replace(static_config(from_unix(0), NO_LIMITS), target_volatility=0.3)


def at_random() -> Callable[[np.ndarray], Residual]:
    """A policy that looks at everything and has learnt nothing."""
    torch.manual_seed(0)
    net = ActorNet((8, 8))
    with torch.no_grad():
        net.linear[-1].weight.mul_(30.0)
    act = act_of(net.weights())
    return lambda observation: Residual(act(observation), np.ones(len(observation)), 0.5)


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return measure_grid(noise_market(250), None, TERMS, CONFIG)


def cell(**changes: float) -> Cell:
    usual = Cell(1.0, 1.0, 0.5, 1.0, 0.3, 10.0, 0.05, 0.4, 0.8)
    return replace(usual, **changes)  # type: ignore[arg-type]


def test_the_baseline_obeys_its_steering(cells: list[Cell]) -> None:
    assert violations(cells) == []
    aversions = {c.risk_aversion: c.exposure for c in cells if (c.turnover_penalty, c.max_position) == (1.0, 0.5)}
    assert aversions[8.0] < aversions[2.0] < aversions[0.5]
    penalties = {c.turnover_penalty: c.turnover for c in cells if (c.risk_aversion, c.max_position) == (2.0, 0.5)}
    assert penalties[10.0] < penalties[0.25]
    assert max(c.largest_position for c in cells if c.max_position == 0.1) == pytest.approx(0.1)


def test_caps_hold_whatever_the_policy_wants() -> None:
    measured = measure_grid(noise_market(60), at_random(), TERMS, CONFIG)
    assert max(c.exposure for c in measured) > 0.15
    assert all(c.largest_position <= c.max_position + 1e-9 for c in measured)
    assert all(c.largest_exposure <= c.max_exposure + 1e-9 for c in measured)


def test_what_breaks_the_promise_is_named() -> None:
    assert violations([cell(), cell(risk_aversion=2.0, exposure=0.2)]) == []
    (exposure,) = violations([cell(), cell(risk_aversion=2.0, exposure=0.35)])
    assert "exposure rises from 0.3000 to 0.3500 as risk_aversion goes from 1 to 2" in exposure
    (turnover,) = violations([cell(turnover_penalty=4.0, turnover=12.0), cell()])
    assert "turnover rises from 10.0000 to 12.0000" in turnover
    assert "position of 0.6000 above its cap" in violations([cell(largest_position=0.6)])[0]
    assert "exposure of 1.2000 above its cap" in violations([cell(largest_exposure=1.2)])[0]
    assert "20.0% of the utility" in violations([cell(utility=0.04, specialist=0.05)])[0]


def test_regret_is_a_share_of_what_the_specialist_is_worth() -> None:
    assert cell(utility=0.045, specialist=0.05).regret == pytest.approx(0.1)
    assert cell(specialist=0.04).regret == pytest.approx(-0.25)
    assert cell().regret is None
    assert cell(specialist=-0.01).regret is None


def test_a_specialist_is_asked_for_each_cell_and_regret_measured_against_it() -> None:
    asked, act = [], at_random()

    def specialist(config: object) -> object:
        asked.append(config)
        return act

    measured = measure_grid(noise_market(60), act, TERMS, CONFIG, specialist)  # type: ignore[arg-type]
    assert len(asked) == sum(c.specialist is not None for c in measured) == 20
    assert all(c.specialist == c.utility for c in measured if c.specialist is not None)


def test_the_grid_is_written_as_a_table_and_a_plot(cells: list[Cell], tmp_path: Path) -> None:
    table, plot = write_steering(cells, tmp_path, "steering")
    told = json.loads(table.read_text())
    assert len(told["cells"]) == len(cells)
    assert told["violations"] == []
    assert plot.read_bytes()[:4] == b"\x89PNG"
