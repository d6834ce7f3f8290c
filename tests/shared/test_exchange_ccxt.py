"""What is done beside ccxt, whose answers to garbage look like answers; Binance against the emulator."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import ccxt
import pytest

from shared.clock import Timer
from shared.exchanges import ccxt_venue
from shared.exchanges.ccxt_venue import MARKETS_TTL_S, MS, CcxtExchange
from shared.exchanges.protocol import ExchangeError
from shared.exchanges.resilience import CACHE_TTL_S
from tests.exchange_emulator.faults import Rule
from tests.exchange_emulator.server import START, Emulator
from tests.shared.fake_kraken import FakeKraken, serving
from tests.shared.test_resilience import FakeTime

NOW = int(START)
MINUTE, HOUR = 60, 3_600
CLOSE = NOW // MINUTE * MINUTE
BTC = "BTC/USDT"


@pytest.fixture(scope="module")
def emulated() -> Iterator[Emulator]:
    with Emulator((BTC, "ETH/USD")) as emulator:
        yield emulator


@pytest.fixture
def emulator(emulated: Emulator) -> Iterator[Emulator]:
    emulated.requests.clear()
    yield emulated
    emulated.faults.clear()


@pytest.fixture
def fake() -> FakeTime:
    return FakeTime()


@pytest.fixture
def binance(emulator: Emulator, fake: FakeTime) -> CcxtExchange:
    return CcxtExchange("binance", emulator.binance_url, timer=fake.timer())


def ask(binance: CcxtExchange) -> Any:
    return binance.candles(BTC, MINUTE, CLOSE - HOUR, CLOSE)


# --- troubles ---


@pytest.mark.parametrize(
    ("rule", "kind", "said"),
    [
        (Rule("error"), "server_error", "-1001"),
        (Rule("error", parameter="-1003 Too many requests."), "rate_limited", "-1003"),
        (Rule("error", parameter="-1121 Invalid symbol."), "venue_error", "Invalid symbol"),
        (Rule("error", parameter="-1100 Illegal characters."), "venue_error", "Illegal characters"),
        (Rule("http_5xx", parameter=500), "server_error", "500"),
        (Rule("http_5xx", parameter=504), "timeout", "504"),
        (Rule("html"), "not_json", "Just a moment"),
        (Rule("null_result"), "no_result", "null"),
        (Rule("reset"), "transport", "Connection"),
    ],
    ids=lambda value: f"{value.fault} {value.parameter}" if isinstance(value, Rule) else str(value),
)
def test_each_trouble_has_its_kind_whatever_ccxts_class(
    binance: CcxtExchange, emulator: Emulator, rule: Rule, kind: str, said: str
) -> None:
    ask(binance)
    emulator.faults.inject(replace(rule, endpoint="klines"))
    emulator.requests.clear()
    with pytest.raises(ExchangeError, match=said) as refused:
        ask(binance)
    assert refused.value.kind == kind
    assert emulator.requests["klines"] == (1 if kind == "venue_error" else 4)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "venue_error"), (401, "venue_error"), (403, "venue_error"), (404, "venue_error"), (451, "venue_error"),
     (408, "timeout"), (418, "rate_limited"), (500, "server_error"), (525, "server_error")],
)  # fmt: skip
def test_a_page_that_only_has_a_status_is_judged_by_it(fake: FakeTime, status: int, kind: str) -> None:
    server = FakeKraken()
    server.fail(*[(status, b"<html>no</html>")] * 4)
    with serving(server) as url, pytest.raises(ExchangeError, match=r"binance time: ") as refused:
        CcxtExchange("binance", url, timer=fake.timer()).server_time()
    assert refused.value.kind == kind
    assert len(server.asked) == (1 if kind == "venue_error" else 4)


def test_a_venue_that_hangs_is_a_timeout(emulator: Emulator, fake: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ccxt_venue, "TIMEOUT_MS", 100)
    emulator.faults.inject(Rule("hang"))
    with pytest.raises(ExchangeError) as refused:
        CcxtExchange("binance", emulator.binance_url, timer=fake.timer()).server_time()
    assert refused.value.kind == "timeout"


def test_a_429_is_waited_for_as_long_as_it_says(binance: CcxtExchange, emulator: Emulator, fake: FakeTime) -> None:
    ask(binance)
    before = fake.now
    emulator.faults.inject(Rule("http_429", parameter=21, times=1))
    ask(binance)
    assert fake.now - before >= 21
    assert binance.calls.statistics()["rate_limited"] == 1


@pytest.mark.parametrize(
    "row",
    [
        [CLOSE * MS - 60_000, 1.0, 1.0, 1.0, 1.0, None],
        [CLOSE * MS - 60_000, 1.0, 1.0, 1.0, float("nan"), 1.0],
        [CLOSE * MS - 60_000, 1.0, 1.0, 1.0, 1.0],
        [CLOSE * MS - 59_000, 1.0, 1.0, 1.0, 1.0, 1.0],
        [None, 1.0, 1.0, 1.0, 1.0, 1.0],
        None,
    ],
)
def test_rows_that_are_no_candles_are_malformed(binance: CcxtExchange, row: Any) -> None:
    binance._client().fetch_ohlcv = lambda *_args, **_more: [row]
    with pytest.raises(ExchangeError, match="malformed") as refused:
        ask(binance)
    assert refused.value.kind == "malformed"


def test_no_spot_market_at_all_is_no_result_and_not_remembered(binance: CcxtExchange, emulator: Emulator) -> None:
    rules = [emulator.faults.inject(Rule("delisting", symbol=symbol)) for symbol in (BTC, "ETH/USD")]
    with pytest.raises(ExchangeError, match="no spot market") as refused:
        binance.resolve(BTC)
    assert refused.value.kind == "no_result"
    assert rules
    emulator.faults.clear()
    assert binance.resolve(BTC) == BTC


# --- markets ---


def test_threads_share_one_reading_of_the_markets(binance: CcxtExchange, emulator: Emulator) -> None:
    with ThreadPoolExecutor(6) as pool:
        counts = list(pool.map(lambda _n: len(ask(binance)), range(12)))
    assert counts == [60] * 12
    assert emulator.requests["exchangeInfo"] == 1


def test_a_delisting_is_noticed_within_the_hour(binance: CcxtExchange, emulator: Emulator, fake: FakeTime) -> None:
    assert binance.resolve(BTC) == BTC
    emulator.faults.inject(Rule("delisting", symbol=BTC))
    assert binance.resolve(BTC) == BTC
    fake.now += MARKETS_TTL_S
    with pytest.raises(ExchangeError, match="tried BTC/USDT, BTC/USD"):
        binance.resolve(BTC)


def test_the_sign_of_life_is_the_clock_and_not_the_whole_list_of_markets(
    binance: CcxtExchange, emulator: Emulator, fake: FakeTime
) -> None:
    for _ in range(30):
        assert binance.status() == "online"
        fake.now += 60
    assert (emulator.requests["exchangeInfo"], emulator.requests["time"]) == (1, 30)
    emulator.faults.inject(Rule("html", endpoint="time"))
    with pytest.raises(ExchangeError) as refused:
        binance.status()
    assert refused.value.kind == "not_json"


def test_maintenance_is_noticed_within_the_hour_and_its_end_at_once(
    binance: CcxtExchange, emulator: Emulator, fake: FakeTime
) -> None:
    assert binance.status() == "online"
    emulator.faults.inject(Rule("maintenance"))
    fake.now += MARKETS_TTL_S
    assert binance.status() == "maintenance"
    emulator.faults.clear()
    fake.now += CACHE_TTL_S
    assert binance.status() == "online"


def test_a_market_that_does_not_trade_is_not_resolved(binance: CcxtExchange, emulator: Emulator) -> None:
    emulator.faults.inject(Rule("maintenance"))
    with pytest.raises(ExchangeError, match="trades no"):
        binance.resolve(BTC)


def test_only_spot_is_a_market_here() -> None:
    names = {"base": "BTC", "quote": "USDT"}
    assert ccxt_venue._is_spot({"spot": True, "symbol": BTC} | names)
    assert not ccxt_venue._is_spot({"spot": False, "symbol": BTC} | names)
    assert not ccxt_venue._is_spot({"spot": True, "symbol": "BTC/USDT:USDT"} | names)
    assert not ccxt_venue._is_spot(None)


@pytest.mark.parametrize(
    ("mode", "precision", "step"),
    [
        (ccxt.TICK_SIZE, 1e-08, "0.00000001"),
        (ccxt.TICK_SIZE, 0.1, "0.1"),
        (ccxt.TICK_SIZE, 0.07, "0.07"),
        (ccxt.TICK_SIZE, 5.0, "5"),
        (ccxt.DECIMAL_PLACES, 8, "0.00000001"),
        (ccxt.DECIMAL_PLACES, 0, "1"),
        (ccxt.DECIMAL_PLACES, -1, "10"),
    ],
)
def test_a_step_is_exact_however_the_venue_counts(mode: int, precision: float, step: str) -> None:
    market = {
        "precision": {"price": precision, "amount": precision},
        "limits": {"cost": {"min": 0.1}, "amount": {"min": 1e-05}},
    }
    rules = ccxt_venue._rules(market, mode)
    assert rules.min_quantity == Decimal("0.00001")
    assert rules.tick_size == rules.lot_size == Decimal(step)
    assert rules.min_notional == Decimal("0.1")


@pytest.mark.parametrize(
    ("mode", "precision"), [(ccxt.SIGNIFICANT_DIGITS, 5), (ccxt.TICK_SIZE, None), (ccxt.TICK_SIZE, 0.0)]
)
def test_a_step_that_is_none_is_refused(binance: CcxtExchange, mode: int, precision: Any) -> None:
    market = {
        "spot": True,
        "symbol": BTC,
        "base": "BTC",
        "quote": "USDT",
        "precision": {"price": precision, "amount": 1},
    }
    binance._source = lambda: SimpleNamespace(markets={BTC: market}, precisionMode=mode)
    with pytest.raises(ExchangeError, match="no rules") as refused:
        binance.rules(BTC)
    assert refused.value.kind == "malformed"


@pytest.mark.parametrize(("price", "amount"), [(1e-9, 0.1), (0.1, 1e-10), (1.5e-8, 0.1)])
def test_a_step_finer_than_the_database_holds_is_refused(binance: CcxtExchange, price: float, amount: float) -> None:
    market = {"spot": True, "symbol": BTC, "base": "BTC", "quote": "USDT"}
    market["precision"] = {"price": price, "amount": amount}
    binance._source = lambda: SimpleNamespace(markets={BTC: market}, precisionMode=ccxt.TICK_SIZE)
    with pytest.raises(ExchangeError, match="finer than 1e-8, which this version cannot store") as refused:
        binance.rules(BTC)
    assert refused.value.kind == "refused"


def test_a_venue_that_names_no_least_cost_has_none() -> None:
    rules = ccxt_venue._rules({"precision": {"price": 1, "amount": 1}}, ccxt.TICK_SIZE)
    assert (rules.min_notional, rules.min_quantity, rules.status) == (0, 0, "online")


def test_a_market_that_is_not_active_takes_no_orders() -> None:
    market: dict[str, Any] = {"precision": {"price": 1, "amount": 1}}
    told = [ccxt_venue._rules(market | {"active": active}, ccxt.TICK_SIZE).status for active in (True, None, False)]
    assert told == ["online", "online", "cancel_only"]


# --- addresses and manners ---


@pytest.mark.parametrize("venue_id", ["binance", "bitget", "coinbase", "kucoin", "bitstamp"])
def test_no_address_of_the_venue_is_left_where_another_is_given(venue_id: str) -> None:
    def leaves(tree: Any) -> Iterator[str]:
        for value in tree.values() if isinstance(tree, dict) else [tree]:
            yield from leaves(value) if isinstance(value, dict) else [value]

    client = CcxtExchange(venue_id, "http://127.0.0.1:9/proxy/")._client()
    addresses = list(leaves(client.urls["api"]))
    assert addresses
    assert all(address.startswith("http://127.0.0.1:9/proxy") for address in addresses)
    if venue_id == "binance":
        assert client.urls["api"]["public"] == "http://127.0.0.1:9/proxy/api/v3"


def test_ccxt_itself_neither_waits_nor_repeats_nor_logs_requests(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("ccxt").setLevel(logging.NOTSET)
    client = CcxtExchange("binance")._client()
    assert not client.enableRateLimit
    assert client.maxRetriesOnFailure == 0
    assert client.apiKey in (None, "")
    assert not client.logger.isEnabledFor(logging.DEBUG)


def test_what_it_says_it_can_comes_from_ccxts_description() -> None:
    can = {name: CcxtExchange(name).capabilities for name in ("binance", "bitget", "coinbase", "kucoin")}
    assert {name: c.candle_page for name, c in can.items()} == {
        "binance": 1_000, "bitget": 200, "coinbase": 300, "kucoin": 1_500,
    }  # fmt: skip
    assert [name for name, c in can.items() if c.oco] == ["binance", "kucoin"]
    assert [name for name, c in can.items() if c.sandbox] == ["binance", "bitget"]
    assert all(60 <= s <= 86_400 and 86_400 % s == 0 for c in can.values() for s in c.timeframes_s)
    assert all(c.requests_per_s == 10.0 and not c.streams_candles for c in can.values())


def test_the_limit_holds_for_all_threads_of_one_object(emulator: Emulator) -> None:
    binance = CcxtExchange("binance", emulator.binance_url, timer=Timer(), requests_per_s=40.0)
    binance.resolve(BTC)
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _n: binance.server_time(), range(20)))
    assert time.monotonic() - started >= 19 / 40.0
