"""A live wallet on the emulator's engine: its market, its database, the intents of a trader, and what must be true."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any

from psycopg.types.json import Json

from policy.execution import sender
from policy.execution.desk import Row
from policy.execution.order_states import FINAL
from policy.execution.sender import LiveWallets
from policy.execution.venues.protocol import TakeNonce, TradingVenue
from shared.clock import from_unix
from shared.db import load_queries
from shared.job import Outcome
from shared.settings import Settings
from shared.version import CODE
from shared.wallets_file import WalletEntry, WalletLimits
from tests.exchange_emulator.clock import VirtualClock
from tests.exchange_emulator.engine import Engine
from tests.exchange_emulator.market import Market
from tests.exchange_emulator.records import VenueName
from tests.helpers import DatabaseFor
from tests.policy.engine_venue import ACCOUNT, KEY, EngineClock, EngineVenue
from tests.shared.spine_rows import insert

START = 1_750_000_030.0
SYMBOLS = ("BTC/USD", "ETH/USD")
FIVE = 300
CAPITAL = Decimal(100_000)
WALLET = "main"
BIG = Decimal(10**9)
NAMESPACE = uuid.UUID(int=7)


@dataclass
class LiveWorld:
    """Everything but the sender itself, which ``send`` makes anew each time, as cron does."""

    database_for: DatabaseFor
    settings: Settings
    managed: Decimal | str | None = "all"
    amend: bool = True
    venue: VenueName = "kraken"
    clock: VirtualClock = field(init=False)
    market: Market = field(init=False)
    engine: Engine = field(init=False)
    wallet_id: int = field(init=False)
    instruments: dict[str, int] = field(init=False)
    venues: list[EngineVenue] = field(default_factory=list)  # of each sender, the newest last
    prepare: Callable[[EngineVenue], None] = field(default=lambda _venue: None)
    _intents: int = 0

    def __post_init__(self) -> None:
        self._begin()
        self.engine.accounts.open(ACCOUNT, self.venue)
        self.engine.accounts.add_key(ACCOUNT, KEY, "c2VjcmV0")
        self.engine.accounts.deposit(ACCOUNT, "USD", CAPITAL)
        self.clock.advance(60)
        candles, cli = self.database_for("candles"), self.database_for("cli")
        self.instruments = {}
        for symbol in SYMBOLS:
            rules = self.market.rules(symbol)
            row = {"venue": self.venue, "symbol": symbol, "base_timeframe_s": FIVE, "tick_size": rules.tick_size,
                   "lot_size": rules.lot_size, "min_notional": rules.min_notional, "provenance": "simulated",
                   "recorded_at": self.now}  # fmt: skip
            insert(candles.connection, "instruments", row)
            found = candles.fetch_one("SELECT id FROM instruments WHERE symbol = %(s)s", {"s": symbol})
            assert found is not None
            self.instruments[symbol] = found["id"]
        wallet = {"name": WALLET, "venue": self.venue, "mode": "live", "quote": "USD", "track": "live",
                  "taker_fee_bps": 40, "slippage_bps": 5, "impact": 1, "recorded_at": self.now}  # fmt: skip
        insert(cli.connection, "wallets", wallet)
        self.wallet_id = self.one("SELECT id FROM wallets")["id"]
        limits = {"wallet_id": self.wallet_id, "symbols": list(SYMBOLS), "max_order_notional": BIG,
                  "max_orders_a_day": 10**6, "ramp_days": 0, "recorded_at": self.now}  # fmt: skip
        insert(cli.connection, "limits", limits)
        grant = {"wallet_id": self.wallet_id, "granted": True, "checks": Json([]), "capital": CAPITAL,
                 "reason": "a test", "recorded_at": self.now}  # fmt: skip
        insert(cli.connection, "live_grants", grant)
        self.command("resume")
        self.close_candles()

    def _begin(self) -> None:
        self.clock = VirtualClock(START)
        self.market = Market(SYMBOLS, seed=7)
        self.engine = Engine(self.market, self.clock.now, lambda _venue, symbol: self.market.rules(symbol))

    # --- time and market ---

    @property
    def now(self) -> Any:
        return from_unix(self.clock.now())

    def pass_time(self, seconds: float) -> None:
        """The engine follows, and the newest candles come in."""
        self.clock.advance(seconds)
        self.engine.advance()
        self.close_candles()

    def close_candles(self) -> None:
        as_of = int(self.clock.now()) // FIVE * FIVE
        for symbol, instrument_id in self.instruments.items():
            bar = self.market.bars(symbol, FIVE, as_of - FIVE, as_of)[-1]
            self.database_for("candles").execute(
                "INSERT INTO market_data (instrument_id, timeframe_s, as_of, open, high, low, close, volume, source,"
                " recorded_at) VALUES (%(i)s, %(t)s, %(a)s, %(o)s, %(h)s, %(l)s, %(c)s, %(v)s, 'test', %(a)s)"
                " ON CONFLICT DO NOTHING",
                {"i": instrument_id, "t": FIVE, "a": from_unix(as_of), "o": float(bar.open), "h": float(bar.high),
                 "l": float(bar.low), "c": float(bar.close), "v": float(bar.volume)},
            )  # fmt: skip

    def close_of(self, symbol: str) -> float:
        row = self.one("SELECT close FROM market_data WHERE instrument_id = %(i)s ORDER BY as_of DESC LIMIT 1",
                       i=self.instruments[symbol])  # fmt: skip
        return float(row["close"])

    # --- people and jobs ---

    def command(self, command: str, wallet: bool = True) -> None:
        number = self.one("SELECT count(*) AS n FROM commands")["n"]
        row = {"wallet_id": self.wallet_id if wallet else None, "command": command, "reason": "a test",
               "issuer": "test", "idempotency_key": f"{command}-{number}", "issued_at": self.now,
               "expires_at": self.now + timedelta(days=1)}  # fmt: skip
        insert(self.database_for("cli").connection, "commands", row)

    def intend(
        self, side: str, quantity: str, symbol: str = "BTC/USD", lifetime_s: float = 3600.0, code: str = CODE,
        **terms: Any,
    ) -> uuid.UUID:  # fmt: skip
        """An intent with its decision, as a trader of that ``code`` writes them; a market order but for its
        ``terms``."""
        policy, close, now = self.database_for("policy"), self.close_of(symbol), self.now
        self._intents += 1
        source = f"test-{self._intents}"
        decision = {"wallet_id": self.wallet_id, "instrument_id": self.instruments[symbol], "as_of": now,
                    "source": source, "wanted_weight": 0.5, "allowed_weight": 0.5, "baseline_weight": 0.5,
                    "clamps": Json([]), "reason": "a test", "price": close, "quantity_held": 0, "cash": 0, "equity": 0,
                    "code_version": code, "settings_hash": "test", "recorded_at": now}  # fmt: skip
        insert(policy.connection, "decisions", decision)
        decided = self.one("SELECT id FROM decisions WHERE source = %(s)s", s=source)
        order_id = uuid.uuid5(NAMESPACE, source)
        order = {"id": order_id, "decision_id": decided["id"], "wallet_id": self.wallet_id, "mode": "live",
                 "instrument_id": self.instruments[symbol], "side": side, "type": "market",
                 "quantity": Decimal(quantity), "reference_price": close, "volatility": 0.5, "not_before": now,
                 "deadline": now + timedelta(seconds=lifetime_s), "recorded_at": now}  # fmt: skip
        insert(policy.connection, "orders", order | terms)
        return order_id

    def adopt(self, asset: str, amount: Decimal, value: Decimal | None = None) -> None:
        """`make wallet-adopt`: so much of what lies there is the wallet's own from now on."""
        for sign, managed in ((-1, False), (1, True)):
            flow = {"wallet_id": self.wallet_id, "asset": asset, "amount": sign * amount, "kind": "adoption",
                    "managed": managed, "value": value if managed else None, "reference": f"adopt-{asset}-{managed}",
                    "at": self.now, "recorded_at": self.now}  # fmt: skip
            insert(self.database_for("cli").connection, "cash_flows", flow)

    def stop_for_risk(self, because: str) -> None:
        """As the trader writes it down."""
        row = {"wallet_id": self.wallet_id, "kind": "stop", "rule": "max_drawdown", "as_of": self.now,
               "because": because, "recorded_at": self.now}  # fmt: skip
        insert(self.database_for("policy").connection, "risk_events", row)

    def live_wallets(self) -> LiveWallets:
        return LiveWallets(self.settings, self._open_venue)

    def send(self, live: LiveWallets | None = None) -> Outcome:
        """One run of the sender, a new process each time unless ``live`` is kept."""
        own = live or self.live_wallets()
        try:
            return sender.run_once(EngineClock(self.clock.now), self.database_for("sender"), own)
        finally:
            if live is None:
                own.close()

    def settle(self) -> None:
        self.database_for("policy").execute(load_queries("policy")["settle_orders"], {"wallet_id": self.wallet_id})

    def _open_venue(self, wallet: Row, take_nonce: TakeNonce) -> tuple[TradingVenue, WalletEntry]:
        venue = EngineVenue(self.engine, self.market, take_nonce, amend=self.amend)
        self.prepare(venue)
        self.venues.append(venue)
        return venue, self._entry()

    def _entry(self) -> WalletEntry:
        named = {"name": WALLET, "venue": self.venue, "symbols": list(SYMBOLS), "key_env": "KEY",
                 "secret_env": "SECRET", "limits": WalletLimits(max_order_notional=BIG)}  # fmt: skip
        own = {} if self.managed is None else {"managed_capital": self.managed}
        return WalletEntry.model_validate(named | own)

    # --- reading ---

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        return self.database_for("cli").fetch(query, parameters)

    def one(self, query: str, **parameters: Any) -> dict[str, Any]:
        (row,) = self.rows(query, **parameters)
        return row

    def events(self, order_id: uuid.UUID) -> list[str]:
        found = self.rows("SELECT event FROM order_events WHERE order_id = %(id)s ORDER BY id", id=order_id)
        return [row["event"] for row in found]

    def detail(self, order_id: uuid.UUID) -> str:
        found = self.rows("SELECT detail FROM order_events WHERE order_id = %(id)s ORDER BY id DESC", id=order_id)
        return str(found[0]["detail"])

    def position(self, symbol: str = "BTC/USD") -> Decimal:
        found = self.rows("SELECT quantity FROM positions WHERE instrument_id = %(i)s", i=self.instruments[symbol])
        return Decimal(found[0]["quantity"]) if found else Decimal(0)

    def cash(self) -> Decimal:
        return Decimal(self.one("SELECT amount FROM cash WHERE wallet_id = %(w)s", w=self.wallet_id)["amount"])

    def venue_orders(self, client_id: uuid.UUID | None = None) -> list[Any]:
        orders = self.engine.view(ACCOUNT).orders
        return [o for o in orders if client_id is None or o.client_id == str(client_id)]

    def alerted(self, key: str) -> int:
        """How many alerts have a key that begins so."""
        return int(self.one("SELECT count(*) AS n FROM alerts WHERE key LIKE %(k)s", k=f"{key}%")["n"])

    def working(self) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM open_risk ORDER BY recorded_at, order_id")

    def stops(self, symbol: str = "BTC/USD") -> list[Any]:
        types = ("stop", "trailing_stop")
        return [o for o in self.venue_orders() if o.is_open and o.type in types and o.symbol == symbol]


