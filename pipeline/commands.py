"""What an operator asks for, as rows of commands."""

from __future__ import annotations

import os
import pwd
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from shared.db import Database, load_queries
from shared.job import UsageError
from shared.kill_file import MANDATES

COMMAND_LIFETIME = timedelta(hours=1)
PLACE_LIFETIME = timedelta(seconds=60)  # the longest that the database takes
RETRAIN_LIFETIME = timedelta(hours=24)  # taken hourly, when no training runs


@dataclass(frozen=True, slots=True)
class Order:
    """What an operator orders by hand; without a limit it is bounded by the sender's price collar."""

    wallet: str
    symbol: str
    side: str  # buy or sell
    quantity: Decimal
    limit_price: Decimal | None = None


def operator_name() -> str:
    """Who gives commands here: cli:<operating-system user>, which no environment variable can change."""
    try:
        return f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # a container's user need not have a name
        return f"cli:{os.getuid()}"


def issue_command(
    database: Database, at: datetime, wallet: str | None, command: str, reason: str, issuer: str, key: str | None = None
) -> bool:
    """Writes a resume, or what stops a wallet (None: all of them); False when this idempotency key was used before.

    What stops never expires. UsageError: no such wallet, no reason.
    """
    expires_at = "infinity" if command in MANDATES else at + COMMAND_LIFETIME
    return _issue(database, at, wallet, command, reason, issuer, key, expires_at)


def ask_for_encoder(database: Database, at: datetime, reason: str, issuer: str, key: str | None = None) -> bool:
    """Writes a command that asks for a new encoder; False when this idempotency key was used before."""
    return _issue(database, at, None, "retrain-encoder", reason, issuer, key, at + RETRAIN_LIFETIME)


def place_order(
    database: Database,
    at: datetime,
    order: Order,
    reason: str,
    issuer: str,
    key: str | None = None,
) -> int | None:
    """Writes an order by hand, which the wallet's sender may take up within a minute; the command's id, or None when
    this idempotency key was used before. UsageError: no such wallet, no such instrument on its venue, no reason."""
    if not reason.strip():
        raise UsageError("say why (REASON=…): an order by hand is written down with its reason")
    row = {
        "wallet": order.wallet,
        "symbol": order.symbol,
        "side": order.side,
        "quantity": order.quantity,
        "limit_price": order.limit_price,
        "reason": reason,
        "issuer": issuer,
        "idempotency_key": key or str(uuid.uuid4()),
        "at": at,
        "expires_at": at + PLACE_LIFETIME,
    }
    made = database.fetch_one(load_queries("cli")["insert_place"], row)
    if made is not None:
        return int(made["id"])
    found = database.fetch_one("SELECT venue FROM wallets WHERE name = %(wallet)s", row)
    if found is None:
        raise no_wallet(order.wallet)
    if not database.fetch(
        "SELECT FROM instruments WHERE venue = %(venue)s AND symbol = %(symbol)s", row | {"venue": found["venue"]}
    ):
        raise UsageError(f"{order.symbol} is not known on {found['venue']}: run the feed, or `make backfill`, with it")
    return None


def _issue(
    database: Database,
    at: datetime,
    wallet: str | None,
    command: str,
    reason: str,
    issuer: str,
    key: str | None,
    expires_at: datetime | str,
) -> bool:
    if not reason.strip():
        raise UsageError(f"say why: a {command} is written down with its reason")
    if wallet is None and command == "resume":
        raise UsageError("a resume names its wallet")
    row = {
        "wallet": wallet,
        "command": command,
        "reason": reason,
        "issuer": issuer,
        "idempotency_key": key or str(uuid.uuid4()),
        "at": at,
        "expires_at": expires_at,
    }
    query = "insert_command_for_all" if wallet is None else "insert_command"
    if database.execute(load_queries("cli")[query], row):
        return True
    if wallet is not None and not database.fetch("SELECT FROM wallets WHERE name = %(wallet)s", row):
        raise no_wallet(wallet)
    return False


def no_wallet(name: str) -> UsageError:
    return UsageError(f"there is no wallet {name!r}; `make wallets` lists them, `make wallet` makes one")
