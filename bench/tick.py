"""How long the trader takes from what it waits for to its orders: an embedding committed, or a candle committed, until
the intents are committed.

Portfolios of 1, 10 and 100 instruments, each with 400 days of hours, on an embedded server with the shipped settings
(fsync on, every commit waits for the disk). What runs is policy.run_trader_loop with policy.run_trader as its tick, in
a process of its own; an order follows for every instrument, every time. Once with an active policy of three nets, woken
by the embeddings of all its instruments, which one transaction commits; once without a model, woken by the candles.
Time is counted from the commit's return to the moment at which the loop's tick has returned (its intents are committed
a little before), on one machine's monotonic clock. Beside it, in turn in the same run, the least that it could be: a
NOTIFY to another process, which then commits one row.

``python -m bench.tick [--profile N]``: with N the tick of N instruments is profiled instead.
"""

from __future__ import annotations

import argparse
import cProfile
import multiprocessing
import pstats
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection as Pipe
from typing import Any, LiteralString

import numpy as np

from bench.workbench import Row, print_rows, temporary_settings
from candles.binary_copy import copy_candles
from candles.store import add_instrument, default_rules
from pipeline.operator import create_wallet, issue_command
from policy import run_trader
from policy.decision_kernel import OBSERVATION_SIZE
from policy.observation import policy_schema
from policy.policy_export import export_ensemble
from policy.run_trader_loop import TraderLoop
from shared.clock import Clock, ReplayClock, from_unix, to_unix
from shared.db import Database, load_queries, role_url
from shared.job import Outcome
from shared.model_store import model_by_id, save_model
from shared.rows import UNKNOWN_TRADES, Candles
from shared.settings import Settings

VENUE, WALLET = "bench", "bench"
HOUR_S, DAYS = 3_600, 400
START = datetime(2024, 6, 1, tzinfo=UTC)
SIZES = (1, 10, 100)
ROUNDS = {1: 200, 10: 200, 100: 60}
WARM_UP = 5
SECONDS = 60.0  # after which a round is not merely slow
HIDDEN = 64

INSERT_EMBEDDING: LiteralString = """
INSERT INTO embeddings (model_id, instrument_id, timeframe_s, as_of, embedding, ood, known_from, recorded_at)
SELECT %(model_id)s, id, 3600, %(at)s, %(vector)s::vector, 0.5, %(at)s, %(at)s
FROM unnest(%(instruments)s::int[]) AS i (id)
"""
NOTIFY: LiteralString = "SELECT pg_notify(%(channel)s, %(payload)s)"
STATE: LiteralString = """
INSERT INTO market_state (track, as_of, horizon_s, p_down, p_flat, p_up, p_vol_low, p_vol_mid, p_vol_high, conviction,
                          regime, source, reasons, valid_until, known_from, recorded_at)
SELECT 'live', %(at)s, h, 0.2, 0.3, 0.5, 0.1, 0.8, 0.1, 0.5, 'bull', 'bench', '', %(until)s, %(at)s, %(at)s
FROM unnest('{14400, 86400}'::int[]) AS h
"""
CONFIG: LiteralString = """
INSERT INTO policy_config (track, as_of, source, risk_aversion, turnover_penalty, target_volatility, max_exposure,
                           max_position, strategy_weights, reasons, valid_until, known_from, recorded_at)
VALUES ('live', %(at)s, 'bench', 1, 0, 1, 1, 0.5, '{"drl": 1.0}', '', %(until)s, %(at)s, %(at)s)
"""
CANCEL: LiteralString = """
INSERT INTO order_events (order_id, event, detail, at, recorded_at)
SELECT o.id, 'canceled', 'bench', %(at)s, %(at)s FROM orders o WHERE o.state = 'intended'
AND NOT EXISTS (SELECT FROM order_events e WHERE e.order_id = o.id)
"""


@dataclass(frozen=True, slots=True)
class Market:
    """A portfolio on a server of its own; ``encoder_id`` None: no model, the baseline trades."""

    settings: Settings
    instruments: list[int]
    prices: dict[int, float]  # the last close before the first round, by instrument
    encoder_id: int | None
    candles: Database
    encoder: Database
    meta: Database
    sender: Database


