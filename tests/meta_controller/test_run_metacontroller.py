from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from psycopg import sql

from meta_controller import rules
from meta_controller.market_index import LEAST_BARS
from meta_controller.regimes import EXPERTS
from meta_controller.run_metacontroller import main, run_once
from meta_controller.steering import TRACKS
from shared.clock import ReplayClock, to_unix
from shared.db import Database
from shared.job import JobError, UsageError
from shared.settings import PROJECT, Settings
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles

pytestmark = pytest.mark.usefixtures("rolled_back")

HOUR = timedelta(hours=1)
MONTHS = 1700  # bars: every expert has enough to learn from
CALLS = "SELECT * FROM regime_calls ORDER BY expert, horizon_s, as_of"
OUTCOMES = "SELECT * FROM regime_outcomes ORDER BY horizon_s, as_of"
FITS = "SELECT * FROM regime_fits ORDER BY expert, fitted_at"
STATES = "SELECT * FROM market_state ORDER BY track, horizon_s, as_of"
CONFIGS = "SELECT * FROM policy_config ORDER BY track, as_of"
Table = list[dict[str, Any]]
NOTHING: tuple[Table, ...] = ([], [], [], [], [])


def store_market(
    database_for: DatabaseFor, bars: int = MONTHS, seed: int = 1, end: datetime = NOON, holes: float = 0.0
) -> None:
    """Hourly candles of the whole universe, a share ``holes`` of them missing at random."""
    rng = np.random.default_rng(seed)
    for n, symbol in enumerate(("AAA/USDT", "BBB/USDT")):
        candles = random_candles(bars, 3600, seed=seed + n, end=to_unix(end), volatility=0.006)
        store_candles(database_for, "test", symbol, 3600, candles[rng.random(bars) >= holes])


def run_at(at: datetime, database_for: DatabaseFor, settings: Settings, **arguments: Any) -> Any:
    return run_once(ReplayClock(at), database_for("meta_controller"), settings, **arguments)


def written(database: Database) -> tuple[Table, ...]:
    """All rows of states, configs, calls, outcomes and fits without what differs from run to run."""
    tables = tuple(database.fetch(query) for query in (STATES, CONFIGS, CALLS, OUTCOMES, FITS))
    for row in (row for table in tables for row in table):
        row.pop("id", None)
        del row["recorded_at"]
    return tables


def forget(database_for: DatabaseFor) -> None:
    owner = database_for("owner")
    for table in ("policy_config", "market_state", "regime_calls", "regime_outcomes", "regime_fits"):
        owner.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))  # type: ignore[arg-type]


def test_a_run_writes_both_horizons_and_the_steering(database_for: DatabaseFor, settings: Settings) -> None:
    store_market(database_for)
    outcome = run_at(NOON + HOUR / 3, database_for, settings)
    assert (outcome.status, outcome.result) == (
        "done", {"called": 1, "skipped": 0, "market_state": 8, "policy_config": 4},
    )  # fmt: skip
    states, configs, calls, _, _ = written(database_for("meta_controller"))
    assert {(row["track"], row["horizon_s"]) for row in states} == {
        (track, horizon) for track in TRACKS for horizon in (14400, 86400)
    }
    assert {(row["expert"], row["horizon_s"]) for row in calls} == {
        (expert, horizon) for expert in (*EXPERTS, "pool") for horizon in (14400, 86400)
    }
    for row in states:
        assert (row["as_of"], row["known_from"], row["source"]) == (NOON, NOON, "pool")
        assert row["valid_until"] == NOON + timedelta(seconds=row["horizon_s"])
    for row in configs:
        assert (row["as_of"], row["known_from"]) == (NOON, NOON)
        assert row["source"] == ("operator" if row["track"] == "static" else "rules")
        assert row["valid_until"] == NOON + 3 * HOUR
        assert row["strategy_weights"] == {"drl": 1.0}


def test_live_follows_the_rules(database_for: DatabaseFor, settings: Settings) -> None:
    store_market(database_for)
    run_at(NOON, database_for, settings)
    for table in written(database_for("meta_controller"))[:2]:
        tracks: dict[str, Table] = {track: [] for track in TRACKS}
        for row in table:
            tracks[row.pop("track")].append(row)
        assert tracks["live"] == tracks["llm"] == tracks["rules"] != []


