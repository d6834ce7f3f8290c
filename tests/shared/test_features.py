"""What holds for every registered feature and channel: causal to the bit, scale-free, finite, documented."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.features import CHANNELS, CLIP, FEATURES, WINDOW, Grid, compute_channels, compute_features
from shared.features.activity import ACTIVITY
from shared.features.channels import scale
from shared.features.trend import TREND
from shared.features.volatility import VOLATILITY
from shared.rows import Candles
from tests.helpers import random_candles
from tests.shared.feature_series import HOUR, PRICES, last_window, rough_candles, unclipped, with_prices

Values = dict[str, NDArray[np.float32]]  # of each feature [N], of each channel [N, L]

SEEDS = range(6)
EVERYTHING = [*FEATURES, *(f"channel {name}" for name in CHANNELS)]


def values(grid: Grid, closes: NDArray[np.int64]) -> Values:
    windows = grid.windows(closes)
    features, channels = compute_features(windows), compute_channels(windows)
    named = {name: features[:, i] for i, name in enumerate(FEATURES)}
    return named | {f"channel {name}": channels[:, i] for i, name in enumerate(CHANNELS)}


def joined(parts: list[Values]) -> Values:
    return {name: np.concatenate([part[name] for part in parts]) for name in EVERYTHING}


@cache
def series() -> Candles:
    return rough_candles(700, seed=1)


@cache
def chosen() -> NDArray[np.int64]:
    """Closes early and late, with a gap at the beginning of their window, inside, or right before the end."""
    return Grid(series(), HOUR).usable()[::4]


@cache
def in_one_batch() -> Values:
    return values(Grid(series(), HOUR), chosen())


def same_bits(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return one.tobytes() == other.tobytes()


# ── causality ───────────────────────────────────────────────────────────────────────────────────────────
@cache
def without_later_candles() -> Values:
    candles = series()
    return joined([values(Grid(candles[candles.as_of <= at], HOUR), np.array([at])) for at in chosen()])


@cache
def with_other_later_candles() -> Values:
    candles, other = series(), with_prices(rough_candles(700, seed=2), 7.0)
    mixed = (Candles.concatenate([candles[candles.as_of <= at], other[other.as_of > at]]) for at in chosen())
    return joined([values(Grid(m, HOUR), np.array([at])) for m, at in zip(mixed, chosen(), strict=True)])


@cache
def without_older_candles() -> Values:
    candles = series()
    inside = (candles[(candles.as_of > at - WINDOW * HOUR) & (candles.as_of <= at)] for at in chosen())
    return joined([values(Grid(c, HOUR), np.array([at])) for c, at in zip(inside, chosen(), strict=True)])


def test_the_chosen_windows_are_of_every_kind() -> None:
    windows = Grid(series(), HOUR).windows(chosen())
    assert windows.missing[:, 0].any()
    assert windows.missing[:, -2].any()
    assert (windows.missing[:, 1:-2].sum(axis=1) > 0).all()
    assert (windows.volume == 0).any()


@pytest.mark.parametrize("name", EVERYTHING)
def test_no_later_candle_changes_a_bit(name: str) -> None:
    assert same_bits(in_one_batch()[name], without_later_candles()[name])
    assert same_bits(in_one_batch()[name], with_other_later_candles()[name])


@pytest.mark.parametrize("name", EVERYTHING)
def test_no_candle_before_the_window_changes_a_bit(name: str) -> None:
    assert same_bits(in_one_batch()[name], without_older_candles()[name])


@cache
def with_other_history(length: int, seed: int) -> tuple[Values, Values]:
    """A series' last window, and the same with all but its last ``length`` slots of quite another series."""
    candles = rough_candles(400, seed)
    other = with_prices(rough_candles(400, seed + 50), 3.0)
    border = int(candles.as_of[-1]) - length * HOUR
    mixed = Candles.concatenate([other[other.as_of <= border], candles[candles.as_of > border]])
    return values(Grid(candles, HOUR), candles.as_of[-1:]), values(Grid(mixed, HOUR), mixed.as_of[-1:])


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_depends_on_no_candle_older_than_its_length(name: str) -> None:
    for seed in SEEDS:
        one, other = with_other_history(FEATURES[name].length, seed)
        assert same_bits(one[name], other[name])


def scaled_at(candles: Candles, i: int, **factors: float) -> Candles:
    columns = {name: getattr(candles, name).copy() for name in factors}
    for name, factor in factors.items():
        columns[name][i] *= factor
    return replace(candles, **columns)


def flattened_at(candles: Candles, i: int) -> Candles:
    return scaled_at(candles, i, **{name: candles.close[i] / getattr(candles, name)[i] for name in PRICES})


CHANGES: tuple[Callable[[Candles, int], Candles], ...] = (
    lambda candles, i: scaled_at(candles, i, **dict.fromkeys(PRICES, 2.0)),
    lambda candles, i: scaled_at(candles, i, high=2.0, low=0.3),
    lambda candles, i: scaled_at(candles, i, volume=100.0),
    lambda candles, i: candles[np.delete(np.arange(len(candles)), i)],
    flattened_at,
)


