"""What is kept between ticks is what would be read: whatever came, was revised or filled in meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from policy import candle_cache
from policy.candle_cache import newest_windows
from shared.clock import from_unix, to_unix
from shared.db import Database
from shared.market_data import read_candles
from shared.rows import CANDLE_FIELDS, Candles
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles

pytestmark = pytest.mark.usefixtures("rolled_back")

HOUR_S = 3600
WINDOW = 40 * HOUR_S
REVISE = """
WITH former AS (
    INSERT INTO candle_revisions (instrument_id, timeframe_s, as_of, open, high, low, close, volume, source,
                                  recorded_at, replaced_at)
    SELECT instrument_id, timeframe_s, as_of, open, high, low, close, volume, source, recorded_at, recorded_at
    FROM market_data WHERE instrument_id = %(id)s AND as_of = %(at)s)
UPDATE market_data SET close = low WHERE instrument_id = %(id)s AND as_of = %(at)s
"""


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Which instruments were read in full."""
    read: list[int] = []

    def noting(database: Database, instrument_id: int, *span: int) -> Candles:
        read.append(instrument_id)
        return read_candles(database, instrument_id, *span)

    monkeypatch.setattr(candle_cache, "read_candles", noting)
    return read


def test_a_window_is_read_once_and_again_only_where_it_changed(database_for: DatabaseFor, reads: list[int]) -> None:
    end = to_unix(NOON)
    made = random_candles(60, HOUR_S, end=end)
    a = store_candles(database_for, "test", "AAA/USDT", HOUR_S, made[10:50])
    b = store_candles(database_for, "test", "BBB/USDT", HOUR_S, made[np.r_[10:30, 31:50]])
    policy, owner = database_for("policy"), database_for("owner")

    def look(hour: int, expected: list[int]) -> None:
        """At the close of candle ``hour``: the same bits, and ``expected`` read in full."""
        until = int(made.as_of[hour])
        reads.clear()
        found = newest_windows(policy, [a, b], HOUR_S, until - WINDOW, until)
        assert reads == expected
        for id_, candles in zip((a, b), found, strict=True):
            whole = read_candles(policy, id_, HOUR_S, until - WINDOW, until)
            for name in CANDLE_FIELDS:
                np.testing.assert_array_equal(getattr(candles, name), getattr(whole, name))

    look(49, [a, b])
    look(49, [b])  # a series with a hole is never kept
    store_candles(database_for, "test", "AAA/USDT", HOUR_S, made[50:52])
    look(51, [b])
    store_candles(database_for, "test", "BBB/USDT", HOUR_S, made[30:31])
    look(51, [b])
    look(51, [])
    owner.execute(REVISE, {"id": a, "at": from_unix(int(made.as_of[45]))})
    look(51, [a])
    look(50, [a, b])  # a look back
    look(51, [])
    store_candles(database_for, "test", "AAA/USDT", HOUR_S, made[:10])
    look(49, [a, b])
    store_candles(database_for, "test", "AAA/USDT", HOUR_S, made[53:54])
    look(53, [])  # only what is new, and with it a hole
    store_candles(database_for, "test", "AAA/USDT", HOUR_S, made[52:53])
    look(53, [a])
    look(53, [])


def test_what_was_filled_in_before_the_first_is_seen(database_for: DatabaseFor, reads: list[int]) -> None:
    made = random_candles(30, HOUR_S, end=to_unix(NOON))
    a = store_candles(database_for, "test", "AAA/USDT", HOUR_S, made[20:])
    policy, until = database_for("policy"), to_unix(NOON)
    look: Callable[[], Candles] = lambda: newest_windows(policy, [a], HOUR_S, until - WINDOW, until)[0]  # noqa: E731
    assert (len(look()), len(look()), reads) == (10, 10, [a])
    store_candles(database_for, "test", "AAA/USDT", HOUR_S, made[:20])
    assert (len(look()), reads) == (30, [a, a])
    assert newest_windows(policy, [], HOUR_S, until - WINDOW, until) == []
