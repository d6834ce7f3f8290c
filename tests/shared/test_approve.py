"""approve(): the database's own verdict on an intent, which neither policy nor sender can change."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from shared.db import Connection, Database
from tests.shared.spine_rows import HOUR, NOON, insert, next_row, order_id, own_database, rows, seed

AT = NOON + timedelta(minutes=5)
INTENT = order_id(2)  # the seeded order that nothing was said about: buy 2 at 100, limit 1000, resumed


@pytest.fixture(scope="module")
def world(home: Path) -> Iterator[Callable[[str], Database]]:
    with own_database(home, "approve") as (_, database_for):
        seed(database_for)
        candle = rows(1)["market_data"] | {"as_of": NOON, "recorded_at": NOON}
        insert(database_for("candles").connection, "market_data", candle)
        yield database_for


@pytest.fixture
def owner(world: Callable[[str], Database]) -> Iterator[Connection]:
    with world("owner").connection.transaction(force_rollback=True):
        yield world("owner").connection


def approve(connection: Connection, intent: uuid.UUID = INTENT, at: datetime = AT) -> str | None:
    """What approve() would say, without its letting anything through: most tests ask several times."""
    row = connection.execute("SELECT refusal_of(%(id)s, %(at)s) AS refusal", {"id": intent, "at": at}).fetchone()
    assert row is not None
    return row[0]  # type: ignore[no-any-return]


def alter(connection: Connection, table: str, **changes: Any) -> None:
    """Changes wallet 1's row of an operator's table, or the intent."""
    key = {"orders": "id", "wallets": "id", "limits": "wallet_id"}[table]
    for column, value in changes.items():
        connection.execute(
            f"UPDATE {table} SET {column} = %s WHERE {key} = %s", [value, INTENT if table == "orders" else 1]
        )


def test_an_intent_within_every_limit_passes(world: Callable[[str], Database]) -> None:
    assert approve(world("sender").connection) is None


def test_an_order_that_does_not_exist_is_refused(owner: Connection) -> None:
    assert approve(owner, uuid.UUID(int=999)) == "there is no such order"


def test_an_order_of_another_mode_than_its_wallet_is_refused(owner: Connection) -> None:
    alter(owner, "orders", mode="live")
    assert approve(owner) == "order says live, wallet is paper"


@pytest.mark.parametrize("state", ["accepted", "rejected", "filled", "canceled", "expired", "unknown"])
def test_an_order_that_is_no_longer_an_intent_is_refused(owner: Connection, state: str) -> None:
    alter(owner, "orders", state=state)
    assert approve(owner) == f"order is already {state}"


def test_an_order_at_its_deadline_is_refused(owner: Connection) -> None:
    deadline = NOON + HOUR
    assert approve(owner, at=deadline - timedelta(microseconds=1)) is None
    assert approve(owner, at=deadline) == "its deadline has passed"


def test_a_wallet_without_limits_trades_nothing(owner: Connection) -> None:
    owner.execute("DELETE FROM limits WHERE wallet_id = 1")
    assert approve(owner) == "the operator set no limits for this wallet"


def test_an_instrument_of_another_venue_is_refused(owner: Connection) -> None:
    alter(owner, "wallets", venue="kraken")
    assert approve(owner) == "A1/USDT is not on venue kraken"


def test_an_instrument_off_the_allow_list_is_refused(owner: Connection) -> None:
    alter(owner, "limits", symbols=["A2/USDT"])
    assert approve(owner) == "A1/USDT is not on the allow-list"


def command(connection: Connection, what: str, at: datetime) -> None:
    changes = {"command": what, "issued_at": at, "expires_at": at + HOUR, "idempotency_key": f"{what} {at}"}
    insert(connection, "commands", next_row("commands") | changes)


def test_a_paused_wallet_buys_nothing_until_it_is_resumed(owner: Connection) -> None:
    minute = timedelta(minutes=1)
    command(owner, "pause", AT - 2 * minute)
    assert approve(owner) == "the wallet is paused: no entries"
    assert approve(owner, at=AT - 3 * minute) is None  # not yet
    command(owner, "resume", AT - minute)
    assert approve(owner) is None
    command(owner, "pause", AT)
    assert approve(owner) == "the wallet is paused: no entries"


def test_a_wallet_that_was_never_resumed_buys_nothing(owner: Connection) -> None:
    owner.execute("DELETE FROM commands")
    assert approve(owner) == "the wallet is paused: no entries"


def test_a_buy_above_the_notional_limit_is_refused(owner: Connection) -> None:
    alter(owner, "limits", max_order_notional=Decimal(200))
    assert approve(owner) is None  # exactly 2 × 100
    alter(owner, "limits", max_order_notional=Decimal("199.99999999"))
    assert approve(owner) == "notional above the limit of 199.99999999"


@pytest.mark.parametrize(
    ("price", "passes"), [(91.0, True), (90.0, False), (110.0, True), (111.0, False), (1e-6, False)]
)
def test_a_misstated_price_does_not_slip_past_the_notional_limit(owner: Connection, price: float, passes: bool) -> None:
    """The newest close is 100.5; the policy writes the price its order was sized at."""
    alter(owner, "orders", reference_price=price)
    verdict = approve(owner)
    assert (verdict is None) if passes else (verdict == f"sized at a price of {price:g}, which is not near the newest"
                                             f" close of 100.5")  # fmt: skip


def test_a_buy_of_what_has_no_candle_yet_is_refused(owner: Connection) -> None:
    at = NOON - timedelta(minutes=1)
    command(owner, "resume", at)
    assert str(approve(owner, at=at)).startswith("sized at a price of 100, which is not near")


def test_a_sell_of_more_than_is_held_is_refused(owner: Connection) -> None:
    alter(owner, "orders", side="sell", quantity=Decimal(2))
    assert approve(owner) is None  # the two seeded fills bought one each
    alter(owner, "orders", quantity=Decimal("2.00000001"))
    assert approve(owner) == "sells more than is held"
    owner.execute("DELETE FROM fills")
    assert approve(owner) == "sells more than is held"


def told_before(connection: Connection, count: int, at: datetime, event: str = "accepted", wallet: int = 1) -> None:
    """So many orders that the sender was told this about at ``at``, whatever time the policy wrote on them."""
    for n in range(count):
        decided = {"as_of": NOON + (10 + n) * HOUR, "source": event, "wallet_id": wallet}
        insert(connection, "decisions", next_row("decisions") | decided)
        decision = connection.execute("SELECT max(id) FROM decisions").fetchone()
        assert decision is not None
        order = next_row("orders") | {"id": uuid.uuid4(), "decision_id": decision[0], "wallet_id": wallet}
        insert(connection, "orders", order | {"recorded_at": NOON - timedelta(days=30)})
        if event == "rejected":  # by approve(), as the sender writes it down
            told = {"order_id": order["id"], "recorded_at": at, "event": event}
            insert(connection, "order_events", next_row("order_events") | told)
        else:
            insert(connection, "approvals", next_row("approvals") | {"order_id": order["id"], "approved_at": at})


@pytest.mark.parametrize(
    ("ago", "counted"),
    [(timedelta(0), True), (timedelta(hours=23, minutes=59), True), (timedelta(hours=24), False)],
)
def test_no_more_buys_in_24_hours_than_the_operator_allows(owner: Connection, ago: timedelta, counted: bool) -> None:
    owner.execute("DELETE FROM approvals")
    told_before(owner, 4, AT - ago)
    told_before(owner, 4, AT - ago, "rejected")
    told_before(owner, 4, AT - ago, wallet=2)
    assert approve(owner) is None
    alter(owner, "limits", max_orders_a_day=4)
    assert approve(owner) == ("more than 4 orders within 24 hours" if counted else None)


def test_an_exit_skips_the_limits_but_never_what_is_held(owner: Connection) -> None:
    owner.execute("DELETE FROM commands")
    told_before(owner, 3, AT)
    alter(owner, "limits", max_order_notional=Decimal(1), max_orders_a_day=1)
    alter(owner, "orders", side="sell", reference_price=1e-6)
    assert approve(owner) is None
