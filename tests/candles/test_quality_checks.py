"""Every kind of odd candle is found where it was put, as often as it was put there, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from candles.derive import derive_candles
from candles.quality_checks import (
    Found,
    _deviations,
    compare_timeframes,
    compare_venues,
    count_gaps,
    find_outliers,
    find_stuck,
)
from shared.clock import from_unix
from shared.rows import Candles
from tests.helpers import random_candles

STEP = 300
NOTHING = Found(0, ())


def places(found: Found, candles: Candles) -> dict[int, float]:
    """The index of each of the worst candles, with its size."""
    at = [from_unix(int(as_of)) for as_of in candles.as_of]
    return {at.index(event.at): event.size for event in found.worst}


def scaled(candles: Candles, where: int | slice, factor: float, *names: str) -> Candles:
    changed = {name: getattr(candles, name).copy() for name in names}
    for column in changed.values():
        column[where] *= factor
    return replace(candles, **changed)


PRICES = ("open", "high", "low", "close")


# --- outliers and spikes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [0, 1, 2, 3, 50, 101, 5000])
def test_a_clean_series_has_nothing(seed: int, n: int) -> None:
    candles = random_candles(n, STEP, seed)
    assert find_outliers(candles, STEP) == (NOTHING, NOTHING)
    assert find_stuck(candles, STEP) == NOTHING


@pytest.mark.parametrize("where", [1, 70, 1500, 2998])
@pytest.mark.parametrize("factor", [10, 0.1, 1.2])
def test_a_candle_out_of_line_that_reverts_at_once_is_one_spike(where: int, factor: float) -> None:
    candles = scaled(random_candles(3000, STEP), where, factor, *PRICES)
    outliers, spikes = find_outliers(candles, STEP)
    assert (outliers, spikes.count) == (NOTHING, 1)
    assert places(spikes, candles) == {where: pytest.approx(np.log(factor), abs=0.05)}


@pytest.mark.parametrize(("name", "factor"), [("high", 3), ("low", 0.3), ("high", 1.5)])
def test_a_wick_far_beyond_both_neighbours_is_a_spike(name: str, factor: float) -> None:
    candles = scaled(random_candles(3000, STEP), 1500, factor, name)
    outliers, spikes = find_outliers(candles, STEP)
    assert (outliers, spikes.count) == (NOTHING, 1)
    assert places(spikes, candles) == {1500: pytest.approx(np.log(factor), abs=0.02)}


def test_a_close_that_jumps_and_is_taken_back_is_a_spike_though_the_next_candle_opens_there() -> None:
    candles = scaled(random_candles(3000, STEP), 1500, 2, "close", "high")
    candles = scaled(candles, 1501, 2, "open", "high")
    outliers, spikes = find_outliers(candles, STEP)
    assert (outliers, list(places(spikes, candles))) == (NOTHING, [1500])


@pytest.mark.parametrize("factor", [1.5, 0.7])
def test_a_jump_that_stays_is_one_outlier(factor: float) -> None:
    candles = scaled(random_candles(3000, STEP), slice(1500, None), factor, *PRICES)
    outliers, spikes = find_outliers(candles, STEP)
    assert (outliers.count, spikes) == (1, NOTHING)
    assert places(outliers, candles) == {1500: pytest.approx(np.log(factor), abs=0.02)}


def test_a_jump_half_taken_back_is_two_outliers() -> None:
    candles = scaled(random_candles(3000, STEP), slice(1500, None), 2, *PRICES)
    candles = scaled(candles, slice(1501, None), 0.7, *PRICES)
    candles = scaled(candles, 1501, 1 / 0.7, "high")
    outliers, spikes = find_outliers(candles, STEP)
    assert (list(places(outliers, candles)), spikes) == ([1500, 1501], NOTHING)


def test_many_are_all_counted_and_the_worst_three_named() -> None:
    candles, at = random_candles(3000, STEP), [200, 900, 1600, 2300]
    for i, where in enumerate(at):
        candles = scaled(candles, where, 2 + i, *PRICES)
        candles = scaled(candles, slice(where + 300, None), 1.3 + i / 10, *PRICES)
    outliers, spikes = find_outliers(candles, STEP)
    assert (outliers.count, spikes.count) == (4, 4)
    assert list(places(spikes, candles)) == at[:0:-1]
    assert list(places(outliers, candles)) == [where + 300 for where in at[:0:-1]]


def test_nothing_is_measured_across_a_gap() -> None:
    candles = scaled(random_candles(3000, STEP), slice(1500, None), 2, *PRICES)
    there = np.ones(3000, dtype=bool)
    there[1500] = False
    assert find_outliers(candles[there], STEP) == (NOTHING, NOTHING)
    lonely = scaled(random_candles(3000, STEP), 1500, 2, *PRICES)
    there[[1499, 1500, 1501]] = False, True, False
    assert find_outliers(lonely[there], STEP) == (NOTHING, NOTHING)


def test_a_wild_market_has_wider_limits_than_a_quiet_one() -> None:
    calm, wild = random_candles(1000, STEP, volatility=0.001), random_candles(1000, STEP, 1, volatility=0.02)
    candles = Candles.concatenate([replace(calm, as_of=calm.as_of - 1000 * STEP), wild])
    candles = scaled(candles, slice(1000, None), calm.close[-1] / wild.open[0], *PRICES)
    at_the_turn = find_outliers(candles, STEP)[0].count
    for where, found in ((500, 1), (1500, 0)):
        shifted = scaled(candles, slice(where, None), 1.25, *PRICES)
        assert find_outliers(shifted, STEP)[0].count == at_the_turn + found


def test_a_deviation_is_the_robust_one_of_the_hundred_returns_before() -> None:
    """Against the definition, one by one, in a market whose calm and wild times alternate."""
    distances = np.abs(np.random.default_rng(3).normal(0, 0.001, 700)) * np.repeat([1, 5, 2, 9, 1, 3, 7], 100)
    everywhere = 1.4826 * np.median(distances)
    expected = [1.4826 * np.sort(distances[max(i - 100, 0) : max(i, 100)])[50] for i in range(700)]
    expected[:100] = [1.4826 * np.median(distances[:100])] * 100
    np.testing.assert_allclose(_deviations(distances), np.maximum(expected, everywhere), rtol=1e-12)
    for n in (1, 99, 100, 101):
        few = _deviations(distances[:n])
        assert len(few) == n
        assert few[0] == 1.4826 * max(np.median(distances[: min(n, 100)]), np.median(distances[:n]))
    assert (_deviations(np.zeros(300)) == 1e-4).all()


def test_a_market_that_hardly_moves_is_measured_in_basis_points() -> None:
    candles = replace(random_candles(500, STEP), **dict.fromkeys(PRICES, np.full(500, 100.0)))
    assert find_outliers(scaled(candles, slice(250, None), 1.00199, *PRICES), STEP)[0].count == 0
    assert find_outliers(scaled(candles, slice(250, None), 1.00201, *PRICES), STEP)[0].count == 1


# --- stuck prices ------------------------------------------------------------------------------------------


def stick(candles: Candles, first: int, n: int) -> Candles:
    columns = {name: getattr(candles, name).copy() for name in PRICES}
    for column in columns.values():
        column[first : first + n] = column[first]
    return replace(candles, **columns)


def test_runs_of_equal_prices_are_counted_with_their_length_and_end() -> None:
    candles = stick(stick(stick(random_candles(3000, STEP), 0, 5), 1000, 4), 2000, 12)
    found = find_stuck(candles, STEP)
    assert (found.count, places(found, candles)) == (2, {2011: 12.0, 4: 5.0})
    assert find_stuck(stick(random_candles(30, STEP), 25, 5), STEP).count == 1


@pytest.mark.parametrize("name", PRICES)
def test_one_other_price_ends_a_run(name: str) -> None:
    candles = scaled(stick(random_candles(3000, STEP), 1000, 9), 1004, 1.0001, name)
    assert find_stuck(candles, STEP).count == 0


def test_a_gap_ends_a_run() -> None:
    candles = stick(random_candles(3000, STEP), 1000, 9)
    there = np.ones(3000, dtype=bool)
    there[1004] = False
    assert find_stuck(candles[there], STEP).count == 0


# --- gaps --------------------------------------------------------------------------------------------------


def test_gaps_are_counted_in_candles() -> None:
    spans = np.array([[0, 300], [3000, 6000], [9000, 9600]])
    gaps = count_gaps(87, spans, np.array([True, False, False]), STEP, recent_s=6000)
    assert (gaps.count, gaps.missing, gaps.share, gaps.known) == (3, 13, 0.13, 1)
    assert (gaps.longest, gaps.longest_after, gaps.unexplained_recent) == (10, from_unix(3000), 1)
    none = count_gaps(10, np.empty((0, 2), np.int64), np.empty(0, np.bool_), STEP, 0)
    assert (none.count, none.missing, none.share, none.longest, none.longest_after) == (0, 0, 0.0, 0, None)


# --- timeframes and venues ---------------------------------------------------------------------------------


def hours(n: int) -> Candles:
    return derive_candles(random_candles(12 * n, STEP), STEP, 3600)


def test_candles_made_of_finer_ones_agree_with_themselves() -> None:
    found = compare_timeframes(hours(50), hours(50)[10:], STEP, 3600)
    assert (found.common, found.prices_differ, found.volumes_differ) == (40, 0, 0)
    assert (found.worst_price, found.worst_volume) == (None, None)
    assert compare_timeframes(hours(50), Candles.empty(), STEP, 3600).common == 0


@pytest.mark.parametrize("name", PRICES)
def test_each_price_that_differs_from_the_finer_ones_is_counted(name: str) -> None:
    given = scaled(scaled(hours(50), 7, 1 + 1e-15 * 4, name), 9, 1.5, name)
    found = compare_timeframes(hours(50), given, STEP, 3600)
    assert (found.prices_differ, found.volumes_differ) == (2, 0)
    assert found.worst_price is not None
    assert (found.worst_price.at, found.worst_price.size) == (from_unix(int(given.as_of[9])), pytest.approx(1 / 3))


def test_volumes_may_differ_by_the_rounding_of_a_sum_only() -> None:
    given = scaled(scaled(scaled(hours(50), 7, 1 + 1e-8, "volume"), 8, 1 + 1e-10, "volume"), 9, 0, "volume")
    found = compare_timeframes(hours(50), given, STEP, 3600)
    assert (found.prices_differ, found.volumes_differ) == (0, 2)
    assert found.worst_volume is not None
    assert (found.worst_volume.at, found.worst_volume.size) == (from_unix(int(given.as_of[9])), 1.0)


def test_two_venues_are_compared_at_their_common_times() -> None:
    a = random_candles(1200, STEP)
    close = a.close.copy()
    close[100:112] *= np.exp(0.02)  # an hour: closes 101 to 112 of 1200, which end on the hour
    close[500] *= np.exp(-0.05)
    shifted = a.as_of[5:]
    found = compare_venues(a.as_of, a.close, shifted, close[5:])
    assert found is not None
    assert (found.common, found.median) == (1195, 0.0)
    assert found.far_apart == pytest.approx(13 / 1195)
    apart = np.abs(np.log(close / a.close))[5:]
    assert found.percentile_99 == pytest.approx(np.percentile(apart, 99))
    hour = -(-a.as_of // 3600)
    means = {h: apart[hour[5:] == h].mean() for h in np.unique(hour[5:])}
    worst = max(means, key=lambda h: means[h])
    assert (found.worst_hour.at, found.worst_hour.size) == (from_unix(int(worst) * 3600), pytest.approx(means[worst]))
    assert compare_venues(a.as_of, a.close, a.as_of + 1, a.close) is None
