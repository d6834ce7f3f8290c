"""The order path under a hostile reviewer: what is lost, late, doubled or refused stops entries, never exits."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from policy.execution.venues.protocol import Balance, CouldNotAsk, VenueFill
from shared.settings import Settings
from tests.exchange_emulator.records import Request
from tests.helpers import DatabaseFor
from tests.policy.engine_venue import ACCOUNT, EngineVenue
from tests.policy.live_world import LiveWorld, check

pytestmark = pytest.mark.usefixtures("rolled_back")

DAY_S = 86_400.0


@pytest.fixture
def world(database_for: DatabaseFor, settings: Settings) -> LiveWorld:
    return LiveWorld(database_for, settings)


def bought(world: LiveWorld, quantity: str = "0.5") -> None:
    world.intend("buy", quantity)
    world.send()
    assert world.position() == Decimal(quantity)


def trades_by_hand(world: LiveWorld, client_id: uuid.UUID | None = None) -> None:
    named = None if client_id is None else str(client_id)
    world.engine.place(ACCOUNT, Request("BTC/USD", "buy", "market", Decimal("0.1"), client_id=named))


def failing(kind: str) -> Callable[[EngineVenue], None]:
    """Every call of that kind is without an answer."""

    def prepare(venue: EngineVenue) -> None:
        venue.trouble = lambda asked, _nth: "lost" if asked == kind else "none"

    return prepare


# --- one wallet's trouble ---


def test_an_error_that_nobody_foresaw_ends_one_wallets_pass_and_is_told(world: LiveWorld) -> None:
    def breaks(venue: EngineVenue) -> None:
        def stumble() -> Any:
            raise KeyError("a field of an answer")

        venue.open_orders = stumble  # type: ignore[method-assign]

    world.send()
    world.prepare = breaks
    outcome = world.send()
    assert "KeyError" in outcome.result["failures"]["main"]
    assert world.alerted("sender-KeyError:main") == 1


def test_a_row_that_the_database_refuses_is_told(world: LiveWorld) -> None:
    def untrue(fill: VenueFill) -> VenueFill:
        return replace(fill, cost=fill.cost + 1)

    world.send()
    order = world.intend("buy", "0.1")
    world.prepare = lambda venue: setattr(venue, "retell", untrue)
    outcome = world.send()
    assert "CheckViolation" in outcome.result["failures"]["main"]
    assert world.alerted("sender-CheckViolation:main") == 1
    world.prepare = lambda _venue: None
    live = world.live_wallets()
    world.send(live)
    live.close()
    assert world.events(order)[-1] == "filled"
    check(world)


# --- what is read ---


def test_a_trade_that_is_listed_long_after_a_later_one_is_not_lost(world: LiveWorld) -> None:
    hidden = set[str]()
    world.prepare = lambda venue: setattr(venue, "retell", lambda f: None if f.venue_trade_id in hidden else f)
    world.send()
    trades_by_hand(world)
    hidden.update(str(f.number) for f in world.engine.view(ACCOUNT).fills)
    for _ in range(3):
        world.pass_time(600)
        trades_by_hand(world)
        world.send()
    hidden.clear()
    world.pass_time(30)
    world.send()
    check(world)


def test_a_year_of_history_is_not_read_again_and_again(world: LiveWorld) -> None:
    asked = list[tuple[str, float]]()

    def noted(venue: EngineVenue) -> None:
        def note(kind: str) -> None:
            ask = getattr(venue, kind)

            def told(since: float) -> Any:
                asked.append((kind, since))
                return ask(since)

            setattr(venue, kind, told)

        for kind in ("ledger", "closed_orders", "fills"):
            note(kind)

    bought(world)
    for _ in range(3):
        world.clock.advance(DAY_S)
        world.close_candles()
        world.send()
    (stop,) = world.stops()
    world.engine.cancel(ACCOUNT, stop.number)  # a stop that rested for days ends
    world.prepare = noted
    world.send()
    assert {kind for kind, _ in asked} == {"ledger", "closed_orders", "fills"}
    assert min(since for _, since in asked) > world.clock.now() - 2.5 * DAY_S
    check(world)


def test_what_only_an_operator_can_judge_outlives_a_pass_that_ended_early(world: LiveWorld) -> None:
    world.send()
    trades_by_hand(world, uuid.uuid5(uuid.NAMESPACE_DNS, "another installation"))
    world.pass_time(600)
    trades_by_hand(world)
    world.prepare = failing("balances")
    world.send()
    world.prepare = lambda _venue: None
    world.pass_time(600)
    entry = world.intend("buy", "0.1", "ETH/USD")
    world.send()
    assert world.events(entry)[-1] != "filled"


def test_a_mismatch_that_stays_costs_no_more_questions_than_two_looks(world: LiveWorld) -> None:
    def more(venue: EngineVenue) -> None:
        ask = venue.balances
        one = {"ETH": Balance(Decimal(1), Decimal(0))}
        venue.balances = lambda: ask() | one  # type: ignore[method-assign]

    bought(world)
    world.prepare = more
    world.pass_time(30)
    live = world.live_wallets()
    world.send(live)
    before = world.venues[-1].calls.copy()
    world.pass_time(30)
    world.send(live)
    live.close()
    assert world.alerted("reconciliation") == 1
    assert (world.venues[-1].calls - before).total() <= 14


def test_two_orders_of_one_intent_stop_entries_until_a_resume(world: LiveWorld) -> None:
    entry = world.intend("buy", "0.1")
    world.send()
    world.pass_time(60)
    trades_by_hand(world, entry)  # by a copy of this database
    world.send()
    assert world.alerted(f"order-doubled-{entry}") == 1
    second = world.intend("buy", "0.1", "ETH/USD")
    world.pass_time(600)
    world.send()
    assert world.events(second) == ["rejected"]


# --- exits ---


@pytest.mark.parametrize("silent", ["balances", "ledger"])
def test_what_cannot_be_compared_stops_entries_and_no_exit(world: LiveWorld, silent: str) -> None:
    bought(world)
    world.pass_time(600)
    exit_, entry = world.intend("sell", "0.2"), world.intend("buy", "0.1", "ETH/USD")
    world.prepare = failing(silent)
    outcome = world.send()
    assert "CouldNotAsk" in outcome.result["failures"]["main"]
    assert world.events(exit_)[-1] == "filled"
    assert world.events(entry) == []


def test_a_venue_that_does_not_tell_its_status_gets_exits_and_no_entries(world: LiveWorld) -> None:
    def silent() -> Any:
        raise CouldNotAsk("SystemStatus: the connection broke")

    bought(world)
    exit_, entry = world.intend("sell", "0.2"), world.intend("buy", "0.1", "ETH/USD")
    world.prepare = lambda venue: setattr(venue, "status", silent)
    world.send()
    assert world.events(exit_)[-1] == "filled"
    assert world.events(entry) == []


def test_a_flatten_takes_back_a_sale_that_waits_far_above(world: LiveWorld) -> None:
    bought(world)
    world.intend("sell", "0.5", type="limit", limit_price=Decimal(int(world.close_of("BTC/USD") * 2)))
    world.send()
    world.command("flatten")
    for _ in range(3):
        world.pass_time(30)
        world.send()
    assert world.position() == 0
    check(world)


def test_an_enlargement_that_comes_late_never_stands_beside_a_sale(world: LiveWorld) -> None:
    world.engine.accounts.deposit(ACCOUNT, "BTC", Decimal(5))  # the owner's, which a stop that is too large would sell
    world.pass_time(10)
    bought(world)

    def late(venue: EngineVenue) -> None:
        venue.trouble = lambda kind, nth: "late" if (kind, nth) == ("amend", 1) else "none"

    world.prepare = late
    world.intend("buy", "0.5")
    world.send()
    world.prepare = lambda _venue: None
    exit_ = world.intend("sell", "0.5")
    for _ in range(4):
        world.send()
        assert sum(stop.quantity for stop in world.stops()) <= world.position()
        world.pass_time(3)
        assert sum(stop.quantity for stop in world.stops()) <= world.position()
    assert world.events(exit_)[-1] == "filled"
    check(world)


def test_a_stop_that_is_rejected_is_told_whatever_else_was_rejected_that_day(world: LiveWorld) -> None:
    def refusing(venue: EngineVenue) -> None:
        venue.trouble = lambda kind, _nth: "refused" if kind == "place" else "none"

    bought(world)
    world.prepare = refusing
    world.intend("buy", "0.1")
    world.send()
    (stop,) = world.stops()
    world.engine.cancel(ACCOUNT, stop.number)
    world.send()
    told = {row["key"]: row["severity"] for row in world.rows("SELECT key, severity FROM alerts")}
    assert told["order-rejected-BTC/USD:main"] == "warning"
    assert told["stop-rejected-BTC/USD:main"] == "critical"


def test_an_exit_that_the_database_does_not_let_through_is_told(world: LiveWorld) -> None:
    bought(world)
    world.database_for("owner").execute("UPDATE instruments SET status = 'delisted' WHERE symbol = 'BTC/USD'")
    exit_ = world.intend("sell", "0.1")
    world.send()
    assert world.detail(exit_) == "BTC/USD is delisted"
    assert world.alerted("order-rejected-BTC/USD") == 1


# --- what was decided before a stop ---


def test_what_was_decided_before_a_stop_does_not_go_out_after_it(world: LiveWorld) -> None:
    bought(world)
    later = {"not_before": world.now + timedelta(seconds=60)}
    entry, exit_ = world.intend("buy", "0.1", "ETH/USD", **later), world.intend("sell", "0.1", **later)
    world.pass_time(10)
    world.command("halt")
    world.send()
    world.pass_time(10)
    world.command("resume")
    world.pass_time(60)
    world.send()
    assert world.events(entry) == ["canceled"]
    assert world.events(exit_) == ["canceled"]


def test_an_entry_from_before_a_resume_that_no_sender_saw_stopped_stays_unsent(world: LiveWorld) -> None:
    world.send()
    entry = world.intend("buy", "0.1")
    world.pass_time(1)
    world.command("kill")
    world.pass_time(1)
    world.command("resume")
    world.send()
    assert world.events(entry) == ["canceled"]


# --- never accepted ---


def unheard_limit(world: LiveWorld) -> uuid.UUID:
    """An entry that rests at the venue far below the market, and no list shows it for two minutes."""
    world.send()
    world.pass_time(600)

    def unheard(venue: EngineVenue) -> None:
        lagging(venue)
        venue.trouble = lambda kind, _nth: "unheard" if kind == "place" else "none"

    world.prepare = unheard
    entry = world.intend("buy", "0.5", type="limit", limit_price=Decimal(int(world.close_of("BTC/USD") * 0.5)))
    world.send()
    return entry


def lagging(venue: EngineVenue) -> None:
    venue.lag_s = 500.0


def test_an_order_that_no_list_shows_is_asked_for_by_itself_before_it_is_given_up(world: LiveWorld) -> None:
    entry = unheard_limit(world)
    world.prepare = lagging
    for _ in range(4):
        world.pass_time(30)
        world.send()
    assert world.events(entry) == ["sending", "unknown", "accepted"]


def test_an_order_that_was_given_up_and_rests_at_the_venue_is_taken_back(world: LiveWorld) -> None:
    def blind(venue: EngineVenue) -> None:
        lagging(venue)
        venue.find = lambda *_: None  # type: ignore[method-assign]

    entry = unheard_limit(world)
    world.prepare = blind
    for _ in range(4):
        world.pass_time(30)
        world.send()
    assert world.events(entry)[-1] == "rejected"
    world.prepare = lambda _venue: None
    world.send()
    assert world.alerted("order-revived") == 1
    assert not [o for o in world.venue_orders(entry) if o.is_open]
    check(world)
