"""A candle file: every good row is kept, every damage refused under its name."""

from __future__ import annotations

import gzip
import io
import zipfile
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from candles import csv_rows
from candles.candle_files import FileRefused, read_candle_file
from candles.validate import KEPT, count_reasons, reason_codes
from shared.rows import CANDLE_FIELDS, Candles
from tests.candles.damaged_csv import DAMAGES, GOOD, HEADER, HOUR, NOW, T0, hours, iso, lines, read, row, six

REAL = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.parametrize(("data", "kept", "reasons", "notes"), [d[1:] for d in DAMAGES], ids=[d[0] for d in DAMAGES])
def test_each_damage_is_refused_under_its_name_and_the_rest_is_kept(
    tmp_path: Path, data: bytes, kept: list[int], reasons: dict[str, int], notes: dict[str, int]
) -> None:
    for name, content in (("file.csv", data), ("file.csv.gz", gzip.compress(data))):
        parsed = read(tmp_path, content, name)
        assert hours(parsed) == kept
        assert parsed.refused_counts == reasons
        assert parsed.refused == sum(reasons.values())
        assert parsed.notes == notes
        assert {example.reason for example in parsed.refused_examples} == set(reasons)


def test_a_row_arrives_with_all_its_values(tmp_path: Path) -> None:
    parsed = read(tmp_path, lines(row(0), row(1, n=""), row(2)))
    assert parsed.candles.as_of.tolist() == [T0 + HOUR, T0 + 2 * HOUR, T0 + 3 * HOUR]
    assert astuple(parsed.candles[:1])[1:] == (10.0, 12.0, 9.0, 11.0, 1.5, 7)
    assert parsed.candles.trades.tolist() == [7, -1, 7]
    assert read(tmp_path, lines(six(0))).candles.trades.tolist() == [-1]


def test_named_columns_are_found_wherever_they_are(tmp_path: Path) -> None:
    for time in (str(T0), iso(0)):
        data = lines("trades,volume,close,low,high,open,date", f"7,1.5,11,9,12,10,{time}")
        assert astuple(read(tmp_path, data).candles) == (T0 + HOUR, 10.0, 12.0, 9.0, 11.0, 1.5, 7)


def test_an_unproven_last_trade_count_is_unknown(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD[:-1]).candles.trades.tolist() == [7, 7, -1]


def test_rows_are_sorted_with_their_values(tmp_path: Path) -> None:
    parsed = read(tmp_path, lines(row(2, v="2"), row(0, v="0"), row(1, v="1")))
    assert (hours(parsed), parsed.candles.volume.tolist()) == ([0, 1, 2], [0.0, 1.0, 2.0])


def test_examples_are_the_first_five_and_the_first_of_each_reason(tmp_path: Path) -> None:
    bad = [row(1, v="-1")] * 7 + [row(1, o="x" * 500), row(1, o="y"), "\x07é"]
    examples = read(tmp_path, lines(HEADER, row(0), *bad)).refused_examples
    assert [(e.line, e.reason) for e in examples] == [
        *[(line, "volume") for line in range(3, 8)],
        (10, "text"),
        (12, "too-few-columns"),
    ]
    assert examples[0].raw == row(1, v="-1")
    assert examples[5].raw == row(1, o="x" * 500)[:80]
    assert read(tmp_path, lines("first", row(0))).refused_examples[0].raw == "first"
    assert examples[6].raw == "\ufffdé"


@pytest.mark.parametrize("start", ["", "\n \n", "\ufeff"])
@pytest.mark.parametrize("bad", [row(1, v="-1"), row(1, v="x")], ids=["fast", "careful"])
def test_line_numbers_are_those_an_editor_shows(tmp_path: Path, start: str, bad: str) -> None:
    text = start + "\r\n".join([HEADER, row(0), bad, row(2), ""])
    example = read(tmp_path, text.encode()).refused_examples[0]
    assert example.line == 3 + start.count("\n")
    assert example.raw == bad


