"""Importing a file: its good rows arrive, its bad ones are named, and nothing is ever half-written."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from candles import store
from candles.import_csv import main
from shared.clock import from_unix
from shared.db import Database
from shared.settings import PROJECT, Settings
from tests.candles.damaged_csv import GOOD, HEADER, HOUR, NOW, T0, lines, row, six
from tests.helpers import DatabaseFor

NAME = "binance_BTC-USDT_1h.csv"
HOURS = "SELECT (extract(epoch FROM as_of)::bigint - 3600 - %(t0)s) / 3600 AS hour FROM market_data ORDER BY 1"
TABLES = ("instruments", "market_data")

# Acceptance line 7: each damage once, in one file, with the reason under which it must be refused.
DAMAGED: list[tuple[str, str]] = [
    (row(1, h="8", l="9", o="8", c="8"), "high-low"),
    (row(2, o="12.1"), "open-close"),
    (row(3, c="8.9"), "open-close"),
    (row(4, o="0"), "price"),
    (row(5, h="-1"), "price"),
    (row(6, l="NaN"), "price"),
    (row(7, c="inf"), "price"),
    (row(8, c=""), "price"),
    (row(9, v="-0.1"), "volume"),
    (row(10, h="1 2"), "text"),
    (row(11, v="abc"), "text"),
    (six(12), "too-few-columns"),
    (row(13) + ",1", "too-many-columns"),
    (row(0), "duplicate"),
    (row(30), "conflict"),
    (row(30, v="2"), "conflict"),
    (row(14, t=str(T0 + 14 * HOUR + 1)), "off-grid"),
    (row(1000), "future"),
    (row(15, t=f"{T0 + 15 * HOUR}000"), "milliseconds"),
    (HEADER, "header"),
]
TRUNCATED = row(999)[:25]
KEPT = [0, 20, 21, 22, 23, 998]
EXPECTED = {"high-low": 1, "open-close": 2, "price": 5, "volume": 1, "text": 2, "too-few-columns": 1,
            "too-many-columns": 1, "duplicate": 1, "conflict": 2, "off-grid": 1, "future": 1, "milliseconds": 1,
            "header": 1, "truncated": 1}  # fmt: skip


def everything_damaged() -> bytes:
    """A BOM, a header, CRLF, rows out of order, every damage, and a last line that was cut."""
    good = [row(0), row(998), row(22), row(21), row(20), row(23)]
    text = "".join(f"{line}\r\n" for line in [HEADER, *good, *(line for line, _ in DAMAGED)]) + TRUNCATED
    return b"\xef\xbb\xbf" + text.encode()


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command itself, on this test's database, as if it were NOW."""
    monkeypatch.setattr("shared.job.load_settings", lambda: settings)
    return lambda *argv: main(["--at", from_unix(NOW).isoformat(), *map(str, argv)])


@pytest.fixture
def database(database_for: DatabaseFor) -> Database:
    return database_for("candles")


def put(folder: Path, data: bytes, name: str = NAME) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def hours(database: Database) -> list[int]:
    return [row["hour"] for row in database.fetch(HOURS, {"t0": T0})]


def last_run(database: Database) -> dict[str, Any]:
    (run,) = database.fetch("SELECT job, layer, status, result, error FROM job_runs ORDER BY id DESC LIMIT 1")
    return run


def contents(database: Database) -> list[list[dict[str, Any]]]:
    return [database.fetch(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in TABLES]  # type: ignore[arg-type]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_file_with_every_damage_keeps_its_good_rows_and_names_the_bad(
    run: Callable[..., int], database: Database, tmp_path: Path, packed: bool
) -> None:
    data = everything_damaged()
    path = put(tmp_path, gzip.compress(data), NAME + ".gz") if packed else put(tmp_path, data)
    assert run(path) == 3
    assert hours(database) == KEPT
    assert sum(EXPECTED.values()) == len(DAMAGED) + 1
    job = last_run(database)
    assert (job["job"], job["layer"], job["status"], job["error"]) == ("import_csv", "candles", "refused", None)
    result = job["result"][path.name]
    assert result["refused"] == EXPECTED
    assert (result["new"], result["unchanged"], result["notes"]["out-of-order"]) == (6, 0, 4)
    named = {example.split(": ")[1] for example in result["examples"]}
    assert named == set(EXPECTED)
    for line, (text, reason) in enumerate(DAMAGED, start=8):  # a header and six good rows come first
        if f"line {line}: " in "\n".join(result["examples"]):
            assert f"line {line}: {reason}: {text}" in result["examples"]


