"""Kraken's zip, imported as it is: of thousands of members those that are wanted, and a word about the others."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from candles import candle_archive, csv_rows
from candles.import_csv import main
from shared.clock import from_unix
from shared.db import Database
from shared.settings import Settings, UniverseSettings
from tests.candles.damaged_csv import GOOD, NOW, lines, row
from tests.helpers import DatabaseFor

NAME = "Kraken_OHLCVT.zip"
FIVE_MINUTES = lines(*(row(t=str(1_600_002_000 + 300 * i)) for i in range(3)))
MEMBERS = {
    "Kraken_OHLCVT/": b"",
    "Kraken_OHLCVT/XBTUSDT_5.csv": FIVE_MINUTES,
    "Kraken_OHLCVT/XBTUSD_5.csv": FIVE_MINUTES,
    "Kraken_OHLCVT/XBTUSDT_60.csv": GOOD,
    "Kraken_OHLCVT/ETHUSD_5.csv": FIVE_MINUTES,
    "Kraken_OHLCVT/ETHUSD_1440.csv": b"not read",
    "Kraken_OHLCVT/DOTEUR_5.csv": b"not read",
    "Kraken_OHLCVT/readme.txt": b"not read",
    "__MACOSX/Kraken_OHLCVT/._XBTUSDT_5.csv": b"not read",
}
STORED = """SELECT symbol, timeframe_s, count(*) AS n FROM market_data m JOIN instruments i ON i.id = m.instrument_id
            WHERE venue = 'kraken' AND m.source NOT LIKE 'derived%%' GROUP BY 1, 2 ORDER BY 1, 2"""


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    universe = UniverseSettings(venue="kraken", symbols=("BTC/USDT", "ETH/USDT"))
    monkeypatch.setattr("shared.job.load_settings", lambda: settings.model_copy(update={"universe": universe}))
    return lambda *argv: main(["--at", from_unix(NOW).isoformat(), *map(str, argv)])


@pytest.fixture
def database(database_for: DatabaseFor) -> Database:
    return database_for("candles")


def pack(folder: Path, members: Mapping[str, bytes] = MEMBERS, method: int = zipfile.ZIP_DEFLATED) -> Path:
    path = folder / NAME
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def stored(database: Database) -> list[tuple[Any, ...]]:
    return [tuple(found.values()) for found in database.fetch(STORED)]


def last_run(database: Database) -> dict[str, Any]:
    (run,) = database.fetch("SELECT status, result, error FROM job_runs ORDER BY id DESC LIMIT 1")
    return run


def test_an_archive_gives_what_the_universe_names_and_tells_the_rest(
    run: Callable[..., int], database: Database, tmp_path: Path
) -> None:
    path = pack(tmp_path)
    assert run(path) == 0
    assert stored(database) == [("BTC/USDT", 300, 3), ("ETH/USD", 300, 3)]
    result = last_run(database)["result"]
    assert result[NAME] == {
        "members": 9,
        "taken": 2,
        "skipped": {"another symbol": 2, "another timeframe": 2, "its name says no series": 2},
        "stored_as": {"ETH/USDT": "ETH/USD"},
    }
    assert set(result) == {NAME, f"{NAME}/Kraken_OHLCVT/XBTUSDT_5.csv", f"{NAME}/Kraken_OHLCVT/ETHUSD_5.csv"}
    assert result[f"{NAME}/Kraken_OHLCVT/ETHUSD_5.csv"]["new"] == 3
    sources = database.fetch("SELECT DISTINCT source FROM market_data WHERE source NOT LIKE 'derived%' ORDER BY 1")
    assert sources[1]["source"] == f"file:{NAME}/Kraken_OHLCVT/XBTUSDT_5.csv"
    assert run(path) == 0
    assert last_run(database)["status"] == "nothing"


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        (["--symbol", "xbt/usd"], [("BTC/USD", 300, 3)]),
        (["--timeframe", "1h"], [("BTC/USDT", 3600, 3)]),
        (["--symbol", "BTC/USDT", "--timeframe", "60m"], [("BTC/USDT", 3600, 3)]),
        (["--all", "--symbol", "BTC/USDT"], [("BTC/USDT", 300, 3), ("BTC/USDT", 3600, 3)]),
        (["--all", "--timeframe", "1h"], [("BTC/USDT", 3600, 3)]),
    ],
)
def test_the_arguments_choose_other_members(
    run: Callable[..., int], database: Database, tmp_path: Path, arguments: list[str], taken: list[tuple[Any, ...]]
) -> None:
    assert run(pack(tmp_path), *arguments) == 0
    assert stored(database) == taken


def test_everything_is_taken_when_asked_for(run: Callable[..., int], database: Database, tmp_path: Path) -> None:
    sound = {name: data for name, data in MEMBERS.items() if data != b"not read"}
    assert run(pack(tmp_path, sound), "--all") == 0
    assert [found[:2] for found in stored(database)] == [
        ("BTC/USD", 300), ("BTC/USDT", 300), ("BTC/USDT", 3600), ("ETH/USD", 300),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("members", "arguments", "told"),
    [
        (MEMBERS, ["--symbol", "DOT/USD"], "2 its name says no series; nearest: Kraken_OHLCVT/DOTEUR_5.csv)"),
        (MEMBERS, ["--timeframe", "4h"], "kraken's 14400 s candles of BTC/USDT, ETH/USDT"),
        ({"SOLUSD_5.csv": b"", "XLMUSD_5.csv": b""}, ["--symbol", "SOOL/USD"], "nearest: SOLUSD_5.csv"),
        ({"binance_BTC-USDT_5m.csv": GOOD}, [], "1 of binance; nearest: binance_BTC-USDT_5m.csv"),
        ({"data.csv": GOOD}, [], "1 its name says no series; nearest: data.csv"),
        ({}, [], "of its 0 members: none; nearest: none"),
    ],
)
def test_when_nothing_matches_it_says_why_and_what_comes_near(
    run: Callable[..., int], database: Database, tmp_path: Path,
    members: Mapping[str, bytes], arguments: list[str], told: str,
) -> None:  # fmt: skip
    assert run(pack(tmp_path, members), *arguments) == 1
    error = last_run(database)["error"]
    assert f"{NAME} holds none of " in error
    assert told in error
    assert "--symbol, --timeframe, or take --all" in error


def test_the_venue_that_is_given_names_members_that_name_none(
    run: Callable[..., int], database: Database, tmp_path: Path
) -> None:
    assert run(pack(tmp_path, {"BTC-USDT_5m.csv.gz": gzip.compress(FIVE_MINUTES)}), "--venue", "kraken") == 0
    assert stored(database) == [("BTC/USDT", 300, 3)]


def test_the_parts_of_a_series_in_several_members_all_arrive(
    run: Callable[..., int], database: Database, tmp_path: Path
) -> None:
    first, second = FIVE_MINUTES.splitlines(keepends=True)[:2]
    assert run(pack(tmp_path, {"Q1/XBTUSDT_5.csv": first, "Q2/XBTUSDT_5.csv": second})) == 0
    assert stored(database) == [("BTC/USDT", 300, 2)]


# --- members that cannot be read ---------------------------------------------------------------------------


def damage(path: Path, member: str, at: int = 10) -> None:
    """Flips one byte inside a member's data."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(member)
    data = bytearray(path.read_bytes())
    data[info.header_offset + 30 + len(member) + at] ^= 0xFF
    path.write_bytes(data)