# --- whole files -------------------------------------------------------------------------------------------


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("XBTUSD_60.csv", GOOD)
    return buffer.getvalue()


REFUSED = [
    ("empty", b"", "nothing in it"),
    ("only blank lines", b"\n \r\n", "nothing in it"),
    ("only a BOM", b"\xef\xbb\xbf", "nothing in it"),
    ("only a header", HEADER.encode(), "nothing in it"),
    ("semicolons", GOOD.replace(b",", b";"), "semicolons"),
    ("semicolons and decimal commas", lines("1600002000;1,5;1,5;1,5;1,5;1,5"), "semicolons"),
    ("tabs", GOOD.replace(b",", b"\t"), "tabs"),
    ("bars", GOOD.replace(b",", b"|"), "bars"),
    ("spaces", GOOD.replace(b",", b" "), "spaces"),
    ("binary", bytes(range(256)) * 20, "binary"),
    ("UTF-16", GOOD.decode().encode("utf-16"), "UTF-16"),
    ("zip", zipped(), "unzip"),
    ("a web page", b"<!DOCTYPE html>\n<html>\n", "1 comma-separated column "),
    ("twelve columns", lines(row(0) + ",1,2,3,4,5"), "12 comma-separated columns"),
    ("Kraken's REST rows", lines(row(0) + ",1"), "8 comma-separated columns"),
    ("unknown header", b"Zeit,Auf,Hoch,Tief,Zu,Menge,Zahl\n" + GOOD, "unknown names (Zeit,Auf,Hoch"),
    ("header without volume", lines("ts,open,high,low,close", "1,2,3,4,5"), "no column named volume"),
    ("unknown header of six", lines("a,b,c,d,e,f", six(0)), "unknown names"),
    ("header of two known names", lines("ts,open,b,c,d,e", six(0)), "no column named high, low, close, volume"),
    ("header without time", lines("open,high,low,close,volume", "1,2,3,4,5"), "no column named time"),
    ("two times", lines("ts,date,open,high,low,close,volume"), "more than one time"),
    (
        "another header",
        lines(HEADER, row(0), "ts,open,close,high,low,volume,trades", row(1)),
        "another header in line 3",
    ),
    ("gzip of nothing", gzip.compress(b""), "nothing in it"),
    ("gzip cut in its header", gzip.compress(GOOD)[:9], "before any row"),
    ("gzip with a wrong checksum", gzip.compress(GOOD)[:-8] + bytes(8), "damaged"),
    ("gzip and garbage behind it", gzip.compress(GOOD) + b"garbage", "damaged"),
    ("parquet cut", b"PAR1" + bytes(100), "parquet"),
]


