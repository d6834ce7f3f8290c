"""The matching engine, rule by rule, against the tape that it matches with."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

import pytest

from tests.emulator.engine_world import BTC, MARKET, START_NS, TICK, World, tape
from tests.exchange_emulator.book import book_at
from tests.exchange_emulator.market import NS
from tests.exchange_emulator.records import Fees, Refused, Request
from tests.exchange_emulator.server import START


@pytest.fixture
def world() -> World:
    return World().funded()


def refusal(world: World, *order: Any, **more: Any) -> str:
    with pytest.raises(Refused) as caught:
        world.place(*order, **more)
    return caught.value.refusal


# --- takers ---


def test_a_market_order_walks_the_book_and_pays_the_takers_fee(world: World) -> None:
    _, asks = book_at(MARKET, BTC, START, 3)
    wanted = asks[0].volume + asks[1].volume / 2
    order = world.place("buy", "market", str(wanted.quantize(Decimal("1e-8"))))
    first, second = world.engine.view("main").fills
    assert (first.price, first.quantity) == (asks[0].price, asks[0].volume)
    assert (second.price, second.quantity) == (asks[1].price, order.quantity - asks[0].volume)
    assert (order.state, order.filled, first.is_maker) == ("filled", order.quantity, False)
    assert first.fee == (first.price * first.quantity * Decimal("0.0040")).quantize(Decimal("1e-4"), "ROUND_FLOOR")
    assert order.cost == first.cost + second.cost


def test_a_limit_order_takes_no_worse_than_its_price_and_rests(world: World) -> None:
    _, asks = book_at(MARKET, BTC, START, 2)
    order = world.place("buy", "limit", str(asks[0].volume + 1), limit_price=str(asks[0].price))
    assert (order.state, order.filled, order.average_price) == ("open", asks[0].volume, asks[0].price)
    held = world.engine.view("main").balances["USD"].held
    assert held == (asks[0].price * Decimal("1.004")).quantize(Decimal("1e-4"), "ROUND_CEILING")


def test_the_rest_of_an_immediate_order_ends_and_an_all_or_nothing_one_does_nothing(world: World) -> None:
    _, asks = book_at(MARKET, BTC, START, 2)
    more, price = str(asks[0].volume + 1), str(asks[0].price)
    immediate = world.place("buy", "limit", more, limit_price=price, time_in_force="ioc")
    assert (immediate.state, immediate.filled) == ("canceled", asks[0].volume)
    whole = world.place("buy", "limit", str(asks[0].volume + Decimal("0.1")), limit_price=price, time_in_force="fok")
    assert (whole.state, whole.filled, whole.reason) == ("canceled", 0, "Fill or kill")
    assert world.engine.view("main").balances["USD"].held == 0


def test_a_post_only_order_never_takes(world: World) -> None:
    bids, asks = book_at(MARKET, BTC, START, 1)
    assert refusal(world, "buy", "limit", "0.1", limit_price=str(asks[0].price), post_only=True) == "post_only"
    assert world.place("buy", "limit", "0.1", limit_price=str(bids[0].price), post_only=True).state == "open"


# --- makers ---


def test_a_touch_does_not_fill_and_one_tick_through_does(world: World) -> None:
    lowest = min(tape(60), key=lambda trade: trade.price)
    touched = world.place("buy", "limit", "0.1", limit_price=str(lowest.price))
    through = world.place("buy", "limit", "0.1", limit_price=str(lowest.price + TICK))
    world.clock.advance(60)
    assert world.order(touched.number).state == "open"
    assert world.order(through.number).state == "filled"
    (fill,) = world.engine.view("main").fills
    assert (fill.price, fill.is_maker, fill.at_ns) == (lowest.price + TICK, True, lowest.time_ns)
    assert fill.fee == (fill.cost * Decimal("0.0025")).quantize(Decimal("1e-4"), "ROUND_FLOOR")


def test_an_order_is_never_matched_with_what_was_traded_before_it(world: World) -> None:
    """Though one like it had watched the tape up to then, and nobody since."""
    lowest = min(tape(600), key=lambda trade: trade.price)
    limit = str(lowest.price + TICK)
    first = world.place("buy", "limit", "0.1", limit_price=limit)
    world.clock.advance(0.001)
    world.engine.cancel("main", first.number)
    world.pass_until(lowest)
    world.clock.advance(30)
    second = world.place("buy", "limit", "0.1", limit_price=limit)
    world.clock.advance(1)
    assert world.order(second.number).filled == 0


def test_makers_share_the_volume_of_a_trade_the_best_price_first_then_the_oldest(world: World) -> None:
    trades = tape(60)
    lowest = min(trades, key=lambda trade: trade.price)
    rank = sorted(trade.price for trade in trades)
    limit = (lowest.price + rank[1]) / 2 // TICK * TICK
    assert lowest.price + TICK < limit < rank[1]  # only the lowest trade goes through
    world.engine.accounts.deposit("main", "USD", Decimal(1_000_000))
    half = (lowest.volume / 2).quantize(Decimal("1e-8"), "ROUND_FLOOR")
    older = world.place("buy", "limit", str(half), limit_price=str(limit - TICK))
    younger = world.place("buy", "limit", str(half), limit_price=str(limit - TICK))
    better = world.place("buy", "limit", str(lowest.volume - half - Decimal("0.1")), limit_price=str(limit))
    world.clock.advance(60)
    assert world.order(better.number).state == "filled"
    assert world.order(older.number).filled == half
    assert world.order(younger.number).filled == lowest.volume - half - better.quantity < half


# --- triggers ---


@pytest.mark.parametrize(
    ("side", "kind", "falls"),
    [("sell", "stop", True), ("buy", "stop", False), ("sell", "take_profit", False), ("buy", "take_profit", True)],
)
def test_a_trigger_waits_for_the_last_price_then_takes(world: World, side: str, kind: str, falls: bool) -> None:
    trades = tape(600)
    edge = min(trades, key=lambda t: t.price) if falls else max(trades, key=lambda t: t.price)
    order = world.place(side, kind, "0.1", stop_price=str(edge.price))
    world.clock.advance(600)
    ended = world.order(order.number)
    assert (ended.state, ended.closed_ns) == ("filled", edge.time_ns)
    bids, asks = book_at(MARKET, BTC, edge.time_ns / NS + 1e-6, 1)
    assert ended.average_price == (asks if side == "buy" else bids)[0].price
    kinds = [event.kind for event in world.engine.events("main") if event.kind != "ledger"]
    assert kinds == ["pending_new", "new", "triggered", "trade", "filled"]


def test_a_triggered_order_with_a_limit_rests_at_it(world: World) -> None:
    lowest = min(tape(600), key=lambda trade: trade.price)
    order = world.place("sell", "stop", "0.1", stop_price=str(lowest.price), limit_price=str(lowest.price + 5000))
    world.pass_until(lowest)
    triggered = world.order(order.number)
    assert (triggered.state, triggered.is_triggered, triggered.filled) == ("open", True, 0)


@pytest.mark.parametrize("trail", ["0.002", "0.004", "0.006", "0.01"])
@pytest.mark.parametrize("side", ["buy", "sell"])
def test_a_trailing_stop_follows_the_best_price_and_never_goes_back(world: World, side: str, trail: str) -> None:
    order = world.place(side, "trailing_stop", "0.1", trail=trail)
    peak, share, sells = MARKET.last_price(BTC, START), Decimal(trail), side == "sell"
    assert order.peak == peak
    for trade in tape(20_000):
        stop = (peak * (1 - share if sells else 1 + share)).quantize(TICK, ROUND_FLOOR if sells else ROUND_CEILING)
        if trade.price <= stop if sells else trade.price >= stop:
            break
        peak = max(peak, trade.price) if sells else min(peak, trade.price)
    world.clock.advance(20_000)
    ended = world.order(order.number)
    assert (ended.state, ended.peak, ended.stop_price, ended.closed_ns) == ("filled", peak, stop, trade.time_ns)


def test_a_triggered_purchase_buys_no_more_than_there_is_money_for(world: World) -> None:
    world.engine.accounts.withdraw("main", "USD", Decimal(97_000))
    now = MARKET.last_price(BTC, START)
    price = (Decimal(3000) / Decimal("1.004") / now).quantize(Decimal("1e-8"), "ROUND_FLOOR")
    order = world.place("buy", "stop", str(price), stop_price=str(now))
    assert (order.state, order.reason) == ("canceled", "Insufficient funds")
    assert 0 < order.filled < order.quantity
    assert 0 <= world.engine.view("main").balances["USD"].total < 1


# --- refusals, each before anything changes ---


@pytest.mark.parametrize(
    ("order", "more", "why"),
    [
        (("buy", "limit", "0.1", "DOGE/USD"), {"limit_price": "1"}, "unknown_symbol"),
        (("buy", "limit", "0"), {"limit_price": "29000"}, "invalid"),
        (("buy", "limit", "NaN"), {"limit_price": "29000"}, "invalid"),
        (("buy", "limit", "0.1"), {}, "invalid"),
        (("buy", "market", "0.1"), {"limit_price": "29000"}, "invalid"),
        (("sell", "stop", "0.1"), {}, "invalid"),
        (("sell", "trailing_stop", "0.1"), {"trail": "1"}, "invalid"),
        (("buy", "limit", "0.1"), {"limit_price": "29000.001"}, "tick"),
        (("buy", "limit", "0.100000001"), {"limit_price": "29000"}, "lot"),
        (("buy", "limit", "0.000009"), {"limit_price": "29000"}, "minimum"),
        (("buy", "limit", "0.00001"), {"limit_price": "29000"}, "cost_minimum"),
        (("buy", "limit", "10"), {"limit_price": "29000"}, "funds"),
        (("buy", "market", "3.5"), {}, "funds"),
        (("sell", "market", "2.00000001"), {}, "funds"),
        (("buy", "limit", "0.1"), {"limit_price": "29000", "deadline_ns": START_NS - 1}, "deadline"),
    ],
)
def test_what_cannot_be_is_refused(world: World, order: tuple[str, ...], more: dict[str, Any], why: str) -> None:
    before = world.engine.view("main")
    assert refusal(world, *order, **more) == why
    assert world.engine.view("main") == before


def test_a_deadline_is_kept_to_the_moment(world: World) -> None:
    world.place("buy", "limit", "0.1", limit_price="29000", deadline_ns=START_NS)
    world.clock.advance(0.000001)
    assert refusal(world, "buy", "limit", "0.1", limit_price="29000", deadline_ns=START_NS) == "deadline"


def test_a_client_id_is_unique_among_open_orders_only(world: World) -> None:
    """Fact 1: it is no idempotency key; after the fill the same request buys again."""
    world.place("buy", "limit", "0.1", limit_price="20000", client_id="a")
    assert refusal(world, "buy", "limit", "0.1", limit_price="20000", client_id="a") == "client_id"
    for _ in range(2):
        assert world.place("buy", "market", "0.1", client_id="b").state == "filled"


def test_an_account_has_so_many_open_orders_of_a_symbol(world: World) -> None:
    world.engine.accounts.change("main", orders_limit=1)
    world.place("buy", "limit", "0.1", limit_price="20000")
    assert refusal(world, "buy", "limit", "0.1", limit_price="20000") == "orders_limit"
    world.place("buy", "limit", "1", "ETH/USD", limit_price="1000")


def test_reserved_money_cannot_be_spent_twice_nor_withdrawn(world: World) -> None:
    world.place("sell", "limit", "1.5", limit_price="40000")
    assert refusal(world, "sell", "market", "0.6") == "funds"
    with pytest.raises(Refused, match="funds"):
        world.engine.accounts.withdraw("main", "BTC", Decimal("0.6"))
    world.engine.cancel_all("main")
    assert world.place("sell", "market", "0.6").state == "filled"


# --- changing, ending ---


def test_an_amended_order_keeps_its_number_and_its_fills(world: World) -> None:
    order = world.place("sell", "stop", "1", stop_price="20000")
    amended = world.engine.amend("main", order.number, quantity=Decimal("0.4"), stop_price=Decimal(21_000))
    assert (amended.number, amended.quantity, amended.stop_price) == (order.number, Decimal("0.4"), Decimal(21_000))
    assert world.engine.view("main").balances["BTC"].held == Decimal("0.4")
    with pytest.raises(Refused, match="funds"):
        world.engine.amend("main", order.number, quantity=Decimal("2.1"))
    now = MARKET.last_price(BTC, START)
    assert world.engine.amend("main", order.number, stop_price=now + 10).state == "filled"


def test_an_order_cannot_be_amended_below_what_is_filled(world: World) -> None:
    order = world.place("sell", "limit", "1", limit_price="40000")
    world.engine.force_fill(order.number, Decimal("0.5"))
    with pytest.raises(Refused, match="order_qty"):
        world.engine.amend("main", order.number, quantity=Decimal("0.5"))
    assert world.engine.amend("main", order.number, quantity=Decimal("0.6")).remaining == Decimal("0.1")


def test_only_an_open_order_of_the_account_can_be_cancelled(world: World) -> None:
    order = world.place("buy", "limit", "0.1", limit_price="20000")
    world.engine.accounts.open("other")
    for account, number in (("other", order.number), ("main", order.number + 1)):
        with pytest.raises(Refused, match="unknown_order"):
            world.engine.cancel(account, number)
    assert world.engine.cancel("main", order.number).reason == "User requested"
    with pytest.raises(Refused, match="unknown_order"):
        world.engine.cancel("main", order.number)


def test_an_order_expires_at_its_time(world: World) -> None:
    order = world.place("buy", "limit", "0.1", limit_price="20000", expires_ns=START_NS + 30 * NS)
    world.clock.advance(29)
    assert world.order(order.number).state == "open"
    world.clock.advance(3_600)
    assert (world.order(order.number).state, world.order(order.number).closed_ns) == ("expired", START_NS + 30 * NS)


def test_the_dead_mans_switch_cancels_all_once(world: World) -> None:
    for price in ("20000", "21000"):
        world.place("buy", "limit", "0.1", limit_price=price)
    world.engine.cancel_all_after("main", 60)
    world.clock.advance(59)
    world.engine.cancel_all_after("main", 60)
    world.clock.advance(59)
    assert len(world.engine.open_orders("main")) == 2
    world.clock.advance(1)
    assert world.engine.open_orders("main") == []
    assert {order.closed_ns for order in world.engine.view("main").orders} == {START_NS + 119 * NS}
    world.place("buy", "limit", "0.1", limit_price="20000")
    world.engine.cancel_all_after("main", 60)
    assert world.engine.cancel_all_after("main", 0) is None
    world.clock.advance(600)
    assert len(world.engine.open_orders("main")) == 1


def test_of_an_oco_list_a_partly_filled_limit_order_ends_the_stop(world: World) -> None:
    stop = Request(BTC, "sell", "stop", Decimal(2), stop_price=Decimal(10_000))
    profit = Request(BTC, "sell", "limit", Decimal(2), limit_price=Decimal(40_000))
    first, second = world.engine.place_oco("main", (stop, profit))
    world.engine.amend("main", first.number, stop_price=Decimal(11_000))  # the other's reservation is its own too
    world.engine.force_fill(second.number, Decimal("0.5"))
    assert [world.order(number).state for number in (first.number, second.number)] == ["expired", "open"]
    assert world.engine.view("main").balances["BTC"].held == Decimal("1.5")


def test_of_an_oco_list_one_order_trades_and_the_other_ends(world: World) -> None:
    now = MARKET.last_price(BTC, START)
    stop = Request(BTC, "sell", "stop", Decimal(2), stop_price=min(t.price for t in tape(600)))
    profit = Request(BTC, "sell", "limit", Decimal(2), limit_price=now * 2)
    first, second = world.engine.place_oco("main", (stop, profit))
    assert world.engine.view("main").balances["BTC"].held == 2  # one reservation for both
    world.clock.advance(600)
    assert (world.order(first.number).state, world.order(second.number).state) == ("filled", "expired")
    assert world.order(second.number).reason == "OCO"


# --- fees, money ---


def test_a_fee_can_be_taken_in_base(world: World) -> None:
    before = world.engine.view("main").balances
    order = world.place("buy", "market", "1", fee_in_base=True)
    after = world.engine.view("main").balances
    assert (order.fee, order.fee_asset) == (Decimal("0.00400000"), "BTC")
    assert after["BTC"].total - before["BTC"].total == Decimal("0.996")
    assert before["USD"].total - after["USD"].total == order.cost


def test_fees_are_those_of_the_account(world: World) -> None:
    world.engine.accounts.change("main", fees=Fees(Decimal(0), Decimal("0.001")))
    order = world.place("buy", "market", "1")
    assert order.fee == (order.cost * Decimal("0.001")).quantize(Decimal("1e-4"), "ROUND_FLOOR")


def test_staked_coins_are_another_asset(world: World) -> None:
    world.engine.accounts.stake("main", "BTC", Decimal("1.5"))
    balances = world.engine.view("main").balances
    assert (balances["BTC"].total, balances["BTC.S"].total) == (Decimal("0.5"), Decimal("1.5"))
    assert refusal(world, "sell", "market", "0.6") == "funds"


def test_a_view_shows_the_account_as_it_was(world: World) -> None:
    before = world.engine.view("main")
    world.clock.advance(10)
    order = world.place("sell", "limit", "1", limit_price="40000")
    middle = world.engine.view("main")
    world.clock.advance(10)
    world.engine.force_fill(order.number)
    assert world.engine.view("main", START_NS) == before
    assert world.engine.view("main", START_NS + 15 * NS) == middle
    assert middle.balances["BTC"].held == 1


def test_trouble_on_cancelling_fills_half_before_or_after_it(world: World) -> None:
    world.engine.cancel_trouble = lambda _order: ("fill_before_cancel", 0.0)
    order = world.place("sell", "limit", "1", limit_price="40000")
    before = world.engine.cancel("main", order.number)
    assert (before.state, before.filled) == ("canceled", Decimal("0.5"))
    world.engine.cancel_trouble = lambda _order: ("fill_after_cancel", 5.0)
    order = world.place("sell", "limit", "1", limit_price="40000")
    assert world.engine.cancel("main", order.number).filled == 0
    world.clock.advance(4)
    assert world.order(order.number).filled == 0
    world.clock.advance(1)
    late = world.order(order.number)
    assert (late.state, late.filled) == ("canceled", Decimal("0.5"))
    assert world.engine.view("main").balances["BTC"].held == 0


def test_what_is_deferred_happens_at_its_moment_among_the_fills(world: World) -> None:
    seen: list[int] = []
    world.engine.defer(30, lambda: seen.append(world.engine.now_ns()))
    world.clock.advance(3_600)
    assert world.engine.now_ns() == START_NS + 3_630 * NS - 30 * NS
    assert seen == [START_NS + 30 * NS]


def test_what_arrives_in_the_middle_of_a_jump_is_matched_from_then_on(world: World) -> None:
    """Though the tape has been looked through for the orders that were there before."""
    world.place("buy", "limit", "0.1", limit_price="10000")
    trades = tape(600)
    fifth = trades[5].time_ns
    lowest = min((trade for trade in trades if trade.time_ns > fifth), key=lambda trade: trade.price)
    limit = str(lowest.price + TICK)
    world.engine.defer((fifth - START_NS) / NS, lambda: world.place("buy", "limit", "0.1", limit_price=limit))
    world.clock.advance(600)
    assert world.order(2).opened_ns == pytest.approx(fifth, abs=1000)
    assert world.order(2).closed_ns == lowest.time_ns


def test_a_listener_hears_every_event_in_order_until_it_leaves(world: World) -> None:
    heard: list[Any] = []
    leave = world.engine.subscribe(heard.append)
    world.place("buy", "market", "0.1")
    leave()
    world.place("buy", "market", "0.1")
    numbers = [event.number for event in heard]
    assert [event.kind for event in heard] == ["pending_new", "new", "ledger", "ledger", "trade", "filled"]
    assert numbers == list(range(numbers[0], numbers[0] + 6))
    assert heard == world.engine.events("main", numbers[0] - 1)[:6]
