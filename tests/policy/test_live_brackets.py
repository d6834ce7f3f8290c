"""Brackets of live entries on the emulator's engine: the stop where the entry's row says, a target that takes the
stop's place, and never both; whatever dies in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

import pytest

from policy.execution import crashpoints
from shared.settings import Settings
from tests.crash.schedules import Killed
from tests.exchange_emulator.market import Bar
from tests.helpers import DatabaseFor
from tests.policy.engine_venue import ACCOUNT, EngineVenue, Trouble
from tests.policy.live_world import FIVE, LiveWorld, check

pytestmark = pytest.mark.usefixtures("rolled_back")

BTC = "BTC/USD"
TICK = Decimal("0.01")
ONE, BELOW = Decimal(1), Decimal("0.9995")  # BELOW: more than the spread
POINTS = ("cancel.before_request", "cancel.after_request", "cancel.after_record", "intent.after_protect",
          "send.before_approval", "send.before_request", "send.after_request", "send.after_record",
          "account.before_fill", "account.after_fill", "account.before_end", "account.after_end")  # fmt: skip


@pytest.fixture
def world(database_for: DatabaseFor, settings: Settings) -> LiveWorld:
    made = LiveWorld(database_for, settings)
    made.send()  # the account is known
    return made


def without_trailing(venue: EngineVenue) -> None:
    types = tuple(kind for kind in venue.capabilities.order_types if kind != "trailing_stop")
    venue.capabilities = replace(venue.capabilities, order_types=types)


def troubled(**first_call: Trouble) -> Callable[[EngineVenue], None]:
    def prepare(venue: EngineVenue) -> None:
        venue.trouble = lambda kind, nth: first_call.get(kind, "none") if nth == 1 else "none"

    return prepare


def resting(world: LiveWorld) -> list[Any]:
    return [o for o in world.venue_orders() if o.is_open and o.side == "sell" and o.symbol == BTC]


def next_bars(world: LiveWorld, count: int) -> list[Bar]:
    """The candles to come, from the first that opens from now on: the emulated market is a function of its seed."""
    opens = -(-int(world.clock.now()) // FIVE) * FIVE
    return list(world.market.bars(BTC, FIVE, opens, opens + count * FIVE))


def pass_bars(world: LiveWorld, bars: list[Bar]) -> None:
    """Until the last of ``bars`` has closed."""
    world.pass_time(bars[-1].opened + FIVE + 1 - world.clock.now())


def a_rise(world: LiveWorld) -> list[Bar]:
    """The candles until the first that closes clearly above now and all highs before it."""
    highest, bars = Decimal(repr(world.close_of(BTC))), next_bars(world, 500)
    for n, bar in enumerate(bars):
        if bar.close * BELOW > highest * Decimal("1.001"):
            return bars[: n + 1]
        highest = max(highest, bar.high)
    raise AssertionError("no candle closes so high")


def down(price: Decimal) -> Decimal:
    return (price / TICK).to_integral_value(ROUND_FLOOR) * TICK


def entry_price(world: LiveWorld) -> Decimal:
    return Decimal(world.one("SELECT sum(cost) / sum(quantity) AS price FROM fills WHERE side = 'buy'")["price"])


def target_legs(world: LiveWorld) -> list[dict[str, Any]]:
    return world.rows("SELECT * FROM orders WHERE purpose = 'protect' AND type = 'limit' ORDER BY recorded_at")


def enter_with_target(world: LiveWorld) -> tuple[list[Bar], Decimal]:
    """A position of 0.5 with a stop far below and a target that the last of the candles told closes above."""
    bars = a_rise(world)
    target = bars[-1].close * BELOW
    world.intend("buy", "0.5", bracket_target=target, bracket_stop=target * Decimal("0.9"))
    world.send()
    return bars, target


def test_the_stop_stands_where_the_entry_says_if_that_is_higher(world: LiveWorld) -> None:
    close = Decimal(repr(world.close_of(BTC)))
    world.intend("buy", "0.5", bracket_stop=close * Decimal("0.95"))
    world.send()
    (stop,) = resting(world)
    assert (stop.type, stop.stop_price, stop.quantity) == ("stop", down(close * Decimal("0.95")), Decimal("0.5"))
    world.pass_time(60)
    world.intend("buy", "0.1")  # names none: the position's stays
    world.send()
    (stop,) = resting(world)
    assert (stop.stop_price, stop.quantity) == (down(close * Decimal("0.95")), Decimal("0.6"))
    world.intend("buy", "0.1", bracket_stop=close * Decimal("0.97"))
    world.send()
    (stop,) = resting(world)
    assert (stop.stop_price, stop.quantity) == (down(close * Decimal("0.97")), Decimal("0.7"))
    check(world)


def test_a_bracket_ends_with_its_position(world: LiveWorld) -> None:
    close = Decimal(repr(world.close_of(BTC)))
    world.intend("buy", "0.5", bracket_stop=close * Decimal("0.97"), bracket_target=close * Decimal("1.0001"))
    world.send()
    world.pass_time(60)
    world.intend("sell", "0.5")
    world.send()
    world.pass_time(60)
    world.intend("buy", "0.3")
    world.send()
    (stop,) = resting(world)
    assert stop.stop_price < close * Decimal("0.86")
    pass_bars(world, a_rise(world))
    world.send()
    assert target_legs(world) == []
    check(world)


def test_the_venue_trails_where_it_can(world: LiveWorld) -> None:
    world.intend("buy", "0.5", bracket_trail=Decimal("0.05"))
    world.send()
    (stop,) = resting(world)
    assert (stop.type, stop.trail, stop.quantity) == ("trailing_stop", Decimal("0.05"), Decimal("0.5"))
    pass_bars(world, a_rise(world))
    world.intend("sell", "0.2")
    world.send()
    (after,) = resting(world)
    assert (after.number, after.trail, after.quantity) == (stop.number, Decimal("0.05"), Decimal("0.3"))
    assert after.stop_price > stop.stop_price
    check(world)


@pytest.mark.parametrize("amend", [True, False])
def test_elsewhere_the_stop_follows_the_candles_up_and_never_down(
    database_for: DatabaseFor, settings: Settings, amend: bool
) -> None:
    world = LiveWorld(database_for, settings, amend=amend)
    world.prepare, trail = without_trailing, Decimal("0.05")
    world.intend("buy", "0.5", bracket_trail=trail)
    world.send()
    (stop,) = resting(world)
    assert (stop.type, stop.stop_price) == ("stop", down(entry_price(world) * (ONE - trail)))
    peak, levels = entry_price(world), [stop.stop_price]
    for bar in next_bars(world, 6):
        pass_bars(world, [bar])
        world.send()
        peak = max(peak, bar.high)
        (stop,) = resting(world)
        assert (stop.stop_price, stop.quantity) == (down(peak * (ONE - trail)), Decimal("0.5"))
        levels.append(stop.stop_price)
    assert levels == sorted(levels)
    assert levels[-1] > levels[0]
    check(world)


def test_a_refused_trailing_stop_is_a_plain_one_next_time(world: LiveWorld) -> None:
    world.intend("buy", "0.5", bracket_trail=Decimal("0.05"))
    world.prepare = lambda venue: setattr(venue, "trouble", lambda kind, nth: "refused" if (kind, nth) == ("place", 2)
                                          else "none")  # fmt: skip
    world.send()
    assert resting(world) == []
    world.prepare = troubled()
    world.send()
    (stop,) = resting(world)
    assert (stop.type, stop.stop_price) == ("stop", down(entry_price(world) * Decimal("0.95")))
    check(world)


def test_a_price_below_its_stop_is_left_where_no_stop_can_rest(world: LiveWorld) -> None:
    """A venue that refuses a stop above the market leaves nothing but to sell."""
    close = Decimal(repr(world.close_of(BTC)))
    falls = next(bar for bar in next_bars(world, 500) if bar.close < close * Decimal("0.999"))
    level = falls.close + TICK
    world.prepare = lambda venue: setattr(venue, "trouble", lambda kind, nth: "refused" if (kind, nth) == ("place", 2)
                                          else "none")  # fmt: skip
    world.intend("buy", "0.5", bracket_stop=level)
    world.send()
    world.prepare = troubled()
    pass_bars(world, [falls])
    world.send()
    assert (world.position(), resting(world)) == (Decimal(0), [])
    assert world.rows("SELECT 1 FROM orders WHERE purpose = 'protect' AND type = 'market'")
    check(world)


def test_at_the_target_the_stop_makes_room_and_all_is_sold_there_or_better(world: LiveWorld) -> None:
    bars, target = enter_with_target(world)
    (stop,) = resting(world)
    if len(bars) > 1:
        pass_bars(world, bars[:-1])
        world.send()
        assert (target_legs(world), resting(world)[0].number) == ([], stop.number)
    world.pass_time(bars[-1].opened + FIVE + 1 - world.clock.now())
    world.send()
    (leg,) = target_legs(world)
    limit = (target / TICK).to_integral_value(ROUND_CEILING) * TICK
    assert (leg["limit_price"], leg["time_in_force"], leg["quantity"]) == (limit, "ioc", Decimal("0.5"))
    assert str(leg["sibling_id"]) == stop.client_id
    sold = [f for f in world.engine.view(ACCOUNT).fills if f.side == "sell"]
    assert all(f.price >= limit for f in sold)
    assert (sum(f.quantity for f in sold), world.position(), resting(world)) == (Decimal("0.5"), Decimal(0), [])
    check(world)


def test_a_target_that_was_missed_is_tried_once_a_candle_and_its_stop_is_back_at_once(world: LiveWorld) -> None:
    bars, _ = enter_with_target(world)
    pass_bars(world, bars)
    world.prepare = troubled(place="refused")
    world.send()
    assert len(target_legs(world)) == 1
    assert [(o.type, o.quantity) for o in resting(world)] == [("stop", Decimal("0.5"))]
    world.prepare = troubled()
    world.pass_time(5)
    world.send()
    assert len(target_legs(world)) == 1
    check(world)


def test_what_a_stop_sold_while_it_made_room_is_not_sold_again(world: LiveWorld) -> None:
    world.engine.accounts.deposit(ACCOUNT, "BTC", Decimal(2))  # not ours: a sale of too much would find it
    bars, _ = enter_with_target(world)
    pass_bars(world, bars)
    world.engine.cancel_trouble = lambda _order: ("fill_before_cancel", 0.0)
    world.send()
    world.engine.cancel_trouble = lambda _order: None
    for _ in range(3):
        world.pass_time(20)
        world.send()
    (unmanaged,) = [row["amount"] for row in world.rows("SELECT * FROM unmanaged WHERE asset = 'BTC'")]
    sold = sum((f.quantity for f in world.engine.view(ACCOUNT).fills if f.side == "sell"), Decimal(0))
    assert (unmanaged, sold + world.position()) == (Decimal(2), Decimal("0.5"))
    check(world)


def test_no_two_orders_sell_the_same_coin(world: LiveWorld) -> None:
    """A sale of the trader's, a target and a flatten in one pass: what is sold and what rests is what was held."""
    bars, _ = enter_with_target(world)
    pass_bars(world, bars)
    world.intend("sell", "0.3")
    world.command("flatten")
    world.prepare = troubled(place="unheard")
    world.send()
    world.prepare = troubled()
    for _ in range(6):
        world.pass_time(20)
        world.send()
        sold = sum((f.quantity for f in world.engine.view(ACCOUNT).fills if f.side == "sell"), Decimal(0))
        assert sold + sum((o.remaining for o in resting(world)), Decimal(0)) <= Decimal("0.5")
    assert world.position() == 0
    check(world)


