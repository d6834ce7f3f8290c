"""A live wallet's money and stops: what is its own and what is not, and what protects it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from policy.execution import crashpoints
from policy.execution.cost_basis import average_cost, read_positions
from shared.settings import Settings
from tests.crash.schedules import Killed
from tests.exchange_emulator.records import Request
from tests.helpers import DatabaseFor
from tests.policy import engine_venue
from tests.policy.engine_venue import ACCOUNT, EngineVenue, Trouble
from tests.policy.live_world import CAPITAL, LiveWorld, check
from tests.policy.test_live_account import entry_is_refused
from tests.policy.test_live_sender import troubles

pytestmark = pytest.mark.usefixtures("rolled_back")

HOUR = 3600.0


@pytest.fixture
def world(database_for: DatabaseFor, settings: Settings) -> LiveWorld:
    return LiveWorld(database_for, settings)


def managed(world: LiveWorld, asset: str = "USD") -> tuple[Decimal, Decimal]:
    """What is the wallet's own of its account by its flows, and what is not."""
    rows = world.rows("SELECT managed, sum(amount) AS amount FROM cash_flows WHERE asset = %(a)s GROUP BY 1", a=asset)
    found = {row["managed"]: row["amount"] for row in rows}
    return found.get(True, Decimal(0)), found.get(False, Decimal(0))


# --- the first connection ---


@pytest.mark.parametrize(
    ("own", "cash"), [("all", CAPITAL), (Decimal(5_000), Decimal(5_000)), (None, Decimal(0))]
)  # fmt: skip
def test_the_first_connection_takes_what_it_was_told_to_and_leaves_the_rest(
    database_for: DatabaseFor, settings: Settings, own: Decimal | str | None, cash: Decimal
) -> None:
    world = LiveWorld(database_for, settings, managed=own)
    world.engine.accounts.deposit(ACCOUNT, "BTC", Decimal(2))
    world.pass_time(60)
    for _ in range(2):
        world.send()
    assert (world.cash(), managed(world)) == (cash, (cash, CAPITAL - cash))
    assert managed(world, "BTC") == (Decimal(0), Decimal(2))
    assert world.position() == 0
    check(world)


def test_more_than_there_is_cannot_be_managed(database_for: DatabaseFor, settings: Settings) -> None:
    world = LiveWorld(database_for, settings, managed=CAPITAL + 1)
    failures = world.send().result["failures"]["main"]
    assert "is to manage 100001 USD" in failures
    assert "lower managed_capital" in failures
    assert world.rows("SELECT id FROM cash_flows") == []
    world.engine.accounts.deposit(ACCOUNT, "USD", Decimal(1))
    world.pass_time(60)
    assert "failures" not in world.send().result
    assert world.cash() == CAPITAL + 1


def test_an_account_that_moves_while_it_is_looked_at_is_looked_at_again(world: LiveWorld) -> None:
    """It is not imported before a look during which nothing happened."""

    def restless(times: int) -> None:
        def prepare(venue: EngineVenue) -> None:
            shown = venue.balances

            def balances() -> Any:
                found = shown()
                if venue.calls["balances"] <= times:
                    world.engine.place(ACCOUNT, Request("BTC/USD", "buy", "market", Decimal("0.01")))
                    world.pass_time(2)
                return found

            venue.balances = balances  # type: ignore[method-assign]

        world.prepare = prepare

    restless(3)
    assert "account moved" in world.send().result["failures"]["main"]
    assert world.rows("SELECT id FROM cash_flows") == []
    restless(2)
    assert "failures" not in world.send().result
    assert managed(world, "BTC") == (Decimal(0), Decimal("0.05"))
    assert world.rows("SELECT venue_trade_id FROM external_fills") == []
    assert world.one("SELECT unmatched FROM reconciliations")["unmatched"] == 0


def test_a_death_while_an_account_is_imported_leaves_all_or_nothing(world: LiveWorld) -> None:
    for point in ("connect.before_import", "connect.after_import"):

        def die(name: str, point: str = point) -> None:
            if name == point:
                raise Killed

        crashpoints.hook = die
        with pytest.raises(Killed):
            world.send()
        crashpoints.hook = None
        world.database_for("sender").close()
        flows = world.rows("SELECT id FROM cash_flows")
        assert len(flows) == (0 if point == "connect.before_import" else 3)
    world.send()
    assert (len(world.rows("SELECT id FROM cash_flows")), world.cash()) == (3, CAPITAL)
    check(world)


