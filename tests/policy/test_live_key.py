"""What is checked before a live wallet trades: what its key may do, what its clock says, who else works for it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from policy.execution.venues.protocol import NewOrder, Placed
from shared.settings import Settings
from tests.crash.second_sender import other_sender
from tests.helpers import DatabaseFor
from tests.policy.engine_venue import KEY, EngineVenue
from tests.policy.live_world import LiveWorld, acting_calls, check

pytestmark = pytest.mark.usefixtures("rolled_back")

HOUR = 3600.0


@pytest.fixture
def world(database_for: DatabaseFor, settings: Settings) -> LiveWorld:
    return LiveWorld(database_for, settings)


@pytest.mark.parametrize(
    ("change", "alert"),
    [({"rights": frozenset({"read", "trade", "withdraw"})}, "key-may-withdraw"),
     ({"nonce_window": 10_000}, "nonce-window")],
)  # fmt: skip
def test_a_key_that_could_lose_money_otherwise_makes_no_entry(
    world: LiveWorld, change: dict[str, Any], alert: str
) -> None:
    """Found within the hour by a sender that stays; exits go on, and a mended key is taken."""
    before = world.engine.accounts.key(KEY)
    assert before is not None
    live = world.live_wallets()
    world.intend("buy", "0.5")
    world.send(live)
    world.engine.accounts.change_key(KEY, **change)
    world.pass_time(HOUR)
    entry, exit_ = world.intend("buy", "0.1", "ETH/USD"), world.intend("sell", "0.1")
    world.send(live)
    assert (world.venue_orders(entry), world.events(exit_)[-1]) == ([], "filled")
    assert world.alerted(alert) == 1
    world.engine.accounts.change_key(KEY, rights=before.rights, nonce_window=0)
    world.pass_time(HOUR)
    world.send(live)
    world.intend("buy", "0.1", "ETH/USD")
    world.send(live)
    assert world.position("ETH/USD") == Decimal("0.1")
    live.close()
    check(world)


def test_a_key_that_may_not_trade_is_told_and_nothing_is_tried(world: LiveWorld) -> None:
    world.engine.accounts.change_key(KEY, rights=frozenset({"read"}))
    entry = world.intend("buy", "0.5")
    outcome = world.send()
    assert "may not trade" in outcome.result["failures"]["main"]
    assert (world.events(entry), acting_calls(world)) == ([], {})


@pytest.mark.parametrize("skew_s", [7.0, -7.0])
def test_a_clock_that_is_off_makes_no_entry_and_is_measured_again_by_a_sender_that_stays(
    world: LiveWorld, skew_s: float
) -> None:
    live = world.live_wallets()
    world.intend("buy", "0.5")
    world.send(live)
    (venue,) = world.venues
    venue.skew_s = skew_s
    world.pass_time(HOUR)
    entry, exit_ = world.intend("buy", "0.1", "ETH/USD", lifetime_s=2 * HOUR), world.intend("sell", "0.1")
    world.send(live)
    assert (world.events(entry), world.events(exit_)[-1], world.alerted("entry-waits")) == ([], "filled", 1)
    venue.skew_s = 0.0
    world.pass_time(HOUR)
    world.send(live)
    assert world.events(entry)[-1] == "filled"
    live.close()
    check(world)


def test_the_deadline_of_an_order_is_by_the_venues_clock(world: LiveWorld) -> None:
    """Ours is three seconds behind: by it the deadline would leave two seconds."""
    sent: list[float | None] = []

    def prepare(venue: EngineVenue) -> None:
        venue.skew_s, place = 3.0, venue.place

        def told(order: NewOrder, nonce: int) -> Placed:
            sent.append(order.deadline)
            return place(order, nonce)

        venue.place = told  # type: ignore[method-assign]

    world.prepare = prepare
    world.intend("buy", "0.5")
    world.send()
    assert sent
    for deadline in sent:
        assert deadline is not None
        assert deadline - world.clock.now() == pytest.approx(8.0, abs=1.0)


@pytest.mark.usefixtures("own_database")
def test_a_second_sender_finds_the_wallet_taken_and_leaves_it_alone(world: LiveWorld, settings: Settings) -> None:
    live = world.live_wallets()
    world.send(live)
    world.intend("buy", "0.5")
    with other_sender(world) as second:
        second()
    assert (len(world.venues), world.position()) == (1, Decimal(0))
    world.send(live)
    assert world.position() == Decimal("0.5")
    live.close()
    check(world)
