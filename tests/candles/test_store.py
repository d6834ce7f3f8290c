"""What is new is stored, what changed is revised, and the coarser candles follow."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import Rollback

from candles import store
from candles.store import (
    Written,
    add_instrument,
    default_rules,
    delist,
    known_series,
    refresh_rules,
    write_candles,
)
from shared.clock import to_unix
from shared.db import Database, load_queries
from shared.job import JobError
from shared.market_data import read_candles
from shared.money import QUANTUM
from shared.rows import UNKNOWN_TRADES, Candles, Instrument, InstrumentRules
from tests.helpers import NOON, DatabaseFor, random_candles

pytestmark = pytest.mark.usefixtures("rolled_back")

HOUR = timedelta(hours=1)
NOW = NOON + HOUR / 2
FIVE, SIXTY = 300, 3600
ROWS = """
SELECT timeframe_s, extract(epoch FROM as_of)::bigint AS as_of, open, high, low, close, volume, trades, source,
       recorded_at
FROM market_data ORDER BY timeframe_s, as_of
"""


@pytest.fixture
def database(database_for: DatabaseFor) -> Database:
    return database_for("candles")


@pytest.fixture
def instrument(database: Database) -> Instrument:
    return add_instrument(database, "test", "AAA/USDT", FIVE, default_rules(100.0), "real", NOON)


def write(database: Database, instrument: Instrument, candles: Candles, at: datetime = NOW, **changes: Any) -> Written:
    arguments = {"timeframe_s": FIVE, "derive_to_s": SIXTY, "source": "test", "recorded_at": at} | changes
    return write_candles(database, instrument, candles=candles, **arguments)


def hours(database: Database) -> list[dict[str, Any]]:
    return [row for row in database.fetch(ROWS) if row["timeframe_s"] == SIXTY]


def candle(as_of: int, price: float, trades: int = UNKNOWN_TRADES) -> Candles:
    return Candles.from_columns([[as_of], [price], [price], [price], [price], [1.0], [trades]])


def changed(candles: Candles, row: int, close: float) -> Candles:
    """One candle again, with another close."""
    part = candles[row : row + 1]
    high, low = np.maximum(part.high, close), np.minimum(part.low, close)
    return Candles(part.as_of, part.open, high, low, np.array([close]), part.volume, part.trades)


def test_hours_are_derived_only_where_every_base_candle_is_there(database: Database, instrument: Instrument) -> None:
    candles = random_candles(36, FIVE)  # 09:00 to 12:00
    without = np.delete(np.arange(36), 17)  # 10:30
    assert write(database, instrument, candles[without]) == Written(35, 0)
    nine, eleven = hours(database)
    assert [nine["as_of"], eleven["as_of"]] == [to_unix(NOON) - 2 * SIXTY, to_unix(NOON)]
    last = candles[24:]
    assert (eleven["open"], eleven["high"], eleven["low"], eleven["close"], eleven["source"]) == (
        last.open[0], last.high.max(), last.low.min(), last.close[-1], "derived:300",
    )  # fmt: skip
    assert eleven["volume"] == pytest.approx(last.volume.sum(), rel=1e-12)
    assert eleven["recorded_at"] == NOW


def test_a_late_candle_completes_an_older_hour(database: Database, instrument: Instrument) -> None:
    candles = random_candles(36, FIVE)
    write(database, instrument, candles[np.delete(np.arange(36), 5)])
    assert len(hours(database)) == 2
    later, newest = NOW + HOUR, int(candles.as_of[-1])
    assert write(database, instrument, candles[5:6], at=later, newest=newest) == Written(1, 0)
    first, *others = hours(database)
    assert first["as_of"] == int(candles.as_of[11])
    assert (first["open"], first["close"]) == (candles.open[0], candles.close[11])
    assert first["recorded_at"] == later
    assert [row["recorded_at"] for row in others] == [NOW, NOW]


def test_candle_by_candle_gives_the_same_rows_as_all_at_once(database: Database, instrument: Instrument) -> None:
    other = add_instrument(database, "test", "BBB/USDT", FIVE, default_rules(100.0), "real", NOON)
    candles = random_candles(30, FIVE, end=to_unix(NOON) + 4 * FIVE)
    write(database, instrument, candles)
    for n in range(len(candles)):
        write(database, other, candles[n : n + 1], newest=int(candles.as_of[n]))
    for timeframe_s in (FIVE, SIXTY):
        one, two = (read_candles(database, i.id, timeframe_s, 0, to_unix(NOW)) for i in (instrument, other))
        assert len(one) == {FIVE: 30, SIXTY: 2}[timeframe_s]
        for name in Candles.__slots__:
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_a_revised_candle_revises_its_hour_and_no_other(database: Database, instrument: Instrument) -> None:
    candles = random_candles(36, FIVE)
    write(database, instrument, candles)
    before = hours(database)
    assert write(database, instrument, changed(candles, 14, 500.0), at=NOW + HOUR) == Written(0, 1)
    after = hours(database)
    assert (after[1]["high"], after[1]["recorded_at"]) == (500.0, NOW + HOUR)
    assert (after[1]["open"], after[1]["close"]) == (before[1]["open"], before[1]["close"])
    assert [after[0], after[2]] == [before[0], before[2]]


def test_a_derived_hour_never_replaces_the_venues_own(database: Database, instrument: Instrument) -> None:
    own = candle(to_unix(NOON), 42.0)
    write(database, instrument, own, timeframe_s=SIXTY, source="venue")
    candles = random_candles(12, FIVE)
    write(database, instrument, candles)
    write(database, instrument, changed(candles, 3, 500.0))
    (hour,) = hours(database)
    assert (hour["close"], hour["high"], hour["source"]) == (42.0, 42.0, "venue")


def test_the_venues_own_hour_replaces_a_derived_one(database: Database, instrument: Instrument) -> None:
    write(database, instrument, random_candles(12, FIVE))
    own = candle(to_unix(NOON), 42.0)
    assert write(database, instrument, own, timeframe_s=SIXTY, source="venue") == Written(0, 1)
    (hour,) = hours(database)
    assert (hour["close"], hour["source"]) == (42.0, "venue")


@pytest.mark.parametrize(("off", "revised"), [(1 + 5e-10, 0), (1 - 5e-10, 0), (1 + 2e-9, 1), (1 - 2e-9, 1)])
def test_volumes_that_differ_by_rounding_only_are_no_revision_of_a_derived_hour(
    database: Database, instrument: Instrument, off: float, revised: int
) -> None:
    write(database, instrument, random_candles(12, FIVE))
    (derived,) = hours(database)
    columns = [[to_unix(NOON)], *([derived[n]] for n in ("open", "high", "low", "close"))]
    own = Candles.from_columns([*columns, [derived["volume"] * off], [-1]])
    assert write(database, instrument, own, timeframe_s=SIXTY, source="venue") == Written(0, revised)
    (hour,) = hours(database)
    assert hour["source"] == ("venue" if revised else "derived:300")
    assert write(database, instrument, own, timeframe_s=SIXTY, source="venue") == Written()
    again = changed_volume(own, 1 + 1e-10)
    assert write(database, instrument, again, timeframe_s=SIXTY, source="venue") == Written(0, revised)


def test_a_file_never_replaces_what_the_venue_itself_gave_but_another_file_does(
    database: Database, instrument: Instrument
) -> None:
    candles = random_candles(3, FIVE)
    other = changed(candles, 2, 500.0)
    write(database, instrument, candles, source="file:a.csv")
    assert write(database, instrument, other, source="file:b.csv") == Written(0, 1)
    assert write(database, instrument, candles, source="venue") == Written(0, 1)
    assert write(database, instrument, other, source="file:c.csv") == Written(kept=1)
    assert write(database, instrument, candles, source="file:c.csv") == Written()
    assert {row["high"] for row in database.fetch(ROWS)} == set(candles.high.tolist())


def changed_volume(candles: Candles, factor: float) -> Candles:
    return replace(candles, volume=candles.volume * factor)


def test_writing_twice_changes_nothing(database: Database, instrument: Instrument) -> None:
    candles = random_candles(40, FIVE)
    assert write(database, instrument, candles) == Written(40, 0)
    before = database.fetch(ROWS)
    assert write(database, instrument, candles, at=NOW + HOUR, source="other") == Written()
    assert database.fetch(ROWS) == before


def test_unknown_trades_are_null_and_come_back_unknown(database: Database, instrument: Instrument) -> None:
    as_of, price = to_unix(NOON) + FIVE * np.arange(-11, 1), np.full(12, 100.0)
    trades = np.array([UNKNOWN_TRADES, 0, 7, *[1] * 9])
    candles = Candles.from_columns([as_of, price, price, price, price, price, trades])
    write(database, instrument, candles)
    rows = database.fetch(ROWS)
    assert [row["trades"] for row in rows] == [None, 0, 7, *[1] * 9, None]  # the hour's are unknown with them
    assert read_candles(database, instrument.id, FIVE, 0, to_unix(NOON)).trades.tolist() == trades.tolist()
    assert read_candles(database, instrument.id, SIXTY, 0, to_unix(NOON)).trades.tolist() == [UNKNOWN_TRADES]


def test_the_callers_transaction_holds_it_all(database: Database, instrument: Instrument) -> None:
    with database.transaction():
        write(database, instrument, random_candles(24, FIVE))
        assert len(database.fetch(ROWS)) == 26
        raise Rollback
    assert database.fetch(ROWS) == []


def test_many_candles_go_in_parts_whose_borders_cut_no_hour(
    database: Database, instrument: Instrument, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "ROWS_A_STATEMENT", 30)
    steps: list[int] = []
    written = write(database, instrument, random_candles(66, FIVE), advance=steps.append)  # from 06:30 to 12:00
    assert (written, steps) == (Written(66, 0), [18, 24, 24])
    assert len(hours(database)) == 5


def test_a_part_spans_no_more_than_its_rows_would_without_gaps(
    database: Database, instrument: Instrument, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a few candles far apart would have everything stored between them read."""
    monkeypatch.setattr(store, "ROWS_A_STATEMENT", 12)
    candles, steps = random_candles(1000, FIVE), []
    write(database, instrument, candles[[0, 1, 500, 999]], advance=steps.append)
    assert steps == [2, 1, 1]


