"""A candle file, read and checked: every good row kept, every bad one refused by line, reason and text.

Understood, by content and not by suffix: Kraken's OHLCVT download (no header: Unix seconds of the open time, open,
high, low, close, volume, trades; or without trades), CSV with a header that names its columns, either of them in
gzip, and parquet. Pure: no database, no clock. A clean CSV takes the fast path (pyarrow); any other is read line
by line, to the same result.

Reasons, beside those of candles.validate: 'too-few-columns', 'too-many-columns', 'text' (where a number should be),
'header' (a repeated one), 'truncated' (the unfinished last line) and 'gzip-truncated' (the archive ends early).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from candles.csv_rows import Excerpts, FileRefused, Rows, floats, gunzip, named_layout, read_csv, refuse
from candles.validate import (
    KEPT,
    REASONS,
    CodeArray,
    Refused,
    code_of,
    count_reasons,
    excerpt,
    out_of_order,
    reason_codes,
    spacing_s,
)
from shared.rows import Candles, FloatArray, IntArray

__all__ = [
    "FileRefused",
    "Parsed",
    "RefusedRows",
    "Series",
    "canonical_symbol",
    "is_krakens_download",
    "parse_candles",
    "parse_timeframe",
    "read_candle_file",
    "series_from_name",
]

EXAMPLES = 5
EXAMPLE_CHARACTERS = 80
MOST_OF_A_REASON = 10_000  # refused rows of one file that are kept one by one
ROWS_A_BATCH = 1_000
ARCHIVE_MARKS = (b"PK\x03\x04", b"PK\x05\x06")  # a zip archive with members, or with none

KRAKEN_MINUTES = (1, 5, 15, 30, 60, 240, 720, 1440, 10080)
KRAKEN_QUOTES = ("USDT", "USDC", "USD", "EUR", "GBP", "XBT", "BTC", "ETH", "CAD", "JPY", "CHF", "AUD")
DOLLAR_QUOTES = ("USD", "USDT", "USDC")  # the dollar, and the tokens that stand for it
KRAKEN_ASSETS = {"XBT": "BTC", "XDG": "DOGE"}
UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

_NAME = re.compile(r"(?:([a-z0-9]+)_)?([A-Z0-9-]+)-([A-Z0-9]+)_([0-9]+[smhd])")
_KRAKEN_NAME = re.compile(rf"([A-Z0-9]+)({'|'.join(KRAKEN_QUOTES)})_({'|'.join(map(str, KRAKEN_MINUTES))})")


@dataclass(frozen=True, slots=True)
class Series:
    """Whose candles a file holds. Symbols are BASE/QUOTE."""

    venue: str
    symbol: str
    timeframe_s: int


@dataclass(frozen=True, slots=True)
class RefusedRows:
    """Every refused line of a file (in parquet: row), in order: nine bytes each, texts cut out when asked for."""

    lines: IntArray  # from 1
    codes: CodeArray  # why, as candles.validate codes its reasons
    texts: Excerpts

    @property
    def counts(self) -> dict[str, int]:
        """By reason, the commonest first."""
        return dict(sorted(count_reasons(self.codes).items(), key=lambda item: -item[1]))

    def examples(self) -> list[Refused]:
        """The first few, and the first of each reason, each cut to what a line of output can show."""
        first_of_each = np.unique(self.codes, return_index=True)[1]
        shown = np.union1d(np.arange(min(EXAMPLES, len(self.lines))), first_of_each)
        return [Refused(r.reason, r.raw[:EXAMPLE_CHARACTERS], r.line) for r in self._rows(shown)]

    def batches(self) -> Iterator[list[Refused]]:
        """All of them, a batch at a time; of a reason with very many its first 10,000, then one row that counts the
        others (its line is None)."""
        places = [np.flatnonzero(self.codes == code) for code in np.unique(self.codes)]
        kept = np.sort(np.concatenate([np.empty(0, np.int64), *(where[:MOST_OF_A_REASON] for where in places)]))
        for start in range(0, len(kept), ROWS_A_BATCH):
            yield self._rows(kept[start : start + ROWS_A_BATCH])
        for where in places:
            if len(where) > MOST_OF_A_REASON:
                reason = REASONS[self.codes[where[0]] - 1]
                yield [Refused(reason, f"and {len(where) - MOST_OF_A_REASON} more rows of this file")]

    def _rows(self, places: IntArray) -> list[Refused]:
        lines = self.lines[places].tolist()
        reasons = [REASONS[code - 1] for code in self.codes[places].tolist()]
        return [Refused(why, raw, at) for why, raw, at in zip(reasons, self.texts(lines), lines, strict=True)]


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a file gave: sorted candles without repeats, and what was refused.

    Notes count what is odd but kept: 'out-of-order', 'blank-lines', 'ignored-columns', 'no-final-newline'.
    """

    candles: Candles
    refused_rows: RefusedRows
    notes: dict[str, int]

    @property
    def refused_counts(self) -> dict[str, int]:
        return self.refused_rows.counts

    @property
    def refused_examples(self) -> list[Refused]:
        return self.refused_rows.examples()

    @property
    def refused(self) -> int:
        return len(self.refused_rows.lines)


