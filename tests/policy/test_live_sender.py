"""The live sender against the emulator's engine: one order an intent, every fill once, a stop for every position."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest

from shared.settings import Settings
from shared.version import CODE
from tests.helpers import DatabaseFor
from tests.policy.engine_venue import ACCOUNT, EngineVenue, Trouble
from tests.policy.live_world import CAPITAL, LiveWorld, check

pytestmark = pytest.mark.usefixtures("rolled_back")


@pytest.fixture
def world(database_for: DatabaseFor, settings: Settings) -> LiveWorld:
    return LiveWorld(database_for, settings)


def troubles(**by_kind: Trouble) -> Callable[[EngineVenue], None]:
    """The first call of each named kind meets this trouble."""

    def prepare(venue: EngineVenue) -> None:
        venue.trouble = lambda kind, nth: by_kind.get(kind, "none") if nth == 1 else "none"

    return prepare


def test_an_intent_is_sent_filled_and_protected_in_one_run(world: LiveWorld) -> None:
    order = world.intend("buy", "0.5")
    outcome = world.send()
    assert world.events(order) == ["sending", "accepted", "filled"]
    assert world.position() == Decimal("0.5")
    (stop,) = world.stops()
    assert stop.quantity == Decimal("0.5")
    bought = world.one("SELECT sum(cost + fee) / sum(quantity) AS cost FROM fills")["cost"]
    assert abs(
        stop.stop_price / (min(bought, Decimal(repr(world.close_of("BTC/USD")))) * Decimal("0.85")) - 1
    ) < Decimal("1e-4")
    assert "failures" not in outcome.result
    check(world)


def test_an_entry_is_sent_by_the_code_that_decided_it_and_an_exit_by_any(world: LiveWorld) -> None:
    world.intend("buy", "0.5")
    world.send()
    entry = world.intend("buy", "0.1", code="0123456789ab")
    exit_ = world.intend("sell", "0.2", code="0123456789ab")
    world.pass_time(60)
    world.send()
    assert world.events(entry) == ["canceled"]
    assert world.detail(entry) == f"it was decided by code 0123456789ab, and this sender is of code {CODE}"
    assert world.venue_orders(entry) == []
    assert world.alerted("mixed-versions:main") == 1
    assert world.events(exit_)[-1] == "filled"
    assert world.position() == Decimal("0.3")
    check(world)


def test_a_run_with_nothing_to_do_changes_nothing(world: LiveWorld) -> None:
    world.intend("buy", "0.5")
    world.send()
    before = world.rows("SELECT * FROM order_events ORDER BY id"), world.venue_orders()
    world.pass_time(60)
    world.send()
    assert (world.rows("SELECT * FROM order_events ORDER BY id"), world.venue_orders()) == before
    check(world)


def test_a_sale_makes_the_stop_smaller_first(world: LiveWorld) -> None:
    world.intend("buy", "0.5")
    world.send()
    world.pass_time(60)
    world.intend("sell", "0.2")
    world.send()
    (stop,) = world.stops()
    assert (stop.quantity, world.position()) == (Decimal("0.3"), Decimal("0.3"))
    world.pass_time(60)
    world.intend("sell", "0.3")
    world.send()
    assert (world.stops(), world.position()) == ([], Decimal(0))
    check(world)


@pytest.mark.parametrize("trouble", ["lost", "unheard", "late"])
def test_an_unheard_answer_is_looked_for_and_never_sent_again(world: LiveWorld, trouble: Trouble) -> None:
    world.send()  # the account is known by now
    world.prepare = troubles(place=trouble)
    order = world.intend("buy", "0.5")
    world.send()
    world.prepare = troubles()
    for _ in range(12):
        world.pass_time(15)
        world.send()
    placed = [o for o in world.venue_orders() if o.type == "market"]
    assert len(placed) == (0 if trouble == "lost" else 1)
    end = "rejected" if trouble == "lost" else "filled"
    assert world.events(order)[:2] == ["sending", "unknown"]
    assert world.events(order)[-1] == end
    assert world.position() == (0 if trouble == "lost" else Decimal("0.5"))
    assert len(world.stops()) == (0 if trouble == "lost" else 1)
    check(world)


def test_money_that_was_there_is_never_touched(database_for: DatabaseFor, settings: Settings) -> None:
    world = LiveWorld(database_for, settings, managed=Decimal(5_000))
    world.engine.accounts.deposit(ACCOUNT, "BTC", Decimal(2))
    world.pass_time(60)
    world.send()
    assert (world.cash(), world.position()) == (Decimal(5_000), Decimal(0))
    unmanaged = {row["asset"]: row["amount"] for row in world.rows("SELECT * FROM unmanaged")}
    assert unmanaged == {"USD": CAPITAL - 5_000, "BTC": Decimal(2)}
    sale = world.intend("sell", "0.5")
    world.send()
    assert world.detail(sale) == "sells more than is held"
    check(world)


def test_coins_that_are_withdrawn_leave_the_wallet_at_their_worth_and_stop_nothing(world: LiveWorld) -> None:
    world.intend("buy", "0.5")
    world.send()
    world.engine.cancel(ACCOUNT, world.stops()[0].number)  # by hand: it holds the coins
    world.engine.accounts.withdraw(ACCOUNT, "BTC", Decimal("0.2"))
    world.pass_time(400)
    world.send()
    assert world.position() == Decimal("0.3")
    flow = world.one("SELECT amount, value, managed FROM cash_flows WHERE asset = 'BTC'")
    worth = Decimal("0.2") * Decimal(repr(world.close_of("BTC/USD")))
    assert (flow["amount"], flow["managed"]) == (Decimal("-0.2"), True)
    assert abs(flow["value"] + worth) < Decimal("1e-8")
    newest = world.rows("SELECT unmatched FROM reconciliations ORDER BY id DESC LIMIT 1")
    assert newest == [{"unmatched": 0}]
    check(world)
