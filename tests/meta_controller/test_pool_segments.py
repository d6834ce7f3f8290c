"""The whole machine, experts, fits, labels and pool, on markets whose regime is known at every bar."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from meta_controller.controller import HORIZONS_S, LONG_HORIZON_S, call_of
from meta_controller.expert_calls import Fits, blocks, call_block
from meta_controller.market_index import DAY_S, Grid, index_history
from meta_controller.outcomes import outcomes
from meta_controller.pool import Track
from meta_controller.regimes import EXPERTS
from meta_controller.usual_odds import UsualOdds
from shared.rows import FloatArray, IntArray
from tests.meta_controller.markets import HOUR_S, SEGMENT_BARS, START, grid_of, segments

SEGMENTS, LEARNT = 30, 20  # of the first 20 nothing is asked: the experts learn from them
SETTLING_BARS = 48
LONG = HORIZONS_S.index(LONG_HORIZON_S)


@dataclass(frozen=True, slots=True)
class Called:
    """The pool's 24h calls [n, 6] of settled bars, the truth about each [n], and every regime word in order."""

    p: FloatArray
    rising: IntArray
    wild: IntArray
    words: list[str]
    settled: FloatArray


def with_ranges(grid: Grid, wild: IntArray, seed: int) -> Grid:
    """Ranges of bars as Brownian bridges of their volatility draw them."""
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((grid.close.shape[1], 30)) / np.sqrt(30)
    path = np.cumsum(steps, axis=1)
    bridge = (path - path[:, -1:] * np.arange(1, 31) / 30) * (0.005 * (1 + (wild == 2)))[:, None]
    spread = np.maximum(bridge.max(axis=1), 0.0) - np.minimum(bridge.min(axis=1), 0.0)
    return Grid(grid.first, grid.timeframe_s, grid.close, (spread**2 / (4 * np.log(2)))[None])


def pooled_track(grid: Grid, first: int, last: int) -> tuple[Track, IntArray]:
    track, fits, called = Track(tuple(EXPERTS)), Fits({}, EXPERTS), []
    for start, begin, end in blocks(first, last):
        block = call_block(grid, start, begin, end, fits, EXPERTS)
        track.add_calls(block.as_of.tolist(), block.calls)
        history = index_history(grid, start, min(end + DAY_S, last))
        rows = (block.as_of - history.first) // HOUR_S
        for horizon_s in HORIZONS_S:
            found = outcomes(history, horizon_s)
            labels = zip(found.trend[rows].tolist(), found.volatility[rows].tolist(), strict=True)
            for t, (trend, volatility) in zip(block.as_of.tolist(), labels, strict=True):
                track.add_outcome(t, horizon_s, (trend, volatility))
        called.append(block.as_of)
    return track, np.concatenate(called)


@cache
def called(tied: bool, seed: int) -> Called:
    returns, trend, wild = segments(seed, SEGMENTS, tied)
    grid = with_ranges(grid_of(returns[None]), wild, seed)
    last = grid.first + (len(returns) - 1) * HOUR_S
    track, times = pooled_track(grid, START + LEARNT * SEGMENT_BARS * HOUR_S, last)
    bars = (times - grid.first) // HOUR_S
    p = np.stack([track.pooled(t)[LONG] for t in times.tolist()])
    usual = UsualOdds()
    for t, six in zip(times.tolist(), p, strict=True):
        usual.add(t, six[0], six[2])
    words = [
        call_of(LONG_HORIZON_S, six.tolist(), "made up", usual.before(t)).regime
        for t, six in zip(times.tolist(), p, strict=True)
    ]
    settled = bars % SEGMENT_BARS >= SETTLING_BARS
    return Called(p[settled], trend[bars[settled]], wild[bars[settled]], words, settled)


def switches_a_day(found: Called) -> float:
    return float(np.mean([a != b for a, b in zip(found.words[1:], found.words[:-1], strict=True)])) * 24


def test_rises_and_falls_are_named_where_they_differ_in_volatility() -> None:
    """Drift t = ±3 over 20 days, falls twice as wild: 97 % of the settled bars are named bull or bear rightly."""
    found = called(True, 3)
    words = np.array(found.words)[found.settled.astype(bool)]
    right = (words == np.where(found.rising == 2, "bull", "bear")).mean()
    volatility = ((found.p[:, 5] > found.p[:, 3]) == (found.wild == 2)).mean()
    print(f"named rightly {right:.1%}, volatility {volatility:.1%}, {switches_a_day(found):.2f} switches a day")
    assert right >= 0.9
    assert volatility >= 0.9
    assert switches_a_day(found) < 1.0


def test_where_volatility_tells_nothing_of_the_trend_the_leaning_is_right_and_a_word_is_sure() -> None:
    """Drift and volatility by lots of their own; 95 % is the best possible (an oracle that knows both sizes)."""
    found = called(False, 3)
    words = np.array(found.words)[found.settled.astype(bool)]
    named = np.isin(words, ("bull", "bear"))
    leaning = ((found.p[:, 2] > found.p[:, 0]) == (found.rising == 2)).mean()
    right = (words == np.where(found.rising == 2, "bull", "bear"))[named].mean()
    volatility = ((found.p[:, 5] > found.p[:, 3]) == (found.wild == 2)).mean()
    print(f"leaning {leaning:.1%}, {named.mean():.0%} named, {right:.1%} of them rightly, volatility {volatility:.1%}")
    assert leaning >= 0.9
    assert named.mean() >= 0.5
    assert right >= 0.95
    assert volatility >= 0.9
    assert switches_a_day(found) < 1.0


@pytest.mark.parametrize("tied", [True, False])
def test_the_likeliest_volatility_class_is_that_of_the_segment(tied: bool) -> None:
    found = called(tied, 3)
    assert (found.p[:, 3:].argmax(axis=1) == found.wild).mean() >= 0.8
