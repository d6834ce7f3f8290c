"""Orders by hand: `make place` asks for one, and says what became of those that were asked for.

Writes commands (place). What is checked here for the operator's sake the database or the sender checks for safety's.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from pipeline.commands import PLACE_LIFETIME, Order, operator_name, place_order
from shared.db import Database, load_queries
from shared.job import Context, Outcome, UsageError
from shared.wallets_file import parse_amount

SHOWN = timedelta(days=1)  # so long `make status` tells of an order by hand
EPOCH = timedelta(days=36_500)
Row = Mapping[str, Any]


def place_command(context: Context) -> Outcome:
    """One order; the same KEY again says what became of it. UsageError names what is missing or cannot be read."""
    a, now = context.arguments, context.clock.now()
    if a.at is not None:
        raise UsageError("an order by hand is placed now: --at is for what is looked at")
    order = _order(context)
    id_ = place_order(context.database, now, order, a.reason or "", operator_name(), a.key)
    if id_ is None:
        rows = _places(context.database, None, a.key, now - EPOCH)
        told = place_line(rows[0], now) if rows else "it was no order"
        return Outcome("nothing", {"because": "this KEY was used before", "then": told})
    told = (
        f"its sender takes it up within {PLACE_LIFETIME.seconds} s or it is over: `make run-sender-loop` does at once, "
        "else run `make run-sender` now (a live wallet's with its keys); `make status` says what came of it"
    )
    return Outcome("done", {"command": id_, "wallet": order.wallet, "next": told})


def _order(context: Context) -> Order:
    a = context.arguments
    for given, name, example in (
        (a.wallet, "WALLET", "…; `make wallets` lists them"), (a.symbols, "SYMBOL", "BTC/USDT"),
        (a.side, "SIDE", "buy or sell"), (a.quantity, "QTY", "…, in the base currency"),
    ):  # fmt: skip
        if not given:
            raise UsageError(f"place what? {name}={example}")
    if a.side not in ("buy", "sell"):
        raise UsageError(f"SIDE={a.side}: buy or sell")
    if len(a.symbols) > 1:
        raise UsageError(f"an order is of one instrument; SYMBOL={' '.join(a.symbols)}")
    limit = None if a.limit is None else _amount("LIMIT", a.limit)
    return Order(a.wallet, a.symbols[0], a.side, _amount("QTY", a.quantity), limit)


def _amount(name: str, text: str) -> Decimal:
    try:
        return parse_amount(text)
    except ValueError as error:
        raise UsageError(f"{name}={text}: {error}") from None


def place_lines(database: Database, wallet_id: int, now: datetime) -> list[str]:
    """The newest orders by hand of a wallet's last day, for people; each with what became of it."""
    return [place_line(row, now) for row in _places(database, wallet_id, None, now - SHOWN)]


def _places(database: Database, wallet_id: int | None, key: str | None, since: datetime) -> list[dict[str, Any]]:
    return database.fetch(load_queries("operator")["places"], {"wallet_id": wallet_id, "key": key, "since": since})


def place_line(row: Row, now: datetime) -> str:
    limit = "" if row["limit_price"] is None else f", limit {row['limit_price'].normalize():f}"
    what = (
        f"{row['side']} {row['quantity'].normalize():f} {row['symbol']}{limit} (command {row['id']}, {row['reason']})"
    )
    return f"by hand: {what}: {_became(row, now)}"


def _became(row: Row, now: datetime) -> str:
    if row["filled"] is not None:
        return f"{row['filled'].normalize():f} filled at {float(row['price']):.8g} on average; {row['event']}"
    if row["event"] is not None:
        return f"{row['event']}: {row['detail']}"
    if row["voided_at"] is not None:
        return "voided: a backup was restored"
    if now >= row["expires_at"]:
        untold = (
            "its sender took it up and did not come to send it" if row["order_id"] else "no sender took it up in time"
        )
        return f"expired at {row['expires_at']:%H:%M:%S}: {untold}"
    return f"waits for its sender until {row['expires_at']:%H:%M:%S}"
