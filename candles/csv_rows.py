"""CSV text as rows in file order, before any rule: what can be read, and why the rest cannot.

A clean CSV takes the fast path (pyarrow, all rows at once); any other is read line by line, to the same result.
"""

from __future__ import annotations

import io
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from candles.validate import RAW_CHARACTERS, CodeArray, code_of, excerpt
from shared.errors import SextantError
from shared.rows import UNKNOWN_TRADES, Candles, FloatArray, IntArray

MOST_BYTES = 2**29  # of text at a time: every minute since 2013 has 0.4 GB; an archive may promise anything
TIME_NAMES = ("ts", "time", "timestamp", "date")
NUMBER_NAMES = ("open", "high", "low", "close", "volume")
KNOWN_NAMES = {*TIME_NAMES, *NUMBER_NAMES, "trades"}

# float() would also take 1_000 and digits of other scripts.
_NUMBER = re.compile(rb"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NOT_FINITE = re.compile(rb"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
# No exponent: a spreadsheet's 1.38E+09 has lost the time it stood for.
_SECONDS = re.compile(rb"(-?0*[0-9]{1,19})(?:\.([0-9]*))?")
_ISO_TIME = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9:.]+(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?")
_QUOTED = re.compile(rb'^"(.*)"$')
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_PLAIN = b"0123456789.,+-eE\n"


class FileRefused(SextantError, ValueError):
    """The whole file cannot be read; the message says what is wrong and what to do."""


class _Unreadable(Exception):
    """A verdict on one line, never seen outside; its argument is the reason."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the columns are; ``trades`` is -1 where there are none."""

    width: int
    time: int
    numbers: tuple[int, ...]
    trades: int

    @property
    def used(self) -> tuple[int, ...]:
        return (self.time, *self.numbers, *([self.trades] if self.trades >= 0 else []))

    @property
    def ignored(self) -> int:
        return self.width - len(self.used)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows as read, in file order, before any rule, and the lines that could not be read."""

    lines: IntArray
    times: IntArray  # open times in Unix seconds
    numbers: Sequence[FloatArray]  # open, high, low, close, volume, trades; NaN where empty
    unreadable: IntArray  # line numbers
    why: CodeArray  # of each unreadable line, as candles.validate codes its reasons
    notes: dict[str, int]

    def refusing(self, line: int, reason: str) -> Rows:
        """The same rows with one more unreadable line."""
        why = np.append(self.why, np.int8(code_of(reason)))
        return replace(self, unreadable=np.append(self.unreadable, line), why=why)

    def candles(self, timeframe_s: int) -> Candles:
        return Candles.from_columns([self.times + timeframe_s, *self.numbers[:5], _trade_counts(self.numbers[5])])


NONE_UNREADABLE = (np.empty(0, np.int64), np.empty(0, np.int8))
Excerpts = Callable[[list[int]], list[str]]  # the texts of these lines, each short enough to show


def refuse(path: Path, what: str, do: str) -> NoReturn:
    raise FileRefused(f"{path.name} {what}: {do}")


def _trade_counts(raw: FloatArray) -> IntArray:
    """Whole numbers; -1 where empty (the venue does not say); -2, which no rule lets pass, for anything else."""
    whole = (raw >= 0) & (raw == np.floor(raw)) & (raw < 2**53)
    counts = np.where(whole, raw, UNKNOWN_TRADES - 1).astype(np.int64)
    counts[np.isnan(raw)] = UNKNOWN_TRADES
    return counts


def gunzip(path: Path, data: bytes) -> tuple[bytes, bool]:
    """The text, and whether the archive ends early; text that is not gzip comes back as it is."""
    parts: list[bytes] = []
    if not data.startswith(b"\x1f\x8b"):
        return data, False
    while data:
        member = zlib.decompressobj(wbits=31)
        room = MOST_BYTES - sum(map(len, parts))
        try:
            parts.append(member.decompress(data, room + 1))
        except zlib.error as error:
            refuse(path, f"is damaged inside its gzip archive ({error})", "download it again")
        if len(parts[-1]) > room:
            refuse(path, f"unpacks to more than {MOST_BYTES:,} bytes", "split it, or check where it came from")
        if not member.eof:
            if not any(parts):
                refuse(path, "ends inside its gzip archive before any row", "download it again")
            return b"".join(parts), True
        data = member.unused_data.lstrip(b"\0")  # several members and zero padding are legal gzip
    return b"".join(parts), False


def read_csv(path: Path, data: bytes, cut: bool) -> tuple[Rows, Excerpts]:
    data = _with_plain_newlines(data.removeprefix(b"\xef\xbb\xbf"))
    _refuse_other_formats(path, data)
    before, start = _first_line(data)
    layout, has_header = _layout(path, data[start:])
    if has_header:
        start, before = _after_line(data, start), before + 1
    split = data.rfind(b"\n", start) + 1 or start
    body, tail = data[start:split], data[split:]
    rows = _fast(body, layout, before + 1) or _careful(path, body, layout, before + 1)
    last = before + body.count(b"\n") + 1
    rows = replace(rows, notes={**rows.notes, "ignored-columns": layout.ignored})
    if cut:
        rows = rows.refusing(last, "gzip-truncated")
    elif tail.strip():
        rows = _with_tail(rows, tail, layout, last)
    return rows, _excerpts_of(data)


def _with_plain_newlines(data: bytes) -> bytes:
    data = data.replace(b"\r\n", b"\n")
    return data if b"\n" in data else data.replace(b"\r", b"\n")


def _refuse_other_formats(path: Path, data: bytes) -> None:
    """Recognise on the first lines what is no comma-separated text at all."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        refuse(path, "is UTF-16 text", "save it as UTF-8")
    sample = [line for line in data[:65536].split(b"\n") if line.strip()]
    if 2 * sum(bool(_CONTROL.search(line)) for line in sample) > len(sample):
        refuse(path, "is not text but binary data", "give a CSV, a gzipped CSV or a parquet file")
    for mark, name in ((b";", "semicolons"), (b"\t", "tabs"), (b"|", "bars"), (b" ", "spaces")):
        hits = sum(line.count(mark) >= 5 and (mark != b" " or b"," not in line) for line in sample)
        if 2 * hits > len(sample):
            refuse(path, f"separates its columns by {name}", "convert it to commas (and decimal points)")


def _first_line(data: bytes) -> tuple[int, int]:
    """How many blank lines the text begins with, and where the first other one starts."""
    text = re.search(rb"\S", data)
    start = data.rfind(b"\n", 0, text.start() if text else len(data)) + 1
    return data.count(b"\n", 0, start), start


def _after_line(data: bytes, start: int) -> int:
    end = data.find(b"\n", start)
    return len(data) if end < 0 else end + 1


def _layout(path: Path, text: bytes) -> tuple[Layout, bool]:
    """The columns, by the header if there is one (then True), else by how many most lines have."""
    first = text[: _after_line(text, 0)]
    if names := _header_names(first):
        return named_layout(path, names), True
    fields = _fields(first)
    if len(fields) >= 6 and all(f[:1].isalpha() and not _NOT_FINITE.fullmatch(f) for f in fields):
        refuse(path, f"begins with a header of unknown names ({excerpt(_text(first))})", _NAMES_WANTED)
    widths = Counter(line.count(b",") + 1 for line in io.BytesIO(text) if line.strip())
    width = max((6, 7), key=lambda columns: (widths[columns], columns))
    if widths and not widths[width]:
        common = widths.most_common(1)[0][0]
        refuse(
            path,
            f"has {common} comma-separated column{'s' * (common != 1)} and no header to name them",
            "give time, open, high, low, close, volume and, if known, trades, or add a header line",
        )
    return Layout(width, 0, (1, 2, 3, 4, 5), 6 if width == 7 else -1), False


_NAMES_WANTED = f"name the columns {' or '.join(TIME_NAMES)}, {', '.join(NUMBER_NAMES)} and, if known, trades"


def _header_names(line: bytes) -> list[str]:
    """The column names, if the line is a header: two known names tell it from damage; else none."""
    names = [_text(field).lower() for field in _fields(line)]
    return names if len(KNOWN_NAMES.intersection(names)) >= 2 else []


def named_layout(path: Path, names: Sequence[str]) -> Layout:
    places = {name: [i for i, n in enumerate(names) if n == name] for name in (*NUMBER_NAMES, "trades")}
    places["time"] = [i for i, n in enumerate(names) if n in TIME_NAMES]
    missing = [name for name in ("time", *NUMBER_NAMES) if not places[name]]
    if missing:
        refuse(path, f"has no column named {', '.join(missing)}", _NAMES_WANTED)
    twice = [name for name, found in places.items() if len(found) > 1]
    if twice:
        refuse(path, f"has more than one {' and '.join(twice)} column", "leave only the right one")
    trades = places["trades"][0] if places["trades"] else -1
    return Layout(len(names), places["time"][0], tuple(places[name][0] for name in NUMBER_NAMES), trades)


def _fast(body: bytes, layout: Layout, first_line: int) -> Rows | None:
    """All rows at once, or None where a line may need care: pyarrow would take what is no number here (0x10)."""
    if body.translate(None, _PLAIN) or body.startswith(b"\n") or b"\n\n" in body:
        return None
    import pyarrow as pa  # a tenth of a second that only an import needs
    from pyarrow import csv

    names = [str(i) for i in range(layout.width)]
    wanted = [names[i] for i in layout.used]
    types = {name: pa.int64() if i == 0 else pa.float64() for i, name in enumerate(wanted)}
    try:
        table = csv.read_csv(
            pa.BufferReader(body),
            csv.ReadOptions(column_names=names, use_threads=False),
            csv.ParseOptions(quote_char=False),
            csv.ConvertOptions(column_types=types, include_columns=wanted, null_values=[""]),
            pa.system_memory_pool(),  # gives back at once what a large file took
        )
    except pa.ArrowInvalid:
        return None
    if table.column(0).null_count:
        return None
    columns, n = table.columns, table.num_rows
    del table  # each column goes as soon as it is copied
    times = columns.pop(0).to_numpy()
    numbers = [floats(columns.pop(0)) for _ in wanted[1:]]
    numbers += [np.full(n, np.nan)] * (6 - len(numbers))
    return Rows(np.arange(n) + first_line, times, numbers, *NONE_UNREADABLE, {})


def _careful(path: Path, body: bytes, layout: Layout, first_line: int) -> Rows:
    """Line by line, each read or refused with its reason; about five times slower."""
    lines, times, numbers = array("q"), array("q"), array("d")
    unreadable, why = array("q"), array("b")
    blank = 0
    for number, line in enumerate(io.BytesIO(body), first_line):
        if not line.strip():
            blank += 1
            continue
        try:
            time, values = _read_line(line, layout)
        except _Unreadable as reason:
            unreadable.append(number)
            why.append(code_of(_reason_or_header(path, number, line, layout, str(reason))))
            continue
        lines.append(number)
        times.append(time)
        numbers.extend(values)
    table = np.array(numbers, dtype=np.float64).reshape(-1, 6)
    where, when, bad = (np.array(column, dtype=np.int64) for column in (lines, times, unreadable))
    return Rows(where, when, list(table.T), bad, np.array(why, dtype=np.int8), {"blank-lines": blank})


def _reason_or_header(path: Path, number: int, line: bytes, layout: Layout, reason: str) -> str:
    names = _header_names(line)
    if not set(NUMBER_NAMES).issubset(names):
        return reason
    if named_layout(path, names) != layout:
        refuse(path, f"has another header in line {number} than it began with", "split the file there")
    return "header"


def _with_tail(rows: Rows, tail: bytes, layout: Layout, number: int) -> Rows:
    """Add the last line of a text that does not end in a newline: a cut may have shortened its last value unseen.

    Many sound files end so, so the row is kept unless the last value is one that a candle needs: a price or a
    volume cut short would be believed, and revise a right one, while a refused row comes back with the whole
    file. A last trade count is not believed but set to unknown.
    """
    last = layout.width - 1
    try:
        time, values = _read_line(tail, layout)
        if last in (layout.time, *layout.numbers) or not _fields(tail)[last]:
            raise _Unreadable
    except _Unreadable as why:
        return rows.refusing(number, str(why) if str(why) == "too-many-columns" else "truncated")  # no cut adds columns
    if last == layout.trades:
        values[5] = np.nan
    return Rows(
        np.append(rows.lines, number),
        np.append(rows.times, time),
        [np.append(column, value) for column, value in zip(rows.numbers, values, strict=True)],
        rows.unreadable,
        rows.why,
        {**rows.notes, "no-final-newline": 1},
    )


def _fields(line: bytes) -> list[bytes]:
    fields = [field.strip() for field in line.split(b",")]
    return fields if b'"' not in line else [_QUOTED.sub(rb"\1", field).strip() for field in fields]


def _read_line(line: bytes, layout: Layout) -> tuple[int, list[float]]:
    """Open time in Unix seconds; open, high, low, close, volume, trades (NaN where empty)."""
    fields = _fields(line)
    if len(fields) != layout.width:
        raise _Unreadable("too-few-columns" if len(fields) < layout.width else "too-many-columns")
    time = _seconds(fields[layout.time])
    values = [_number(fields[i], "text") for i in layout.numbers]
    return time, [*values, _number(fields[layout.trades], "trades") if layout.trades >= 0 else np.nan]


def _number(field: bytes, otherwise: str) -> float:
    if _NUMBER.fullmatch(field) or _NOT_FINITE.fullmatch(field):
        return float(field)
    if not field:
        return np.nan
    raise _Unreadable(otherwise)


def _seconds(field: bytes) -> int:
    if match := _SECONDS.fullmatch(field):
        if (match[2] or b"").strip(b"0"):
            raise _Unreadable("off-grid")
        if abs(seconds := int(match[1])) < 2**63:
            return seconds
        raise _Unreadable("time")
    if not _ISO_TIME.fullmatch(field):
        raise _Unreadable("time")
    try:
        moment = datetime.fromisoformat(field.decode())
    except ValueError:
        raise _Unreadable("time") from None
    if moment.microsecond:
        raise _Unreadable("off-grid")
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _excerpts_of(data: bytes) -> Excerpts:
    starts: list[IntArray] = []  # where each line begins, found at the first question

    def texts(lines: list[int]) -> list[str]:
        if not starts:
            ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n"))
            starts.append(np.append(0, ends + 1))
        begins = starts[0][np.array(lines, dtype=int) - 1].tolist()
        return [excerpt(_text(data[at : at + 4 * RAW_CHARACTERS].split(b"\n")[0])) for at in begins]

    return texts


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace").strip()


def floats(column: Any) -> FloatArray:
    return np.asarray(column.to_numpy(), dtype=np.float64)  # nulls become NaN