def claim_encrypted(path: Path, member: str) -> None:
    data = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        name = data.find(member.encode(), data.find(mark))
        start = data.rfind(mark, 0, name)
        data[start + flags] |= 1
    path.write_bytes(data)


BAD, OTHER = "XBTUSDT_5.csv", "ETHUSDT_5.csv"


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda path: damage(path, BAD), "damaged inside its zip archive (Bad CRC-32"),
        (lambda path: claim_encrypted(path, BAD), "encrypted: unzip it with its password"),
    ],
    ids=["damaged", "encrypted"],
)
def test_a_member_that_cannot_be_read_is_refused_and_the_others_arrive(
    run: Callable[..., int], database: Database, tmp_path: Path, harm: Callable[[Path], None], why: str
) -> None:
    path = pack(tmp_path, {BAD: FIVE_MINUTES, OTHER: FIVE_MINUTES}, zipfile.ZIP_STORED)
    harm(path)
    for _ in range(2):
        assert run(path) == 3
        assert stored(database) == [("ETH/USDT", 300, 3)]
        result = last_run(database)["result"][f"{NAME}/{BAD}"]
        assert result["refused"] == {"unreadable-file": 1}
        assert why in result["examples"][0]
        (kept,) = database.fetch("SELECT symbol, source, reason, raw FROM quarantine")
        assert tuple(kept.values())[:3] == ("BTC/USDT", f"file:{NAME}/{BAD}", "unreadable-file")
        assert why in kept["raw"]