def deaf_after_placing(venue: EngineVenue) -> None:
    """The answer to its first order is lost, and from then on its lists tell the account as it was 30 s ago."""

    def trouble(kind: str, nth: int) -> Trouble:
        if (kind, nth) != ("place", 1):
            return "none"
        venue.lag_s = 30.0
        return "unheard"

    venue.trouble = trouble


def test_while_a_targets_fate_is_unknown_nothing_else_sells(world: LiveWorld) -> None:
    world.engine.accounts.deposit(ACCOUNT, "BTC", Decimal(2))
    bars, _ = enter_with_target(world)
    pass_bars(world, bars)
    world.prepare = deaf_after_placing
    world.send()
    world.pass_time(5)
    sale = world.intend("sell", "0.5")
    world.prepare = lambda venue: setattr(venue, "lag_s", 30.0)
    world.send()
    assert world.events(sale) == []
    world.prepare = troubled()
    world.pass_time(60)
    world.send()
    sold = sum((f.quantity for f in world.engine.view(ACCOUNT).fills if f.side == "sell"), Decimal(0))
    assert (sold, world.position()) == (Decimal("0.5"), Decimal(0))
    check(world)


@pytest.mark.parametrize("point", POINTS)
def test_whatever_dies_at_the_target_no_coin_is_sold_twice(world: LiveWorld, point: str) -> None:
    world.engine.accounts.deposit(ACCOUNT, "BTC", Decimal(2))
    bars, _ = enter_with_target(world)
    pass_bars(world, bars)
    passed: Counter[str] = Counter()

    def hook(name: str) -> None:
        passed[name] += 1
        if name == point:
            raise Killed

    crashpoints.hook = hook
    try:
        with pytest.raises(Killed):
            world.send()
    finally:
        crashpoints.hook = None
        world.database_for("sender").close()
    check(world, settled=False)
    for _ in range(6):
        world.pass_time(20)
        world.send()
        assert sum((o.remaining for o in resting(world)), Decimal(0)) <= world.position()
    sold = sum((f.quantity for f in world.engine.view(ACCOUNT).fills if f.side == "sell"), Decimal(0))
    assert sold + world.position() == Decimal("0.5")
    assert sum((o.remaining for o in resting(world)), Decimal(0)) == world.position()
    check(world)