@cache
def after_a_change(length: int, change: int, seed: int) -> tuple[Values, Values]:
    """A window before and after a change to the oldest candle that a feature of this length may use."""
    candles = random_candles(WINDOW, HOUR, seed)
    changed = CHANGES[change](candles, WINDOW - length)
    if changed.as_of[-1] != candles.as_of[-1]:  # it was the only candle: without it there is no window
        return values(Grid(candles, HOUR), candles.as_of[-1:]), {}
    return tuple(values(Grid(c, HOUR), c.as_of[-1:]) for c in (candles, changed))  # type: ignore[return-value]


@pytest.mark.parametrize("name", [name for name in FEATURES if "day_" not in name and "week_" not in name])
def test_a_feature_depends_on_the_oldest_candle_of_its_length(name: str) -> None:
    for change in range(len(CHANGES)):
        for seed in SEEDS:
            before, after = after_a_change(FEATURES[name].length, change, seed)
            if after and not same_bits(before[name], after[name]):
                return
    raise AssertionError(f"nothing that happens to the candle {FEATURES[name].length} ago changes {name}")


@pytest.mark.parametrize("name", [name for name in FEATURES if "day_" in name or "week_" in name])
def test_the_calendar_depends_on_the_close_alone(name: str) -> None:
    candles = random_candles(WINDOW, HOUR)
    later = replace(random_candles(WINDOW, HOUR, seed=5), as_of=candles.as_of + 5 * HOUR)
    a_week_later = replace(later, as_of=candles.as_of + 7 * 24 * HOUR)
    now, then, next_week = (unclipped(name, last_window(c)) for c in (candles, later, a_week_later))
    assert abs(now - then) > 0.01
    assert now == next_week


# ── batches ─────────────────────────────────────────────────────────────────────────────────────────────
@cache
def in_groups(size: int) -> Values:
    grid, closes = Grid(series(), HOUR), chosen()
    return joined([values(grid, closes[i : i + size]) for i in range(0, len(closes), size)])


@cache
def in_another_order() -> tuple[NDArray[np.int64], Values]:
    order = np.random.default_rng(0).permutation(len(chosen()))
    return order, values(Grid(series(), HOUR), chosen()[order])


@pytest.mark.parametrize("name", EVERYTHING)
def test_windows_computed_together_have_the_bits_of_each_alone(name: str) -> None:
    for size in (1, 2, 3, 7, 16):
        assert same_bits(in_one_batch()[name], in_groups(size)[name])
    order, shuffled = in_another_order()
    assert same_bits(in_one_batch()[name][order], shuffled[name])


def test_no_windows_give_no_values() -> None:
    for candles in (series(), Candles.empty()):
        windows = Grid(candles, HOUR).windows(np.empty(0, np.int64))
        assert compute_features(windows).shape == (0, len(FEATURES))
        assert compute_channels(windows).shape == (0, len(CHANNELS), WINDOW)


# ── scale ───────────────────────────────────────────────────────────────────────────────────────────────
@cache
def rescaled() -> list[Candles]:
    scales = ((1e-6, 1.0), (7321.0, 1.0), (1.0, 3.3e-9), (1.0, 1e9), (0.37, 41.0))
    return [replace(with_prices(series(), price), volume=series().volume * volume) for price, volume in scales]


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_knows_no_price_level_and_no_unit_of_volume(name: str) -> None:
    expected = unclipped(name, Grid(series(), HOUR).windows(chosen()))
    for candles in rescaled():
        actual = unclipped(name, Grid(candles, HOUR).windows(chosen()))
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CHANNELS)
def test_a_channel_knows_no_price_level_and_no_unit_of_volume(name: str) -> None:
    expected = CHANNELS[name](scale(Grid(series(), HOUR).windows(chosen())))
    for candles in rescaled():
        actual = CHANNELS[name](scale(Grid(candles, HOUR).windows(chosen())))
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


def moved_k_times_as_much(candles: Candles, k: float) -> Candles:
    return replace(candles, **{name: 100 * (getattr(candles, name) / 100) ** k for name in PRICES})


@pytest.mark.parametrize("name", FEATURES)
def test_the_level_of_volatility_survives_in_its_logarithms_and_nowhere_else(name: str) -> None:
    candles = random_candles(WINDOW, HOUR, seed=4)
    calm, wild = (unclipped(name, last_window(c)) for c in (candles, moved_k_times_as_much(candles, 3.0)))
    level = name.startswith("log_")
    np.testing.assert_allclose(wild - calm, np.log(3.0) if level else 0.0, rtol=1e-9, atol=1e-9)


def test_the_level_reaches_the_encoder() -> None:
    candles = random_candles(WINDOW, HOUR, seed=4)
    calm, wild = (compute_features(last_window(c))[0] for c in (candles, moved_k_times_as_much(candles, 3.0)))
    moved = {name for name, change in zip(FEATURES, wild - calm, strict=True) if abs(change - np.log(3)) < 1e-4}
    assert moved == {name for name in FEATURES if name.startswith("log_")}
    assert len(moved) == 17