def test_a_gzip_cut_short_gives_what_came_before_the_cut(
    run: Callable[..., int], database: Database, tmp_path: Path
) -> None:
    data = lines(*(row(hour, v=str(hour * 1.37)) for hour in range(900)))
    packed = gzip.compress(data)
    path = put(tmp_path, packed[: len(packed) // 2], NAME + ".gz")
    assert run(path) == 3
    found = hours(database)
    assert 100 < len(found) < 800
    assert found == list(range(len(found)))
    assert last_run(database)["result"][path.name]["refused"] == {"gzip-truncated": 1}


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "there is nothing in it"),
        (b"\n\n", "there is nothing in it"),
        (GOOD.replace(b",", b";"), "semicolons"),
        (GOOD.replace(b",", b"\t"), "tab"),
        (b"PK\x03\x04rest", "zip archive"),
        (lines("name,price", "a,1"), "column"),
    ],
    ids=["empty", "blank", "semicolons", "tabs", "zip", "another table"],
)
def test_a_file_that_cannot_be_read_is_refused_as_a_whole_with_the_cause(
    run: Callable[..., int], database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    data: bytes, cause: str,
) -> None:  # fmt: skip
    path = put(tmp_path, data)
    assert run(path) == 1
    assert contents(database) == [[], []]
    job = last_run(database)
    assert job["status"] == "failed"
    assert path.name in job["error"]
    assert cause in job["error"]
    (line,) = capsys.readouterr().err.splitlines()
    assert cause in json.loads(line)["message"]
    assert "exception" not in json.loads(line), "a cause that has a name needs no traceback"


def test_a_clean_file_is_imported_once_and_the_second_time_nothing_is_new(
    run: Callable[..., int], database: Database, tmp_path: Path
) -> None:
    path = put(tmp_path, GOOD)
    assert run(path) == 0
    result = last_run(database)["result"][NAME]
    assert (result["new"], result["revised"], result["unchanged"]) == (3, 0, 0)
    assert result["series"] == "binance BTC/USDT 3600 s"
    assert result["span"] == f"{from_unix(T0 + HOUR)} to {from_unix(T0 + 3 * HOUR)}"
    assert last_run(database)["status"] == "done"
    before = contents(database)
    assert len(before[1]) == 3
    assert run(path) == 0
    job = last_run(database)
    assert (job["status"], job["result"][NAME]["new"], job["result"][NAME]["unchanged"]) == ("nothing", 0, 3)
    assert contents(database) == before


def test_a_damaged_file_again_is_refused_again_and_changes_nothing(
    run: Callable[..., int], database: Database, tmp_path: Path
) -> None:
    path = put(tmp_path, everything_damaged())
    run(path)
    before = contents(database)
    assert run(path) == 3
    assert contents(database) == before
    assert last_run(database)["result"][NAME]["refused"] == EXPECTED


def test_a_corrected_file_revises_what_it_corrects(run: Callable[..., int], database: Database, tmp_path: Path) -> None:
    run(put(tmp_path, GOOD))
    assert run(put(tmp_path, lines(row(0), row(1, c="10.5"), row(2)))) == 0
    result = last_run(database)["result"][NAME]
    assert (result["new"], result["revised"], result["unchanged"]) == (0, 1, 2)
    assert [r["close"] for r in database.fetch("SELECT close FROM market_data ORDER BY as_of")] == [11.0, 10.5, 11.0]