def parse_timeframe(text: str) -> int:
    """Seconds of '5m', '1h', '4h', '1d' or of plain seconds; FileRefused if it is none of them."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd]?)", text.strip())
    if not match:
        raise FileRefused(f"timeframe {text!r} is not understood: give it like 5m, 1h, 4h, 1d, or in seconds")
    return int(match[1]) * UNITS_S[match[2]]


def series_from_name(path: Path, venue: str | None, symbol: str | None, timeframe: str | None) -> Series:
    """Whose candles these are: arguments first, then the name of the file; FileRefused if neither says."""
    said = _name_says(path.name.split(".", 1)[0])
    given = {"venue": venue or said[0], "symbol": symbol or said[1], "timeframe": timeframe or said[2]}
    missing = [name for name, value in given.items() if not value]
    if missing:
        examples = {"venue": "kraken", "symbol": "BTC/USD", "timeframe": "1h"}
        wanted = " ".join(f"--{name} {examples[name]}" for name in missing)
        raise FileRefused(
            f"{path.name} does not say its {', '.join(missing)}: pass it, for example {wanted}, "
            "or name the file like binance_BTC-USDT_5m.csv or, as Kraken does, XBTUSD_60.csv"
        )
    pair = canonical_symbol(str(given["symbol"]))
    return Series(str(given["venue"]).lower(), pair, parse_timeframe(str(given["timeframe"])))


def canonical_symbol(text: str) -> str:
    """BASE/QUOTE by the names that this project uses (xbt/usd is BTC/USD); FileRefused if it is no such pair."""
    base, slash, quote = text.upper().rpartition("/")
    if not (slash and base and quote):
        raise FileRefused(f"symbol {text!r} is not understood: give it as BASE/QUOTE, like BTC/USD")
    return f"{KRAKEN_ASSETS.get(base, base)}/{KRAKEN_ASSETS.get(quote, quote)}"


def is_krakens_download(name: str) -> bool:
    """Whether a file is named as in Kraken's OHLCVT download, which leaves out the candles without trades, and no
    others."""
    return _KRAKEN_NAME.fullmatch(Path(name).name.split(".", 1)[0]) is not None


def _name_says(stem: str) -> tuple[str, str, str]:
    """Venue, symbol and timeframe, each empty where the name does not say."""
    if match := _NAME.fullmatch(stem):
        return match[1] or "", f"{match[2]}/{match[3]}", match[4]
    if match := _KRAKEN_NAME.fullmatch(stem):
        return "kraken", f"{match[1]}/{match[2]}", f"{match[3]}m"
    return "", "", ""


def read_candle_file(path: Path, timeframe_s: int, now: int) -> Parsed:
    """Every good row of a CSV, gzip or parquet file, and what was refused.

    ``timeframe_s`` in seconds; ``now`` in Unix seconds: a candle that closes later is refused. FileRefused when
    the file as a whole cannot be read, or its rows contradict the timeframe.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileRefused(f"{path} cannot be opened ({error.strerror}): check the path") from error
    return parse_candles(path, data, timeframe_s, now)