@pytest.mark.parametrize(("data", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_a_file_that_cannot_be_read_is_refused_with_the_cause(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(FileRefused) as refused:
        read(tmp_path, data)
    assert message in str(refused.value)
    assert "file.csv" in str(refused.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileRefused, match=r"nothere\.csv cannot be opened"):
        read_candle_file(tmp_path / "nothere.csv", HOUR, NOW)
    with pytest.raises(FileRefused, match="cannot be opened"):
        read_candle_file(tmp_path, HOUR, NOW)


@pytest.mark.parametrize(("step", "declared"), [(300, HOUR), (HOUR, 300), (86400, HOUR)])
def test_a_wrong_timeframe_is_seen_in_the_spacing(tmp_path: Path, step: int, declared: int) -> None:
    times = [T0 - T0 % 86400 + i * step for i in range(200)]
    data = lines(*[row(t=str(t)) for t in times if t % 7], row(t=str(T0 + 1)))
    with pytest.raises(FileRefused, match=f"every {step} s, not every {declared} s: pass --timeframe {step}"):
        read(tmp_path, data, timeframe_s=declared, now=10**10)
    assert len(read(tmp_path, data, timeframe_s=step, now=10**10).candles) == sum(t % 7 != 0 for t in times)


def test_a_whole_file_in_milliseconds_is_refused_row_by_row(tmp_path: Path) -> None:
    parsed = read(tmp_path, lines(*[row(t=f"{T0 + i * HOUR}000") for i in range(200)]))
    assert (len(parsed.candles), parsed.refused_counts) == (0, {"milliseconds": 200})


def test_few_rows_may_lie_far_apart(tmp_path: Path) -> None:
    assert hours(read(tmp_path, lines(*[row(i) for i in range(0, 200, 2)]))) == list(range(0, 200, 2))


# --- gzip --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_gzip_cut_short_keeps_what_came_before(tmp_path: Path, part: float) -> None:
    rng = np.random.default_rng(1)
    rows = [row(i, v=f"{rng.random():.12f}") for i in range(900)]
    packed = gzip.compress(lines(*rows))
    parsed = read(tmp_path, packed[: int(len(packed) * part)])
    kept = len(parsed.candles)
    assert abs(kept / 900 - part) < 0.15
    assert hours(parsed) == list(range(kept))
    assert parsed.refused_counts == {"gzip-truncated": 1}
    assert parsed.refused_examples[0].line == kept + 1
    assert rows[kept].startswith(parsed.refused_examples[0].raw)


def test_a_gzip_that_lost_only_its_checksum_is_still_reported(tmp_path: Path) -> None:
    parsed = read(tmp_path, gzip.compress(GOOD)[:-8])
    assert (hours(parsed), parsed.refused_counts) == ([0, 1, 2], {"gzip-truncated": 1})
    assert parsed.refused_examples[0].line == 4


def test_a_cut_gzip_refuses_even_a_last_line_that_looks_whole(tmp_path: Path) -> None:
    parsed = read(tmp_path, gzip.compress(GOOD[:-1])[:-8])
    assert (hours(parsed), parsed.refused_counts) == ([0, 1], {"gzip-truncated": 1})


def test_gzip_members_and_padding_are_read_to_the_end(tmp_path: Path) -> None:
    data = gzip.compress(lines(row(0))) + gzip.compress(lines(row(1))) + bytes(512)
    assert hours(read(tmp_path, data)) == [0, 1]


# --- the two ways agree ------------------------------------------------------------------------------------

LEGAL = ["", "0", "-0", "-1", "1.", ".5", "+3", "00012", "1e-8", "1E+5", "1e400", "1e-400", "9" * 19, "9" * 400]
TORN = ["-", "1e", "1-2", "1.5.2", ".", "e5"]
FINITE = st.floats(0, 1e12).map(repr) | st.decimals(0, 100, places=2).map(str) | st.sampled_from(LEGAL)
ANY = FINITE | st.sampled_from(TORN) | st.text("0123456789.+-eE", max_size=6)
HOURS = st.integers(0, 20).map(lambda hour: str(T0 + hour * HOUR))
INSTANTS = HOURS | st.integers(-(2**63), 2**63 - 1).map(str)
ROWS = st.integers(0, 20).map(lambda hour: row(hour).split(",")) | st.tuples(INSTANTS, *[FINITE] * 6)
TORN_ROWS = ROWS | st.tuples(INSTANTS | ANY, *[ANY] * 6)


@st.composite
def csv_texts(draw: st.DrawFn) -> bytes:
    """CSV that is odd in its values only, or torn in its numbers and lines as well."""
    width, torn = draw(st.sampled_from([6, 7])), draw(st.booleans())
    text = lines(*[",".join(r[:width]) for r in draw(st.lists(TORN_ROWS if torn else ROWS, min_size=1, max_size=8))])
    cut = draw(st.integers(1, len(text))) if torn else len(text)
    junk = draw(st.sampled_from(["", "\n", "\r\n", ",", "x\n", " ", '"', "1,2\n"])) if torn else ""
    return junk.encode() + text[:cut]


def outcome(data: bytes, folder: Path) -> tuple[object, ...]:
    try:
        parsed = read(folder, data)
    except FileRefused as refused:
        return (str(refused),)
    columns = [getattr(parsed.candles, name).tobytes() for name in CANDLE_FIELDS]
    return (*columns, parsed.refused_counts, parsed.refused_examples, parsed.notes)


@settings(max_examples=400, deadline=None)
@given(data=csv_texts())
def test_the_fast_path_and_the_careful_one_agree(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    taken: list[bool] = []
    fast = csv_rows._fast

    def watched(*args: object) -> object:
        rows = fast(*args)  # type: ignore[arg-type]
        taken.append(rows is not None)
        return rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_rows, "_fast", watched)
        quick = outcome(data, folder)
        patch.setattr(csv_rows, "_fast", lambda *_: None)
        assert outcome(data, folder) == quick
    event(f"fast: {taken}")


def test_a_clean_file_takes_the_fast_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "_careful", lambda *_: pytest.fail("read line by line"))
    for data in (GOOD, GOOD.replace(b"\n", b"\r\n"), HEADER.encode() + b"\n" + GOOD, GOOD[:-1], lines(six(0))):
        assert len(read(tmp_path, data).candles) in (1, 3)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300))
