"""Imports candle files: Kraken's OHLCVT CSV, CSV with a header, parquet; plain or gzipped.

Input: files. Output: instruments, market_data. Bad rows are refused with a count and examples (exit 3), the
rest is kept; importing a file twice changes nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from candles.candle_files import FileRefused, Parsed, Series, read_candle_file, series_from_name
from candles.store import add_instrument, default_rules, write_candles
from shared.clock import Clock, from_unix, to_unix
from shared.db import Database
from shared.job import Context, JobError, Outcome, job, job_parser, run_job_command
from shared.settings import Settings


@job("import_csv")
def run_once(
    clock: Clock,
    database: Database,
    settings: Settings,
    paths: list[Path],
    venue: str | None = None,
    symbol: str | None = None,
    timeframe: str | None = None,
    progress: bool = False,
) -> Outcome:
    """Imports each file in its own transaction; JobError when one cannot be read at all."""
    results: dict[str, dict[str, Any]] = {}
    refused = 0
    for path in paths:
        try:
            series = series_from_name(path, venue, symbol, timeframe)
            parsed = read_candle_file(path, series.timeframe_s, to_unix(clock.now()))
        except FileRefused as error:
            raise JobError(str(error)) from error
        name = str(path) if path.name in results else path.name
        results[name] = _store(clock, database, settings, series, parsed, path, progress)
        refused += parsed.refused
    new = any(result["new"] or result["revised"] for result in results.values())
    return Outcome("refused" if refused else "done" if new else "nothing", results)


def _store(
    clock: Clock, database: Database, settings: Settings, series: Series, parsed: Parsed, path: Path, progress: bool
) -> dict[str, Any]:
    candles, now = parsed.candles, clock.now()
    result: dict[str, Any] = {"new": 0, "revised": 0}
    if len(candles):
        rules = default_rules(float(candles.close[0]))
        derive_to_s, source = settings.universe.decision_timeframe_s, f"file:{path.name}"
        bar = tqdm(total=len(candles), desc=path.name, unit=" candles", disable=not progress)
        with bar, database.transaction():
            instrument = add_instrument(database, series.venue, series.symbol, series.timeframe_s, rules, "real", now)
            written = write_candles(
                database, instrument, series.timeframe_s, candles, derive_to_s, source, now, advance=bar.update
            )
        result |= {"new": written.new, "revised": written.revised}
        result["series"] = f"{series.venue} {series.symbol} {series.timeframe_s} s"
        result["unchanged"] = len(candles) - written.new - written.revised
        result["span"] = f"{from_unix(int(candles.as_of[0]))} to {from_unix(int(candles.as_of[-1]))}"
    if parsed.refused:
        result["refused"] = parsed.refused_counts
        result["examples"] = [f"line {r.line}: {r.reason}: {r.raw}" for r in parsed.refused_examples]
    return result | ({"notes": parsed.notes} if parsed.notes else {})


def _command(context: Context) -> Outcome:
    a = context.arguments
    return run_once(
        context.clock, context.database, context.settings, a.files, a.venue, a.symbol, a.timeframe, progress=True
    )


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Import candle files (CSV, gzip, parquet).")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--venue", help="e.g. kraken (default: from the file's name)")
    parser.add_argument("--symbol", help="e.g. BTC/USD (default: from the file's name)")
    parser.add_argument("--timeframe", help="e.g. 5m (default: from the file's name)")
    return run_job_command("candles", parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
