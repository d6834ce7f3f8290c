"""A day of candles with every fault the emulator knows, fed live: afterwards the table holds the truth."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shared.db import Database
from shared.settings import Settings
from tests.emulator.feed_world import (
    DAY,
    HOUR,
    START,
    STEP,
    SYMBOLS,
    Counts,
    Running,
    counted_log,
    differences,
    feed_settings,
    open_kraken,
    run_until,
    step,
    wait_for_truth,
)
from tests.exchange_emulator.faults import FAULTS, TRADING, Rule
from tests.exchange_emulator.server import Emulator
from tests.helpers import DatabaseFor

SEED = 20_260_821
WRONG = ("revision", "repaired")  # what a silent loss is found to have been, at the next confirmation

# Each fault on each surface that has it, with the words under which the feed counts it: one of them is enough.
PLAN: dict[tuple[str, str], tuple[str, ...]] = {
    ("hang", "rest"): ("rest.timeout",),
    ("reset", "rest"): ("rest.transport",),
    ("close", "rest"): ("rest.transport",),
    ("short_body", "rest"): ("rest.transport", "rest.not_json"),
    ("html", "rest"): ("rest.not_json",),
    ("bad_json", "rest"): ("rest.not_json",),
    ("empty", "rest"): ("rest.not_json",),
    ("null_result", "rest"): ("rest.no_result",),
    ("http_429", "rest"): ("rest.rate_limited",),
    ("http_5xx", "rest"): ("rest.server_error",),
    ("error", "rest"): ("rest.maintenance",),
    ("duplicate", "rest"): ("rest.duplicate",),
    ("reorder", "rest"): ("rest.reorder",),
    ("gap", "rest"): ("lacking", "hole"),
    ("revision", "rest"): ("revision",),
    ("spike", "rest"): ("spike",),
    ("maintenance", "rest"): ("status.maintenance",),
    ("cancel_only", "rest"): ("status.cancel_only",),
    ("delisting", "rest"): ("rest.venue_error", "read_failed"),
    ("clock_skew", "rest"): ("skew.critical",),
    ("silence", "stream"): ("stream.silence",),
    ("stream_close", "stream"): ("stream.disconnected",),
    ("stream_reset", "stream"): ("stream.disconnected",),
    ("stream_bad_json", "stream"): ("stream.bad_message",),
    ("checksum", "stream"): ("stream.checksum",),
    ("duplicate", "stream"): ("stream.duplicate",),
    ("reorder", "stream"): ("stream.out_of_order",),
    ("drop_update", "stream"): WRONG,
    ("gap", "stream"): ("skipped",),
    ("revision", "stream"): ("revision", "backwards"),
    ("spike", "stream"): ("spike",),
    ("maintenance", "stream"): ("stream.maintenance",),
    ("cancel_only", "stream"): ("stream.cancel_only",),
    ("delisting", "stream"): ("stream.subscription_refused",),
}


def rule(fault: str, surface: Any, symbol: str, now: float) -> Rule:
    """Strong enough to be noticed, and over before it could outlast the feed's memory."""
    aim: dict[str, Any] = {"fault": fault, "surface": surface, "starts": now}
    if fault in ("gap", "revision", "spike"):
        named = (now // STEP + 1) * STEP  # the next candle to open
        endpoint = "OHLC" if surface == "rest" else "ohlc"
        times = 1 if fault != "gap" else None
        return Rule(**aim, symbol=symbol, endpoint=endpoint, times=times, parameter=named)
    if fault == "delisting":
        return Rule(**aim, symbol=symbol, endpoint="OHLC" if surface == "rest" else None)
    if fault in ("duplicate", "reorder") and surface == "rest":
        return Rule(**aim, endpoint="OHLC", times=1)
    if fault in ("duplicate", "reorder", "stream_bad_json", "checksum"):
        return Rule(**aim, symbol=symbol, times=2)
    if fault == "clock_skew":
        return Rule(**aim, parameter=36_000.0)
    if fault in ("maintenance", "cancel_only"):
        return Rule(**aim)
    return Rule(**aim, times=1)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(symbols=SYMBOLS, start=START) as running:
        yield running


def go_on_until(emulator: Emulator, feed: Running, noticed: Callable[[], bool], what: str) -> None:
    """At most four hours: by then two confirmations have read everything again."""
    until = emulator.clock.now() + 4 * HOUR
    while not noticed():
        feed.check_alive()
        assert emulator.clock.now() < until, f"{what} was not noticed"
        step(emulator)


def lose_the_last_word(emulator: Emulator, symbol: str) -> None:
    """Of one candle: what happened in its last minute is told in one event, and that one is lost."""
    close = (emulator.clock.now() // STEP + 2) * STEP
    run_until(emulator, close - 60)
    time.sleep(0.2)  # what was up to now is told
    emulator.faults.inject(Rule("drop_update", "stream", symbol=symbol, times=1))
    emulator.clock.advance(90)


def plant(emulator: Emulator, feed: Running, counts: Counts, fault: str, surface: str, symbol: str) -> None:
    """One fault, until the feed has counted it (or where it cannot be seen: until it was served)."""
    kinds, before, served = PLAN[fault, surface], counts.of(PLAN[fault, surface]), emulator.faults.served[fault]
    if fault == "drop_update":
        lose_the_last_word(emulator, symbol)
    else:
        emulator.faults.inject(rule(fault, surface, symbol, emulator.clock.now()))
    what = f"{fault} on {surface} for {symbol}"
    go_on_until(emulator, feed, lambda: emulator.faults.served[fault] > served, f"{what}: its being served")
    go_on_until(emulator, feed, lambda: counts.of(kinds) > before, what)
    emulator.faults.clear()


def test_a_day_with_every_fault_ends_as_the_truth_and_each_is_counted(
    emulator: Emulator, settings: Settings, database_for: DatabaseFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {fault for fault, _ in PLAN} == set(FAULTS) - TRADING
    chance = random.Random(SEED)
    plan = list(PLAN)
    chance.shuffle(plan)
    # A symbol whose subscription was ended is polled for until the next connection, which is to come soon here.
    plan.insert(plan.index(("delisting", "stream")) + 1, ("stream_close", "stream"))
    reader = database_for("candles")
    exchange = open_kraken(emulator, monkeypatch)
    with counted_log() as counts, Running(emulator, feed_settings(settings), exchange) as feed:
        go_on_until(emulator, feed, lambda: counts.latest["connected"] > 0, "the stream's being there")
        for fault, surface in plan:
            run_until(emulator, emulator.clock.now() + chance.uniform(0, 2 * STEP))
            plant(emulator, feed, counts, fault, surface, chance.choice(SYMBOLS))
        run_until(emulator, max(START + DAY, emulator.clock.now() + 2 * HOUR))
        wait_for_truth(reader, emulator)
    assert differences(reader, emulator) == ""
    assert {fault for fault, _ in PLAN if not emulator.faults.served[fault]} == set()
    for planted, kinds in PLAN.items():
        assert any(feed.counts.get(kind, 0) for kind in kinds), planted
    check_traces(reader)


def check_traces(reader: Database) -> None:
    def values(query: Any) -> set[Any]:
        return {next(iter(row.values())) for row in reader.fetch(query)}

    assert values("SELECT missing FROM candle_gaps") == set()
    assert "spike" in values("SELECT reason FROM quarantine")
    assert values("SELECT count(*) FROM candle_revisions") != {0}
    assert {"online", "maintenance", "cancel_only"} <= values("SELECT status FROM venue_checks")
    assert values("SELECT max(abs(clock_skew_s)) > 30000 FROM venue_checks") == {True}
    assert {"clock-skew-critical:kraken"} <= values("SELECT key FROM alerts WHERE severity = 'critical'")
