"""Every feature and channel once more, from its formula, one candle after the other in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from statistics import fmean, pstdev

import numpy as np
import pytest

from shared.features import CHANNELS, CLIP, FEATURES, WINDOW, compute_channels, compute_features
from shared.rows import Candles
from tests.shared.feature_series import HOUR, last_window, rough_candles, unclipped


@dataclass
class Slots:
    """The last slots before a close, oldest first; prices are logarithms."""

    as_of: int
    o: list[float]
    h: list[float]
    l: list[float]  # noqa: E741
    c: list[float]
    v: list[float]
    missing: list[int]

    def __len__(self) -> int:
        return len(self.c)

    @property
    def r(self) -> list[float]:
        return [after - before for before, after in pairwise(self.c)]

    @property
    def unit(self) -> float:
        return max(root_mean_square(self.r), 1e-6)


def laid_out(candles: Candles, length: int) -> Slots:
    """The last ``length`` slots up to the last candle, from those candles alone."""
    by_close = {int(at): i for i, at in enumerate(candles.as_of)}
    last = int(candles.as_of[-1])
    closes = [last - age * HOUR for age in reversed(range(length))]
    first = next(by_close[at] for at in closes if at in by_close)
    before = math.log(candles.open[first])
    slots = Slots(last, [], [], [], [], [], [])
    for at in closes:
        i = by_close.get(at)
        names = ("open", "high", "low", "close")
        o, h, low, c = (before,) * 4 if i is None else (math.log(getattr(candles, name)[i]) for name in names)
        for column, value in ((slots.o, o), (slots.h, h), (slots.l, low), (slots.c, c)):
            column.append(value)
        slots.v.append(0.0 if i is None else float(candles.volume[i]))
        slots.missing.append(int(i is None))
        before = c
    return slots


def root_mean_square(values: Iterable[float]) -> float:
    return math.sqrt(fmean(value * value for value in values))


def in_percent(volatility: float) -> float:
    return math.log(max(volatility, 1e-6) / 0.01)


def pearson(x: list[float], y: list[float]) -> float:
    mx, my = fmean(x), fmean(y)
    covariance = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return covariance / math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))


def absolute(values: list[float]) -> list[float]:
    return [abs(value) for value in values]


def ewma(values: list[float], half_life: float) -> float:
    weights = [0.5 ** (age / half_life) for age in reversed(range(len(values)))]
    return sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)


def shares(parts: Iterable[float], ranges: Iterable[float]) -> list[float]:
    return [part / span if span > 0 else 0.0 for part, span in zip(parts, ranges, strict=True)]


def ranges(s: Slots) -> list[float]:
    return [h - low for h, low in zip(s.h, s.l, strict=True)]


def location(s: Slots) -> list[float]:
    return shares((2 * c - h - low for c, h, low in zip(s.c, s.h, s.l, strict=True)), ranges(s))


def upper(s: Slots) -> list[float]:
    return shares((h - max(o, c) for o, h, c in zip(s.o, s.h, s.c, strict=True)), ranges(s))


def lower(s: Slots) -> list[float]:
    return shares((min(o, c) - low for o, low, c in zip(s.o, s.l, s.c, strict=True)), ranges(s))


def sign(value: float) -> float:
    return (value > 0) - (value < 0)


# ── volatility ──────────────────────────────────────────────────────────────────────────────────────────
def garman_klass(s: Slots) -> float:
    k = 2 * math.log(2) - 1
    candles = zip(s.o, s.h, s.l, s.c, strict=True)
    return in_percent(math.sqrt(fmean((h - low) ** 2 / 2 - k * (c - o) ** 2 for o, h, low, c in candles)))


def rogers_satchell(s: Slots) -> float:
    candles = zip(s.o, s.h, s.l, s.c, strict=True)
    return in_percent(math.sqrt(fmean((h - c) * (h - o) + (low - c) * (low - o) for o, h, low, c in candles)))


def volatility_of_volatility(s: Slots) -> float:
    usual = fmean(ranges(s))
    return pstdev(math.log(span / usual + 0.1) for span in ranges(s))


def volatility_percentile(s: Slots) -> float:
    r = s.r
    energies = [math.fsum(x * x for x in r[i : i + 24]) for i in range(len(r) - 23)]
    assert len(energies) == 264
    return 2 * sum(energy <= energies[-1] for energy in energies) / len(energies) - 1


def volatility_change(s: Slots) -> float:
    half = len(s.r) // 2
    return in_percent(root_mean_square(s.r[half:])) - in_percent(root_mean_square(s.r[:half]))


def jump_share(s: Slots) -> float:
    size = absolute(s.r)
    bipower = math.pi / 2 * sum(a * b for a, b in zip(size[1:], size[:-1], strict=True))
    return max(0.0, 1 - bipower / sum(x * x for x in size))


def standardised(s: Slots) -> list[float]:
    middle, deviation = fmean(s.r), pstdev(s.r)
    return [(x - middle) / deviation for x in s.r]


# ── trend ───────────────────────────────────────────────────────────────────────────────────────────────
def scaled_return(n: int) -> Callable[[Slots], float]:
    return lambda s: sum(s.r[-n:]) / (root_mean_square(s.r) * math.sqrt(n))


def crossover(fast: int, slow: int) -> Callable[[Slots], float]:
    return lambda s: (ewma(s.c, fast) - ewma(s.c, slow)) / (s.unit * math.sqrt(slow))


def range_position(s: Slots) -> float:
    return 2 * (s.c[-1] - min(s.l)) / (max(s.h) - min(s.l)) - 1


def since(values: list[float]) -> float:
    ages = [age for age, value in enumerate(reversed(values)) if value == max(values)]
    return 2 * ages[0] / (len(values) - 1) - 1


def relative_strength(s: Slots) -> float:
    """By Wilder's recursion of average gains and losses, begun at nothing."""
    gain = loss = 0.0
    for x in s.r:
        gain, loss = (13 * gain + max(x, 0)) / 14, (13 * loss + max(-x, 0)) / 14
    return 2 * gain / (gain + loss) - 1


