"""The ground truth: trades that add up to the simulated candles, and nothing that depends on who asks when."""

from __future__ import annotations

import time
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.exchanges.simulated import EPOCH, SimulatedExchange
from tests.exchange_emulator.book import book_at
from tests.exchange_emulator.market import NS, Bar, Market, Trade

DAY = 1_749_945_600  # 2025-06-15
SYMBOL = "BTC/USD"
MARKET = Market((SYMBOL, "ETH/USD", "TINY/USD"))
seconds_of_the_day = st.integers(0, 86_399)


def bar_of(trades: list[Trade], opened: int, tick: Decimal) -> Bar:
    """What anyone would call the candle of these trades."""
    prices, volume = [trade.price for trade in trades], sum(trade.volume for trade in trades)
    notional = sum(trade.price * trade.volume for trade in trades)
    vwap = (notional / volume).quantize(tick)
    return Bar(opened, prices[0], max(prices), min(prices), prices[-1], vwap, volume, len(trades), notional)


@pytest.mark.parametrize("symbol", MARKET.symbols)
@pytest.mark.parametrize("timeframe_s", [60, 300, 3600, 86_400])
def test_trades_add_up_to_the_bars_exactly(symbol: str, timeframe_s: int) -> None:
    opened = DAY + 86_400 - 2 * timeframe_s if timeframe_s < 86_400 else DAY
    for bar in MARKET.bars(symbol, timeframe_s, opened, DAY + 86_400):
        trades = MARKET.trades(symbol, bar.opened * NS - 1, (bar.opened + timeframe_s) * NS - 1)
        assert bar == bar_of(trades, bar.opened, MARKET.rules(symbol).tick_size)


def test_minute_bars_are_the_simulated_markets() -> None:
    bars = MARKET.bars(SYMBOL, 60, DAY, DAY + 86_400)
    simulated = SimulatedExchange(7).candles("SIM-BTC/USD", 60, DAY, DAY + 86_400)
    for name in ("open", "high", "low", "close"):
        assert [float(getattr(bar, name)) for bar in bars] == getattr(simulated, name).tolist()
    assert [bar.volume for bar in bars] == [Decimal(round(v * 10**8)).scaleb(-8) for v in simulated.volume.tolist()]
    assert {bar.count for bar in bars} == {4, 5, 6, 7}


def test_weekly_bars_follow_the_unix_grid_and_hold_seven_days() -> None:
    (week,) = MARKET.bars(SYMBOL, 604_800, DAY - 604_800, DAY)
    days = MARKET.bars(SYMBOL, 86_400, week.opened, week.opened + 604_800)
    assert week.opened % 604_800 == 0
    assert len(days) == 7
    assert (week.open, week.close) == (days[0].open, days[-1].close)
    assert (week.high, week.low) == (max(d.high for d in days), min(d.low for d in days))
    assert (week.volume, week.count) == (sum(d.volume for d in days), sum(d.count for d in days))
    assert week.notional == sum(d.notional for d in days)


@settings(max_examples=30, deadline=None)
@given(start=seconds_of_the_day, first=st.integers(1, 20_000), second=st.integers(1, 20_000))
def test_windows_of_trades_join_without_overlap_or_hole(start: int, first: int, second: int) -> None:
    since, middle, until = ((DAY + t) * NS for t in (start, start + first, start + first + second))
    whole = MARKET.trades(SYMBOL, since, until)
    assert MARKET.trades(SYMBOL, since, middle) + MARKET.trades(SYMBOL, middle, until) == whole
    assert all(a.id + 1 == b.id and a.time_ns < b.time_ns for a, b in pairwise(whole))
    assert all(since < trade.time_ns <= until for trade in whole)
    assert MARKET.trades(SYMBOL, since, until, limit=7) == whole[:7]
    assert MARKET.latest_trades(SYMBOL, until, len(whole)) == whole


def test_the_latest_trades_reach_into_the_days_before() -> None:
    trades = MARKET.latest_trades(SYMBOL, (DAY + 30) * NS, 9_000)
    assert len(trades) == 9_000
    assert trades == MARKET.trades(SYMBOL, trades[0].time_ns - 1, (DAY + 30) * NS)


def test_a_trades_edge_belongs_to_the_window_that_ends_there() -> None:
    trade = MARKET.trades(SYMBOL, DAY * NS, (DAY + 60) * NS)[2]
    assert MARKET.trades(SYMBOL, trade.time_ns - 1, trade.time_ns) == [trade]
    assert MARKET.trades(SYMBOL, trade.time_ns, trade.time_ns) == []
    assert MARKET.time_of(SYMBOL, trade.id) == trade.time_ns


