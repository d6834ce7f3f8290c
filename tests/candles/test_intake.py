"""What is refused is kept, once, with its reason: a venue's candle, a file's line, a million lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from candles import candle_files
from candles.candle_files import read_candle_file
from candles.import_csv import main
from candles.intake import Refused, admit, quarantine
from shared.clock import from_unix
from shared.db import Database
from shared.rows import Candles
from shared.settings import Settings
from tests.candles.damaged_csv import GOOD, HOUR, NOW, T0, lines, row
from tests.helpers import DatabaseFor

KEPT = "SELECT venue, symbol, timeframe_s, source, line, reason, raw, recorded_at FROM quarantine ORDER BY id"
AT = from_unix(NOW)


@pytest.fixture
def database(database_for: DatabaseFor) -> Database:
    return database_for("candles")


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr("shared.job.load_settings", lambda: settings)
    return lambda *argv: main(["--at", AT.isoformat(), *map(str, argv)])


def kept(database: Database) -> list[tuple[Any, ...]]:
    return [tuple(found.values()) for found in database.fetch(KEPT)]


def venue_candles() -> Candles:
    """Hours 0 to 3: sound, without a price, sound, not over yet."""
    as_of = [T0 + HOUR, T0 + 2 * HOUR, T0 + 3 * HOUR, NOW + HOUR]
    return Candles.from_columns([as_of, [10, 0, 10, 10], [12] * 4, [9] * 4, [11] * 4, [1.5] * 4, [-1] * 4])


# --- a venue's candles -------------------------------------------------------------------------------------


def test_what_a_venue_gave_is_let_in_or_quarantined_with_its_reason(database: Database) -> None:
    sound, refused = admit(database, "kraken", "BTC/USD", HOUR, venue_candles(), AT)
    assert sound.as_of.tolist() == [T0 + HOUR, T0 + 3 * HOUR]
    assert refused == {"price": 1, "future": 1}
    series = ("kraken", "BTC/USD", HOUR, "kraken", None)
    raw = f"as_of={T0 + 2 * HOUR} open=0.0 high=12.0 low=9.0 close=11.0 volume=1.5 trades=-1"
    assert kept(database)[0] == (*series, "price", raw, AT)
    assert [found[5] for found in kept(database)] == ["price", "future"]
    admit(database, "kraken", "BTC/USD", HOUR, venue_candles(), AT)
    assert len(kept(database)) == 2, "the same answer again"


def test_sound_candles_leave_nothing_in_the_quarantine(database: Database) -> None:
    sound, refused = admit(database, "kraken", "BTC/USD", HOUR, venue_candles()[:1], AT)
    assert (len(sound), refused, kept(database)) == (1, {}, [])


def test_any_text_can_be_quarantined_and_long_ones_are_cut(database: Database) -> None:
    refused = [Refused("text", "\x00 a \ud800 b \n"), Refused("text", "x" * 300, line=2)]
    assert quarantine(database, "kraken", "BTC/USD", HOUR, "kraken", refused, AT) == 2
    assert [found[6] for found in kept(database)] == ["\ufffd a \ufffd b \ufffd", "x" * 200]
    assert quarantine(database, "kraken", "BTC/USD", HOUR, "kraken", [*refused, Refused("text", "new")], AT) == 1
    assert quarantine(database, "kraken", "BTC/USD", HOUR, "kraken", [], AT) == 0


# --- the rows of a file ------------------------------------------------------------------------------------


def test_every_refused_row_of_a_file_is_kept_once_with_its_line(
    run: Callable[..., int], database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "binance_BTC-USDT_1h.csv"
    path.write_bytes(lines(row(0), row(1, v="-1"), row(2), "what", row(3, o="x" * 300), *[row(4)] * 8))
    assert run(path) == 3
    bad = [(2, "volume", row(1, v="-1")), (4, "too-few-columns", "what"), (5, "text", row(3, o="x" * 300)[:200])]
    bad += [(line, "duplicate", row(4)) for line in range(7, 14)]
    series = ("binance", "BTC/USDT", HOUR, "file:binance_BTC-USDT_1h.csv")
    assert kept(database) == [(*series, *found, AT) for found in bad]
    assert run(path) == 3
    assert len(kept(database)) == len(bad), "importing it again keeps nothing twice"


def test_a_file_without_a_sound_row_is_quarantined_too(
    run: Callable[..., int], database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "binance_BTC-USDT_1h.csv"
    path.write_bytes(lines(row(0, v="-1")))
    assert run(path) == 3
    assert [found[4:6] for found in kept(database)] == [(1, "volume")]
    assert database.fetch("SELECT * FROM instruments") == []


def test_the_quarantine_shares_the_transaction_of_the_file(
    run: Callable[..., int], database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise MemoryError

    path = tmp_path / "binance_BTC-USDT_1h.csv"
    path.write_bytes(GOOD + lines(row(3, v="-1")))
    monkeypatch.setattr("candles.import_csv.write_candles", fails)
    assert run(path) == 1
    assert kept(database) == []


def test_of_a_reason_with_very_many_rows_the_first_are_kept_and_the_rest_counted(
    run: Callable[..., int], database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candle_files, "MOST_OF_A_REASON", 5)
    monkeypatch.setattr(candle_files, "ROWS_A_BATCH", 2)
    path = tmp_path / "binance_BTC-USDT_1h.csv"
    path.write_bytes(lines(row(0), *[row(h, v="-1") for h in range(1, 9)], *["x"] * 5))
    for _ in range(2):
        assert run(path) == 3
        assert [found[4:7] for found in kept(database)] == [
            *[(line, "volume", row(line - 1, v="-1")) for line in range(2, 7)],
            *[(line, "too-few-columns", "x") for line in range(10, 15)],
            (None, "volume", "and 3 more rows of this file"),
        ]


def test_very_many_bad_rows_cost_little_beyond_their_text(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_bytes(GOOD + b"x,1\n" * 50_000 + lines(row(3, v="-1")) * 5)
    parsed = read_candle_file(path, HOUR, NOW)
    assert parsed.refused_counts == {"too-few-columns": 50_000, "volume": 5}
    held = [parsed.refused_rows.lines, parsed.refused_rows.codes]
    assert sum(column.nbytes for column in held) == 9 * 50_005
    batches = list(parsed.refused_rows.batches())
    assert max(map(len, batches)) == 1_000
    assert sum(map(len, batches)) == 10_000 + 5 + 1
    assert batches[-1] == [Refused("too-few-columns", "and 40000 more rows of this file")]
    numbers = np.array([found.line for batch in batches[:-1] for found in batch])
    assert (np.diff(numbers) > 0).all()
    assert numbers[[0, -1]].tolist() == [4, 50_008]
