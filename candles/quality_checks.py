"""What is odd in stored candles, on whole arrays. Pure: no database, no clock. Odd is not wrong: markets crash too.

A candle is judged against its neighbours on the grid only; nothing is measured across a gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from shared.clock import from_unix
from shared.market_data import BoolArray, gap_mask
from shared.rows import Candles, FloatArray, IntArray

WORST = 3
WINDOW = 100  # returns behind a candle by which its own is measured
NORMAL = 1.4826  # median absolute deviation -> standard deviation, of a normal distribution
TOO_FAR = 20.0  # deviations; crypto's fat tails pass 10 within an ordinary month, a wrong digit passes 100
SMALLEST_DEVIATION = 1e-4  # of a market that hardly moves: a step of one tick is no outlier
REVERTED = 0.25  # of a jump that may remain when it counts as taken back
STUCK = 5  # candles alike in a row; quiet venues repeat themselves two or three times
ROUNDING = 1e-9  # relative: sums of volumes are rounded, in whatever order
FAR_APART = 0.01  # between venues
ROWS_A_PASS = 16_384
HOUR = 3600


@dataclass(frozen=True, slots=True)
class Event:
    """One candle worth a look, by its close; what its size means is said where it is found."""

    at: datetime
    size: float


@dataclass(frozen=True, slots=True)
class Found:
    """How many candles have an oddity, and the worst few of them."""

    count: int
    worst: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Gaps:
    """The holes inside a series. ``known``: the venue was asked and has no such candles; the others are unexplained."""

    count: int
    missing: int
    share: float  # of all candles from the first to the last
    longest: int  # candles
    longest_after: datetime | None
    known: int
    unexplained_recent: int  # in the last 30 days of the series


@dataclass(frozen=True, slots=True)
class TimeframesAgree:
    """Candles made of a finer series, against the stored ones: how many differ in their prices (at all) and in
    their volume (by more than rounding), and the worst of each, relative."""

    finer_s: int
    coarser_s: int
    common: int
    prices_differ: int
    volumes_differ: int
    worst_price: Event | None
    worst_volume: Event | None


@dataclass(frozen=True, slots=True)
class VenuesAgree:
    """|ln(close / close)| of one asset on two venues at their common times; ``worst_hour`` by its mean."""

    common: int
    median: float
    percentile_99: float
    far_apart: float  # share of times more than 1 % apart
    worst_hour: Event


def count_gaps(rows: int, spans: IntArray, known: BoolArray, timeframe_s: int, recent_s: int) -> Gaps:
    """``spans`` [n, 2]: the holes (after, until] in Unix seconds, ``known`` [n]; ``recent_s``: holes that end later
    are recent. ``rows`` are the candles that are there."""
    lengths = (spans[:, 1] - spans[:, 0]) // timeframe_s
    missing = int(lengths.sum())
    longest = int(lengths.argmax()) if len(spans) else None
    return Gaps(
        count=len(spans),
        missing=missing,
        share=missing / (rows + missing) if missing else 0.0,
        longest=0 if longest is None else int(lengths[longest]),
        longest_after=None if longest is None else from_unix(int(spans[longest, 0])),
        known=int(np.count_nonzero(known)),
        unexplained_recent=int(np.count_nonzero(~known & (spans[:, 1] > recent_s))),
    )


def find_outliers(candles: Candles, timeframe_s: int) -> tuple[Found, Found]:
    """Outliers, and lone spikes that revert at once (not counted as outliers again); sizes are signed ln ratios.

    An outlier's return r = ln(close / close before) is farther from 0 than 20 deviations. The deviation is robust:
    1.4826 times the median |r| of the 100 returns before (after Iglewicz and Hoaglin, How to Detect and Handle
    Outliers, 1993, with 0 for the median return, which a return of one candle cannot be told from), but not less
    than the same of the whole series. A spike reaches as far beyond the range of both its neighbours, or its close
    jumps as far and the next one takes back three quarters of it.
    """
    n = len(candles)
    adjacent = ~gap_mask(candles.as_of, timeframe_s)[1:]  # [n - 1]: step i leads from candle i to i + 1
    if not adjacent.any():
        return Found(0, ()), Found(0, ())
    returns = np.diff(np.log(candles.close))
    limit = np.full(n - 1, np.inf)
    limit[adjacent] = TOO_FAR * _deviations(np.abs(returns[adjacent]))
    between = np.flatnonzero(adjacent[:-1] & adjacent[1:]) + 1  # candles with both neighbours
    before, after = returns[between - 1], returns[between]
    high, low = np.log(candles.high), np.log(candles.low)
    above = high[between] - np.maximum(high[between - 1], high[between + 1])
    below = low[between] - np.minimum(low[between - 1], low[between + 1])
    jump = np.where(np.abs(before + after) <= REVERTED * np.abs(before), before, 0.0)
    size = _larger(_larger(np.maximum(above, 0.0), np.minimum(below, 0.0)), jump)
    lone = np.abs(size) > limit[between - 1]
    spikes = between[lone]
    far = np.abs(returns) > limit
    far[spikes - 1] = far[spikes] = False
    outliers = np.flatnonzero(far) + 1
    return (
        _found(candles.as_of[outliers], returns[outliers - 1]),
        _found(candles.as_of[spikes], size[lone]),
    )


def _larger(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.where(np.abs(a) >= np.abs(b), a, b)


def _deviations(distances: FloatArray) -> FloatArray:
    """Of each distance from 0 the robust deviation of the 100 before it; the first 100 share that of all of them."""
    n = len(distances)
    medians = np.full(n, np.median(distances[:WINDOW]))
    if n > WINDOW:
        windows = np.lib.stride_tricks.sliding_window_view(distances[:-1], WINDOW)  # the i-th: before distance i + 100
        for start in range(0, len(windows), ROWS_A_PASS):
            part = windows[start : start + ROWS_A_PASS]
            middle = np.partition(part, WINDOW // 2, axis=1)[:, WINDOW // 2]
            medians[WINDOW + start : WINDOW + start + len(part)] = middle
    floor = max(NORMAL * float(np.median(distances)), SMALLEST_DEVIATION)
    return np.maximum(NORMAL * medians, floor)


def find_stuck(candles: Candles, timeframe_s: int) -> Found:
    """Runs of at least 5 adjacent candles with the same four prices; size and time are a run's length and end."""
    alike = ~gap_mask(candles.as_of, timeframe_s)[1:]
    for prices in (candles.open, candles.high, candles.low, candles.close):
        alike &= prices[1:] == prices[:-1]
    edges = np.flatnonzero(np.diff(np.r_[False, alike, False])).reshape(-1, 2)  # candles edge 0 to edge 1, both incl.
    lengths = edges[:, 1] - edges[:, 0] + 1
    runs = lengths >= STUCK
    return _found(candles.as_of[edges[runs, 1]], lengths[runs].astype(np.float64))


