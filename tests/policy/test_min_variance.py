"""Minimum variance: closed forms, the conditions of a minimum, and what is not known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.decision_kernel import CORRELATION
from policy.decision_path import decide
from policy.laboratory import MARKET_ONLY, STEERED
from policy.observation import View
from policy.risk.history import CloseHistory, PortfolioHistory
from policy.strategies import STRATEGIES, vol_target
from policy.strategies.min_variance import LEAST_EIGENVALUE, correlation_of, least_variance, wanted_weights
from shared.rows import FloatArray
from tests.policy.synthetic import make_circumstances, make_config, make_market, make_view, steered, views

Estimates = tuple[FloatArray, FloatArray]


@st.composite
def estimates(draw: st.DrawFn) -> Estimates:
    """Volatilities and correlations of 1 to 8 instruments that share some factors: most have shorts if one may."""
    n, factors, seed = draw(st.integers(1, 8)), draw(st.integers(1, 4)), draw(st.integers(0, 9999))
    rng = np.random.default_rng(seed)
    loadings = rng.normal(0.5, 1.0, (n, factors))
    covariance = loadings @ loadings.T + np.diag(rng.uniform(0.01, 1.0, n))
    own = np.sqrt(np.diag(covariance))
    return rng.uniform(0.05, 3.0, n), covariance / np.outer(own, own)


def covariance_of(volatility: FloatArray, correlation: FloatArray) -> FloatArray:
    return correlation * np.outer(volatility, volatility)


def shares(volatility: list[float], correlation: list[list[float]]) -> FloatArray:
    unit = least_variance(np.array(volatility), np.array(correlation))
    share: FloatArray = unit / unit.sum()
    return share


def correlated(rho: float, n: int = 2) -> list[list[float]]:
    between: list[list[float]] = np.where(np.eye(n) > 0, 1.0, rho).tolist()
    return between


@pytest.mark.parametrize("rho", [-0.9, -0.5, 0.0, 0.3, 0.49])
def test_two_instruments_by_the_closed_form(rho: float) -> None:
    """w₁ = (σ₂² − ρσ₁σ₂) ÷ (σ₁² + σ₂² − 2ρσ₁σ₂)."""
    one, two = 0.4, 0.8
    first = (two * two - rho * one * two) / (one * one + two * two - 2.0 * rho * one * two)
    assert shares([one, two], correlated(rho)) == pytest.approx([first, 1.0 - first], rel=1e-12)


@pytest.mark.parametrize("rho", [0.5, 0.7, 0.99])
def test_what_only_a_short_position_could_use_is_not_held(rho: float) -> None:
    """From a correlation of σ₁ ÷ σ₂ on the second adds risk, however little is bought of it."""
    assert shares([0.4, 0.8], correlated(rho)).tolist() == [1.0, 0.0]


@given(st.integers(1, 9), st.integers(0, 999))
def test_many_instruments_by_the_closed_form_where_it_shorts_nothing(n: int, seed: int) -> None:
    """C⁻¹1 ÷ 1'C⁻¹1; uncorrelated, that is 1 ÷ σ² in proportion."""
    rng = np.random.default_rng(seed)
    volatility, rho = rng.uniform(0.5, 1.5, n), rng.uniform(0.0, 0.1)
    inverse = np.linalg.solve(covariance_of(volatility, np.array(correlated(rho, n))), np.ones(n))
    if (inverse > 0.0).all():
        assert shares(volatility.tolist(), correlated(rho, n)) == pytest.approx(inverse / inverse.sum(), rel=1e-9)
    alone = volatility**-2.0
    assert shares(volatility.tolist(), correlated(0.0, n)) == pytest.approx(alone / alone.sum(), rel=1e-12)


