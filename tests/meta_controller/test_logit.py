from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_controller.market_index import LEAST_BARS, MarketHistory
from meta_controller.outcomes import volatility_terciles
from meta_controller.regimes.expert import FLOOR, Expert
from meta_controller.regimes.logit import (
    INTERCEPT_RIDGE,
    LONGEST_STRIDE,
    call_logit,
    fit_logit,
    linear,
    log_terciles,
    mean_over,
    running,
    standardised,
)
from shared.rows import FloatArray, IntArray
from tests.meta_controller.markets import HOUR_S, START, WEEK, history_of, wandering

SHORT = 120 * 24  # bars: enough to fit on
CRASH = -20 * 0.005


def market(bars: int, seed: int = 0) -> MarketHistory:
    """An index with ranges that are not the squared returns; its last bars lie in two weeks."""
    returns = wandering(bars, seed, instruments=1)[0]
    noise = np.exp(0.4 * np.random.default_rng(seed + 1).standard_normal(bars))
    first = START + 40 * HOUR_S
    return MarketHistory(first, HOUR_S, returns, np.abs(returns) * 0.003 * noise, np.ones(bars, bool), (0,))


def poison(kind: str, bars: int) -> MarketHistory:
    returns = market(bars, seed=3).returns.copy()
    if kind == "flat":
        returns[:] = 0.0
    elif kind == "crash":
        returns[-30] = CRASH
    elif kind == "gap":
        returns[-400:-10] = 0.0
    elif kind == "flat, then wild":
        returns[:-100] = 0.0
    elif kind == "ever wilder":
        returns = 1e-6 * returns * np.exp(np.arange(bars) / bars * 12.0)
    return history_of(returns)


POISONS = ("flat", "crash", "gap", "flat, then wild", "ever wilder")


def assert_calls_are_probabilities(expert: Expert) -> None:
    """Learnt from any market, about any other."""
    histories = [poison(kind, SHORT) for kind in POISONS] + [market(SHORT)]
    short = [poison(kind, LEAST_BARS) for kind in POISONS]
    for past in histories:
        assert expert.fit is not None
        parameters = expert.fit(past)
        assert parameters is not None
        assert json.loads(json.dumps(parameters, allow_nan=False)) == parameters
        for history in histories + short:
            calls = expert.call(history, parameters, min(168, len(history)))
            assert calls.shape == (168, 2, 6)
            assert np.isfinite(calls).all()
            assert calls.min() >= FLOOR
            assert np.abs(calls.reshape(168, 2, 2, 3).sum(axis=3) - 1.0).max() < 1e-12
        whole = expert.call(short[0], parameters, LEAST_BARS)  # to the very first bar
        assert np.isfinite(whole).all()


def assert_a_call_knows_its_own_past_only(expert: Expert, bars: int = SHORT) -> None:
    """The same bits alone, in a batch, with more bars to come, and with other bars to come."""
    history = market(bars)
    assert expert.fit is not None
    parameters = expert.fit(history.upto(history.first + (bars - WEEK) * HOUR_S))
    assert parameters is not None
    batch = expert.call(history, parameters, WEEK)
    for k in (1, 2, 3, 4, 7, 8, 9, 17, 31, 64, 65, 100, 129, 167):
        end = bars - WEEK + k
        past = history.upto(history.first + (end - 1) * HOUR_S)
        assert np.array_equal(expert.call(past, parameters, k), batch[:k])
        assert np.array_equal(expert.call(past, parameters, 1)[0], batch[k - 1])
        assert np.array_equal(expert.call(history, parameters, k), batch[WEEK - k :])


def assert_too_short_a_past_is_not_learnt_from(expert: Expert) -> None:
    assert expert.fit is not None
    assert expert.fit(market(60 * 24 - 1)) is None
    assert expert.fit(market(60 * 24)) is not None


def assert_bars_may_be_of_any_length(expert: Expert) -> None:
    for timeframe_s, bars in ((900, 62 * 96), (4 * HOUR_S, 900), (24 * HOUR_S, 400)):
        history = history_of(wandering(bars, instruments=1)[0], START + timeframe_s, timeframe_s)
        assert expert.fit is not None
        parameters = expert.fit(history)
        assert parameters is not None
        calls = expert.call(history, parameters, 10)
        assert np.isfinite(calls).all()
        assert np.abs(calls.reshape(10, 2, 2, 3).sum(axis=3) - 1.0).max() < 1e-12
        shorter = history.upto(history.first + (bars - 5) * timeframe_s)
        assert np.array_equal(expert.call(shorter, parameters, 1)[0], calls[5])


