"""Each type of order through approve() and the sender, on the emulator's engine."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal
from typing import Any

import pytest

from policy.decision_rows import order_terms
from shared.settings import Settings
from tests.exchange_emulator.book import Level, side_after
from tests.helpers import DatabaseFor
from tests.policy.engine_venue import ACCOUNT
from tests.policy.live_world import LiveWorld, check

pytestmark = pytest.mark.usefixtures("rolled_back")

TICK = Decimal("0.01")
LIVE = {"mode": "live", "name": "main"}


@pytest.fixture
def world(database_for: DatabaseFor, settings: Settings) -> LiveWorld:
    made = LiveWorld(database_for, settings)
    made.engine.accounts.deposit(ACCOUNT, "USD", Decimal(10_000_000))  # more than the best level of the book costs
    made.pass_time(60)
    made.send()
    return made


def at(world: LiveWorld, share: str) -> Decimal:
    """So much of the newest close, on the tick."""
    return (Decimal(repr(world.close_of("BTC/USD"))) * Decimal(share) / TICK).to_integral_value(ROUND_FLOOR) * TICK


def prices(world: LiveWorld, side: str) -> list[Decimal]:
    return [fill.price for fill in world.engine.view(ACCOUNT).fills if fill.side == side]


def test_the_traders_orders_are_filled_within_their_collar(world: LiveWorld) -> None:
    close = world.close_of("BTC/USD")
    bought = world.intend("buy", "0.5", **order_terms(LIVE, "buy", close, TICK, 0.01))
    world.send()
    assert world.events(bought) == ["sending", "accepted", "filled"]
    assert max(prices(world, "buy")) <= at(world, "1.01")
    sold = world.intend("sell", "0.5", **order_terms(LIVE, "sell", close, TICK, 0.01))
    world.send()
    assert world.events(sold) == ["sending", "accepted", "filled"]
    assert min(prices(world, "sell")) >= at(world, "0.99")
    assert (world.position(), world.stops()) == (Decimal(0), [])
    check(world)


def best_ask(world: LiveWorld) -> Level:
    """The first level of the book."""
    (trade,) = world.market.latest_trades("BTC/USD", world.engine.now_ns(), 1)
    return side_after(world.market, "BTC/USD", trade, "sell", 1)[0]


def test_what_the_collar_does_not_reach_is_not_bought_and_the_rest_is_protected(world: LiveWorld) -> None:
    """An order larger than the book within its collar: a part of it, at no worse price, and a stop for that."""
    level = best_ask(world)
    quantity = (level.volume + 1).quantize(Decimal("0.00001"))
    order = world.intend("buy", str(quantity), type="limit", time_in_force="ioc", limit_price=level.price)
    world.send()
    assert world.events(order) == ["sending", "accepted", "canceled"]
    assert (world.position(), prices(world, "buy")) == (level.volume, [level.price])
    lot = Decimal("0.00001")
    assert sum(stop.quantity for stop in world.stops()) == world.position() // lot * lot
    none = world.intend("buy", "0.5", type="limit", time_in_force="ioc", limit_price=at(world, "0.99"))
    before = world.position()
    world.send()
    assert (world.events(none), world.position()) == (["sending", "accepted", "canceled"], before)
    check(world)


def test_an_order_that_must_fill_whole_is_gone_where_it_cannot(world: LiveWorld) -> None:
    level = best_ask(world)
    quantity = (level.volume + 1).quantize(Decimal("0.00001"))
    order = world.intend("buy", str(quantity), type="limit", time_in_force="fok", limit_price=level.price)
    world.send()
    assert (world.events(order), world.position()) == (["sending", "accepted", "canceled"], Decimal(0))
    check(world)


def test_an_exit_whose_collar_is_not_reached_leaves_its_position_protected(world: LiveWorld) -> None:
    world.intend("buy", "0.5")
    world.send()
    order = world.intend("sell", "0.5", type="limit", time_in_force="ioc", limit_price=at(world, "1.01"))
    world.send()
    assert world.events(order) == ["sending", "accepted", "canceled"]
    assert (world.position(), sum(stop.quantity for stop in world.stops())) == (Decimal("0.5"), Decimal("0.5"))
    check(world)


@pytest.mark.parametrize(
    ("share", "terms", "events"),
    [
        ("0.99", {"time_in_force": "gtc", "post_only": True}, ["sending", "accepted"]),
        ("1.01", {"time_in_force": "gtc", "post_only": True}, ["sending", "rejected"]),  # it would take
        ("0.99", {"time_in_force": "gtc"}, ["sending", "accepted"]),
        ("1.01", {"time_in_force": "gtc"}, ["sending", "accepted", "filled"]),
        ("1.01", {"time_in_force": "fok"}, ["sending", "accepted", "filled"]),
        ("1.11", {"time_in_force": "ioc"}, ["rejected"]),  # approve(): far above the newest close
    ],
)
def test_a_limit_order_waits_takes_or_is_gone_as_it_says(
    world: LiveWorld, share: str, terms: dict[str, Any], events: list[str]
) -> None:
    order = world.intend("buy", "0.9", type="limit", limit_price=at(world, share), **terms)
    world.send()
    assert world.events(order) == events
    assert (world.position() > 0) == (events[-1] == "filled")
    world.command("kill")
    world.send()
    world.pass_time(20)
    world.send()
    assert not [o for o in world.venue_orders() if o.is_open and o.side == "buy"]
    check(world)
