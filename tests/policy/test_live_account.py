"""What a live wallet's account says, and what is made of it: trades late, twice, strange or untrue; lists that lag."""

from __future__ import annotations

import uuid
from dataclasses import replace
from decimal import Decimal

import pytest

from policy.execution import crashpoints
from policy.execution.venues.protocol import VenueFill
from shared.settings import Settings
from tests.crash.schedules import Killed
from tests.exchange_emulator.records import Request
from tests.helpers import DatabaseFor
from tests.policy.engine_venue import ACCOUNT, EngineVenue
from tests.policy.live_world import LiveWorld, acting_calls, check
from tests.policy.test_live_sender import troubles

pytestmark = pytest.mark.usefixtures("rolled_back")


@pytest.fixture
def world(database_for: DatabaseFor, settings: Settings) -> LiveWorld:
    return LiveWorld(database_for, settings)


@pytest.fixture
def shared(database_for: DatabaseFor, settings: Settings) -> LiveWorld:
    """A small part of the account is the wallet's."""
    return LiveWorld(database_for, settings, managed=Decimal(20_000))


def by_hand(world: LiveWorld, client_id: uuid.UUID | None = None, side: str = "buy", quantity: str = "0.1") -> None:
    """Somebody else's market order on the same account."""
    named = None if client_id is None else str(client_id)
    world.engine.place(ACCOUNT, Request("BTC/USD", side, "market", Decimal(quantity), client_id=named))  # type: ignore[arg-type]


def resting(world: LiveWorld, quantity: str = "0.5", share: float = 0.9) -> tuple[uuid.UUID, int]:
    """A limit buy that waits below the market: our id, the venue's number."""
    limit = Decimal(int(world.close_of("BTC/USD") * share))
    order_id = world.intend("buy", quantity, type="limit", limit_price=limit)
    world.send()
    (placed,) = world.venue_orders(order_id)
    return order_id, placed.number


def entry_is_refused(world: LiveWorld) -> str:
    """What becomes of an entry now; empty where it is filled."""
    entry = world.intend("buy", "0.01", "ETH/USD")
    world.send()
    return "" if world.events(entry)[-1] == "filled" else world.detail(entry)


# --- trades ---


def test_a_partly_filled_order_goes_on_until_it_is_filled(world: LiveWorld) -> None:
    order, number = resting(world)
    for share in ("0.1", "0.15"):
        world.engine.force_fill(number, Decimal(share))
        world.send()
        world.pass_time(30)
    assert world.events(order) == ["sending", "accepted"]
    (stop,) = world.stops()
    assert stop.quantity == world.position() == Decimal("0.25")
    world.engine.force_fill(number)
    world.send()
    assert world.events(order) == ["sending", "accepted", "filled"]
    assert world.position() == Decimal("0.5")
    check(world)


def test_an_order_that_was_partly_filled_and_cancelled_has_not_been_filled(world: LiveWorld) -> None:
    order, number = resting(world)
    world.engine.force_fill(number, Decimal("0.1"))
    world.engine.cancel(ACCOUNT, number)
    world.pass_time(30)
    world.send()
    assert world.events(order)[-1] == "canceled"
    (stop,) = world.stops()
    assert stop.quantity == world.position() == Decimal("0.1")
    check(world)


def test_a_fee_in_coins_makes_the_position_smaller(world: LiveWorld) -> None:
    """And so the stop: what is held is less than what was bought."""
    world.prepare = lambda venue: setattr(venue, "fee_in_base", True)
    world.intend("buy", "0.5")
    world.send()
    world.pass_time(30)
    world.send()
    fee = world.one("SELECT sum(fee) AS fee FROM fills WHERE fee_asset = 'BTC'")["fee"]
    assert fee > 0
    assert world.position() == Decimal("0.5") - fee
    (stop,) = world.stops()
    assert 0 <= world.position() - stop.quantity < world.market.rules("BTC/USD").lot_size
    check(world)


