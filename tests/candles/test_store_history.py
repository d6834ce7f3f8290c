"""What the table and candle_revisions say after any writes, at once or one after the other, whole or broken off."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from candles import store
from candles.store import Written, add_instrument, default_rules, write_candles
from shared.clock import to_unix
from shared.db import Database, role_url
from shared.rows import UNKNOWN_TRADES, Candles, Instrument
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor, random_candles

HALF, HOUR = 1800, 3600
START = to_unix(NOON) - 24 * HOUR
NOW = NOON + timedelta(hours=1)

STORED = """
SELECT timeframe_s, extract(epoch FROM as_of)::bigint AS as_of, open, high, low, close, volume, trades, source,
       recorded_at
FROM market_data WHERE instrument_id = %s ORDER BY timeframe_s, as_of
"""
REVISED = """
SELECT timeframe_s, extract(epoch FROM as_of)::bigint AS as_of, open, high, low, close, volume, trades, source,
       recorded_at, replaced_at
FROM candle_revisions WHERE instrument_id = %s ORDER BY timeframe_s, as_of, id
"""
WAITING = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

Key = tuple[int, int]  # timeframe_s, as_of


@dataclass(frozen=True, slots=True)
class Row:
    numbers: tuple[float, ...]  # open, high, low, close, volume
    trades: int | None
    source: str
    recorded_at: datetime

    @property
    def derived(self) -> bool:
        return self.source.startswith("derived:")

    @property
    def rank(self) -> int:
        return 0 if self.derived else 1 if self.source.startswith("file:") else 2


@dataclass
class Model:
    """The same as dicts, one candle at a time."""

    rows: dict[Key, Row] = field(default_factory=dict)
    revisions: list[tuple[Key, Row, datetime]] = field(default_factory=list)

    def write(self, timeframe_s: int, candles: list[tuple[int, Row]]) -> Written:
        outcomes = [self.write_one((timeframe_s, as_of), row) for as_of, row in candles]
        if timeframe_s == HALF:
            changed = {-(-as_of // HOUR) for (as_of, _), outcome in zip(candles, outcomes, strict=True)
                       if outcome in ("new", "revised")}  # fmt: skip
            for hour in sorted(changed):
                self.derive(hour * HOUR, candles[0][1].recorded_at)
        return Written(outcomes.count("new"), outcomes.count("revised"), outcomes.count("kept"))

    def write_one(self, key: Key, row: Row) -> str:
        former = self.rows.get(key)
        if former is None:
            self.rows[key] = row
            return "new"
        row = replace(row, trades=former.trades if row.trades is None else row.trades)
        if (row.numbers, row.trades) == (former.numbers, former.trades):
            return ""
        alike = (row.numbers[:4], row.trades) == (former.numbers[:4], former.trades)
        rounded = abs(row.numbers[4] - former.numbers[4]) <= 1e-9 * former.numbers[4]
        if former.derived != row.derived and alike and rounded:
            return ""
        if row.rank < former.rank:
            return "kept"
        self.revisions.append((key, former, row.recorded_at))
        self.rows[key] = row
        return "revised"

    def derive(self, hour: int, at: datetime) -> None:
        parts = [self.rows.get((HALF, as_of)) for as_of in (hour - HALF, hour)]
        first, second = parts
        if first is None or second is None:
            return
        (open_, high, low, _, volume), (_, high_2, low_2, close, volume_2) = first.numbers, second.numbers
        numbers = (open_, max(high, high_2), min(low, low_2), close, volume + volume_2)
        trades = None if first.trades is None or second.trades is None else first.trades + second.trades
        self.write_one((HOUR, hour), Row(numbers, trades, f"derived:{HALF}", at))


@pytest.fixture
def database(database_for: DatabaseFor) -> Database:
    return database_for("candles")


@pytest.fixture
def other(settings: Settings) -> Iterator[Database]:
    """A second connection of the same role."""
    database = Database(role_url(settings, "candles"))
    yield database
    database.close()


@pytest.fixture
def instrument(database: Database) -> Instrument:
    return new_instrument(database)


def new_instrument(database: Database) -> Instrument:
    (row,) = database.fetch("SELECT count(*) FROM instruments")
    symbol = f"A{row['count']}/USDT"
    return add_instrument(database, "test", symbol, HALF, default_rules(100.0), "real", NOON)


def write(database: Database, to: Instrument, candles: Candles, **changes: Any) -> Written:
    arguments = {"timeframe_s": HALF, "derive_to_s": HOUR, "source": "test", "recorded_at": NOW} | changes
    return write_candles(database, to, candles=candles, **arguments)


def contents(database: Database, instrument: Instrument) -> tuple[list[Any], list[Any]]:
    stored, revised = (database.fetch(query, [instrument.id]) for query in (STORED, REVISED))
    return [tuple(row.values()) for row in stored], [tuple(row.values()) for row in revised]


def flat(key: Key, row: Row) -> tuple[Any, ...]:
    return (*key, *row.numbers, row.trades, row.source, row.recorded_at)


@st.composite
def writes(draw: st.DrawFn) -> tuple[int, str, list[tuple[int, tuple[float, ...], int | None]]]:
    """Some slots of eight hours, half-hourly or hourly, each at one of few prices, so that many are equal."""
    timeframe_s = draw(st.sampled_from([HALF, HALF, HOUR]))
    slots = sorted(draw(st.sets(st.integers(1, 8 * HOUR // timeframe_s), min_size=1)))
    shapes = st.sampled_from([(2.0, 4.0, 1.0, 2.0, 1.0), (2.0, 4.0, 1.0, 2.0, 2.0), (2.0, 5.0, 1.0, 2.0, 1.0)])
    trades = st.sampled_from([None, None, 3, 6])
    rows = [(START + slot * timeframe_s, draw(shapes), draw(trades)) for slot in slots]
    return timeframe_s, draw(st.sampled_from(["test", "file:x"])), rows


@examples(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(history=st.lists(writes(), min_size=1, max_size=6), size=st.sampled_from([3, 100]))
def test_any_writes_leave_the_table_of_a_dict_and_every_former_value(
    database: Database, history: list[Any], size: int
) -> None:
    to, model = new_instrument(database), Model()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store, "ROWS_A_STATEMENT", size)
        for n, (timeframe_s, source, rows) in enumerate(history):
            at = NOW + timedelta(minutes=n)
            candles = Candles.from_columns(
                [[as_of for as_of, _, _ in rows], *zip(*(numbers for _, numbers, _ in rows), strict=True),
                 [UNKNOWN_TRADES if trades is None else trades for *_, trades in rows]]
            )  # fmt: skip
            expected = model.write(timeframe_s, [(t, Row(numbers, k, source, at)) for t, numbers, k in rows])
            assert write(database, to, candles, timeframe_s=timeframe_s, source=source, recorded_at=at) == expected
    stored, revised = contents(database, to)
    assert stored == [flat(key, row) for key, row in sorted(model.rows.items(), key=lambda item: item[0])]
    in_order = sorted(model.revisions, key=lambda revision: revision[0])
    assert revised == [(*flat(key, row), at) for key, row, at in in_order]


def test_the_sign_of_zero_is_a_difference(database: Database, instrument: Instrument) -> None:
    candles = replace(random_candles(1, HALF), volume=np.array([0.0]))
    write(database, instrument, candles)
    assert write(database, instrument, replace(candles, volume=np.array([-0.0]))) == Written(0, 1)


@pytest.mark.parametrize("unequal", [False, True])
def test_a_writer_waits_for_the_one_before_and_sees_what_it_wrote(
    database: Database, other: Database, instrument: Instrument, unequal: bool
) -> None:
    both = random_candles(50, HALF)
    first, second = both[10:], random_candles(50, HALF, seed=int(unequal))[:40]
    results: list[Written] = []
    late = threading.Thread(target=lambda: results.append(write(other, instrument, second, source="late")))
    with database.transaction():
        write(database, instrument, first)
        late.start()
        deadline = time.monotonic() + 10
        while not database.fetch(WAITING):
            assert time.monotonic() < deadline, "the second writer does not wait"
            time.sleep(0.005)
    late.join(10)
    assert results == [Written(new=10, revised=30 if unequal else 0)]
    same = new_instrument(database)
    write(database, same, first)
    write(database, same, second, source="late")
    assert contents(database, instrument) == contents(database, same)


def test_two_writers_at_once_end_like_one_after_the_other(
    database: Database, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "ROWS_A_STATEMENT", 8)
    spans = [random_candles(40, HALF, seed=1), random_candles(40, HALF, seed=2, end=to_unix(NOON) + HOUR // 2)]
    for _ in range(5):
        to, start, failures = new_instrument(database), threading.Barrier(2), []

        def work(own: Database, n: int, to: Any = to, start: Any = start, failures: Any = failures) -> None:
            start.wait(10)
            try:
                write(own, to, spans[n], source=f"writer {n}")
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(own, n)) for n, own in enumerate((database, other))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert failures == []
        orders = []
        for order in ((0, 1), (1, 0)):
            same = new_instrument(database)
            for n in order:
                write(database, same, spans[n], source=f"writer {n}")
            orders.append(contents(database, same))
        assert contents(database, to) in orders


@pytest.mark.parametrize("dies_in", ["advance", "derive_candles", "copy_candles"])
def test_a_write_that_fails_midway_leaves_nothing_of_it(
    database: Database, instrument: Instrument, monkeypatch: pytest.MonkeyPatch, dies_in: str
) -> None:
    monkeypatch.setattr(store, "ROWS_A_STATEMENT", 4)
    write(database, instrument, random_candles(20, HALF, seed=1))
    before, calls = contents(database, instrument), []
    original = getattr(store, dies_in, len)

    def dies_at_the_third(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise MemoryError("no more")
        return original(*arguments) if dies_in != "advance" else None

    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        changes: dict[str, Any] = {"advance": dies_at_the_third} if dies_in == "advance" else {}
        if not changes:
            patched.setattr(store, dies_in, dies_at_the_third)
        write(database, instrument, random_candles(40, HALF, seed=2, end=to_unix(NOON) + 10 * HALF), **changes)
    assert contents(database, instrument) == before
    assert len(before[0]) == 30


def heard(connection: psycopg.Connection[Any]) -> list[str]:
    return sorted(message.payload for message in connection.notifies(timeout=0.2))


def test_who_listens_is_told_what_was_written_and_nothing_else(
    database: Database, other: Database, instrument: Instrument
) -> None:
    other.execute("LISTEN candles")
    candles, last = random_candles(5, HALF), to_unix(NOON)
    write(database, instrument, candles[:4], newest=int(candles.as_of[3]))
    name = instrument.id
    assert heard(other.connection) == [f"{name}:{HALF}:{last - HALF}", f"{name}:{HOUR}:{last - HOUR}"]
    write(database, instrument, candles[:4])
    assert heard(other.connection) == []
    with database.transaction():
        write(database, instrument, candles[4:])
        assert heard(other.connection) == []
    assert heard(other.connection) == [f"{name}:{HALF}:{last}", f"{name}:{HOUR}:{last}"]
    with database.transaction():
        write(database, instrument, random_candles(5, HALF, seed=1))
        raise psycopg.Rollback
    assert heard(other.connection) == []
    revised = replace(candles[:1], volume=candles.volume[:1] + 1)
    write(database, instrument, revised)
    assert heard(other.connection) == [f"{name}:{HALF}:{last - 4 * HALF}"]