def variance_ratio(s: Slots) -> float:
    six = [s.c[i] - s.c[i - 6] for i in range(6, len(s))]
    return math.log(fmean(x * x for x in six) / 6 / fmean(x * x for x in s.r))


# ── activity ────────────────────────────────────────────────────────────────────────────────────────────
def relative_volume(n: int) -> Callable[[Slots], float]:
    return lambda s: math.log(fmean(s.v[-n:]) / fmean(s.v) + 0.001)


def illiquidity_change(s: Slots) -> float:
    size, volume = absolute(s.r), s.v[1:]
    assert len(size) == 96
    return math.log(sum(size[-24:]) / sum(volume[-24:]) / (sum(size) / sum(volume)) + 0.001)


def vwap_distance(s: Slots) -> float:
    vwap = sum(v * c for v, c in zip(s.v, s.c, strict=True)) / sum(s.v)
    return (s.c[-1] - vwap) / (s.unit * math.sqrt(len(s)))


def money_flow(s: Slots) -> float:
    typical = [(h + low + c) / 3 for h, low, c in zip(s.h, s.l, s.c, strict=True)]
    changes = [after - before for before, after in pairwise(typical)]
    rising = sum(v for v, x in zip(s.v[1:], changes, strict=True) if x > 1e-12)
    falling = sum(v for v, x in zip(s.v[1:], changes, strict=True) if x < -1e-12)
    return (rising - falling) / (rising + falling)


def cycle(wave: Callable[[float], float], turns: float, from_monday: bool) -> Callable[[Slots], float]:
    def at(s: Slots) -> float:
        hours = s.as_of / 3600 % 24
        if from_monday:
            hours = (s.as_of / 3600 - 4 * 24) % 168 * 24 / 168
        return wave(2 * math.pi * turns * hours / 24)

    return at


def signed_volume(s: Slots) -> float:
    return sum(sign(x) * v for x, v in zip(s.r, s.v[1:], strict=True)) / sum(s.v[1:])


