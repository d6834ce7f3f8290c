"""Whatever stops a live wallet stops it at once: in the middle of a pass, by command or by file, until it is lifted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from policy.execution import crashpoints
from shared.exchanges.protocol import VenueStatus
from shared.settings import Settings
from tests.helpers import DatabaseFor
from tests.policy.engine_venue import ACCOUNT
from tests.policy.live_world import LiveWorld, acting_calls, check

pytestmark = pytest.mark.usefixtures("rolled_back")

NEVER = 10**6
STOPPED = ("pause", "kill", "flatten", "halt")


@pytest.fixture
def world(database_for: DatabaseFor, settings: Settings, tmp_path: Path) -> LiveWorld:
    """With a home of its own: KILL files are for everybody who shares one."""
    return LiveWorld(database_for, settings.model_copy(update={"home": tmp_path}))


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


def stop(world: LiveWorld, how: str, what: str) -> None:
    if how == "command":
        world.command(what)
    elif how == "command for all":
        world.command(what, wallet=False)
    else:
        path = world.settings.home_path / ("KILL" if how == "file for all" else "KILL.main")
        path.write_text(f"{what}\n")


def lift(world: LiveWorld) -> None:
    for path in world.settings.home_path.glob("KILL*"):
        path.unlink()
    world.command("resume")


@pytest.mark.parametrize("how", ["command", "command for all", "file", "file for all"])
@pytest.mark.parametrize("what", STOPPED)
def test_a_stop_in_the_middle_of_a_pass_lets_no_other_entry_out(
    world: LiveWorld, at_point: Callable[[str, Callable[[], None]], None], what: str, how: str
) -> None:
    world.send()
    first, second = world.intend("buy", "0.3"), world.intend("buy", "0.2", "ETH/USD")
    at_point("send.after_record", lambda: stop(world, how, what))
    world.send()
    sent = [order for order in (first, second) if world.venue_orders(order)]
    assert len(sent) == 1
    assert world.venues[-1].calls["place"] == (1 if what == "halt" else 2)  # the other one is the first one's stop
    (left,) = {first, second} - set(sent)
    assert world.events(left) == ([] if what == "halt" else ["canceled"])
    lift(world)
    world.pass_time(NEVER)
    world.send()
    assert world.venue_orders(left) == []
    check(world)


@pytest.mark.parametrize("how", ["command", "file"])
def test_after_a_halt_nothing_at_all_is_sent_and_stops_stay(
    world: LiveWorld, at_point: Callable[[str, Callable[[], None]], None], how: str
) -> None:
    """Not even the amendment of a stop, in the middle of the pass that it came in."""
    world.intend("buy", "0.5")
    world.send()
    world.pass_time(60)
    sale = world.intend("sell", "0.2")
    at_point("amend.after_record", lambda: stop(world, how, "halt"))
    world.send()
    assert acting_calls(world) == {"amend": 1}
    (resting,) = world.stops()
    assert (resting.quantity, world.position()) == (Decimal("0.3"), Decimal("0.5"))
    for _ in range(3):
        world.pass_time(60)
        world.send()
        assert acting_calls(world) == {}
    assert len(world.stops()) == 1
    lift(world)
    world.send()
    (resting,) = world.stops()
    assert resting.quantity == world.position() == Decimal("0.5")
    assert world.events(sale) == ["canceled"]  # what was decided before a halt is not sent after it
    check(world)


def test_a_kill_cancels_entry_orders_and_leaves_stops_and_sales(world: LiveWorld) -> None:
    world.intend("buy", "0.5")
    world.send()
    low, high = (Decimal(int(world.close_of("BTC/USD") * factor)) for factor in (0.8, 1.2))
    entry = world.intend("buy", "0.2", type="limit", limit_price=low)
    exit_ = world.intend("sell", "0.2", type="limit", limit_price=high)
    world.send()
    assert {o.client_id for o in world.venue_orders() if o.is_open and o.type == "limit"} == {str(entry), str(exit_)}
    world.command("kill")
    world.pass_time(30)
    world.send()
    world.send()
    assert world.events(entry)[-2:] == ["canceling", "canceled"]
    assert world.events(exit_)[-1] == "accepted"
    (resting,) = world.stops()
    assert resting.quantity == Decimal("0.3")
    assert world.alerted("amendment-refused") == 0  # nobody asked for more than is left
    check(world)


def test_a_paused_wallet_keeps_its_entry_orders(world: LiveWorld) -> None:
    low = Decimal(int(world.close_of("BTC/USD") * 0.8))
    entry = world.intend("buy", "0.2", type="limit", limit_price=low)
    world.send()
    world.command("pause")
    world.pass_time(30)
    world.send()
    assert world.events(entry) == ["sending", "accepted"]
    check(world)


def test_a_flatten_sells_in_bounded_steps_what_is_managed_and_nothing_else(
    database_for: DatabaseFor, settings: Settings, tmp_path: Path
) -> None:
    """A step is gone at once, whatever the book gave; the next pass writes the next one."""
    execution = settings.execution.model_copy(update={"flatten_slippage": 0.0})
    own = settings.model_copy(update={"home": tmp_path, "execution": execution})
    world = LiveWorld(database_for, own)
    world.engine.accounts.deposit(ACCOUNT, "BTC", Decimal(2))
    world.pass_time(60)
    world.intend("buy", "0.5")
    world.send()
    world.command("flatten")
    for _ in range(40):
        world.pass_time(60)
        world.send()
        if world.position() == 0:
            break
    steps = [o for o in world.venue_orders() if o.side == "sell" and o.type == "limit"]
    assert len(steps) > 1
    assert all(o.time_in_force == "ioc" and not o.is_open for o in steps)
    intents = world.rows("SELECT id, limit_price, reference_price FROM orders WHERE purpose = 'flatten'")
    assert all(float(row["limit_price"]) >= row["reference_price"] for row in intents)
    assert (world.position(), world.stops()) == (Decimal(0), [])
    assert world.engine.view(ACCOUNT).balances["BTC"].total == Decimal(2)
    check(world)


def test_a_flatten_goes_as_far_below_the_market_as_the_operator_allows(world: LiveWorld) -> None:
    world.intend("buy", "0.5")
    world.send()
    world.command("flatten")
    world.pass_time(60)
    world.send()
    step = world.one("SELECT limit_price, reference_price FROM orders WHERE purpose = 'flatten'")
    tick = world.market.rules("BTC/USD").tick_size
    floor = Decimal(repr(step["reference_price"])) * Decimal("0.98")
    assert 0 <= step["limit_price"] - floor < tick
    assert world.position() == 0
    check(world)


def test_dust_is_neither_flattened_nor_protected(world: LiveWorld) -> None:
    """Less than the venue takes as an order, by quantity or by value."""
    world.send()
    rules = world.market.rules("BTC/USD")
    world.adopt("BTC", rules.lot_size)
    world.command("flatten")
    world.send()
    assert acting_calls(world) == {}
    assert world.rows("SELECT id FROM orders") == []


def test_a_risk_stop_lets_exits_out_and_no_entry_until_a_resume(world: LiveWorld) -> None:
    world.intend("buy", "0.5")
    world.send()
    world.pass_time(60)
    world.stop_for_risk("drawdown of 25 %")
    entry, exit_ = world.intend("buy", "0.1", "ETH/USD"), world.intend("sell", "0.2")
    world.send()
    assert "drawdown of 25 %" in world.detail(entry)
    assert world.events(exit_)[-1] == "filled"
    world.pass_time(60)
    world.command("resume")
    later = world.intend("buy", "0.1", "ETH/USD")
    world.send()
    assert world.events(later)[-1] == "filled"
    assert world.venue_orders(entry) == []
    check(world)


@pytest.mark.parametrize("status", ["maintenance", "cancel_only", "post_only", "reduce_only"])
def test_while_a_venue_is_not_online_entries_wait_and_exits_go_where_it_takes_them(
    world: LiveWorld, status: VenueStatus
) -> None:
    world.intend("buy", "0.5")
    world.send()
    world.pass_time(60)
    entry, exit_ = world.intend("buy", "0.1", "ETH/USD"), world.intend("sell", "0.2")
    world.prepare = lambda venue: setattr(venue, "venue_status", status)
    world.send()
    assert world.events(entry) == []
    takes_exits = status in ("post_only", "reduce_only")
    assert world.events(exit_) == (["sending", "accepted", "filled"] if takes_exits else [])
    assert world.alerted("entry-waits") == 1
    world.prepare = lambda _venue: None
    world.pass_time(60)
    world.send()
    assert (world.events(entry)[-1], world.events(exit_)[-1]) == ("filled", "filled")
    check(world)
