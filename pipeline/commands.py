"""What an operator asks for, as rows of commands."""

from __future__ import annotations

import os
import pwd
import uuid
from datetime import datetime, timedelta

from shared.db import Database, load_queries
from shared.job import UsageError
from shared.kill_file import MANDATES

COMMAND_LIFETIME = timedelta(hours=1)
RETRAIN_LIFETIME = timedelta(hours=24)  # taken hourly, when no training runs


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
