"""How good are the stored candles? Looks at every series and tells; changes nothing but `alerts`.

Input: instruments, market_data, candle_gaps, candle_revisions, quarantine. Output: a report (for people, or as JSON),
its totals in job_runs, a warning in alerts where a series has unexplained gaps in its last 30 days or has stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations, groupby
from typing import Any

import numpy as np

from candles.candle_files import DOLLAR_QUOTES
from candles.derive import derive_candles
from candles.quality_checks import (
    HOUR,
    ROUNDING,
    WORST,
    Event,
    compare_timeframes,
    compare_venues,
    count_gaps,
    find_outliers,
    find_stuck,
)
from candles.quality_report import (
    Quarantined,
    Report,
    Revisions,
    SeriesQuality,
    TimeframesCompared,
    VenuesCompared,
    as_json,
    as_text,
)
from shared.alerts import raise_alert
from shared.clock import Clock, from_unix, to_unix
from shared.db import Database, load_queries
from shared.job import Context, JobError, Outcome, job, job_parser, run_job_command
from shared.market_data import read_candles
from shared.rows import Candles, FloatArray, IntArray

RECENT_S = 30 * 86_400


@dataclass(frozen=True, slots=True)
class StoredSeries:
    """One series as stored; the fields are the columns of the query stored_series."""

    id: int
    venue: str
    symbol: str
    timeframe_s: int
    first: datetime
    last: datetime

    @property
    def base(self) -> str:
        return self.symbol.partition("/")[0]

    @property
    def in_dollars(self) -> bool:
        return self.symbol.partition("/")[2] in DOLLAR_QUOTES


@dataclass(frozen=True, slots=True)
class Closes:
    """Of one series: its times (closes in Unix seconds, sorted) and closing prices."""

    series: StoredSeries
    as_of: IntArray
    close: FloatArray


@dataclass(frozen=True, slots=True)
class Span:
    """Candles with after < as_of <= until (Unix seconds); ``now`` is None for a look at the past only."""

    after: int
    until: int
    now: datetime | None

    def params(self, series: StoredSeries) -> dict[str, Any]:
        ends = {"after": from_unix(self.after), "until": from_unix(self.until)}
        return {"instrument_id": series.id, "timeframe_s": series.timeframe_s, **ends}


@job("quality")
def run_once(
    clock: Clock,
    database: Database,
    venue: str | None = None,
    symbols: Sequence[str] = (),
    span_from: datetime | None = None,
    span_to: datetime | None = None,
    show: Callable[[Report], None] = lambda report: None,
) -> Outcome:
    """Looks at all series, or at those asked for; reads one series at a time. Findings are no failure: 'done'."""
    now = clock.now()
    until = min(to_unix(span_to), to_unix(now)) if span_to else to_unix(now)
    span = Span(to_unix(span_from) if span_from else 0, until, None if span_to else now)
    queries = load_queries("candles")
    stored = database.fetch_rows(StoredSeries, queries["stored_series"])
    chosen = [s for s in stored if venue in (None, s.venue) and (not symbols or s.symbol in symbols)]
    if stored and not chosen:
        there = ", ".join(sorted({f"{s.venue} {s.symbol}" for s in stored}))
        raise JobError(f"no candles of {venue or 'any venue'} {', '.join(symbols)} are stored; there are: {there}")
    stopped = find_stopped(stored, now) if span.now else set()
    quarantined = database.fetch_rows(Quarantined, queries["quarantined"])
    quarantined = [q for q in quarantined if venue in (None, q.venue) and (not symbols or q.symbol in symbols)]
    report = Report(now, [], [], [], quarantined, [])
    for _, of_one_asset in groupby(chosen, key=lambda s: s.base):
        _look_at_asset(database, list(of_one_asset), span, stopped, report)
    if span.now:
        _raise_alerts(database, report)
    show(report)
    return Outcome("done" if report.series else "nothing", report.totals() | {"alerts": report.alerts})


def find_stopped(stored: Sequence[StoredSeries], now: datetime) -> set[tuple[int, int]]:
    """The series, by instrument and timeframe, whose last candle is too old while others of their venue go on."""
    late = {(s.id, s.timeframe_s) for s in stored if now - s.last > timedelta(seconds=2 * s.timeframe_s + HOUR)}
    going_on = {s.venue for s in stored if (s.id, s.timeframe_s) not in late}
    return {(s.id, s.timeframe_s) for s in stored if s.venue in going_on} & late


def _look_at_asset(
    database: Database, stored: Sequence[StoredSeries], span: Span, stopped: set[tuple[int, int]], report: Report
) -> None:
    """All series of one asset: each by itself, against the finer ones of its instrument, and against other venues."""
    closes: list[Closes] = []
    for _, of_one_instrument in groupby(stored, key=lambda s: s.id):
        series = list(of_one_instrument)  # finest first
        made: dict[tuple[int, int], Candles] = {}  # by finer and coarser timeframe
        for one in series:
            candles = read_candles(database, one.id, one.timeframe_s, span.after, span.until)
            if not len(candles):
                continue
            is_stopped = (one.id, one.timeframe_s) in stopped
            report.series.append(_look_at(database, one, candles, span, is_stopped, report.quarantined))
            for finer_s in [finer_s for finer_s, coarser_s in made if coarser_s == one.timeframe_s]:
                found = compare_timeframes(made.pop((finer_s, one.timeframe_s)), candles, finer_s, one.timeframe_s)
                report.timeframes.append(TimeframesCompared(one.venue, one.symbol, found))
            for coarser_s in (s.timeframe_s for s in series):
                if coarser_s > one.timeframe_s and coarser_s % one.timeframe_s == 0:
                    made[one.timeframe_s, coarser_s] = derive_candles(candles, one.timeframe_s, coarser_s)
            if one.in_dollars:
                closes.append(Closes(one, candles.as_of, candles.close))
    report.venues.extend(_compare_venues(closes))


def _compare_venues(closes: Sequence[Closes]) -> Iterator[VenuesCompared]:
    for a, b in combinations(closes, 2):
        one, other = a.series, b.series
        if one.venue != other.venue and one.timeframe_s == other.timeframe_s:
            found = compare_venues(a.as_of, a.close, b.as_of, b.close)
            if found:
                names = f"{one.venue} {one.symbol}", f"{other.venue} {other.symbol}"
                yield VenuesCompared(*names, one.timeframe_s, found)


def _look_at(
    database: Database,
    series: StoredSeries,
    candles: Candles,
    span: Span,
    stopped: bool,
    quarantined: Sequence[Quarantined],
) -> SeriesQuality:
    params = span.params(series)
    gaps = database.fetch_one(load_queries("candles")["series_gaps"], params) or {}
    spans = np.frombuffer(gaps["spans"] or b"", ">i8").astype(np.int64).reshape(-1, 2)
    known = np.frombuffer(gaps["known"] or b"", np.bool_)
    recent_s = int(candles.as_of[-1]) - RECENT_S
    outliers, spikes = find_outliers(candles, series.timeframe_s)
    mine = (series.venue, series.symbol, series.timeframe_s)
    return SeriesQuality(
        *mine,
        first=from_unix(int(candles.as_of[0])),
        last=from_unix(int(candles.as_of[-1])),
        rows=len(candles),
        gaps=count_gaps(len(candles), spans, known, series.timeframe_s, recent_s),
        outliers=outliers,
        spikes=spikes,
        stuck=find_stuck(candles, series.timeframe_s),
        zero_volume=int(np.count_nonzero(candles.volume == 0)),
        revisions=_revisions(database, params),
        refused={q.reason: q.rows for q in quarantined if (q.venue, q.symbol, q.timeframe_s) == mine},
        stopped=stopped,
    )


def _revisions(database: Database, params: dict[str, Any]) -> Revisions:
    wanted = params | {"worst": WORST, "rounding": ROUNDING}
    rows = database.fetch(load_queries("candles")["series_revisions"], wanted)
    if not rows:
        return Revisions(0, 0, (), 0.0)
    count, of_rounding, volume = (rows[0][name] for name in ("count", "of_rounding", "largest_volume_change"))
    worst = tuple(Event(row["as_of"], row["change"]) for row in rows if row["change"] > 0)
    return Revisions(count - of_rounding, of_rounding, worst, volume)


def _raise_alerts(database: Database, report: Report) -> None:
    for series in report.series:
        found = {}
        last, key = f"{series.last:%Y-%m-%d %H:%M}", series.name.replace(" ", ":")
        if count := series.gaps.unexplained_recent:
            gaps = "1 unexplained gap" if count == 1 else f"{count} unexplained gaps"
            found[f"gaps:{key}"] = f"{gaps} in the 30 days before {last}; `make backfill` asks the venue about them"
        if series.stopped:
            found[f"stopped:{key}"] = f"no candle since {last} while others of {series.venue} go on; is it delisted?"
        for key, message in found.items():
            raise_alert(database, report.at, "warning", key, f"{series.name}: {message}")
            report.alerts.append(f"{series.name}: {message}")


def _command(context: Context) -> Outcome:
    a = context.arguments
    write = as_json if a.json else as_text
    return run_once(
        context.clock,
        context.database,
        a.venue,
        a.symbol or (),
        a.span_from,
        a.span_to,
        lambda report: print(write(report)),
    )


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Look at the stored candles: gaps, outliers, revisions, disagreements.", span=True)
    parser.add_argument("--venue", help="only this venue's (default: all)")
    parser.add_argument("--symbol", action="append", help="only this one, like BTC/USDT; may be given several times")
    parser.add_argument("--json", action="store_true", help="for machines")
    return run_job_command("candles", parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
