"""What is like the training windows is usual, what is broken is not, and the tail tells how much not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from encoder.novelty import NEIGHBOURS, RIDGE, Novelty
from shared.features import WINDOW, Grid, compute_features
from shared.rows import Candles
from tests.helpers import random_candles

HOUR = 3600
WIDTH = 21  # not a multiple of 16: the filling up must not count
Array = np.ndarray[Any, Any]


def draw(count: int, seed: int, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(count, WIDTH, generator=generator)


def make(sample: int = 300, calibration: int = 2000) -> Novelty:
    novelty = Novelty(draw(sample, 1))
    novelty.calibrate(draw(calibration, 2))
    return novelty


NOVELTY = make()


def brute_force(sample: Array, calibration: Array, windows: Array) -> Array:
    """The same in numpy: all differences, a covariance inverted, percentiles counted."""
    inverse = np.linalg.inv(np.cov(sample.T) + RIDGE * np.eye(WIDTH))

    def distances(x: Array) -> Array:
        d = x[:, None] - sample[None]
        squares = np.stack([(d * d).sum(-1), np.einsum("bsf,fg,bsg->bs", d, inverse, d)], axis=1)
        return np.sqrt(np.sort(squares, axis=-1)[..., :NEIGHBOURS] / WIDTH).mean(-1)

    size = len(calibration) // 100
    ordered = np.sort(distances(calibration), axis=0)
    start = ordered[-size - 1]
    excess = (ordered[-size:] - start).mean(0)
    depth, known = (((distances(x) - start) / excess).max(-1) for x in (windows, calibration))
    known = np.sort(known)
    tail_start = known[-size - 1]
    tail_excess = (known[-size:] - tail_start).mean()
    body = (known[None, :] <= depth[:, None]).mean(1)
    tail = 1 - size / len(known) * np.exp(-(depth - tail_start) / tail_excess)
    return np.asarray(np.where(depth > tail_start, tail, body))


def test_it_is_the_percentile_of_the_distance_with_an_exponential_tail() -> None:
    windows = torch.cat([draw(200, 3), draw(200, 4, 1.3), draw(100, 5, 2.0)])
    wanted = brute_force(*(x.double().numpy() for x in (draw(300, 1), draw(2000, 2), windows)))
    assert ((wanted > 0.999) & (wanted < 0.99999)).sum() > 20
    assert (wanted < 0.5).sum() > 20
    found = NOVELTY(windows).numpy()
    np.testing.assert_allclose(found, wanted, atol=6e-4)  # a calibration window more or less
    np.testing.assert_allclose((1 - found)[wanted > 0.99], (1 - wanted)[wanted > 0.99], rtol=5e-3, atol=1.5e-7)


def test_one_usual_window_in_a_hundred_is_in_the_tail_and_one_in_a_thousand_far_in_it() -> None:
    ood = NOVELTY(draw(40_000, 6)).numpy()
    for level, slack in ((0.5, 0.03), (0.9, 0.015), (0.99, 0.004), (0.999, 0.001)):
        assert (ood > level).mean() == pytest.approx(1 - level, abs=slack)


@given(st.integers(0, 50), st.lists(st.floats(0.0, 1e4), min_size=2, max_size=2))
def test_farther_out_is_never_more_usual(which: int, lengths: list[float]) -> None:
    """Along a ray that leaves the sample."""
    direction = draw(51, 7)[which]
    near, far = NOVELTY(torch.tensor([[10 + min(lengths)], [10 + max(lengths)]]) * direction)
    assert 0.99 < near <= far <= 1


@given(st.floats(0.0, 1e6), st.integers(20, 130))
def test_it_is_always_a_percentile(length: float, calibration: int) -> None:
    novelty = make(64, calibration)
    ood = novelty(length * draw(20, 8))
    assert ((ood >= 0) & (ood <= 1)).all()
    assert novelty(torch.full((1, WIDTH), 1e6)) == pytest.approx(1.0)


def test_small_calibrations_keep_ten_windows_in_their_tail() -> None:
    assert make(64, 100).tail_share == pytest.approx(0.1)
    assert make(64, 999).tail_share == pytest.approx(10 / 999)
    assert make(64, 3000).tail_share == pytest.approx(0.01)


def correlated(count: int, seed: int) -> Tensor:
    """The second feature all but repeats the first."""
    x = draw(count, seed)
    x[:, 1] = x[:, 0] + 0.05 * x[:, 1]
    return x


def test_features_that_contradict_each_other_are_unusual_though_each_alone_is_not() -> None:
    novelty = Novelty(correlated(300, 1))
    novelty.calibrate(correlated(2000, 2))
    windows = 0.5 * correlated(200, 3)
    windows[:, :2] = torch.tensor([2.0, 2.0])
    contradicted = windows.clone()
    contradicted[:, 1] = -2.0
    assert novelty(windows).median() < 0.9
    assert novelty(contradicted).min() > 0.9999


def test_many_features_far_out_together_are_unusual_though_they_agree() -> None:
    """As when the level of volatility rises: Mahalanobis's length divides by what they have in common."""

    def agreeing(count: int, seed: int) -> Tensor:
        x = draw(count, seed)
        x[:, :10] = x[:, :1] + 0.1 * x[:, :10]
        return x

    novelty = Novelty(agreeing(300, 1))
    novelty.calibrate(agreeing(2000, 2))
    windows = 0.5 * agreeing(200, 3)
    windows[:, :10] += 5.0
    own, joint = ((novelty.distances(windows) - novelty.start) / novelty.excess).T
    assert own.median() > 2 * joint.median()
    assert novelty(windows).min() > 0.999


