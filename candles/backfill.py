"""Fetches the closed candles that are missing: at the end of each series, in its holes, or from ``--from`` on.

Input: the venue of settings.universe (public data, no key). Output: instruments, market_data, gap_checks, quarantine.

What to ask follows from what is stored and from gap_checks, and each page is committed by itself: a run that was
killed goes on where it stopped and asks nothing twice. The newest part comes first, in long runs again and again.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from psycopg import DataError, IntegrityError
from tqdm import tqdm

from candles.backfill_fetch import Fetcher, Page, Request, Trouble
from candles.backfill_plan import (
    OVERLAP,
    choose_way,
    default_start,
    inside_start,
    is_live,
    known_start,
    proven_from,
    settled_until,
    tell_estimate,
    tell_way,
    wanted_spans,
)
from candles.gaps import NO_SPANS, NO_TIMES, Finding, Known, Spans, missing_spans, read_known, record_finding
from candles.intake import admit
from candles.spikes import SPIKE, judge, tell
from candles.store import Written, add_instrument, known_series, write_candles
from shared.alerts import raise_alert
from shared.clock import Clock, floor_time, to_unix
from shared.db import Database, load_queries
from shared.exchanges import Exchange, ExchangeError, open_exchange
from shared.job import Context, JobError, Outcome, Status, UsageError, job, job_parser, run_job_command, time_argument
from shared.rows import Candles, Instrument
from shared.settings import TIMEFRAMES, Settings

ESTIMATE_PAGES = 3

log = logging.getLogger("sextant.backfill")


@dataclass(slots=True)
class Series:
    """One symbol of the run, as the venue lists it: what is known of it and what was done."""

    symbol: str
    instrument: Instrument | None
    last: int | None  # the last stored close, Unix seconds
    written: Written = field(default_factory=Written)
    refused: Counter[str] = field(default_factory=Counter)
    reach: str = ""
    out_of_reach: Spans = field(default_factory=lambda: NO_SPANS)
    trades_s: int = 0  # the history to be built from trades, in seconds; then pages done and seconds they covered
    trades_pages: int = 0
    trades_covered_s: int = 0


@dataclass(frozen=True, slots=True)
class Options:
    """What a run was asked for; without ``span_to`` it follows the live end of each series."""

    timeframe_s: int
    span_from: int | None = None  # Unix seconds, on the grid
    span_to: int | None = None
    recheck: bool = False
    look_back: bool = False
    progress: bool = False


@job("backfill")
def run_once(
    clock: Clock,
    database: Database,
    settings: Settings,
    exchange: Exchange,
    span_from: datetime | None = None,
    progress: bool = False,
    *,
    span_to: datetime | None = None,
    symbols: Sequence[str] = (),
    timeframe_s: int | None = None,
    recheck: bool = False,
    look_back: bool = False,
) -> Outcome:
    """Stores what closed by now and is missing, page by page; one symbol's trouble does not stop the others.

    ``recheck`` asks again for what the venue did not have before. ``look_back`` looks at any time for holes inside a
    series, however old (of 30 days where it rechecks); else a run that only goes on does so at full hours, for those
    of 30 days (a replay has a thousand). JobError: no symbol could be fetched.
    """
    step_s = timeframe_s or settings.universe.base_timeframe_s
    since, until = (None if at is None else to_unix(floor_time(at, step_s)) for at in (span_from, span_to))
    options = Options(step_s, since, until, recheck, look_back, progress)
    run = Backfill(clock, database, exchange, settings.universe.decision_timeframe_s, options)
    run.open_all(tuple(symbols) or settings.universe.symbols)
    run.fetch_all()
    return run.outcome()


class Backfill:
    """One run of the job: open_all, fetch_all, outcome."""

    def __init__(
        self, clock: Clock, database: Database, exchange: Exchange, derive_to_s: int, options: Options
    ) -> None:
        self.clock, self.database, self.exchange = clock, database, exchange
        self.timeframe_s, self.derive_to_s, self.options = options.timeframe_s, derive_to_s, options
        self.now = clock.now()
        self.latest = to_unix(floor_time(self.now, self.timeframe_s))  # the last close by now
        self.until = self.latest if options.span_to is None else min(self.latest, options.span_to)
        self.wanted: set[str] = set()
        self.listed: dict[str, str] = {}  # the wanted symbols, as the venue lists them
        self.series: dict[str, Series] = {}  # by listed symbol
        self.failures: dict[str, str] = {}  # by wanted symbol
        self.fetcher = Fetcher(exchange)
        self.bar: tqdm[Any] = tqdm(total=0, unit=" candles", disable=not options.progress)

    # --- what to ask ---

    def open_all(self, wanted: Sequence[str]) -> None:
        """Finds each series and queues what it lacks."""
        self.wanted = set(wanted)
        known = self._stored(wanted)
        for symbol in wanted:
            try:
                listed = symbol if symbol in known else self.exchange.resolve(symbol)
            except ExchangeError as error:
                self._fail(symbol, error)
                continue
            if listed not in known:  # stored under another symbol before, or never
                known |= self._stored((listed,))
            self.listed[symbol] = listed
            if listed not in self.series:
                self.series[listed] = Series(listed, *known.get(listed, (None, None)))
                self._queue_missing(self.series[listed])

    def _stored(self, symbols: Sequence[str]) -> dict[str, tuple[Instrument, int | None]]:
        return known_series(self.database, self.exchange.name, symbols, self.timeframe_s, self.exchange.provenance)

    def _queue_missing(self, series: Series) -> None:
        options, last, step = self.options, series.last, self.timeframe_s
        follows = options.span_from is None and options.span_to is None
        if follows and not options.look_back and last is not None and is_live(last, self.until, step):
            if last < self.until:
                self._ask(series, last - OVERLAP * step, self.until, early=True)
            return
        after = options.span_from
        if after is None:
            after = default_start(last, self.until, step)
        if after >= self.until:
            return
        whole = follows and options.look_back and not options.recheck
        known = self._known(series, 0 if whole else after, self.until)
        self._record(series, NO_SPANS, "none", known)
        if follows and last is not None:
            after = known_start(known, after, last, step)
            after = inside_start(known, after) if whole else after
        self._queue(series, wanted_spans(known, last if follows else None, after, self.until, step))

    def _queue(self, series: Series, missing: Spans) -> None:
        way = choose_way(missing, self.latest, self.timeframe_s, self.exchange)
        series.out_of_reach = way.out_of_reach
        series.reach = tell_way(self.exchange, series.symbol, self.latest, self.timeframe_s, way)
        if series.reach:
            self._say(series.reach)
        # The far end of a new series is stored early: what a killed run leaves is then a hole, which the next one sees.
        untold = series.last is None and self.options.span_from is None
        far_end = min([*way.candles, *way.trades], default=None) if untold else None
        for since, until in way.candles:
            self._ask(series, since, until, early=until == self.until or (since, until) == far_end)
        for since, until in way.trades:
            series.trades_s += until - since
            self._ask(series, since, until, from_trades=True, early=(since, until) == far_end)

    def _ask(self, series: Series, since: int, until: int, *, from_trades: bool = False, early: bool = False) -> None:
        asked_at = to_unix(self.now)
        self.fetcher.add(Request(series.symbol, self.timeframe_s, since, until, asked_at, from_trades, early))
        self.bar.total = (self.bar.total or 0) + (until - since) // self.timeframe_s

    def _follow(self) -> None:
        """During long runs: what has closed meanwhile, before any more of the past."""
        if self.options.span_to is not None or not self.fetcher.behind:
            return
        latest = to_unix(floor_time(self.now, self.timeframe_s))
        if latest > self.until:
            self.until = self.latest = latest
            for series in self.series.values():
                if series.last is not None:
                    self._ask(series, series.last - OVERLAP * self.timeframe_s, latest, early=True)

    # --- what came ---

    def fetch_all(self) -> None:
        """Asks for everything that is queued and writes each batch of answers in a transaction of its own."""
        with self.bar, closing(self.fetcher.batches()) as batches:
            for batch in batches:
                self.now = self.clock.now()
                found = [self._admit(answer) for answer in batch if isinstance(answer, Page)]
                found.sort(key=self._lock_order)
                with self.database.transaction() if any(len(sound) for _, sound in found) else nullcontext():
                    for page, sound in found:
                        self._write(page, sound)
                for answer in batch:
                    if isinstance(answer, Trouble):
                        self._fail_listed(answer.request.symbol, answer.error)
                self._follow()
        for series in self.series.values():
            self._record_out_of_reach(series)

    def _admit(self, page: Page) -> tuple[Page, Candles]:
        """The page and its sound candles, oldest first; makes the instrument at its first candle."""
        series = self.series[page.request.symbol]
        sound, refused = admit(
            self.database, self.exchange.name, series.symbol, self.timeframe_s, page.candles, self.now
        )
        series.refused.update(refused)
        if len(sound) and (series.instrument is None or self.timeframe_s < series.instrument.base_timeframe_s):
            try:
                series.instrument = self._instrument(series.symbol)
            except ExchangeError as error:
                self._fail_listed(series.symbol, error)
                return page, Candles.empty()
        return page, self._doubt(series, page, sound[np.argsort(sound.as_of, kind="stable")])

    def _instrument(self, symbol: str) -> Instrument:
        """ExchangeError also where the venue's rules cannot be stored: that is this symbol's trouble alone."""
        rules, venue = self.exchange.rules(symbol), self.exchange
        try:
            return add_instrument(
                self.database, venue.name, symbol, self.timeframe_s, rules, venue.provenance, self.now
            )
        except (DataError, IntegrityError) as error:
            raise ExchangeError(f"{symbol}: {rules} of {venue.name} cannot be stored: {error}") from error

    def _doubt(self, series: Series, page: Page, sound: Candles) -> Candles:
        """What of a page is to be believed; an absurd candle is asked for once more, and then the venue's truth."""
        if series.instrument is None or not len(sound):
            return sound
        request, source, step = page.request, self.exchange.name, self.timeframe_s
        overlaps = series.last is not None and page.since == series.last - OVERLAP * step < series.last < page.until
        found = judge(self.database, series.instrument.id, step, sound, request.doubted, request.from_trades, overlaps)
        tell(self.database, source, series.symbol, step, found, self.now)
        if request.doubted is not None:
            series.refused.update([SPIKE] * len(found.doubted))
        elif len(found.doubted):
            again = self.fetcher.add_again(request, found.doubted)
            self.bar.total = (self.bar.total or 0) + (again.until - again.since) // step
        return found.believed

    def _lock_order(self, found: tuple[Page, Candles]) -> int:
        """write_candles locks each instrument until the transaction ends: every writer by rising id."""
        instrument = self.series[found[0].request.symbol].instrument
        return instrument.id if instrument else 0

    def _write(self, page: Page, sound: Candles) -> None:
        series, request = self.series[page.request.symbol], page.request
        self.bar.update((page.until - page.since) // self.timeframe_s)
        if series.instrument is None:
            return
        source = self.exchange.name
        if request.from_trades:  # they fill holes only: what the venue itself gave as a candle is never replaced
            source = f"{source}:trades"
            self.database.execute(load_queries("candles")["lock_series"], {"instrument_id": series.instrument.id})
            held = self._known(series, page.since, page.until).held
            sound = sound[~np.isin(sound.as_of, held)]
            if request.doubted is None:
                self._count_trades(series, page)
        if len(sound):
            series.last = max(int(sound.as_of[-1]), series.last or 0)
            series.written += write_candles(
                self.database, series.instrument, self.timeframe_s, sound, self.derive_to_s, source, self.now
            )
        if request.doubted is None:  # what a second reading lacks, the first one had
            self._record_absent(series, page)

    def _count_trades(self, series: Series, page: Page) -> None:
        series.trades_pages += 1
        series.trades_covered_s += page.until - page.since
        if series.trades_pages == ESTIMATE_PAGES:
            self._say(tell_estimate(series.symbol, series.trades_covered_s, series.trades_pages, series.trades_s,
                                    self.exchange.capabilities.requests_per_s))  # fmt: skip

    # --- what the venue does not have ---

    def _record_absent(self, series: Series, page: Page) -> None:
        """Findings about the candles that the venue was asked for and did not give, sound or not."""
        step, came = self.timeframe_s, page.candles.as_of
        since: int | None = page.since
        if not page.request.from_trades:
            first = int(came.min()) if len(came) else None
            latest = to_unix(floor_time(self.now, step))
            since = proven_from(self.exchange.capabilities, latest, step, page.since, first)
        until = min(page.until, settled_until(page.request.asked_at, series.last or 0, step)) // step * step
        if since is None or since >= until:
            return
        if len(np.unique(came[(came > since) & (came <= until)])) == (until - since) // step:
            return
        known = self._known(series, since, until)
        absent = missing_spans(np.concatenate([known.held, came]), known.checked, since, until, step)
        self._record(series, absent, "none", known)

    def _record_out_of_reach(self, series: Series) -> None:
        """At the end of a run, when the instrument is sure to have its row, if ever."""
        spans = series.out_of_reach
        if len(spans) and series.instrument is not None:
            known = self._known(series, int(spans[0, 0]), int(spans[-1, 1]))
            self._record(series, spans, "out-of-reach", known)

    def _record(self, series: Series, absent: Spans, finding: Finding, known: Known) -> None:
        if series.instrument is not None:
            record_finding(self.database, series.instrument.id, self.timeframe_s, absent, finding, known, self.now)

    def _known(self, series: Series, after: int, until: int) -> Known:
        if series.instrument is None:
            return Known(NO_TIMES, NO_SPANS)
        known = read_known(self.database, series.instrument.id, self.timeframe_s, after, until)
        return Known(known.held, NO_SPANS) if self.options.recheck else known

    # --- what to tell ---

    def _fail_listed(self, listed: str, error: ExchangeError) -> None:
        self.fetcher.abandon(listed)
        for wanted, symbol in self.listed.items():
            if symbol == listed:
                self._fail(wanted, error)

    def _fail(self, wanted: str, error: ExchangeError) -> None:
        self.failures.setdefault(wanted, str(error))
        raise_alert(self.database, self.now, "warning", f"backfill:{self.exchange.name}:{wanted}", str(error))

    def _say(self, message: str) -> None:
        if self.options.progress:
            tqdm.write(message, file=sys.stderr)
        else:
            log.info(message)

    def outcome(self) -> Outcome:
        if self.failures and self.failures.keys() == self.wanted:
            raise JobError("; ".join(f"{symbol}: {why}" for symbol, why in self.failures.items()))
        series = {wanted: self.series[listed] for wanted, listed in self.listed.items()}
        results = {wanted: self._result(wanted, s) for wanted, s in series.items()
                   if wanted not in self.failures or s.written != Written()}  # fmt: skip
        refused = any(result.get("refused") for result in results.values())
        idle = not any(result.get("new") or result.get("revised") for result in results.values())
        status: Status = "refused" if refused else "nothing" if idle and not self.failures else "done"
        return Outcome(status, results | ({"failures": self.failures} if self.failures else {}))

    def _result(self, wanted: str, series: Series) -> dict[str, Any]:
        extra = {"revised": series.written.revised, "refused": dict(series.refused), "reach": series.reach}
        if series.symbol != wanted:
            venue = self.exchange.name
            extra["stored_as"] = f"{series.symbol}: {venue} does not list {wanted}; set it in universe.symbols"
        return {"new": series.written.new} | {name: value for name, value in extra.items() if value}


def _command(context: Context) -> Outcome:
    arguments, settings = context.arguments, context.settings
    since, until = arguments.since, arguments.until
    if since is not None and until is not None and since >= until:
        raise UsageError(f"--from {since} is not before --to {until}")
    try:
        exchange = open_exchange(arguments.venue or settings.universe.venue, settings.venues, settings.home_path)
    except ExchangeError as error:
        raise UsageError(str(error)) from error
    return run_once(
        context.clock, context.database, settings, exchange, since, sys.stderr.isatty() or since is not None,
        span_to=until, symbols=arguments.symbols, timeframe_s=TIMEFRAMES.get(arguments.timeframe),
        recheck=arguments.recheck, look_back=True,
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Fetch the closed candles that are missing (public data, no key).")
    parser.add_argument("--from", dest="since", type=time_argument,
                        help="from then on (default: 30 days of a new series, the holes of a known one)")  # fmt: skip
    parser.add_argument("--to", dest="until", type=time_argument, help="up to then (default: now)")
    parser.add_argument("--venue", help="another venue than settings' universe.venue")
    parser.add_argument("--symbols", nargs="+", default=(), metavar="BASE/QUOTE", help="others than universe.symbols")
    parser.add_argument("--timeframe", choices=TIMEFRAMES, help="another than universe.base_timeframe")
    parser.add_argument("--recheck", action="store_true", help="ask again for what the venue did not have before")
    return run_job_command("candles", parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
