"""The rules of today: every known instrument is asked about, and no trouble with one is another's."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import timedelta
from decimal import Decimal

import pytest

from candles.refresh_rules import run_once
from candles.store import add_instrument, default_rules
from shared.clock import ReplayClock
from shared.db import Database
from shared.exchanges.protocol import ExchangeError, NotListed
from shared.exchanges.recorded import RecordedExchange
from shared.job import JobError, Outcome
from shared.rows import InstrumentRules
from tests.helpers import NOON, DatabaseFor

pytestmark = pytest.mark.usefixtures("rolled_back")

A, B, C = "AAA/USDT", "BBB/USDT", "CCC/USDT"
LATER = NOON + timedelta(days=1)
RULES = default_rules(100.0)
KEPT = "SELECT tick_size, lot_size, min_notional, min_quantity, status FROM instruments WHERE symbol = %(symbol)s"


class Venue(RecordedExchange):
    """Tells ``told`` of each symbol, or raises it."""

    def __init__(self) -> None:
        super().__init__("test", "real", 300, {}, {})
        self.told: dict[str, InstrumentRules | ExchangeError] = {A: RULES, B: RULES, C: RULES}

    def rules(self, symbol: str) -> InstrumentRules:
        told = self.told[symbol]
        if isinstance(told, ExchangeError):
            raise told
        return told


@pytest.fixture
def database(database_for: DatabaseFor) -> Database:
    database = database_for("candles")
    for symbol in (A, B, C):
        add_instrument(database, "test", symbol, 300, RULES, "real", NOON)
    add_instrument(database, "other", A, 300, RULES, "real", NOON)
    return database


@pytest.fixture
def venue() -> Venue:
    return Venue()


def refresh(database: Database, venue: Venue) -> Outcome:
    return run_once(ReplayClock(LATER), database, venue)


def kept(database: Database, symbol: str) -> list[InstrumentRules]:
    """Of all venues."""
    return [InstrumentRules(**row) for row in database.fetch(KEPT + " ORDER BY venue", {"symbol": symbol})]


def alerts(database: Database) -> dict[str, str]:
    return {row["key"]: row["message"] for row in database.fetch("SELECT key, message FROM alerts ORDER BY key")}


def test_what_changed_is_written_down_once_and_versioned(database: Database, venue: Venue) -> None:
    assert refresh(database, venue).status == "nothing"
    coarser = InstrumentRules(Decimal("0.5"), Decimal("0.01"), Decimal(25), Decimal("0.02"))
    venue.told[A] = coarser
    assert refresh(database, venue).result == {"changed": [A], "delisted": [], "failed": {}}
    assert kept(database, A) == [RULES, coarser], "the other venue's stay as they are"
    assert refresh(database, venue).status == "nothing"
    versions = "SELECT r.recorded_at, r.lot_size FROM instrument_rules r JOIN instruments i ON i.id = instrument_id "
    versions += "WHERE venue = 'test' AND symbol = %(symbol)s ORDER BY 1"
    rows = [tuple(row.values()) for row in database.fetch(versions, {"symbol": A})]
    assert rows == [(NOON, RULES.lot_size), (LATER, Decimal("0.01"))]
    assert not alerts(database), "new steps are no news for anybody"


def test_a_delisted_symbol_is_marked_told_and_stops_nobody(database: Database, venue: Venue) -> None:
    venue.told |= {A: NotListed("gone"), C: replace(RULES, status="reduce_only")}
    assert refresh(database, venue).result == {"changed": [C], "delisted": [A], "failed": {}}
    assert kept(database, A)[1] == replace(RULES, status="delisted")
    assert kept(database, C) == [replace(RULES, status="reduce_only")]
    assert alerts(database) == {
        f"market-delisted:test:{A}": f"test {A} was online and is delisted: look at its position",
        f"market-reduce_only:test:{C}": f"test {C} was online and is reduce_only: look at its position",
    }
    assert refresh(database, venue).status == "nothing"
    venue.told[A] = RULES
    assert refresh(database, venue).result["changed"] == [A]
    assert kept(database, A)[1] == RULES


def test_trouble_is_no_delisting(database: Database, venue: Venue) -> None:
    huge = replace(RULES, min_quantity=Decimal("1e25"))
    venue.told |= {A: ExchangeError("no answer", kind="timeout"), B: huge, C: replace(RULES, min_notional=Decimal(7))}
    outcome = refresh(database, venue)
    assert outcome.result["changed"] == [C]
    assert sorted(outcome.result["failed"]) == [A, B]
    assert "cannot be stored" in outcome.result["failed"][B]
    assert kept(database, A)[1] == kept(database, B)[0] == RULES


def test_a_venue_that_tells_nothing_at_all_is_a_failure(database: Database, venue: Venue) -> None:
    venue.told = {symbol: ExchangeError("no answer", kind="timeout") for symbol in venue.told}
    with pytest.raises(JobError, match="test told no rules at all"):
        refresh(database, venue)
    assert asdict(kept(database, B)[0]) == asdict(RULES)


def test_an_emulator_never_speaks_about_the_real_venues_rules(database: Database, venue: Venue) -> None:
    venue.provenance = "simulated"
    venue.told = {symbol: NotListed("gone") for symbol in venue.told}
    assert refresh(database, venue).status == "nothing"
    assert kept(database, B) == [RULES]
