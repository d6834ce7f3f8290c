"""What a drill rehearses on: the emulated venue with one account, a database of its own in a home of its own, one live
wallet, and everybody around it: candles, a trader, the operator, the sender. No key, no order and no row of yours.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any

from candles.store import add_instrument, write_candles
from pipeline.crash.venue import Venue
from pipeline.wallets import create_live_wallet
from policy.execution.desk import Row
from policy.execution.sender import LiveWallets, run_once
from policy.execution.venues import open_trading
from policy.execution.venues.protocol import TakeNonce, TradingVenue
from policy.execution.wallet_keys import credentials_of
from shared.clock import open_clock
from shared.db import Database, load_queries, role_url
from shared.embedded_db import ensure_running, remove, stop
from shared.exchanges import open_exchange
from shared.job import Outcome
from shared.rows import CANDLE_FIELDS, Candles, Instrument
from shared.schema import bring_up
from shared.settings import Settings, load_settings
from shared.version import CODE
from shared.wallets_file import WalletEntry

ACCOUNT, KEY, SECRET = "drill", "drill-key-of-nobody", "bm90IGEgc2VjcmV0"
KEYS = {"DRILL_API_NAME": KEY, "DRILL_API_SIGN": SECRET}
CAPITAL = Decimal(100_000)
STARTS_AT = 1_750_000_030.0  # 2025-06-15
FIVE_S = 300
LIFETIME = timedelta(seconds=120)  # of an intent
LAYERS = ("candles", "cli", "policy", "sender")


def rehearsed(name: str, symbols: tuple[str, ...]) -> WalletEntry:
    """A wallet of that name with the drill's own key, all of whose account is managed. Limits are not what is
    rehearsed: it has none that matter."""
    terms = {
        "name": name, "venue": "kraken", "symbols": list(symbols), "key_env": "DRILL_API_NAME",
        "secret_env": "DRILL_API_SIGN", "limits": {"max_order_notional": 10**6, "ramp_days": 0},
        "managed_capital": "all",
    }  # fmt: skip
    return WalletEntry.model_validate(terms)


class DrillWorld:
    """``with DrillWorld(folder, entry) as world``. Its clock is the emulator's and moves only by ``pass_time``.

    Nothing of the user's settings is used that could lead out of ``folder``: neither database nor alerts."""

    def __init__(self, folder: Path, entry: WalletEntry) -> None:
        self.entry, self.symbol = entry, entry.symbols[0]
        self.venue = Venue(folder, entry.symbols, STARTS_AT)
        at = {"rest_url": self.venue.url, "websocket_url": self.venue.websocket_url, "requests_per_s": 1_000.0}
        self.settings: Settings = load_settings(
            home=folder / "home", database_url=None, db_host=None, db_name="sextant_drill", crash_at=None,
            alert_urls=None, heartbeat_url=None, clock_url=self.venue.clock_url, venues={"kraken": at},
            universe={"venue": "kraken", "symbols": list(entry.symbols), "base_timeframe": "5m"},
        )  # fmt: skip
        self._stack = ExitStack()
        self._databases: dict[str, Database] = {}
        self._newest_close = self._intents = 0

    @property
    def home(self) -> Path:
        return self.settings.home_path

    def __enter__(self) -> DrillWorld:
        with self._stack:
            self._stack.callback(remove, self.home)
            self._stack.callback(self.venue.end)
            bring_up(self.settings)
            self.venue.start()
            self._log_in()
            self._stack.callback(self._log_out)
            self._furnish()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def _log_in(self) -> None:
        self._databases = {layer: Database(role_url(self.settings, layer)) for layer in LAYERS}

    def _log_out(self) -> None:
        for database in self._databases.values():
            database.close()

    def _furnish(self) -> None:
        ask, quote = self.venue.ask, self.entry.quote
        ask("POST", "accounts", {"name": ACCOUNT})
        ask("POST", "keys", {"account": ACCOUNT, "key": KEY, "secret": SECRET})
        ask("POST", "money", {"account": ACCOUNT, "kind": "deposit", "asset": quote, "amount": str(CAPITAL)})
        self.venue.advance(60.0)
        public, now = open_exchange("kraken", self.settings.venues), self.venue.time
        self.instrument: Instrument = add_instrument(
            self.of("candles"), "kraken", self.symbol, FIVE_S, public.rules(self.symbol), "simulated", now
        )
        self._close_candles()
        create_live_wallet(self.of("cli"), self.settings, now, self.entry)
        self.wallet_id = int(self._one("cli", "wallet")["id"])
        grant = {"wallet_id": self.wallet_id, "capital": CAPITAL, "at": now}
        self.of("cli").execute(load_queries("drill")["grant_live"], grant)

    # --- the database ---

    def of(self, layer: str) -> Database:
        return self._databases[layer]

    def _one(self, layer: str, query: str, **parameters: Any) -> Row:
        row = self.of(layer).fetch_one(load_queries("drill")[query], parameters)
        assert row is not None
        return row

    def stop_database(self) -> None:
        stop(self.home)

    def start_database(self) -> None:
        ensure_running(self.home)
        self._log_out()

    def held(self) -> Decimal:
        return Decimal(self._one("cli", "held", instrument_id=self.instrument.id)["quantity"])

    # --- time, candles, the trader ---

    def pass_time(self, seconds: float) -> None:
        self.venue.advance(seconds)
        self._close_candles()

    def _close_candles(self) -> None:
        """The newest closed candle, where it is not here yet."""
        newest = int(self.venue.now) // FIVE_S * FIVE_S
        if newest <= self._newest_close:
            return
        door = f"truth?symbol={self.symbol}&timeframe={FIVE_S}&since={newest - FIVE_S}&until={newest}"
        told = self.venue.ask("GET", door)
        candles = Candles.from_columns([told[name] for name in CANDLE_FIELDS])
        write_candles(self.of("candles"), self.instrument, FIVE_S, candles, FIVE_S, "kraken", self.venue.time, newest)
        self._newest_close = newest

    @property
    def close(self) -> float:
        return float(self._one("cli", "newest_close", instrument_id=self.instrument.id)["close"])

    def lots(self, value: Decimal) -> Decimal:
        """What so much of the quote currency buys, in whole lots."""
        lot = self.instrument.lot_size
        return (value / Decimal(repr(self.close)) / lot).to_integral_value(ROUND_DOWN) * lot

    def intend(self, side: str, quantity: Decimal, below: Decimal | None = None) -> uuid.UUID:
        """A market order; with ``below`` (a fraction) one that rests so far below the newest close."""
        self._intents += 1
        source, close, tick = f"drill-{self._intents}", Decimal(repr(self.close)), self.instrument.tick_size
        limit = None if below is None else (close * (1 - below) / tick).to_integral_value(ROUND_DOWN) * tick
        order_id = uuid.uuid5(self._one("policy", "installation")["id"], source)
        row = {
            "id": order_id, "wallet_id": self.wallet_id, "instrument_id": self.instrument.id, "source": source,
            "side": side, "type": "market" if limit is None else "limit", "quantity": quantity, "limit_price": limit,
            "price": float(close), "at": self.venue.time, "deadline": self.venue.time + LIFETIME, "code_version": CODE,
        }  # fmt: skip
        self.of("policy").execute(load_queries("drill")["insert_intent"], row)
        return order_id

    # --- the sender ---

    def send(self) -> Outcome:
        """One run, as cron starts it; in this process, with its own key."""
        live = LiveWallets(self.settings, self._opener())
        try:
            return run_once(open_clock(self.settings.clock_url), self.of("sender"), live)
        finally:
            live.close()

    def _opener(self) -> Callable[[Row, TakeNonce], tuple[TradingVenue, WalletEntry]]:
        def open_venue(wallet: Row, take_nonce: TakeNonce) -> tuple[TradingVenue, WalletEntry]:
            key = credentials_of(self.entry, KEYS)
            return open_trading("kraken", self.settings, key, take_nonce, wallet["symbols"]), self.entry

        return open_venue
