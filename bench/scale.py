"""What the queries of one tick cost a symbol, with 1, 100 and 1,000 symbols in the table.

Three databases on one server are asked in turn. Each symbol has 30 days of 5m candles and their hours, a day of
hourly embeddings and a place in a wallet that holds them all. A query about one symbol is asked about symbols drawn
at random and its median taken; one about the whole universe is asked about all symbols, and its cost divided by
their number. Ratio: the cost a symbol with one symbol in the table, divided by that with 1,000 (1: as much; below
1: it grew).

Verdict (2 shared cores, other work beside it, 2026-11; three runs). What is asked about all symbols costs less a
symbol the more there are. Of what is asked about one, appending, gaps and what is missing stay within noise (0.84 to
1.02); the windows grow a little (encoder 0.76, 0.80, 0.87; market index 0.92, 0.90, 0.87; trader 0.57, 0.87, 0.83:
the first not seen again). Why the windows grow was not examined.
"""

from __future__ import annotations

import hashlib
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, LiteralString

from psycopg import Rollback

from bench.ingest import END, HOUR, NOW, STEP, random_walk
from bench.workbench import Row, print_rows, temporary_settings
from candles.binary_copy import copy_candles
from candles.derive import derive_candles
from candles.store import add_instrument, default_rules, known_series, write_candles
from meta_controller.market_index import REACH_S
from policy.signals import signal_window
from shared.clock import from_unix
from shared.db import Database, connect, load_queries, owner_url, role_url
from shared.embedded_db import ensure_running
from shared.features import WINDOW
from shared.market_data import find_instruments, read_candles
from shared.rows import Candles, Instrument
from shared.schema import bring_up
from shared.settings import load_settings

SIZES = (1, 100, 1_000)
CANDLES = 30 * 86_400 // STEP
VENUE = "bench"
ASKED = 200  # times a query about one symbol is asked
BATCHES = 15  # times a query about all symbols is asked
WARM_UP = 5  # of these times do not count
LOADERS = 2

MODEL: LiteralString = """
INSERT INTO models (kind, onnx, sha256, schema, schema_hash, trained_from, trained_to, label_horizon_s, known_from,
                    provenance, metrics, status, recorded_at)
VALUES ('encoder', 'bench', %(sha256)s, '{}', '', %(from)s, %(to)s, 3600, %(now)s, 'simulated', '{}', 'active', %(now)s)
"""
EMBEDDINGS: LiteralString = """
INSERT INTO embeddings (model_id, instrument_id, timeframe_s, as_of, embedding, ood, known_from, recorded_at)
SELECT (SELECT id FROM models), instrument_id, timeframe_s, as_of, array_fill(0.125::float4, ARRAY[64])::vector, 0.5,
       as_of, %(now)s
FROM market_data WHERE timeframe_s = 3600 AND as_of > %(since)s
"""
# A wallet that bought one of everything.
WALLET: LiteralString = """
WITH wallet AS (
    INSERT INTO wallets (name, venue, mode, quote, track, taker_fee_bps, slippage_bps, impact, recorded_at)
    VALUES ('bench', 'bench', 'paper', 'USDT', 'rules', 10, 5, 1, %(now)s) RETURNING id
), decided AS (
    INSERT INTO decisions (wallet_id, instrument_id, as_of, source, wanted_weight, allowed_weight, clamps, reason,
                           price, quantity_held, cash, equity, baseline_weight, code_version, settings_hash,
                           recorded_at)
    SELECT w.id, i.id, %(now)s, 'policy', 0, 0, '[]', 'bench', 100, 0, 0, 0, 0, 'bench', 'bench', %(now)s
    FROM wallet w, instruments i
    RETURNING id, wallet_id, instrument_id
), ordered AS (
    INSERT INTO orders (id, decision_id, wallet_id, mode, instrument_id, side, type, quantity, reference_price,
                        volatility, state, not_before, deadline, recorded_at)
    SELECT gen_random_uuid(), id, wallet_id, 'paper', instrument_id, 'buy', 'market', 1, 100, 0.5, 'filled', %(now)s,
           %(now)s::timestamptz + interval '1 hour', %(now)s FROM decided
    RETURNING id, wallet_id
)
INSERT INTO fills (wallet_id, venue_trade_id, order_id, side, quantity, price, cost, fee, fee_asset, filled_at,
                   recorded_at)
SELECT wallet_id, id::text, id, 'buy', 1, 100, 100, 0, 'USDT', %(now)s, %(now)s FROM ordered
"""
WALLET_EQUITY: LiteralString = "SELECT * FROM equity WHERE wallet_id = 1"
GAPS: LiteralString = (
    "SELECT * FROM candle_gaps WHERE instrument_id = %(instrument_id)s AND timeframe_s = %(timeframe_s)s"
)
NEWEST_EMBEDDINGS: LiteralString = "SELECT instrument_id, as_of, ood FROM current_embeddings WHERE timeframe_s = 3600"


@dataclass(frozen=True, slots=True)
class World:
    """A database with so many symbols, all with the same candles."""

    database: Database
    instruments: list[Instrument]