def parse_candles(path: Path, data: bytes, timeframe_s: int, now: int) -> Parsed:
    """``read_candle_file`` for bytes that are here already; ``path`` is only named."""
    rows, texts = _read_rows(path, data)
    candles = rows.candles(timeframe_s)
    spacing = spacing_s(candles, timeframe_s)
    if spacing != timeframe_s:
        refuse(path, f"has a candle every {spacing} s, not every {timeframe_s} s", f"pass --timeframe {spacing}")
    return _judge(rows, texts, candles, reason_codes(candles, timeframe_s, now))


def _read_rows(path: Path, data: bytes) -> tuple[Rows, Excerpts]:
    """The rows of a file of any known format; FileRefused when it is none of them."""
    if data.startswith(ARCHIVE_MARKS):
        refuse(path, "is a zip archive", "unzip it and import the files in it")
    rows, texts = _read_parquet(path, data) if data.startswith(b"PAR1") else read_csv(path, *gunzip(path, data))
    if not len(rows.lines) and not len(rows.unreadable):
        refuse(path, "holds no candles, there is nothing in it", "check where it came from")
    return rows, texts


def _judge(rows: Rows, texts: Excerpts, candles: Candles, codes: CodeArray) -> Parsed:
    broken = np.flatnonzero(codes)
    lines = np.concatenate([rows.unreadable, rows.lines[broken]])
    order = np.argsort(lines, kind="stable")
    if not len(lines):
        texts = _no_texts  # the other holds the whole file
    refused = RefusedRows(lines[order], np.concatenate([rows.why, codes[broken]])[order], texts)
    kept = candles[codes == KEPT] if len(broken) else candles  # no copy of millions of sound rows
    notes = {**rows.notes, "out-of-order": out_of_order(kept)}
    if notes["out-of-order"]:
        kept = kept[np.argsort(kept.as_of)]
    return Parsed(kept, refused, {name: count for name, count in notes.items() if count})


def _no_texts(lines: list[int]) -> list[str]:
    return []


def _read_parquet(path: Path, data: bytes) -> tuple[Rows, Excerpts]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pa.BufferReader(data))
        names = file.schema_arrow.names
        layout = named_layout(path, [name.lower() for name in names])
        wanted = [names[i] for i in layout.used]
        table = file.read(columns=wanted, use_threads=False).select(wanted)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        refuse(path, f"is not a whole parquet file ({error})", "download it again")
    ticks, unit = _parquet_ticks(path, table.column(0))
    whole = ticks % unit == 0
    numbers = [_parquet_numbers(path, name, table.column(name)) for name in wanted[1:]]
    shown = [ticks, *numbers]
    numbers += [np.full(table.num_rows, np.nan)] * (6 - len(numbers))
    lines = np.arange(1, table.num_rows + 1)
    why = np.full(np.count_nonzero(~whole), code_of("off-grid"), dtype=np.int8)
    notes = {"ignored-columns": layout.ignored}
    sound = [column[whole] for column in numbers]
    rows = Rows(lines[whole], ticks[whole] // unit, sound, lines[~whole], why, notes)
    return rows, lambda chosen: [excerpt(",".join(str(column[line - 1]) for column in shown)) for line in chosen]


def _parquet_ticks(path: Path, column: Any) -> tuple[IntArray, int]:
    """Open times since 1970 (0, which no rule lets pass, where empty), and how many of their units a second has."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_date(kind):
        column, kind = column.cast(pa.timestamp("ms")), pa.timestamp("ms")
    if not (pa.types.is_timestamp(kind) or pa.types.is_integer(kind)):
        refuse(path, f"keeps its open times as {kind}", "store them as timestamps, or as Unix seconds")
    unit = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit] if pa.types.is_timestamp(kind) else 1
    ticks: IntArray = column.cast(pa.int64(), safe=False).fill_null(0).to_numpy()
    return ticks, unit


def _parquet_numbers(path: Path, name: str, column: Any) -> FloatArray:
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
        refuse(path, f"keeps column {name} as {kind}", "store it as numbers")
    return floats(column.cast(pa.float64(), safe=False))
