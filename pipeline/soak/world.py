"""An installation of its own and a venue to trade on: settings, roles' databases, two wallets, and a sink of alerts."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from psycopg import sql
from pydantic import SecretStr

from candles import backfill
from pipeline.crash.venue import Venue
from pipeline.stopping import resume
from pipeline.wallets import create_live_wallet, create_wallet
from policy.execution.desk import Row
from policy.execution.sender import LiveWallets
from policy.execution.venues.kraken_trading import KrakenTrading
from policy.execution.venues.protocol import Credentials, TakeNonce, TradingVenue
from shared.clock import Timer, from_unix
from shared.db import Database, connect, load_queries, owner_url, role_url
from shared.embedded_db import ensure_running
from shared.embedded_db_liveness import exists, is_postmaster, postmaster
from shared.embedded_db_place import base_of
from shared.exchanges.kraken import KrakenExchange
from shared.settings import Settings, VenueSettings
from shared.wallets_file import WalletEntry

SYMBOLS = ("BTC/USD", "ETH/USD")
ACCOUNT, KEY, SECRET = "soak", "soak-key-of-nobody", "bm90IGEgc2VjcmV0"
LIVE, PAPER = "soak-live", "soak-paper"
CAPITAL = Decimal(100_000)
START = 1_771_891_200.0  # a midnight: 2026-02-24, in whose next 30 days trends of both symbols come and go
HISTORY_S = 29 * 86_400  # of 1h candles, which the venue serves at once
NO_TRADE_BAND = 0.02  # narrower than usual, for there to be much to send
NOTIFY = "*/5 * * * *"  # not each minute: 35,000 runs that find nothing would be a quarter of the time
EVER = 1e9  # calls a second: limits of rate are not what is soaked
SHORT_S = 0.05  # a wait that no clock needs to tell the venue
ENTRY = WalletEntry.model_validate({
    "name": LIVE, "venue": "kraken", "symbols": list(SYMBOLS), "key_env": "SOAK_KEY", "secret_env": "SOAK_SIGN",
    "limits": {"max_order_notional": 10**6, "max_orders_a_day": 10**4, "ramp_days": 0}, "managed_capital": "all",
})  # fmt: skip


def soak_settings(settings: Settings, venue: Venue, sink: Sink) -> Settings:
    """``settings`` with the venue's address, alerts to ``sink``, and no waiting in real time."""
    at = VenueSettings(rest_url=venue.url, websocket_url=venue.websocket_url, requests_per_s=EVER)
    universe = {"venue": "kraken", "symbols": SYMBOLS, "base_timeframe": "5m", "decision_timeframe": "1h"}
    hasty = {"grace_s": 0.01, "reconnect_s": 0.01, "reconnect_max_s": 0.02}
    changed = {
        "venues": {"kraken": at},
        "universe": settings.universe.model_copy(update=universe),
        "alert_urls": SecretStr(sink.url),
        "feed": settings.feed.model_copy(update=hasty),
        "execution": settings.execution.model_copy(update={"no_trade_band": NO_TRADE_BAND}),
        "schedule": settings.schedule | {"notify": settings.schedule["notify"].model_copy(update={"cron": NOTIFY})},
    }
    return settings.model_copy(update=changed)


class SoakClock:
    """The venue's virtual time, ``wrong_by`` seconds off: the clock of the jobs' machine."""

    def __init__(self, venue: Venue) -> None:
        self._venue, self.wrong_by = venue, 0.0

    def now(self) -> datetime:
        return from_unix(self._venue.now + self.wrong_by)


