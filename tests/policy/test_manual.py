"""Orders by hand: each place becomes one order at most, in its own words, within its minute, under every limit."""

from __future__ import annotations

import uuid
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from psycopg.errors import CheckViolation, InsufficientPrivilege, UniqueViolation

from policy.execution import crashpoints
from policy.execution.collar import collar
from policy.execution.manual import take_up_on_paper
from shared.db import load_queries
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor
from tests.policy.live_world import LiveWorld, check
from tests.policy.paper_world import FIVE, A, PaperMarket, at, candles, opened
from tests.shared.spine_rows import insert

pytestmark = pytest.mark.usefixtures("rolled_back")
BTC = "BTC/USD"
MINUTE = timedelta(seconds=60)
ORDERS = "SELECT * FROM orders WHERE purpose = 'manual' ORDER BY recorded_at"


@pytest.fixture
def world(database_for: DatabaseFor, settings: Settings, tmp_path: Path) -> LiveWorld:
    """A live wallet whose account is known."""
    world = LiveWorld(database_for, settings.model_copy(update={"home": tmp_path}))
    world.send()
    return world


def place(world: LiveWorld, side: str, quantity: str, limit: Decimal | None = None, changes: Any = None) -> int:
    """As `make place` writes it, but for ``changes``; the command's id."""
    row = {"wallet_id": world.wallet_id, "command": "place", "reason": "a hunch", "issuer": "cli:anna",
           "idempotency_key": str(uuid.uuid4()), "issued_at": world.now, "expires_at": world.now + MINUTE,
           "instrument_id": world.instruments[BTC], "side": side, "quantity": Decimal(quantity),
           "limit_price": limit} | (changes or {})  # fmt: skip
    insert(world.database_for("cli").connection, "commands", row)
    return int(world.one("SELECT max(id) AS id FROM commands")["id"])


def the_order(world: LiveWorld) -> dict[str, Any]:
    return world.one(ORDERS)


def limits(world: LiveWorld, **changes: Any) -> None:
    for column, value in changes.items():
        world.database_for("cli").execute(f"UPDATE limits SET {column} = %(v)s", {"v": value})


# --- live ---


def test_a_purchase_by_hand_is_one_order_within_the_collar_and_its_position_gets_its_stop(world: LiveWorld) -> None:
    command = place(world, "buy", "0.5")
    world.send()
    order = the_order(world)
    close, tick = world.close_of(BTC), world.market.rules(BTC).tick_size
    assert order["limit_price"] == collar("buy", close, world.settings.execution.max_slippage, tick)
    assert (order["command_id"], order["decision_id"], order["author"]) == (command, None, "sender")
    assert (order["type"], order["time_in_force"], order["because"]) == ("limit", "ioc", "by hand, cli:anna: a hunch")
    assert order["deadline"] == world.now + MINUTE
    assert world.position() == Decimal("0.5")
    assert [stop.quantity for stop in world.stops()] == [Decimal("0.5")]
    world.send()
    assert len(world.venue_orders(order["id"])) == 1
    assert len(world.rows(ORDERS)) == 1
    check(world)


def test_a_sale_by_hand_makes_its_stop_smaller_first_and_no_more_is_sold_than_is_held(world: LiveWorld) -> None:
    place(world, "buy", "0.5")
    world.send()
    place(world, "sell", "0.2")
    place(world, "sell", "0.4")
    world.send()
    assert world.position() == Decimal("0.3")
    assert [stop.quantity for stop in world.stops()] == [Decimal("0.3")]
    *_, last = world.rows(ORDERS + ", command_id")
    assert world.detail(last["id"]).startswith("sells more than is held")
    check(world)


def test_a_limit_that_the_market_does_not_reach_is_gone_and_nothing_rests(world: LiveWorld) -> None:
    tick = world.market.rules(BTC).tick_size
    limit = collar("sell", world.close_of(BTC), 0.05, tick)
    place(world, "buy", "0.5", limit)
    world.send()
    order = the_order(world)
    assert order["limit_price"] == limit
    assert world.events(order["id"])[-1] in ("canceled", "expired")
    assert world.position() == 0
    assert not world.working()


@pytest.mark.parametrize(("after_s", "orders"), [(59.9, 1), (60.0, 0)])
def test_a_place_holds_for_a_minute(world: LiveWorld, after_s: float, orders: int) -> None:
    place(world, "buy", "0.5")
    world.pass_time(after_s)
    assert "failures" not in world.send().result
    assert len(world.rows(ORDERS)) == len(world.venue_orders()) - len(world.stops()) == orders


