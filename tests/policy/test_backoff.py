"""A venue that takes no stop is asked again after growing pauses, and the position has its stop soon after it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.execution.backoff import LONGEST, SHORTEST, pause_after
from policy.execution.venues.protocol import NewOrder, Placed, Rejected
from shared.embedded_db import ensure_running
from shared.settings import Settings
from tests.conftest import database_maker
from tests.policy.engine_venue import ACCOUNT, EngineVenue
from tests.policy.live_world import FIVE, LiveWorld, check
from tests.policy.one_connection import OneConnection, open_superuser

BTC = "BTC/USD"
REASON = "kraken AddOrder: EOrder:Tick size check failed"


@pytest.fixture(scope="module")
def shared(home: Path) -> Iterator[tuple[OneConnection, Settings]]:
    with database_maker(home) as make:
        settings = make()
        url = ensure_running(home).url("postgres", ensure_running(home).superuser_password, settings.db_name)
        one = open_superuser(url)
        yield one, settings
        one.raw.close()


@pytest.fixture
def world(shared: tuple[OneConnection, Settings]) -> Iterator[LiveWorld]:
    """A position of 0.5 at a venue that takes no stop."""
    one, settings = shared
    with one.example():
        made = LiveWorld(one.database_for, settings)
        made.prepare = without_stops
        made.intend("buy", "0.5")
        made.send()
        assert made.position() == Decimal("0.5")
        yield made


def without_stops(venue: EngineVenue, rule: str = "") -> None:
    place = venue.place

    def refuse(order: NewOrder, nonce: int) -> Placed:
        return Rejected(REASON, rule=rule) if order.type == "stop" else place(order, nonce)

    venue.place = refuse  # type: ignore[method-assign]


def taken_again(_venue: EngineVenue) -> None:
    """As the emulator's engine has it."""


def stop_orders(world: LiveWorld) -> list[dict[str, Any]]:
    return world.rows("SELECT * FROM orders WHERE purpose = 'protect' ORDER BY recorded_at, id")


def pauses(world: LiveWorld) -> list[float]:
    """Seconds between one stop that was written and the next."""
    moments = [row["recorded_at"] for row in stop_orders(world)]
    return [(later - earlier).total_seconds() for earlier, later in pairwise(moments)]


def hold_the_close(world: LiveWorld, close: float) -> None:
    """The candles of the next day all close at one price, so that what should rest stays the same."""
    begin = int(world.clock.now()) // FIVE * FIVE
    world.database_for("candles").execute(
        "INSERT INTO market_data (instrument_id, timeframe_s, as_of, open, high, low, close, volume, source,"
        " recorded_at) SELECT %(i)s, %(t)s, to_timestamp(%(b)s + n * %(t)s), %(c)s, %(c)s, %(c)s, %(c)s, 1, 'test',"
        " now() FROM generate_series(1, 300) n ON CONFLICT DO NOTHING",
        {"i": world.instruments[BTC], "t": FIVE, "b": begin, "c": close},
    )


def pass_quietly(world: LiveWorld, seconds: float) -> None:
    world.clock.advance(seconds)
    world.send()


@given(st.integers(1, 10_000))
def test_a_pause_doubles_from_the_shortest_to_the_longest_and_no_further(rejections: int) -> None:
    pause = pause_after(rejections)
    assert SHORTEST <= pause <= LONGEST
    assert pause_after(rejections + 1) == min(2 * pause, LONGEST)
    assert pause_after(1) == SHORTEST == timedelta(seconds=5)
    assert pause_after(9) == LONGEST == timedelta(minutes=15)


def test_rejections_are_told_once_a_day_and_tried_four_times_an_hour_at_most(world: LiveWorld) -> None:
    hold_the_close(world, world.close_of(BTC))
    live = world.live_wallets()
    for seconds in (5, 10, 20, 40, 80, 160, 320, 640, *[300] * 24):  # a pass at each pause's end, then two hours
        world.clock.advance(seconds)
        world.send(live)
    gaps = pauses(world)
    assert gaps[:8] == [5, 10, 20, 40, 80, 160, 320, 640]
    assert gaps[8:] == [900] * 8
    world.clock.advance(86_400)
    world.send(live)
    live.close()
    alarms = world.rows("SELECT severity, day FROM alerts WHERE key LIKE 'stop-rejected%%' ORDER BY day")
    days = sorted({row["recorded_at"].date() for row in stop_orders(world)})
    assert len(days) == 2
    assert [(a["severity"], a["day"]) for a in alarms] == [("critical", day) for day in days]
    world.prepare = taken_again
    pass_quietly(world, LONGEST.total_seconds())
    assert [(stop.quantity, stop.state) for stop in world.stops()] == [(Decimal("0.5"), "open")]
    check(world)


