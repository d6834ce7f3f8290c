"""Candle files as text, sound and damaged, each with what must become of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from candles.candle_files import Parsed, read_candle_file

HOUR = 3600
T0 = 1_600_002_000  # on the hour
NOW = T0 + 1000 * HOUR
HEADER = "ts,open,high,low,close,volume,trades"
PRICES = {"o": "10", "h": "12", "l": "9", "c": "11", "v": "1.5", "n": "7"}


def row(hour: int | None = None, **changes: str) -> str:
    """One line of Kraken's format; ``t``, ``o``, ``h``, ``l``, ``c``, ``v``, ``n`` replace a field."""
    return ",".join(({"t": str(T0 + (hour or 0) * HOUR)} | PRICES | changes).values())


def six(hour: int) -> str:
    return row(hour).rsplit(",", 1)[0]


def lines(*rows: str) -> bytes:
    return "".join(f"{r}\n" for r in rows).encode()


def between(bad: str) -> bytes:
    """The line in question between two good ones (hours 0 and 2)."""
    return lines(row(0), bad, row(2))


def read(tmp_path: Path, data: bytes, name: str = "file.csv", now: int = NOW, timeframe_s: int = HOUR) -> Parsed:
    path = tmp_path / name
    path.write_bytes(data)
    return read_candle_file(path, timeframe_s, now)