def test_too_few_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="a sample of 63 windows is too small; at least 64"):
        Novelty(draw(63, 1))
    with pytest.raises(ValueError, match="19 windows can't calibrate; at least 20"):
        Novelty(draw(64, 1)).calibrate(draw(19, 2))


def test_the_windows_of_the_sample_itself_are_usual() -> None:
    """Their distance to themselves is zero up to rounding, of which no root may be taken below."""
    ood = NOVELTY(draw(300, 1))
    assert ((ood >= 0) & (ood <= 1)).all()
    assert ood.median() < 0.5


def test_a_market_that_never_moved_leaves_numbers() -> None:
    novelty = Novelty(torch.zeros(64, WIDTH))
    novelty.calibrate(torch.zeros(100, WIDTH))
    assert novelty(torch.zeros(1, WIDTH)) < 1
    assert novelty(torch.ones(1, WIDTH)) == pytest.approx(1.0)


# ── candles ──────────────────────────────────────────────────────────────────────────────────────────────────
PRICES = ("open", "high", "low", "close")


def features(candles: Candles, count: int) -> Array:
    grid = Grid(candles, HOUR)
    return compute_features(grid.windows(grid.usable()[-count:]))


@pytest.fixture(scope="module")
def market() -> Callable[[Array], Array]:
    """Features → ood, after 1500 hours of a random walk."""
    fit, held = (
        features(random_candles(WINDOW + 1000, HOUR, 1), 1000),
        features(random_candles(WINDOW + 500, HOUR, 2), 500),
    )
    mean, scale = fit.mean(axis=0), np.maximum(fit.std(axis=0), 0.1)
    novelty = Novelty(torch.from_numpy((fit - mean) / scale))
    novelty.calibrate(torch.from_numpy((held - mean) / scale))
    return lambda x: novelty(torch.from_numpy((x - mean) / scale)).numpy()


def prices(candles: Candles, change: Callable[[Array], Array]) -> Candles:
    return replace(candles, **{name: change(getattr(candles, name).copy()) for name in PRICES})


def last(value: float, back: int, size: int) -> Array:
    """Ones, but ``value`` for ``size`` candles that end ``back`` before the last."""
    factor = np.ones(WINDOW)
    factor[WINDOW - back - size : WINDOW - back] = value
    return factor


FAULTS: dict[str, Callable[[Candles], Candles]] = {
    "a price ten times too high": lambda c: prices(c, lambda p: p * last(10.0, 0, 1)),
    "a price ten times too high yesterday": lambda c: prices(c, lambda p: p * last(10.0, 24, 1)),
    "a volume a thousand times too high": lambda c: replace(c, volume=c.volume * last(1000.0, 5, 1)),
    "six hours without volume": lambda c: replace(c, volume=c.volume * last(0.0, 0, 6)),
    "six hours frozen": lambda c: prices(c, lambda p: np.where(last(0.0, 0, 6) == 0, c.close[-7], p)),
    "a day of the last candle again": lambda c: replace(c[np.minimum(np.arange(WINDOW), WINDOW - 24)], as_of=c.as_of),
    "a tenth of the timeframe's movement": lambda c: prices(c, lambda p: 100 * (p / 100) ** 0.1),
    "ten times its movement": lambda c: prices(c, lambda p: 100 * (p / 100) ** 10),
    "bars of ten days in any order": lambda c: replace(c[np.random.default_rng(3).permutation(WINDOW)], as_of=c.as_of),
    "a sine": lambda c: prices(c, lambda p: 100 + 5 * np.sin(np.arange(WINDOW) / 5)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_market_is_out_of_distribution(market: Callable[[Array], Array], fault: str) -> None:
    broken = [features(FAULTS[fault](random_candles(WINDOW, HOUR, seed)), 1)[0] for seed in range(20, 40)]
    assert market(np.stack(broken)).min() > 0.9999


def test_the_same_market_at_another_time_is_not(market: Callable[[Array], Array]) -> None:
    ood = market(features(random_candles(WINDOW + 3000, HOUR, 4), 3000))
    assert (ood > 0.999).mean() <= 0.02
    assert ood.mean() < 0.7