@contextmanager
def prepared(size: int, with_model: bool) -> Iterator[Market]:
    with temporary_settings() as made:
        universe = made.universe.model_copy(update={"venue": VENUE, "base_timeframe": "1h", "decision_timeframe": "1h"})
        execution = made.execution.model_copy(update={"delay_s": 0, "no_trade_band": 0.0})
        risk = made.risk.model_copy(update={"max_step": 1.0, "max_orders_a_day": 10**6})
        settings = made.model_copy(update={"universe": universe, "execution": execution, "risk": risk})
        databases = [Database(role_url(settings, layer)) for layer in
                     ("candles", "encoder", "meta_controller", "sender", "cli", "policy")]  # fmt: skip
        candles, encoder, meta, sender, cli, policy = databases
        symbols = [f"COIN{n}/USDT" for n in range(size)]
        prices = dict(_series(candles, symbol, seed) for seed, symbol in enumerate(symbols))
        create_wallet(cli, settings, START - timedelta(hours=1), WALLET, VENUE, symbols, 10_000_000.0)
        issue_command(cli, START - timedelta(hours=1), WALLET, "resume", "bench", "bench")
        encoder_id = _models(encoder, policy) if with_model else None
        try:
            yield Market(settings, list(prices), prices, encoder_id, candles, encoder, meta, sender)
        finally:
            for database in databases:
                database.close()


def _series(database: Database, symbol: str, seed: int) -> tuple[int, float]:
    """The id and the last close of 400 days of hours that rise, so that the baseline wants to hold them, on noise."""
    instrument = add_instrument(database, VENUE, symbol, HOUR_S, default_rules(100.0), "simulated", START)
    rng, n = np.random.default_rng(seed), DAYS * 24
    closes = 100.0 * np.exp(np.cumsum(rng.normal(0.0002, 0.004, n)))
    with database.transaction():
        copy_candles(database, instrument.id, HOUR_S, _candles(closes, to_unix(START)), "bench", START)
    return instrument.id, float(closes[-1])


def _candles(closes: Any, last: int) -> Candles:
    n = len(closes)
    as_of = last - HOUR_S * np.arange(n - 1, -1, -1)
    return Candles.from_columns([as_of, closes, closes, closes, closes, np.ones(n), np.full(n, UNKNOWN_TRADES)])


def _models(encoder: Database, policy: Database) -> int:
    """An encoder that nobody runs, and a policy of three nets as large as trained ones, which wants full positions."""
    rng = np.random.default_rng(7)
    sizes = ((HIDDEN, OBSERVATION_SIZE), (HIDDEN, HIDDEN), (1, HIDDEN))
    nets = [
        {f"weight_{k}": rng.normal(0.0, 0.05, size).astype(np.float32) for k, size in enumerate(sizes)}
        | {f"bias_{k}": np.full(size[0], 0.5, np.float32) for k, size in enumerate(sizes)}
        for _ in range(3)
    ]
    onnx, since = export_ensemble(nets), START - timedelta(days=60)
    common: dict[str, Any] = {
        "onnx": onnx, "trained_from": since, "trained_to": since + timedelta(days=1), "label_horizon_s": 0,
        "provenance": "simulated", "metrics": {}, "recorded_at": START,
    }  # fmt: skip
    id_ = save_model(encoder, kind="encoder", schema={"kind": "encoder"}, encoder_id=None, **common)
    schema = policy_schema(HOUR_S, model_by_id(encoder, id_).schema_hash, reach=0.5)
    save_model(policy, kind="policy", schema=schema, encoder_id=id_, **common)
    return id_


def _trade(url_settings: Settings, pipe: Pipe, rounds: int) -> None:
    """The loop's process: it is told each round's time, and tells when its tick has returned, and what it wrote."""
    clock, told = ReplayClock(START), []

    def tick(clock: Clock, database: Database, settings: Settings) -> Outcome:
        outcome = run_trader.run_once(clock, database, settings)
        told.append((time.monotonic(), outcome.result.get("orders", 0)))
        return outcome

    pair = [Database(role_url(url_settings, "policy")) for _ in range(2)]
    loop = TraderLoop(clock, url_settings, pair[0], pair[1], tick)
    loop.listen()
    for n in range(rounds):
        clock.set(from_unix(pipe.recv()))
        if n == 0:
            loop.step()  # the tick at the start, which finds nothing
            told.clear()
        pipe.send("ready")
        while not any(orders for _, orders in told):
            loop.step()
        pipe.send(next(one for one in told if one[1]))
        told.clear()
    for database in pair:
        database.close()


def _answer(settings: Settings, pipe: Pipe, rounds: int) -> None:
    """The least that a loop could do: hears of something, commits one row, as role policy."""
    listener, writer = (Database(role_url(settings, "policy")) for _ in range(2))
    listener.execute("LISTEN bare")
    pipe.send("ready")
    row = {"severity": "info", "message": "bench", "day": START.date(), "recorded_at": START}
    for _ in range(rounds):
        while not listener.notifications(1.0):
            pass
        writer.execute(load_queries("shared")["raise_alert"], row | {"key": str(uuid.uuid4())})
        pipe.send(time.monotonic())
    listener.close()
    writer.close()


