"""Imports on-chain figures from CSV files with the header ``chain,metric,as_of,value`` or ``chain,metric,date,value``.

    python -m meta_controller.import_onchain FILE... [--source NAME] [--lag-hours H]

Input: files. Output: onchain_data. Bad rows are refused with a count and their lines (exit 3), the rest is stored;
importing a file twice changes nothing, and a figure that is there is never replaced by another one.

A bare day under ``date`` is that day's figure: it speaks about the day's end, and nobody had it before. ``--lag-hours``
is how much later the provider publishes: anybody could have had the figure only then.
"""

from __future__ import annotations

import csv
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from shared.clock import Clock, parse_time
from shared.db import Database, load_queries
from shared.job import Context, JobError, Outcome, UsageError, job, job_parser, run_job_command

MOST_BYTES = 64 * 1024 * 1024
LONGEST_SOURCE = 100
EXAMPLES = 5
NAME = re.compile(r"[a-z0-9_]{1,40}")
DAY = re.compile(r"\d{4}-\d\d-\d\d")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
Key = tuple[str, str, datetime]  # chain, metric, as_of


class BadRow(ValueError):
    """One row cannot be used; the message is a fixed phrase."""


@dataclass(slots=True)
class ParsedFigures:
    """What a file holds: values in its order, with their lines, and the count of refused rows by reason."""

    values: dict[Key, float] = field(default_factory=dict)
    lines: dict[Key, int] = field(default_factory=dict)
    repeated: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def refuse(self, line: int, reason: str) -> None:
        self.refused[reason] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"line {line}: {reason}")

    def add(self, line: int, key: Key, value: float) -> None:
        """The first value of a moment is kept; another one beside it is refused."""
        if key not in self.values:
            self.values[key], self.lines[key] = value, line
        elif self.values[key] == value:
            self.repeated += 1
        else:
            self.refuse(line, "another value stands for this moment")


@job("import_onchain")
def run_once(
    clock: Clock, database: Database, paths: list[Path], source: str | None = None, lag_hours: float = 0.0
) -> Outcome:
    """Imports all files in one transaction: if one cannot be read (JobError), nothing of any is stored. ``source``
    defaults to each file's name; ``known_from`` is ``lag_hours`` after what a figure speaks about."""
    now, lag = clock.now(), timedelta(hours=lag_hours)
    parsed = {path: _parse(path, now - lag) for path in paths}
    with database.transaction():
        results = {
            str(path): _store(database, figures, (source or path.stem)[:LONGEST_SOURCE], lag, now)
            for path, figures in parsed.items()
        }
    refused = any(figures.refused for figures in parsed.values())
    new = any(result["new"] for result in results.values())
    return Outcome("refused" if refused else "done" if new else "nothing", results)


def _parse(path: Path, last: datetime) -> ParsedFigures:
    """``last``: figures about later moments cannot have been published yet."""
    parsed = ParsedFigures()
    rows = csv.reader(_lines(path), strict=True)
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        time_column = next((name for name in ("as_of", "date") if name in header), "as_of")
        if sorted(header) != sorted(["chain", "metric", time_column, "value"]):
            raise JobError(f"{path} must begin with the header chain,metric,as_of,value (or date instead of as_of)")
        for row in rows:
            if not row:
                continue
            try:
                parsed.add(rows.line_num, *_figure(header, row, last))
            except BadRow as reason:
                parsed.refuse(rows.line_num, str(reason))
    except csv.Error as error:
        raise JobError(f"{path} is no CSV file: line {rows.line_num}: {error}") from None
    return parsed


def _lines(path: Path) -> Iterator[str]:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise JobError(f"{path} has {size} bytes, at most {MOST_BYTES} are read; split it")
        return iter(path.read_text(encoding="utf-8-sig").splitlines(keepends=True))
    except OSError as error:
        raise JobError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise JobError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def _figure(header: list[str], row: list[str], last: datetime) -> tuple[Key, float]:
    if len(row) != len(header):
        raise BadRow("not as many fields as the header has")
    cells = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
    chain, metric = cells["chain"].lower(), cells["metric"].lower()
    if not (NAME.fullmatch(chain) and NAME.fullmatch(metric)):
        raise BadRow("chain or metric is no name of 1 to 40 letters, digits and _")
    as_of = _moment(cells, last)
    value = float(cells["value"]) if NUMBER.fullmatch(cells["value"]) else math.nan
    if not math.isfinite(value):
        raise BadRow("not a finite number")
    return (chain, metric, as_of), value


def _moment(cells: dict[str, str], last: datetime) -> datetime:
    text = cells.get("as_of", cells.get("date", ""))
    try:
        as_of = parse_time(text)
        if "date" in cells and DAY.fullmatch(text):
            as_of += timedelta(days=1)
    except (ValueError, OverflowError):
        raise BadRow("not a time") from None
    if as_of > last:
        raise BadRow("speaks about what is not over, or could not be published yet")
    return as_of


def _store(database: Database, figures: ParsedFigures, source: str, lag: timedelta, now: datetime) -> dict[str, Any]:
    queries, asked = load_queries("news"), _columns(list(figures.values))
    stored = {(row["chain"], row["metric"], row["as_of"]): row["value"]
              for row in database.fetch(queries["stored_figures"], asked)}  # fmt: skip
    for key, value in stored.items():
        if value != figures.values[key]:
            figures.refuse(figures.lines[key], "another value stands for this moment")
    new = [key for key in figures.values if key not in stored]
    written = database.execute(queries["insert_figures"], _columns(new) | {
        "values": [figures.values[key] for key in new], "known_from": [key[2] + lag for key in new],
        "source": source, "recorded_at": now,
    })  # fmt: skip
    same = sum(value == figures.values[key] for key, value in stored.items())
    result: dict[str, Any] = {"new": written, "known": same + figures.repeated}
    if figures.refused:
        result |= {"refused": dict(figures.refused), "examples": figures.examples}
    return result


def _columns(keys: list[Key]) -> dict[str, Any]:
    return {name: [key[n] for key in keys] for n, name in enumerate(("chains", "metrics", "moments"))}


def _work(context: Context) -> Outcome:
    a = context.arguments
    if a.source is not None and not 0 < len(a.source.strip()) <= LONGEST_SOURCE:
        raise UsageError(f"--source is a name of 1 to {LONGEST_SOURCE} characters, not {len(a.source)}")
    if not 0 <= a.lag_hours <= 24 * 365:
        raise UsageError(f"--lag-hours is from 0 to {24 * 365}, not {a.lag_hours:g}")
    return run_once(context.clock, context.database, a.files, a.source, a.lag_hours)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Import on-chain figures: CSV with the header chain,metric,as_of,value.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--source", help="who says so (default: the file's name)")
    parser.add_argument(
        "--lag-hours", type=float, default=0.0, help="how much later the provider publishes (default 0)"
    )
    return run_job_command("meta_controller", parser, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