@pytest.mark.parametrize(
    "point", ["send.before_approval", "send.before_request", "send.after_request", "send.after_record"]
)
def test_a_death_around_a_request_sends_nothing_twice_and_nothing_unapproved(world: LiveWorld, point: str) -> None:
    world.send()
    order = world.intend("buy", "0.5")

    def die(name: str) -> None:
        if name == point:
            raise Killed

    crashpoints.hook = die
    with pytest.raises(Killed):
        world.send()
    crashpoints.hook = None
    world.database_for("sender").close()
    approved = world.rows("SELECT order_id FROM approvals WHERE order_id = %(id)s", id=order)
    assert (len(approved), world.events(order)[:1]) == (
        (0, []) if point == "send.before_approval" else (1, ["sending"])
    )
    for _ in range(5 if point == "send.before_request" else 2):  # only what was lost takes its time
        world.pass_time(20)
        world.send()
    assert len(world.venue_orders(order)) == (0 if point == "send.before_request" else 1)
    assert world.events(order)[-1] == ("rejected" if point == "send.before_request" else "filled")
    check(world)


def test_trades_that_are_told_again_and_again_are_counted_once(world: LiveWorld) -> None:
    world.prepare = lambda venue: setattr(venue, "repeats", 3)
    world.intend("buy", "0.5")
    for _ in range(3):
        world.send()
        world.pass_time(5)
    assert world.position() == Decimal("0.5")
    check(world)


def test_an_order_has_not_ended_before_all_its_trades_are_here(world: LiveWorld) -> None:
    """However much later the venue lists the last of them, and whatever it lists in between."""
    world.intend("buy", "0.5", "ETH/USD")
    world.send()
    order = world.intend("buy", "0.5")

    def not_listed(fill: VenueFill) -> VenueFill | None:
        return None if fill.symbol == "BTC/USD" else fill

    world.prepare = lambda venue: setattr(venue, "retell", not_listed)
    world.send()
    assert world.events(order) == ["sending", "accepted"]
    world.pass_time(7_200)
    world.intend("sell", "0.5", "ETH/USD")
    world.send()
    assert (world.position("ETH/USD"), world.position()) == (Decimal(0), Decimal(0))
    world.prepare = lambda _venue: None
    world.pass_time(600)
    world.send()
    assert world.events(order)[-1] == "filled"
    check(world)


def test_lists_that_lag_decide_nothing_too_early(world: LiveWorld) -> None:
    """An unheard order, and lists that show the account as it was half a minute ago."""
    world.send()
    order = world.intend("buy", "0.5")

    def prepare(venue: EngineVenue) -> None:
        venue.lag_s = 30.0
        venue.trouble = lambda kind, _nth: "unheard" if kind == "place" else "none"

    world.prepare = prepare
    world.send()
    for _ in range(3):
        world.pass_time(8)
        world.send()
        assert world.events(order) == ["sending", "unknown"]
    world.pass_time(8)
    world.send()
    assert world.events(order) == ["sending", "unknown", "accepted", "filled"]
    world.prepare = lambda _venue: None
    world.pass_time(30)
    world.send()
    check(world)


def test_a_trade_after_a_confirmed_cancellation_is_counted_and_told(world: LiveWorld) -> None:
    order, _ = resting(world)
    world.engine.cancel_trouble = lambda placed: ("fill_after_cancel", 5.0) if placed.side == "buy" else None
    world.command("kill")
    world.send()
    world.send()
    assert world.events(order)[-1] == "canceled"
    assert world.position() == 0
    world.command("resume")
    world.pass_time(30)
    world.send()
    assert world.position() == Decimal("0.25")
    assert world.alerted("late-fill-") == 1
    (stop,) = world.stops()
    assert stop.quantity == Decimal("0.25")
    check(world)