def test_a_sender_that_starts_anew_waits_as_long_as_the_one_before(world: LiveWorld) -> None:
    hold_the_close(world, world.close_of(BTC))
    for seconds in (4, 1, 9, 1, 19, 1):  # each run is a new process
        pass_quietly(world, seconds)
    assert pauses(world) == [5, 10, 20]


@pytest.mark.parametrize(("share", "again"), [(0.9905, False), (0.98, True)])
def test_another_price_is_tried_at_once(world: LiveWorld, share: float, again: bool) -> None:
    hold_the_close(world, world.close_of(BTC))
    for seconds in (5, 10, 1):
        pass_quietly(world, seconds)
    assert len(stop_orders(world)) == 3
    world.database_for("candles").execute(
        "UPDATE market_data SET close = close * %(s)s, low = low * %(s)s WHERE instrument_id = %(i)s",
        {"s": share, "i": world.instruments[BTC]},
    )
    for _ in range(2):  # and not at once again
        pass_quietly(world, 1)
        assert len(stop_orders(world)) == 3 + again


def test_a_changed_position_begins_anew(world: LiveWorld) -> None:
    hold_the_close(world, world.close_of(BTC))
    for seconds in (5, 10, 20, 1):
        pass_quietly(world, seconds)
    assert len(stop_orders(world)) == 4
    world.intend("sell", "0.2")
    pass_quietly(world, 1)
    assert [row["quantity"] for row in stop_orders(world)[4:]] == [Decimal("0.3")]
    pass_quietly(world, 5)  # the first pause again, not the fifth
    assert len(stop_orders(world)) == 6


def test_what_is_adopted_is_protected_at_once(world: LiveWorld) -> None:
    hold_the_close(world, world.close_of(BTC))
    for seconds in (5, 10, 1):
        pass_quietly(world, seconds)
    world.adopt("BTC", Decimal("0.1"), Decimal(10_000))
    pass_quietly(world, 1)
    assert [row["quantity"] for row in stop_orders(world)[3:]] == [Decimal("0.6")]


def test_a_stop_that_was_taken_ends_the_row(world: LiveWorld) -> None:
    hold_the_close(world, world.close_of(BTC))
    for seconds in (5, 10):
        pass_quietly(world, seconds)
    world.prepare = taken_again
    pass_quietly(world, 20)
    (stop,) = world.stops()
    world.prepare = without_stops
    world.engine.cancel(ACCOUNT, stop.number)  # by hand
    pass_quietly(world, 1)
    pass_quietly(world, 4)
    assert len(stop_orders(world)) == 5
    pass_quietly(world, 1)
    assert len(stop_orders(world)) == 6


def test_what_approve_refuses_is_tried_as_seldom(world: LiveWorld) -> None:
    hold_the_close(world, world.close_of(BTC))
    world.prepare = taken_again
    world.database_for("candles").execute(
        "UPDATE instruments SET status = 'delisted', recorded_at = %(at)s WHERE symbol = %(s)s",
        {"at": world.now, "s": BTC},
    )
    for seconds in (5, 4, 1, 9, 1):
        pass_quietly(world, seconds)
    assert [world.detail(row["id"]) for row in stop_orders(world)[1:]] == [f"{BTC} is delisted"] * 2


def test_other_rules_of_the_venue_are_tried_at_once(world: LiveWorld) -> None:
    hold_the_close(world, world.close_of(BTC))
    for seconds in (5, 10, 20, 40, 1):
        pass_quietly(world, seconds)
    before = len(stop_orders(world))
    world.database_for("candles").execute(
        "UPDATE instruments SET tick_size = tick_size * 10, recorded_at = %(at)s WHERE symbol = %(s)s",
        {"at": world.now, "s": BTC},
    )
    world.prepare = taken_again
    pass_quietly(world, 1)
    assert (len(stop_orders(world)), len(world.stops())) == (before + 1, 1)


def test_a_broken_rule_is_told_with_its_name_and_what_to_do(world: LiveWorld) -> None:
    assert world.alerted("rule-broken") == 0
    world.prepare = lambda venue: without_stops(venue, "tick size")
    pass_quietly(world, 5)
    told = world.one("SELECT message FROM alerts WHERE key LIKE 'rule-broken-BTC/USD%%'")["message"]
    assert "tick size" in told
    assert "make refresh-rules VENUE=kraken" in told


