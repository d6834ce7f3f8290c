"""Labels are what the candles after a window say, and nothing of them leaks across a split."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from encoder.dataset import (
    LABEL_HORIZON_S,
    LABELS,
    PARKINSON,
    build_training_set,
    candles_between,
    label,
    split_in_time,
)
from shared.features import WINDOW, Grid, compute_channels, compute_features
from shared.job import JobError
from shared.rows import Candles
from tests.helpers import random_candles

HOUR = 3600
DAY = LABEL_HORIZON_S // HOUR


def without(candles: Candles, *slots: int) -> Candles:
    return candles[np.delete(np.arange(len(candles)), slots)]


def slow_labels(candles: Candles, i: int) -> list[float]:
    """By the definitions, candle by candle, for the close of candle ``i`` of a gapless 1h series."""
    close = [math.log(p) for p in candles.close.tolist()]

    def r(j: int) -> float:
        return close[j] - close[j - 1]

    def volatility(n: int) -> float:
        return math.sqrt(sum(r(i + k) ** 2 for k in range(1, n + 1)) / n)

    before = math.sqrt(sum(r(j) ** 2 for j in range(i - 47, i + 1)) / 48)
    out = [math.log(math.log(candles.high[i + 1] / candles.low[i + 1]) / PARKINSON)]
    out += [math.log(volatility(4)), math.log(volatility(24))]
    out += [(close[i + n] - close[i]) / (before * math.sqrt(n)) for n in (4, 24)]
    for n in (4, 24):
        high, low = max(candles.high[i + 1 : i + n + 1]), min(candles.low[i + 1 : i + n + 1])
        out.append(math.log(math.log(high / low) / math.sqrt(n)))
    volumes = candles.volume.tolist()
    out.append(math.log(sum(volumes[i + 1 : i + 25]) / 24 / (sum(volumes[i - 47 : i + 1]) / 48) + 0.01))
    return out


def test_labels_are_what_the_definitions_say() -> None:
    candles = random_candles(200, HOUR, seed=3)
    closes, labels = label(candles, HOUR)
    assert closes.tolist() == candles.as_of[: 200 - DAY].tolist()
    assert labels.shape == (200 - DAY, len(LABELS))
    for i in (60, 111, 175):
        assert labels[i] == pytest.approx(slow_labels(candles, i), rel=1e-9, abs=1e-9)


def test_no_label_where_a_candle_of_its_day_is_missing() -> None:
    candles = random_candles(200, HOUR, seed=3)
    closes, _ = label(without(candles, 100), HOUR)
    missing = set(candles.as_of[: 200 - DAY].tolist()) - set(closes.tolist())
    assert missing == set(candles.as_of[100 - DAY : 101].tolist())


def test_labels_in_five_minutes_look_as_far_ahead_in_time() -> None:
    candles = random_candles(700, 300, seed=3)
    closes, labels = label(candles, 300)
    assert closes[-1] == candles.as_of[-1] - LABEL_HORIZON_S
    returns = np.diff(np.log(candles.close))
    i = 200
    assert labels[i, 0] == pytest.approx(math.log(math.sqrt((returns[i : i + 12] ** 2).mean())))


def test_a_label_knows_the_candles_after_it_and_only_a_day_of_them() -> None:
    candles = random_candles(200, HOUR, seed=3)
    _, labels = label(candles, HOUR)
    for j, touched in ((101, True), (100 + DAY, True), (101 + DAY, False)):
        changed = np.where(np.arange(200) == j, 1.7, 1.0)
        other = replace(candles, high=candles.high * changed, volume=candles.volume * changed)
        _, relabelled = label(other, HOUR)
        assert (relabelled[100] != labels[100]).any() == touched


def test_training_windows_are_in_order_of_time_with_their_own_features_and_channels() -> None:
    series = [random_candles(380, HOUR, seed=1), random_candles(420, HOUR, seed=2)]
    data = build_training_set(series, HOUR)
    assert len(data) == (380 - DAY - WINDOW + WINDOW - 260 + 1) + (420 - DAY - 260 + 1)
    assert (np.diff(data.as_of) >= 0).all()
    chosen = np.array([7, 3, len(data) - 1, 3])
    channels = data.channels(chosen)
    for row, n in enumerate(chosen):
        window = Grid(series[data.series[n]], HOUR).windows(data.as_of[n : n + 1])
        assert (channels[row] == compute_channels(window)[0]).all()
        assert (data.features[n] == compute_features(window)[0]).all()
        closes, labels = label(series[data.series[n]], HOUR)
        assert (data.labels[n] == labels[closes == data.as_of[n]][0].astype(np.float32)).all()


def test_of_too_many_closes_some_are_used_evenly_spread_over_time_and_times_of_day() -> None:
    series = [random_candles(900, HOUR, seed=1)]
    everything, some = build_training_set(series, HOUR), build_training_set(series, HOUR, most_windows=360)
    assert some.as_of.tolist() == everything.as_of[np.arange(0, len(everything), 2.5).astype(int)].tolist()
    assert len({as_of % (12 * HOUR) for as_of in some.as_of.tolist()}) == 12


def test_too_few_windows_say_what_is_missing() -> None:
    with pytest.raises(JobError, match=r"61 training windows, at least 200.* 344 candles .* each window takes 288"):
        build_training_set([random_candles(344, HOUR, seed=1)], HOUR)


def test_no_label_of_the_fitted_windows_reaches_into_those_held_out() -> None:
    data = build_training_set([random_candles(900, HOUR, seed=1)], HOUR)
    fit, held = split_in_time(data)
    assert fit.as_of.max() + LABEL_HORIZON_S <= held.as_of.min()
    assert len(fit) + len(held) == len(data) - (DAY - 1)
    assert len(held) == pytest.approx(0.15 * len(data), abs=1)


def test_candles_between_are_cut_after_and_until() -> None:
    candles = random_candles(10, HOUR, seed=1)
    cut = candles_between(candles, int(candles.as_of[2]), int(candles.as_of[5]))
    assert cut.as_of.tolist() == candles.as_of[3:6].tolist()
