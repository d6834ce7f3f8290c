"""Kraken's private REST as krakenex uses it: who may, in which order it is checked, what is told."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import krakenex
import pytest
import requests

from tests.emulator.private_world import CLIENT_ID, SECRET, krakenex_of, open_account, order, refused, result, said
from tests.exchange_emulator.faults import Rule
from tests.exchange_emulator.kraken_ids import kraken_id, number_of
from tests.exchange_emulator.records import Request
from tests.exchange_emulator.server import START, Emulator


@pytest.fixture
def api(emulator: Emulator) -> Iterator[krakenex.API]:
    open_account(emulator)
    running = krakenex_of(emulator)
    yield running
    running.close()


# --- who may ---


def test_the_checks_come_in_the_venues_order(emulator: Emulator, api: krakenex.API) -> None:
    """Each wrong call has all the later things wrong as well."""
    emulator.faults.inject(Rule("maintenance"))
    emulator.engine.accounts.change_key("krakenex", rights=frozenset())
    wrong = order(pair="NOPE", ordertype="swap", volume="0")
    stranger = krakenex_of(emulator, "nobody")
    assert refused(stranger, "AddOrder", **wrong) == "EAPI:Invalid key"
    forger = krakenex_of(emulator)
    forger.secret = SECRET[4:]
    assert refused(forger, "Balance") == "EAPI:Invalid signature"
    assert emulator.engine.accounts.key("krakenex").last_nonce == 0
    forger.secret, forger.last = SECRET, 10**15
    assert refused(forger, "AddOrder", **wrong) == "EGeneral:Permission denied"
    assert refused(api, "Balance") == "EAPI:Invalid nonce"
    emulator.kraken_calls.set(0.0, 0.0)
    assert refused(forger, "Balance") == "EAPI:Rate limit exceeded"
    emulator.kraken_calls.set(100.0, 1000.0)
    assert refused(forger, "Balance") == "EGeneral:Permission denied"
    emulator.engine.accounts.change_key("krakenex", rights=frozenset({"read", "trade"}))
    assert refused(forger, "AddOrder", **wrong) == "EQuery:Unknown asset pair"
    assert refused(forger, "AddOrder", **order(ordertype="swap")) == "EGeneral:Invalid arguments:ordertype"
    assert refused(forger, "AddOrder", **order(price="20000.001")) == "EService:Unavailable"
    emulator.faults.clear()
    assert refused(forger, "AddOrder", **order(price="20000.001", volume="50")) == "EOrder:Tick size check failed"


def test_a_nonce_is_above_all_before_it_unless_the_key_has_a_window(emulator: Emulator, api: krakenex.API) -> None:
    def with_nonce(nonce: int) -> list[str]:
        api.last = nonce - 1
        api._nonce = lambda: nonce
        return said(api, "Balance")["error"]

    answers = [with_nonce(nonce) for nonce in (100, 100, 99, 101)]
    assert answers == [[], ["EAPI:Invalid nonce"], ["EAPI:Invalid nonce"], []]
    emulator.engine.accounts.change_key("krakenex", nonce_window=10)
    assert [with_nonce(nonce) for nonce in (120, 111, 111, 110)] == [
        [], [], ["EAPI:Invalid nonce"], ["EAPI:Invalid nonce"],
    ]  # fmt: skip


def test_a_key_is_good_for_its_rights_and_addresses_only(emulator: Emulator, api: krakenex.API) -> None:
    accounts = emulator.engine.accounts
    accounts.change_key("krakenex", rights=frozenset({"read"}))
    assert refused(api, "AddOrder", **order()) == "EGeneral:Permission denied"
    assert result(api, "OpenOrders") == {"open": {}}
    accounts.change_key("krakenex", rights=frozenset({"trade", "withdraw"}))
    assert refused(api, "OpenOrders") == "EGeneral:Permission denied"
    info = result(api, "GetApiKeyInfo")
    assert info["permissions"] == ["modify-trades", "close-trades", "withdraw-funds"]
    assert (info["apiKeyName"], info["nonceWindow"], info["ipAllowlist"]) == ("krakenex", "0", [])
    accounts.change_key("krakenex", ips=("192.0.2.1",))
    assert refused(api, "GetApiKeyInfo") == "EGeneral:Permission denied"
    accounts.change_key("krakenex", ips=("192.0.2.1", "127.0.0.1"))
    assert result(api, "GetApiKeyInfo")["ipAllowlist"] == ["192.0.2.1", "127.0.0.1"]


def test_a_key_opens_its_own_account_only(emulator: Emulator, api: krakenex.API) -> None:
    txid = result(api, "AddOrder", **order())["txid"][0]
    emulator.engine.accounts.open("other")
    emulator.engine.accounts.add_key("other", "theirs", SECRET)
    theirs = krakenex_of(emulator, "theirs")
    assert result(theirs, "OpenOrders") == {"open": {}}
    assert refused(theirs, "QueryOrders", txid=txid) == refused(theirs, "CancelOrder", txid=txid)
    emulator.engine.accounts.open("elsewhere", "binance")
    emulator.engine.accounts.add_key("elsewhere", "binance key", SECRET)
    assert refused(krakenex_of(emulator, "binance key"), "Balance") == "EAPI:Invalid key"


def test_calls_and_orders_are_counted_apart(emulator: Emulator, api: krakenex.API) -> None:
    emulator.kraken_calls.set(0.0, 3.0)
    assert result(api, "TradesHistory")["count"] == 0  # costs 2
    result(api, "Balance")
    assert refused(api, "Balance") == "EAPI:Rate limit exceeded"
    emulator.kraken_orders.set(0.0, 10.0)
    txids = [result(api, "AddOrder", **order())["txid"][0] for _ in range(3)]  # cost nothing of the calls
    assert refused(api, "CancelOrder", txid=txids[0]) == "EOrder:Rate limit exceeded"  # 8 for so young an order, on 3
    emulator.kraken_orders.set(0.0, 11.0)
    assert result(api, "CancelOrder", txid=txids[0]) == {"count": 1}
    for txid in txids[1:]:
        assert refused(api, "CancelOrder", txid=txid) == "EOrder:Rate limit exceeded"
    emulator.clock.advance(400)
    assert result(api, "CancelOrder", txid=txids[1]) == {"count": 1}  # nothing for so old a one


def test_only_post_is_signed_and_an_unknown_method_is_named(emulator: Emulator, api: krakenex.API) -> None:
    assert refused(api, "Nonsense") == "EGeneral:Unknown method"
    answer = requests.get(emulator.rest_url + "/0/private/Balance", timeout=5).json()
    assert answer == {"error": ["EAPI:Invalid key"]}


# --- orders ---


def test_an_order_is_told_in_words_and_found_by_its_id(emulator: Emulator, api: krakenex.API) -> None:
    placed = result(api, "AddOrder", **order(cl_ord_id=CLIENT_ID, oflags="post"))
    (txid,) = placed["txid"]
    assert placed["descr"] == {"order": "buy 0.10000000 XBTUSD @ limit 20000.00"}
    assert number_of("O", txid) == emulator.engine.open_orders("main")[0].number
    for found in (result(api, "QueryOrders", txid=txid), result(api, "OpenOrders", cl_ord_id=CLIENT_ID)["open"]):
        told = found[txid]
        assert (told["status"], told["vol"], told["vol_exec"], told["cl_ord_id"]) == (
            "open", "0.10000000", "0.00000000", CLIENT_ID,
        )  # fmt: skip
        assert (told["opentm"], told["oflags"], told["descr"]["pair"]) == (START, "fciq,post", "XBTUSD")
    assert result(api, "OpenOrders", cl_ord_id="other") == {"open": {}}
    assert result(api, "BalanceEx")["ZUSD"] == {"balance": "100000.0000000000", "hold_trade": "2008.0000000000"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ordertype": "market"}, "buy 0.10000000 XBTUSD @ market"),
        ({"ordertype": "stop-loss", "price": "40000"}, "buy 0.10000000 XBTUSD @ stop loss 40000.00"),
        (
            {"ordertype": "stop-loss-limit", "price": "40000", "price2": "40100"},
            "buy 0.10000000 XBTUSD @ stop loss 40000.00 -> limit 40100.00",
        ),
        ({"ordertype": "take-profit", "price": "20000"}, "buy 0.10000000 XBTUSD @ take profit 20000.00"),
        ({"ordertype": "trailing-stop", "price": "+2%"}, "buy 0.10000000 XBTUSD @ trailing stop +2.0000%"),
    ],
)
def test_validate_checks_and_places_nothing(
    emulator: Emulator, api: krakenex.API, arguments: dict[str, str], words: str
) -> None:
    for truth in ("true", "True", "1"):
        assert result(api, "AddOrder", **order(validate=truth, **arguments)) == {"descr": {"order": words}}
    assert refused(api, "AddOrder", **order(validate="true", volume="50")) == "EOrder:Insufficient funds"
    assert emulator.engine.view("main").orders == ()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"volume": "0.000009"}, "EOrder:Order minimum not met"),
        ({"volume": "0.00002"}, "EOrder:Cost minimum not met"),
        ({"volume": "lots"}, "EGeneral:Invalid arguments:volume"),
        ({"volume": "-1"}, "EGeneral:Invalid arguments:volume"),
        ({"type": "hold"}, "EGeneral:Invalid arguments:type"),
        ({"price": "NaN"}, "EGeneral:Invalid arguments:price"),
        ({"price": ""}, "EGeneral:Invalid arguments:price"),
        ({"oflags": "fcib,fciq"}, "EGeneral:Invalid arguments:oflags"),
        ({"leverage": "2:1"}, "EGeneral:Invalid arguments:leverage"),
        ({"timeinforce": "DAY"}, "EGeneral:Invalid arguments:timeinforce"),
        ({"price": "40000", "oflags": "post"}, "EOrder:Post only order"),
        ({"cl_ord_id": "nineteen characters"}, "EGeneral:Invalid arguments:cl_ord_id"),
        ({"cl_ord_id": CLIENT_ID, "userref": "1"}, "EGeneral:Invalid arguments:cl_ord_id"),
        ({"ordertype": "trailing-stop", "price": "+100"}, "EGeneral:Invalid arguments:price"),
        ({"deadline": "soon"}, "EGeneral:Invalid arguments:deadline"),
        ({"deadline": "2025-06-15T15:07:11Z"}, "EGeneral:Invalid arguments:deadline"),
        ({"deadline": "2025-06-15T15:08:11Z"}, "EGeneral:Invalid arguments:deadline"),
        ({"deadline": "2025-06-15T15:07:09Z"}, "EService:Deadline elapsed"),
    ],
)
def test_what_is_wrong_is_told_in_the_venues_words(
    emulator: Emulator, api: krakenex.API, arguments: dict[str, str], error: str
) -> None:
    assert refused(api, "AddOrder", **order(**arguments)) == error
    assert emulator.engine.view("main").orders == ()


def test_orders_are_cancelled_by_id_client_id_and_userref(api: krakenex.API) -> None:
    first, *_ = result(api, "AddOrder", **order())["txid"]
    result(api, "AddOrder", **order(cl_ord_id=CLIENT_ID))
    for _ in range(2):
        result(api, "AddOrder", **order(userref="77"))
    assert result(api, "CancelOrder", txid=first) == {"count": 1}
    assert result(api, "CancelOrder", cl_ord_id=CLIENT_ID) == {"count": 1}
    assert result(api, "CancelOrder", txid="77") == {"count": 2}
    for gone in ({"txid": first}, {"cl_ord_id": CLIENT_ID}, {"txid": "77"}, {"txid": "nonsense"}):
        assert refused(api, "CancelOrder", **gone) == "EOrder:Unknown order"
    assert result(api, "CancelAll") == {"count": 0}
    closed = result(api, "ClosedOrders")["closed"]
    assert {told["status"] for told in closed.values()} == {"canceled"}
    assert {told["reason"] for told in closed.values()} == {"User requested"}


def test_an_amended_order_keeps_its_id(api: krakenex.API) -> None:
    stop = {"type": "sell", "ordertype": "stop-loss"}
    (txid,) = result(api, "AddOrder", **order(**stop))["txid"]
    result(api, "AmendOrder", txid=txid, order_qty="0.05", trigger_price="21000")
    told = result(api, "QueryOrders", txid=txid)[txid]
    assert (told["vol"], told["stopprice"], told["descr"]["price"]) == ("0.05000000", "21000.00", "21000.00")
    (trailing,) = result(api, "AddOrder", **order(type="sell", ordertype="trailing-stop", price="+5%"))["txid"]
    result(api, "AmendOrder", txid=trailing, trigger_price="+10%")
    assert result(api, "OpenOrders")["open"][trailing]["descr"]["price"] == "+10.0000%"
    late = {"deadline": "2025-06-15T15:07:09Z"}
    assert refused(api, "AmendOrder", txid=txid, order_qty="0.06", **late) == "EService:Deadline elapsed"
    assert refused(api, "AmendOrder", cl_ord_id=CLIENT_ID, order_qty="0.06") == "EOrder:Unknown order"


def test_the_dead_mans_switch_is_set_and_taken_off(emulator: Emulator, api: krakenex.API) -> None:
    result(api, "AddOrder", **order())
    told = result(api, "CancelAllOrdersAfter", timeout=60)
    assert told == {"currentTime": "2025-06-15T15:07:10Z", "triggerTime": "2025-06-15T15:08:10Z"}
    assert result(api, "CancelAllOrdersAfter", timeout=0)["triggerTime"] == "0"
    result(api, "CancelAllOrdersAfter", timeout=30)
    emulator.clock.advance(31)
    assert result(api, "OpenOrders") == {"open": {}}


# --- the past ---


def test_closed_orders_and_trades_come_fifty_a_page_the_newest_first(emulator: Emulator, api: krakenex.API) -> None:
    placed = []
    for _ in range(55):
        taken = emulator.engine.place("main", Request("BTC/USD", "buy", "market", Decimal("0.001")))
        placed.append(kraken_id("O", taken.number))
        emulator.clock.advance(1)
    for method, rows in (("ClosedOrders", "closed"), ("TradesHistory", "trades")):
        pages = [result(api, method, ofs=offset) for offset in (0, 50)]
        assert [len(page[rows]) for page in pages] == [50, 5]
        assert {page["count"] for page in pages} == {55}
        ids = [told.get("ordertxid", txid) for page in pages for txid, told in page[rows].items()]
        assert ids == placed[::-1]
    one = result(api, "TradesHistory", start=f"{START + 9:.6f}", end=f"{START + 10:.6f}")
    assert [told["time"] for told in one["trades"].values()] == [START + 10]
    by_id = result(api, "ClosedOrders", start=placed[52])
    assert list(by_id["closed"]) == placed[:52:-1]


def test_closed_orders_come_in_the_order_of_their_ends(emulator: Emulator, api: krakenex.API) -> None:
    txids = [result(api, "AddOrder", **order())["txid"][0] for _ in range(3)]
    ends = [txids[1], txids[2], txids[0]]
    for txid in ends:
        emulator.clock.advance(1)
        result(api, "CancelOrder", txid=txid)
    assert list(result(api, "ClosedOrders")["closed"]) == ends[::-1]


def test_amending_a_young_order_costs_more(emulator: Emulator, api: krakenex.API) -> None:
    (txid,) = result(api, "AddOrder", **order())["txid"]
    emulator.kraken_orders.set(0.0, 3.0)
    assert refused(api, "AmendOrder", txid=txid, order_qty="0.2") == "EOrder:Rate limit exceeded"
    emulator.clock.advance(15)
    result(api, "AmendOrder", txid=txid, order_qty="0.2")


def test_cost_and_fee_are_cut_off_in_trades_and_whole_in_the_ledger(api: krakenex.API) -> None:
    (txid,) = result(api, "AddOrder", **order(ordertype="market", volume="0.12345678"))["txid"]
    trades = result(api, "TradesHistory", ledgers="true")["trades"]
    ((trade_id, trade),) = trades.items()
    assert (trade["ordertxid"], trade["pair"], trade["maker"]) == (txid, "XXBTZUSD", False)
    entries = result(api, "QueryLedgers", id=",".join(trade["ledgers"]))
    base, quote = (entries[number] for number in trade["ledgers"])
    assert (base["asset"], base["amount"], base["refid"]) == ("XXBT", "0.1234567800", trade_id)
    cost, fee = -Decimal(quote["amount"]), Decimal(quote["fee"])
    exact = Decimal("0.12345678") * Decimal(trade["price"])
    assert cost == exact.quantize(Decimal("1e-4"), "ROUND_FLOOR")
    assert Decimal(trade["cost"]) == exact.quantize(Decimal("0.01"), "ROUND_FLOOR") != cost
    assert Decimal(trade["fee"]) < fee
    assert result(api, "Balance")["ZUSD"] == quote["balance"]
    assert Decimal(quote["balance"]) == 100_000 - cost - fee
    assert result(api, "QueryTrades", txid=trade_id)[trade_id]["vol"] == "0.12345678"
    closed = result(api, "QueryOrders", txid=txid, trades="True")[txid]
    assert (closed["status"], closed["trades"]) == ("closed", [trade_id])


def test_the_ledger_tells_each_kind_under_krakens_names(emulator: Emulator, api: krakenex.API) -> None:
    accounts = emulator.engine.accounts
    accounts.withdraw("main", "USD", Decimal(100), Decimal("2.5"))
    accounts.transfer("main", "USD", Decimal(7))
    accounts.stake("main", "BTC", Decimal("0.5"))
    rows = list(result(api, "Ledgers")["ledger"].values())[::-1]
    assert [(row["type"], row["asset"], row["amount"]) for row in rows] == [
        ("deposit", "ZUSD", "100000.0000000000"),
        ("deposit", "XXBT", "2.0000000000"),
        ("withdrawal", "ZUSD", "-100.0000000000"),
        ("transfer", "ZUSD", "7.0000000000"),
        ("staking", "XXBT", "-0.5000000000"),
        ("staking", "XBT.S", "0.5000000000"),
    ]
    assert rows[2]["fee"] == "2.5000000000"
    assert len(result(api, "Ledgers", asset="XBT")["ledger"]) == 2
    assert len(result(api, "Ledgers", asset="ZUSD", type="deposit")["ledger"]) == 1
    assert result(api, "Balance") == {
        "ZUSD": "99904.5000000000", "XXBT": "1.5000000000", "XBT.S": "0.5000000000",
    }  # fmt: skip


def test_what_is_not_known_is_said(api: krakenex.API) -> None:
    assert refused(api, "QueryOrders", txid=kraken_id("O", 99)) == "EOrder:Unknown order"
    assert refused(api, "QueryTrades", txid="") == "EGeneral:Invalid arguments:txid"
    assert refused(api, "ClosedOrders", closetime="noon") == "EGeneral:Invalid arguments:closetime"
    assert refused(api, "TradeVolume", pair="NOPE") == "EQuery:Unknown asset pair"


def test_balance_and_fees_of_trading(api: krakenex.API) -> None:
    before = Decimal(result(api, "TradeBalance")["eb"])
    result(api, "AddOrder", **order(ordertype="market", volume="1"))
    volume: dict[str, Any] = result(api, "TradeVolume", pair="XBTUSD")
    assert (volume["fees"]["XXBTZUSD"]["fee"], volume["fees_maker"]["XXBTZUSD"]["fee"]) == ("0.4000", "0.2500")
    assert Decimal(volume["volume"]) > 29_000
    assert Decimal(result(api, "TradeBalance")["eb"]) < before - Decimal(volume["volume"]) * Decimal("0.0039")


@pytest.mark.parametrize("kind", ["O", "T", "L", "Q"])
def test_ids_read_like_the_venues_and_back(kind: Any) -> None:
    ids = [kraken_id(kind, number) for number in range(1, 200)]
    assert [number_of(kind, text) for text in ids] == list(range(1, 200))
    assert len(set(ids)) == 199
    assert [len(part) for part in ids[0].split("-")] == [6, 5, 6]
    other = "T" if kind != "T" else "O"
    assert number_of(other, ids[0]) is number_of(kind, ids[0][:-1]) is number_of(kind, "") is None