def acting_calls(world: LiveWorld) -> dict[str, int]:
    """What the newest sender asked its venue to do."""
    calls = world.venues[-1].calls
    return {kind: calls[kind] for kind in ("place", "cancel", "amend") if calls[kind]}


def check(world: LiveWorld, *, settled: bool = True) -> None:
    """What must hold after anything: no intent sent twice, each fill of the venue here exactly once, positions and cash
    the venue's to the last decimal; once ``settled``, no order whose fate is not known."""
    view = world.engine.view(ACCOUNT)
    ids = [o.client_id for o in view.orders if o.client_id is not None]
    assert len(ids) == len(set(ids)), "an intent is at the venue twice"
    recorded = {row["venue_trade_id"]: row for row in world.rows(
        "SELECT venue_trade_id, quantity, price, cost, fee FROM fills UNION ALL "
        "SELECT venue_trade_id, quantity, price, cost, fee FROM external_fills")}  # fmt: skip
    truth = {str(f.number): f for f in view.fills}
    assert recorded.keys() <= truth.keys(), "a fill that never was"
    for trade_id, row in recorded.items():
        fill = truth[trade_id]
        told = (row["quantity"], row["price"], row["cost"], row["fee"])
        assert told == (fill.quantity, fill.price, fill.cost, fill.fee)
    for row in world.rows("SELECT array_agg(event) AS events FROM order_events GROUP BY order_id"):
        assert row["events"].count("sending") <= 1
        assert sum(event in FINAL for event in row["events"]) <= 1
    if not settled:
        return
    assert recorded.keys() == truth.keys(), "a fill is missing"
    assert not [o for o in world.working() if o["state"] in ("sending", "unknown", "canceling", "amending")]
    ours = {
        row["asset"]: row["amount"]
        for row in world.rows("SELECT asset, sum(amount) AS amount FROM unmanaged GROUP BY 1")
    }
    ours["USD"] = ours.get("USD", Decimal(0)) + world.cash()
    for symbol in SYMBOLS:
        base = symbol.partition("/")[0]
        ours[base] = ours.get(base, Decimal(0)) + world.position(symbol)
    theirs = {asset: balance.total for asset, balance in view.balances.items()}
    for asset in ours.keys() | theirs.keys():
        assert ours.get(asset, Decimal(0)) == theirs.get(asset, Decimal(0)), asset
