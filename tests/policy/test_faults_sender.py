"""Faults of docs/faults.md that stop or mislead the sender in the middle: what it does then, and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest

from policy.execution import crashpoints
from shared.db import DatabaseError
from shared.settings import Settings
from tests.crash.second_sender import other_sender, superuser
from tests.helpers import DatabaseFor
from tests.policy.engine_venue import ACCOUNT, KEY, EngineVenue, Trouble
from tests.policy.live_world import LiveWorld, check

pytestmark = pytest.mark.usefixtures("rolled_back")

HALF = Decimal("0.5")


class Killed(BaseException):
    """The process ends here: no except clause of the program may catch it."""


@pytest.fixture
def world(database_for: DatabaseFor, settings: Settings) -> LiveWorld:
    """The account is known by now."""
    world = LiveWorld(database_for, settings)
    world.send()
    return world


@pytest.fixture
def at_point() -> Iterator[Callable[[str, Callable[[], None]], None]]:
    """Something happens when the sender passes a point for the first time."""

    def arrange(point: str, act: Callable[[], None]) -> None:
        def hook(name: str) -> None:
            if name == point:
                crashpoints.hook = None
                act()

        crashpoints.hook = hook

    yield arrange
    crashpoints.hook = None


def always(**by_kind: Trouble) -> Callable[[EngineVenue], None]:
    """Each call of a named kind meets this trouble."""

    def prepare(venue: EngineVenue) -> None:
        venue.trouble = lambda kind, _nth: by_kind.get(kind, "none")

    return prepare


def kill() -> None:
    raise Killed


def cut_connections(world: LiveWorld) -> None:
    with superuser(world.settings) as server:
        server.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'sextant_sender'"
            " AND datname = current_database()"
        )


def send_for(world: LiveWorld, seconds: int) -> None:
    for _ in range(seconds // 20):
        world.pass_time(20)
        world.send()


def resting_buy(world: LiveWorld) -> Decimal:
    """A limit price far enough below the market to rest there."""
    return Decimal(round(world.close_of("BTC/USD") * 0.95))


@pytest.mark.parametrize("death", ["killed", "disconnected"])
@pytest.mark.parametrize(("point", "taken"), [("send.before_request", False), ("send.after_request", True)])
@pytest.mark.usefixtures("own_database")
def test_ended_around_its_request_an_order_is_looked_for_and_not_sent_again(
    world: LiveWorld, at_point: Callable[[str, Callable[[], None]], None], point: str, taken: bool, death: str
) -> None:
    order = world.intend("buy", "0.5")
    at_point(point, kill if death == "killed" else lambda: cut_connections(world))
    if death == "killed":
        with pytest.raises(Killed):
            world.send()
        world.database_for("sender").close()
        assert world.events(order) == ["sending"]
    else:
        world.send()
    send_for(world, 100)
    arrived = taken or death == "disconnected"  # without its database it finishes the one request it was at
    assert len(world.venue_orders(order)) == arrived
    assert world.events(order)[-1] == ("filled" if arrived else "rejected")
    assert world.position() == sum((stop.quantity for stop in world.stops()), Decimal(0)) == (HALF if arrived else 0)
    check(world)


def test_a_partly_filled_order_whose_cancellation_is_refused_stays_open_with_what_it_has(world: LiveWorld) -> None:
    order = world.intend("buy", "0.5", type="limit", limit_price=resting_buy(world))
    world.send()
    (placed,) = world.venue_orders(order)
    world.engine.force_fill(placed.number, Decimal("0.2"))
    world.command("kill")
    world.prepare = always(cancel="refused")
    world.send()
    (working,) = [o for o in world.working() if o["order_id"] == order]
    assert (working["state"], working["rest"], world.position()) == ("accepted", Decimal("0.3"), Decimal("0.2"))
    assert [stop.quantity for stop in world.stops()] == [Decimal("0.2")]
    world.prepare = always()
    world.pass_time(30)
    world.send()
    world.send()
    assert world.events(order)[-1] == "canceled"
    assert (world.position(), len(world.stops())) == (Decimal("0.2"), 1)
    check(world)


def test_a_sale_waits_while_its_stop_cannot_be_made_smaller(world: LiveWorld) -> None:
    """As when the venue's counter of changes is used up (EOrder:Rate limit exceeded)."""
    world.intend("buy", "0.5")
    world.send()
    world.pass_time(60)
    sale = world.intend("sell", "0.2")
    world.prepare = always(amend="refused")
    world.send()
    assert world.events(sale) == []
    assert ([stop.quantity for stop in world.stops()], world.position()) == ([HALF], HALF)
    world.prepare = always()
    world.send()
    assert world.events(sale)[-1] == "filled"
    assert [stop.quantity for stop in world.stops()] == [Decimal("0.3")]
    check(world)


def test_when_the_venue_cancels_everything_the_stops_are_the_first_thing_that_is_back(world: LiveWorld) -> None:
    world.intend("buy", "0.5")
    world.send()
    (first,) = world.stops()
    world.engine.cancel_all(ACCOUNT, "the dead man's switch fired")
    world.pass_time(30)
    world.send()
    (second,) = world.stops()
    assert (second.quantity, second.stop_price) == (HALF, first.stop_price)
    assert second.number != first.number
    assert world.alerted("stop-gone") == 1
    check(world)


