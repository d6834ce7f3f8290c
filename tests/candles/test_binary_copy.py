"""The bytes that numpy makes are those that PostgreSQL would write itself."""

from __future__ import annotations

import dataclasses
from datetime import datetime

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from candles.binary_copy import LARGEST_INTEGER, copy_candles, encode_candles
from candles.store import add_instrument, default_rules
from shared.clock import from_unix
from shared.db import Database, DatabaseError
from shared.rows import UNKNOWN_TRADES, Candles
from tests.helpers import NOON, DatabaseFor, random_candles

STEP = 300
AT = NOON.replace(microsecond=123_456)
OWN_BYTES = """
COPY (SELECT instrument_id, timeframe_s, as_of, open, high, low, close, volume, trades, recorded_at, source
      FROM market_data WHERE instrument_id = %s ORDER BY trades IS NULL, as_of) TO STDOUT (FORMAT BINARY)
"""


@pytest.fixture
def database(database_for: DatabaseFor) -> Database:
    return database_for("candles")


def new_instrument(database: Database) -> int:
    row = database.fetch_one("SELECT count(*) FROM instruments")
    assert row is not None
    symbol = f"A{row['count']}/USDT"
    return add_instrument(database, "test", symbol, STEP, default_rules(100.0), "real", NOON).id


def own_bytes(database: Database, instrument_id: int) -> bytes:
    with database.connection.cursor() as cursor, cursor.copy(OWN_BYTES, [instrument_id]) as copy:
        return b"".join(bytes(part) for part in copy)


@st.composite
def sound_candles(draw: st.DrawFn) -> Candles:
    """Up to five candles between 1970 and 2024 of any price a double can hold, trades known or not."""
    slots = sorted(draw(st.sets(st.integers(1, 5_000_000), max_size=5)))
    prices = st.floats(5e-324, 1.7e308, allow_nan=False)
    rows = []
    for slot in slots:
        low, open_, close, high = sorted(draw(st.tuples(prices, prices, prices, prices)))
        volume = draw(st.one_of(st.just(-0.0), st.floats(0, 1.7e308)))
        trades = draw(st.one_of(st.just(UNKNOWN_TRADES), st.integers(0, LARGEST_INTEGER)))
        rows.append((slot * STEP, open_, high, low, close, volume, trades))
    return Candles.from_columns(list(zip(*rows, strict=True))) if rows else Candles.empty()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(candles=sound_candles(), source=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9))
def test_they_are_byte_for_byte_what_postgresql_gives_back(database: Database, candles: Candles, source: str) -> None:
    instrument_id = new_instrument(database)
    copy_candles(database, instrument_id, STEP, candles, source, AT)
    assert own_bytes(database, instrument_id) == encode_candles(instrument_id, STEP, candles, source, AT)


def test_times_and_unknown_trades_arrive_as_meant(database: Database) -> None:
    instrument_id = new_instrument(database)
    candles = dataclasses.replace(random_candles(3, STEP), trades=np.array([7, UNKNOWN_TRADES, 0]))
    copy_candles(database, instrument_id, STEP, candles, "file:x.csv", AT)
    rows = database.fetch("SELECT * FROM market_data ORDER BY as_of")
    assert [row["as_of"] for row in rows] == [from_unix(t) for t in candles.as_of.tolist()]
    assert [row["trades"] for row in rows] == [7, None, 0]
    assert [row["close"] for row in rows] == candles.close.tolist()
    assert {(row["source"], row["recorded_at"]) for row in rows} == {("file:x.csv", AT)}


def test_a_number_of_trades_beyond_the_column_is_refused_not_wrapped() -> None:
    candles = dataclasses.replace(random_candles(1, STEP), trades=np.array([LARGEST_INTEGER + 1]))
    with pytest.raises(ValueError, match="a candle of 2147483648 trades: market_data holds at most 2147483647"):
        encode_candles(1, STEP, candles, "test", AT)


def test_a_candle_that_breaks_a_rule_of_the_table_stops_them_all(database: Database) -> None:
    instrument_id, good = new_instrument(database), random_candles(3, STEP)
    bad = dataclasses.replace(good, low=good.high + 1)
    with pytest.raises(DatabaseError, match="high_and_low_bound_the_candle"):
        copy_candles(database, instrument_id, STEP, Candles.concatenate([good, bad]), "test", AT)
    assert database.fetch("SELECT FROM market_data") == []
    copy_candles(database, instrument_id, STEP, good, "test", AT)
    with pytest.raises(DatabaseError, match="market_data_pkey"):
        copy_candles(database, instrument_id, STEP, good[1:2], "test", AT)


def test_microseconds_of_the_recording_are_kept(database: Database) -> None:
    at: list[datetime] = []
    for microsecond in (0, 1, 999_999):
        copy_candles(
            database,
            new_instrument(database),
            STEP,
            random_candles(1, STEP),
            "t",
            NOON.replace(microsecond=microsecond),
        )
        at.append(NOON.replace(microsecond=microsecond))
    assert [row["recorded_at"] for row in database.fetch("SELECT recorded_at FROM market_data ORDER BY 1")] == at
