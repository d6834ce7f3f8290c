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

from encoder.novelty import NEIGHBOURS, RIDGE, Novelty, distances_between_blocks
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
        return np.asarray(np.sqrt(np.sort(squares, axis=-1)[..., :NEIGHBOURS] / WIDTH).mean(-1))

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


def test_of_two_calibrations_the_wider_counts_at_each_percentile() -> None:
    """In one scale of depth, what is told is the lesser of what each would tell alone."""
    held, windows = draw(2000, 2), torch.cat([draw(300, 3), draw(300, 4, 1.4), draw(100, 5, 2.0)])
    novelty = Novelty(draw(300, 1))
    elsewhere = novelty.distances(torch.cat([draw(1000, 9, 0.3), draw(40, 10, 1.4)]))  # narrow, with a wide tail
    novelty.calibrate(held, elsewhere)
    told = novelty(windows).numpy()

    def tail(distances: Array) -> tuple[Array, Array, Array]:
        ordered, size = np.sort(distances, axis=0), round(0.01 * len(distances))
        return ordered[:-size], ordered[-size - 1], (ordered[-size:] - ordered[-size - 1]).mean(0)

    groups = [novelty.distances(held).numpy(), elsewhere.numpy()]
    start, excess = (np.max([tail(group)[i] for group in groups], axis=0) for i in (1, 2))
    depth, *known = (((x - start) / excess).max(1) for x in (novelty.distances(windows).numpy(), *groups))
    levels = np.linspace(0, 1, 1980)
    body = np.max([np.quantile(tail(group)[0], levels) for group in known], axis=0)
    tail_excess = max(tail(group)[2] for group in known)
    inside = 0.99 * (body[None, :] <= depth[:, None]).mean(1)
    wanted = np.where(depth > body[-1], 1 - 0.01 * np.exp(-(depth - body[-1]) / tail_excess), inside)
    np.testing.assert_allclose(told, wanted, atol=6e-4)
    np.testing.assert_allclose((1 - told)[wanted > 0.99], (1 - wanted)[wanted > 0.99], rtol=5e-3, atol=1.5e-7)

    alone = make()(windows).numpy()
    assert (alone > 0.9999).sum() > 50
    assert (told[alone > 0.99] <= alone[alone > 0.99]).all()
    assert (told[alone > 0.99] < 0.99).sum() > 50


def test_too_few_other_windows_do_not_calibrate() -> None:
    novelty = Novelty(draw(300, 1))
    novelty.calibrate(draw(2000, 2), novelty.distances(draw(19, 3, 9.0)))
    assert torch.equal(novelty(draw(50, 4, 1.5)), NOVELTY(draw(50, 4, 1.5)))


def test_a_stretched_tail_takes_the_logarithm_of_what_is_left_in_parts() -> None:
    novelty = Novelty(draw(300, 1))
    novelty.calibrate(draw(2000, 2), stretch=2.0)
    windows = draw(200, 4, 1.4)
    plain, stretched = 1 - NOVELTY(windows).double(), 1 - novelty(windows).double()
    far = (plain < 0.01) & (plain > 1e-5)
    assert far.sum() > 20
    assert torch.allclose(stretched[far], 0.01 * (plain[far] / 0.01).sqrt(), rtol=0.02)
    assert torch.equal(stretched[plain >= 0.01], plain[plain >= 0.01])


def changing(weeks: list[int], seed: int) -> Tensor:
    """A thousand windows each; the features of equal weeks lie around the same point."""
    centres = np.random.default_rng(seed).normal(0, 0.8, (10, WIDTH))
    return torch.from_numpy(centres[np.repeat(weeks, 1000)]).float() + draw(1000 * len(weeks), seed)


def test_distances_between_blocks_are_those_of_thirds_to_what_lies_apart() -> None:
    features, as_of = changing([0, 1], 3)[:1200], np.arange(1200) // 2 * HOUR
    found = distances_between_blocks(features, as_of, 50 * HOUR, 10_000)
    assert found.shape == (1200, 2)
    for k, others in enumerate(((as_of > 249 * HOUR), (as_of < 150 * HOUR) | (as_of > 449 * HOUR), as_of < 350 * HOUR)):
        block = features[400 * k : 400 * (k + 1)]
        expected = Novelty(features[torch.from_numpy(others)]).distances(block)
        torch.testing.assert_close(found[400 * k : 400 * (k + 1)], expected)
    capped = distances_between_blocks(features, as_of, 50 * HOUR, 100)
    expected = Novelty(features[torch.linspace(500, 1199, 100, dtype=torch.float64).long()]).distances(features[:400])
    torch.testing.assert_close(capped[:400], expected)
    far = distances_between_blocks(features, as_of, 1e9, 10_000)  # a quarter of the span at most
    quarter = distances_between_blocks(features, as_of, 599 * HOUR / 4, 10_000)
    assert torch.equal(far, quarter)
    assert len(distances_between_blocks(features[:90], as_of[:90], 50 * HOUR, 100)) == 0


def test_a_market_that_changes_is_less_unusual_when_thirds_calibrate() -> None:
    """The last days of a short span are like those before; what follows is not."""
    told: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(6):
        features = changing([0, 1, 2, 2, 3, 4, 5], seed)
        fit, later = features[:3000], features[3000:]
        novelty = Novelty(fit[::6])
        elsewhere = distances_between_blocks(fit, np.arange(3000) * HOUR, 24 * HOUR, 512)
        for thirds in (True, False):
            novelty.calibrate(later[:1000], elsewhere if thirds else None)
            told[thirds].append(float((novelty(later[1000:]) > 0.999).float().mean()))
    assert np.mean(told[False]) > 0.1
    assert np.mean(told[True]) < 0.02


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