def make_world(home: Path, size: int, candles: Candles) -> World:
    settings = load_settings(home=home, db_name=f"scale_{size}")
    bring_up(settings)
    databases = [Database(role_url(settings, "candles")) for _ in range(LOADERS)]
    hours = derive_candles(candles, STEP, HOUR)

    def load(share: int) -> list[Instrument]:
        database = databases[share]
        return [add_symbol(database, n, candles, hours) for n in range(share, size, LOADERS)]

    with ThreadPoolExecutor(LOADERS) as pool:
        instruments = [one for part in pool.map(load, range(LOADERS)) for one in part]
    owner = Database(owner_url(settings))
    trained = {"from": NOW - timedelta(days=30), "to": NOW - timedelta(days=1)}
    owner.execute(MODEL, {"sha256": hashlib.sha256(b"bench").hexdigest(), "now": NOW} | trained)
    owner.execute(EMBEDDINGS, {"now": NOW, "since": from_unix(END - 86_400)})
    owner.execute(WALLET, {"now": NOW})
    owner.execute("VACUUM ANALYZE")  # as autovacuum does in time
    for database in (owner, *databases[1:]):
        database.close()
    return World(databases[0], instruments)


def add_symbol(database: Database, n: int, candles: Candles, hours: Candles) -> Instrument:
    with database.transaction():
        one = add_instrument(database, VENUE, f"A{n}/USDT", STEP, default_rules(50_000.0), "simulated", NOW)
        copy_candles(database, one.id, STEP, candles, VENUE, NOW)
        copy_candles(database, one.id, HOUR, hours, f"derived:{STEP}", NOW)
    return one


def about_one(world: World, coming: Candles) -> dict[str, Callable[[Instrument], object]]:
    database, queries = world.database, load_queries("candles")

    def window(bars: int) -> Callable[[Instrument], object]:
        return lambda one: read_candles(database, one.id, HOUR, END - bars * HOUR, END)

    def append(one: Instrument) -> None:
        with database.transaction():
            write_candles(database, one, STEP, coming, HOUR, VENUE, NOW, newest=int(coming.as_of[-1]))
            raise Rollback

    def missing(one: Instrument) -> object:
        span = {"after": from_unix(END - WINDOW * STEP), "until": from_unix(END)}
        return database.fetch_one(queries["held_and_checked"], {"instrument_id": one.id, "timeframe_s": STEP} | span)

    def gaps(one: Instrument) -> object:
        return database.fetch(GAPS, {"instrument_id": one.id, "timeframe_s": STEP})

    return {
        "append the candle that completes an hour": append,
        "what is missing of a recent span": missing,
        "all gaps of a series (view candle_gaps)": gaps,
        f"the encoder's window ({WINDOW} hours)": window(WINDOW),
        f"the trader's window ({signal_window(3600)} hours)": window(signal_window(3600)),
        f"the market index's reach ({REACH_S // HOUR} hours, of which 720 are there)": window(REACH_S // HOUR),
    }


def about_all(world: World) -> dict[str, Callable[[], object]]:
    database, symbols = world.database, [one.symbol for one in world.instruments]
    newest = {"instrument_ids": [one.id for one in world.instruments], "timeframe_s": HOUR, "now": NOW}
    policy = load_queries("policy")
    return {
        "find instruments": lambda: find_instruments(database, VENUE, symbols),
        "last close of each series": lambda: known_series(database, VENUE, symbols, STEP, "simulated"),
        "last close that all have": lambda: database.fetch_one(policy["newest_candle"], newest),
        "newest embeddings (view current_embeddings)": lambda: database.fetch(NEWEST_EMBEDDINGS),
        "equity of a wallet that holds all": lambda: database.fetch(WALLET_EQUITY),
    }


def measure(worlds: list[World], coming: Candles) -> dict[str, list[float]]:
    """Seconds a symbol of each query, by world."""
    draw = random.Random(7)
    ones, alls = [about_one(world, coming) for world in worlds], [about_all(world) for world in worlds]
    costs: dict[str, list[float]] = {}
    for name in ones[0]:
        rounds = [
            [seconds(asks[name], draw.choice(world.instruments)) for world, asks in zip(worlds, ones, strict=True)]
            for _ in range(ASKED)
        ]
        costs[name] = [statistics.median(taken[WARM_UP:]) for taken in zip(*rounds, strict=True)]
    for name in alls[0]:
        rounds = [[seconds(asks[name]) for asks in alls] for _ in range(BATCHES + WARM_UP)]
        medians = [statistics.median(taken[WARM_UP:]) for taken in zip(*rounds, strict=True)]
        costs[name] = [cost / len(world.instruments) for cost, world in zip(medians, worlds, strict=True)]
    return costs


def checkpoint(home: Path) -> None:
    """What was loaded is on the disk before anything is measured."""
    server = ensure_running(home)
    connection = connect(server.url("postgres", server.superuser_password, "postgres"))
    connection.execute("CHECKPOINT")
    connection.close()


def main() -> None:
    walk = random_walk(CANDLES + 1)
    candles, coming = walk[:-1], walk[-1:]
    with temporary_settings() as settings:
        worlds = [make_world(settings.home_path, size, candles) for size in SIZES]
        checkpoint(settings.home_path)
        costs = measure(worlds, coming)
        for world in worlds:
            world.database.close()
    print(f"{'µs a symbol, with so many symbols in the table:':72}" + "".join(f"{size:>9,}" for size in SIZES))
    for name, cost in costs.items():
        print(f"{name:72}" + "".join(f"{one * 1e6:9.1f}" for one in cost))
    print_rows(
        [
            Row(name, many * 1e6, "µs a symbol", "with one symbol", few * 1e6, few / many)
            for name, (few, *_, many) in costs.items()
        ]
    )


def seconds(work: Callable[..., object], *arguments: Any) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