@pytest.mark.usefixtures("own_database")
def test_a_sender_that_wakes_up_after_another_has_taken_over_is_refused_by_the_venue(
    world: LiveWorld, at_point: Callable[[str, Callable[[], None]], None]
) -> None:
    """Its lock went with its connection while it slept, and what it is about to send was approved in its epoch."""
    order = world.intend("buy", "0.5")

    def sleep() -> None:
        cut_connections(world)
        world.pass_time(3)
        with other_sender(world) as second:
            second()

    at_point("send.before_request", sleep)
    world.send()
    assert world.venues[-2].calls["place"] == 1  # it tried
    assert world.venue_orders(order) == []
    send_for(world, 100)
    assert world.venue_orders(order) == []
    assert world.events(order)[-1] == "rejected"
    check(world)


@pytest.mark.usefixtures("own_database")
def test_what_cannot_be_written_down_is_not_sent(world: LiveWorld, settings: Settings) -> None:
    """A database that only reads, or whose disk is full: stops stay, and the next pass finds what changed."""
    world.intend("buy", "0.5")
    world.send()
    before = world.venue_orders()
    world.intend("buy", "0.1")
    owner = world.database_for("owner")
    owner.connection.execute(f"ALTER DATABASE {settings.db_name} SET default_transaction_read_only = on")
    cut_connections(world)
    world.database_for("sender").close()
    for _ in range(3):
        with pytest.raises(DatabaseError, match="read-only"):
            world.send()
    assert world.venue_orders() == before
    owner.connection.execute(f"ALTER DATABASE {settings.db_name} RESET default_transaction_read_only")
    world.database_for("sender").close()
    world.send()
    assert world.position() == Decimal("0.6")
    check(world)


def test_a_kill_takes_back_the_entry_that_was_in_flight(world: LiveWorld) -> None:
    order = world.intend("buy", "0.5", type="limit", limit_price=resting_buy(world))
    world.prepare = always(place="late")
    world.send()
    assert (world.events(order), world.venue_orders(order)) == (["sending", "unknown"], [])
    world.command("kill")
    late = world.intend("buy", "0.1")
    world.prepare = always()
    world.pass_time(10)
    world.send()
    world.send()
    (placed,) = world.venue_orders(order)
    assert (placed.state, world.events(order)[-1], world.events(late)) == ("canceled", "canceled", ["canceled"])
    assert world.venue_orders(late) == []
    check(world)


@pytest.mark.parametrize(("skew_s", "enters"), [(5.0, True), (-5.0, True), (6.0, False), (-6.0, False)])
def test_a_clock_that_is_off_lets_no_entry_out_and_every_exit(world: LiveWorld, skew_s: float, enters: bool) -> None:
    world.intend("buy", "0.5")
    world.send()
    world.pass_time(60)

    def skewed(venue: EngineVenue) -> None:
        venue.skew_s = skew_s + 0.5  # the venue tells whole seconds, and it is half past one

    world.prepare = skewed
    world.clock.advance(0.5)
    entry, exit_ = world.intend("buy", "0.1", "ETH/USD"), world.intend("sell", "0.2")
    world.send()
    assert bool(world.venue_orders(entry)) == enters
    assert world.events(exit_)[0] == "sending"
    assert world.alerted("entry-waits") == (not enters)


def test_a_clock_that_goes_off_under_a_sender_that_stays_is_noticed_and_its_return_too(world: LiveWorld) -> None:
    live = world.live_wallets()
    world.send(live)
    for skew_s, enters in ((6.5, False), (0.0, True)):
        world.venues[-1].skew_s = skew_s
        world.pass_time(3700)
        entry = world.intend("buy", "0.1", lifetime_s=60.0)
        world.send(live)
        assert bool(world.venue_orders(entry)) == enters
    live.close()
    check(world)


def test_a_key_that_may_withdraw_lets_no_entry_out_until_it_may_not(world: LiveWorld) -> None:
    """Asked hourly by a sender that stays."""
    live = world.live_wallets()
    world.send(live)
    world.engine.accounts.change_key(KEY, frozenset({"read", "trade", "withdraw"}))
    world.pass_time(3700)
    first = world.intend("buy", "0.5")
    world.send(live)
    assert "reconciliation" in world.detail(first)
    assert world.alerted("key-may-withdraw") == 1
    world.engine.accounts.change_key(KEY, frozenset({"read", "trade"}))
    world.pass_time(3700)
    world.send(live)
    second = world.intend("buy", "0.5")
    world.send(live)
    assert (world.events(second)[-1], world.venue_orders(first)) == ("filled", [])
    live.close()
    check(world)


def test_a_key_that_may_not_trade_is_said_and_sends_nothing(world: LiveWorld) -> None:
    world.engine.accounts.change_key(KEY, frozenset({"read"}))
    world.intend("buy", "0.5")
    assert "may not trade" in world.send().result["failures"]["main"]
    assert world.venue_orders() == []
    assert world.alerted("sender-AccountRefused") == 1
    (told,) = world.rows("SELECT message FROM alerts WHERE key LIKE 'sender-AccountRefused%%'")
    assert told["message"].count("main") == 1, "the error names its wallet, and nobody names it again"