FORMULAS: dict[str, Callable[[Slots], float]] = {
    "log_volatility": lambda s: in_percent(root_mean_square(s.r)),
    "log_ewma_volatility": lambda s: in_percent(math.sqrt(ewma([x * x for x in s.r], 48))),
    "log_parkinson": lambda s: in_percent(math.sqrt(fmean(x * x for x in ranges(s)) / (4 * math.log(2)))),
    "log_garman_klass": garman_klass,
    "log_rogers_satchell": rogers_satchell,
    "volatility_of_volatility": volatility_of_volatility,
    "volatility_percentile": volatility_percentile,
    "volatility_change": volatility_change,
    "jump_share": jump_share,
    "downside_share": lambda s: 2 * sum(min(x, 0) ** 2 for x in s.r) / sum(x * x for x in s.r) - 1,
    "largest_move": lambda s: math.log(max(absolute(s.r)) / root_mean_square(s.r)),
    "skewness": lambda s: fmean(z**3 for z in standardised(s)),
    "kurtosis": lambda s: math.log(fmean(z**4 for z in standardised(s)) / 3),
    "volatility_autocorrelation": lambda s: pearson(absolute(s.r[1:]), absolute(s.r[:-1])),
    "leverage_effect": lambda s: pearson(s.r[:-1], absolute(s.r[1:])),
    "drift": lambda s: sum(s.r) / math.sqrt(sum(x * x for x in s.r)),
    **{f"scaled_return_{n}": scaled_return(n) for n in (1, 4, 12)},
    "efficiency": lambda s: sum(s.r) / sum(absolute(s.r)),
    "crossover_8_32": crossover(8, 32),
    "crossover_24_96": crossover(24, 96),
    "range_position": range_position,
    "since_high": lambda s: since(s.h),
    "since_low": lambda s: since([-x for x in s.l]),
    "z_score": lambda s: (s.c[-1] - fmean(s.c)) / pstdev(s.c),
    "relative_strength": relative_strength,
    "linearity": lambda s: pearson(s.c, [float(i) for i in range(len(s))]),
    "return_autocorrelation": lambda s: pearson(s.r[1:], s.r[:-1]),
    "variance_ratio": variance_ratio,
    "drawdown": lambda s: (s.c[-1] - max(s.c)) / (s.unit * math.sqrt(len(s))),
    "close_location": lambda s: fmean(location(s)),
    "body_share": lambda s: fmean(shares((abs(c - o) for c, o in zip(s.c, s.o, strict=True)), ranges(s))),
    "upper_wick": lambda s: fmean(upper(s)),
    "lower_wick": lambda s: fmean(lower(s)),
    **{f"relative_volume_{n}": relative_volume(n) for n in (1, 6, 24, 96)},
    "signed_volume": signed_volume,
    "volume_concentration": lambda s: max(s.v) / sum(s.v),
    "volume_volatility_correlation": lambda s: pearson(absolute(s.r), s.v[1:]),
    "volume_variation": lambda s: pstdev(s.v) / fmean(s.v),
    "volume_autocorrelation": lambda s: pearson(s.v[1:], s.v[:-1]),
    "illiquidity_change": illiquidity_change,
    "vwap_distance": vwap_distance,
    "money_flow": money_flow,
    "missing_share": lambda s: fmean(s.missing),
    "still_share": lambda s: fmean(float(span == 0) for span in ranges(s)),
    "day_sine": cycle(math.sin, 1, False),
    "day_cosine": cycle(math.cos, 1, False),
    "half_day_sine": cycle(math.sin, 2, False),
    "half_day_cosine": cycle(math.cos, 2, False),
    "week_sine": cycle(math.sin, 1, True),
    "week_cosine": cycle(math.cos, 1, True),
    "half_week_sine": cycle(math.sin, 2, True),
    "half_week_cosine": cycle(math.cos, 2, True),
}


def family(name: str) -> str:
    return name if name in FORMULAS else name.rpartition("_")[0]


# How many slots a name asks for: the count in it, one more where it counts returns, else as said here.
OF_RETURNS = {"log_volatility", "volatility_change", "jump_share", "downside_share", "largest_move", "skewness",
              "kurtosis", "volatility_autocorrelation", "leverage_effect", "drift", "efficiency",
              "return_autocorrelation", "signed_volume", "volume_volatility_correlation", "volume_autocorrelation",
              "illiquidity_change", "money_flow"}  # fmt: skip
