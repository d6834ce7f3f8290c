"""What every decider must keep, and what the learnt one promises about its baseline and about steering."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policy.decision_kernel import CORRELATION
from policy.decision_path import decide
from policy.observation import View
from policy.strategies import (
    BASELINE,
    STRATEGIES,
    blend,
    contributions_of,
    drl,
    opinions_of,
    trend_vol_target,
    vol_target,
)
from policy.strategies.residual import Residual
from shared.rows import FloatArray
from tests.policy.synthetic import (
    asked,
    make_circumstances,
    make_config,
    make_market,
    make_view,
    said,
    steered,
    views,
)

Asked = tuple[View, Residual]
SIZED = ("drl", BASELINE, "vol_target", "min_variance")  # by target and max_position; the others are references


def wants(view: View, residual: Residual | None) -> FloatArray:
    wanted = drl.wanted_weights(view, residual)
    assert wanted is not None
    return wanted


@given(asked())
def test_a_strategy_wants_weights_between_nothing_and_everything(case: Asked) -> None:
    view, residual = case
    for name, strategy in STRATEGIES.items():
        wanted = strategy(view, residual)
        assert wanted is not None, name
        assert wanted.shape == view.market.trend.shape, name
        cap = view.market.config.max_position if name in SIZED else 1.0
        assert ((wanted >= 0) & (wanted <= cap)).all(), name


@given(asked())
def test_a_strategy_is_pure(case: Asked) -> None:
    view, residual = case
    action, held, block = residual.action.copy(), view.book.held.copy(), view.market.block.copy()
    for name, strategy in STRATEGIES.items():
        assert np.array_equal(strategy(view, residual), strategy(view, residual)), name  # type: ignore[arg-type]
    assert np.array_equal(residual.action, action)
    assert np.array_equal(view.book.held, held)
    assert np.array_equal(view.market.block, block)


@given(views())
def test_without_an_answer_only_the_learnt_policy_has_no_opinion(view: View) -> None:
    opinions = {name: strategy(view, None) for name, strategy in STRATEGIES.items()}
    assert [name for name, weights in opinions.items() if weights is None] == ["drl"]


# ── the learnt policy ────────────────────────────────────────────────────────────────────────────────────────
@given(asked())
def test_a_policy_that_says_nothing_is_the_baseline_exactly(case: Asked) -> None:
    """Zero training = the baseline, to the last bit, whatever its reach."""
    view, residual = case
    n = len(view.market.trend)
    untrained = wants(view, said([0.0] * n, reach=residual.reach))
    assert untrained.tolist() == trend_vol_target.wanted_weights(view).tolist()


@given(asked(), st.floats(0.5, 10), st.floats(0.5, 10))
def test_a_higher_risk_aversion_never_wants_more(case: Asked, one: float, other: float) -> None:
    """Of anything, in the same market and with the same answer; the baseline and the volatility target alike."""
    view, residual = case
    bold, timid = steered(view, risk_aversion=min(one, other)), steered(view, risk_aversion=max(one, other))
    for name in SIZED:
        more, less = STRATEGIES[name](bold, residual), STRATEGIES[name](timid, residual)
        assert more is not None
        assert less is not None
        assert (less <= more).all()


@given(asked(), st.floats(0.05, 1.0), st.floats(0.05, 1.0))
def test_a_higher_target_volatility_never_wants_less(case: Asked, one: float, other: float) -> None:
    view, residual = case
    low, high = steered(view, target_volatility=min(one, other)), steered(view, target_volatility=max(one, other))
    assert (wants(low, residual) <= wants(high, residual)).all()


@given(asked(), st.floats(0.0, 0.5))
def test_a_new_max_position_holds_at_once(case: Asked, cap: float) -> None:
    view, residual = case
    for name in SIZED:
        wanted = STRATEGIES[name](steered(view, max_position=cap), residual)
        assert wanted is not None
        assert wanted.max() <= cap


@given(views(), st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_a_higher_turnover_penalty_never_means_a_narrower_band(view: View, one: float, other: float) -> None:
    low, high = steered(view, turnover_penalty=min(one, other)), steered(view, turnover_penalty=max(one, other))
    assert low.steering.band <= high.steering.band


def test_the_band_grows_with_the_cube_root_of_the_turnover_penalty() -> None:
    view = make_view(make_market([1.0], [0.0], [0.5]))
    bands = [steered(view, turnover_penalty=penalty).steering.band for penalty in (0.0, 1.0, 8.0)]
    assert bands == pytest.approx([0.0, 0.25, 0.5])


@given(asked())
def test_the_policy_moves_where_its_action_points_and_no_further_than_its_reach(case: Asked) -> None:
    """In full agreement; in shares of a full position."""
    view, residual = case
    agreed = replace(residual, agreement=np.ones_like(residual.action))
    moved = wants(view, agreed) - trend_vol_target.wanted_weights(view)
    assert (moved * agreed.action >= 0).all()
    full = vol_target.wanted_weights(steered(view, max_position=0.5))
    uncapped = wants(steered(view, max_position=0.5), agreed) - trend_vol_target.wanted_weights(
        steered(view, max_position=0.5)
    )
    below = full < 0.5
    assert (np.abs(uncapped[below]) <= (agreed.reach * np.abs(agreed.action) * full)[below] * (1 + 1e-9)).all()
    seen = view.market.complete
    assert not moved[~seen].any(), "where nothing was observed the baseline speaks"


@given(asked(), st.floats(0.0, 1.0))
def test_the_less_the_models_agree_the_less_is_held(case: Asked, factor: float) -> None:
    view, residual = case
    doubted = replace(residual, agreement=residual.agreement * factor)
    assert (wants(view, doubted) <= wants(view, residual)).all()


def test_the_policys_weight_by_hand() -> None:
    """Half volatility, a quarter wanted: a full position is a half; trend 0.2 and 0.5 × 0.6 of reach make half of
    it, at an agreement of 0.8 two fifths; twice the risk aversion makes half of that."""
    view = make_view(make_market([1.0], [0.2], [0.5]), band=0.25)
    answer = said([0.6], agreement=[0.8], reach=0.5)
    for aversion, weight in ((1.0, 0.2), (2.0, 0.1), (0.5, 0.4)):
        assert wants(steered(view, risk_aversion=aversion), answer) == pytest.approx([weight])
    assert wants(view, said([-1.0])).tolist() == [0.0]
    assert wants(view, said([1.0], reach=1.0)) == pytest.approx([0.5])  # no more than a full position


# ── the baselines ────────────────────────────────────────────────────────────────────────────────────────────
def test_the_baseline_by_hand() -> None:
    """Two instruments correlated by 0.6, a quarter of volatility: full trend at 50 % is 0.25 / √3.2 / 0.5."""
    assert CORRELATION == 0.6
    view = make_view(make_market([1.0, 1.0], [1.0, -1.0], [0.5, 0.5], config=make_config(target_volatility=0.25)))
    np.testing.assert_allclose(trend_vol_target.wanted_weights(view), [0.25 / np.sqrt(3.2) / 0.5, 0.0])
    np.testing.assert_allclose(vol_target.wanted_weights(view), [0.25 / np.sqrt(3.2) / 0.5] * 2)


def test_full_positions_together_have_the_target_volatility() -> None:
    """At the assumed correlation and a risk aversion of 1, whatever the volatilities."""
    for volatility in ([0.6], [0.6, 1.1], [0.5, 0.7, 0.9, 1.4]):
        n = len(volatility)
        view = make_view(make_market([1.0] * n, [1.0] * n, volatility))
        risk = vol_target.wanted_weights(view) * volatility
        correlations = np.full((n, n), CORRELATION) + (1 - CORRELATION) * np.eye(n)
        assert np.sqrt(risk @ correlations @ risk) == pytest.approx(0.25)


@given(views())
def test_the_baseline_holds_nothing_that_falls_or_that_it_cannot_measure(view: View) -> None:
    weights = trend_vol_target.wanted_weights(view)
    assert not weights[(view.market.trend <= 0) | (view.market.volatility <= 0)].any()


@given(views(), st.floats(1.0, 4.0))
def test_the_baseline_wants_no_less_of_what_rises_more_and_no_more_of_what_swings_more(
    view: View, factor: float
) -> None:
    market = view.market
    assume((np.abs(market.trend) * factor <= 1).all())
    weights = trend_vol_target.wanted_weights(view)
    rising = replace(view, market=replace(market, trend=market.trend * factor))
    swinging = replace(view, market=replace(market, volatility=market.volatility * factor))
    assert (trend_vol_target.wanted_weights(rising) >= weights).all()
    assert (trend_vol_target.wanted_weights(swinging) <= weights + 1e-15).all()


@given(views())
def test_the_references_hold_what_their_names_say(view: View) -> None:
    tradable = view.market.tradable
    share = tradable / max(tradable.sum(), 1)
    assert STRATEGIES["rebalanced_hold"](view, None).tolist() == share.tolist()  # type: ignore[union-attr]
    assert not STRATEGIES["cash"](view, None).any()  # type: ignore[union-attr]
    held = view.book.weights(view.market.prices)
    drifting = STRATEGIES["buy_and_hold"](view, None)
    assert drifting is not None
    assert drifting.tolist() == (np.clip(held, 0, 1) if held.any() else share).tolist()


# ── together ─────────────────────────────────────────────────────────────────────────────────────────────────
@given(asked(), st.floats(0, 3), st.floats(0, 3))
def test_the_blend_lies_between_the_opinions_and_follows_the_weights(
    case: Asked, drl_weight: float, baseline_weight: float
) -> None:
    view, residual = case
    given_weights = {"drl": drl_weight, BASELINE: baseline_weight, "unknown": 5.0}
    opinions = opinions_of(view, residual, given_weights)
    parts = contributions_of(opinions, given_weights)
    wanted = blend(parts)
    low, high = (
        np.minimum(wants(view, residual), opinions[BASELINE]),
        np.maximum(wants(view, residual), opinions[BASELINE]),
    )
    assert ((wanted >= low - 1e-12) & (wanted <= high + 1e-12)).all()
    if drl_weight == 0:
        assert np.array_equal(wanted, opinions[BASELINE])
    if baseline_weight == 0 and drl_weight > 0:
        assert np.array_equal(wanted, opinions["drl"])


def test_a_strategy_that_was_given_no_weight_has_no_say() -> None:
    opinions = {"drl": np.array([0.3]), BASELINE: np.array([0.1])}
    assert blend(contributions_of(opinions, {"drl": 2.0})).tolist() == [0.3]
    assert blend(contributions_of(opinions, {"drl": 3.0, BASELINE: 1.0})) == pytest.approx([0.25])


def test_without_a_model_the_baseline_speaks_whatever_the_weights_say() -> None:
    view = make_view(make_market([1.0, 2.0], [0.3, 0.8], [0.5, 0.5]))
    baseline = trend_vol_target.wanted_weights(view)
    for weights in ({"drl": 1.0}, {}, {BASELINE: 0.0}, {BASELINE: 2.0, "drl": 8.0}):
        opinions = opinions_of(view, None, weights)
        assert np.array_equal(blend(contributions_of(opinions, weights)), baseline)


def contrarian(view: View, residual: Residual | None = None) -> FloatArray:
    """Holds a fifth of what falls."""
    return np.where(view.market.trend < 0, 0.2, 0.0)


def test_a_plug_in_registered_at_run_time_trades_beside_another_and_each_has_its_own_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of what is wanted, by its share of the weights; the parts add up."""
    monkeypatch.setitem(STRATEGIES, "contrarian", contrarian)
    weights = {"contrarian": 0.25, "vol_target": 0.75}
    market = make_market([100.0, 50.0], [-0.5, 0.5], [1.0, 1.0], config=make_config(strategy_weights=weights))
    view = make_view(market)
    decision = decide(view, None, make_circumstances(2))
    assert set(decision.contributions) == {"contrarian", "vol_target"}
    assert decision.contributions["contrarian"].tolist() == [0.05, 0.0]
    sized = 0.75 * vol_target.wanted_weights(view)
    assert decision.contributions["vol_target"].tolist() == sized.tolist()
    assert decision.wanted == pytest.approx([0.05 + sized[0], sized[1]])
    assert decision.plan.quantity[0] * 100.0 == pytest.approx(1000 * decision.wanted[0], abs=0.01)