# --- a stop that cannot be changed ---

# What Kraken's engine counts a pair's amendments by, its limit of the lowest tier, and what leaks away a second
# (reliability.md §1.5). An order that was changed less than so many seconds ago costs so much more.
LIMIT, LEAKS_PER_S, CHANGE = 60.0, 1.0, 1.0
YOUNG = ((5, 3.0), (10, 2.0), (15, 1.0))


def worst_count(moments: list[float]) -> float:
    """The highest that the engine's counter stood, of amendments at these seconds."""
    level = worst = 0.0
    for n, at in enumerate(moments):
        since = at - moments[n - 1] if n else 0.0
        young = next((cost for age, cost in YOUNG if since < age), 0.0)
        level = max(0.0, level - since * LEAKS_PER_S) + CHANGE + young
        worst = max(worst, level)
    return worst


def asked_changes(world: LiveWorld) -> list[Any]:
    found = world.rows("SELECT at FROM order_events WHERE event IN ('amending', 'canceling') ORDER BY id")
    return [row["at"] for row in found]


@pytest.mark.parametrize("amends", [True, False])
def test_a_refused_change_is_asked_for_after_growing_pauses_and_the_engines_counter_stays_low(
    world: LiveWorld, amends: bool
) -> None:
    hold_the_close(world, world.close_of(BTC))
    world.prepare, world.amend = taken_again, amends
    pass_quietly(world, 5)
    assert len(world.stops()) == 1
    world.prepare = lambda venue: setattr(venue, "trouble", lambda kind, _nth: "refused" if kind in ("amend", "cancel")
                                          else "none")  # fmt: skip
    world.intend("buy", "0.1")
    began, live = world.clock.now(), world.live_wallets()
    for seconds in (1, 4, 1, 9, 1, 19, 1, 39, 1):
        world.clock.advance(seconds)
        world.send(live)
    live.close()
    moments = [at.timestamp() - began for at in asked_changes(world)]
    assert moments == [1, 6, 16, 36, 76]
    assert worst_count(moments) < LIMIT / 4
    assert worst_count([float(n) for n in range(80)]) > LIMIT, "a change a pass would use it up"
    world.prepare = taken_again
    pass_quietly(world, 80)
    assert [stop.quantity for stop in world.stops()] == [Decimal("0.6")]
    check(world)


def unwilling(venue: EngineVenue) -> None:
    venue.trouble = lambda kind, _nth: "refused" if kind == "amend" else "none"


def test_another_change_than_the_refused_one_is_asked_for_at_once_and_one_that_comes_about_ends_the_row(
    world: LiveWorld,
) -> None:
    hold_the_close(world, world.close_of(BTC))
    world.prepare = taken_again
    pass_quietly(world, 5)
    world.prepare = unwilling
    for quantity, asked in (("0.1", 1), ("0.2", 2)):
        world.intend("buy", quantity)
        pass_quietly(world, 1)
        assert len(asked_changes(world)) == asked
    world.prepare = taken_again
    pass_quietly(world, 10)
    assert [stop.quantity for stop in world.stops()] == [Decimal("0.8")]
    world.prepare = unwilling
    world.intend("buy", "0.1")
    for seconds, asked in ((1, 4), (4, 4), (1, 5)):  # the first pause again, not the fourth
        pass_quietly(world, seconds)
        assert len(asked_changes(world)) == asked


def test_a_stop_that_is_to_follow_far_is_asked_for_at_once(world: LiveWorld) -> None:
    """A plain stop that trails by the candles, at a venue that refuses every amendment."""
    hold_the_close(world, world.close_of(BTC))

    def plain_and_unwilling(venue: EngineVenue) -> None:
        venue.capabilities = replace(venue.capabilities, order_types=("market", "limit", "stop"))
        unwilling(venue)

    world.prepare = plain_and_unwilling
    world.intend("buy", "0.1", bracket_trail=Decimal("0.05"))
    pass_quietly(world, 1)
    pass_quietly(world, 2 * FIVE)
    before = len(asked_changes(world))
    assert len(world.stops()) == 1
    for rise, asked in ((1.02, 1), (1.004, 1), (1.02, 2)):
        world.database_for("candles").execute(
            "UPDATE market_data SET high = high * %(r)s, close = close * %(r)s WHERE instrument_id = %(i)s",
            {"r": rise, "i": world.instruments[BTC]},
        )
        pass_quietly(world, 1)
        assert len(asked_changes(world)) - before == asked
