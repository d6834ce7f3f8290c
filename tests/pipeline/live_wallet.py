"""A live wallet whose account was found by its sender: what the tests of funding and of going live begin with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.wallets import create_live_wallet
from shared.clock import ReplayClock
from shared.db import Database
from shared.settings import Settings
from shared.wallets_file import WalletEntry, parse_wallets
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles
from tests.shared.spine_rows import insert, own_database

A, B = "AAA/USDT", "BBB/USDT"
Command = Callable[..., int]
Undone = tuple[Settings, Callable[[], AbstractContextManager[Database]]]


def entry(**changes: Any) -> WalletEntry:
    """Wallet main on venue test, as config/wallets.json would have it."""
    wallet = {
        "name": "main", "venue": "test", "symbols": [A, B], "key_env": "TEST_KEY", "secret_env": "TEST_SECRET",
        "limits": {"max_order_notional": "500", "max_day_notional": "2000", "max_position_notional": "2500"},
    }  # fmt: skip
    return parse_wallets(json.dumps({"wallets": [wallet | changes]})).wallets[0]


def file_text(**changes: Any) -> str:
    dumped = entry(**changes).model_dump(mode="json", exclude_none=True)
    return json.dumps({"wallets": [dumped]})


class LiveWallet:
    """Wallet main at noon, with what its sender found on the account, and candles that close at noon."""

    def __init__(self, database_for: DatabaseFor, settings: Settings, provenance: str = "real") -> None:
        self.database_for, self.settings = database_for, settings
        for seed, symbol in enumerate((A, B)):
            store_candles(database_for, "test", symbol, 300, random_candles(3, 300, seed), provenance)
        assert create_live_wallet(self.cli, settings, NOON, entry())
        self.id = int(self.one("SELECT id FROM wallets")["id"])

    @property
    def cli(self) -> Database:
        return self.database_for("cli")

    def find(self, asset: str, amount: str, at: datetime = NOON) -> None:
        """The sender sees what lies on the account."""
        found = {
            "wallet_id": self.id, "asset": asset, "amount": amount, "kind": "found", "managed": False,
            "reference": f"found {asset}", "at": at, "recorded_at": at,
        }  # fmt: skip
        insert(self.database_for("sender").connection, "cash_flows", found)

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        return self.cli.fetch(query, parameters)

    def one(self, query: str, **parameters: Any) -> dict[str, Any]:
        (row,) = self.rows(query, **parameters)
        return row

    def unmanaged(self) -> dict[str, Any]:
        return {row["asset"]: row["amount"] for row in self.rows("SELECT * FROM unmanaged")}

    def close(self, symbol: str) -> float:
        newest = """SELECT close FROM market_data m JOIN instruments i ON i.id = m.instrument_id
                    WHERE symbol = %(symbol)s ORDER BY as_of DESC LIMIT 1"""
        return float(self.one(newest, symbol=symbol)["close"])


def later(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


@contextmanager
def undone(home: Path, name: str) -> Iterator[Undone]:
    """A database for a whole module and a maker of connections whose work is undone: tests that need no other role's
    rights share it, each in a transaction of the owner's that never commits."""
    with own_database(home, name) as (settings, database_for):
        database = database_for("owner")

        @contextmanager
        def begin() -> Iterator[Database]:
            with database.connection.transaction(force_rollback=True):
                yield database

        yield settings, begin


def borrow(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, database: Database, home: Path, main: Callable[..., int]
) -> Command:
    """The command line at noon, within the transaction of ``database``; KILL and wallets.json lie in ``home``."""
    monkeypatch.setattr("shared.job.load_settings", lambda: settings)
    monkeypatch.setattr("shared.job.open_database", lambda _settings, _layer: database)
    monkeypatch.setattr(database, "close", lambda: None)
    monkeypatch.setenv("SEXTANT_HOME", str(home))
    monkeypatch.setattr("shared.wallets_file.WALLETS_FILE", home / "wallets.json")
    monkeypatch.setattr("shared.job.open_clock", lambda _url: ReplayClock(NOON))
    return lambda *words: main([*words])
