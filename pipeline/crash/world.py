"""One account at the emulated venue and one database of its own, and everybody but the sender: candles, trader,
operator, each with its own role."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any

from psycopg import sql

from candles.store import add_instrument, write_candles
from pipeline.commands import issue_command
from pipeline.crash.processes import Keys, Sender
from pipeline.crash.venue import Venue
from pipeline.wallets import create_live_wallet
from shared.db import Connection, Database, drop_database, load_queries, owner_url, role_url
from shared.embedded_db import ensure_running
from shared.embedded_db_liveness import exists, is_postmaster, postmaster
from shared.embedded_db_place import base_of
from shared.exchanges import open_exchange
from shared.kill_file import content_of, kill_path, lift, write_stop
from shared.rows import CANDLE_FIELDS, Candles, Instrument
from shared.settings import Settings, load_settings
from shared.version import CODE
from shared.wallets_file import WalletEntry

TEMPLATE = "crash_template"
SYMBOLS = ("BTC/USD", "ETH/USD")
ACCOUNT, KEY, SECRET, WALLET = "crash", "crash-key-of-nobody", "bm90IGEgc2VjcmV0", "crash"
KEYS: Keys = {"CRASH_API_NAME": KEY, "CRASH_API_SIGN": SECRET}
CAPITAL = Decimal(100_000)
FIVE_S, DAY_S = 300, 86_400
EPOCH_S = 1_750_000_030.0  # 2025-06-15; each world has a day of its own after it
DAYS = 365
LIFETIME = timedelta(seconds=120)  # of an intent
ENTRY = WalletEntry.model_validate({
    "name": WALLET, "venue": "kraken", "symbols": list(SYMBOLS), "key_env": "CRASH_API_NAME",
    "secret_env": "CRASH_API_SIGN", "managed_capital": "all",
    "limits": {"max_order_notional": 10**6, "max_orders_a_day": 10**6, "ramp_days": 0},
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Holding:
    instrument: Instrument
    quantity: Decimal


class World:
    """``with World(home, folder, seed) as world``: its venue runs and its database exists until the block ends."""

    def __init__(self, home: Path, folder: Path, seed: int) -> None:
        self.home, self.seed = home, seed
        self.venue = Venue(folder, SYMBOLS, EPOCH_S + seed % DAYS * DAY_S)
        at = {"rest_url": self.venue.url, "websocket_url": self.venue.websocket_url, "requests_per_s": 1_000.0}
        self.settings: Settings = load_settings(
            home=home, db_name=f"crash_{seed}_{uuid.uuid4().hex[:8]}", clock_url=self.venue.clock_url,
            venues={"kraken": at}, universe={"venue": "kraken", "symbols": list(SYMBOLS), "base_timeframe": "5m"},
        )  # fmt: skip
        self._databases: dict[str, Database] = {}
        self._instruments: dict[str, Instrument] = {}
        self._newest_close = 0
        self._intents = 0

    def __enter__(self) -> World:
        try:
            self._begin()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()

    def _begin(self) -> None:
        self.lift_file()  # an earlier world may have ended early
        name, template = sql.Identifier(self.settings.db_name), sql.Identifier(TEMPLATE)
        with owner(self.home) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(name, template))
        self.venue.start()
        ask = self.venue.ask
        ask("POST", "accounts", {"name": ACCOUNT})
        ask("POST", "keys", {"account": ACCOUNT, "key": KEY, "secret": SECRET})
        ask("POST", "money", {"account": ACCOUNT, "kind": "deposit", "asset": "USD", "amount": str(CAPITAL)})
        self.venue.advance(60.0)
        public = open_exchange("kraken", self.settings.venues)
        for symbol in SYMBOLS:
            self._instruments[symbol] = add_instrument(
                self.database("candles"), "kraken", symbol, FIVE_S, public.rules(symbol), "simulated", self.venue.time
            )
        self.close_candles()
        create_live_wallet(self.database("cli"), self.settings, self.venue.time, ENTRY)
        row = {"wallet_id": self.wallet_id, "capital": CAPITAL, "at": self.venue.time}
        self.database("cli").execute(load_queries("crash")["grant_live"], row)
        self.command("resume")

    def end(self) -> None:
        self.venue.end()
        self.disconnect()
        with owner(self.home) as connection:
            drop_database(connection, self.settings.db_name)

    # --- the database ---

    def database(self, layer: str) -> Database:
        if layer not in self._databases:
            url = owner_url(self.settings) if layer == "owner" else role_url(self.settings, layer)
            self._databases[layer] = Database(url)
        return self._databases[layer]

    def disconnect(self) -> None:
        for database in self._databases.values():
            database.close()
        self._databases = {}

    def strike_database(self, number: signal.Signals) -> None:
        """Its server ends at once, with SIGQUIT (stop -m immediate) or SIGKILL, and is started again."""
        data = base_of(self.home) / "data"
        pid = postmaster(data)
        assert pid is not None, "the database's server should run"
        self.disconnect()
        os.kill(pid, number)
        while is_postmaster(pid, data) and exists(pid):
            os.sched_yield()
        ensure_running(self.home)

    def end_sessions(self) -> None:
        """The sender's connections are cut, and are gone when this returns."""
        server, queries = ensure_running(self.home), load_queries("crash")
        superuser = Database(server.url("postgres", server.superuser_password, self.settings.db_name))
        try:
            superuser.fetch(queries["end_sessions"])
            while (left := superuser.fetch_one(queries["end_sessions_left"])) and left["number"]:
                os.sched_yield()
        finally:
            superuser.close()

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """What the operator's role may read."""
        return self.database("cli").fetch(load_queries("crash")[query], parameters)

    @property
    def wallet_id(self) -> int:
        return int(self.rows("wallet")[0]["id"])

    def holds_epoch(self, sender: Sender) -> bool:
        """Whether it is this sender's turn: none has begun an epoch after it."""
        holder: str | None = self.rows("wallet")[0]["holder"]
        return holder is not None and holder.endswith(f":{sender.pid}")

    # --- time and candles ---

    def pass_time(self, seconds: float) -> None:
        self.venue.advance(seconds)
        self.close_candles()

    def close_candles(self) -> None:
        """The newest closed candle of each symbol, where it is not here yet."""
        newest = int(self.venue.now) // FIVE_S * FIVE_S
        if newest <= self._newest_close:
            return
        for symbol, instrument in self._instruments.items():
            door = f"truth?symbol={symbol}&timeframe={FIVE_S}&since={newest - FIVE_S}&until={newest}"
            told = self.venue.ask("GET", door)
            candles = Candles.from_columns([told[name] for name in CANDLE_FIELDS])
            write_candles(
                self.database("candles"), instrument, FIVE_S, candles, FIVE_S, "kraken", self.venue.time, newest
            )
        self._newest_close = newest

    # --- the trader ---

    def intend(self, side: str, symbol: str, quantity: Decimal, limit_price: Decimal | None = None) -> None:
        """A decision and its intent, in one transaction; with a limit it rests until it is taken or cancelled."""
        database, queries, now = self.database("policy"), load_queries("crash"), self.venue.time
        self._intents += 1
        source = f"crash-{self._intents}"
        row = {
            "wallet_id": self.wallet_id, "instrument_id": self._instruments[symbol].id, "source": source, "side": side,
            "quantity": quantity, "price": self.close_of(symbol), "at": now, "deadline": now + LIFETIME,
            "type": "market" if limit_price is None else "limit", "limit_price": limit_price, "code_version": CODE,
        }  # fmt: skip
        with database.transaction():
            installation = database.fetch_one(queries["installation"])
            decided = database.fetch_one(queries["insert_decision"], row)
            assert installation is not None
            assert decided is not None
            made = {"id": uuid.uuid5(installation["id"], source), "decision_id": decided["id"]}
            database.execute(queries["insert_intent"], row | made)

    def settle(self) -> None:
        self.database("policy").execute(load_queries("policy")["settle_orders"], {"wallet_id": self.wallet_id})

    def close_of(self, symbol: str) -> float:
        row = self.rows("newest_close", instrument_id=self._instruments[symbol].id)[0]
        return float(row["close"])

    def below(self, symbol: str, share: Decimal) -> Decimal:
        """A price that far below the newest close, on the tick."""
        tick = self._instruments[symbol].tick_size
        return (Decimal(repr(self.close_of(symbol))) * (1 - share) / tick).to_integral_value(ROUND_DOWN) * tick

    def lots(self, symbol: str, quantity: Decimal) -> Decimal:
        lot = self._instruments[symbol].lot_size
        return (quantity / lot).to_integral_value(ROUND_DOWN) * lot

    def holdings(self) -> list[Holding]:
        return [Holding(self._instruments[row["symbol"]], row["quantity"]) for row in self.rows("positions")]

    # --- the operator ---

    def command(self, command: str) -> None:
        issue_command(self.database("cli"), self.venue.time, WALLET, command, "the crash harness", "cli:crash")

    def stop_by_file(self, mandate: str) -> None:
        write_stop(self.home, WALLET, mandate, "the crash harness", "cli:crash", self.venue.time)

    def lift_file(self) -> None:
        lift(self.home, WALLET, content_of(kill_path(self.home, WALLET)))

    # --- the sender ---

    def sender(self, at: str | None = None, *, stops: bool = False) -> Sender:
        return Sender(self.settings, ENTRY, KEYS, at, stops=stops)


@contextmanager
def owner(home: Path) -> Iterator[Connection]:
    """Making and dropping databases: the owner's right."""
    database = Database(owner_url(load_settings(home=home, db_name="postgres")))
    try:
        yield database.connection
    finally:
        database.close()