def test_twice_changes_nothing(database_for: DatabaseFor, settings: Settings) -> None:
    store_market(database_for)
    run_at(NOON, database_for, settings)
    database = database_for("meta_controller")
    before = database.fetch(STATES), database.fetch(CONFIGS)
    again = run_at(NOON + HOUR / 2, database_for, settings)
    assert (again.status, again.result["reason"]) == ("nothing", "called before")
    assert (database.fetch(STATES), database.fetch(CONFIGS)) == before


def test_a_batch_pass_writes_what_single_runs_would_have_written(database_for: DatabaseFor, settings: Settings) -> None:
    store_market(database_for, bars=LEAST_BARS + 60, holes=0.08)
    start = NOON - 62 * HOUR  # the first of them lack history
    for hours in range(63):
        run_at(start + hours * HOUR + HOUR / 4, database_for, settings)
    database = database_for("meta_controller")
    single = written(database)
    forget(database_for)
    outcome = run_at(NOON + 5 * HOUR, database_for, settings, span=(start - HOUR / 2, NOON + HOUR / 2))
    assert written(database) == single
    assert outcome.result["called"] == len(single[1]) / 4 < 63
    assert outcome.result["called"] > 40


def test_an_expert_calls_the_same_whatever_was_called_before(database_for: DatabaseFor, settings: Settings) -> None:
    """A week in one pass, across a block's end, and single hours of it."""
    store_market(database_for, bars=MONTHS + 30, holes=0.02)
    for hours in range(64, -1, -8):
        run_at(NOON - hours * HOUR, database_for, settings)
    database = database_for("meta_controller")
    single = [row for row in written(database)[2] if row["expert"] != "pool"]
    forget(database_for)
    run_at(NOON, database_for, settings, span=(NOON - 64 * HOUR, NOON))
    moments = {row["as_of"] for row in single}
    assert len(moments) > 6
    assert [row for row in written(database)[2] if row["expert"] != "pool" and row["as_of"] in moments] == single


@pytest.mark.parametrize("seed", range(10))
def test_the_future_changes_nothing(seed: int, database_for: DatabaseFor, settings: Settings) -> None:
    store_market(database_for, bars=LEAST_BARS + 40, seed=seed)
    poisoned_after = NOON - (1 + seed) * HOUR
    span = (poisoned_after - 12 * HOUR, poisoned_after)
    run_at(NOON, database_for, settings, span=span)
    before = written(database_for("meta_controller"))
    forget(database_for)
    poison = "UPDATE market_data SET open = 1, high = 9999, low = 1, close = 9999, volume = 0 WHERE as_of > %(after)s"
    assert database_for("candles").execute(poison, {"after": poisoned_after}) == 2 * (1 + seed)
    run_at(NOON, database_for, settings, span=span)
    assert written(database_for("meta_controller")) == before


def test_a_bar_that_is_not_there_yet_is_waited_for(database_for: DatabaseFor, settings: Settings) -> None:
    store_market(database_for)
    outcome = run_at(NOON + HOUR, database_for, settings)
    assert outcome.status == "nothing"
    assert "no instrument of the index has a candle at this close yet" in outcome.result["reason"]
    assert written(database_for("meta_controller")) == NOTHING
    assert database_for("meta_controller").fetch("SELECT * FROM alerts") == []


def test_a_short_history_is_no_call_but_an_alert(database_for: DatabaseFor, settings: Settings) -> None:
    store_market(database_for, bars=LEAST_BARS)  # as many closes make one return fewer
    for _ in range(2):
        outcome = run_at(NOON, database_for, settings)
        assert outcome.status == "nothing"
        assert "199 bars of history, at least 200 are needed" in outcome.result["reason"]
    (alert,) = database_for("meta_controller").fetch("SELECT * FROM alerts")
    assert (alert["key"], alert["severity"], alert["layer"]) == (
        "metacontroller-short-history", "warning", "meta_controller",
    )  # fmt: skip
    assert "199 bars" in alert["message"]
    assert written(database_for("meta_controller")) == NOTHING