@pytest.mark.parametrize("order", [[1, 0], [0, 0]])
def test_candles_out_of_order_or_repeated_are_refused(
    database: Database, instrument: Instrument, order: list[int]
) -> None:
    with pytest.raises(ValueError, match="AAA/USDT are not in order, or one is there twice"):
        write(database, instrument, random_candles(2, FIVE)[np.array(order)])


def test_a_clock_set_back_revises_too(database: Database, instrument: Instrument) -> None:
    candles = random_candles(2, FIVE)
    write(database, instrument, candles, at=NOW + HOUR)
    assert write(database, instrument, changed(candles, 0, 500.0), at=NOW) == Written(0, 1)
    row = database.fetch_one("SELECT recorded_at, replaced_at FROM candle_revisions")
    assert row == {"recorded_at": NOW + HOUR, "replaced_at": NOW + HOUR}


@pytest.mark.parametrize("timeframe_s", [SIXTY, 4 * SIXTY, 1500])
def test_nothing_is_derived_from_what_the_decision_clock_is_not_made_of(
    database: Database, instrument: Instrument, timeframe_s: int
) -> None:
    candles = random_candles(10, timeframe_s, end=to_unix(NOON) // timeframe_s * timeframe_s)
    assert write(database, instrument, candles, timeframe_s=timeframe_s) == Written(10, 0)
    assert {(row["timeframe_s"], row["source"]) for row in database.fetch(ROWS)} == {(timeframe_s, "test")}


def test_a_known_instrument_keeps_its_rules_and_takes_the_finest_timeframe(database: Database) -> None:
    def add(timeframe_s: int, price: float) -> Instrument:
        return add_instrument(database, "test", "CCC/USDT", timeframe_s, default_rules(price), "real", NOON)

    first = add(SIXTY, 100.0)
    finer, coarser = add(FIVE, 0.1), add(4 * SIXTY, 0.1)
    assert (first.base_timeframe_s, finer.base_timeframe_s, coarser.base_timeframe_s) == (SIXTY, FIVE, FIVE)
    assert (first.id, first.tick_size, first.lot_size) == (coarser.id, coarser.tick_size, coarser.lot_size)
    assert len(database.fetch("SELECT FROM instruments")) == 1


def test_known_series_tell_their_last_close(database: Database, instrument: Instrument) -> None:
    write(database, instrument, random_candles(3, FIVE))
    ask = ["AAA/USDT", "ZZZ/USDT"]
    assert known_series(database, "test", ask, FIVE, "real") == {"AAA/USDT": (instrument, to_unix(NOON))}
    assert known_series(database, "test", ask, SIXTY, "real") == {"AAA/USDT": (instrument, None)}
    assert known_series(database, "elsewhere", ask, FIVE, "real") == {}


@pytest.mark.parametrize(
    ("price", "tick", "lot"),
    [
        (50_000.0, "0.01", "0.00001"),
        (3_000.0, "0.001", "0.0001"),
        (1.0, "0.000001", "0.1"),
        (0.5, "0.0000001", "1"),
        (1e-5, "0.00000001", "10000"),
    ],
)
def test_the_rules_of_a_file_follow_from_the_decade_of_its_price(price: float, tick: str, lot: str) -> None:
    rules = default_rules(price)
    assert (rules.tick_size, rules.lot_size, rules.min_notional) == (Decimal(tick), Decimal(lot), Decimal(10))


@given(st.floats(1e-5, 1e7))
def test_a_lot_is_worth_at_most_one_and_a_tick_is_fine(price: float) -> None:
    rules, exact = default_rules(price), Decimal(price)
    for size in (rules.tick_size, rules.lot_size):
        assert size == size.quantize(QUANTUM) > 0  # as NUMERIC(28,8) holds it
    assert rules.lot_size * exact <= max(1, QUANTUM * exact)
    assert rules.tick_size <= max(exact * Decimal("1.000001e-6"), QUANTUM)  # the logarithm rounds


def test_real_and_simulated_candles_of_one_series_never_mix(database: Database, instrument: Instrument) -> None:
    with pytest.raises(JobError, match="stored here are real, these are simulated, and they never mix"):
        known_series(database, "test", [instrument.symbol], FIVE, "simulated")
    with pytest.raises(JobError, match="SEXTANT_HOME"):
        add_instrument(database, "test", instrument.symbol, 60, default_rules(1.0), "simulated", NOW)
    again = add_instrument(database, "test", instrument.symbol, FIVE, default_rules(1.0), "real", NOW)
    assert again == instrument, "a refused one changes nothing"


def test_the_venues_rules_of_today_take_the_place_of_guessed_ones(database: Database, instrument: Instrument) -> None:
    assert refresh_rules(database, instrument, default_rules(100.0), NOW) == instrument
    finer = InstrumentRules(Decimal("0.1"), Decimal("0.002"), Decimal(5), Decimal("0.01"), "post_only")
    refreshed = refresh_rules(database, instrument, finer, NOW)
    assert {name: getattr(refreshed, name) for name in asdict(finer)} == asdict(finer)
    assert known_series(database, "test", [instrument.symbol], FIVE, "real")[instrument.symbol][0] == refreshed
    assert database.fetch_rows(Instrument, load_queries("candles")["instruments_of"], {"venue": "test"}) == [refreshed]
    assert shared_instruments(database, instrument.symbol) == [refreshed]


def shared_instruments(database: Database, symbol: str) -> list[Instrument]:
    """As all other layers read them."""
    find = load_queries("shared")["find_instruments"]
    return database.fetch_rows(Instrument, find, {"venue": "test", "symbols": [symbol]})


VERSIONS = """
SELECT min_quantity, status, recorded_at FROM instrument_rules WHERE instrument_id = %(id)s ORDER BY recorded_at
"""


def test_every_change_of_the_rules_is_a_version_and_no_change_is_none(
    database: Database, instrument: Instrument
) -> None:
    rules = replace(default_rules(100.0), min_quantity=Decimal("0.01"))
    changed = refresh_rules(database, instrument, rules, NOW)
    assert refresh_rules(database, changed, rules, NOW + HOUR) == changed
    assert database.fetch("SELECT recorded_at FROM instruments") == [{"recorded_at": NOW}]
    gone = delist(database, changed, NOW + 2 * HOUR)
    assert delist(database, gone, NOW + 3 * HOUR) == gone
    assert gone == replace(changed, status="delisted")
    assert [tuple(row.values()) for row in database.fetch(VERSIONS, {"id": instrument.id})] == [
        (Decimal(0), "online", NOON), (Decimal("0.01"), "online", NOW), (Decimal("0.01"), "delisted", NOW + 2 * HOUR),
    ]  # fmt: skip


def test_a_clock_that_was_set_back_makes_no_rule_older_than_it_is(database: Database, instrument: Instrument) -> None:
    delist(database, instrument, NOON - HOUR)
    assert [tuple(row.values()) for row in database.fetch(VERSIONS, {"id": instrument.id})] == [
        (Decimal(0), "delisted", NOON)
    ]
