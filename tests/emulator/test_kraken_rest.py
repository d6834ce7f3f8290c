"""Kraken's public REST as unmodified krakenex and ccxt use it, against the emulator's own truth."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import ccxt
import krakenex
import numpy as np
import pytest

from tests.emulator.conftest import SYMBOLS
from tests.exchange_emulator.faults import Rule
from tests.exchange_emulator.kraken_pairs import Pair
from tests.exchange_emulator.market import NS, Bar
from tests.exchange_emulator.rate_limits import LeakyCounter
from tests.exchange_emulator.server import START, Emulator

CURRENT = int(START) // 300 * 300  # open time of the candle that is not committed


def result(kraken: krakenex.API, method: str, **arguments: Any) -> Any:
    answer = kraken.query_public(method, arguments, timeout=5)
    assert answer["error"] == []
    return answer["result"]


def ohlc(kraken: krakenex.API, **arguments: Any) -> tuple[list[list[Any]], int]:
    found = result(kraken, "OHLC", **{"pair": "XBTUSD", "interval": 5} | arguments)
    return found["XXBTZUSD"], found["last"]


def entry(bar: Bar) -> list[Any]:
    """As Kraken prints a candle at two decimals."""
    prices = [f"{price:.2f}" for price in (bar.open, bar.high, bar.low, bar.close, bar.vwap)]
    return [bar.opened, *prices, f"{bar.volume:.8f}", bar.count]


@pytest.fixture
def ccxt_kraken(emulator: Emulator) -> ccxt.kraken:
    venue = ccxt.kraken({"timeout": 5000, "enableRateLimit": False})
    venue.urls["api"]["public"] = emulator.rest_url
    return venue


# --- names ---


@pytest.mark.parametrize(
    ("symbol", "pair_id", "altname", "wsname"),
    [
        ("BTC/USD", "XXBTZUSD", "XBTUSD", "XBT/USD"),
        ("ETH/USD", "XETHZUSD", "ETHUSD", "ETH/USD"),
        ("SOL/USD", "SOLUSD", "SOLUSD", "SOL/USD"),
        ("BTC/USDT", "XBTUSDT", "XBTUSDT", "XBT/USDT"),
        ("DOGE/USD", "XDGUSD", "XDGUSD", "XDG/USD"),
        ("ETH/BTC", "XETHXXBT", "ETHXBT", "ETH/XBT"),
    ],
)
def test_pairs_have_krakens_names(symbol: str, pair_id: str, altname: str, wsname: str) -> None:
    assert (Pair(symbol).id, Pair(symbol).altname, Pair(symbol).wsname) == (pair_id, altname, wsname)


@pytest.mark.parametrize("name", ["XXBTZUSD", "XBTUSD", "XBT/USD", "xbtusd", "BTC/USD"])
def test_a_pair_answers_to_each_of_its_names_under_its_id(kraken: krakenex.API, name: str) -> None:
    assert list(result(kraken, "AssetPairs", pair=name)) == ["XXBTZUSD"]
    assert len(ohlc(kraken, pair=name)[0]) == 720


def test_asset_pairs_tell_the_rules_of_the_market(kraken: krakenex.API, emulator: Emulator) -> None:
    pairs = result(kraken, "AssetPairs")
    assert list(pairs) == ["XXBTZUSD", "XETHZUSD", "SOLUSD", "XBTUSDT"]
    assert (pairs["XBTUSDT"]["base"], pairs["XBTUSDT"]["quote"]) == ("XXBT", "USDT")
    for symbol, pair in zip(SYMBOLS, pairs.values(), strict=True):
        assert Decimal(pair["tick_size"]) == emulator.market.rules(symbol).tick_size
        assert pair["pair_decimals"] == emulator.market.price_decimals(symbol)
        assert (pair["lot_decimals"], pair["status"]) == (8, "online")


# --- the whole way, against the truth ---


def test_krakenex_reads_the_truth(kraken: krakenex.API, emulator: Emulator) -> None:
    rows = result(kraken, "OHLC", pair="ETHUSD", interval=5, since=CURRENT - 300 * 289)["XETHZUSD"][:-1]
    truth = emulator.market.truth("ETH/USD", 300, CURRENT - 300 * 288, int(START))
    assert len(truth) == 288
    columns = list(zip(*rows, strict=True))
    assert [opened + 300 for opened in columns[0]] == truth.as_of.tolist()
    for column, name in zip((*columns[1:5], columns[6]), ("open", "high", "low", "close", "volume"), strict=True):
        assert list(map(float, column)) == getattr(truth, name).tolist()
    assert list(columns[7]) == truth.trades.tolist()


def test_ccxt_kraken_reads_the_truth(ccxt_kraken: ccxt.kraken, emulator: Emulator) -> None:
    assert sorted(ccxt_kraken.load_markets()) == sorted(SYMBOLS)
    rows = ccxt_kraken.fetch_ohlcv("BTC/USD", "1h")[:-1]
    truth = emulator.market.truth("BTC/USD", 3600, int(START) - 719 * 3600, int(START))
    assert len(truth) == 719
    assert [row[0] // 1000 + 3600 for row in rows] == truth.as_of.tolist()
    columns = (truth.open, truth.high, truth.low, truth.close, truth.volume)
    assert [row[1:] for row in rows] == np.column_stack(columns).tolist()
    assert ccxt_kraken.fetch_time() == int(START) * 1000
    assert ccxt_kraken.fetch_status()["status"] == "ok"


def test_ccxt_kraken_reads_trades_ticker_and_book(ccxt_kraken: ccxt.kraken, emulator: Emulator) -> None:
    newest = emulator.market.latest_trades("ETH/USD", int(START * NS), 20)
    trades = ccxt_kraken.fetch_trades("ETH/USD", limit=20)
    assert [(t["price"], t["amount"], t["side"]) for t in trades] == [
        (float(t.price), float(t.volume), t.side) for t in newest
    ]
    assert [t["timestamp"] for t in trades] == [t.time_ns // 1_000_000 for t in newest]
    book = ccxt_kraken.fetch_order_book("ETH/USD", limit=10)
    ticker = ccxt_kraken.fetch_ticker("ETH/USD")
    assert ticker["last"] == float(newest[-1].price)
    assert (ticker["bid"], ticker["ask"]) == (book["bids"][0][0], book["asks"][0][0])
    assert ticker["bid"] < ticker["last"] < ticker["ask"]
    day = emulator.market.bars_at("ETH/USD", 60, int(START) - 86_400, START)
    assert ticker["high"] == float(max(bar.high for bar in day))
    assert ticker["baseVolume"] == float(sum(bar.volume for bar in day))


# --- OHLC ---


def test_ohlc_prints_candles_as_kraken_does_and_ends_with_the_uncommitted(
    kraken: krakenex.API, emulator: Emulator
) -> None:
    rows, last = ohlc(kraken)
    bars = emulator.market.bars_at("BTC/USD", 300, CURRENT - 719 * 300, START)
    assert rows == [entry(bar) for bar in bars]
    assert rows[-1][0] == CURRENT
    assert last == CURRENT - 300


@pytest.mark.parametrize("since", [0, CURRENT - 5_000 * 300])
def test_ohlc_serves_the_latest_720_whatever_since_says(kraken: krakenex.API, since: int) -> None:
    rows, _ = ohlc(kraken, since=since)
    assert len(rows) == 720
    assert rows[0][0] == CURRENT - 719 * 300


def test_since_is_exclusive_and_the_uncommitted_candle_is_always_there(kraken: krakenex.API) -> None:
    assert [row[0] for row in ohlc(kraken, since=CURRENT - 600)[0]] == [CURRENT - 300, CURRENT]
    rows, last = ohlc(kraken, since=CURRENT - 300)
    assert ([row[0] for row in rows], last) == ([CURRENT], CURRENT - 300)
    assert ohlc(kraken, since=CURRENT + 900) == (rows, CURRENT + 900)


def test_a_candle_is_committed_when_the_clock_passes_its_close(kraken: krakenex.API, emulator: Emulator) -> None:
    emulator.clock.advance(CURRENT + 300 - START)
    rows, last = ohlc(kraken, since=CURRENT - 300)
    truth = emulator.market.bars("BTC/USD", 300, CURRENT, CURRENT + 300)
    assert rows[0] == entry(truth[0])
    close = rows[0][4]
    assert rows[1] == [CURRENT + 300, close, close, close, close, "0.00", "0.00000000", 0]
    assert last == CURRENT


@pytest.mark.parametrize("interval", [1, 5, 15, 30, 60, 240, 1440, 10080, 21600])
def test_every_interval_of_kraken_is_served(kraken: krakenex.API, interval: int) -> None:
    since = int(START) - 3 * 60 * interval
    opened = [row[0] for row in ohlc(kraken, interval=interval, since=since)[0]]
    assert opened == [int(START) // (60 * interval) * 60 * interval + 60 * interval * i for i in (-2, -1, 0)]


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        ("OHLC", {"pair": "NOPE"}, "EQuery:Unknown asset pair"),
        ("OHLC", {}, "EGeneral:Invalid arguments"),
        ("OHLC", {"pair": "XBTUSD", "interval": 7}, "EGeneral:Invalid arguments"),
        ("OHLC", {"pair": "XBTUSD", "interval": "soon"}, "EGeneral:Invalid arguments"),
        ("OHLC", {"pair": "XBTUSD,ETHUSD"}, "EQuery:Unknown asset pair"),
        ("Trades", {"pair": "XBTUSD", "count": 1001}, "EGeneral:Invalid arguments"),
        ("Depth", {"pair": "XBTUSD", "count": 0}, "EGeneral:Invalid arguments"),
        ("AssetPairs", {"pair": "XBTUSD,NOPE"}, "EQuery:Unknown asset pair"),
        ("Assets", {"asset": "NOPE"}, "EQuery:Unknown asset"),
        ("Horoscope", {}, "EGeneral:Unknown method"),
    ],
)
def test_mistakes_are_told_in_krakens_words(kraken: krakenex.API, method: str, arguments: Any, words: str) -> None:
    assert kraken.query_public(method, arguments, timeout=5) == {"error": [words]}


# --- Trades ---


def test_trades_page_after_page_are_all_trades_once(kraken: krakenex.API, emulator: Emulator) -> None:
    since_s = int(START) - 7_200
    cursor, rows = str(since_s * NS), []
    while True:
        page = result(kraken, "Trades", pair="XBTUSD", since=cursor, count=300)
        rows += page["XXBTZUSD"]
        cursor = page["last"]
        if not page["XXBTZUSD"]:
            break
    truth = emulator.market.trades("BTC/USD", since_s * NS, int(START * NS))
    assert [row[6] for row in rows] == [trade.id for trade in truth]
    assert [(Decimal(row[0]), Decimal(row[1])) for row in rows] == [(t.price, t.volume) for t in truth]
    assert [row[3] for row in rows] == [t.side[0] for t in truth]
    assert [round(row[2] * 1e6) for row in rows] == [t.time_ns // 1000 for t in truth]
    assert cursor == str(truth[-1].time_ns)


def test_the_trades_of_a_candle_add_up_to_what_ohlc_says(kraken: krakenex.API) -> None:
    candle = ohlc(kraken, since=CURRENT - 900)[0][0]
    rows = result(kraken, "Trades", pair="XBTUSD", since=candle[0] * NS - 1)["XXBTZUSD"]
    mine = [row for row in rows if row[2] < candle[0] + 300]
    prices = [Decimal(row[0]) for row in mine]
    ends = [prices[0], max(prices), min(prices), prices[-1]]
    assert [str(price) for price in ends] == candle[1:5]
    assert str(sum(Decimal(row[1]) for row in mine)) == candle[6]
    assert len(mine) == candle[7]


def test_trades_count_at_most_a_thousand_from_since_or_the_newest(kraken: krakenex.API, emulator: Emulator) -> None:
    newest = result(kraken, "Trades", pair="XBTUSD")
    truth = emulator.market.latest_trades("BTC/USD", int(START * NS), 1000)
    assert [row[6] for row in newest["XXBTZUSD"]] == [trade.id for trade in truth]
    in_seconds = result(kraken, "Trades", pair="XBTUSD", since=int(START) - 864_000)
    in_ns = result(kraken, "Trades", pair="XBTUSD", since=(int(START) - 864_000) * NS)
    assert in_seconds == in_ns
    assert len(in_ns["XXBTZUSD"]) == 1000
    assert result(kraken, "Trades", pair="XBTUSD", since=0, count=2)["XXBTZUSD"][0][6] == 1


# --- market-shaped faults: what is served changes, the truth does not ---


def test_a_gap_leaves_out_the_newest_closed_candle_while_it_lasts(kraken: krakenex.API, emulator: Emulator) -> None:
    whole, last = ohlc(kraken)
    emulator.faults.inject(Rule("gap", symbol="BTC/USD", ends=START + 1))
    assert ohlc(kraken) == ([*whole[:-2], whole[-1]], last)
    assert len(result(kraken, "OHLC", pair="ETHUSD", interval=5)["XETHZUSD"]) == 720
    emulator.clock.advance(1)
    assert ohlc(kraken)[0][:-1] == whole[:-1]
    assert emulator.faults.served == {"gap": 1}


def test_a_gap_may_name_its_candle(kraken: krakenex.API, emulator: Emulator) -> None:
    whole, _ = ohlc(kraken)
    emulator.faults.inject(Rule("gap", parameter=CURRENT - 2_000))
    opened = {row[0] for row in whole} - {row[0] for row in ohlc(kraken)[0]}
    assert opened == {CURRENT - 2_100}
    ohlc(kraken, since=CURRENT - 600)  # not among these: nothing is served wrong, nothing is counted
    assert emulator.faults.served == {"gap": 1}


def test_a_revision_shows_a_plausible_wrong_candle_first_and_the_truth_after(
    kraken: krakenex.API, emulator: Emulator
) -> None:
    whole, _ = ohlc(kraken)
    emulator.faults.inject(Rule("revision", times=1))
    wrong, _ = ohlc(kraken)
    assert ohlc(kraken)[0] == whole
    assert [i for i in range(720) if wrong[i] != whole[i]] == [718]
    opened, open_, high, low, close, vwap, volume, count = wrong[718]
    assert [opened, open_, high, low, vwap, count] == [*whole[718][:4], whole[718][5], whole[718][7]]
    assert float(low) <= float(close) <= float(high)
    assert close != whole[718][4]
    assert float(volume) == pytest.approx(0.99 * float(whole[718][6]))


def test_a_spike_is_tenfold_in_high_and_close(kraken: krakenex.API, emulator: Emulator) -> None:
    right = ohlc(kraken)[0][-2]
    emulator.faults.inject(Rule("spike", times=1))
    wrong = ohlc(kraken)[0][-2]
    open_, high, low, close = map(Decimal, right[1:5])
    assert list(map(Decimal, wrong[1:5])) == [open_, high * 10, low, close * 10]
    assert wrong[5:] == right[5:]


def test_duplicates_and_reversed_rows_come_once_each(kraken: krakenex.API, emulator: Emulator) -> None:
    whole, last = ohlc(kraken)
    emulator.faults.inject(Rule("duplicate", times=1, endpoint="OHLC"))
    assert ohlc(kraken) == ([row for row in whole for _ in "ab"], last)
    emulator.faults.inject(Rule("reorder", times=1))
    assert ohlc(kraken) == (whole[::-1], last)
    emulator.faults.inject(Rule("reorder", times=1))
    emulator.faults.inject(Rule("duplicate", times=1))
    rows = result(kraken, "Trades", pair="XBTUSD", count=3)["XXBTZUSD"]
    assert [row[6] - rows[-1][6] for row in rows] == [2, 2, 1, 1, 0, 0]
    assert emulator.faults.served == {"duplicate": 2, "reorder": 2}


def test_the_status_says_maintenance_while_market_data_goes_on(kraken: krakenex.API, emulator: Emulator) -> None:
    assert result(kraken, "SystemStatus") == {"status": "online", "timestamp": "2025-06-15T15:07:10Z"}
    for status in ("cancel_only", "maintenance"):
        emulator.faults.inject(Rule(status, times=1))
        assert result(kraken, "SystemStatus")["status"] == status
        assert len(ohlc(kraken)[0]) == 720
    assert result(kraken, "SystemStatus")["status"] == "online"


def test_a_delisted_pair_vanishes_from_the_list_and_has_no_candles(kraken: krakenex.API, emulator: Emulator) -> None:
    emulator.faults.inject(Rule("delisting", symbol="BTC/USD"))
    assert list(result(kraken, "AssetPairs")) == ["XETHZUSD", "SOLUSD", "XBTUSDT"]
    for method in ("OHLC", "Trades", "Ticker", "Depth"):
        answer = kraken.query_public(method, {"pair": "XBTUSD"}, timeout=5)
        assert answer == {"error": ["EQuery:Unknown asset pair"]}
    emulator.faults.clear()
    assert len(ohlc(kraken)[0]) == 720


@pytest.mark.parametrize(("parameter", "skew"), [(None, 10), (-7.0, -7)])
def test_a_skewed_clock_is_told_by_time_alone(
    kraken: krakenex.API, emulator: Emulator, parameter: float | None, skew: int
) -> None:
    emulator.faults.inject(Rule("clock_skew", parameter=parameter))
    assert result(kraken, "Time")["unixtime"] == int(START) + skew
    assert ohlc(kraken)[0][-1][0] == CURRENT


# --- the rate limit ---


def test_the_public_counter_refuses_a_burst_and_forgets_one_call_a_second() -> None:
    with Emulator(virtual_limits=True) as emulator:
        api = krakenex.API()
        api.uri = emulator.rest_url
        emulator.kraken_limit.per_s, emulator.kraken_limit.burst = 1.0, 3.0

        def is_refused() -> bool:
            return api.query_public("Time", timeout=5)["error"] == ["EAPI:Rate limit exceeded"]

        assert [is_refused() for _ in range(5)] == [False, False, False, True, True]
        emulator.clock.advance(1.0)
        assert [is_refused() for _ in range(2)] == [False, True]
        assert emulator.kraken_limit.refused == 3
        api.close()


def test_a_counter_sustains_exactly_its_rate() -> None:
    time = [0.0]
    counter = LeakyCounter(lambda: time[0], per_s=1.0, burst=15.0)
    admitted = 0
    for _ in range(1000):
        admitted += counter.admit()
        time[0] += 0.1
    assert admitted == 15 + 99
    assert counter.refused == 1000 - admitted


def test_two_emulators_of_one_seed_answer_alike(kraken: krakenex.API, emulator: Emulator) -> None:
    asked = [
        ("OHLC", {"pair": "SOLUSD", "interval": 15}),
        ("Trades", {"pair": "SOLUSD"}),
        ("Depth", {"pair": "SOLUSD"}),
    ]
    first = [kraken.query_public(method, arguments, timeout=5) for method, arguments in asked]
    with Emulator(SYMBOLS) as twin, Emulator(SYMBOLS, seed=8) as other:
        kraken.uri = twin.rest_url
        assert [kraken.query_public(method, arguments, timeout=5) for method, arguments in asked] == first
        kraken.uri = other.rest_url
        assert all(kraken.query_public(m, a, timeout=5) != one for (m, a), one in zip(asked, first, strict=True))