@contextmanager
def _process(target: Callable[..., None], *arguments: Any) -> Iterator[Pipe]:
    """A process that does this; it has ended, or is ended, when the context is left."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(arguments[0], there, *arguments[1:]))
    process.start()
    try:
        yield here
        process.join(SECONDS)
    finally:
        process.kill()


def _received(pipe: Pipe) -> Any:
    if not pipe.poll(SECONDS):
        raise SystemExit(
            f"no order within {SECONDS:.0f} s: what the bench expects of the trader does not hold any more"
        )
    return pipe.recv()


def _bring(market: Market, at: int, candle_wakes: bool) -> float:
    """Commits what the round is about; elapsed seconds when the commit had returned. What came before it is there."""
    moment = from_unix(at)
    times = {"at": moment, "until": moment + timedelta(hours=2)}
    market.sender.execute(CANCEL, {"at": moment})
    market.meta.execute(STATE, times)
    market.meta.execute(CONFIG, times)
    with market.candles.transaction():
        for i in market.instruments:
            candle = _candles(np.array([market.prices[i] * (1.0 + 0.003 * ((at // HOUR_S + i) % 3 - 1))]), at)
            copy_candles(market.candles, i, HOUR_S, candle, "bench", moment)
        if candle_wakes:
            market.candles.execute(NOTIFY, {"channel": "candles", "payload": f"{market.instruments[-1]}:{HOUR_S}:{at}"})
    if candle_wakes:
        return time.monotonic()
    vector = np.random.default_rng(at).normal(size=64)
    params = {"model_id": market.encoder_id, "instruments": market.instruments, "at": moment,
              "vector": str((vector / np.linalg.norm(vector)).tolist())}  # fmt: skip
    with market.encoder.transaction():
        market.encoder.execute(INSERT_EMBEDDING, params)
        market.encoder.execute(NOTIFY, {"channel": "embeddings", "payload": ""})
    return time.monotonic()


def measure(size: int, candle_wakes: bool) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]:
    """Seconds a round [R] of the trader and of the bare answer, in turn; the fewest orders that a round wrote."""
    rounds = ROUNDS[size] + WARM_UP
    taken, least, orders = [], [], []
    with (
        prepared(size, not candle_wakes) as market,
        _process(_trade, market.settings, rounds) as trader,
        _process(_answer, market.settings, rounds) as bare,
    ):
        assert _received(bare) == "ready"
        for n in range(1, rounds + 1):
            at = to_unix(START) + n * HOUR_S
            trader.send(at)
            _received(trader)
            began = _bring(market, at, candle_wakes)
            ended, written = _received(trader)
            taken.append(ended - began)
            orders.append(written)
            market.encoder.execute(NOTIFY, {"channel": "bare", "payload": ""})
            began = time.monotonic()
            least.append(_received(bare) - began)
    return np.array(taken[WARM_UP:]), np.array(least[WARM_UP:]), min(orders[WARM_UP:])


def profile(size: int) -> None:
    """Where the time of one portfolio's ticks goes, in this process."""
    with prepared(size, with_model=True) as market:
        database, clock = Database(role_url(market.settings, "policy")), ReplayClock(START)
        profiler, taken = cProfile.Profile(), []
        for n in range(1, 41):
            at = to_unix(START) + n * HOUR_S
            _bring(market, at, candle_wakes=False)
            clock.set(from_unix(at))
            if n > WARM_UP:
                profiler.enable()
            began = time.monotonic()
            run_trader.run_once(clock, database, market.settings)
            profiler.disable()
            taken.append(time.monotonic() - began)
        database.close()
    print(f"{size} instruments: median {1e3 * np.median(taken[WARM_UP:]):.1f} ms a tick, profiled")
    pstats.Stats(profiler).sort_stats("cumulative").print_stats(45)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", type=int, metavar="N")
    wanted = parser.parse_args().profile
    if wanted is not None:
        profile(wanted)
        return
    rows = []
    for candle_wakes in (False, True):
        for size in SIZES:
            taken, least, orders = measure(size, candle_wakes)
            print(f"{size} instruments: {len(taken)} rounds, at least {orders} orders in each")
            for q in (50, 99):
                value, reference = (1e3 * float(np.percentile(series, q)) for series in (taken, least))
                what = "candle" if candle_wakes else "embedding"
                rows.append(Row(f"{what} committed to intent committed, {size} instruments, p{q}", value, "ms",
                                f"NOTIFY round trip and one commit, p{q}", reference, reference / value))  # fmt: skip
    print_rows(rows)


if __name__ == "__main__":
    main()
