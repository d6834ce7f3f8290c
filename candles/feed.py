"""Who is listened to and who is asked, and when: one task a symbol, one for the stream, one for the venue's health.

The venue and the database are called in threads; what they say is judged in feed_state. Waiting goes by real seconds,
closes go by the clock, which may be an emulator's and run a thousand times as fast: it is looked at in short steps.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, cast

from candles.feed_journal import DATABASE_TROUBLES, Journal
from candles.feed_state import Pace, SeriesState, Span, Verdict
from candles.feed_store import FeedStore
from candles.feed_threads import OneAtATime, Workers
from candles.feed_venue import Skew, VenueCheck, check_venue
from candles.store import Written
from shared.clock import Clock, ClockUnavailable, to_unix
from shared.db import Database
from shared.exchanges import Exchange, ExchangeError
from shared.exchanges.protocol import (
    BookTop,
    CandleUpdate,
    NotListed,
    StreamEvent,
    StreamsCandles,
    StreamState,
    StreamTrouble,
    VenueStatus,
)
from shared.rows import Instrument, InstrumentRules
from shared.settings import Settings

log = logging.getLogger("sextant.feed")

STEP_S = 0.2  # between two looks at the clock
CHECK_S = 60.0  # between two looks at the venue, at most
LAST_CALL_S = 1.0  # what a write under way gets to finish when the feed is stopped
IDLE_S = 0.2  # what a thread needs to end that has nothing to do
FAILURES_TO_TELL = 3  # reads that failed in a row, before it is an alert and asked more slowly
VENUE_THREADS = 8  # so many hanging symbols leave the others alone
DEEPEST = 10_000  # candles: a longer absence is the backfill's work
FRESH = 700  # candles read of a symbol that was never stored
ONCE_ROUNDS = 4  # questions a symbol, in a run that ends
LASTING = ("refused", "venue_error")  # kinds of ExchangeError that more haste will not cure: a delisted symbol


@dataclass(slots=True)
class Watched:
    """One symbol of the settings; ``state`` is None until its series was found, and again after the database failed."""

    wanted: str
    symbol: str | None = None  # as the venue lists it
    instrument: Instrument | None = None
    state: SeriesState | None = None
    failures: int = 0  # in a row
    not_before: float = 0.0  # monotonic
    look: asyncio.Event = field(default_factory=asyncio.Event)

    def wants(self, now: int, monotonic: float) -> bool:
        if self.state is None:
            return monotonic >= self.not_before
        return self.state.holds(now) or self.state.ask(now, monotonic) is not None


class Feed:
    def __init__(self, clock: Clock, database: Database, settings: Settings, exchange: Exchange) -> None:
        universe = settings.universe
        self._clock, self._settings, self._exchange = clock, settings.feed, exchange
        timeframe_s, decision_s = universe.base_timeframe_s, universe.decision_timeframe_s
        depth = (exchange.capabilities.candle_depth or DEEPEST) - 1  # the open one is served too
        patience_s = settings.feed.reconnect_max_s
        self._pace = Pace(timeframe_s, decision_s, settings.feed.grace_s, patience_s, depth)
        self._step_s = min(STEP_S, settings.feed.grace_s)
        self._store = FeedStore(database, exchange, timeframe_s, decision_s)
        self._database = OneAtATime(LAST_CALL_S)
        self._venue_threads, self._clock_thread = Workers(VENUE_THREADS), Workers(1)
        self._watched = [Watched(wanted) for wanted in universe.symbols]
        self._written = Written()
        self._now = clock.now()
        self._journal = Journal(exchange, self._store, self._database, lambda: self._now)
        self._connected = self._degraded = False
        self._streamed_status: VenueStatus = "online"
        self._lost_at, self._lost_closed = 0.0, self._closed()
        self._check_venue = asyncio.Event()
        self._last_check: tuple[int, str, Skew] | None = None

    # --- lives ---

    async def run(self) -> None:
        """Until it is cancelled."""
        self._lost_at = _monotonic()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tell_time())
                tasks.create_task(self._watch_venue())
                tasks.create_task(self._watch_stream())
                for watched in self._watched:
                    tasks.create_task(self._keep(watched))
                if self._exchange.capabilities.streams_candles and isinstance(self._exchange, StreamsCandles):
                    tasks.create_task(self._listen(self._exchange))
        finally:
            self._end()

    async def run_once(self) -> None:
        """Until what has closed by now is stored, or cannot be had at present."""
        try:
            await asyncio.gather(self._look_at_venue(), *(self._catch_up(watched) for watched in self._watched))
        finally:
            self._end()

    def _end(self) -> None:
        """The connection is the job's again afterwards: a write that still hangs is given up, all of it."""
        for threads in (self._venue_threads, self._clock_thread, self._database):
            threads.close()
        if not self._database.ended_within(IDLE_S):
            self._store.interrupt()
            if not self._database.ended_within(LAST_CALL_S):
                self._store.disconnect()
        self._journal.tell_counts()

    async def _catch_up(self, watched: Watched) -> None:
        for _ in range(ONCE_ROUNDS):
            await self._attend(watched)
            if watched.failures or not _state(watched).pending(to_unix(self._now)):
                return
            await asyncio.sleep(self._settings.grace_s)

    def result(self) -> dict[str, Any]:
        """What it came to, for job_runs."""
        return {"new": self._written.new, "revised": self._written.revised, "counts": self._journal.counts()}

    # --- time ---

    async def _tell_time(self) -> None:
        closed = self._closed()
        while True:
            try:
                self._now = await self._clock_thread.run(self._clock.now)
            except ClockUnavailable as error:
                self._journal.count("clock", error, rarely=True)
            now, monotonic = to_unix(self._now), _monotonic()
            for watched in self._watched:
                if watched.wants(now, monotonic):
                    watched.look.set()
            if self._closed() != closed:  # back, too: a clock that was ahead is right again
                closed = self._closed()
                self.look_at_venue_now()
                self._journal.tell_counts()
            await asyncio.sleep(self._step_s)

    def _closed(self) -> int:
        """The newest close."""
        return to_unix(self._now) // self._pace.timeframe_s * self._pace.timeframe_s

    # --- one symbol ---

    async def _keep(self, watched: Watched) -> None:
        while True:
            await watched.look.wait()
            watched.look.clear()
            await self._attend(watched)

    async def _attend(self, watched: Watched) -> None:
        """Stores what is due and asks what is to be asked; a trouble with it is this symbol's own."""
        try:
            if watched.state is None:
                await self._find(watched)
            await self._write(watched, lambda state: state.take(to_unix(self._now)))
            span = _state(watched).ask(to_unix(self._now), _monotonic())
            if span is not None:
                await self._ask(watched, span)
        except ExchangeError as error:
            await self._read_failed(watched, error)
        except DATABASE_TROUBLES as error:
            self._journal.count("database", error)
            self._forget(watched)
            if watched.failures == FAILURES_TO_TELL:  # a server that is away for long hears of it when it is back
                await self._journal.alert("warning", f"feed-database:{watched.wanted}", f"{watched.wanted}: {error}")

    async def _ask(self, watched: Watched, span: Span) -> None:
        symbol = cast(str, watched.symbol)
        candles = await self._venue_threads.run(
            self._exchange.candles, symbol, self._pace.timeframe_s, span.since, span.until
        )
        if watched.failures >= FAILURES_TO_TELL:
            log.info("%s answers again", symbol, extra={"venue": self._exchange.name, "failures": watched.failures})
        watched.failures = 0
        await self._write(watched, lambda state: state.answered(span, candles, to_unix(self._now), _monotonic()))

    async def _write(self, watched: Watched, judge: Callable[[SeriesState], Verdict]) -> None:
        state, now = _state(watched), self._now
        verdict = judge(state)
        self._journal.add(verdict.counts)
        if verdict.counts["out_of_reach"]:
            text = f"{verdict.counts['out_of_reach']} candles before those that the feed reads are missing"
            await self._journal.alert(
                "warning", f"feed-hole:{watched.wanted}", f"{watched.symbol}: {text}; run `make backfill`"
            )
        if len(verdict.store) or len(verdict.again) or verdict.refused:
            instrument = cast(Instrument, watched.instrument)
            written = await self._database.run(self._store.write, instrument, verdict, state.known, now)
            self._written += written  # not before the wait: another symbol's may come in between
            self._journal.add({"revision": written.revised})

    async def _find(self, watched: Watched) -> None:
        """Finds where the series ends; a symbol never stored begins with what the venue serves."""
        now, step = self._now, self._pace.timeframe_s
        found = await self._database.run(self._store.find, watched.symbol or watched.wanted)
        if found is None and watched.symbol is None:
            watched.symbol = await self._venue_threads.run(self._exchange.resolve, watched.wanted)
            found = await self._database.run(self._store.find, watched.symbol)
        listed = watched.symbol or watched.wanted
        known, last = found or (None, None)
        rules = await self._rules(listed, known)
        watched.instrument = await self._database.run(self._store.under_rules, listed, known, rules, now)
        watched.symbol = watched.instrument.symbol
        if last is None:
            fresh = min(FRESH, cast(int, self._pace.depth) * 9 // 10)
            watched.state = SeriesState(self._pace, to_unix(now) // step * step - fresh * step)
        else:
            after = last - 2 * self._pace.confirmed_s
            stored = await self._database.run(self._store.read, watched.instrument, after, last)
            watched.state = SeriesState(self._pace, last, stored)
        if self._connected:
            watched.state.connected(to_unix(self._now))

    async def _rules(self, symbol: str, known: Instrument | None) -> InstrumentRules:
        """What the venue demands of an order today; where it lists the symbol no more, that is written down first."""
        try:
            return await self._venue_threads.run(self._exchange.rules, symbol)
        except NotListed:
            if known is not None:
                await self._database.run(self._store.delist, known, self._now)
            raise

    def _forget(self, watched: Watched) -> None:
        """The database is the memory: what was not written is asked anew once it is back."""
        watched.state = None
        watched.failures += 1
        watched.not_before = _monotonic() + self._wait_s(watched.failures)

    def _wait_s(self, failures: int) -> float:
        return float(min(self._settings.reconnect_max_s, self._settings.reconnect_s * 2 ** min(failures - 1, 16)))

    async def _read_failed(self, watched: Watched, error: ExchangeError) -> None:
        watched.failures += 1
        slow = error.kind in LASTING and watched.failures >= FAILURES_TO_TELL
        if watched.state is not None:
            watched.state.failed(_monotonic(), slow)
        else:
            watched.not_before = _monotonic() + self._wait_s(watched.failures) * (10 if slow else 1)
        self._journal.count("read_failed", error)
        if watched.failures == FAILURES_TO_TELL:
            message = f"{watched.wanted}: {FAILURES_TO_TELL} reads in a row failed; the others go on: {error}"
            await self._journal.alert("warning", f"feed:{watched.wanted}", message)

    # --- the stream ---

    async def _listen(self, venue: StreamsCandles) -> None:
        """One stream for all symbols that were found; anew when another one was."""
        while True:
            symbols = self._symbols()
            if not symbols:
                await asyncio.sleep(self._step_s)
                continue
            try:
                async with aclosing(cast(Any, venue.stream(symbols, self._pace.timeframe_s, self._settings))) as events:
                    async for event in events:
                        await self._hear(event)
                        if self._symbols() != symbols:
                            break
            except ExchangeError as error:
                await self._journal.alert("warning", "feed-degraded", f"no stream, candles are polled for: {error}")
                return
            self._lose()

    def _symbols(self) -> list[str]:
        return sorted({watched.symbol for watched in self._watched if watched.symbol is not None})

    async def _hear(self, event: StreamEvent) -> None:
        match event:
            case CandleUpdate(symbol=symbol):
                for watched in self._following(symbol):
                    if _state(watched).saw(event):
                        watched.look.set()
            case BookTop(symbol=symbol):
                for watched in self._following(symbol):
                    _state(watched).quoted(event)
            case StreamState(connected=connected, venue_status=status):
                if status not in ("online", self._streamed_status):
                    self._journal.count(f"stream.{status}", event)
                self._streamed_status = status
                self.look_at_venue_now()
                if connected and not self._connected:
                    self._connect()
                elif not connected:
                    self._lose()
            case StreamTrouble(kind=kind, detail=detail):
                self._journal.count(f"stream.{kind}", detail)
                for watched in self._following():
                    _state(watched).doubt(to_unix(self._now))

    def _following(self, symbol: str | None = None) -> list[Watched]:
        return [w for w in self._watched if w.state is not None and symbol in (None, w.symbol)]

    def _connect(self) -> None:
        self._connected = True
        self._journal.add({"connected": 1})
        for watched in self._following():
            _state(watched).connected(to_unix(self._now))
            watched.look.set()
        if self._degraded:
            self._degraded = False
            log.info("the stream is back: candles are pushed again", extra={"venue": self._exchange.name})

    def _lose(self) -> None:
        if self._connected:
            self._connected, self._lost_at, self._lost_closed = False, _monotonic(), self._closed()
        for watched in self._following():
            _state(watched).lost()

    async def _watch_stream(self) -> None:
        """After a close without a stream candles are polled for, which is worth an alert."""
        while self._exchange.capabilities.streams_candles:
            await asyncio.sleep(self._step_s)
            silent = _monotonic() - self._lost_at >= self._settings.silence_s and self._closed() != self._lost_closed
            if silent and not self._connected and not self._degraded:
                self._degraded = True
                self._journal.count("degraded", "no stream")
                await self._journal.alert(
                    "warning", "feed-degraded", "no stream: candles are polled for after each close"
                )

    # --- the venue's health ---

    async def _watch_venue(self) -> None:
        while True:
            await self._look_at_venue()
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK_S):  # not wait_for: before Python 3.12 it may swallow a cancellation
                    await self._check_venue.wait()
            self._check_venue.clear()

    def look_at_venue_now(self) -> None:
        self._check_venue.set()

    async def _look_at_venue(self) -> None:
        try:
            check = await self._venue_threads.run(check_venue, self._exchange, self._clock)
        except ClockUnavailable as error:
            self._journal.count("clock", error, rarely=True)
            return
        skew = check.skew(self._settings.skew_limit_s)
        seen = (self._closed(), check.status, skew)
        if seen == self._last_check:
            return
        try:
            await self._database.run(self._store.write_check, check, self._now)
        except DATABASE_TROUBLES as error:
            self._journal.count("database", error)
            return
        changed = self._last_check is None or self._last_check[1:] != seen[1:]
        self._last_check = seen
        if changed:
            await self._tell_health(check, skew)

    async def _tell_health(self, check: VenueCheck, skew: Skew) -> None:
        limit = self._settings.skew_limit_s
        if check.status != "online":
            self._journal.count(
                f"status.{check.status}", "as it says itself" if check.status != "unreachable" else "no answer"
            )
            await self._journal.alert(
                "warning", f"venue-{check.status}", f"the venue is {check.status}: no entries meanwhile"
            )
        if skew == "none":
            return
        apart = check.clock_skew_s or 0.0
        side = "ahead of" if apart > 0 else "behind"
        ours = f"our clock is {abs(apart):.1f} s (± {check.doubt_s:.1f} s) {side} the venue's"
        self._journal.count(f"skew.{skew}", ours)
        consequence = f": no entries until it is {limit:g} s or less" if skew == "critical" else ""
        await self._journal.alert(skew, f"clock-skew-{skew}", f"{ours}{consequence}; check this machine's time service")


def _state(watched: Watched) -> SeriesState:
    return cast(SeriesState, watched.state)


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
