"""make data-quality: what is wrong with stored candles is counted, shown, and told where a person must act."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from candles.derive import derive_candles
from candles.intake import Refused, quarantine
from candles.quality import main, run_once
from candles.quality_report import Report, SeriesQuality, as_text, duration, move
from shared.clock import ReplayClock, from_unix, to_unix
from shared.db import Database
from shared.job import JobError
from shared.rows import Candles
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles

FIVE, SIXTY = 300, 3600
ADD_CHECK = """INSERT INTO gap_checks (instrument_id, timeframe_s, after, until, finding, recorded_at)
               VALUES (%(id)s, %(step)s, %(after)s, %(until)s, 'none', %(until)s)"""
ADD_REVISION = """
INSERT INTO candle_revisions (instrument_id, timeframe_s, as_of, open, high, low, close, volume, source, recorded_at,
                              replaced_at)
SELECT instrument_id, timeframe_s, as_of, open * %(price)s, high * %(price)s, low * %(price)s, close * %(price)s,
       volume * %(volume)s, source, recorded_at, recorded_at
FROM market_data WHERE instrument_id = %(id)s AND timeframe_s = %(step)s AND as_of = %(at)s
"""
GAPS = "SELECT after, until, missing FROM candle_gaps WHERE instrument_id = %(id)s ORDER BY after"
ALERTS = "SELECT severity, key, message FROM alerts ORDER BY id"
CLEAN = {
    "gaps": 0, "gaps_known": 0, "missing": 0, "outliers": 0, "spikes": 0, "stuck": 0, "zero_volume": 0,
    "revisions": 0, "revisions_of_rounding": 0, "duplicates": 0, "quarantined": 0, "differ_from_finer": 0,
    "stopped": 0,
}  # fmt: skip


@pytest.fixture
def database(database_for: DatabaseFor) -> Database:
    return database_for("candles")


def look(database: Database, now: datetime = NOON, **arguments: Any) -> Report:
    seen: list[Report] = []
    outcome = run_once(ReplayClock(now), database, show=seen.append, **arguments)
    assert outcome.result["gaps"] == seen[0].totals()["gaps"]
    return seen[0]


def only(report: Report) -> SeriesQuality:
    (series,) = report.series
    return series


def without(candles: Candles, *missing: int) -> Candles:
    return candles[np.setdiff1d(np.arange(len(candles)), missing)]


def at(candles: Candles, index: int) -> datetime:
    return from_unix(int(candles.as_of[index]))


def changed(candles: Candles, where: int, **factors: float) -> Candles:
    columns = {name: getattr(candles, name).copy() for name in factors}
    for name, factor in factors.items():
        columns[name][where] *= factor
    return replace(candles, **columns)


# --- everything at once ------------------------------------------------------------------------------------


def damaged(candles: Candles) -> Candles:
    """Two holes of 3 candles in all, a spike, a jump that stays, five candles alike, two without volume."""
    columns = {name: getattr(candles, name).copy() for name in Candles.__slots__}
    for name in ("open", "high", "low", "close"):
        columns[name][500] *= 10
        columns[name][1200:] *= 1.5
        columns[name][900:905] = columns[name][900]
    columns["volume"][[50, 60]] = 0
    return without(Candles(**columns), 1500, 1501, 1700)


def test_injected_bad_candles_are_all_found_and_counted(database_for: DatabaseFor, database: Database) -> None:
    whole = random_candles(2000, FIVE)
    bad = damaged(whole)
    id_ = store_candles(database_for, "binance", "BTC/USDT", FIVE, bad)
    hours = derive_candles(bad, FIVE, SIXTY)
    hours = changed(changed(changed(hours, 3, high=2), 4, volume=1 + 1e-6), 5, volume=1 + 1e-12)
    store_candles(database_for, "binance", "BTC/USDT", SIXTY, hours)
    ask = {"id": id_, "step": FIVE, "after": at(whole, 1698), "until": at(whole, 1701)}
    database.execute(ADD_CHECK, ask)
    for price, volume, where in ((1.02, 1, 10), (1.01, 1, 10), (1, 2, 20), (1, 1 + 1e-12, 30)):
        revised = {"id": id_, "step": FIVE, "price": price, "volume": volume, "at": at(whole, where)}
        assert database.execute(ADD_REVISION, revised) == 1
    refused = [Refused("duplicate", "a", 1), Refused("conflict", "b", 2), Refused("conflict", "c", 3)]
    quarantine(database, "binance", "BTC/USDT", FIVE, "file:a.csv", [*refused, Refused("price", "d", 4)], NOON)

    report = look(database)
    assert report.totals() == {
        "series": 2, "candles": 1997 + len(hours), "gaps": 2 + 2, "gaps_known": 1, "missing": 3 + 2, "outliers": 1 + 1,
        "spikes": 1 + 2, "stuck": 1, "zero_volume": 2, "revisions": 3, "revisions_of_rounding": 1, "duplicates": 3,
        "quarantined": 4, "differ_from_finer": 2, "stopped": 0,
    }  # fmt: skip
    five = report.series[0]
    assert (five.name, five.rows, five.first, five.last) == ("binance BTC/USDT 5m", 1997, at(whole, 0), NOON)
    assert (five.gaps.count, five.gaps.missing, five.gaps.known) == (2, 3, 1)
    assert (five.gaps.share, five.gaps.longest, five.gaps.longest_after) == (3 / 2000, 2, at(whole, 1499))
    assert [event.at for event in five.spikes.worst] == [at(whole, 500)]
    assert [event.at for event in five.outliers.worst] == [at(whole, 1200)]
    assert [(event.at, event.size) for event in five.stuck.worst] == [(at(whole, 904), 5.0)]
    assert (five.zero_volume, five.stopped) == (2, False)
    assert five.refused == {"conflict": 2, "duplicate": 1, "price": 1}
    assert five.revisions.largest_volume_change == 0.5
    sizes = [(event.at, pytest.approx(event.size)) for event in five.revisions.worst]
    assert sizes == [(at(whole, 10), 1 - 1 / 1.01), (at(whole, 10), 1 - 1.01 / 1.02)], "each against what followed"
    (compared,) = report.timeframes
    assert (compared.found.prices_differ, compared.found.volumes_differ) == (1, 1)
    assert compared.found.common == len(hours)


def test_a_clean_series_has_nothing_to_tell(database_for: DatabaseFor, database: Database) -> None:
    candles = random_candles(2000, FIVE)
    store_candles(database_for, "binance", "BTC/USDT", FIVE, candles)
    store_candles(database_for, "binance", "BTC/USDT", SIXTY, derive_candles(candles, FIVE, SIXTY))
    report = look(database)
    assert report.totals() == {"series": 2, "candles": 2166, **CLEAN}
    assert (report.venues, report.alerts, database.fetch(ALERTS)) == ([], [], [])


# --- gaps --------------------------------------------------------------------------------------------------


def test_gaps_are_those_of_the_view(database_for: DatabaseFor, database: Database) -> None:
    missing = np.random.default_rng(1).choice(np.arange(1, 499), 100, replace=False)
    candles = without(random_candles(500, FIVE), *missing)
    id_ = store_candles(database_for, "binance", "BTC/USDT", FIVE, candles)
    view = database.fetch(GAPS, {"id": id_})
    gaps = only(look(database)).gaps
    assert (gaps.count, gaps.missing) == (len(view), 100) == (len(view), sum(gap["missing"] for gap in view))
    assert gaps.longest == max(gap["missing"] for gap in view)


def test_a_span_sees_only_what_lies_in_it(database_for: DatabaseFor, database: Database) -> None:
    whole = random_candles(400, FIVE)
    id_ = store_candles(database_for, "binance", "BTC/USDT", FIVE, without(whole, 100, 200, 300))
    for where in (150, 250):
        revised = {"id": id_, "step": FIVE, "price": 2, "volume": 1, "at": at(whole, where)}
        database.execute(ADD_REVISION, revised)
    seen = only(look(database, span_from=at(whole, 100), span_to=at(whole, 300)))
    assert (seen.first, seen.last, seen.rows) == (at(whole, 101), at(whole, 299), 198)
    assert (seen.gaps.count, seen.revisions.count) == (1, 2)
    seen = only(look(database, span_from=at(whole, 99), span_to=at(whole, 301)))
    assert (seen.rows, seen.gaps.count) == (199, 2), "a hole needs both its ends in the span"
    seen = only(look(database, span_from=at(whole, 98), span_to=at(whole, 249)))
    assert (seen.rows, seen.gaps.count, seen.revisions.count) == (149, 2, 1)


def test_unexplained_gaps_of_the_last_thirty_days_are_told_once_a_day(
    database_for: DatabaseFor, database: Database
) -> None:
    candles = random_candles(1000, SIXTY)  # 41 days
    id_ = store_candles(database_for, "binance", "BTC/USDT", SIXTY, without(candles, 100, 700, 800))
    store_candles(database_for, "binance", "ETH/USDT", SIXTY, without(candles, 279))  # closes 30 days before the last
    first = look(database)
    (alert,) = database.fetch(ALERTS)
    assert (alert["severity"], alert["key"]) == ("warning", "gaps:binance:BTC/USDT:1h")
    assert [alert["message"]] == first.alerts
    assert "binance BTC/USDT 1h: 2 unexplained gaps in the 30 days before 2024-06-01 12:00" in alert["message"]
    look(database)
    assert len(database.fetch(ALERTS)) == 1
    for where in (700, 800):
        ask = {"id": id_, "step": SIXTY, "after": at(candles, where - 1), "until": at(candles, where)}
        database.execute(ADD_CHECK, ask)
    assert look(database, NOON + timedelta(days=1)).alerts == []


# --- series that stopped -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("behind", "stopped"), [(70, False), (75, True)])
def test_a_series_that_stopped_while_others_of_its_venue_go_on_is_told(
    database_for: DatabaseFor, database: Database, behind: int, stopped: bool
) -> None:
    """The limit is two timeframes and an hour: 70 minutes."""
    last = to_unix(NOON) - behind * 60
    store_candles(database_for, "binance", "LUNA/USDT", FIVE, random_candles(50, FIVE, end=last))
    store_candles(database_for, "kraken", "BTC/USD", FIVE, random_candles(50, FIVE))
    assert [s.stopped for s in look(database).series] == [False, False], "all of binance stands still"
    store_candles(database_for, "binance", "BTC/USDT", FIVE, random_candles(50, FIVE))
    report = look(database)
    assert [s.symbol for s in report.series if s.stopped] == (["LUNA/USDT"] if stopped else [])
    assert [alert["key"] for alert in database.fetch(ALERTS)] == (["stopped:binance:LUNA/USDT:5m"] if stopped else [])


def test_a_look_at_the_past_raises_no_alerts(database_for: DatabaseFor, database: Database) -> None:
    candles = random_candles(100, FIVE)
    store_candles(database_for, "binance", "LUNA/USDT", FIVE, without(candles[:50], 20))
    store_candles(database_for, "binance", "BTC/USDT", FIVE, candles)
    report = look(database, span_to=NOON)
    assert (report.totals()["gaps"], report.totals()["stopped"], report.alerts) == (1, 0, [])
    assert database.fetch(ALERTS) == []


# --- between series ----------------------------------------------------------------------------------------


def test_every_coarser_series_is_held_against_every_finer_one_that_makes_it(
    database_for: DatabaseFor, database: Database
) -> None:
    candles = random_candles(1200, FIVE)
    for step in (FIVE, 600, 900, SIXTY):
        stored = candles if step == FIVE else derive_candles(candles, FIVE, step)
        store_candles(database_for, "binance", "BTC/USDT", step, stored)
    compared = [(c.found.finer_s, c.found.coarser_s) for c in look(database).timeframes]
    assert sorted(compared) == [(300, 600), (300, 900), (300, 3600), (600, 3600), (900, 3600)]


def test_an_asset_is_compared_between_venues_where_both_are_in_dollars(
    database_for: DatabaseFor, database: Database
) -> None:
    candles = random_candles(240, FIVE)
    apart = changed(candles, 100, close=1.03)
    apart = replace(apart, high=np.maximum(apart.high, apart.close))
    store_candles(database_for, "binance", "BTC/USDT", FIVE, candles)
    store_candles(database_for, "kraken", "BTC/USD", FIVE, apart)
    store_candles(database_for, "kraken", "BTC/EUR", FIVE, candles)
    store_candles(database_for, "kraken", "BTC/USDC", SIXTY, derive_candles(candles, FIVE, SIXTY))
    store_candles(database_for, "kraken", "ETH/USD", FIVE, candles)
    store_candles(database_for, "kraken", "BTC/USDT", FIVE, candles)
    compared, same = look(database).venues
    assert (compared.one, compared.other, compared.timeframe_s) == ("binance BTC/USDT", "kraken BTC/USD", FIVE)
    assert (same.one, same.other, same.found.far_apart) == ("binance BTC/USDT", "kraken BTC/USDT", 0.0)
    assert (compared.found.common, compared.found.far_apart) == (240, 1 / 240)
    assert compared.found.worst_hour.size == pytest.approx(np.log(1.03) / 12)


# --- the quarantine ----------------------------------------------------------------------------------------


def test_rows_that_were_only_counted_are_counted(database: Database) -> None:
    def put(source: str, *refused: Refused) -> None:
        quarantine(database, "kraken", "BTC/USD", FIVE, source, refused, NOON)

    put("file:a", *(Refused("text", "x", line) for line in range(10)), Refused("text", "and 90 more rows of this file"))
    put("file:a", Refused("text", "and 70 more rows of this file"), Refused("price", "y", 3))
    put("file:b", Refused("text", "x", 1), Refused("text", "and 5 more rows of this file"))
    report = look(database)
    assert [(q.venue, q.symbol, q.timeframe_s, q.reason, q.rows) for q in report.quarantined] == [
        ("kraken", "BTC/USD", FIVE, "text", 10 + 90 + 1 + 5),
        ("kraken", "BTC/USD", FIVE, "price", 1),
    ]
    assert "kraken BTC/USD 5m  text   106" in as_text(report), "shown, though nothing of it was stored"


# --- the command -------------------------------------------------------------------------------------------


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr("shared.job.load_settings", lambda: settings)
    return lambda *argv: main(["--at", NOON.isoformat(), *argv])


def test_the_report_is_text_for_people_and_json_for_machines(
    run: Callable[..., int], database_for: DatabaseFor, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    store_candles(database_for, "binance", "BTC/USDT", FIVE, damaged(random_candles(2000, FIVE)))
    assert run() == 0
    text = capsys.readouterr().out
    there, odd = [line.split()[3:] for line in text.splitlines() if line.startswith("  binance BTC/USDT 5m  ")][:2]
    assert there == ["2024-05-25", "2024-06-01", "12:00", "1,997", "3", "0.15%", "2", "0", "10m"]
    assert odd == ["1", "1", "1", "0.10%", "0", "0", "0"]
    assert max(map(len, text.splitlines())) <= 125
    assert "longest gap  10m after 2024-05-30 18:20" in text
    (job,) = database.fetch("SELECT layer, status, result FROM job_runs")
    assert (job["layer"], job["status"]) == ("candles", "done")
    assert (job["result"]["gaps"], job["result"]["spikes"], len(job["result"]["alerts"])) == (2, 1, 1)
    assert run("--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["totals"]["gaps"], told["at"]) == (2, "2024-06-01T12:00:00+00:00")
    assert told["series"][0]["spikes"]["worst"][0]["at"].startswith("2024-05-27T")


def test_only_what_is_asked_for_is_looked_at(
    run: Callable[..., int], database_for: DatabaseFor, capsys: pytest.CaptureFixture[str]
) -> None:
    for venue, symbol in (("binance", "BTC/USDT"), ("binance", "ETH/USDT"), ("kraken", "BTC/USDT")):
        store_candles(database_for, venue, symbol, FIVE, random_candles(20, FIVE))
        quarantine(database_for("candles"), venue, symbol, FIVE, venue, [Refused("price", "x")], NOON)
    for arguments, expected in (
        (["--venue", "binance"], ["binance BTC/USDT", "binance ETH/USDT"]),
        (["--symbol", "BTC/USDT"], ["binance BTC/USDT", "kraken BTC/USDT"]),
        (["--symbol", "ETH/USDT", "--symbol", "BTC/USDT", "--venue", "kraken"], ["kraken BTC/USDT"]),
    ):
        assert run("--json", *arguments) == 0
        told = json.loads(capsys.readouterr().out)
        for part in ("series", "quarantined"):
            assert sorted(f"{s['venue']} {s['symbol']}" for s in told[part]) == expected


def test_a_series_that_is_not_there_is_named_with_those_that_are(
    database_for: DatabaseFor, database: Database, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    assert "No candles are stored yet" in capsys.readouterr().out
    assert database.fetch("SELECT status FROM job_runs") == [{"status": "nothing"}]
    store_candles(database_for, "binance", "BTC/USDT", FIVE, random_candles(20, FIVE))
    with pytest.raises(JobError, match="no candles of kraken ETH/USDT are stored; there are: binance BTC/USDT"):
        look(database, venue="kraken", symbols=("ETH/USDT",))


def test_durations_are_told_in_their_two_largest_units() -> None:
    assert [duration(s) for s in (0, 59, 300, 3600, 5400, 90061)] == ["0s", "59s", "5m", "1h", "1h 30m", "1d 1h"]


def test_moves_are_told_in_percent_or_as_a_factor() -> None:
    assert [move(float(np.log(ratio))) for ratio in (1.123, 0.5001, 0.49, 6.81, 5e-5)] == [
        "+12.3%", "-50.0%", "÷2.0", "×6.8", "÷20,000",
    ]  # fmt: skip