def test_a_place_that_was_taken_up_is_over_with_its_minute_too(world: LiveWorld) -> None:
    """A sender that died before the venue was asked, and comes back late."""
    place(world, "buy", "0.5")
    die_at(world, "send.before_approval")
    world.pass_time(60)
    world.send()
    assert world.detail(the_order(world)["id"]) == "its deadline has passed"
    assert world.venue_orders() == []


def test_a_sender_that_dies_in_between_takes_a_place_up_once(world: LiveWorld) -> None:
    place(world, "buy", "0.5")
    die_at(world, "send.before_approval")
    assert world.events(the_order(world)["id"]) == []
    world.send()
    assert world.position() == Decimal("0.5")
    assert len(world.rows(ORDERS)) == 1
    check(world)


class Died(Exception):
    pass


def die_at(world: LiveWorld, point: str) -> None:
    def hook(name: str) -> None:
        if name == point:
            raise Died

    crashpoints.hook = hook
    try:
        world.send()
    finally:
        crashpoints.hook = None


@pytest.mark.parametrize("stop", ["pause", "kill", "halt"])
@pytest.mark.parametrize("by", ["command", "file"])
def test_a_stop_forbids_purchases_by_hand_and_a_halt_sales_too(world: LiveWorld, stop: str, by: str) -> None:
    place(world, "buy", "0.5")
    world.send()
    if by == "command":
        world.command(stop)
    else:
        (world.settings.home_path / "KILL.main").write_text(stop)
    place(world, "buy", "0.1")
    place(world, "sell", "0.2")
    world.send()
    bought, sold = world.rows(ORDERS + ", side, command_id")[1:]
    assert world.events(bought["id"]) == ["canceled"]
    assert stop in world.detail(bought["id"])
    if stop == "halt":
        assert world.events(sold["id"]) == ["canceled"]
        assert "halt" in world.detail(sold["id"])
    assert world.position() == Decimal("0.5" if stop == "halt" else "0.3")


def test_what_was_asked_for_before_a_resume_dies_with_the_stop(world: LiveWorld) -> None:
    place(world, "buy", "0.5")
    world.command("halt")
    world.pass_time(5)
    world.command("resume")
    world.send()
    assert world.detail(the_order(world)["id"]) == "it was asked for before the wallet was resumed: ask again"
    assert world.venue_orders() == []


def test_a_voided_place_is_never_taken_up_nor_sent(world: LiveWorld) -> None:
    """What `make restore` voids: the one that nobody took up, and the one whose order had not gone out."""
    place(world, "buy", "0.5")
    die_at(world, "send.before_approval")
    place(world, "buy", "0.7")
    voided = world.database_for("owner").execute(load_queries("backup")["void_commands"], {"at": world.now})
    assert voided == 3, "both, and the resume"
    world.send()
    assert world.detail(the_order(world)["id"]) == "its command was voided: a backup was restored since"
    assert world.venue_orders() == []