class World:
    """What the jobs work with. ``database(layer)`` logs in as the layer's role; ``drop_connections`` is what a
    restarted server does to them."""

    def __init__(self, settings: Settings, venue: Venue, folder: Path) -> None:
        self.settings, self.venue, self.clock = settings, venue, SoakClock(venue)
        self.backups = folder / "backups"
        self._drift = 0.0  # what short waits came to
        self._databases: dict[str, Database] = {}
        self.timer = Timer(monotonic=lambda: venue.now + self._drift, sleep=self._sleep)
        self.exchange = KrakenExchange(venue.url, venue.websocket_url, timer=self.timer, requests_per_s=EVER)

    def _sleep(self, seconds: float) -> None:
        """Patience costs virtual time; the waits of a rate limiter that limits nothing cost none."""
        if seconds < SHORT_S:
            self._drift += seconds
        else:
            self.venue.advance(seconds)

    def database(self, layer: str) -> Database:
        if layer not in self._databases:
            url = owner_url(self.settings) if layer == "owner" else role_url(self.settings, layer)
            self._databases[layer] = Database(url)
        return self._databases[layer]

    def drop_connections(self, *layers: str) -> None:
        """Of these layers, or of all."""
        for layer in layers or tuple(self._databases):
            if layer in self._databases:
                self._databases[layer].close()

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        return self.database("cli").fetch(load_queries("soak")[query], parameters)

    # --- the beginning ---

    def begin(self) -> None:
        """An account with money, a month of hourly candles, and two wallets that may trade."""
        ask, cli, now = self.venue.ask, self.database("cli"), self.clock.now()
        ask("POST", "accounts", {"name": ACCOUNT})
        ask("POST", "keys", {"account": ACCOUNT, "key": KEY, "secret": SECRET})
        ask("POST", "money", {"account": ACCOUNT, "kind": "deposit", "asset": "USD", "amount": str(CAPITAL)})
        for which in ("kraken_public", "kraken_calls", "kraken_orders"):
            ask("POST", "limits", {"which": which, "per_s": EVER, "burst": EVER})
        since = from_unix(self.venue.now - HISTORY_S)
        backfill.run_once(self.clock, self.database("candles"), self.settings, self.exchange, since, timeframe_s=3_600)
        create_live_wallet(cli, self.settings, now, ENTRY)
        create_wallet(cli, self.settings, now, PAPER, "kraken", SYMBOLS, float(CAPITAL))
        cli.execute(load_queries("soak")["grant_live"], {"wallet": LIVE, "capital": CAPITAL, "at": now})
        for wallet in (LIVE, PAPER):
            self.resume(wallet, "the soak begins")

    def resume(self, wallet: str, reason: str) -> None:
        resume(self.database("cli"), self.settings.home_path, self.clock.now(), wallet, reason, "cli:soak")

    # --- the live wallet's venue ---

    def live_wallets(self) -> LiveWallets:
        """What a new sender process begins with."""
        return LiveWallets(self.settings, self._open_venue)

    def _open_venue(self, wallet: Row, take_nonce: TakeNonce) -> tuple[TradingVenue, WalletEntry]:
        key, symbols, url = Credentials(KEY, SECRET), wallet["symbols"], self.venue.url
        return KrakenTrading(key, take_nonce, symbols, url, requests_per_s=EVER, timer=self.timer), ENTRY

    def truth(self) -> Mapping[str, Any]:
        """What really happened on the account."""
        return self.venue.truth(ACCOUNT)


class Sink(ThreadingHTTPServer):
    """Takes alerts by HTTP, as an operator's channel would; counts them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taken)
        self.taken = 0

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.server_port}/soak"


class _Taken(BaseHTTPRequestHandler):
    server: Sink

    def do_POST(self) -> None:
        json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.taken += 1
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Not to stderr."""


def spare_the_disk(home: Path) -> None:
    """Commits go to the kernel and not to the disk: all that a killed server needs, and nobody cuts the power here."""
    server = ensure_running(home)
    admin = connect(server.url("postgres", server.superuser_password, "postgres"))
    for setting in ("fsync", "full_page_writes"):
        admin.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(setting)))
    admin.execute("SELECT pg_reload_conf()")
    admin.close()


def restart_database(home: Path) -> None:
    """At once, as `stop -m immediate` does: no session is asked."""
    data = base_of(home) / "data"
    pid = postmaster(data)
    assert pid is not None, "the database's server should run"
    os.kill(pid, signal.SIGQUIT)
    while is_postmaster(pid, data) and exists(pid):
        os.sched_yield()
    ensure_running(home)


@contextmanager
def open_world(settings: Settings, folder: Path) -> Iterator[tuple[World, Sink]]:
    """A world on a fresh database of ``settings``; ``folder`` is for the emulator's journal and backups."""
    venue, sink = Venue(folder, SYMBOLS, START), Sink()
    thread = threading.Thread(target=sink.serve_forever, kwargs={"poll_interval": 0.05}, name="sink", daemon=True)
    thread.start()
    world: World | None = None
    try:
        venue.start()
        world = World(soak_settings(settings, venue, sink), venue, folder)
        world.begin()
        yield world, sink
    finally:
        if world is not None:
            world.drop_connections()
        venue.end()
        sink.shutdown()
        sink.server_close()
        thread.join()