@settings(max_examples=40, deadline=None)
@given(second=seconds_of_the_day, timeframe_s=st.sampled_from([60, 300, 3600, 14_400, 604_800]))
def test_the_open_bar_holds_the_trades_so_far(second: int, timeframe_s: int) -> None:
    now = DAY + second + 0.5
    opened = int(now // timeframe_s * timeframe_s)
    *closed, last = MARKET.bars_at(SYMBOL, timeframe_s, opened - 2 * timeframe_s, now)
    assert closed == MARKET.bars(SYMBOL, timeframe_s, opened - 2 * timeframe_s, opened)
    trades = MARKET.trades(SYMBOL, opened * NS - 1, int(now * NS))
    if trades:
        assert last == bar_of(trades, opened, MARKET.rules(SYMBOL).tick_size)
    else:
        assert last == Bar(opened, *[closed[-1].close] * 4, Decimal(0), Decimal(0), 0, Decimal(0))


def test_a_bar_that_has_just_opened_is_flat_at_the_last_close() -> None:
    before, opened = MARKET.bars_at(SYMBOL, 300, DAY - 300, DAY)
    assert opened == Bar(DAY, *[before.close] * 4, Decimal(0), Decimal(0), 0, Decimal(0))


def test_the_open_bar_holds_a_trade_from_its_very_moment_on() -> None:
    trades = MARKET.trades(SYMBOL, (DAY + 300) * NS, (DAY + 600) * NS)
    number, trade = next((i, t) for i, t in enumerate(trades, 1) if int(t.time_ns / NS * NS) == t.time_ns)
    assert MARKET.bars_at(SYMBOL, 300, DAY + 300, trade.time_ns / NS)[-1].count == number


def test_the_truth_is_the_bars_in_floats_by_their_close() -> None:
    truth = MARKET.truth(SYMBOL, 300, DAY, DAY + 3_600)
    bars = MARKET.bars(SYMBOL, 300, DAY, DAY + 3_600)
    assert truth.as_of.tolist() == [DAY + 300 * i for i in range(1, 13)]
    assert truth.volume.tolist() == [float(bar.volume) for bar in bars]
    assert truth.low.tolist() == [float(bar.low) for bar in bars]
    assert truth.trades.tolist() == [bar.count for bar in bars]
    assert len(MARKET.truth(SYMBOL, 300, DAY + 1, DAY + 299)) == 0
    assert MARKET.truth(SYMBOL, 300, DAY + 1, DAY + 300).as_of.tolist() == [DAY + 300]


def test_bars_are_asked_for_by_their_opening() -> None:
    assert [bar.opened for bar in MARKET.bars(SYMBOL, 300, DAY + 1, DAY + 601)] == [DAY + 300, DAY + 600]
    assert [bar.opened for bar in MARKET.bars(SYMBOL, 300, DAY, DAY + 300)] == [DAY]
    assert MARKET.bars(SYMBOL, 300, 0, EPOCH + 1)[0].opened == EPOCH
    assert MARKET.bars(SYMBOL, 300, 0, EPOCH) == []


def test_another_market_of_the_same_seed_is_the_same_and_of_another_seed_is_not() -> None:
    ask = (SYMBOL, DAY * NS, (DAY + 600) * NS)
    twin, other = Market((SYMBOL,)), Market((SYMBOL,), seed=8)
    twin.bars(SYMBOL, 3600, DAY - 864_000, DAY)  # what was asked before must not matter
    assert twin.trades(*ask) == MARKET.trades(*ask) != other.trades(*ask)
    assert book_at(twin, SYMBOL, DAY + 77, 10) == book_at(MARKET, SYMBOL, DAY + 77, 10)


def test_the_book_is_sorted_uncrossed_and_deeper_only_at_its_end() -> None:
    bids, asks = book_at(MARKET, "TINY/USD", DAY + 77, 50)
    (last,) = MARKET.latest_trades("TINY/USD", (DAY + 77) * NS, 1)
    assert all(a.price > b.price for a, b in pairwise(bids))
    assert all(a.price < b.price for a, b in pairwise(asks))
    assert bids[0].price < last.price < asks[0].price
    assert book_at(MARKET, "TINY/USD", DAY + 77, 5) == (bids[:5], asks[:5])
    assert all(level.volume > 0 for level in bids + asks)


@pytest.mark.parametrize("timeframe_s", [0, 30, 90, 7 * 60, 90_000])
def test_a_timeframe_off_the_grid_is_refused(timeframe_s: int) -> None:
    with pytest.raises(ValueError, match=f"no {timeframe_s} s candles"):
        MARKET.bars(SYMBOL, timeframe_s, DAY, DAY + 86_400)


def test_unknown_symbols_and_times_in_milliseconds_are_refused() -> None:
    with pytest.raises(ValueError, match="no 'DOGE/USD' here; there are BTC/USD, ETH/USD"):
        MARKET.bars("DOGE/USD", 300, DAY, DAY + 300)
    with pytest.raises(ValueError, match="like BTC/USD"):
        Market(("bitcoin",))
    with pytest.raises(ValueError, match="Unix seconds"):
        MARKET.bars(SYMBOL, 300, DAY * 1000, (DAY + 300) * 1000)


def test_a_day_of_two_symbols_is_quick() -> None:
    market = Market((SYMBOL, "ETH/USD"), seed=11)
    market.bars(SYMBOL, 300, DAY - 300, DAY)  # the simulated weather, once
    started = time.perf_counter()
    bars = [market.bars(symbol, 300, DAY, DAY + 86_400) for symbol in market.symbols]
    assert time.perf_counter() - started < 2
    assert [len(b) for b in bars] == [288, 288]
    assert not np.array_equal([b.close for b in bars[0]], [b.close for b in bars[1]])