def test_a_trade_of_somebody_else_is_recorded_told_and_left_alone(shared: LiveWorld) -> None:
    world = shared
    world.send()
    world.pass_time(30)
    by_hand(world)
    world.pass_time(30)
    world.send()
    external = world.rows("SELECT side, quantity, symbol, client_order_id FROM external_fills")
    assert external == [{"side": "buy", "quantity": Decimal("0.1"), "symbol": "BTC/USD", "client_order_id": None}]
    assert (world.position(), world.stops()) == (Decimal(0), [])
    assert world.alerted("external-fill-") == 1
    assert entry_is_refused(world) == ""
    check(world)


def test_managed_coins_that_are_sold_by_hand_keep_entries_away(world: LiveWorld) -> None:
    """The trade itself is external, and every balance still agrees: only what is unmanaged falls below nothing."""
    world.intend("buy", "0.5")
    world.send()
    (stop,) = world.stops()
    world.engine.cancel(ACCOUNT, stop.number)
    by_hand(world, side="sell", quantity="0.5")
    world.pass_time(30)
    world.send()
    assert entry_is_refused(world) != ""
    row = world.one("SELECT findings FROM reconciliations ORDER BY id DESC LIMIT 1")
    assert [found["what"] for found in row["findings"]] == ["unmanaged BTC"]
    by_hand(world, quantity="0.5")
    world.pass_time(30)
    world.send()
    assert entry_is_refused(world) != ""  # the dearer purchase, and both fees, were paid with the wallet's cash
    world.engine.accounts.deposit(ACCOUNT, "USD", Decimal(2000))
    world.pass_time(30)
    world.send()


def test_another_installation_on_the_same_key_stops_entries_until_a_resume(shared: LiveWorld) -> None:
    """An order of our own format that is in no ledger of ours."""
    world = shared
    world.intend("buy", "0.5")
    world.send()
    world.pass_time(30)
    by_hand(world, uuid.uuid5(uuid.NAMESPACE_URL, "another installation"))
    by_hand(world, uuid.uuid4())  # not of our format: a person's tool
    world.pass_time(30)
    world.send()
    assert world.alerted("another-installation") == 1
    assert world.position() == Decimal("0.5")
    for _ in range(2):
        world.pass_time(400)
        assert entry_is_refused(world) != ""
    exit_ = world.intend("sell", "0.1")
    world.send()
    assert world.events(exit_)[-1] == "filled"
    world.pass_time(10)
    world.command("resume")
    world.pass_time(30)
    assert entry_is_refused(world) == ""
    by_hand(world, uuid.uuid5(uuid.NAMESPACE_URL, "once more"))
    world.pass_time(30)
    world.send()
    assert entry_is_refused(world) != ""


def test_a_trade_that_is_told_otherwise_stays_as_it_was_until_an_operator_has_looked(world: LiveWorld) -> None:
    """And once looked at it is not told again, though the venue tells it for ever."""
    world.intend("buy", "0.5")
    world.send()
    before = world.rows("SELECT * FROM fills ORDER BY venue_trade_id")

    def dearer(fill: VenueFill) -> VenueFill:
        return replace(fill, fee=fill.fee + 1) if fill.symbol == "BTC/USD" else fill

    world.prepare = lambda venue: setattr(venue, "retell", dearer)
    world.pass_time(30)
    world.send()
    assert world.rows("SELECT * FROM fills ORDER BY venue_trade_id") == before
    assert world.alerted("fill-conflict-") == len(before)
    assert entry_is_refused(world) != ""
    world.pass_time(10)
    world.command("resume")
    world.pass_time(10)
    assert entry_is_refused(world) == ""
    check(world)


def test_an_order_that_is_filled_beyond_its_size_is_told_and_waits_for_an_operator(world: LiveWorld) -> None:
    def doubled(fill: VenueFill) -> VenueFill:
        return replace(fill, quantity=fill.quantity * 2, cost=fill.cost * 2)

    world.prepare = lambda venue: setattr(venue, "retell", doubled)
    order = world.intend("buy", "0.5")
    world.send()
    assert world.events(order)[-1] == "filled"
    assert world.alerted("overfill-") == 1
    row = world.one("SELECT lasting, findings FROM reconciliations ORDER BY id DESC LIMIT 1")
    assert row["lasting"]
    assert {"overfill", "balance"} <= {found["kind"] for found in row["findings"]}


