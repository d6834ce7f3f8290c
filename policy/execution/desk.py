"""What every part of the live sender works with: one wallet, its account, its turn at sending, and the pen."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg.types.json import Json

from policy.execution.order_states import OrderState
from policy.execution.venues.protocol import TradingVenue, VenueOrder
from shared.alerts import Severity, raise_alert
from shared.clock import Clock
from shared.db import Database, load_queries
from shared.errors import SextantError
from shared.kill_file import mandate_now
from shared.settings import Settings

Row = Mapping[str, Any]
LASTING = ("fill", "overfill", "stranger")  # findings that no later look heals: an operator has to judge


class Superseded(SextantError):
    """Another sender has taken over this wallet: whatever this one had in mind is not its business any more."""


class WalletBusy(SextantError):
    """Another sender holds this wallet's lock."""


class Session:
    """One sender's turn at one wallet: its lock, its epoch, and the nonces of its key.

    The lock keeps two senders apart while the database can tell that the first lives; the epoch does where it cannot
    (a process that was stopped and wakes up later): approvals and nonces of an older epoch are refused.
    """

    def __init__(self, clock: Clock, database: Database, wallet: Row) -> None:
        self._clock, self._database, self._wallet = clock, database, wallet
        locked = database.fetch_one(load_queries("live_sender")["lock_wallet"], {"wallet_id": wallet["id"]})
        if locked is None or not locked["locked"]:
            raise WalletBusy(f"another sender works for wallet {wallet['name']}; this one leaves it alone")
        holder = f"{socket.gethostname()}:{os.getpid()}"
        began = database.fetch_one(
            load_queries("live_sender")["begin_epoch"],
            {"wallet_id": wallet["id"], "holder": holder, "at": clock.now()},
        )
        assert began is not None
        self.epoch = int(began["epoch"])

    def take_nonce(self) -> int:
        """The key's next nonce, in nanoseconds; part of the transaction that is open, if one is."""
        asked = {"wallet_id": self._wallet["id"], "epoch": self.epoch, "at": self._clock.now()}
        row = self._database.fetch_one(load_queries("live_sender")["take_nonce"], asked)
        if row is None or row["nonce"] is None:
            raise Superseded(
                f"another sender has taken over wallet {self._wallet['name']} (epoch {self.epoch} is over)"
            )
        return int(row["nonce"])

    def end(self) -> None:
        self._database.execute(load_queries("live_sender")["unlock_wallet"], {"wallet_id": self._wallet["id"]})


@dataclass
class Desk:
    """One live wallet's sender at work. ``skew_s``: the venue's clock less ours, measured at the start of a pass;
    ``findings``: what did not agree between ledger and account, for the next reconciliation to tell."""

    clock: Clock
    database: Database
    settings: Settings
    home: Path
    wallet: Row  # a row of the query live_wallets
    venue: TradingVenue
    session: Session
    managed_capital: Decimal | None = None  # of the quote on the account; None: only what is adopted
    manages_all: bool = False  # all of the quote on the account, and what is paid in later
    taken_over: bool = False  # the epoch's first signed call was made
    skew_s: float = 0.0
    findings: list[dict[str, str]] = field(default_factory=list)
    key_findings: list[dict[str, str]] = field(default_factory=list)  # of the newest look at the key's rights
    counts: dict[str, int] = field(default_factory=dict)
    listed: tuple[float, Sequence[VenueOrder]] | None = (
        None  # open orders and those that ended since then, as last read
    )
    doubt: str = ""  # what could not be found out in this pass, without which nothing is entered

    @property
    def wallet_id(self) -> int:
        return int(self.wallet["id"])

    def now(self) -> datetime:
        return self.clock.now()

    def venue_now(self) -> float:
        """The present moment by the venue's clock, Unix seconds."""
        return self.now().timestamp() + self.skew_s

    def mandate(self) -> str:
        """What the wallet may do at this moment: the strictest of the operator's commands and the KILL files."""
        row = self.ask_one("mandate", at=self.now())
        assert row is not None
        return mandate_now(self.home, self.wallet["name"], row["mandate"])

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + number

    def ask(self, query: str, **params: Any) -> list[dict[str, Any]]:
        return self.database.fetch(load_queries("live_sender")[query], params | {"wallet_id": self.wallet_id})

    def ask_together(self, *queries: str, **params: Any) -> list[list[dict[str, Any]]]:
        """Several questions in one round trip, each answered from the parameters that it names."""
        asked, named = params | {"wallet_id": self.wallet_id}, load_queries("live_sender")
        return self.database.fetch_together([(named[query], asked) for query in queries])

    def ask_one(self, query: str, **params: Any) -> dict[str, Any] | None:
        return self.database.fetch_one(load_queries("live_sender")[query], params | {"wallet_id": self.wallet_id})

    def write(self, query: str, **params: Any) -> int:
        return self.database.execute(load_queries("live_sender")[query], params | {"wallet_id": self.wallet_id})

    def record(
        self,
        order_id: UUID,
        event: OrderState,
        detail: str,
        *,
        at: datetime | None = None,
        venue_order_id: str | None = None,
        quantity: Decimal | None = None,
        stop_price: Decimal | None = None,
    ) -> None:
        """One event of one order, in a transaction of its own unless one is open."""
        now = self.now()
        self.write(
            "insert_event",
            order_id=order_id,
            event=event,
            detail=detail,
            venue_order_id=venue_order_id,
            quantity=quantity,
            stop_price=stop_price,
            at=at or now,
            recorded_at=now,
        )
        self.count(event)

    def alert(self, severity: Severity, key: str, message: str) -> None:
        name = self.wallet["name"]
        raise_alert(self.database, self.now(), severity, f"{key}:{name}", f"wallet {name}: {message}")

    def find(self, kind: str, what: str, ours: object, theirs: object) -> bool:
        """Something that does not agree: the next reconciliation tells it, and entries wait. False for what an operator
        has looked at: whoever resumes the wallet knows of what lasts and was told by then."""
        found = finding(kind, what, ours, theirs)
        if kind in LASTING and self.wallet["resumed_at"] is not None:
            row = self.ask_one("was_judged", resumed_at=self.wallet["resumed_at"], findings=Json([found]))
            if row is not None and row["judged"]:
                return False
        if found not in self.findings:
            self.findings.append(found)
        return True


def finding(kind: str, what: str, ours: object, theirs: object) -> dict[str, str]:
    """``kind``: balance, order and key may be right at the next look; fill, overfill and stranger (LASTING) may not."""
    return {"kind": kind, "what": what, "ours": str(ours), "theirs": str(theirs)}
