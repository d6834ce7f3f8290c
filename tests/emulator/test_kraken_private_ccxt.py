"""Kraken's private REST as ccxt uses it, unmodified but for its addresses."""

from __future__ import annotations

import json

import ccxt
import pytest

from tests.emulator.private_world import CLIENT_ID, SECRET, ccxt_of, open_account
from tests.exchange_emulator.server import START, Emulator

SYMBOL = "BTC/USD"


@pytest.fixture
def venue(emulator: Emulator) -> ccxt.kraken:
    open_account(emulator)
    return ccxt_of(emulator)


def test_an_order_lives_and_ends(venue: ccxt.kraken, emulator: Emulator) -> None:
    placed = venue.create_order(SYMBOL, "limit", "buy", 0.1, 20_000, {"clientOrderId": CLIENT_ID})
    found = venue.fetch_order(placed["id"])
    assert (found["status"], found["amount"], found["price"], found["filled"]) == ("open", 0.1, 20_000.0, 0.0)
    assert found["timestamp"] == START * 1000
    (listed,) = venue.fetch_open_orders(SYMBOL, params={"clientOrderId": CLIENT_ID})
    assert (listed["id"], listed["clientOrderId"]) == (placed["id"], CLIENT_ID)
    venue.edit_order(placed["id"], SYMBOL, "limit", "buy", 0.2, 21_000)
    assert venue.fetch_order(placed["id"])["amount"] == 0.2
    venue.cancel_order(placed["id"])
    (closed,) = venue.fetch_closed_orders(params={"clientOrderId": CLIENT_ID})
    assert closed["status"] == "canceled"
    with pytest.raises(ccxt.OrderNotFound):
        venue.cancel_order(placed["id"])


def test_trades_and_balances_agree_with_the_truth(venue: ccxt.kraken, emulator: Emulator) -> None:
    placed = venue.create_order(SYMBOL, "market", "buy", 0.25)
    (fill,) = emulator.engine.view("main").fills
    (trade,) = venue.fetch_my_trades(SYMBOL)
    assert (trade["order"], trade["amount"], trade["price"]) == (placed["id"], 0.25, float(fill.price))
    assert venue.fetch_order(placed["id"])["status"] == "closed"
    balance = venue.fetch_balance()
    assert balance["BTC"] == {"free": 2.25, "used": 0.0, "total": 2.25}
    assert balance["USD"]["total"] == float(100_000 - fill.cost - fill.fee)
    kinds = [entry["info"]["type"] for entry in venue.fetch_ledger()]
    assert sorted(kinds) == ["deposit", "deposit", "trade", "trade"]


def test_json_bodies_are_signed_and_read(venue: ccxt.kraken, emulator: Emulator) -> None:
    """A percentage and batches: there ccxt sends JSON."""
    venue.create_order(SYMBOL, "market", "sell", 0.1, None, {"trailingPercent": "2"})
    (trailing,) = emulator.engine.open_orders("main")
    assert str(trailing.trail) == "0.02"
    batch = [
        {"ordertype": "limit", "type": "buy", "volume": "0.1", "price": "20000"},
        {"ordertype": "limit", "type": "buy", "volume": "50", "price": "20000"},
    ]
    with pytest.raises(ccxt.InsufficientFunds) as half:  # of the second; the first is in the book
        venue.private_post_addorderbatch({"pair": "XBTUSD", "orders": batch})
    first, second = json.loads(str(half.value).removeprefix("kraken "))["result"]["orders"]
    assert first["descr"] == {"order": "buy 0.10000000 XBTUSD @ limit 20000.00"}
    assert second == {"error": "EOrder:Insufficient funds"}
    venue.cancel_orders([first["txid"]], SYMBOL)
    assert [order.number for order in emulator.engine.open_orders("main")] == [trailing.number]
    with pytest.raises(ccxt.BaseError):
        venue.private_post_addorderbatch({"pair": "XBTUSD", "orders": [batch[0], {"ordertype": "limit"}]})
    assert len(emulator.engine.open_orders("main")) == 1


def test_validate_in_ccxts_spelling_places_nothing(venue: ccxt.kraken, emulator: Emulator) -> None:
    assert venue.create_order(SYMBOL, "market", "buy", 0.25, None, {"validate": True})["id"] is None
    assert emulator.engine.view("main").orders == ()


def test_all_are_cancelled_now_or_after_a_while(venue: ccxt.kraken, emulator: Emulator) -> None:
    for _ in range(2):
        venue.create_order(SYMBOL, "limit", "buy", 0.1, 20_000)
    venue.cancel_all_orders_after(60_000)
    emulator.clock.advance(61)
    assert venue.fetch_open_orders() == []
    venue.create_order(SYMBOL, "limit", "buy", 0.1, 20_000)
    venue.cancel_all_orders()
    assert emulator.engine.open_orders("main") == []


def test_rights_and_refusals_have_ccxts_names(venue: ccxt.kraken, emulator: Emulator) -> None:
    emulator.engine.accounts.change_key("ccxt", rights=frozenset({"read", "withdraw"}))
    info = venue.private_post_getapikeyinfo()["result"]
    assert "withdraw-funds" in info["permissions"]
    with pytest.raises(ccxt.PermissionDenied):
        venue.create_order(SYMBOL, "market", "buy", 0.25)
    emulator.engine.accounts.change_key("ccxt", rights=frozenset({"read", "trade"}))
    with pytest.raises(ccxt.InsufficientFunds):
        venue.create_order(SYMBOL, "market", "sell", 25)
    venue.secret = SECRET[4:]
    with pytest.raises(ccxt.ExchangeError, match="Invalid signature"):
        venue.fetch_balance()