def test_a_new_ledger_over_an_old_account_begins_stopped(world: LiveWorld) -> None:
    """Orders of our own format in the account's history: the database was restored, or made anew."""
    strange = str(uuid.uuid5(uuid.NAMESPACE_URL, "before"))
    world.engine.place(ACCOUNT, Request("BTC/USD", "buy", "market", Decimal("0.1"), client_id=strange))
    world.pass_time(HOUR)
    entry = world.intend("buy", "0.1", "ETH/USD")
    world.send()
    assert world.venue_orders(entry) == []
    assert world.alerted("ledger-without-history") == 1
    world.pass_time(10)
    world.command("resume")
    world.pass_time(10)
    assert entry_is_refused(world) == ""


# --- money that comes and goes ---


@pytest.mark.parametrize(("own", "share"), [("all", 1), (Decimal(5_000), 0), (None, 0)])
def test_what_is_paid_in_is_whose_the_wallet_says_to_the_cent(
    database_for: DatabaseFor, settings: Settings, own: Decimal | str | None, share: int
) -> None:
    world = LiveWorld(database_for, settings, managed=own)
    world.send()
    before, rest = managed(world)
    world.engine.accounts.deposit(ACCOUNT, "USD", Decimal("1234.56"))
    world.engine.accounts.deposit(ACCOUNT, "BTC", Decimal("0.5"))
    world.pass_time(400)
    for _ in range(3):
        world.send()
        world.pass_time(400)
    assert managed(world) == (before + share * Decimal("1234.56"), rest + (1 - share) * Decimal("1234.56"))
    assert managed(world, "BTC") == (Decimal(0), Decimal("0.5"))
    assert world.cash() == before + share * Decimal("1234.56")
    assert (world.position(), world.stops()) == (Decimal(0), [])
    check(world)


@pytest.mark.parametrize(
    ("amount", "own_part"),
    [("100.25", "0"), ("80000", "0"), ("80000.01", "0.01"), ("99000", "19000")],
)
def test_what_is_withdrawn_is_taken_first_from_what_is_not_the_wallets(
    database_for: DatabaseFor, settings: Settings, amount: str, own_part: str
) -> None:
    """Of 100,000 here 20,000 are managed."""
    world = LiveWorld(database_for, settings, managed=Decimal(20_000))
    world.send()
    world.engine.accounts.withdraw(ACCOUNT, "USD", Decimal(amount))
    for _ in range(3):
        world.pass_time(400)
        world.send()
    assert world.cash() == Decimal(20_000) - Decimal(own_part)
    assert managed(world)[1] == Decimal(80_000) - (Decimal(amount) - Decimal(own_part))
    assert world.one("SELECT bool_and(unmatched = 0) AS clean FROM reconciliations")["clean"]
    check(world)


def test_fees_transfers_and_staking_are_flows_and_no_mismatch(world: LiveWorld) -> None:
    world.engine.accounts.deposit(ACCOUNT, "BTC", Decimal(2))
    world.pass_time(60)
    world.send()
    world.engine.accounts.withdraw(ACCOUNT, "USD", Decimal(1000), fee=Decimal("2.50"))
    world.engine.accounts.transfer(ACCOUNT, "USD", Decimal("-500.01"))
    world.engine.accounts.stake(ACCOUNT, "BTC", Decimal("1.5"))
    world.pass_time(400)
    assert entry_is_refused(world) == ""
    row = world.one("SELECT sum(amount) AS paid FROM cash_flows WHERE asset = 'USD' AND kind <> 'found' AND managed"
                    " AND kind <> 'opening'")  # fmt: skip
    assert row["paid"] == Decimal("-1502.51")
    assert managed(world, "BTC") == (Decimal(0), Decimal("0.5"))
    check(world)


# --- stops ---


def test_an_adopted_position_that_fell_is_not_sold_by_being_protected(world: LiveWorld) -> None:
    """It is worth half of what it cost: a stop below its cost would be above the market."""
    world.engine.accounts.deposit(ACCOUNT, "BTC", Decimal(1))
    world.pass_time(60)
    world.send()
    close = Decimal(repr(world.close_of("BTC/USD")))
    world.adopt("BTC", Decimal(1), value=2 * close)
    world.pass_time(10)
    world.send()
    (stop,) = world.stops()
    tick = world.market.rules("BTC/USD").tick_size
    assert 0 <= close * Decimal("0.85") - stop.stop_price < tick
    assert (stop.quantity, world.position()) == (Decimal(1), Decimal(1))
    check(world)


def test_a_position_of_unknown_cost_is_protected_all_the_same(world: LiveWorld) -> None:
    world.engine.accounts.deposit(ACCOUNT, "BTC", Decimal(1))
    world.pass_time(60)
    world.send()
    world.adopt("BTC", Decimal(1))
    world.pass_time(10)
    world.send()
    (stop,) = world.stops()
    assert stop.quantity == 1
    assert world.alerted("cost-unknown") == 1
    check(world)