def test_every_limit_holds_for_an_order_by_hand(world: LiveWorld) -> None:
    close, tick, lot = Decimal(repr(world.close_of(BTC))), world.market.rules(BTC).tick_size, Decimal("0.00000001")
    whole = (close / tick).to_integral_value() * tick
    refused = {}

    def tell(name: str, quantity: str, limit: Decimal | None = None, side: str = "buy", **changes: Any) -> None:
        limits(world, **changes)
        place(world, side, quantity, limit)
        world.pass_time(1)
        world.send()
        refused[name] = world.detail(world.rows(ORDERS)[-1]["id"])
        limits(world, symbols=[BTC, "ETH/USD"], max_order_notional=10**9, max_day_notional=None)

    tell("order", "0.5", max_order_notional=close / 2 - 1)
    tell(
        "order by its limit", "0.5", whole * Decimal("1.05") // tick * tick, max_order_notional=close * Decimal("0.51")
    )
    tell("far", "0.5", whole * Decimal("1.2") // tick * tick)
    tell("day", "0.5", max_day_notional=close / 4)
    tell("list", "0.5", symbols=["ETH/USD"])
    tell("cash", "50")
    tell("tick", "0.5", whole + tick / 2 if tick > lot else whole)
    tell("lots", "0.00000001")
    tell("least", "0.00001")
    assert refused["order"].startswith("notional above the limit")
    assert refused["order by its limit"].startswith("notional above the limit")
    assert "is far above the newest close" in refused["far"]
    assert refused["day"].startswith("bought more than")
    assert refused["list"] == "BTC/USD is not on the allow-list"
    assert refused["cash"] == "costs more than the cash that no other order has reserved"
    assert "is not in whole ticks of" in refused["tick"]
    assert "is not in whole lots of" in refused["lots"]
    assert refused["least"].startswith("worth less than the ")
    assert world.venue_orders() == []


# --- what the database takes ---


INVENTED: dict[str, dict[str, Any]] = {
    "another side": {"side": "sell"},
    "another quantity": {"quantity": Decimal("0.6")},
    "another instrument": {"instrument_id": 2},
    "another limit": {"limit_price": Decimal(2)},
    "resting": {"time_in_force": "gtc"},
    "without a limit": {"type": "market", "time_in_force": "gtc", "limit_price": None},
    "a stop": {"type": "stop", "time_in_force": "gtc", "limit_price": None, "stop_price": 1},
    "too late": {"recorded_at": timedelta(seconds=60)},
    "too early": {"recorded_at": timedelta(seconds=-1)},
    "longer than it holds": {"deadline": timedelta(seconds=61)},
    "a bracket": {"bracket_stop": 1},
}


def by_hand(world: LiveWorld, command: int) -> dict[str, Any]:
    """The order that a place of 0.5, or that with a limit of 1, becomes."""
    return {"id": uuid.uuid4(), "command_id": command, "wallet_id": world.wallet_id, "mode": "live",
            "instrument_id": world.instruments[BTC], "purpose": "manual", "side": "buy", "type": "limit",
            "time_in_force": "ioc", "quantity": Decimal("0.5"), "reference_price": 1.0, "volatility": 0,
            "limit_price": Decimal(1), "because": "a test", "not_before": world.now - MINUTE,
            "deadline": world.now + MINUTE, "recorded_at": world.now}  # fmt: skip


@pytest.mark.parametrize("what", ["as it says", *INVENTED])
def test_a_sender_cannot_make_an_order_up(world: LiveWorld, what: str) -> None:
    command, now = place(world, "buy", "0.5", Decimal(1)), world.now
    row = by_hand(world, command)
    changes = {k: now + v if isinstance(v, timedelta) else v for k, v in INVENTED.get(what, {}).items()}
    if "instrument_id" in changes:
        changes["instrument_id"] = world.instruments["ETH/USD"]
    connection = world.database_for("sender").connection
    if what == "as it says":
        assert insert(connection, "orders", row) == 1
        with pytest.raises(UniqueViolation):
            insert(world.database_for("sender").connection, "orders", row | {"id": uuid.uuid4()})
        return
    with pytest.raises(CheckViolation) as refused:
        insert(connection, "orders", row | changes)
    assert refused.value.diag.constraint_name == "an_order_by_hand_is_what_its_command_says"


def test_a_voided_place_makes_no_order(world: LiveWorld) -> None:
    command, now = place(world, "buy", "0.5"), world.now
    world.database_for("owner").execute(load_queries("backup")["void_commands"], {"at": now})
    database = world.database_for("sender")
    asked = {"id": command, "order_id": uuid.uuid4(), "now": now, "deadline": now + MINUTE, "reference_price": 1.0,
             "volatility": 0, "type": "limit", "time_in_force": "ioc", "limit_price": 1}  # fmt: skip
    assert database.execute(load_queries("manual")["insert_order"], asked) == 0
    with pytest.raises(CheckViolation, match="it is voided"):
        insert(database.connection, "orders", by_hand(world, command))


def test_nobody_but_the_sender_makes_one_and_only_of_a_place(world: LiveWorld) -> None:
    row = by_hand(world, place(world, "buy", "0.5"))
    resume = world.one("SELECT id FROM commands WHERE command = 'resume'")["id"]
    for layer, changes, error in (
        ("policy", {}, CheckViolation), ("policy", {"author": "sender"}, InsufficientPrivilege),
        ("sender", {"command_id": None}, CheckViolation), ("sender", {"purpose": "flatten"}, CheckViolation),
        ("sender", {"because": ""}, CheckViolation), ("sender", {"command_id": resume}, CheckViolation),
    ):  # fmt: skip
        database = world.database_for(layer)
        with pytest.raises(error), database.transaction():
            insert(database.connection, "orders", row | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"expires_at": MINUTE + timedelta(microseconds=1)}, {"wallet_id": None}, {"instrument_id": None},
        {"side": None}, {"quantity": None}, {"side": "short"}, {"quantity": 0}, {"quantity": "NaN"},
        {"limit_price": -1}, {"limit_price": "NaN"}, {"command": "resume"}, {"reason": ""}, {"issuer": ""},
    ],
)  # fmt: skip
def test_a_place_that_says_too_little_or_too_much_is_refused(world: LiveWorld, changes: dict[str, Any]) -> None:
    if "expires_at" in changes:
        changes = {"expires_at": world.now + changes["expires_at"]}
    with pytest.raises(CheckViolation):
        place(world, "buy", "0.5", changes=changes)