def test_a_process_that_fails_in_the_middle_leaves_nothing_of_the_file(
    run: Callable[..., int], database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, upsert, batches = put(tmp_path, GOOD), store._upsert, []

    def dies_at_the_second(*arguments: Any) -> store.Written:
        batches.append(arguments)
        if len(batches) == 2:
            raise MemoryError("no more")
        return upsert(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(store, "ROWS_A_STATEMENT", 2)
        patched.setattr(store, "_upsert", dies_at_the_second)
        assert run(path) == 1
    assert len(batches) == 2
    assert contents(database) == [[], []]
    job = last_run(database)
    assert (job["status"], job["error"]) == ("failed", "MemoryError: no more")
    assert run(path) == 0
    assert hours(database) == [0, 1, 2]


def test_one_unreadable_file_does_not_undo_the_one_before(
    run: Callable[..., int], database: Database, tmp_path: Path
) -> None:
    good, empty = put(tmp_path, GOOD), put(tmp_path, b"", "binance_ETH-USDT_1h.csv")
    assert run(good, empty) == 1
    assert hours(database) == [0, 1, 2]


def test_two_files_of_one_name_are_both_told(run: Callable[..., int], database: Database, tmp_path: Path) -> None:
    folders = tmp_path / "a", tmp_path / "b"
    for folder in folders:
        folder.mkdir()
    paths = put(folders[0], lines(row(0), row(1))), put(folders[1], lines(row(1)))
    assert run(*paths) == 0
    job = last_run(database)
    assert (job["status"], [result["new"] for result in job["result"].values()]) == ("done", [2, 0])


def instrument(database: Database) -> tuple[Any, ...]:
    (found,) = database.fetch("SELECT venue, symbol, base_timeframe_s, provenance FROM instruments")
    return tuple(found.values())


def test_the_arguments_say_whose_candles_where_the_name_does_not(
    run: Callable[..., int], database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = put(tmp_path, GOOD, "data.csv")
    assert run(path) == 1
    assert "data.csv does not say its venue, symbol, timeframe" in capsys.readouterr().err
    assert run(path, "--venue", "kraken", "--symbol", "xbt/usd", "--timeframe", "60m") == 0
    assert instrument(database) == ("kraken", "BTC/USD", 3600, "real")


@pytest.mark.parametrize(
    ("name", "found"),
    [("XBTUSD_60.csv", ("kraken", "BTC/USD", 3600, "real")), (NAME, ("binance", "BTC/USDT", 3600, "real"))],
)
def test_the_name_says_whose_candles_they_are(
    run: Callable[..., int], database: Database, tmp_path: Path, name: str, found: tuple[Any, ...]
) -> None:
    assert run(put(tmp_path, GOOD, name)) == 0
    assert instrument(database) == found


def test_finer_candles_bring_their_hours_with_them(run: Callable[..., int], database: Database, tmp_path: Path) -> None:
    five = lines(*(row(t=str(T0 + k * 300), v=str(k)) for k in range(13)))
    assert run(put(tmp_path, five, "binance_BTC-USDT_5m.csv")) == 0
    found = database.fetch("SELECT source, open, close, volume, trades FROM market_data WHERE timeframe_s = 3600")
    assert found == [{"source": "derived:300", "open": 10.0, "close": 11.0, "volume": 66.0, "trades": 84}]


def test_the_command_by_its_name_ends_with_the_code_that_it_means(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    path = put(tmp_path, everything_damaged())
    command = [sys.executable, "-m", "candles.import_csv", path, "--at", from_unix(NOW).isoformat()]
    environment = os.environ | {"SEXTANT_HOME": str(settings.home), "DB_NAME": settings.db_name}  # noqa: TID251
    finished = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 3, finished.stderr
    told = json.loads(finished.stderr.splitlines()[-1])
    assert (told["message"], told[NAME]["refused"]) == ("refused", EXPECTED)
    assert hours(database) == KEPT


@pytest.mark.parametrize(("name", "known"), [("XBTUSD_60.csv", True), ("kraken_BTC-USD_1h.csv", False)])
def test_what_krakens_own_download_lacks_is_known_to_be_without_trades(
    run: Callable[..., int], database: Database, tmp_path: Path, name: str, known: bool
) -> None:
    held = "\n".join(row(hour) for hour in (0, 1, 4, 5, 9)) + "\n"
    path = put(tmp_path, held.encode(), name)
    assert run(path) == 0
    gaps = database.fetch("SELECT missing, finding FROM candle_gaps ORDER BY after")
    assert gaps == [{"missing": n, "finding": "none" if known else None} for n in (2, 3)]
    assert last_run(database)["result"][name].get("holes_without_trades") == (5 if known else None)
    assert run(path) == 0
    assert database.fetch("SELECT count(*) FROM gap_checks") == [{"count": 2 if known else 0}]


def test_a_download_with_refused_rows_proves_no_hole(
    run: Callable[..., int], database: Database, tmp_path: Path
) -> None:
    path = put(tmp_path, "\n".join([row(0), row(1, c="0"), row(2), ""]).encode(), "XBTUSD_60.csv")
    assert run(path) == 3
    assert database.fetch("SELECT missing, finding FROM candle_gaps") == [{"missing": 1, "finding": None}]