def hours(parsed: Parsed) -> list[int]:
    return ((parsed.candles.as_of - HOUR - T0) // HOUR).tolist()


def iso(hour: int) -> str:
    return datetime.fromtimestamp(T0 + hour * HOUR, UTC).isoformat()


GOOD = lines(row(0), row(1), row(2))
ISO_HEADER = HEADER.replace("ts", "Date")
Damage = tuple[str, bytes, list[int], dict[str, int], dict[str, int]]

# name, bytes, hours kept, refused by reason, notes
DAMAGES: list[Damage] = [
    ("clean", GOOD, [0, 1, 2], {}, {}),
    ("without trades", lines(six(0), six(1)), [0, 1], {}, {}),
    # values
    ("high below low", between(row(1, h="8", l="9", o="8", c="8")), [0, 2], {"high-low": 1}, {}),
    ("open above high", between(row(1, o="12.1")), [0, 2], {"open-close": 1}, {}),
    ("open below low", between(row(1, o="8.9")), [0, 2], {"open-close": 1}, {}),
    ("close above high", between(row(1, c="12.1")), [0, 2], {"open-close": 1}, {}),
    ("close below low", between(row(1, c="8.9")), [0, 2], {"open-close": 1}, {}),
    ("all prices equal", between(row(1, o="9", h="9", l="9", c="9")), [0, 1, 2], {}, {}),
    *[
        (f"price {name} is {bad or 'empty'}", between(row(1, **{name: bad})), [0, 2], {"price": 1}, {})
        for name in "ohlc"
        for bad in ("0", "-1", "nan", "NaN", "inf", "-Infinity", "", " ", "1e400")
    ],
    *[
        (f"volume is {bad or 'empty'}", between(row(1, v=bad)), [0, 2], {"volume": 1}, {})
        for bad in ("-0.1", "nan", "inf", "", "1e999")
    ],
    ("volume is zero", between(row(1, v="0")), [0, 1, 2], {}, {}),
    *[
        (f"trades is {bad}", between(row(1, n=bad)), [0, 2], {"trades": 1}, {})
        for bad in ("-1", "1.5", "x", "inf", "1e30", "2147483648")
    ],
    *[(f"trades is {good!r}", between(row(1, n=good)), [0, 1, 2], {}, {}) for good in ("0", "", "5.0", "2147483647")],
    *[
        (f"{name} is {bad}", between(row(1, **{name: bad})), [0, 2], {"text": 1}, {})
        for name in "ohlcv"
        for bad in ("abc", "1_0", "0x10", "1·0", "10 11", "--1", "1e", ".", "１０", "null")
    ],
    *[
        (f"volume is {good}", between(row(1, v=good)), [0, 1, 2], {}, {})
        for good in ("1e-8", "1E+2", "+1", "1.", ".5", " 1.0 ", '"1.0"', "0001")
    ],
    # columns
    ("too few columns", between(six(1)), [0, 2], {"too-few-columns": 1}, {}),
    ("too many columns", between(row(1) + ",1"), [0, 2], {"too-many-columns": 1}, {}),
    ("a comma in quotes", between(row(1, v='"1,5"')), [0, 2], {"too-many-columns": 1}, {}),
    ("first row is cut", lines(six(0), row(1), row(2)), [1, 2], {"too-few-columns": 1}, {}),
    ("a seventh column among sixes", lines(six(0), row(1), six(2)), [0, 2], {"too-many-columns": 1}, {}),
    ("half sixes, half sevens", lines(six(0), row(1)), [1], {"too-few-columns": 1}, {}),
    ("garbage in a line", GOOD + b"\x00\xff\x93,\x1b\n", [0, 1, 2], {"too-few-columns": 1}, {}),
    ("semicolons in a line", between(row(1).replace(",", ";")), [0, 2], {"too-few-columns": 1}, {}),
    # times
    ("the same row again", lines(row(0), row(1), row(0), row(0)), [0, 1], {"duplicate": 2}, {}),
    ("the same values again", lines(row(0), row(0, o="10.00")), [0], {"duplicate": 1}, {}),
    *[
        (f"same time, other {name}", lines(row(0), row(1), row(1, **{name: new}), row(2)), [0, 2], {"conflict": 2}, {})
        for name, new in {"o": "10.5", "h": "13", "l": "8", "c": "10", "v": "2", "n": "8"}.items()
    ],
    (
        "same time, twice one way, once another",
        lines(row(0), row(1), row(1, v="2"), row(1)),
        [0],
        {"conflict": 2, "duplicate": 1},
        {},
    ),
    ("a bad row does not push out the good one", lines(row(1, v="-1"), row(1)), [1], {"volume": 1}, {}),
    ("out of order", lines(row(3), row(1), row(2), row(4)), [1, 2, 3, 4], {}, {"out-of-order": 2}),
    ("off the grid", between(row(1, t=str(T0 + HOUR + 1))), [0, 2], {"off-grid": 1}, {}),
    ("off the grid by a fraction", between(row(1, t=f"{T0 + HOUR}.5")), [0, 2], {"off-grid": 1}, {}),
    ("a whole time with a point", between(row(1, t=f"{T0 + HOUR}.0")), [0, 1, 2], {}, {}),
    ("still open at now", lines(row(998), row(999), row(1000)), [998, 999], {"future": 1}, {}),
    ("far future", lines(row(0), row(10**6)), [0], {"future": 1}, {}),
    ("milliseconds in a row", between(row(1, t=f"{T0 + HOUR}000")), [0, 2], {"milliseconds": 1}, {}),
    ("milliseconds throughout", lines(row(t=f"{T0}000"), row(t=f"{T0 + HOUR}000")), [], {"milliseconds": 2}, {}),
    ("the first milliseconds", between(row(1, t="100000000000")), [0, 2], {"milliseconds": 1}, {}),
    ("microseconds", between(row(1, t=f"{T0}000000")), [0, 2], {"milliseconds": 1}, {}),
    ("nanoseconds", between(row(1, t=f"{T0}000000000")), [0, 2], {"milliseconds": 1}, {}),
    *[
        (f"time is {bad or 'empty'}", between(row(1, t=bad)), [0, 2], {"time": 1}, {})
        for bad in (
            "",
            "x",
            "0",
            "-3600",
            "1.6E+09",
            "nan",
            "9" * 19,
            "9" * 5000,
            "2020-13-01",
            "2020-W01-1",
            hex(T0 + HOUR),
            "20200101T000000",
        )
    ],
    # the text around the rows
    ("BOM", b"\xef\xbb\xbf" + GOOD, [0, 1, 2], {}, {}),
    ("CRLF", GOOD.replace(b"\n", b"\r\n"), [0, 1, 2], {}, {}),
    ("CR alone", GOOD.replace(b"\n", b"\r"), [0, 1, 2], {}, {}),
    ("a stray CR", between(row(1, v="1\r5")), [0, 2], {"text": 1}, {}),
    (
        "BOM and CRLF and a bad row",
        b"\xef\xbb\xbf" + between("x").replace(b"\n", b"\r\n"),
        [0, 2],
        {"too-few-columns": 1},
        {},
    ),
    ("empty lines", lines(HEADER, "", row(0), "", "", row(1)), [0, 1], {}, {"blank-lines": 3}),
    ("spaces at the end", GOOD + b"  ", [0, 1, 2], {}, {}),
    ("blank lines", b"\n" + lines(row(0), "", "  ", row(1)), [0, 1], {}, {"blank-lines": 2}),
    ("header", HEADER.encode() + b"\n" + GOOD, [0, 1, 2], {}, {}),
    ("header in another order", lines("Volume,CLOSE, low ,high,open,timestamp", f"1,11,9,12,10,{T0}"), [0], {}, {}),
    ("header in quotes", lines('"time","open","high","low","close","volume"', six(0)), [0], {}, {}),
    (
        "header and other columns",
        lines(HEADER + ",vwap", row(0) + ",x", row(1) + ",2"),
        [0, 1],
        {},
        {"ignored-columns": 1},
    ),
    ("header and a row too short", lines(HEADER, row(0), six(1)), [0], {"too-few-columns": 1}, {}),
    ("header again", HEADER.encode() + b"\n" + between(HEADER), [0, 2], {"header": 1}, {}),
    ("header late", between(HEADER), [0, 2], {"header": 1}, {}),
    ("header again but cut", lines(HEADER, row(0), "ts,open,hi", row(2)), [0, 2], {"too-few-columns": 1}, {}),
    (
        "ISO times",
        lines(
            ISO_HEADER,
            row(t=iso(0)),
            row(t=iso(1).replace("+00:00", "Z")),
            row(t=iso(2)[:-6]),
            row(t=iso(3).replace("T", " ")),
        ),
        [0, 1, 2, 3],
        {},
        {},
    ),
    ("ISO time of another zone", lines(ISO_HEADER, row(t=iso(5).replace("+00:00", "+02:00"))), [3], {}, {}),
    ("ISO time off the grid", lines(ISO_HEADER, row(0), row(t=iso(1)[:-6] + ".5Z")), [0], {"off-grid": 1}, {}),
    ("ISO time before all times", lines(ISO_HEADER, row(0), row(t="0001-01-01T00:00:00+14:00")), [0], {"time": 1}, {}),
    # the last line
    ("last line cut early", lines(row(0), row(1)) + row(2)[:20].encode(), [0, 1], {"truncated": 1}, {}),
    ("last line cut before its trades", lines(row(0), row(1)) + row(2)[:-1].encode(), [0, 1], {"truncated": 1}, {}),
    ("last line unreadable", lines(row(0)) + row(2, c="1e").encode(), [0], {"truncated": 1}, {}),
    ("last line too long", lines(row(0)) + row(2).encode() + b",1", [0], {"too-many-columns": 1}, {}),
    (
        "last line bad and unfinished",
        lines(row(0)) + row(2, c="1").encode(),
        [0],
        {"open-close": 1},
        {"no-final-newline": 1},
    ),
    ("last line without newline", GOOD[:-1], [0, 1, 2], {}, {"no-final-newline": 1}),
    ("last line might have lost volume", lines(six(0)) + six(1).encode(), [0], {"truncated": 1}, {}),
    (
        "last column ignored",
        lines("ts,open,high,low,close,volume,vwap") + row(0).encode(),
        [0],
        {},
        {"ignored-columns": 1, "no-final-newline": 1},
    ),
    ("a single line", row(0).encode(), [0], {}, {"no-final-newline": 1}),
]
