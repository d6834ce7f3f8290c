"""The feed's side of the database: where a series ends, what is added to it, how the venue was, what to look at."""

from __future__ import annotations

import logging
import zlib
from contextlib import suppress
from datetime import datetime

import numpy as np

from candles.feed_state import REFUSALS, Verdict
from candles.feed_venue import VenueCheck
from candles.intake import quarantine
from candles.store import Written, add_instrument, delist, known_series, refresh_rules, write_candles
from shared.alerts import Severity, raise_alert
from shared.db import Database, DatabaseError, DatabaseUnavailable, load_queries
from shared.exchanges import Exchange
from shared.market_data import read_candles
from shared.rows import Candles, Instrument, InstrumentRules

JOB = "run_feed"
INTERRUPT_S = 1.0  # for the word that a statement is to end

log = logging.getLogger("sextant.feed")


class FeedStore:
    """All calls must come one after the other: it is one connection.

    That connection holds the job's lock. When it broke (a server was restarted) the new one takes the lock again
    before anything is written; while another feed has it, this one waits: DatabaseUnavailable.
    """

    def __init__(self, database: Database, exchange: Exchange, timeframe_s: int, decision_s: int) -> None:
        self._database, self._exchange = database, exchange
        self._timeframe_s, self._decision_s = timeframe_s, decision_s
        self._locked_by = database.connection.info.backend_pid

    def find(self, symbol: str) -> tuple[Instrument, int | None] | None:
        """The instrument and its last stored close; None if it is not known under this symbol."""
        self._hold_lock()
        name, provenance = self._exchange.name, self._exchange.provenance
        return known_series(self._database, name, (symbol,), self._timeframe_s, provenance).get(symbol)

    def under_rules(self, symbol: str, known: Instrument | None, rules: InstrumentRules, now: datetime) -> Instrument:
        """The instrument with what the venue demands of an order today; made where it is not known."""
        self._hold_lock()
        if known is not None:
            return refresh_rules(self._database, known, rules, now)
        name, provenance = self._exchange.name, self._exchange.provenance
        return add_instrument(self._database, name, symbol, self._timeframe_s, rules, provenance, now)

    def delist(self, instrument: Instrument, now: datetime) -> None:
        self._hold_lock()
        delist(self._database, instrument, now)

    def read(self, instrument: Instrument, after: int, until: int) -> Candles:
        self._hold_lock()
        return read_candles(self._database, instrument.id, self._timeframe_s, after, until)

    def write(self, instrument: Instrument, verdict: Verdict, newest: int, now: datetime) -> Written:
        """Everything that a verdict says, or nothing of it."""
        self._hold_lock()
        name, symbol = instrument.venue, instrument.symbol
        written = Written()
        with self._database.transaction():
            quarantine(self._database, name, symbol, self._timeframe_s, name, verdict.refused, now)
            for candle in verdict.believed:
                message = f"{name} {symbol}: an absurd candle was read twice and is believed: {candle}"
                raise_alert(self._database, now, "warning", f"feed-spike:{name}:{symbol}", message)
            for candle in verdict.given_up:
                message = f"{name} {symbol}: a candle was refused in {REFUSALS} readings and is left out: {candle}"
                raise_alert(self._database, now, "warning", f"feed-refused:{name}:{symbol}", message)
            candles = Candles.concatenate([verdict.again, verdict.store])
            if len(candles):
                candles = candles[np.argsort(candles.as_of)]
                series = (self._database, instrument, self._timeframe_s, candles, self._decision_s)
                written = write_candles(*series, name, now, newest=newest)
        return written

    def write_check(self, check: VenueCheck, now: datetime) -> None:
        self._hold_lock()
        self._database.execute(
            load_queries("candles")["add_venue_check"],
            {
                "venue": self._exchange.name,
                "status": check.status,
                "clock_skew_s": check.clock_skew_s,
                "round_trip_s": check.round_trip_s,
                "recorded_at": now,
            },
        )

    def alert(self, now: datetime, severity: Severity, key: str, message: str) -> None:
        self._hold_lock()
        raise_alert(self._database, now, severity, key, message)

    def interrupt(self) -> None:
        """Ends the statement under way in another thread: its transaction is rolled back. The only call that may
        come beside others."""
        with suppress(DatabaseError):
            self._database.connection.cancel_safe(timeout=INTERRUPT_S)

    def disconnect(self) -> None:
        """For a server that does not even end a statement: what is under way must not be joined by what follows."""
        log.warning("the database does not answer: the connection is dropped, with the write that was under way")
        self._database.close()

    def _hold_lock(self) -> None:
        backend = self._database.connection.info.backend_pid
        if backend == self._locked_by:
            return
        lock = {"lock": zlib.crc32(JOB.encode())}  # as shared.job takes it
        row = self._database.fetch_one(load_queries("candles")["hold_job_lock"], lock)
        if row is None or not row["taken"]:
            raise DatabaseUnavailable("another feed took over while this one had lost its connection: waiting for it")
        self._locked_by = backend
