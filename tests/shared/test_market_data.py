"""What is read is what was stored, bit for bit; a gap is seen where a candle is missing."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import to_unix
from shared.market_data import UnknownInstrument, find_instruments, gap_mask, read_candles
from shared.rows import UNKNOWN_TRADES, Candles
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles

STEP = 300
LAST = to_unix(NOON)


def assert_same(one: Candles, two: Candles) -> None:
    for mine, other in zip(astuple(one), astuple(two), strict=True):
        assert (mine.dtype, mine.tobytes()) == (other.dtype, other.tobytes())


def test_candles_come_back_bit_for_bit_in_native_arrays(database_for: DatabaseFor) -> None:
    candles = replace(random_candles(50, STEP), trades=np.arange(-1, 49), volume=np.linspace(0, 1 / 3, 50))
    instrument_id = store_candles(database_for, "test", "AAA/USDT", STEP, candles)
    for layer in ("candles", "encoder", "policy"):
        read = read_candles(database_for(layer), instrument_id, STEP, 0, LAST)
        assert_same(read, candles)
    assert read.trades[0] == UNKNOWN_TRADES
    assert all(column.flags["C_CONTIGUOUS"] and column.dtype.isnative for column in astuple(read))


def test_a_span_begins_after_its_start_and_includes_its_end(database_for: DatabaseFor) -> None:
    candles = random_candles(10, STEP)
    instrument_id = store_candles(database_for, "test", "AAA/USDT", STEP, candles)
    read = read_candles(database_for("policy"), instrument_id, STEP, int(candles.as_of[2]), int(candles.as_of[6]))
    assert_same(read, candles[3:7])


def test_candles_from_before_2000_keep_their_times(database_for: DatabaseFor) -> None:
    candles = random_candles(4, STEP, end=946_684_800 + STEP)  # PostgreSQL counts from 2000 on
    instrument_id = store_candles(database_for, "test", "AAA/USDT", STEP, candles)
    assert_same(read_candles(database_for("policy"), instrument_id, STEP, 0, LAST), candles)


def test_another_series_or_span_is_empty_and_not_an_error(database_for: DatabaseFor) -> None:
    instrument_id = store_candles(database_for, "test", "AAA/USDT", STEP, random_candles(3, STEP))
    for series, after in [((instrument_id, 3600), 0), ((instrument_id + 1, STEP), 0), ((instrument_id, STEP), LAST)]:
        assert_same(read_candles(database_for("policy"), *series, after, LAST), Candles.empty())


def test_instruments_come_in_the_order_asked_or_the_missing_are_named(database_for: DatabaseFor) -> None:
    for symbol in ("AAA/USDT", "BBB/USDT"):
        store_candles(database_for, "test", symbol, STEP, Candles.empty())
    database = database_for("policy")
    assert [i.symbol for i in find_instruments(database, "test", ["BBB/USDT", "AAA/USDT"])] == ["BBB/USDT", "AAA/USDT"]
    with pytest.raises(UnknownInstrument, match="no candles of CCC/USDT on test are stored"):
        find_instruments(database, "test", ["AAA/USDT", "CCC/USDT"])


@given(st.sets(st.integers(0, 60)))
def test_a_gap_is_marked_at_the_candle_that_follows_it(slots: set[int]) -> None:
    as_of = np.array(sorted(slots), dtype=np.int64) * STEP
    held = set(as_of.tolist())
    expected = [n > 0 and int(close) - STEP not in held for n, close in enumerate(as_of)]
    mask = gap_mask(as_of, STEP)
    assert (mask.dtype, mask.tolist()) == (np.bool_, expected)
