"""A coarser candle is exactly the finer ones it is made of, and there only when none of them is missing."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candles.derive import derive_candles
from shared.rows import UNKNOWN_TRADES, Candles

START = 1_700_006_400  # midnight UTC
PAIRS = [(300, 3600), (60, 300), (900, 3600), (3600, 86_400), (1800, 3600)]

Row = tuple[int, float, float, float, float, float, int]


def slow_derive(rows: list[Row], base_s: int, target_s: int) -> list[Row]:
    """The same by looking up, for every coarse close, each fine candle one by one."""
    by_close = {row[0]: row for row in rows}
    derived = []
    for close in sorted({-(-row[0] // target_s) * target_s for row in rows}):
        parts = [by_close.get(close - target_s + k * base_s) for k in range(1, target_s // base_s + 1)]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts):
            continue
        trades = [part[6] for part in found]
        derived.append((
            close, found[0][1], max(p[2] for p in found), min(p[3] for p in found), found[-1][4],
            sum(p[5] for p in found), UNKNOWN_TRADES if UNKNOWN_TRADES in trades else sum(trades),
        ))  # fmt: skip
    return derived


@st.composite
def series(draw: st.DrawFn) -> tuple[list[Row], int, int]:
    """Up to four coarse candles' worth of fine ones, some missing; amounts whose sums are exact in binary."""
    base_s, target_s = draw(st.sampled_from(PAIRS))
    ratio = target_s // base_s
    slots = draw(st.integers(1, 4 * ratio))
    first = draw(st.integers(0, ratio - 1))  # the series may begin anywhere within a coarse candle
    missing = draw(st.sets(st.integers(0, slots - 1), max_size=3))
    eighths = st.integers(1, 8_000).map(lambda n: n / 8)
    rows: list[Row] = []
    for slot in sorted(set(range(slots)) - missing):
        low, open_, close, high = sorted(draw(st.tuples(eighths, eighths, eighths, eighths)))
        if draw(st.booleans()):
            open_, close = close, open_
        trades = draw(st.sampled_from([UNKNOWN_TRADES, 0, 3, 2**31 - 1]) if slot % 5 == 0 else st.just(2))
        rows.append((START + (first + slot + 1) * base_s, open_, high, low, close, draw(eighths), trades))
    return rows, base_s, target_s


def as_rows(candles: Candles) -> list[Any]:
    return [tuple(row) for row in zip(*(column.tolist() for column in astuple(candles)), strict=True)]


def as_candles(rows: list[Row]) -> Candles:
    return Candles.from_columns(list(zip(*rows, strict=True))) if rows else Candles.empty()


@settings(max_examples=60)
@given(series())
def test_derived_candles_are_what_a_slow_reading_of_the_definition_gives(made: tuple[list[Row], int, int]) -> None:
    rows, base_s, target_s = made
    assert as_rows(derive_candles(as_candles(rows), base_s, target_s)) == slow_derive(rows, base_s, target_s)


@pytest.mark.parametrize("hole", range(12))
def test_an_hour_with_any_hole_is_a_hole(hole: int) -> None:
    as_of = START + 300 * np.arange(1, 25)
    price = np.full(24, 100.0)
    two_hours = Candles.from_columns([as_of, price, price, price, price, np.ones(24), np.ones(24)])
    assert derive_candles(two_hours, 300, 3600).as_of.tolist() == [START + 3600, START + 7200]
    kept = derive_candles(two_hours[as_of != as_of[hole]], 300, 3600)
    assert kept.as_of.tolist() == [START + 7200]


def test_nothing_is_derived_from_nothing() -> None:
    assert len(derive_candles(Candles.empty(), 300, 3600)) == 0


@pytest.mark.parametrize(("base_s", "target_s"), [(3600, 300), (300, 300), (420, 3600)])
def test_a_timeframe_that_is_not_a_multiple_is_refused(base_s: int, target_s: int) -> None:
    with pytest.raises(ValueError, match=f"{target_s} s candles cannot be made of {base_s} s candles"):
        derive_candles(Candles.empty(), base_s, target_s)
