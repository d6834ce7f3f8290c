"""Each feature is a function of exactly its last 96 candles, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.features import FEATURES, WINDOW, features_of, lay_out, window_features
from shared.rows import Candles
from tests.helpers import random_candles

HOUR = 3600
ROWS = {name: row for row, name in enumerate(FEATURES)}


def without(candles: Candles, *missing: int) -> Candles:
    """The candles but those at these positions."""
    return candles[np.delete(np.arange(len(candles)), missing)]


def features(candles: Candles) -> np.ndarray:
    window = window_features(candles, int(candles.as_of[-1]), HOUR)
    assert window is not None
    return window


def with_columns(candles: Candles, **columns: np.ndarray) -> Candles:
    return Candles(**{name: columns.get(name, getattr(candles, name)) for name in Candles.__slots__})


def test_a_window_is_float32_with_a_row_a_feature_and_a_column_a_candle() -> None:
    window = features(random_candles(WINDOW, HOUR))
    assert window.shape == (len(FEATURES), WINDOW)
    assert window.dtype == np.float32
    assert window.flags.c_contiguous


@given(
    seed=st.integers(0, 10_000),
    older=st.integers(1, 300),
    newer=st.integers(1, 50),
    gaps=st.sets(st.integers(0, 94), max_size=9),
)
def test_neither_older_nor_newer_candles_change_a_bit(seed: int, older: int, newer: int, gaps: set[int]) -> None:
    candles = random_candles(older + WINDOW + newer, HOUR, seed)
    as_of = int(candles.as_of[older + WINDOW - 1])
    candles = without(candles, *(older + gap for gap in gaps))
    alone = candles[(candles.as_of > as_of - WINDOW * HOUR) & (candles.as_of <= as_of)]
    expected = window_features(alone, as_of, HOUR)
    assert expected is not None
    for more in (candles, candles[candles.as_of <= as_of], candles[candles.as_of > as_of - WINDOW * HOUR]):
        actual = window_features(more, as_of, HOUR)
        assert actual is not None
        assert actual.tobytes() == expected.tobytes()


@given(seed=st.integers(0, 10_000), price=st.integers(-20, 20), volume=st.integers(-20, 20))
def test_features_know_no_price_level_and_no_unit_of_volume(seed: int, price: int, volume: int) -> None:
    candles = random_candles(WINDOW, HOUR, seed)
    prices = {name: getattr(candles, name) * 2.0**price for name in ("open", "high", "low", "close")}
    scaled = with_columns(candles, **prices, volume=candles.volume * 2.0**volume)
    np.testing.assert_allclose(features(scaled), features(candles), rtol=1e-5, atol=1e-5)


def test_the_formulas_by_hand() -> None:
    candles = random_candles(WINDOW, HOUR, seed=3)
    o, h, low, c, v = (getattr(candles, name) for name in ("open", "high", "low", "close", "volume"))
    r = np.log(c / np.concatenate([o[:1], c[:-1]]))
    weights = 0.5 ** (np.arange(95, -1, -1) / 24)
    sigma = np.sqrt((weights * r**2).sum() / weights.sum())
    angle = 2 * np.pi * (candles.as_of % 86_400) / 86_400
    expected = {
        "scaled_return": r / sigma,
        "absolute_return": abs(r) / sigma,
        "scaled_range": (h - low) / c / sigma,
        "close_location": 2 * (c - low) / (h - low) - 1,
        "upper_wick": (h - np.maximum(o, c)) / (h - low),
        "lower_wick": (np.minimum(o, c) - low) / (h - low),
        "relative_volume": np.log(v / v.mean() + 0.001),
        "missing": np.zeros(WINDOW),
        "hour_sine": np.sin(angle),
        "hour_cosine": np.cos(angle),
        "log_sigma": np.full(WINDOW, np.log(100 * sigma)),
        "trend": np.full(WINDOW, r.sum() / np.sqrt((r**2).sum())),
    }
    actual = features(candles)
    assert expected.keys() == FEATURES.keys()
    for name, row in expected.items():
        np.testing.assert_allclose(actual[ROWS[name]], np.clip(row, -8, 8), rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_missing_candle_is_flat_without_volume_and_flagged() -> None:
    candles = random_candles(WINDOW, HOUR)
    window = lay_out(without(candles, 40, 41), int(candles.as_of[-1]), HOUR)
    assert window is not None
    assert np.flatnonzero(window.missing).tolist() == [40, 41]
    for prices in (window.open, window.high, window.low, window.close):
        assert (prices[40:42] == candles.close[39]).all()
    assert window.volume[40:42].tolist() == [0, 0]
    assert window.returns[40:42].tolist() == [0, 0]
    assert features_of(window)[ROWS["missing"], 40:42].tolist() == [1, 1]


def test_candles_missing_at_the_beginning_are_flat_at_the_first_open() -> None:
    candles = random_candles(WINDOW, HOUR)
    window = lay_out(candles[3:], int(candles.as_of[-1]), HOUR)
    assert window is not None
    assert (window.close[:3] == candles.open[3]).all()


def test_doubt_gives_no_features() -> None:
    candles = random_candles(WINDOW, HOUR)
    last = int(candles.as_of[-1])
    assert window_features(without(candles, 95), last, HOUR) is None  # the last is missing
    assert window_features(without(candles, *range(10, 20)), last, HOUR) is None  # 86 of 96
    assert window_features(without(candles, *range(10, 19)), last, HOUR) is not None  # 87 of 96
    assert window_features(Candles.empty(), last, HOUR) is None


def test_candles_off_the_grid_are_refused() -> None:
    candles = random_candles(WINDOW, HOUR)
    shifted = with_columns(candles, as_of=candles.as_of - np.where(np.arange(WINDOW) == 50, 60, 0))
    with pytest.raises(ValueError, match="grid"):
        window_features(shifted, int(candles.as_of[-1]), HOUR)


@pytest.mark.parametrize("volume", [0.0, 1.0])
def test_a_market_that_stands_still_gives_finite_features(volume: float) -> None:
    candles = random_candles(WINDOW, HOUR)
    flat = {name: np.full(WINDOW, 5.0) for name in ("open", "high", "low", "close")}
    window = features(with_columns(candles, **flat, volume=np.full(WINDOW, volume)))
    assert np.isfinite(window).all()
    assert window[ROWS["scaled_return"]].any() == np.False_


def test_a_crash_is_clipped() -> None:
    candles = random_candles(WINDOW, HOUR)
    low, close = candles.low.copy(), candles.close.copy()
    low[-1] = close[-1] = 0.01
    window = features(with_columns(candles, low=low, close=close))
    assert np.abs(window).max() <= 8


@pytest.mark.parametrize("name", FEATURES)
def test_every_feature_states_its_formula(name: str) -> None:
    assert FEATURES[name].__doc__
    assert FEATURES[name].__name__ == name