# --- paper ---


@pytest.fixture
def market(database_for: DatabaseFor, settings: Settings) -> PaperMarket:
    market = PaperMarket(database_for, settings)
    market.store(A, FIVE, candles(at("11:00"), FIVE, [100.0] * 12))
    market.wallet("w", at("10:00"), symbols=(A,))
    return market


def place_on_paper(market: PaperMarket, side: str, quantity: str, limit: str | None = None) -> None:
    row = {"command": "place", "reason": "a hunch", "issuer": "cli:anna", "idempotency_key": str(uuid.uuid4()),
           "issued_at": NOON, "expires_at": NOON + MINUTE, "side": side, "quantity": Decimal(quantity),
           "limit_price": None if limit is None else Decimal(limit), "wallet_id": 0, "instrument_id": 0}  # fmt: skip
    for name, table in (("wallet_id", "wallets"), ("instrument_id", "instruments")):
        row[name] = market.rows(f"SELECT max(id) AS id FROM {table}")[0]["id"]
    insert(market.database_for("cli").connection, "commands", row)


def live_on(market: PaperMarket, price: float) -> None:
    """The sender takes it up at noon; the next candle opens at ``price``."""
    market.send(NOON)
    market.store(A, FIVE, candles(at("12:00"), FIVE, [price, price], close=100.0))
    market.send(at("12:10"))


def test_on_paper_it_is_filled_at_the_next_open_and_once(market: PaperMarket) -> None:
    place_on_paper(market, "buy", "5")
    live_on(market, 101.0)
    (fill,) = market.fills()
    assert (fill["side"], fill["quantity"], opened(fill)) == ("buy", 5, "12:00")
    assert fill["price"] > 101
    market.send(at("12:15"))
    assert len(market.fills()) == 1
    assert market.events() == ["accepted", "filled"]


@pytest.mark.parametrize(("side", "limit", "filled"), [("buy", "101", 1), ("buy", "99.9", 0), ("sell", "99", 1),
                                                       ("sell", "100", 0)])  # fmt: skip
def test_on_paper_a_limit_is_not_passed(market: PaperMarket, side: str, limit: str, filled: int) -> None:
    """At an open of 100, less or more half the spread."""
    if side == "sell":
        place_on_paper(market, "buy", "5")
        live_on(market, 100.0)
    before = len(market.fills())
    row = "UPDATE commands SET issued_at = %(t)s, expires_at = %(t)s + interval '60 s' WHERE side = %(side)s"
    place_on_paper(market, side, "2", limit)
    now = at("12:15") if side == "sell" else NOON
    market.database_for("owner").execute(row, {"t": now, "side": side})
    market.send(now)
    market.store(A, FIVE, candles(now, FIVE, [100.0, 100.0]))
    market.send(now + timedelta(minutes=10))
    assert len(market.fills()) - before == filled
    if not filled:
        last = market.rows("SELECT detail FROM order_events ORDER BY id DESC LIMIT 1")[0]["detail"]
        assert f"is beyond its limit of {Decimal(limit):.8f}" in last


def test_on_paper_what_was_taken_up_is_over_with_its_minute_too(market: PaperMarket) -> None:
    """A sender that died before approve() was asked."""
    place_on_paper(market, "buy", "5")
    take_up_on_paper(market.database_for("sender"), NOON)
    take_up_on_paper(market.database_for("sender"), NOON + MINUTE / 2)
    market.send(NOON + MINUTE)
    (order,) = market.rows("SELECT id FROM orders")
    assert market.detail(order["id"]) == "its command has expired: ask again"


def test_on_paper_the_next_candle_fills_it_or_none(market: PaperMarket) -> None:
    place_on_paper(market, "buy", "5")
    market.send(NOON)
    market.store(A, FIVE, candles(at("12:05"), FIVE, [100.0, 100.0]))
    market.send(at("12:15"))
    assert (market.fills(), market.events()) == ([], ["accepted", "expired"])


def test_a_price_is_asked_for_before_anything_is_ordered(market: PaperMarket) -> None:
    market.database_for("owner").execute("DELETE FROM market_data")
    place_on_paper(market, "buy", "5")
    market.send(NOON)
    assert market.events() == []
    (alert,) = market.rows("SELECT message FROM alerts WHERE key LIKE 'place-without-price%%'")
    assert "there is no candle of it" in alert["message"]
