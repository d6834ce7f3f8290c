"""What CcxtTrading sends, to the last digit, and what it reads, to the last page."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.execution.venues import ccxt_trading
from policy.execution.venues.binance_rows import fill_of, order_parameters
from policy.execution.venues.protocol import (
    CouldNotAsk,
    Rejected,
    VenueOrder,
)
from tests.policy.ccxt_trading_world import (
    ACK,
    CLIENT_ID,
    KEY,
    NOW,
    NOW_MS,
    ORDER,
    SECRET,
    TIME,
    error,
    new_order,
    order_row,
    trade_row,
    trading,
)
from tests.policy.scripted_venue import Reply, ScriptedVenue

ALL_ORDERS, TRADES = "GET /api/v3/allOrders", "GET /api/v3/myTrades"
DEPOSITS, WITHDRAWALS = "GET /sapi/v1/capital/deposit/hisrec", "GET /sapi/v1/capital/withdraw/history"
AMOUNTS = st.decimals(Decimal("1e-8"), Decimal("9e18"), places=8)


@pytest.fixture
def venue() -> Iterator[ScriptedVenue]:
    with ScriptedVenue() as scripted:
        yield scripted


# --- sending ---

SENT: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({}, {"type": "MARKET"}),
    ({"time_in_force": "ioc"}, {"type": "MARKET"}),
    ({"limit_price": Decimal(7), "stop_price": Decimal(5), "trail": Decimal("0.1")}, {"type": "MARKET"}),
    ({"type": "limit", "limit_price": Decimal("99.50")}, {"type": "LIMIT", "price": "99.50", "timeInForce": "GTC"}),
    (
        {"type": "limit", "limit_price": Decimal(7), "time_in_force": "fok"},
        {"type": "LIMIT", "price": "7", "timeInForce": "FOK"},
    ),
    ({"type": "limit", "limit_price": Decimal(7), "post_only": True}, {"type": "LIMIT_MAKER", "price": "7"}),
    ({"type": "stop", "stop_price": Decimal(5)}, {"type": "STOP_LOSS", "stopPrice": "5"}),
    (
        {"type": "stop", "stop_price": Decimal(5), "limit_price": Decimal(4)},
        {"type": "STOP_LOSS_LIMIT", "stopPrice": "5", "price": "4", "timeInForce": "GTC"},
    ),
    ({"type": "take_profit", "stop_price": Decimal(9)}, {"type": "TAKE_PROFIT", "stopPrice": "9"}),
    (
        {"type": "take_profit", "stop_price": Decimal(9), "limit_price": Decimal(8), "time_in_force": "ioc"},
        {"type": "TAKE_PROFIT_LIMIT", "stopPrice": "9", "price": "8", "timeInForce": "IOC"},
    ),
    ({"type": "trailing_stop", "trail": Decimal("0.0525")}, {"type": "STOP_LOSS", "trailingDelta": "525"}),
]


@pytest.mark.parametrize(("changes", "expected"), SENT)
def test_each_type_of_order_is_sent_in_the_venues_words(changes: dict[str, Any], expected: dict[str, str]) -> None:
    always = {"symbol": "BTCUSDT", "side": "SELL", "quantity": "0.5", "newClientOrderId": str(CLIENT_ID)}
    sent = order_parameters(new_order(side="sell", **changes), "BTCUSDT")
    assert sent == always | {"newOrderRespType": "ACK"} | expected


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "limit"},
        {"type": "stop"},
        {"type": "take_profit"},
        {"type": "trailing_stop"},
        {"type": "trailing_stop", "trail": Decimal(0)},
        {"type": "trailing_stop", "trail": Decimal("0.00125")},
        {"post_only": True},
        {"type": "limit", "limit_price": Decimal(7), "post_only": True, "time_in_force": "ioc"},
        {"type": "stop", "stop_price": Decimal(5), "time_in_force": "fok"},
        {"time_in_force": "fok"},
        {"deadline": NOW},
        {"deadline": NOW - 3600},
    ],
)
def test_what_the_venue_cannot_do_or_would_do_too_late_is_not_sent(venue: ScriptedVenue, changes: dict) -> None:
    placed = trading(venue).place(new_order(**changes), 1)
    assert isinstance(placed, Rejected)
    assert placed.reason.startswith("not sent")
    assert venue.count(ORDER) == 0


@given(AMOUNTS, AMOUNTS)
def test_amounts_go_out_and_come_back_to_the_last_digit(quantity: Decimal, price: Decimal) -> None:
    sent = order_parameters(new_order(quantity=quantity, type="limit", limit_price=price), "BTCUSDT")
    assert not {"e", "E"} & set(sent["quantity"] + sent["price"])
    row = trade_row(1, qty=sent["quantity"], price=sent["price"], quoteQty=sent["price"], commission=sent["quantity"])
    fill = fill_of(row, "BTC/USDT")
    assert (fill.quantity, fill.price, fill.cost, fill.fee) == (quantity, price, price, quantity)


def test_the_smallest_amount_reaches_the_wire_unrounded_and_signed(venue: ScriptedVenue) -> None:
    venue.say(ORDER, Reply(ACK))
    trading(venue).place(new_order(quantity=Decimal("1e-8"), type="limit", limit_price=Decimal("123456.12345678")), 1)
    (asked,) = venue.all(ORDER)
    assert (asked.arguments["quantity"], asked.arguments["price"]) == ("0.00000001", "123456.12345678")
    payload, _, signature = asked.raw.rpartition("&signature=")
    assert signature == hmac.new(SECRET.encode(), payload.encode(), hashlib.sha256).hexdigest()
    assert asked.headers["X-MBX-APIKEY"] == KEY


# --- the deadline ---


@pytest.mark.parametrize("skew_s", [0.0, 7200.0, -7200.0])
def test_an_order_is_good_until_its_deadline_on_the_venues_clock(venue: ScriptedVenue, skew_s: float) -> None:
    venue.say(ORDER, Reply(ACK))
    account = trading(venue, skew_s=skew_s)
    for deadline, window in ((NOW + 2.5, 2_500), (NOW + 3600, 60_000), (None, 5_000)):
        account.place(new_order(deadline=deadline), 1)
        sent = venue.all(ORDER)[-1].arguments
        assert (int(sent["timestamp"]), int(sent["recvWindow"])) == (NOW_MS, window)
    assert venue.count(TIME) == 1


def test_after_a_refusal_for_its_clock_it_asks_the_venue_for_the_time_again(venue: ScriptedVenue) -> None:
    venue.say(ORDER, error(-1021), Reply(ACK))
    account = trading(venue)
    account.place(new_order(), 1)
    account.place(new_order(), 2)
    assert [asked.path for asked in venue.asked] == ["/api/v3/time", "/api/v3/order"] * 2


def test_without_the_venues_time_nothing_is_sent(venue: ScriptedVenue) -> None:
    account = trading(venue)
    venue.say(TIME, Reply(ending="close"))
    assert isinstance(account.place(new_order(), 1), Rejected)
    assert isinstance(account.cancel("BTC/USDT", "BTCUSDT:28"), Rejected)
    with pytest.raises(CouldNotAsk):
        account.balances()
    assert {asked.path for asked in venue.asked} == {"/api/v3/time"}


def test_each_signed_call_takes_a_nonce_but_an_order_that_was_given_one(venue: ScriptedVenue) -> None:
    taken: list[int] = []

    def take() -> int:
        taken.append(len(taken))
        return taken[-1]

    venue.say(ORDER, Reply(ACK))
    venue.say("DELETE /api/v3/order", Reply(order_row(28, status="CANCELED")))
    account = trading(venue, nonce=take)
    account.place(new_order(), 1)
    assert not taken
    account.cancel("BTC/USDT", "BTCUSDT:28")
    assert len(taken) == 1


# --- orders ---


def test_an_order_is_told_with_its_state_its_amounts_and_its_times(venue: ScriptedVenue) -> None:
    row = order_row(
        28, status="EXPIRED", executedQty="0.25000000", stopPrice="90.10000000", side="SELL", updateTime=NOW_MS + 1_500
    )
    venue.say("GET /api/v3/order", Reply(row))
    found = trading(venue).find("BTC/USDT", CLIENT_ID, "BTCUSDT:28", 0.0)
    times = (NOW_MS + 28) / 1_000, NOW + 1.5
    amounts = Decimal(1), Decimal("0.25"), Decimal("90.1")
    assert found == VenueOrder(
        "BTCUSDT:28", "client-28", "BTC/USDT", "sell", "expired", *amounts, *times, "MARKET EXPIRED"
    )
    assert venue.all("GET /api/v3/order")[0].arguments["orderId"] == "28"


def test_an_order_whose_number_is_unknown_is_found_by_its_client_id(venue: ScriptedVenue) -> None:
    venue.say("GET /api/v3/order", Reply(order_row(28, status="NEW", clientOrderId=str(CLIENT_ID))))
    found = trading(venue).find("BTC/USDT", CLIENT_ID, None, 0.0)
    assert found is not None
    assert (found.client_id, found.state, found.closed_at, found.stop_price) == (str(CLIENT_ID), "open", None, None)
    asked = venue.all("GET /api/v3/order")[0].arguments
    assert (asked["origClientOrderId"], "orderId" in asked) == (str(CLIENT_ID), False)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("PENDING_NEW", "open"), ("PARTIALLY_FILLED", "open"), ("PENDING_CANCEL", "open"), ("FILLED", "filled"),
        ("CANCELED", "canceled"), ("REJECTED", "canceled"), ("EXPIRED_IN_MATCH", "expired"), ("MELTED", None),
    ],
)  # fmt: skip
def test_states_are_read_and_an_unknown_one_is_no_answer(venue: ScriptedVenue, status: str, state: str | None) -> None:
    venue.say("GET /api/v3/openOrders", Reply([order_row(1, status=status)]))
    if state is None:
        with pytest.raises(CouldNotAsk, match="MELTED"):
            trading(venue).open_orders()
    else:
        assert [order.state for order in trading(venue).open_orders()] == [state]


def test_an_open_order_of_a_market_that_is_not_ours_is_named_by_asking_once(venue: ScriptedVenue) -> None:
    theirs = [order_row(number, symbol="1000SATSFDUSD", status="NEW") for number in (1, 2)]
    venue.say("GET /api/v3/openOrders", Reply(theirs))
    info = {"symbols": [{"symbol": "1000SATSFDUSD", "baseAsset": "1000SATS", "quoteAsset": "FDUSD"}]}
    venue.say("GET /api/v3/exchangeInfo", Reply(info))
    assert {order.symbol for order in trading(venue).open_orders()} == {"1000SATS/FDUSD"}
    assert venue.count("GET /api/v3/exchangeInfo") == 1


def test_amounts_that_are_no_strings_are_no_answer(venue: ScriptedVenue) -> None:
    for changes in ({"origQty": 0.1}, {"origQty": "NaN"}, {"orderId": "28"}, {"time": True}):
        venue.say("GET /api/v3/openOrders", Reply([order_row(1, status="NEW") | changes]))
        with pytest.raises(CouldNotAsk):
            trading(venue).open_orders()


def test_a_row_that_comes_twice_counts_once_and_two_that_differ_are_no_answer(venue: ScriptedVenue) -> None:
    venue.say(TRADES, Reply([trade_row(2), trade_row(1), trade_row(2)]))
    assert [fill.venue_trade_id for fill in trading(venue).fills(0.0)] == ["BTCUSDT:1", "BTCUSDT:2"]
    venue.say(TRADES, Reply([trade_row(1), trade_row(1, qty="0.40000000")]))
    with pytest.raises(CouldNotAsk, match="two different rows"):
        trading(venue).fills(0.0)


# --- pages ---


@pytest.fixture
def pages_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ccxt_trading, "PAGE", 3)


@pytest.mark.usefixtures("pages_of_three")
def test_an_old_order_that_ended_just_now_is_found_behind_any_number_of_newer_ones(venue: ScriptedVenue) -> None:
    later = NOW + 100
    orders = [order_row(number) for number in range(1, 9)]
    orders[1] |= {"status": "CANCELED", "updateTime": int(later * 1_000) + 5}
    orders[3] |= {"status": "NEW"}
    venue.say(ALL_ORDERS, Reply(orders[-3:]), Reply(orders[:3]), Reply(orders[3:6]), Reply(orders[6:]))
    account = trading(venue)
    assert [order.venue_order_id for order in account.closed_orders(later)] == ["BTCUSDT:2"]
    cursors = [asked.arguments.get("orderId") for asked in venue.all(ALL_ORDERS)]
    assert cursors == [None, "1", "4", "7"]
    venue.say(ALL_ORDERS, Reply(orders[3:6]), Reply(orders[6:]))
    assert account.closed_orders(later + 1) == []
    assert [asked.arguments["orderId"] for asked in venue.all(ALL_ORDERS)[4:]] == ["2", "7"]
    venue.say(ALL_ORDERS, Reply([orders[7]]))
    assert [order.venue_order_id for order in account.closed_orders(NOW)] == ["BTCUSDT:8"]


@pytest.mark.usefixtures("pages_of_three")
def test_orders_are_read_again_from_the_oldest_open_one_or_where_asked_for_earlier_from_the_first(
    venue: ScriptedVenue,
) -> None:
    orders = [order_row(number) for number in range(1, 6)]
    orders[2] |= {"status": "NEW"}
    venue.say(ALL_ORDERS, Reply(orders[-3:]), Reply(orders[:3]), Reply(orders[3:]))
    account = trading(venue)
    assert account.closed_orders(NOW + 100) == []
    venue.say(ALL_ORDERS, Reply(orders[2:]), Reply([]))
    assert account.closed_orders(NOW + 100) == []
    venue.say(ALL_ORDERS, Reply(orders[-3:]), Reply(orders[:3]), Reply(orders[3:]))
    assert len(account.closed_orders(NOW)) == 4
    cursors = [asked.arguments.get("orderId") for asked in venue.all(ALL_ORDERS)]
    assert cursors == [None, "1", "4", "3", "6", None, "1", "4"]


@pytest.mark.usefixtures("pages_of_three")
def test_a_short_history_of_orders_is_one_page(venue: ScriptedVenue) -> None:
    venue.say(ALL_ORDERS, Reply([order_row(2), order_row(1)]))
    assert [order.venue_order_id for order in trading(venue).closed_orders(NOW)] == ["BTCUSDT:1", "BTCUSDT:2"]
    assert venue.count(ALL_ORDERS) == 1


@pytest.mark.usefixtures("pages_of_three")
def test_fills_are_all_read_where_the_newest_page_does_not_reach_back(venue: ScriptedVenue) -> None:
    trades = [trade_row(number) for number in range(7)]
    venue.say(TRADES, Reply(trades[-3:]))
    assert len(trading(venue).fills(NOW + 0.005)) == 2
    assert venue.count(TRADES) == 1
    venue.say(TRADES, Reply(trades[-3:]), Reply(trades[:3]), Reply(trades[3:6]), Reply(trades[6:]))
    fills = trading(venue).fills(NOW)
    assert [fill.venue_trade_id for fill in fills] == [f"BTCUSDT:{number}" for number in range(7)]
    assert [asked.arguments.get("fromId") for asked in venue.all(TRADES)[1:]] == [None, "0", "3", "6"]


@pytest.mark.usefixtures("pages_of_three")
def test_pages_that_do_not_move_on_are_no_answer(venue: ScriptedVenue) -> None:
    venue.say(TRADES, Reply([trade_row(number) for number in range(3)]))
    with pytest.raises(CouldNotAsk, match="from 3 on"):
        trading(venue).fills(NOW)


def test_fills_of_all_symbols_come_oldest_first_under_ids_of_their_own(venue: ScriptedVenue) -> None:
    mine, theirs = trade_row(2), trade_row(1, symbol="ETHUSDT")
    venue.say(TRADES, Reply([mine]), Reply([theirs]))
    assert [(fill.venue_trade_id, fill.symbol) for fill in trading(venue, "BTC/USDT", "ETH/USDT").fills(0.0)] == [
        ("ETHUSDT:1", "ETH/USDT"),
        ("BTCUSDT:2", "BTC/USDT"),
    ]