@settings(max_examples=200)
@given(estimates())
def test_no_weight_may_be_moved_to_lower_the_variance(case: Estimates) -> None:
    """Karush, Kuhn and Tucker: all that is held adds the same risk, and nothing that is not held adds less."""
    volatility, correlation = case
    unit = least_variance(volatility, correlation)
    covariance = covariance_of(volatility, correlation)
    assert (unit >= 0.0).all()
    assert unit @ covariance @ unit == pytest.approx(1.0)
    w = unit / unit.sum()
    added, variance = covariance @ w, float(w @ covariance @ w)
    np.testing.assert_allclose(added[w > 0.0], variance, rtol=1e-6)
    assert (added >= variance * (1.0 - 1e-6)).all()


@given(estimates(), st.randoms(use_true_random=False))
def test_the_order_of_the_instruments_does_not_matter(case: Estimates, random: object) -> None:
    volatility, correlation = case
    order = list(range(len(volatility)))
    random.shuffle(order)  # type: ignore[attr-defined]
    there = least_variance(volatility[order], correlation[np.ix_(order, order)])
    np.testing.assert_allclose(there, least_variance(volatility, correlation)[order], rtol=1e-6, atol=1e-9)


@given(estimates())
def test_the_same_estimates_give_the_same_bits_wherever_they_lie(case: Estimates) -> None:
    volatility, correlation = case
    room = np.zeros((2 * len(volatility) + 1, 2 * len(volatility) + 1))[1::2, 1::2]
    room[:] = correlation
    assert least_variance(volatility.copy(), room).tolist() == least_variance(volatility, correlation).tolist()


def test_a_hundred_instruments_with_fewer_days_than_instruments() -> None:
    """Their correlations are singular: still one answer, of the least variance under what was made of them."""
    rng = np.random.default_rng(0)
    returns = rng.normal(0.0, 0.01, (90, 100)) + rng.normal(0.0, 0.02, (90, 1))
    volatility, correlation = rng.uniform(0.3, 1.5, 100), np.array(np.corrcoef(returns.T))
    assert np.linalg.eigvalsh(correlation)[0] < LEAST_EIGENVALUE
    unit = least_variance(volatility, correlation)
    share = LEAST_EIGENVALUE - np.linalg.eigvalsh(correlation)[0]
    covariance = covariance_of(volatility, (correlation + share * np.eye(100)) / (1.0 + share))
    added = covariance @ unit
    np.testing.assert_allclose(added[unit > 0.0], added.min(), rtol=1e-6)
    assert unit @ covariance @ unit == pytest.approx(1.0)
    assert 1 < (unit > 0.0).sum() < 100


def test_correlations_that_no_returns_could_have_and_perfect_ones() -> None:
    """Three that each oppose the others; two that are the same; of the same that swings less is held."""
    np.testing.assert_allclose(shares([0.5] * 3, correlated(-0.9, 3)), [1 / 3] * 3)
    np.testing.assert_allclose(shares([0.5, 0.5], correlated(1.0)), [0.5, 0.5])
    assert shares([0.5, 0.6], correlated(1.0)).tolist() == [1.0, 0.0]
    hedged = least_variance(np.array([0.5, 0.5]), np.array(correlated(-1.0)))
    assert np.isfinite(hedged).all()
    assert hedged[0] == pytest.approx(hedged[1])


# ── of a market ──────────────────────────────────────────────────────────────────────────────────────────────
def seen(volatility: list[float], returns: FloatArray | None = None, **config: float) -> View:
    """A market with such daily ``returns`` [days, N], under risk aversion 1 and a target of a quarter."""
    history = None
    if returns is not None:
        closes: FloatArray = np.vstack([np.ones(len(volatility)), 1.0 + returns]).cumprod(axis=0)
        history = PortfolioHistory(CloseHistory(closes, 1), len(closes) - 1)
    n = len(volatility)
    return make_view(make_market([100.0] * n, [-1.0] * n, volatility, history=history, config=make_config(**config)))


