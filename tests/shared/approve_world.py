"""A live wallet that may trade, as rows: what the tests of approve() spoil, one condition at a time."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from shared.db import Connection, Database
from tests.shared.spine_rows import HOUR, NOON, insert, next_row, own_database, rows, seed

AT = NOON + timedelta(minutes=5)
LIVE = 3  # the seeded live wallet: it holds 2 of A1/USDT at a close of 100, and 5000 USDT
INTENT = uuid.UUID(int=300)  # buys 2 at 100
CAPITAL = Decimal(5000)


@contextmanager
def live_wallet(home: Path) -> Iterator[Callable[[str], Database]]:
    """A database for a whole module, in which INTENT passes in epoch 1 at AT."""
    with own_database(home, "approve_live") as (_, database_for):
        seed(database_for)
        owner = database_for("owner").connection
        candle = rows(1)["market_data"] | {"as_of": NOON, "recorded_at": NOON, "high": 101, "low": 99, "close": 100}
        owner.execute("UPDATE market_data SET close = 100")  # the later ones, too
        insert(owner, "market_data", candle)
        limits = {"wallet_id": LIVE, "max_orders_a_day": 100, "ramp_days": 0}
        insert(owner, "limits", rows(3)["limits"] | limits)
        for asset, amount in (("USDT", CAPITAL), ("A1", Decimal(2))):
            flow = {"wallet_id": LIVE, "asset": asset, "amount": amount, "reference": f"live-{asset}"}
            insert(owner, "cash_flows", rows(3)["cash_flows"] | flow)
        command(owner, "resume", NOON)
        let_live(owner, True, NOON)
        reconciled(owner, 0, NOON)
        begin_epoch(owner, NOON)
        intend(owner, INTENT)
        yield database_for


def command(connection: Connection, what: str, at: datetime, wallet: int | None = LIVE) -> None:
    changes = {"wallet_id": wallet, "command": what, "issued_at": at, "expires_at": at + HOUR}
    insert(connection, "commands", next_row("commands") | changes | {"idempotency_key": f"{what} {at} {wallet}"})


def let_live(connection: Connection, granted: bool, at: datetime, capital: Decimal = CAPITAL) -> None:
    changes = {"wallet_id": LIVE, "granted": granted, "capital": capital, "recorded_at": at}
    insert(connection, "live_grants", rows(1)["live_grants"] | changes)


def reconciled(connection: Connection, unmatched: int, at: datetime, *, lasting: bool = False) -> None:
    changes = {"wallet_id": LIVE, "unmatched": unmatched, "lasting": lasting, "recorded_at": at}
    insert(connection, "reconciliations", rows(1)["reconciliations"] | changes)


def stopped(connection: Connection, at: datetime, wallet: int = LIVE) -> None:
    row = {"wallet_id": wallet, "kind": "stop", "rule": "max_drawdown", "as_of": at, "because": "drawdown of 25 %"}
    insert(connection, "risk_events", row | {"recorded_at": at})


def intend(connection: Connection, order_id: uuid.UUID, wallet: int = LIVE, **changes: Any) -> uuid.UUID:
    """A live order with a decision of its own, or one of the sender's (purpose protect, flatten)."""
    trade = changes.get("purpose", "trade") == "trade"
    decided = None
    if trade:
        decision = {"wallet_id": wallet, "source": str(order_id), "as_of": NOON}
        insert(connection, "decisions", next_row("decisions") | decision)
        decided = connection.execute("SELECT id FROM decisions WHERE source = %s", [str(order_id)]).fetchone()
    row = next_row("orders") | {"id": order_id, "wallet_id": wallet, "mode": "live"}
    row |= {"decision_id": decided[0]} if decided else {"decision_id": None, "author": "sender", "because": "a test"}
    insert(connection, "orders", row | changes)
    return order_id


def working(connection: Connection, event: str = "accepted", at: datetime = NOON, **changes: Any) -> uuid.UUID:
    """Another order of the wallet, let through at ``at`` and told this about by its venue."""
    order_id = intend(connection, uuid.uuid4(), **changes)
    approved(connection, order_id, at)
    for told in ("sending", event) if event != "sending" else ("sending",):
        tell(connection, order_id, told)
    return order_id


def approved(connection: Connection, order_id: uuid.UUID, at: datetime) -> None:
    insert(connection, "approvals", {"order_id": order_id, "epoch": 1, "limits_recorded_at": NOON, "approved_at": at})


def tell(connection: Connection, order_id: uuid.UUID, event: str, **changes: Any) -> None:
    row = {"order_id": order_id, "event": event, "detail": "test", "at": NOON, "recorded_at": NOON}
    insert(connection, "order_events", row | changes)


def filled(connection: Connection, order_id: uuid.UUID, side: str, quantity: str, wallet: int = LIVE) -> None:
    amount = Decimal(quantity)
    row = {"wallet_id": wallet, "venue_trade_id": str(uuid.uuid4()), "order_id": order_id, "side": side}
    row |= {"quantity": amount, "price": 100, "cost": amount * 100, "fee": 0, "fee_asset": "USDT"}
    insert(connection, "fills", row | {"filled_at": NOON, "recorded_at": NOON})


def begin_epoch(connection: Connection, at: datetime, wallet: int = LIVE) -> int:
    row = connection.execute("SELECT begin_epoch(%s, 'test:1', %s)", [wallet, at]).fetchone()
    assert row is not None
    return int(row[0])


def take_nonce(connection: Connection, epoch: int, at: datetime, wallet: int = LIVE) -> int | None:
    row = connection.execute("SELECT take_nonce(%s, %s, %s)", [wallet, epoch, at]).fetchone()
    assert row is not None
    return None if row[0] is None else int(row[0])


def refusal(connection: Connection, intent: uuid.UUID = INTENT, at: datetime = AT, epoch: int | None = 1) -> str | None:
    """What approve() would say, without its letting anything through."""
    row = connection.execute("SELECT refusal_of(%s, %s, %s)", [intent, at, epoch]).fetchone()
    assert row is not None
    return row[0]  # type: ignore[no-any-return]


def approve(connection: Connection, intent: uuid.UUID = INTENT, at: datetime = AT, epoch: int | None = 1) -> str | None:
    row = connection.execute("SELECT approve(%s, %s, %s)", [intent, at, epoch]).fetchone()
    assert row is not None
    return row[0]  # type: ignore[no-any-return]


def alter(connection: Connection, table: str, key: Any, **changes: Any) -> None:
    """Changes one row of limits (by wallet), instruments or orders (by id)."""
    named = "wallet_id" if table == "limits" else "id"
    for column, value in changes.items():
        connection.execute(f"UPDATE {table} SET {column} = %s WHERE {named} = %s", [value, key])
