"""The seeded market: the same numbers however they are asked for, and enough like a market to learn on."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.exchanges import simulated
from shared.exchanges.protocol import ExchangeError
from shared.exchanges.simulated import DAY_S, END, EPOCH, SimulatedExchange
from shared.rows import CANDLE_FIELDS, Candles, FloatArray

BTC, ETH, SOL, ODD = "SIM-BTC/USDT", "SIM-ETH/USDT", "SIM-SOL/USDT", "SIM-DOGE/EUR"
TIMEFRAMES = (60, 300, 900, 3_600, 14_400, 86_400)
START = EPOCH + 1_000 * DAY_S
CHAPTER_END = EPOCH + simulated.WEATHER_CHAPTER * DAY_S
NOW = 1_780_000_200


def forget() -> None:
    for cached in vars(simulated).values():
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()


def equal(left: Candles, right: Candles) -> bool:
    return all(getattr(left, name).tobytes() == getattr(right, name).tobytes() for name in CANDLE_FIELDS)


def widen(candles: Candles, width: int) -> Candles:
    """The plain aggregation anyone would write, by float sums in order."""

    def each(column: np.ndarray, fold: Callable[..., float]) -> list[float]:
        return [fold(column[i : i + width].tolist()) for i in range(0, len(column), width)]

    return Candles.from_columns(
        [
            candles.as_of[width - 1 :: width],
            candles.open[::width],
            each(candles.high, max),
            each(candles.low, min),
            candles.close[width - 1 :: width],
            each(candles.volume, sum),
            each(candles.trades, sum),
        ]
    )


# --- the same numbers, however asked ---


@settings(max_examples=60, deadline=None)
@given(
    symbol=st.sampled_from([BTC, ETH, ODD]),
    timeframe_s=st.sampled_from(TIMEFRAMES),
    begin=st.integers(EPOCH, NOW),
    length=st.integers(0, 4 * DAY_S),
    cut=st.floats(0, 1),
    cold=st.booleans(),
)
@example(BTC, 300, CHAPTER_END - DAY_S, 2 * DAY_S, 0.5, True)
@example(ODD, 60, EPOCH, DAY_S, 0.999, True)
def test_windows_agree_bit_for_bit_in_any_order_and_size(
    symbol: str, timeframe_s: int, begin: int, length: int, cut: float, cold: bool
) -> None:
    exchange, end = SimulatedExchange(), begin + length
    middle = begin + int(cut * length)
    late = exchange.candles(symbol, timeframe_s, middle, end)
    if cold:
        forget()
    early = exchange.candles(symbol, timeframe_s, begin, middle)
    whole = exchange.candles(symbol, timeframe_s, begin, end)
    assert equal(Candles.concatenate([early, late]), whole)
    assert len(whole) == end // timeframe_s - begin // timeframe_s


def digest(seed: int) -> str:
    exchange = SimulatedExchange(seed)
    parts = [exchange.candles(symbol, 60, START, START + 3 * DAY_S) for symbol in (SOL, BTC, ODD)]
    return hashlib.sha256(
        b"".join(getattr(part, name).tobytes() for part in parts for name in CANDLE_FIELDS)
    ).hexdigest()


def test_every_process_sees_the_same_market() -> None:
    code = "from tests.shared.test_exchange_simulated import digest; print(digest(7))"
    for hash_seed in ("1", "2"):
        command = ["env", f"PYTHONHASHSEED={hash_seed}", sys.executable, "-c", code]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == digest(7)


def test_other_seeds_are_other_markets() -> None:
    assert len({digest(seed) for seed in (0, 1, 7, -1, 2**70)}) == 5


def test_answers_are_the_callers_own_to_change() -> None:
    first = SimulatedExchange().candles(BTC, 60, START, START + DAY_S)
    first.close[:] = 0.0
    assert SimulatedExchange().candles(BTC, 60, START, START + DAY_S).close.min() > 0


@pytest.mark.parametrize("symbol", [BTC, ODD])
@pytest.mark.parametrize(("narrow", "wide"), [(60, 300), (60, 86_400), (300, 3_600), (900, 14_400), (3_600, 86_400)])
def test_narrow_candles_aggregate_to_wide_ones_bit_for_bit(symbol: str, narrow: int, wide: int) -> None:
    exchange = SimulatedExchange()
    fine, coarse = (exchange.candles(symbol, width, START, START + 5 * DAY_S) for width in (narrow, wide))
    assert equal(widen(fine, wide // narrow), coarse)


# --- what it is asked for ---


@pytest.mark.parametrize(
    "symbol", ["BTC/USDT", "SIM-BTC", "sim-btc/usdt", "SIM-/USDT", "SIM-BTC/USDT ", "SIM-BTC/U/D", ""]
)
def test_only_its_own_symbols_are_known(symbol: str) -> None:
    exchange = SimulatedExchange()
    for ask in (exchange.resolve, exchange.rules, lambda name: exchange.candles(name, 60, START, START + 60)):
        with pytest.raises(ExchangeError, match="SIM-<BASE>/<QUOTE>"):
            ask(symbol)


@pytest.mark.parametrize("timeframe_s", [0, -60, 1, 90, 420, 2 * DAY_S])
def test_a_timeframe_that_does_not_divide_a_day_is_refused(timeframe_s: int) -> None:
    with pytest.raises(ExchangeError, match="divide a day"):
        SimulatedExchange().candles(BTC, timeframe_s, START, START + DAY_S)


def test_before_the_epoch_and_past_the_end_are_refused() -> None:
    with pytest.raises(ExchangeError, match="2020-01-01"):
        SimulatedExchange().candles(BTC, 60, EPOCH - 1, EPOCH + 60)
    with pytest.raises(ExchangeError, match="seconds"):
        SimulatedExchange().candles(BTC, 60, START, 1_700_000_000_000)
    assert END % DAY_S == 0


def test_prices_lie_on_the_tick_of_the_rules() -> None:
    exchange = SimulatedExchange()
    for symbol in (BTC, SOL, ODD):
        tick = exchange.rules(symbol).tick_size
        closes = exchange.candles(symbol, 3_600, START, START + DAY_S).close
        assert all(Decimal(str(price)) % tick == 0 for price in closes.tolist())
    assert exchange.rules(BTC).tick_size == Decimal("0.01")
    assert exchange.rules(SOL).tick_size < Decimal("0.01")


def test_each_candle_opens_where_the_last_one_closed() -> None:
    candles = SimulatedExchange().candles(ETH, 60, START, START + 3 * DAY_S)
    np.testing.assert_array_equal(candles.open[1:], candles.close[:-1])


# --- a market worth learning on: 5 years of hours ---


@pytest.fixture(scope="module")
def hours() -> dict[str, Candles]:
    exchange = SimulatedExchange()
    return {symbol: exchange.candles(symbol, 3_600, EPOCH, EPOCH + 1_825 * DAY_S) for symbol in (BTC, ETH, SOL)}


def log_returns(candles: Candles) -> FloatArray:
    return np.diff(np.log(candles.close), prepend=np.log(candles.open[0]))


def test_symbols_move_together_about_as_coins_do(hours: dict[str, Candles]) -> None:
    correlations = np.corrcoef([log_returns(candles) for candles in hours.values()])[np.triu_indices(3, 1)]
    assert ((correlations > 0.6) & (correlations < 0.8)).all()


def test_volatility_is_high_clustered_and_fat_tailed(hours: dict[str, Candles]) -> None:
    for candles in hours.values():
        returns = log_returns(candles)
        size = np.abs(returns)
        assert 0.4 < returns.std() * np.sqrt(24 * 365) < 1.3
        assert 6 < np.mean(returns**4) / np.mean(returns**2) ** 2 < 60
        assert np.corrcoef(size[1:], size[:-1])[0, 1] > 0.15
        assert np.corrcoef(size[24:], size[:-24])[0, 1] > 0.12
        assert abs(np.corrcoef(returns[1:], returns[:-1])[0, 1]) < 0.03


def test_tomorrows_volatility_can_be_foreseen_in_part(hours: dict[str, Candles]) -> None:
    daily = np.log(np.square(log_returns(hours[BTC])).reshape(-1, 24).sum(axis=1)) / 2
    assert 0.5 < np.corrcoef(daily[1:], daily[:-1])[0, 1] < 0.95


def test_volume_rises_with_the_size_of_the_move(hours: dict[str, Candles]) -> None:
    for candles in hours.values():
        assert np.corrcoef(np.log(candles.volume * candles.close), np.abs(log_returns(candles)))[0, 1] > 0.25


def test_levels_do_not_run_away(hours: dict[str, Candles]) -> None:
    for symbol, candles in hours.items():
        home = simulated.PROFILES[symbol[4:7]].price
        assert home / 15 < candles.low.min() < candles.high.max() < home * 15


def daily_returns(seed: int, days: int) -> FloatArray:
    """Log returns of whole days, without the cost of their minutes."""
    return np.array([day.end - day.start for day in simulated._days(seed, BTC, days)])


def test_a_days_candle_ends_where_the_days_plan_ends() -> None:
    closes = SimulatedExchange(3).candles(BTC, DAY_S, EPOCH, EPOCH + 40 * DAY_S).close
    np.testing.assert_allclose(np.diff(np.log(closes)), daily_returns(3, 512)[1:40], atol=1e-5)


def test_following_the_trend_pays_something_before_costs() -> None:
    """Ten-day momentum at constant volatility, averaged over seeds so that one market's luck decides nothing."""
    sharpes = []
    for seed in range(16):
        daily = daily_returns(seed, 2_048)
        past = np.lib.stride_tricks.sliding_window_view(daily[:-1], 10)
        gains = np.clip(past.mean(axis=1) / past.std(axis=1) * np.sqrt(10), -1, 1) / past.std(axis=1) * daily[10:]
        sharpes.append(gains.mean() / gains.std() * np.sqrt(365))
    assert 0.6 < np.mean(sharpes) < 1.4


# --- quick enough to be the default of every test ---


def test_half_a_year_of_five_minutes_comes_within_a_second() -> None:
    forget()
    begun = time.thread_time()  # what others do on this machine is not its business
    candles = SimulatedExchange().candles(BTC, 300, NOW - 180 * DAY_S, NOW)
    assert time.thread_time() - begun < 1.0
    assert len(candles) == 180 * 288