def test_an_instrument_that_came_late_is_left_out(database_for: DatabaseFor, settings: Settings) -> None:
    store_candles(database_for, "test", "AAA/USDT", 3600, random_candles(400, 3600, seed=1))
    store_candles(database_for, "test", "BBB/USDT", 3600, random_candles(100, 3600, seed=2))
    run_at(NOON, database_for, settings)
    _, configs, *_ = written(database_for("meta_controller"))
    assert "in the index of 1:" in next(row for row in configs if row["track"] == "rules")["reasons"]


def test_the_operators_limits_reach_the_rows(database_for: DatabaseFor, settings: Settings) -> None:
    store_market(database_for)
    tight = settings.risk.model_copy(update={"max_position": 0.01, "max_exposure": 0.02})
    run_at(NOON, database_for, settings.model_copy(update={"risk": tight}))
    for row in database_for("meta_controller").fetch(CONFIGS):
        assert (row["max_position"], row["max_exposure"]) == (0.01, 0.02)


def test_a_universe_without_candles_is_named(database_for: DatabaseFor, settings: Settings) -> None:
    store_candles(database_for, "test", "AAA/USDT", 3600, random_candles(300, 3600))
    with pytest.raises(JobError, match="no candles of BBB/USDT on test are stored; run `make backfill`"):
        run_at(NOON, database_for, settings)


def test_a_proposal_out_of_bounds_writes_nothing(
    database_for: DatabaseFor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_market(database_for, bars=LEAST_BARS + 10)
    reckless = {regime: replace(steering, max_exposure=1.5) for regime, steering in rules.STEERING.items()}
    monkeypatch.setattr(rules, "STEERING", reckless)
    monkeypatch.setattr(rules, "within_operator", lambda steering, risk: steering)
    with pytest.raises(JobError, match=r"the rules at .* are out of bounds: max_exposure is 1\.5, outside 0 to 1"):
        run_at(NOON, database_for, settings, span=(NOON - 5 * HOUR, NOON))
    assert written(database_for("meta_controller")) == NOTHING


def test_a_span_of_the_future_or_backwards_is_refused(database_for: DatabaseFor, settings: Settings) -> None:
    with pytest.raises(UsageError, match="has not come yet"):
        run_at(NOON, database_for, settings, span=(NOON - HOUR, NOON + HOUR))
    with pytest.raises(UsageError, match="swap them"):
        run_at(NOON, database_for, settings, span=(NOON, NOON - HOUR))


def test_a_span_without_a_close_is_nothing(database_for: DatabaseFor, settings: Settings) -> None:
    store_market(database_for, bars=300)
    outcome = run_at(NOON + HOUR, database_for, settings, span=(NOON + HOUR / 4, NOON + HOUR / 2))
    assert (outcome.status, outcome.result["reason"]) == ("nothing", "no bar closes in this span")


@pytest.mark.usefixtures("own_database")
def test_the_command_runs_and_says_how_it_is_used(
    database_for: DatabaseFor, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store_market(database_for, bars=LEAST_BARS + 5)
    monkeypatch.setattr("shared.job.load_settings", lambda: settings)
    assert main(["--at", NOON.isoformat()]) == 0
    assert main(["--from", "2024-06-01T09:00", "--to", "2024-06-01T12:00"]) == 0
    assert len(written(database_for("meta_controller"))[1]) == 4 * 4
    assert main(["--from", "2024-06-01T09:00"]) == 2
    assert "--from and --to go together" in capsys.readouterr().err


def test_the_job_imports_nothing_heavy() -> None:
    code = "import sys, meta_controller.run_metacontroller as _; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert {"torch", "sqlalchemy", "numba", "pandas", "openai", "httpx2"}.isdisjoint(found.stdout.split())


def test_candles_of_other_timeframes_are_not_read(database_for: DatabaseFor, settings: Settings) -> None:
    store_market(database_for, bars=300)
    run_at(NOON, database_for, settings)
    before = written(database_for("meta_controller"))
    forget(database_for)
    store_candles(database_for, "test", "AAA/USDT", 300, random_candles(300, 300, seed=9))
    run_at(NOON, database_for, settings)
    assert written(database_for("meta_controller")) == before
