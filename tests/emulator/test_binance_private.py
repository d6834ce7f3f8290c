"""Binance's account on the emulator: through unmodified ccxt, and to the letter of its documentation."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import ccxt
import pytest
import requests

from tests.exchange_emulator.faults import Rule
from tests.exchange_emulator.market import NS
from tests.exchange_emulator.records import Request
from tests.exchange_emulator.server import START, Emulator

KEY, SECRET = "binance-key", "binance-secret"
Ask = Callable[..., Any]
DAY_MS = 86_400_000


@pytest.fixture
def account(emulator: Emulator) -> Emulator:
    accounts = emulator.engine.accounts
    accounts.open("me", "binance")
    accounts.add_key("me", KEY, SECRET)
    accounts.deposit("me", "USDT", Decimal(500_000))
    accounts.deposit("me", "BTC", Decimal(2))
    return emulator


@pytest.fixture
def ask(account: Emulator) -> Ask:
    """``ask("GET order", orderId=1)``: signed, unless told otherwise, by KEY at the venue's own time."""

    def signed(name: str, key: str = KEY, secret: str = SECRET, in_body: bool = False, **arguments: Any) -> Any:
        method, _, endpoint = name.partition(" ")
        prefix = "" if endpoint.startswith("/") else "/api/v3/"
        asked = {"symbol": "BTCUSDT", "timestamp": account.engine.now_ns() // 1_000_000} | arguments
        payload = urlencode({name: value for name, value in asked.items() if value is not None})
        signature = hmac.new(secret.encode(), payload.encode(), hashlib.sha256).hexdigest()
        url, sent = account.binance_url + prefix + endpoint, f"{payload}&signature={signature}"
        form = {"Content-Type": "application/x-www-form-urlencoded"} if in_body else {}
        return requests.request(
            method,
            url if in_body else f"{url}?{sent}",
            data=sent if in_body else None,
            headers={"X-MBX-APIKEY": key, **form},
            timeout=5,
        )

    return signed


@pytest.fixture
def binance(account: Emulator) -> ccxt.binance:
    """ccxt as it comes; its addresses and its clock are set, as its manual says."""
    venue = ccxt.binance(
        {
            "apiKey": KEY,
            "secret": SECRET,
            "enableRateLimit": False,
            "timeout": 5000,
            "options": {"fetchCurrencies": False, "fetchMargins": False, "fetchMarkets": {"types": ["spot"]}},
        }
    )
    for name, path in (("public", "/api/v3"), ("private", "/api/v3"), ("sapi", "/sapi/v1")):
        venue.urls["api"][name] = account.binance_url + path
    venue.milliseconds = lambda: int(account.clock.now() * 1000)
    venue.load_markets()
    return venue


def price(emulator: Emulator, factor: str = "1") -> Decimal:
    """Near the last one, on the tick."""
    last = emulator.market.last_price("BTC/USDT", emulator.clock.now())
    tick = emulator.market.rules("BTC/USDT").tick_size
    return (last * Decimal(factor)) // tick * tick


LIMIT = {"side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.1"}


def code(answer: requests.Response) -> tuple[int, int]:
    return answer.status_code, answer.json()["code"]


# --- through ccxt ---


def test_ccxt_buys_at_the_market_and_reads_what_it_cost(binance: ccxt.binance, account: Emulator) -> None:
    order = binance.create_order("BTC/USDT", "market", "buy", 0.5, params={"clientOrderId": "mine-1"})
    assert (order["status"], order["clientOrderId"], order["filled"]) == ("closed", "mine-1", 0.5)
    trades = binance.fetch_my_trades("BTC/USDT")
    fills = account.engine.view("me").fills
    assert [(t["id"], t["amount"], t["cost"]) for t in trades] == [
        (str(fill.number), float(fill.quantity), float(fill.cost)) for fill in fills
    ]
    assert {trade["fee"]["currency"] for trade in trades} == {"BTC"}
    fee, cost = (sum(getattr(fill, name) for fill in fills) for name in ("fee", "cost"))
    assert fee == Decimal("0.0005")
    balance = binance.fetch_balance()
    assert balance["total"]["BTC"] == float(Decimal("2.5") - fee)
    assert balance["total"]["USDT"] == float(500_000 - cost)
    assert binance.fetch_order(order["id"], "BTC/USDT")["cost"] == float(cost)


def test_ccxt_rests_lists_and_cancels(binance: ccxt.binance, account: Emulator) -> None:
    low, high = float(price(account, "0.9")), float(price(account, "1.1"))
    resting = binance.create_order("BTC/USDT", "limit", "buy", 0.1, low)
    maker = binance.create_order("BTC/USDT", "limit", "sell", 0.1, high, {"postOnly": True})
    stop = binance.create_order("BTC/USDT", "market", "sell", 0.2, None, {"stopLossPrice": low})
    trailing = binance.create_order(
        "BTC/USDT", "market", "sell", 0.2, None, {"trailingPercent": 5, "stopLossOrTakeProfit": "stopLoss"}
    )
    listed = {order["id"]: order["info"]["type"] for order in binance.fetch_open_orders("BTC/USDT")}
    assert listed == {
        resting["id"]: "LIMIT", maker["id"]: "LIMIT_MAKER", stop["id"]: "STOP_LOSS", trailing["id"]: "STOP_LOSS"
    }  # fmt: skip
    assert binance.fetch_balance()["used"]["BTC"] == 0.5
    assert binance.cancel_order(stop["id"], "BTC/USDT")["status"] == "canceled"
    with pytest.raises(ccxt.OrderNotFound):
        binance.cancel_order(stop["id"], "BTC/USDT")
    with pytest.raises(ccxt.OrderNotFound):
        binance.fetch_order("999", "BTC/USDT")
    assert len(binance.cancel_all_orders("BTC/USDT")) == 3
    assert {order["status"] for order in binance.fetch_orders("BTC/USDT")} == {"canceled"}
    assert binance.fetch_balance()["used"]["BTC"] == 0


def test_ccxt_reads_deposits_and_withdrawals(binance: ccxt.binance, account: Emulator) -> None:
    account.engine.accounts.withdraw("me", "USDT", Decimal("100.5"), Decimal("0.8"))
    account.clock.advance(60)
    since = int(START * 1000) - 1
    deposits = binance.fetch_deposits(None, since, None, {"fiat": False})
    assert {(row["currency"], row["amount"], row["status"]) for row in deposits} == {
        ("USDT", 500_000.0, "ok"), ("BTC", 2.0, "ok")
    }  # fmt: skip
    (withdrawal,) = binance.fetch_withdrawals(None, since, None, {"fiat": False})
    assert (withdrawal["amount"], withdrawal["fee"]["cost"], withdrawal["status"]) == (100.5, 0.8, "ok")
    assert withdrawal["timestamp"] == int(START) * 1000
    assert not binance.fetch_deposits(None, since + 10_000, None, {"fiat": False})


# --- who asks ---


def test_a_signature_is_over_the_query_and_the_body(ask: Ask) -> None:
    assert ask("POST order/test", **LIMIT, price="50000").json() == {}
    assert ask("POST order/test", in_body=True, **LIMIT, price="50000").json() == {}
    assert code(ask("GET account", secret="guessed")) == (400, -1022)


def test_strangers_are_told_so(ask: Ask, account: Emulator) -> None:
    accounts = account.engine.accounts
    assert code(ask("GET account", key="nobody")) == (401, -2015)
    assert code(ask("GET account", key="")) == (401, -2014)
    accounts.open("kraken's", "kraken")
    accounts.add_key("kraken's", "elsewhere", SECRET)
    assert code(ask("GET account", key="elsewhere")) == (401, -2015)
    accounts.change_key(KEY, ips=("10.0.0.1",))
    assert code(ask("GET account")) == (401, -2015)
    accounts.change_key(KEY, ips=(), rights=frozenset({"read"}))
    assert ask("GET account").status_code == 200
    assert code(ask("POST order", **LIMIT, price="50000")) == (401, -2015)
    assert code(ask("DELETE order", orderId=1)) == (401, -2015)


@pytest.mark.parametrize(
    ("late_ms", "window_ms", "refused"),
    [(0, None, False), (5_000, None, False), (5_001, None, True), (-999, None, False), (-1_000, None, True),
     (50, 49, True), (50, 50, False), (59_000, 60_000, False)],
)  # fmt: skip
def test_a_request_is_good_for_its_window(
    ask: Ask, account: Emulator, late_ms: int, window_ms: int | None, refused: bool
) -> None:
    stamp = int(START * 1000) - late_ms
    answer = ask("GET account", timestamp=stamp, recvWindow=window_ms)
    assert (code(answer) == (400, -1021)) if refused else answer.status_code == 200


def test_a_time_and_a_window_must_be_sane(ask: Ask, account: Emulator) -> None:
    assert code(ask("GET account", recvWindow=60_001)) == (400, -1131)
    assert code(ask("GET account", timestamp=None)) == (400, -1102)
    assert code(requests.get(account.binance_url + "/api/v3/account", headers={"X-MBX-APIKEY": KEY}, timeout=5)) == (
        400, -1102
    )  # fmt: skip
    account.faults.inject(Rule("clock_skew", parameter=7.0))
    assert code(ask("GET account")) == (400, -1021)


def test_a_keys_rights_are_told(ask: Ask, account: Emulator) -> None:
    account.engine.accounts.change_key(KEY, rights=frozenset({"read", "withdraw"}), ips=("127.0.0.1",))
    told = ask("GET /sapi/v1/account/apiRestrictions").json()
    assert (told["enableWithdrawals"], told["enableSpotAndMarginTrading"], told["ipRestrict"]) == (True, False, True)
    assert ask("POST /sapi/v1/capital/withdraw/apply").status_code == 404


# --- what is refused ---

REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"symbol": None}, -1102, "'symbol'"),
    ({"symbol": "NOPE"}, -1121, "Invalid symbol"),
    ({"side": None}, -1102, "'side'"),
    ({"side": "HOLD"}, -1117, "side"),
    ({"type": None}, -1102, "'type'"),
    ({"type": "WISH"}, -1116, "orderType"),
    ({"quantity": None}, -1102, "'quantity'"),
    ({"quantity": "1e-1"}, -1100, "'quantity'"),
    ({"quantity": "0.123456789"}, -1013, "LOT_SIZE"),
    ({"quantity": "0.00001"}, -1013, "NOTIONAL"),
    ({"price": None}, -1102, "'price'"),
    ({"price": "50000.00001"}, -1013, "PRICE_FILTER"),
    ({"timeInForce": None}, -1102, "'timeInForce'"),
    ({"timeInForce": "GTX"}, -1115, "timeInForce"),
    ({"type": "LIMIT_MAKER"}, -1106, "'timeInForce'"),
    ({"type": "MARKET", "timeInForce": None}, -1106, "'price'"),
    ({"stopPrice": "50000"}, -1106, "'stopPrice'"),
    ({"quantity": "100"}, -2010, "insufficient balance"),
    ({"type": "STOP_LOSS", "price": None, "timeInForce": None}, -1102, "'stopPrice'"),
    ({"type": "STOP_LOSS", "price": None, "timeInForce": None, "stopPrice": "1000"}, -2010, "trigger immediately"),
    ({"type": "STOP_LOSS", "price": None, "timeInForce": None, "trailingDelta": "9"}, -1013, "TRAILING_DELTA"),
    ({"newOrderRespType": "LONG"}, -1100, "'newOrderRespType'"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected", "words"), REFUSED)
def test_wrong_orders_are_refused_with_binances_codes(
    ask: Ask, account: Emulator, changes: dict[str, Any], expected: int, words: str
) -> None:
    answer = ask("POST order", **LIMIT | {"price": str(price(account, "0.9"))} | changes)
    assert code(answer) == (400, expected)
    assert words in answer.json()["msg"]
    if expected != -1100:
        assert not account.engine.view("me").orders


def test_a_client_id_is_free_again_once_its_order_has_ended(ask: Ask, account: Emulator) -> None:
    resting = LIMIT | {"price": str(price(account, "0.9")), "newClientOrderId": "mine"}
    first = ask("POST order", **resting).json()["orderId"]
    twice = ask("POST order", **resting)
    assert (code(twice), twice.json()["msg"]) == ((400, -2010), "Duplicate order sent.")
    assert ask("DELETE order", origClientOrderId="mine").json()["origClientOrderId"] == "mine"
    second = ask("POST order", **resting).json()["orderId"]
    assert ask("GET order", origClientOrderId="mine").json()["orderId"] == second > first
    assert ask("GET order", orderId=first).json()["status"] == "CANCELED"
    assert code(ask("GET order", origClientOrderId="other")) == (400, -2013)
    assert code(ask("GET order", symbol="ETHUSD", orderId=first)) == (400, -2013)
    assert code(ask("GET order")) == (400, -1102)


def test_a_maker_that_would_take_and_a_hasty_client_are_refused(ask: Ask, account: Emulator) -> None:
    maker = {"side": "BUY", "type": "LIMIT_MAKER", "quantity": "0.001", "price": str(price(account, "1.1"))}
    assert ask("POST order", **maker).json()["msg"] == "Order would immediately match and take."
    market = {"side": "SELL", "type": "MARKET", "quantity": "0.001"}
    for _ in range(100):
        account.engine.place("me", Request("BTC/USDT", "sell", "market", Decimal("0.001")))
    assert code(ask("POST order", **market)) == (429, -1015)
    account.clock.advance(10)
    assert ask("POST order", **market).status_code == 200


@pytest.mark.parametrize("fault", ["maintenance", "cancel_only", "post_only"])
def test_a_market_that_is_closed_takes_no_order_but_cancellations(ask: Ask, account: Emulator, fault: str) -> None:
    resting = LIMIT | {"price": str(price(account, "0.9"))}
    number = ask("POST order", **resting).json()["orderId"]
    account.faults.inject(Rule(fault))
    assert ask("POST order", **resting).json() == {"code": -2010, "msg": "Market is closed."}
    maker = {"side": "BUY", "type": "LIMIT_MAKER", "quantity": "0.1", "price": resting["price"]}
    assert ask("POST order", **maker).status_code == (200 if fault == "post_only" else 400)
    assert ask("DELETE order", orderId=number).json()["status"] == "CANCELED"


# --- what happens to orders ---


def test_answers_are_as_long_as_asked_for(ask: Ask, account: Emulator) -> None:
    market = {"side": "BUY", "type": "MARKET", "quantity": "0.1"}
    assert set(ask("POST order", **market, newOrderRespType="ACK").json()) == {
        "symbol", "orderId", "orderListId", "clientOrderId", "transactTime"
    }  # fmt: skip
    assert "fills" not in ask("POST order", **market, newOrderRespType="RESULT").json()
    full = ask("POST order", **market).json()
    assert sum(Decimal(fill["qty"]) for fill in full["fills"]) == Decimal("0.1")
    resting = LIMIT | {"price": str(price(account, "0.9"))}
    assert ask("POST order", **resting).json()["fills"] == []


def test_what_cannot_be_had_at_once_expires(ask: Ask, account: Emulator) -> None:
    away = LIMIT | {"price": str(price(account, "0.9"))}
    for tif in ("IOC", "FOK"):
        told = ask("POST order", **away | {"timeInForce": tif}).json()
        assert (told["status"], told["executedQty"]) == ("EXPIRED", "0.00000000")


def test_orders_and_trades_come_by_page_and_by_day(ask: Ask, account: Emulator) -> None:
    numbers = []
    for _ in range(3):
        numbers.append(ask("POST order", side="BUY", type="MARKET", quantity="0.01").json()["orderId"])
        account.clock.advance(86_400)
    end = int(account.clock.now() * 1000)

    def orders(**arguments: Any) -> list[int]:
        return [row["orderId"] for row in ask("GET allOrders", **arguments).json()]

    assert orders() == numbers
    assert orders(limit=2) == numbers[-2:]
    assert orders(orderId=numbers[0], limit=2) == numbers[:2]
    assert orders(startTime=end - DAY_MS, endTime=end) == numbers[2:]
    assert orders(startTime=end - DAY_MS + 1, endTime=end) == []
    assert code(ask("GET allOrders", startTime=end - DAY_MS - 1, endTime=end)) == (400, -1127)
    trades = ask("GET myTrades").json()
    assert ask("GET myTrades", fromId=trades[1]["id"]).json() == trades[1:]
    assert ask("GET myTrades", orderId=numbers[1]).json() == [row for row in trades if row["orderId"] == numbers[1]]
    assert orders(symbol="ETHUSD") == []


def test_of_a_list_one_order_ends_the_other(ask: Ask, account: Emulator) -> None:
    gain, stop = str(price(account, "1.2")), str(price(account, "0.8"))
    oco = {"side": "SELL", "quantity": "0.5", "aboveType": "LIMIT_MAKER", "abovePrice": gain}
    oco |= {"belowType": "STOP_LOSS", "belowStopPrice": stop, "listClientOrderId": "both"}
    told = ask("POST orderList/oco", **oco, aboveClientOrderId="gain", belowClientOrderId="stop").json()
    assert (told["contingencyType"], told["listOrderStatus"]) == ("OCO", "EXECUTING")
    assert {report["type"]: report["orderListId"] for report in told["orderReports"]} == {
        "LIMIT_MAKER": told["orderListId"], "STOP_LOSS": told["orderListId"]
    }  # fmt: skip
    (held,) = (row["locked"] for row in ask("GET account").json()["balances"] if row["asset"] == "BTC")
    assert held == "0.50000000"
    account.engine.force_fill(ask("GET order", origClientOrderId="gain").json()["orderId"])
    assert ask("GET order", origClientOrderId="gain").json()["status"] == "FILLED"
    assert ask("GET order", origClientOrderId="stop").json()["status"] == "EXPIRED"
    assert code(ask("DELETE orderList", listClientOrderId="both")) == (400, -2011)
    again = ask("POST orderList/oco", **oco | {"listClientOrderId": "again"}).json()
    ended = ask("DELETE orderList", orderListId=again["orderListId"]).json()
    assert [report["status"] for report in ended["orderReports"]] == ["CANCELED", "CANCELED"]
    third = ask("POST orderList/oco", **oco | {"listClientOrderId": "third"}).json()
    ask("DELETE order", orderId=third["orders"][0]["orderId"])
    assert ask("GET openOrders").json() == []
    wrong = oco | {"aboveType": "STOP_LOSS", "aboveStopPrice": gain, "abovePrice": None}
    assert code(ask("POST orderList/oco", **wrong)) == (400, -1158)


def test_what_is_staked_has_a_name_of_its_own(ask: Ask, account: Emulator) -> None:
    account.engine.accounts.stake("me", "BTC", Decimal("0.5"))
    told = {row["asset"]: row["free"] for row in ask("GET account").json()["balances"]}
    assert (told["BTC"], told["LDBTC"], told["ETH"]) == ("1.50000000", "0.50000000", "0.00000000")


def test_stale_hidden_doubled_and_reversed_answers(ask: Ask, account: Emulator) -> None:
    first = ask("POST order", side="BUY", type="MARKET", quantity="0.01").json()["orderId"]
    account.clock.advance(60)
    second = ask("POST order", side="BUY", type="MARKET", quantity="0.01").json()["orderId"]

    def served(rule: Rule, name: str, key: str) -> list[Any]:
        account.faults.clear()
        account.faults.inject(rule)
        return [row[key] for row in ask(name).json()]

    assert served(Rule("stale_read", parameter=30.0), "GET allOrders", "orderId") == [first]
    assert set(served(Rule("stale_read", parameter=30.0), "GET myTrades", "orderId")) == {first}
    assert served(Rule("hide_order", parameter=30.0), "GET allOrders", "orderId") == [first]
    assert served(Rule("reorder"), "GET allOrders", "orderId") == [second, first]
    assert served(Rule("duplicate"), "GET allOrders", "orderId") == [first, first, second, second]
    account.faults.clear()
    account.faults.inject(Rule("hide_order", parameter=30.0))
    assert code(ask("GET order", orderId=second)) == (400, -2013)


def test_a_closed_door_after_the_effect_leaves_the_order_and_before_it_none(ask: Ask, account: Emulator) -> None:
    for number, phase in enumerate(("before", "after_effect")):
        account.faults.inject(Rule("close", "rest", "order", times=1, phase=phase))  # type: ignore[arg-type]
        with pytest.raises(requests.ConnectionError):
            ask("POST order", side="BUY", type="MARKET", quantity="0.01", newClientOrderId=phase)
        assert len(account.engine.view("me").orders) == number


def test_weights_are_those_of_the_documentation(ask: Ask, account: Emulator) -> None:
    used = [
        int(ask(name, **arguments).headers["X-MBX-USED-WEIGHT-1M"])
        for name, arguments in (
            ("GET account", {}), ("GET openOrders", {}), ("GET openOrders", {"symbol": None}), ("GET allOrders", {}),
            ("GET myTrades", {}), ("GET order", {"orderId": 1}),
        )
        if name != "GET order"
    ]  # fmt: skip
    assert used == [20, 26, 106, 126, 146]


def test_the_markets_rules_can_change(ask: Ask, account: Emulator) -> None:
    account.faults.inject(Rule("minimum", parameter=0.5))
    assert ask("POST order", side="BUY", type="MARKET", quantity="0.4").json()["msg"] == "Filter failure: LOT_SIZE"
    info = requests.get(account.binance_url + "/api/v3/exchangeInfo?symbol=BTCUSDT", timeout=5).json()
    (lot,) = (each for each in info["symbols"][0]["filters"] if each["filterType"] == "LOT_SIZE")
    assert lot["minQty"] == "0.50000000"
    assert account.engine.now_ns() == int(START * NS)