def test_no_bytes_crash_the_reader(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    outcome(data, tmp_path_factory.getbasetemp())
    outcome(GOOD + data, tmp_path_factory.getbasetemp())
    outcome(b"\x1f\x8b" + data, tmp_path_factory.getbasetemp())
    outcome(b"PAR1" + data, tmp_path_factory.getbasetemp())


@settings(max_examples=100, deadline=None)
@given(order=st.permutations([row(0), row(1), row(1), row(2), row(2, v="2"), row(3, v="-1"), row(3), row(4)]))
def test_what_is_kept_does_not_depend_on_the_order(order: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    parsed = read(tmp_path_factory.getbasetemp(), lines(*order))
    assert hours(parsed) == [0, 1, 3, 4]
    assert parsed.refused_counts == {"conflict": 2, "duplicate": 1, "volume": 1}


# --- candles of a venue ------------------------------------------------------------------------------------


def test_candles_of_a_venue_are_judged_in_their_order() -> None:
    as_of = [T0 + i * HOUR for i in (2, 1, 1, 3, 1001)]
    candles = Candles.from_columns([as_of, [10] * 5, [12] * 5, [9] * 5, [11] * 5, [1, 1, 1, float("nan"), 1], [-1] * 5])
    codes = reason_codes(candles, HOUR, NOW)
    assert (codes == KEPT).tolist() == [True, True, False, False, False]
    assert count_reasons(codes) == {"future": 1, "volume": 1, "duplicate": 1}
    assert reason_codes(Candles.empty(), HOUR, NOW).tolist() == []


# --- real files --------------------------------------------------------------------------------------------


def real(name: str) -> Path:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"{path} is not here (development data, not part of the project)")
    return path


def test_a_real_parquet_file_is_read_whole() -> None:
    parsed = read_candle_file(real("binance_BTC-USDT_5m.parquet"), 300, 1_800_000_000)
    assert (len(parsed.candles), parsed.refused, parsed.notes) == (424_546, 0, {})


def test_krakens_own_file_equals_the_parquet_of_the_same_candles() -> None:
    archive = read_candle_file(real("kraken_csv/XBTUSD_60.csv.gz"), HOUR, 1_800_000_000)
    table = read_candle_file(real("kraken_BTC-USD_1h.parquet"), HOUR, 1_800_000_000)
    assert (archive.refused, table.refused, len(archive.candles)) == (0, 0, 70_253)
    for name in CANDLE_FIELDS:
        np.testing.assert_array_equal(getattr(archive.candles, name), getattr(table.candles, name))
