"""Imports candle files: Kraken's OHLCVT CSV, CSV with a header, parquet; plain, gzipped, or zip archives of them.

Input: files. Output: instruments, market_data, quarantine. Bad rows are refused with a count and examples (exit 3)
and kept in the quarantine, the rest is stored; importing a file twice changes nothing. Of an archive the members
that settings.universe names are taken, or those that the arguments choose.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

from tqdm import tqdm

from candles.candle_archive import Wanted, choose_members, is_archive, open_archive, read_member
from candles.candle_files import (
    FileRefused,
    Parsed,
    Series,
    canonical_symbol,
    is_krakens_download,
    parse_candles,
    parse_timeframe,
    read_candle_file,
    series_from_name,
)
from candles.gaps import missing_spans, read_known, record_finding
from candles.intake import quarantine
from candles.store import add_instrument, default_rules, write_candles
from candles.validate import Refused
from shared.clock import Clock, from_unix, to_unix
from shared.db import Database
from shared.job import Context, JobError, Outcome, job, job_parser, run_job_command
from shared.rows import Candles, Instrument
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Choosing:
    """What the caller said about the files: whose candles a file holds, and which members of an archive to take."""

    venue: str | None = None
    symbol: str | None = None
    timeframe: str | None = None
    everything: bool = False


@dataclass(frozen=True, slots=True)
class _Import:
    """One run; ``results`` by file, and by member of an archive."""

    clock: Clock
    database: Database
    settings: Settings
    choosing: Choosing
    progress: bool
    results: dict[str, dict[str, Any]] = field(default_factory=dict)


@job("import_csv")
def run_once(
    clock: Clock,
    database: Database,
    settings: Settings,
    paths: list[Path],
    choosing: Choosing = Choosing(),
    progress: bool = False,
) -> Outcome:
    """Imports each file, and each member of an archive, in its own transaction; JobError when a file cannot be read
    at all. Of an archive the members that can be read are imported, and the others are told."""
    run = _Import(clock, database, settings, choosing, progress)
    for path in paths:
        try:
            (_import_archive if is_archive(path) else _import_file)(run, path)
        except FileRefused as error:
            raise JobError(str(error)) from error
    results = run.results.values()
    refused = any(result.get("refused") for result in results)
    new = any(result.get("new") or result.get("revised") for result in results)
    return Outcome("refused" if refused else "done" if new else "nothing", run.results)


def _import_file(run: _Import, path: Path) -> None:
    said = run.choosing
    series = series_from_name(path, said.venue, said.symbol, said.timeframe)
    parsed = read_candle_file(path, series.timeframe_s, to_unix(run.clock.now()))
    name = str(path) if path.name in run.results else path.name
    run.results[name] = _store(run, series, parsed, path.name)


def _import_archive(run: _Import, path: Path) -> None:
    wanted = _wanted(run.choosing, run.settings)
    with open_archive(path) as archive:
        members = archive.infolist()
        choice = choose_members(path, members, wanted)
        unreadable = [why for info, series in choice.taken if (why := _import_member(run, path, archive, info, series))]
    if len(unreadable) == len(choice.taken):
        raise JobError(f"none of the {len(unreadable)} members wanted of {path.name} can be read: {unreadable[0]}")
    taken = {"members": len(members), "taken": len(choice.taken), "skipped": choice.skipped}
    run.results[path.name] = taken | ({"stored_as": choice.stored_as} if choice.stored_as else {})


def _import_member(run: _Import, path: Path, archive: ZipFile, info: ZipInfo, series: Series) -> str | None:
    """Stores one member, or returns why it cannot be read; then it is refused as a whole, as one row. Nothing of it
    stays in memory."""
    name, now = f"{path.name}/{info.filename}", run.clock.now()
    try:
        data = read_member(path, archive, info)
        parsed = parse_candles(path / info.filename, data, series.timeframe_s, to_unix(now))
        del data  # before the candles are written, which takes longest
    except FileRefused as error:
        why = str(error)
        refused = [Refused("unreadable-file", why)]
        quarantine(run.database, series.venue, series.symbol, series.timeframe_s, f"file:{name}", refused, now)
        run.results[name] = {"new": 0, "revised": 0, "refused": {"unreadable-file": 1}, "examples": [why]}
        return why
    run.results[name] = _store(run, series, parsed, name)
    return None


def _wanted(said: Choosing, settings: Settings) -> Wanted:
    """The universe of the settings, as far as the arguments do not say otherwise."""
    symbols = (canonical_symbol(said.symbol),) if said.symbol else ()
    timeframe_s = parse_timeframe(said.timeframe) if said.timeframe else None
    if said.everything:
        return Wanted(None, symbols, timeframe_s, said.venue)
    universe = settings.universe
    venue = None if said.venue or said.symbol else universe.venue
    return Wanted(venue, symbols or universe.symbols, timeframe_s or universe.base_timeframe_s, said.venue)


def _store(run: _Import, series: Series, parsed: Parsed, name: str) -> dict[str, Any]:
    """Writes the candles of one file and quarantines its refused rows, in one transaction."""
    candles, now, database = parsed.candles, run.clock.now(), run.database
    venue, symbol, timeframe_s = series.venue, series.symbol, series.timeframe_s
    source = f"file:{name}"
    result: dict[str, Any] = {"new": 0, "revised": 0}
    with database.transaction():
        for batch in parsed.refused_rows.batches():
            quarantine(database, venue, symbol, timeframe_s, source, batch, now)
        if len(candles):
            rules = default_rules(float(candles.close[0]))
            derive_to_s = run.settings.universe.decision_timeframe_s
            with tqdm(total=len(candles), desc=name, unit=" candles", disable=not run.progress) as bar:
                instrument = add_instrument(database, venue, symbol, timeframe_s, rules, "real", now)
                written = write_candles(
                    database, instrument, timeframe_s, candles, derive_to_s, source, now, advance=bar.update
                )
            result |= {"new": written.new, "revised": written.revised}
            result["series"] = f"{venue} {symbol} {timeframe_s} s"
            result["unchanged"] = len(candles) - written.new - written.revised - written.kept
            if written.kept:  # fetch them anew to learn who is right: an export may end in an open candle
                result["differ_from_the_venues_own_which_stay"] = written.kept
            if is_krakens_download(name) and not parsed.refused:
                result["holes_without_trades"] = _note_holes(database, instrument, timeframe_s, candles, now)
            result["span"] = f"{from_unix(int(candles.as_of[0]))} to {from_unix(int(candles.as_of[-1]))}"
    if parsed.refused:
        result["refused"] = parsed.refused_counts
        result["examples"] = [f"line {r.line}: {r.reason}: {r.raw}" for r in parsed.refused_examples]
    return result | ({"notes": parsed.notes} if parsed.notes else {})


def _note_holes(database: Database, instrument: Instrument, timeframe_s: int, candles: Candles, now: datetime) -> int:
    """What Kraken's own download lacks, nobody need ask Kraken for; returns how many candles that is."""
    first, last = int(candles.as_of[0]) - timeframe_s, int(candles.as_of[-1])
    known = read_known(database, instrument.id, timeframe_s, first, last)
    absent = missing_spans(known.held, known.checked, first, last, timeframe_s)
    record_finding(database, instrument.id, timeframe_s, absent, "none", known, now)
    return int((absent[:, 1] - absent[:, 0]).sum()) // timeframe_s


def _command(context: Context) -> Outcome:
    a = context.arguments
    choosing = Choosing(a.venue, a.symbol, a.timeframe, a.all)
    return run_once(context.clock, context.database, context.settings, a.files, choosing, progress=True)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Import candle files (CSV, gzip, parquet, zip archives of them).")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--venue", help="e.g. kraken (default: from the file's name)")
    parser.add_argument("--symbol", help="e.g. BTC/USD (default: from the file's name; archive: the universe's)")
    parser.add_argument("--timeframe", help="e.g. 5m (default: from the file's name; archive: the base timeframe)")
    parser.add_argument("--all", action="store_true", help="of an archive: every member, not only the universe's")
    return run_job_command("candles", parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
