"""What every regime expert keeps to, because it is registered."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest

from meta_controller.controller import HORIZONS_S
from meta_controller.market_index import DAY_S, LEAST_BARS, MarketHistory
from meta_controller.regimes import EXPERTS
from meta_controller.regimes.expert import CLASSES, FLOOR, Calls
from tests.meta_controller.markets import HOUR_S, START, WEEK, history_of, wandering

PAST = 200 * DAY_S // HOUR_S
ALL = pytest.mark.parametrize("name", EXPERTS)


def market(bars: int, seed: int = 0) -> MarketHistory:
    """``bars`` hours that end a week after START: the last week is a block."""
    first = START + WEEK * HOUR_S - (bars - 1) * HOUR_S
    return history_of(wandering(bars, seed)[0], first)


@cache
def learnt(name: str, bars: int = PAST) -> Any:
    expert = EXPERTS[name]
    found = None if expert.fit is None else expert.fit(market(bars + WEEK).upto(START))
    return json.loads(json.dumps({} if expert.fit is None else found, allow_nan=False))


def called(name: str, history: MarketHistory, bars: int) -> Calls:
    return EXPERTS[name].call(history, learnt(name), bars)


def is_sound(calls: Calls, bars: int) -> None:
    assert calls.shape == (bars, len(HORIZONS_S), CLASSES)
    assert np.isfinite(calls).all()
    assert calls.min() >= FLOOR - 1e-12
    for triple in (calls[:, :, :3], calls[:, :, 3:]):
        assert np.abs(triple.sum(axis=2) - 1.0).max() < 1e-12


@ALL
def test_calls_are_probabilities(name: str) -> None:
    is_sound(called(name, market(PAST + WEEK), WEEK), WEEK)


@ALL
@pytest.mark.parametrize("bars", [1, 2, 7, 24, 100, 167])
def test_a_call_has_the_same_bits_alone_in_a_batch_and_with_a_future_behind_it(name: str, bars: int) -> None:
    history = market(PAST + WEEK)
    whole = called(name, history, WEEK)
    early = history.upto(START + bars * HOUR_S)
    assert called(name, early, bars).tobytes() == whole[:bars].tobytes()
    assert called(name, early, 1).tobytes() == whole[bars - 1 : bars].tobytes()


@ALL
def test_the_future_changes_no_fit_and_no_call(name: str) -> None:
    history = market(PAST + WEEK)
    returns, variance = history.returns.copy(), history.variance.copy()
    returns[PAST + 50 :], variance[PAST + 50 :] = 0.2, 0.3
    poisoned = MarketHistory(history.first, HOUR_S, returns, variance, history.present, (0,))
    assert called(name, poisoned, WEEK)[:50].tobytes() == called(name, history, WEEK)[:50].tobytes()
    expert = EXPERTS[name]
    if expert.fit is not None:
        assert expert.fit(poisoned.upto(START)) == expert.fit(history.upto(START))


def still(n: int) -> tuple[Any, Any]:
    return np.zeros(n), np.zeros(n)


def crash(n: int) -> tuple[Any, Any]:
    returns = 0.003 * np.random.default_rng(1).standard_normal(n)
    returns[n // 2], returns[-30] = -0.6, -0.9
    return returns, returns**2


def gone(n: int) -> tuple[Any, Any]:
    returns, variance = crash(n)
    returns[-400:], variance[-400:] = 0.0, 0.0
    return returns, variance


def rising(n: int) -> tuple[Any, Any]:
    return np.full(n, 0.001), np.full(n, 1e-6)


@ALL
@pytest.mark.parametrize("poison", [still, crash, gone, rising])
@pytest.mark.parametrize("bars", [LEAST_BARS, PAST])
def test_no_market_breaks_a_fit_or_a_call(name: str, poison: Any, bars: int) -> None:
    returns, variance = poison(bars)
    first = START + 24 * HOUR_S - (bars - 1) * HOUR_S
    history = MarketHistory(first, HOUR_S, returns, variance, np.ones(bars, bool), (0,))
    is_sound(EXPERTS[name].call(history, learnt(name), 5), 5)
    expert = EXPERTS[name]
    if expert.fit is not None and bars >= expert.least_bars:
        fitted = expert.fit(history)
        if fitted is not None:
            is_sound(expert.call(history, json.loads(json.dumps(fitted, allow_nan=False)), 5), 5)


@ALL
def test_the_scale_of_returns_is_no_evidence(name: str) -> None:
    """A market of twice the volatility, learnt and called alike: percentiles and t-statistics are what counts."""
    history = market(PAST + WEEK)
    doubled = MarketHistory(history.first, HOUR_S, history.returns * 2, history.variance * 4, history.present, (0,))
    expert = EXPERTS[name]
    parameters = {} if expert.fit is None else expert.fit(doubled.upto(START))
    assert parameters is not None
    assert expert.call(doubled, parameters, 24) == pytest.approx(called(name, history, 24), abs=0.02)