def _found(at: IntArray, size: FloatArray) -> Found:
    worst = np.argsort(-np.abs(size), kind="stable")[:WORST]
    return Found(len(at), tuple(Event(from_unix(int(at[i])), float(size[i])) for i in worst))


def compare_timeframes(derived: Candles, stored: Candles, finer_s: int, coarser_s: int) -> TimeframesAgree:
    """``derived`` of the finer series (see derive_candles) against the ``stored`` candles of the same times."""
    at, mine, theirs = np.intersect1d(derived.as_of, stored.as_of, assume_unique=True, return_indices=True)
    a, b = derived[mine], stored[theirs]
    pairs = [(getattr(a, name), getattr(b, name)) for name in ("open", "high", "low", "close")]
    prices = np.max([np.abs(x / y - 1) for x, y in pairs], axis=0)
    most = np.maximum(np.maximum(a.volume, b.volume), np.finfo(float).tiny)
    volumes = np.abs(a.volume - b.volume) / most
    differ, volume_differ = prices > 0, volumes > ROUNDING
    worst = _found(at[differ], prices[differ]).worst
    worst_volume = _found(at[volume_differ], volumes[volume_differ]).worst
    return TimeframesAgree(
        finer_s=finer_s,
        coarser_s=coarser_s,
        common=len(at),
        prices_differ=int(np.count_nonzero(differ)),
        volumes_differ=int(np.count_nonzero(volume_differ)),
        worst_price=worst[0] if worst else None,
        worst_volume=worst_volume[0] if worst_volume else None,
    )


def compare_venues(at_a: IntArray, close_a: FloatArray, at_b: IntArray, close_b: FloatArray) -> VenuesAgree | None:
    """Closes and their times (Unix seconds, sorted) of one asset on two venues; None when no time is common."""
    at, a, b = np.intersect1d(at_a, at_b, assume_unique=True, return_indices=True)
    if not len(at):
        return None
    apart = np.abs(np.log(close_a[a] / close_b[b]))
    hours = -(-at // HOUR)
    starts = np.flatnonzero(np.r_[True, np.diff(hours) != 0])
    means = np.add.reduceat(apart, starts) / np.diff(np.r_[starts, len(at)])
    worst = int(means.argmax())
    return VenuesAgree(
        common=len(at),
        median=float(np.median(apart)),
        percentile_99=float(np.percentile(apart, 99)),
        far_apart=float(np.mean(apart > FAR_APART)),
        worst_hour=Event(from_unix(int(hours[starts[worst]]) * HOUR), float(means[worst])),
    )