@pytest.mark.parametrize("silent", ["open_orders", "closed_orders", "fills"])
def test_what_was_not_answered_says_nothing(world: LiveWorld, silent: str) -> None:
    """An order whose fate is not known, and a venue that cannot be asked: for as long as that is so, nothing ends."""
    world.send()
    world.prepare = troubles(place="lost")
    order = world.intend("buy", "0.5")
    world.send()

    def mute(venue: EngineVenue) -> None:
        venue.trouble = lambda kind, _nth: "lost" if kind == silent else "none"

    world.prepare = mute
    for _ in range(6):
        world.pass_time(60)
        outcome = world.send()
        assert "CouldNotAsk" in str(outcome.result.get("failures"))
    assert world.events(order) == ["sending", "unknown"]
    world.prepare = lambda _venue: None
    for number in range(1, 4):
        world.pass_time(10)
        world.send()
        assert (world.events(order)[-1] == "rejected") == (number == 3)
    check(world)


def test_never_accepted_needs_answers_that_came_late_enough(world: LiveWorld) -> None:
    """Three answers within the minute are none: the request may still be on its way."""
    world.send()
    world.prepare = troubles(place="lost")
    order = world.intend("buy", "0.5")
    world.send()
    world.prepare = lambda _venue: None
    for _ in range(12):  # 60 s after it was sent: 55 s after it could have arrived
        world.pass_time(5)
        world.send()
    assert world.events(order) == ["sending", "unknown"]
    world.pass_time(5)
    world.send()
    assert world.events(order) == ["sending", "unknown", "rejected"]
    check(world)


def test_an_accepted_order_that_is_listed_nowhere_keeps_entries_away(world: LiveWorld) -> None:
    _, number = resting(world)

    def forgetful(venue: EngineVenue) -> None:
        shown = venue.open_orders
        venue.open_orders = lambda: [o for o in shown() if o.venue_order_id != str(number)]  # type: ignore[method-assign]

    world.prepare = forgetful
    for _ in range(4):
        world.pass_time(60)
        world.send()
    assert world.alerted("order-missing-") == 1
    assert entry_is_refused(world) != ""
    world.prepare = lambda _venue: None
    world.pass_time(60)
    assert entry_is_refused(world) == ""
    check(world)


def test_a_sender_that_was_away_for_days_finds_what_happened_meanwhile(world: LiveWorld) -> None:
    """A stop that was filled the day before yesterday is no mismatch."""
    world.intend("buy", "0.5")
    world.send()
    (stop,) = world.stops()
    world.pass_time(3600)
    world.engine.force_fill(stop.number)
    world.pass_time(2 * 86_400)
    for _ in range(2):  # the second look goes back no further than the lists of a day
        world.send()
        assert world.position() == 0
        assert world.one("SELECT findings FROM reconciliations ORDER BY id DESC LIMIT 1")["findings"] == []
        world.pass_time(600)
    check(world)


def test_a_death_between_the_trade_and_the_end_of_an_order_loses_neither(world: LiveWorld) -> None:
    order = world.intend("buy", "0.5")

    def die(name: str) -> None:
        if name == "account.before_end":
            raise Killed

    crashpoints.hook = die
    with pytest.raises(Killed):
        world.send()
    crashpoints.hook = None
    world.database_for("sender").close()
    assert (world.events(order), world.position()) == (["sending", "accepted"], Decimal("0.5"))
    world.pass_time(30)
    world.send()
    assert world.events(order) == ["sending", "accepted", "filled"]
    assert acting_calls(world) == {"place": 1}  # its stop
    check(world)