def test_one_instrument_and_equal_unknown_ones_are_the_volatility_target() -> None:
    """CORRELATION between all is what a full position assumes; a trend that falls is no matter."""
    for volatility in ([0.8], [0.9, 0.9], [1.2] * 5):
        view = seen(volatility)
        np.testing.assert_allclose(wanted_weights(view), vol_target.wanted_weights(view), rtol=1e-12)
    assert correlation_of(seen([0.5, 0.5]).market).tolist() == [[1.0, CORRELATION], [CORRELATION, 1.0]]


def test_the_portfolio_has_the_volatility_that_is_asked_for() -> None:
    """The target ÷ the risk aversion, by known correlations: twice the target is twice the weights."""
    rng = np.random.default_rng(1)
    returns = rng.normal(0.0, 0.03, (95, 3)) + rng.normal(0.0, 0.02, (95, 1))
    view = seen([0.9, 1.0, 1.1], returns)
    between = correlation_of(view.market)
    np.testing.assert_allclose(between, np.corrcoef(returns[-90:].T), rtol=1e-9)
    wanted = wanted_weights(view)
    covariance = covariance_of(view.market.volatility, between)
    assert np.sqrt(wanted @ covariance @ wanted) == pytest.approx(0.25)
    for changes, factor in (({"target_volatility": 0.125}, 0.5), ({"risk_aversion": 2.0}, 0.5)):
        np.testing.assert_allclose(wanted_weights(steered(view, **changes)), factor * wanted, rtol=1e-12)


def test_a_pair_that_is_known_counts_as_it_is_and_a_young_one_as_crypto_does() -> None:
    rng = np.random.default_rng(2)
    returns = rng.normal(0.0, 0.03, (95, 3))
    returns[:, 1] = -returns[:, 0]
    returns[:80, 2] = np.nan
    between = correlation_of(seen([1.0] * 3, returns).market)
    assert between[0, 1] == pytest.approx(-1.0, abs=1e-3)
    assert between[2].tolist() == [CORRELATION, CORRELATION, 1.0]


def test_what_cannot_be_measured_is_not_held_and_does_not_count() -> None:
    assert wanted_weights(seen([0.0, 0.0])).tolist() == [0.0, 0.0]
    some = wanted_weights(seen([0.9, 0.0, 1.2, np.nan]))
    assert some[[1, 3]].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(some[[0, 2]], wanted_weights(seen([0.9, 1.2])), rtol=1e-12)


def test_each_position_is_capped_by_steering_and_the_sum_by_the_rules() -> None:
    view = seen([0.1, 0.1], max_position=0.4, max_exposure=0.5, strategy_weights={"min_variance": 1.0})  # type: ignore[arg-type]
    assert wanted_weights(view).tolist() == [0.4, 0.4]
    decision = decide(view, None, make_circumstances(2))
    assert decision.contributions["min_variance"].tolist() == [0.4, 0.4]
    assert decision.allowed.tolist() == [0.25, 0.25]


@given(views(), st.floats(0.5, 10), st.floats(0.5, 10), st.floats(0.0, 0.5))
def test_it_obeys_its_steering(view: View, one: float, other: float, cap: float) -> None:
    """As the other sized strategies do (tests/contracts/test_strategies.py)."""
    bold, timid = steered(view, risk_aversion=min(one, other)), steered(view, risk_aversion=max(one, other))
    assert (wanted_weights(timid) <= wanted_weights(bold)).all()
    assert wanted_weights(steered(view, max_position=cap)).max() <= cap
    book = replace(view.book, held=np.zeros_like(view.book.held))
    assert wanted_weights(replace(view, book=book)).tolist() == wanted_weights(view).tolist()


def test_it_is_registered_and_a_backtest_runs_it_as_a_path_of_weights() -> None:
    assert STRATEGIES["min_variance"] is wanted_weights
    assert "min_variance" in STEERED
    assert "min_variance" in MARKET_ONLY