LENGTHS = {"log_ewma_volatility": 288, "volatility_percentile": 288, "relative_strength": 97, "crossover_8_32": 288,
           "crossover_24_96": 288, **{f"scaled_return_{n}": 97 for n in (1, 4, 12)},
           **{f"relative_volume_{n}": 288 for n in (1, 6, 24, 96)}}  # fmt: skip


def expected_length(name: str) -> int:
    if name.endswith(("sine", "cosine")):
        return 1
    if family(name) in LENGTHS:
        return LENGTHS[family(name)]
    return int(name.rpartition("_")[2]) + (family(name) in OF_RETURNS)


@cache
def candles(seed: int) -> Candles:
    return rough_candles(290, seed, end=1_717_243_200 + seed * 31 * HOUR)


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_is_what_its_formula_says(name: str) -> None:
    assert FEATURES[name].length == expected_length(name)
    position = list(FEATURES).index(name)
    for seed in range(5):
        expected = FORMULAS[family(name)](laid_out(candles(seed), FEATURES[name].length))
        actual = compute_features(last_window(candles(seed)))[0, position]
        assert actual == pytest.approx(max(-CLIP, min(CLIP, expected)), rel=1e-5, abs=1e-6)


def test_the_week_begins_on_monday() -> None:
    monday = 1_717_372_800  # 2024-06-03 00:00 UTC
    slots = Slots(monday, [], [], [], [], [], [])
    assert FORMULAS["week_sine"](slots) == pytest.approx(0)
    assert FORMULAS["week_cosine"](slots) == pytest.approx(1)
    windows = last_window(rough_candles(290, 0, end=monday))
    week = compute_features(windows)[0, [list(FEATURES).index("week_sine"), list(FEATURES).index("week_cosine")]]
    assert week == pytest.approx([0, 1])


WITHOUT_VOLUME = {
    **{f"relative_volume_{n}": math.log(1.001) for n in (1, 6, 24, 96)},
    "signed_volume_12": 0,
    "volume_concentration_24": 1 / 24,
    "volume_volatility_correlation_96": 0,
    "volume_variation_96": 0,
    "volume_autocorrelation_168": 0,
    "illiquidity_change_96": math.log(1.001),
    "vwap_distance_96": 0,
    "money_flow_48": 0,
}


@pytest.mark.parametrize("name", WITHOUT_VOLUME)
def test_where_nothing_is_traded_volume_says_nothing(name: str) -> None:
    silent = replace(candles(0), volume=np.zeros(len(candles(0))))
    assert unclipped(name, last_window(silent))[0] == pytest.approx(WITHOUT_VOLUME[name])
    relative = compute_channels(last_window(silent))[0, list(CHANNELS).index("relative_volume")]
    assert relative == pytest.approx(math.log(1.01))


def channel(name: str, s: Slots) -> list[float]:
    r = [s.c[0] - s.o[0], *s.r]
    sigma = math.sqrt(ewma([x * x for x in r], 48))
    times = [(s.as_of - age * HOUR) % 86_400 / 86_400 for age in reversed(range(len(s)))]
    return {
        "scaled_return": [x / sigma for x in r],
        "log_absolute_return": [math.log(abs(x) / sigma + 0.1) for x in r],
        "log_range": [math.log(span / sigma + 0.1) for span in ranges(s)],
        "close_location": location(s),
        "wick_balance": [below - above for below, above in zip(lower(s), upper(s), strict=True)],
        "path": [(c - s.c[-1]) / (sigma * math.sqrt(288)) for c in s.c],
        "relative_volume": [math.log(v / fmean(s.v) + 0.01) for v in s.v],
        "missing": [float(x) for x in s.missing],
        "day_sine": [math.sin(2 * math.pi * x) for x in times],
        "day_cosine": [math.cos(2 * math.pi * x) for x in times],
    }[name]


@pytest.mark.parametrize("name", CHANNELS)
def test_a_channel_is_what_its_formula_says(name: str) -> None:
    for seed in range(3):
        expected = np.clip(channel(name, laid_out(candles(seed), WINDOW)), -CLIP, CLIP)
        actual = compute_channels(last_window(candles(seed)))[0, list(CHANNELS).index(name)]
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
