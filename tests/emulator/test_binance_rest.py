"""Binance's spot REST as unmodified ccxt uses it, against the emulator's own truth."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import ccxt
import numpy as np
import pytest
import requests

from tests.emulator.conftest import SYMBOLS
from tests.exchange_emulator.faults import Rule
from tests.exchange_emulator.market import NS
from tests.exchange_emulator.server import START, Emulator

CURRENT = int(START) // 300 * 300


@pytest.fixture
def binance(emulator: Emulator) -> ccxt.binance:
    venue = ccxt.binance(
        {
            "timeout": 5000,
            "enableRateLimit": False,
            "options": {"fetchCurrencies": False, "fetchMarkets": {"types": ["spot"]}},
        }
    )
    venue.urls["api"]["public"] = emulator.binance_url + "/api/v3"
    venue.load_markets()
    return venue


def ask(emulator: Emulator, endpoint: str, **arguments: Any) -> requests.Response:
    return requests.get(f"{emulator.binance_url}/api/v3/{endpoint}", params=arguments, timeout=5)


def klines(emulator: Emulator, **arguments: Any) -> list[list[Any]]:
    rows = ask(emulator, "klines", **{"symbol": "BTCUSD", "interval": "5m"} | arguments).json()
    assert isinstance(rows, list), rows
    return rows


def opened(rows: list[list[Any]]) -> list[int]:
    """In candles before the current one."""
    return [(row[0] // 1000 - CURRENT) // 300 for row in rows]


def test_ccxt_binance_lists_the_market_with_its_rules(binance: ccxt.binance, emulator: Emulator) -> None:
    assert sorted(binance.markets) == sorted(SYMBOLS)
    market, rules = binance.market("SOL/USD"), emulator.market.rules("SOL/USD")
    assert (market["id"], market["active"], market["spot"]) == ("SOLUSD", True, True)
    assert market["precision"]["price"] == float(rules.tick_size)
    assert market["precision"]["amount"] == float(rules.lot_size)
    assert market["limits"]["cost"]["min"] == float(rules.min_notional)


def test_ccxt_binance_reads_the_truth(binance: ccxt.binance, emulator: Emulator) -> None:
    since = int(START) - 86_400
    rows = binance.fetch_ohlcv("ETH/USD", "5m", since=since * 1000, limit=1000)[:-1]
    truth = emulator.market.truth("ETH/USD", 300, since + 300, int(START))
    assert len(truth) == 287
    assert [row[0] // 1000 + 300 for row in rows] == truth.as_of.tolist()
    columns = (truth.open, truth.high, truth.low, truth.close, truth.volume)
    assert [row[1:] for row in rows] == np.column_stack(columns).tolist()
    assert binance.fetch_time() == START * 1000


def test_ccxt_binance_reads_trades_ticker_and_book(binance: ccxt.binance, emulator: Emulator) -> None:
    newest = emulator.market.latest_trades("BTC/USD", int(START * NS), 20)
    expected = [(str(t.id), float(t.price), float(t.volume), t.side, t.time_ns // 1_000_000) for t in newest]
    for method in ("publicGetAggTrades", "publicGetTrades"):
        trades = binance.fetch_trades("BTC/USD", limit=20, params={"fetchTradesMethod": method})
        assert [(t["id"], t["price"], t["amount"], t["side"], t["timestamp"]) for t in trades] == expected
    book, ticker = binance.fetch_order_book("BTC/USD", limit=10), binance.fetch_ticker("BTC/USD")
    assert (ticker["bid"], ticker["ask"]) == (book["bids"][0][0], book["asks"][0][0])
    assert ticker["last"] == float(newest[-1].price)
    day = emulator.market.bars_at("BTC/USD", 60, int(START) - 86_400, START)
    assert ticker["baseVolume"] == float(sum(bar.volume for bar in day))
    assert ticker["info"]["count"] == sum(bar.count for bar in day)
    assert ticker["info"]["firstId"] == ticker["info"]["lastId"] - ticker["info"]["count"] + 1
    assert sorted(binance.fetch_tickers()) == sorted(SYMBOLS)
    assert binance.fetch_bids_asks(["BTC/USD"])["BTC/USD"]["bid"] == ticker["bid"]


def test_a_kline_has_twelve_figures_and_ends_a_millisecond_before_the_next(emulator: Emulator) -> None:
    row = klines(emulator, limit=2)[0]
    (bar,) = emulator.market.bars("BTC/USD", 300, CURRENT - 300, CURRENT)
    prices = [f"{price:.8f}" for price in (bar.open, bar.high, bar.low, bar.close, bar.volume)]
    assert row[:9] == [bar.opened * 1000, *prices, CURRENT * 1000 - 1, f"{bar.notional:.8f}", bar.count]
    assert len(row) == 12


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ({"limit": 3}, [-2, -1, 0]),
        ({"startTime": (CURRENT - 600) * 1000}, [-2, -1, 0]),
        ({"startTime": (CURRENT - 600) * 1000 + 1}, [-1, 0]),
        ({"startTime": (CURRENT - 600) * 1000, "limit": 2}, [-2, -1]),
        ({"startTime": (CURRENT - 900) * 1000, "endTime": (CURRENT - 300) * 1000}, [-3, -2, -1]),
        ({"startTime": (CURRENT - 900) * 1000, "endTime": (CURRENT - 300) * 1000 - 1}, [-3, -2]),
        ({"endTime": (CURRENT - 300) * 1000, "limit": 2}, [-2, -1]),
        ({"startTime": (CURRENT + 300) * 1000}, []),
        ({"startTime": (CURRENT - 300) * 1000, "endTime": (CURRENT - 600) * 1000}, []),
    ],
)
def test_klines_are_those_opened_within_the_window(emulator: Emulator, window: dict, expected: list[int]) -> None:
    assert opened(klines(emulator, **window)) == expected


def test_at_the_moment_of_a_close_the_window_still_ends_where_it_says(emulator: Emulator) -> None:
    emulator.clock.advance(CURRENT + 300 - START)
    assert opened(klines(emulator, startTime=(CURRENT - 300) * 1000, endTime=CURRENT * 1000)) == [-1, 0]
    assert opened(klines(emulator, startTime=(CURRENT - 300) * 1000)) == [-1, 0, 1]


def test_klines_come_five_hundred_at_a_time_and_a_thousand_at_most(emulator: Emulator) -> None:
    assert len(klines(emulator)) == 500
    assert len(klines(emulator, limit=5000)) == 1000
    first = klines(emulator, startTime=0, limit=2)
    assert [row[0] for row in first] == [1_577_836_800_000, 1_577_837_100_000]  # where the market begins


def test_agg_trades_go_on_from_an_id_and_within_a_window(emulator: Emulator) -> None:
    first, *_ = page = ask(emulator, "aggTrades", symbol="BTCUSD", startTime=(CURRENT - 900) * 1000, limit=400).json()
    truth = emulator.market.trades("BTC/USD", (CURRENT - 900) * NS, int(START * NS))
    assert [row["a"] for row in page] == [trade.id for trade in truth]
    assert [(Decimal(row["p"]), Decimal(row["q"])) for row in page] == [(t.price, t.volume) for t in truth]
    again = ask(emulator, "aggTrades", symbol="BTCUSD", fromId=first["a"] + 5, limit=10).json()
    assert again == page[5:15]
    window = {"startTime": page[3]["T"], "endTime": page[7]["T"]}
    assert ask(emulator, "aggTrades", symbol="BTCUSD", **window).json() == page[3:8]
    assert ask(emulator, "aggTrades", symbol="BTCUSD", fromId=10**9).json() == []
    assert ask(emulator, "aggTrades", symbol="BTCUSD", endTime=page[7]["T"], limit=3).json() == page[5:8]


def test_the_edges_of_a_window_of_trades_are_within_it(emulator: Emulator) -> None:
    today = emulator.market.trades("BTC/USD", (CURRENT - 86_400) * NS, CURRENT * NS)
    trade = next(trade for trade in today if trade.time_ns % 1_000_000 == 0)
    at_ms = trade.time_ns // 1_000_000
    (row,) = ask(emulator, "aggTrades", symbol="BTCUSD", startTime=at_ms, endTime=at_ms).json()
    assert row["a"] == trade.id


@pytest.mark.parametrize(
    ("endpoint", "arguments", "code"),
    [
        ("klines", {"symbol": "NOPE", "interval": "5m"}, -1121),
        ("klines", {"symbol": "BTCUSD", "interval": "7m"}, -1120),
        ("klines", {"interval": "5m"}, -1102),
        ("klines", {"symbol": "BTCUSD", "interval": "5m", "startTime": "soon"}, -1100),
        ("exchangeInfo", {"symbols": '["BTCUSD","NOPE"]'}, -1121),
        ("exchangeInfo", {"symbols": "BTCUSD"}, -1100),
    ],
)
def test_mistakes_are_told_with_binances_codes(emulator: Emulator, endpoint: str, arguments: dict, code: int) -> None:
    answer = ask(emulator, endpoint, **arguments)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


def test_an_unknown_path_is_not_found_and_ping_is_empty(emulator: Emulator) -> None:
    assert ask(emulator, "horoscope").status_code == 404
    assert ask(emulator, "ping").json() == {}


def test_market_shaped_faults_reach_klines(emulator: Emulator) -> None:
    whole = klines(emulator, limit=4)
    for fault in ("gap", "revision", "spike", "duplicate", "reorder"):
        emulator.faults.inject(Rule(fault, times=1))
        emulator.faults.inject(Rule("hang", symbol="ETH/USD"))  # of no concern here
        wrong = klines(emulator, limit=4)
        changed = {
            "gap": wrong == [*whole[:2], whole[3]],
            "revision": wrong[:2] + wrong[3:] == whole[:2] + whole[3:] and wrong[2] != whole[2],
            "spike": Decimal(wrong[2][4]) == 10 * Decimal(whole[2][4]),
            "duplicate": wrong == [row for row in whole for _ in "ab"],
            "reorder": wrong == whole[::-1],
        }
        assert changed[fault], fault
        assert klines(emulator, limit=4) == whole


def test_delisting_maintenance_and_a_skewed_clock_show(binance: ccxt.binance, emulator: Emulator) -> None:
    emulator.faults.inject(Rule("delisting", symbol="BTC/USD"))
    emulator.faults.inject(Rule("maintenance"))
    emulator.faults.inject(Rule("clock_skew", parameter=-2.5))
    markets = binance.load_markets(True)
    assert "BTC/USD" not in markets
    assert not markets["ETH/USD"]["active"]
    assert ask(emulator, "klines", symbol="BTCUSD", interval="5m").json() == {"code": -1121, "msg": "Invalid symbol."}
    assert binance.fetch_time() == (START - 2.5) * 1000


def test_an_error_may_carry_its_own_code(emulator: Emulator) -> None:
    for words in ("-1003 Way too many requests.", "Out of order.", None):
        emulator.faults.inject(Rule("error", times=1, parameter=words))
    answers = [ask(emulator, "time").json() for _ in range(3)]
    assert answers[0] == {"code": -1003, "msg": "Way too many requests."}
    assert answers[1] == {"code": -1000, "msg": "Out of order."}
    assert answers[2]["code"] == -1001


def test_weights_add_up_within_a_minute_and_too_many_are_refused() -> None:
    with Emulator(virtual_limits=True) as emulator:
        emulator.binance_limit.limit = 5
        answers = [ask(emulator, endpoint) for endpoint in ("time", "ticker/24hr")]
        assert [answer.headers["X-MBX-USED-WEIGHT-1M"] for answer in answers] == ["1", "3"]
        assert len(klines(emulator, limit=1)) == 1
        refused = ask(emulator, "time")
        assert (refused.status_code, refused.json()["code"]) == (429, -1003)
        assert int(refused.headers["Retry-After"]) == 60 - int(START) % 60
        emulator.clock.advance(int(refused.headers["Retry-After"]))
        assert ask(emulator, "time").status_code == 200
        assert emulator.binance_limit.refused == 1
