"""Parquet files of candles obey the rules of CSV ones."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import pytest

from candles.candle_files import FileRefused, read_candle_file
from tests.candles.damaged_csv import HOUR, NOW, T0, hours


def parquet(tmp_path: Path, **changes: object) -> Path:
    """Four candles; a column given as None is left out."""
    import pyarrow as pa
    from pyarrow import parquet

    ts = pa.array([(T0 + i * HOUR) * 1000 for i in range(4)], pa.timestamp("ms", "UTC"))
    columns = {
        "ts": ts,
        **{name: [float(v)] * 4 for name, v in zip(["open", "high", "low", "close"], [10, 12, 9, 11], strict=True)},
    }
    columns |= {"volume": [1.5] * 4} | changes
    path = tmp_path / "file.parquet"
    parquet.write_table(pa.table({name: values for name, values in columns.items() if values is not None}), path)
    return path


def times(kind: str, values: list[int | None]) -> object:
    import pyarrow as pa

    return pa.array(values, getattr(pa, kind)() if kind.startswith(("int", "date")) else pa.timestamp(kind))


NAN = float("nan")
HOURS = [T0, T0 + HOUR, T0 + 2 * HOUR, T0 + 3 * HOUR]
PARQUET_DAMAGES: list[tuple[str, dict[str, object], list[int], dict[str, int]]] = [
    ("clean", {}, [0, 1, 2, 3], {}),
    ("NaN price", {"open": [10, NAN, 10, 10]}, [0, 2, 3], {"price": 1}),
    ("null price", {"close": [11, None, 11, 11]}, [0, 2, 3], {"price": 1}),
    ("infinite price", {"high": [12, float("inf"), 12, 12]}, [0, 2, 3], {"price": 1}),
    ("high below low", {"high": [12, 8, 12, 12]}, [0, 2, 3], {"high-low": 1}),
    ("close outside", {"close": [11, 13, 8, 11]}, [0, 3], {"open-close": 2}),
    ("volumes", {"volume": [0.0, -1.0, NAN, 1.0]}, [0, 3], {"volume": 2}),
    ("trades", {"trades": [1.0, 1.5, -1.0, NAN]}, [0, 3], {"trades": 2}),
    ("whole prices", {"open": [10, 10, 10, 10]}, [0, 1, 2, 3], {}),
    (
        "off the grid",
        {"ts": times("ms", [t * 1000 + (i == 1) for i, t in enumerate(HOURS)])},
        [0, 2, 3],
        {"off-grid": 1},
    ),
    ("no time", {"ts": times("ms", [T0 * 1000, None, None, HOURS[3] * 1000])}, [0, 3], {"time": 2}),
    ("same time", {"ts": times("s", [T0, T0, HOURS[2], HOURS[3]]), "volume": [1, 2, 3, 3]}, [2, 3], {"conflict": 2}),
    ("out of order", {"ts": times("s", [*HOURS[2:], *HOURS[:2]])}, [0, 1, 2, 3], {}),
    ("microseconds", {"ts": times("us", [t * 10**6 for t in HOURS])}, [0, 1, 2, 3], {}),
    ("nanoseconds", {"ts": times("ns", [t * 10**9 for t in HOURS])}, [0, 1, 2, 3], {}),
    (
        "off by a nanosecond",
        {"ts": times("ns", [t * 10**9 + (i == 1) for i, t in enumerate(HOURS)])},
        [0, 2, 3],
        {"off-grid": 1},
    ),
    ("Unix seconds", {"ts": times("int64", HOURS)}, [0, 1, 2, 3], {}),
    ("Unix milliseconds", {"ts": times("int64", [t * 1000 for t in HOURS])}, [], {"milliseconds": 4}),
    ("another name", {"ts": None, "Date": times("s", HOURS)}, [0, 1, 2, 3], {}),
]


@pytest.mark.parametrize(
    ("changes", "kept", "reasons"), [d[1:] for d in PARQUET_DAMAGES], ids=[d[0] for d in PARQUET_DAMAGES]
)
def test_parquet_obeys_the_same_rules(
    tmp_path: Path, changes: dict[str, object], kept: list[int], reasons: dict[str, int]
) -> None:
    parsed = read_candle_file(parquet(tmp_path, **changes), HOUR, NOW)
    assert (hours(parsed), parsed.refused_counts) == (kept, reasons)


def test_parquet_gives_its_values_and_names_the_row_it_refuses(tmp_path: Path) -> None:
    changes = {"volume": [1.0, 2.0, -3.0, 4.0], "trades": [5.0, NAN, 5.0, 6.0]}
    parsed = read_candle_file(parquet(tmp_path, **changes), HOUR, NOW)
    assert parsed.candles.volume.tolist() == [1.0, 2.0, 4.0]
    assert parsed.candles.trades.tolist() == [5, -1, 6]
    assert astuple(parsed.candles[:1])[:5] == (T0 + HOUR, 10.0, 12.0, 9.0, 11.0)
    (example,) = parsed.refused_examples
    assert (example.line, example.reason) == (3, "volume")
    assert example.raw == f"{HOURS[2]}000,10.0,12.0,9.0,11.0,-3.0,5.0"


def test_days_may_be_dates(tmp_path: Path) -> None:
    path = parquet(tmp_path, ts=times("date32", [18000, 18001, 18002, 18003]))
    assert read_candle_file(path, 86400, NOW).candles.as_of.tolist() == [
        86400 * d for d in (18001, 18002, 18003, 18004)
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"volume": None, "low": None}, "no column named low, volume"),
        ({"ts": None}, "no column named time"),
        ({"date": HOURS}, "more than one time"),
        ({"open": ["a"] * 4}, "column open as string"),
        ({"ts": ["2020"] * 4}, "open times as string"),
    ],
)
def test_parquet_with_other_columns_is_refused_by_their_names(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(FileRefused, match=message):
        read_candle_file(parquet(tmp_path, **changes), HOUR, NOW)


def test_parquet_without_rows_is_refused(tmp_path: Path) -> None:
    empty = {name: times("int64", []) for name in ("ts", "open", "high", "low", "close", "volume")}
    with pytest.raises(FileRefused, match="nothing in it"):
        read_candle_file(parquet(tmp_path, **empty), HOUR, NOW)
