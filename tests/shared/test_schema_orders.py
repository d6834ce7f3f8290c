"""What the schema refuses of orders: those that make no sense, and every step that an order cannot take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg.errors import ForeignKeyViolation, RaiseException, UniqueViolation

from policy.execution.order_states import NEXT, NEXT_ON_PAPER
from shared.db import Connection
from tests.shared.spine_rows import insert, next_row, order_id, own_database, rows, seed
from tests.shared.test_schema import accepted, refused


@pytest.fixture(scope="module")
def seeded(home: Path) -> Iterator[Connection]:
    with own_database(home, "orders") as (_, database_for):
        seed(database_for)
        yield database_for("owner").connection


@pytest.fixture
def owner(seeded: Connection) -> Iterator[Connection]:
    with seeded.transaction(force_rollback=True):
        yield seeded


def test_an_order_refers_to_a_decision_of_its_own_wallet_and_instrument(owner: Connection) -> None:
    accepted(owner, "orders")
    assert refused(owner, "orders", decision_id=None) == "a_trade_follows_a_decision"
    refused(owner, "orders", error=ForeignKeyViolation, decision_id=99)
    refused(owner, "orders", error=ForeignKeyViolation, wallet_id=2)
    refused(owner, "orders", error=ForeignKeyViolation, instrument_id=2)
    assert refused(owner, "orders", error=UniqueViolation, decision_id=1) == "one_order_a_decision"


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"author": "sender"}, "a_trade_follows_a_decision"),
        ({"author": "sender", "purpose": "protect", "because": "x"}, "the_sender_can_only_sell"),
        ({"author": "sender", "purpose": "flatten", "side": "sell", "because": ""}, "the_sender_can_only_sell"),
        ({"type": "limit"}, "a_limit_order_has_its_price"),
        ({"limit_price": 1}, "a_limit_order_has_its_price"),
        ({"type": "stop"}, "a_trigger_has_its_price"),
        ({"type": "trailing_stop"}, "a_trailing_stop_trails"),
        ({"time_in_force": "ioc"}, "only_a_limit_order_can_wait_or_not"),
        ({"type": "limit", "limit_price": 1, "time_in_force": "ioc", "post_only": True}, "post_only_waits"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(owner: Connection, changes: dict[str, Any], constraint: str) -> None:
    assert refused(owner, "orders", **changes) == constraint


EVENTS = tuple(state for state in NEXT if state != "intended")
ROADS: dict[str, tuple[str, ...]] = {
    "intended": (), "sending": ("sending",), "unknown": ("sending", "unknown"), "accepted": ("sending", "accepted"),
    "canceling": ("sending", "accepted", "canceling"), "amending": ("sending", "accepted", "amending"),
    "rejected": ("rejected",), "filled": ("sending", "accepted", "filled"),
    "canceled": ("sending", "accepted", "canceled"), "expired": ("expired",),
}  # fmt: skip


def told(owner: Connection, event: str) -> int:
    what = {"event": event, "quantity": 1 if event == "amending" else None}
    return insert(owner, "order_events", rows(2)["order_events"] | what)


@pytest.mark.parametrize("mode", ["paper", "live"])
@pytest.mark.parametrize("state", ROADS)
def test_an_order_changes_only_as_an_order_can(owner: Connection, state: str, mode: str) -> None:
    """Every transition of policy/execution/order_states.py is the database's, and no other."""
    legal = NEXT if mode == "live" else NEXT_ON_PAPER
    if mode == "paper" and "sending" in ROADS[state]:
        road = ROADS[state][1:]
        if state in ("sending", "unknown"):
            return  # a paper order has no request to lose
    else:
        road = ROADS[state]
    insert(owner, "approvals", next_row("approvals"))
    owner.execute("UPDATE orders SET mode = %s WHERE id = %s", [mode, order_id(2)])
    for earlier in road:
        told(owner, earlier)
    for event in EVENTS:
        if event in legal[state]:  # type: ignore[index]
            with owner.transaction(force_rollback=True):
                assert told(owner, event) == 1
            continue
        with pytest.raises(RaiseException, match=f"is {state}: it cannot become {event}"), owner.transaction():
            told(owner, event)


@pytest.mark.parametrize(("mode", "event"), [("paper", "accepted"), ("live", "sending")])
def test_nothing_goes_out_that_was_not_approved(owner: Connection, mode: str, event: str) -> None:
    owner.execute("UPDATE orders SET mode = %s WHERE id = %s", [mode, order_id(2)])
    with pytest.raises(RaiseException, match=f"was never approved: it cannot become {event}"), owner.transaction():
        told(owner, event)
    insert(owner, "approvals", next_row("approvals"))
    assert told(owner, event) == 1