# ── extremes ────────────────────────────────────────────────────────────────────────────────────────────
def constant(volume: float) -> Candles:
    candles = random_candles(WINDOW, HOUR)
    return replace(candles, **{name: np.full(WINDOW, 0.1) for name in PRICES}, volume=np.full(WINDOW, volume))


def wild() -> Candles:
    """Prices from 1e-8 to 1e6 and volumes from 0 to 1e12, at random."""
    rng = np.random.default_rng(0)
    prices = np.sort(10 ** rng.uniform(-8, 6, (4, WINDOW)), axis=0)
    volume = np.where(rng.random(WINDOW) < 0.3, 0.0, 10 ** rng.uniform(-6, 12, WINDOW))
    columns = dict(zip(("low", "open", "close", "high"), prices, strict=True))
    return replace(random_candles(WINDOW, HOUR), **columns, volume=volume)


def steady() -> Candles:
    """The same rise and the same volume in every candle: nothing varies but for rounding."""
    close = 100 * 1.001 ** np.arange(WINDOW)
    candles = random_candles(WINDOW, HOUR)
    columns = {"open": close / 1.001, "low": close / 1.001, "high": close, "close": close}
    return replace(candles, **columns, volume=np.full(WINDOW, 0.1))


def dust() -> Candles:
    """The smallest price with the smallest movement."""
    candles = with_prices(constant(1e12), 1e-7)
    return scaled_at(candles, 200, high=1 + 1e-12, close=1 + 1e-12)


EXTREMES: dict[str, Callable[[], Candles]] = {
    "constant": lambda: constant(0.1),
    "constant, nothing traded": lambda: constant(0.0),
    "nothing traded": lambda: replace(random_candles(WINDOW, HOUR), volume=np.zeros(WINDOW)),
    "all traded in one candle": lambda: replace(random_candles(WINDOW, HOUR), volume=np.eye(WINDOW)[70] * 1e12),
    "wild": wild,
    "steady": steady,
    "dust": dust,
    "one candle missing at the beginning": lambda: random_candles(WINDOW - 1, HOUR),
    "28 candles missing at the beginning": lambda: random_candles(WINDOW - 28, HOUR),
    "28 candles missing before the last": lambda: random_candles(WINDOW, HOUR)[np.r_[: WINDOW - 29, WINDOW - 1]],
    "a crash to a hundredth": lambda: scaled_at(random_candles(WINDOW, HOUR), WINDOW - 1, low=0.01, close=0.01),
}


@pytest.mark.parametrize("case", EXTREMES)
def test_extremes_give_finite_clipped_values_without_a_warning(case: str) -> None:
    windows = last_window(EXTREMES[case]())
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        features, channels = compute_features(windows), compute_channels(windows)
        raw = {name: unclipped(name, windows)[0] for name in FEATURES}
    assert not [name for name, value in raw.items() if not np.isfinite(value)]
    assert features.dtype == channels.dtype == np.float32
    for computed in (features, channels):
        assert np.isfinite(computed).all()
        assert np.abs(computed).max() <= CLIP


def test_a_market_that_does_not_vary_has_no_shape() -> None:
    for candles, where in ((constant(0.1), "constant"), (steady(), "steady")):
        windows = last_window(candles)
        for name in FEATURES:
            if "correlation" in name or name.startswith(("skewness", "leverage", "volatility_of", "volume_variation")):
                assert abs(unclipped(name, windows)[0]) < 1e-6, (name, where)
    youngest = [unclipped(name, last_window(constant(0.1)))[0] for name in ("since_high_288", "since_low_288")]
    assert youngest == [-1, -1]  # of equals the youngest counts
    candles = random_candles(WINDOW, HOUR)
    for half in (replace(steady(), volume=candles.volume), replace(candles, volume=steady().volume)):
        assert unclipped("volume_volatility_correlation_96", last_window(half)) == 0
    windows = last_window(constant(0.1))
    for name in ("drift_24", "efficiency_12", "crossover_8_32", "range_position_24", "z_score_48", "linearity_96",
                 "relative_strength_14", "drawdown_288", "body_share_24", "jump_share_48", "downside_share_24",
                 "variance_ratio_288", "signed_volume_12", "vwap_distance_96", "money_flow_48"):  # fmt: skip
        assert abs(unclipped(name, windows)[0]) < 1e-9, name


# ── the registry ────────────────────────────────────────────────────────────────────────────────────────
def test_no_name_is_registered_twice() -> None:
    assert len(FEATURES) == len(VOLATILITY) + len(TREND) + len(ACTIVITY) >= 50


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_says_what_it_is(name: str) -> None:
    feature = FEATURES[name]
    assert 1 <= feature.length <= WINDOW
    assert feature.formula.strip() == feature.formula != ""
    assert feature.source
    assert "{" not in feature.formula


@pytest.mark.parametrize("name", CHANNELS)
def test_a_channel_says_what_it_is(name: str) -> None:
    assert CHANNELS[name].__doc__
    assert CHANNELS[name].__name__ == name