def test_a_member_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    run: Callable[..., int], database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_rows, "MOST_BYTES", len(FIVE_MINUTES))
    path = pack(tmp_path, {BAD: b"0" * 10**6, OTHER: FIVE_MINUTES})
    assert run(path) == 3
    assert stored(database) == [("ETH/USDT", 300, 3)]
    assert "unpacks to 1,000,000 bytes" in last_run(database)["result"][f"{NAME}/{BAD}"]["examples"][0]


def test_a_gzip_that_unpacks_to_too_much_is_refused(
    run: Callable[..., int], database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "XBTUSDT_5.csv.gz"
    path.write_bytes(gzip.compress(FIVE_MINUTES[:70]) + gzip.compress(FIVE_MINUTES[70:]))
    monkeypatch.setattr(csv_rows, "MOST_BYTES", len(FIVE_MINUTES))
    assert run(path) == 0
    monkeypatch.setattr(csv_rows, "MOST_BYTES", len(FIVE_MINUTES) - 1)
    assert run(path) == 1
    assert f"unpacks to more than {len(FIVE_MINUTES) - 1} bytes" in last_run(database)["error"]


def test_an_archive_of_which_nothing_can_be_read_fails(
    run: Callable[..., int], database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(pack(tmp_path, {BAD: b"<html>", OTHER: b""})) == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert (
        f"none of the 2 members wanted of {NAME} can be read: {BAD} has 1 comma-separated"
        in json.loads(line)["message"]
    )
    assert run(pack(tmp_path, {BAD: b"rest"}).with_name("gone.zip")) == 1
    cut = pack(tmp_path)
    cut.write_bytes(cut.read_bytes()[:-40])
    assert run(cut) == 1
    assert "is a zip archive that cannot be opened" in last_run(database)["error"]


def test_bad_rows_of_a_member_are_quarantined_under_its_name(
    run: Callable[..., int], database: Database, tmp_path: Path
) -> None:
    assert run(pack(tmp_path, {BAD: FIVE_MINUTES + b"x\n"})) == 3
    (kept,) = database.fetch("SELECT source, line, reason, raw FROM quarantine")
    assert tuple(kept.values()) == (f"file:{NAME}/{BAD}", 4, "too-few-columns", "x")


def test_a_dollar_token_may_be_listed_against_the_dollar_and_nothing_else_may() -> None:
    assert candle_archive.spellings("BTC/USDT") == ["BTC/USDT", "BTC/USD"]
    assert candle_archive.spellings("BTC/USDC") == ["BTC/USDC", "BTC/USD"]
    assert candle_archive.spellings("BTC/USD") == ["BTC/USD"]
    assert candle_archive.spellings("BTC/EUR") == ["BTC/EUR"]