def drawn(seed: int, n: int = 600) -> tuple[FloatArray, IntArray]:
    """Features, and classes from a logit of known weights in them."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, 2)) * [1.0, 20.0] + [0.0, 300.0]
    scores = np.stack([-features[:, 0], np.zeros(n), features[:, 0] + (features[:, 1] - 300.0) / 20.0], axis=1)
    return features, (scores + rng.gumbel(size=(n, 3))).argmax(axis=1)


def test_the_fit_is_where_the_gradient_vanishes() -> None:
    features, classes = drawn(1)
    fitted = fit_logit(features, classes, ridge=7.0)
    weights = np.array(fitted["weights"])
    design = np.column_stack([standardised(features, fitted["centre"], fitted["scale"]), np.ones(len(features))])
    scores = design @ weights
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    penalty = np.array([[7.0], [7.0], [INTERCEPT_RIDGE]])
    assert np.abs(design.T @ (np.eye(3)[classes] - p) - penalty * weights).max() < 1e-6


def test_known_weights_are_found() -> None:
    features, classes = drawn(2, n=40_000)
    fitted = fit_logit(features, classes, ridge=1.0)
    weights = np.array(fitted["weights"])
    slopes = (weights[:-1] - weights[:-1, [1]]) / np.array(fitted["scale"])[:, None]
    assert slopes == pytest.approx(np.array([[-1.0, 0.0, 1.0], [0.0, 0.0, 0.05]]), abs=0.05)


def test_a_strong_ridge_leaves_the_frequencies() -> None:
    features, classes = drawn(3)
    called = call_logit(fit_logit(features, classes, ridge=1e9), features)
    frequencies = np.bincount(classes, minlength=3) / len(classes)
    assert called == pytest.approx(np.tile(FLOOR + (1 - 3 * FLOOR) * frequencies, (len(features), 1)), abs=2e-3)


def test_one_class_only_is_learnt_and_the_others_keep_the_floor() -> None:
    features, _ = drawn(4)
    called = call_logit(fit_logit(features, np.full(len(features), 2), ridge=1.0), features)
    assert called[:, 2].min() > 0.9
    assert called[:, :2].min() >= FLOOR


def test_no_observation_is_an_error() -> None:
    with pytest.raises(ValueError, match="no observation"):
        fit_logit(np.empty((0, 2)), np.empty(0, np.int64), ridge=1.0)


@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=2))
def test_far_from_what_was_learnt_from_calls_stay_probabilities(point: list[float]) -> None:
    features, classes = drawn(5, n=100)
    called = call_logit(fit_logit(features, classes, ridge=1.0), np.array([point]))
    assert called.min() >= FLOOR
    assert abs(called.sum() - 1.0) < 1e-12


def test_a_feature_says_no_more_than_its_longest_stride() -> None:
    assert standardised(np.array([[1e9, -7.0]]), [0.0, 1.0], [1.0, 2.0]).tolist() == [[LONGEST_STRIDE, -4.0]]


def test_linear_is_the_product_by_rows() -> None:
    columns = np.random.default_rng(0).standard_normal((50, 4))
    assert linear(columns, [1.0, -2.0, 0.5, 3.0], 7.0) == pytest.approx(columns @ [1.0, -2.0, 0.5, 3.0] + 7.0)


def test_a_mean_is_over_its_window_or_what_there_is_of_it() -> None:
    values = np.random.default_rng(0).standard_normal(30)
    rows = np.arange(30)
    expected = [values[max(0, row - 6) : row + 1].mean() for row in rows]
    assert mean_over(running(values), rows, 7) == pytest.approx(np.array(expected), abs=1e-12)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 100), rows=st.integers(1, 200), h=st.sampled_from([1, 4, 24]))
def test_terciles_are_those_of_the_labels(seed: int, rows: int, h: int) -> None:
    history = market(4600, seed)
    wanted = np.arange(len(history) - rows, len(history))
    expected = np.log(volatility_terciles(history, h)[wanted]) - 0.5 * np.log(h)
    assert np.array_equal(log_terciles(history, h, wanted), expected)


def test_terciles_of_a_young_history_are_those_of_what_there_is() -> None:
    history = market(400)
    found = log_terciles(history, 24, np.arange(400))
    labels = volatility_terciles(history, 24)
    known = ~np.isnan(labels[:, 0])
    assert known.sum() == 400 - 23 - 14 * 24 + 1
    assert np.array_equal(found[known], np.log(labels[known]) - 0.5 * np.log(24))
    first = 0.5 * np.log((history.returns[:10] ** 2).mean())
    assert found[9] == pytest.approx([first, first])
    assert np.isfinite(found).all()
