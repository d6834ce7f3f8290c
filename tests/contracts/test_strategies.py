"""What every decider must keep, and what the learnt one promises about its baseline."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policy.observation import View
from policy.signals import Signal
from policy.strategies import BASELINE, STRATEGIES, blend, drl, trend_vol_target
from shared.rows import FloatArray
from tests.policy.synthetic import make_book, make_config, make_view, views

SAID = st.sampled_from([-1.0, 0.0, 1.0]) | st.floats(-1, 1)


@st.composite
def asked(draw: st.DrawFn) -> tuple[View, FloatArray]:
    """A view, and what the model answered to it."""
    view = draw(views())
    n = len(view.signals)
    return view, np.array(draw(st.lists(SAID, min_size=n, max_size=n)))


@pytest.mark.parametrize("name", STRATEGIES)
@given(asked())
def test_a_strategy_wants_weights_between_none_and_max_position(name: str, case: tuple[View, FloatArray]) -> None:
    view, action = case
    wanted = STRATEGIES[name](view, action)
    assert wanted is not None
    assert wanted.shape == (len(view.signals),)
    assert ((wanted >= 0) & (wanted <= view.config.max_position)).all()


@pytest.mark.parametrize("name", STRATEGIES)
@given(asked())
def test_a_strategy_is_pure(name: str, case: tuple[View, FloatArray]) -> None:
    view, action = case
    given_action, held = action.copy(), view.book.held.copy()
    once, twice = STRATEGIES[name](view, action), STRATEGIES[name](view, action)
    assert np.array_equal(once, twice)
    assert np.array_equal(action, given_action)
    assert np.array_equal(view.book.held, held)


@given(views())
def test_without_an_answer_only_the_learnt_policy_has_no_opinion(view: View) -> None:
    opinions = {name: strategy(view, None) for name, strategy in STRATEGIES.items()}
    assert [name for name, weights in opinions.items() if weights is None] == ["drl"]


@given(views())
def test_a_policy_that_says_nothing_is_the_baseline_exactly(view: View) -> None:
    """Zero training = the baseline, to the last bit."""
    untrained = drl.wanted_weights(view, np.zeros(len(view.signals)))
    assert untrained is not None
    assert untrained.tolist() == trend_vol_target.wanted_weights(view).tolist()


@given(asked(), st.floats(0.5, 10), st.floats(0.5, 10))
def test_a_higher_risk_aversion_never_moves_the_policy_further_from_its_baseline(
    case: tuple[View, FloatArray], one: float, other: float
) -> None:
    view, action = case
    baseline = trend_vol_target.wanted_weights(view)

    def distance(aversion: float) -> FloatArray:
        wanted = drl.wanted_weights(replace(view, config=replace(view.config, risk_aversion=aversion)), action)
        assert wanted is not None
        return np.abs(wanted - baseline)

    assert (distance(max(one, other)) <= distance(min(one, other)) + 1e-15).all()


@given(asked())
def test_the_policy_never_reaches_further_than_its_share_of_max_position(case: tuple[View, FloatArray]) -> None:
    view, action = case
    wanted = drl.wanted_weights(view, 100 * action)  # a model that answers out of its bounds reaches no further
    assert wanted is not None
    assert (
        np.abs(wanted - trend_vol_target.wanted_weights(view)) <= drl.REACH * view.config.max_position + 1e-15
    ).all()


def test_the_policys_reach_by_hand() -> None:
    """A flat market: the baseline holds nothing, and the reach is a share of max_position over the risk aversion."""
    view = make_view([Signal(1.0, 0.0, 0.5)], make_config(max_position=0.4), make_book([0], [1]))
    for aversion, share in ((0.5, 1.0), (1.0, 1.0), (4.0, 0.25), (10.0, 0.1)):
        steered = replace(view, config=replace(view.config, risk_aversion=aversion))
        wanted = drl.wanted_weights(steered, np.array([0.5]))
        assert wanted == pytest.approx([0.5 * drl.REACH * 0.4 * share])


@given(asked())
def test_the_policy_moves_where_its_action_points(case: tuple[View, FloatArray]) -> None:
    view, action = case
    wanted = drl.wanted_weights(view, action)
    assert wanted is not None
    moved = wanted - trend_vol_target.wanted_weights(view)
    assert (moved * action >= 0).all()
    inside = (wanted > 0) & (wanted < view.config.max_position) & (np.abs(action) > 1e-6)
    assert (moved[inside] != 0).all()


@given(asked(), st.floats(0.0, 0.5))
def test_a_new_max_position_holds_at_once_for_every_strategy(case: tuple[View, FloatArray], cap: float) -> None:
    view, action = case
    steered = replace(view, config=replace(view.config, max_position=cap))
    for strategy in STRATEGIES.values():
        wanted = strategy(steered, action)
        assert wanted is not None
        assert wanted.max() <= cap


def test_the_baseline_by_hand() -> None:
    """Two instruments, a quarter of volatility: full trend at 50 % volatility is 0.25 / √2 / 0.5."""
    signals = [Signal(1.0, 1.0, 0.5), Signal(1.0, -1.0, 0.5)]
    view = make_view(signals, make_config(target_volatility=0.25), make_book([0, 0], [1, 1]))
    np.testing.assert_allclose(trend_vol_target.wanted_weights(view), [0.25 / np.sqrt(2) / 0.5, 0.0])


@given(views())
def test_the_baseline_holds_nothing_that_falls_or_that_it_cannot_measure(view: View) -> None:
    for signal, weight in zip(view.signals, trend_vol_target.wanted_weights(view), strict=True):
        if signal.trend <= 0 or signal.volatility <= 0:
            assert weight == 0.0


@given(views(), st.floats(1.0, 4.0))
def test_the_baseline_wants_no_less_of_what_rises_more_and_no_more_of_what_swings_more(
    view: View, factor: float
) -> None:
    assume(all(abs(signal.trend) * factor <= 1 for signal in view.signals))
    weights = trend_vol_target.wanted_weights(view)
    rising = tuple(replace(s, trend=s.trend * factor) for s in view.signals)
    swinging = tuple(replace(s, volatility=s.volatility * factor) for s in view.signals)
    assert (trend_vol_target.wanted_weights(replace(view, signals=rising)) >= weights).all()
    assert (trend_vol_target.wanted_weights(replace(view, signals=swinging)) <= weights + 1e-15).all()


@given(asked(), st.floats(0, 3), st.floats(0, 3))
def test_the_blend_lies_between_the_opinions_and_follows_the_weights(
    case: tuple[View, FloatArray], drl_weight: float, baseline_weight: float
) -> None:
    view, action = case
    opinions = {name: strategy(view, action) for name, strategy in STRATEGIES.items()}
    wanted = blend(opinions, {"drl": drl_weight, BASELINE: baseline_weight, "unknown": 5.0})
    low, high = np.minimum(*opinions.values()), np.maximum(*opinions.values())
    assert ((wanted >= low - 1e-12) & (wanted <= high + 1e-12)).all()
    if drl_weight == 0:
        assert np.array_equal(wanted, opinions[BASELINE])
    if baseline_weight == 0 and drl_weight > 0:
        np.testing.assert_allclose(wanted, opinions["drl"], rtol=1e-15)


def test_a_strategy_that_was_given_no_weight_has_no_say() -> None:
    opinions = {"drl": np.array([0.3]), BASELINE: np.array([0.1])}
    assert blend(opinions, {"drl": 2.0}).tolist() == [0.3]
    assert blend(opinions, {"drl": 3.0, BASELINE: 1.0}) == pytest.approx([0.25])


def test_without_a_model_the_baseline_speaks_whatever_the_weights_say() -> None:
    opinion = np.array([0.2, 0.1])
    for weights in ({"drl": 1.0}, {}, {BASELINE: 0.0}, {BASELINE: 2.0, "drl": 8.0}):
        assert np.array_equal(blend({BASELINE: opinion}, weights), opinion)