def test_a_stop_stands_below_what_the_position_cost_fees_included(world: LiveWorld) -> None:
    world.intend("buy", "0.5")
    world.send()
    position = read_positions(world.database_for("sender"), world.wallet_id)[world.instruments["BTC/USD"]]
    cost = average_cost(position)
    close = Decimal(repr(world.close_of("BTC/USD")))
    assert cost is not None
    (stop,) = world.stops()
    assert 0 <= min(cost, close) * Decimal("0.85") - stop.stop_price < world.market.rules("BTC/USD").tick_size


@pytest.mark.parametrize(
    ("amend", "point"),
    [(True, "amend.before_request"), (True, "amend.after_request"), (True, "amend.after_record"),
     (True, "send.before_approval"), (True, "send.before_request"), (False, "cancel.before_request"),
     (False, "cancel.after_request"), (False, "cancel.after_record"), (False, "send.before_request")],
)  # fmt: skip
def test_a_death_between_the_smaller_stop_and_the_sale_never_sells_too_much(
    database_for: DatabaseFor, settings: Settings, point: str, amend: bool
) -> None:
    world = LiveWorld(database_for, settings, amend=amend)
    world.intend("buy", "0.5")
    world.send()
    world.pass_time(60)
    sale = world.intend("sell", "0.2")

    def die(name: str) -> None:
        if name == point:
            raise Killed

    crashpoints.hook = die
    with pytest.raises(Killed):
        world.send()
    crashpoints.hook = None
    world.database_for("sender").close()
    selling = sum(o.remaining for o in world.venue_orders() if o.is_open and o.side == "sell")
    assert selling <= world.engine.view(ACCOUNT).balances["BTC"].total
    for _ in range(5 if point == "send.before_request" else 2):  # only what was lost takes its time
        world.pass_time(20)
        world.send()
    sold = [o for o in world.venue_orders(sale) if o.filled]
    assert world.position() == Decimal("0.5") - sum(o.filled for o in sold)
    (stop,) = world.stops()
    assert stop.quantity - stop.filled == world.position()
    assert sold or point == "send.before_request"  # written down as sent, and never sent: it is not tried again
    check(world)


@pytest.mark.parametrize("trouble", ["lost", "unheard"])
def test_a_sale_waits_until_its_room_is_certain(world: LiveWorld, trouble: Trouble) -> None:
    world.intend("buy", "0.5")
    world.send()
    world.pass_time(60)
    sale = world.intend("sell", "0.2")
    world.prepare = troubles(amend=trouble)
    world.send()
    assert "rejected" not in world.events(sale)
    assert world.events(sale) == ([] if trouble == "lost" else ["sending", "accepted", "filled"])
    world.prepare = lambda _venue: None
    world.pass_time(20)
    world.send()
    assert world.events(sale)[-1] == "filled"
    (stop,) = world.stops()
    assert stop.quantity == world.position() == Decimal("0.3")
    check(world)


def test_a_change_that_takes_effect_after_it_was_given_up_is_seen_and_mended(world: LiveWorld) -> None:
    """The stop made room for a sale whose deadline passed; the venue heard of it only then."""
    room_is_made_late(world, troubles(amend="late"), 1, 2)


def test_a_change_that_comes_later_than_anybody_waits_for_it_is_seen_and_mended(
    world: LiveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a venue that knows no deadline: the stop counted as unchanged again when it became smaller after all."""
    monkeypatch.setattr(engine_venue, "LATE_S", 8.0)
    late = troubles(amend="late")

    def prepare(venue: EngineVenue) -> None:
        venue.capabilities = replace(venue.capabilities, deadline=False)
        late(venue)

    room_is_made_late(world, prepare, 6, 3)


def room_is_made_late(world: LiveWorld, prepare: Callable[[EngineVenue], None], looks_s: float, then_s: float) -> None:
    """A sale is given up while its stop makes room: nothing has changed after ``looks_s``, all has ``then_s`` later."""
    world.intend("buy", "0.5")
    world.send()
    world.pass_time(60)
    world.intend("sell", "0.2", lifetime_s=1.0)
    world.prepare = prepare
    world.send()
    world.prepare = lambda _venue: None
    world.pass_time(looks_s)
    world.send()
    (stop,) = world.stops()
    assert stop.quantity == Decimal("0.5")
    world.pass_time(then_s)
    (stop,) = world.stops()
    assert stop.quantity == Decimal("0.3")
    world.send()
    (stop,) = world.stops()
    assert (stop.quantity, world.position()) == (Decimal("0.5"), Decimal("0.5"))
    check(world)
