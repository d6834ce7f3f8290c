"""Money that is handed to a wallet or taken from it by its operator's word; by trading only fills move any.

Writes cash_flows: an adoption is two rows (out of what is unmanaged, into what is managed) and a release two back, so
that the account's sum stays what the venue says it is.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from decimal import ROUND_UP, Decimal
from typing import Any

from pipeline.commands import no_wallet
from shared.db import Database, load_queries
from shared.job import JobError, UsageError
from shared.money import QUANTUM
from shared.wallets_file import WalletEntry

Row = Mapping[str, Any]


def adopt(
    database: Database, at: datetime, wallet: str, asset: str, quantity: Decimal, key: str | None = None
) -> Decimal | None:
    """Hands a part of what lies on a live wallet's account to Sextant, which may sell it from then on.

    Returns its value in quote at the newest close; None when this idempotency key was used before. UsageError: more
    than lies there, or an asset that no allowed instrument has. JobError: no price to value it at.
    """
    with database.transaction():
        row = _locked(database, wallet)
        return _adopt(database, at, row, asset, quantity, key)


def adopt_managed_capital(database: Database, at: datetime, entry: WalletEntry) -> Decimal | None:
    """Hands over what config/wallets.json calls managed_capital, once: None where the wallet manages money already, or
    the file names none. "all" is all of the quote currency; coins are adopted by hand."""
    if entry.managed_capital is None:
        return None
    with database.transaction():
        row, queries = _locked(database, entry.name), load_queries("operator")
        flows = database.fetch_one(queries["managed_flows"], {"wallet_id": row["id"]})
        if flows is None or flows["flows"]:
            return None
        there = _unmanaged(database, row, row["quote"])
        quantity = there if entry.managed_capital == "all" else entry.managed_capital
        if quantity <= 0:
            raise UsageError(
                f"wallet {entry.name}: there is no {row['quote']} on its account that could be managed yet"
            )
        return _adopt(database, at, row, row["quote"], quantity, "managed_capital")


def _adopt(
    database: Database, at: datetime, wallet: Row, asset: str, quantity: Decimal, key: str | None
) -> Decimal | None:
    if wallet["mode"] == "paper":
        raise UsageError(f"{wallet['name']} is a paper wallet and has no account; `make wallet-deposit` pays in")
    value = _value(database, at, wallet, asset, quantity)
    reference = f"adoption {key or uuid.uuid4()}"
    taken = _flow(wallet, asset, -quantity, "adoption", f"{reference}: taken", at)
    given = _flow(wallet, asset, quantity, "adoption", f"{reference}: given", at)
    if value is not None:
        taken["value"], given["value"] = -value, value
    there = _unmanaged(database, wallet, asset)
    insert = load_queries("cli")["insert_cash_flow"]
    if not database.execute(insert, taken | {"managed": False}):
        return None
    database.execute(insert, given)
    if quantity > there:  # the transaction ends here and takes both rows with it
        raise UsageError(
            f"wallet {wallet['name']}: {quantity.normalize():f} {asset} are more than the {there.normalize():f} that "
            "lie on its account unmanaged; `make wallets` shows what does, once the sender has connected"
        )
    return quantity if value is None else value


def release(
    database: Database, at: datetime, wallet: str, asset: str, quantity: Decimal, reason: str, key: str | None = None
) -> Decimal | None:
    """Takes a part of what a live wallet manages out of Sextant's hands again: it stays on the account, unmanaged.

    Returns its value in quote at the newest close; None when this idempotency key was used before. UsageError: more
    than is managed less what orders under way may take, a paper wallet, no reason. JobError: no price to value it at.
    """
    if not reason.strip():
        raise UsageError("say why (REASON=…): a release is written down with its reason")
    with database.transaction():
        row, insert = _locked(database, wallet), load_queries("cli")["insert_cash_flow"]
        if row["mode"] == "paper":
            raise UsageError(f"{wallet} is a paper wallet and has no account; `make wallet-withdraw` takes out")
        free, taken = _releasable(database, row, asset)
        value = None if asset == row["quote"] or quantity > free else _worth(database, at, row, asset, quantity)
        reference = f"release {key or uuid.uuid4()}"
        taken_out = _flow(row, asset, -quantity, "release", f"{reference}: taken ({reason})", at)
        given = _flow(row, asset, quantity, "release", f"{reference}: given", at)
        if value is not None:
            taken_out["value"], given["value"] = -value, value
        if not database.execute(insert, given | {"managed": False}):
            return None
        database.execute(insert, taken_out)
        if quantity > free:  # the transaction ends here and takes both rows with it
            under_way = f", {taken.normalize():f} of it in orders under way" if taken else ""
            raise UsageError(
                f"wallet {wallet}: {quantity.normalize():f} {asset} are more than the {free.normalize():f} that it can "
                f"release (it manages {(free + taken).normalize():f}{under_way})"
            )
    return quantity if value is None else value


def _releasable(database: Database, wallet: Row, asset: str) -> tuple[Decimal, Decimal]:
    """What a wallet manages of an asset less what its orders may still take, and the latter."""
    asked = {"wallet_id": wallet["id"], "asset": asset}
    row = database.fetch_one(load_queries("operator")["releasable"], asked)
    assert row is not None
    taken = Decimal(row["taken"]).quantize(QUANTUM, ROUND_UP)
    return Decimal(row["managed"]) - taken, taken


def _value(database: Database, at: datetime, wallet: Row, asset: str, quantity: Decimal) -> Decimal | None:
    """In quote, at the close at which the book values it; None for the quote currency itself."""
    if asset == wallet["quote"]:
        return None
    symbol = f"{asset}/{wallet['quote']}"
    if symbol not in wallet["symbols"]:
        raise UsageError(
            f"wallet {wallet['name']} may trade {', '.join(wallet['symbols'])}: it could never sell {asset}; `make "
            f"limits WALLET={wallet['name']} SYMBOLS=…` allows more"
        )
    return _worth(database, at, wallet, asset, quantity)


def _worth(database: Database, at: datetime, wallet: Row, asset: str, quantity: Decimal) -> Decimal:
    symbol = f"{asset}/{wallet['quote']}"
    asked = {"venue": wallet["venue"], "symbol": symbol, "now": at}
    newest = database.fetch_one(load_queries("operator")["newest_close"], asked)
    if newest is None:
        raise JobError(f"there is no candle of {symbol} on {wallet['venue']} to value it at: `make backfill`")
    return (quantity * Decimal(repr(newest["close"]))).quantize(QUANTUM)


def pay(database: Database, at: datetime, wallet: str, amount: Decimal, key: str | None = None) -> Decimal | None:
    """A deposit into a paper wallet, or with a negative amount a withdrawal; the cash that is in it then, or None when
    this idempotency key was used before. UsageError: a live wallet, or more than its cash."""
    kind = "deposit" if amount > 0 else "withdrawal"
    with database.transaction():
        row = _locked(database, wallet)
        if row["mode"] == "live":
            raise UsageError(
                f"{wallet} is a live wallet: pay at the venue, and the sender writes it down; `make wallet-adopt` lets "
                "Sextant manage it"
            )
        flow = _flow(row, row["quote"], amount, kind, f"{kind} {key or uuid.uuid4()}", at)
        if not database.execute(load_queries("cli")["insert_cash_flow"], flow):
            return None
        left = database.fetch_one(load_queries("operator")["wallet_cash"], {"wallet_id": row["id"]})
        cash = Decimal(0) if left is None else Decimal(left["amount"])
        if amount < 0 and cash < 0:  # the transaction ends here and takes the row with it
            raise UsageError(
                f"wallet {wallet} has {(cash - amount).normalize():f} {row['quote']} in cash; {-amount.normalize():f} "
                "cannot be taken out"
            )
    return cash


def _flow(wallet: Row, asset: str, amount: Decimal, kind: str, reference: str, at: datetime) -> dict[str, Any]:
    return {
        "wallet_id": wallet["id"],
        "asset": asset,
        "amount": amount,
        "kind": kind,
        "managed": True,
        "value": None,
        "reference": reference,
        "at": at,
    }


def _locked(database: Database, wallet: str) -> Row:
    """The wallet; two commands on one wallet's money come one after the other."""
    row = database.fetch_one(load_queries("operator")["lock_wallet"], {"wallet": wallet})
    if row is None:
        raise no_wallet(wallet)
    return row


def _unmanaged(database: Database, wallet: Row, asset: str) -> Decimal:
    row = database.fetch_one(load_queries("operator")["unmanaged_amount"], {"wallet_id": wallet["id"], "asset": asset})
    return Decimal(0) if row is None else Decimal(row["amount"])
