"""The yardstick of the canaries: no policy that was tried does better than the programme says is best."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policy.canaries.cells import Cell
from policy.canaries.known_answer import (
    BAR_VOLATILITY,
    OWN_SHARE,
    Market,
    aversion,
    free_steering,
    full_weight,
    grid,
    judge,
    make_market,
    optimal_act,
    optimum_of,
)  # fmt: skip
from policy.canaries.optimal import Optimum, autoregressive, redrawn, solve
from policy.simulator import Costs

MERTON = make_market(6001, 0.02, 1.0, seed=3)
FADING = make_market(6001, 0.1, 0.97, seed=4)
MARKETS = {"Merton": MERTON, "fading": FADING}


def optimum(market: Market, bps: float, **steering: float) -> Optimum:
    return optimum_of(market, Cell(free_steering(**steering), Costs(bps, 0.0, 0.0)))


def test_without_costs_it_is_mertons_weight() -> None:
    found, steering = optimum(MERTON, 0.0), free_steering()
    merton = np.clip(found.drifts / (aversion(steering) * BAR_VOLATILITY**2), 0.0, full_weight(steering))
    assert found.lower == pytest.approx(merton, abs=0.01 * full_weight(steering))
    assert found.upper == pytest.approx(merton, abs=0.01 * full_weight(steering))


def test_without_costs_its_value_is_the_mean_of_mertons() -> None:
    drift = np.random.default_rng(0).normal(0.0, MERTON.deviation, 400_000)
    risk, steering = aversion(free_steering()) * BAR_VOLATILITY**2, free_steering()
    weight = np.clip(drift / risk, 0.0, full_weight(steering))
    expected = (weight * drift - 0.5 * risk * weight**2).mean()
    assert optimum(MERTON, 0.0).value == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("market", MARKETS.values(), ids=MARKETS)
def test_costs_open_a_region_without_trades_and_cost_value(market: Market) -> None:
    optima = [optimum(market, bps) for bps in (0.0, 10.0, 45.0)]
    widths = [float((one.upper - one.lower).mean()) for one in optima]
    assert 0.0 <= widths[0] < widths[1] < widths[2]
    assert optima[0].value > optima[1].value > optima[2].value > 0.0


def test_the_region_moves_up_with_the_drift() -> None:
    for chain in (autoregressive(0.97, 1e-3), redrawn(0.99, 1e-3)):
        assert chain[1].sum(axis=1) == pytest.approx(1.0)
        found = solve(*chain, aversion=2.5, volatility=0.02, cost=1e-3, most=0.4)
        assert (np.diff(found.lower) >= -1e-9).all()
        assert (np.diff(found.upper) >= -1e-9).all()


def shares(scale: float, width: float, market: Market) -> Any:
    """Every drift in proportion, and nothing traded within ``width`` of a full position."""
    risk = aversion(free_steering()) * BAR_VOLATILITY**2
    slope = scale * market.deviation / risk / full_weight(free_steering())

    def act(observation: Any) -> Any:
        wanted = np.clip(observation[:, :, 0].astype(float) * slope, 0.0, 1.0)
        own = observation[:, :, OWN_SHARE].astype(float)
        return np.clip(np.clip(own, wanted - width, wanted + width), 0.0, 1.0)

    return act


@pytest.mark.parametrize("market", MARKETS.values(), ids=MARKETS)
def test_no_policy_that_is_tried_is_better(market: Market) -> None:
    cells = grid(free_steering(), aversions=(1.0, 10.0))
    for scale in (0.5, 1.0, 2.0):
        for width in (0.0, 0.1, 0.3):
            for judged in judge(shares(scale, width, market), market, cells):
                assert judged.regret > -0.02, f"scale {scale}, width {width}: {judged}"


def test_the_optimum_has_no_regret_and_the_naive_has() -> None:
    cells = grid(free_steering(), aversions=(1.0,))
    assert [one.regret for one in judge(optimal_act(FADING, cells), FADING, cells)] == [0.0, 0.0, 0.0]
    naive = judge(shares(1.0, 0.0, FADING), FADING, cells)
    assert abs(naive[0].regret) < 0.01 < 0.02 < naive[1].regret < 0.3 < naive[2].regret


def test_regret_is_the_same_whatever_the_risk_aversion() -> None:
    cells = grid(free_steering(), costs_bps=(10.0,))
    regrets = [one.regret for one in judge(shares(1.0, 0.1, FADING), FADING, cells)]
    assert regrets == pytest.approx([regrets[0]] * 3, abs=0.01)
