"""Two approvals of one wallet at the same time: what only one of them fits is given once."""

from __future__ import annotations

import threading
import time
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from shared.db import Connection, Database
from tests.shared.approve_world import LIVE, alter, approve, intend, live_wallet, tell

BOUND_S = 20.0
ONCE: dict[str, tuple[dict[str, Any], Decimal, str]] = {
    "cash": ({"max_order_notional": 5000}, Decimal(26), "costs more than the cash that no other order has reserved"),
    "a day's notional": (
        {"max_day_notional": Decimal(399)},
        Decimal(2),
        "bought more than 399.00000000 within 24 hours",
    ),
    "a day's orders": ({"max_orders_a_day": 1}, Decimal(2), "more than 1 orders within 24 hours"),
    "a position": ({"max_position_notional": Decimal(599)}, Decimal(2), "position above the limit of 599.00000000"),
}


@pytest.mark.parametrize("scarce", ONCE)
def test_what_only_one_order_fits_is_given_to_one(home: Path, scarce: str) -> None:
    """Each in its sender's transaction: the second waits for the first, and is held against what that left."""
    limits, quantity, refusal = ONCE[scarce]
    with live_wallet(home) as database_for:
        owner, first = database_for("owner").connection, database_for("sender").connection
        alter(owner, "limits", LIVE, **limits)
        orders = [intend(owner, uuid.uuid4(), quantity=quantity) for _ in range(2)]
        other = Database(database_for("sender")._url)
        said: list[str | None] = []
        second = threading.Thread(target=lambda: said.append(_send(other.connection, orders[1])), daemon=True)
        with first.transaction():
            assert approve(first, orders[0]) is None
            tell(first, orders[0], "sending")
            pid = other.connection.info.backend_pid
            second.start()
            assert _waits(owner, pid, second), "the second was approved beside the first"
        second.join(BOUND_S)
        other.close()
        assert said == [refusal]


def _send(connection: Connection, order_id: uuid.UUID) -> str | None:
    with connection.transaction():
        refusal = approve(connection, order_id)
        if refusal is None:
            tell(connection, order_id, "sending")
    return refusal


def _waits(connection: Connection, pid: int, thread: threading.Thread) -> bool:
    """Whether that session comes to wait for a lock, before it is done."""
    until = time.monotonic() + BOUND_S
    while thread.is_alive() and time.monotonic() < until:
        found = connection.execute("SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted", [pid]).fetchone()
        if found is not None and found[0]:
            return True
    return False