def test_the_stop_leg_ends_the_target_leg(world: LiveWorld) -> None:
    """The stop sells all; the target is reached later: nothing is sold again."""
    world.engine.accounts.deposit(ACCOUNT, "BTC", Decimal(2))
    bars, _ = enter_with_target(world)
    (stop,) = resting(world)
    world.engine.force_fill(stop.number)
    pass_bars(world, bars)
    world.send()
    assert (world.position(), target_legs(world), resting(world)) == (Decimal(0), [], [])
    check(world)


def test_a_protected_position_stays_so_while_the_price_falls(world: LiveWorld) -> None:
    """A stop that sank with the price would never be reached."""
    world.intend("buy", "0.5")
    world.send()
    (stop,) = resting(world)
    instrument = world.instruments[BTC]
    for share in (0.97, 0.94, 0.91, 0.88):
        world.pass_time(FIVE)
        world.database_for("owner").execute(
            "UPDATE market_data SET close = %(c)s, low = %(c)s WHERE instrument_id = %(i)s"
            " AND as_of = (SELECT max(as_of) FROM market_data WHERE instrument_id = %(i)s)",
            {"c": float(stop.stop_price) / 0.85 * share, "i": instrument},
        )
        world.send()
        assert [(o.number, o.stop_price) for o in resting(world)] == [(stop.number, stop.stop_price)]
