"""The rows of the hourly job where candles come late, bars are of another length, or the universe changes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from meta_controller import rules
from meta_controller.controller import HORIZONS_S
from meta_controller.llm import Endpoint
from meta_controller.regime_run import read_regimes
from meta_controller.regimes.expert import FIT_S
from meta_controller.run_metacontroller import run_once
from meta_controller.steering import TRACKS
from shared.clock import ReplayClock, from_unix, to_unix
from shared.rows import Candles
from shared.settings import TIMEFRAMES, Settings
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles

pytestmark = pytest.mark.usefixtures("rolled_back")

HOUR = timedelta(hours=1)
OUTCOMES = "SELECT * FROM regime_outcomes ORDER BY horizon_s, as_of"
Table = list[dict[str, Any]]


def candles_of(bars: int, step_s: int, end: datetime = NOON, seed: int = 1) -> Candles:
    return random_candles(bars, step_s, seed=seed, end=to_unix(end), volatility=0.006)


def run_at(at: datetime, database_for: DatabaseFor, settings: Settings, **arguments: Any) -> Any:
    return run_once(ReplayClock(at), database_for("meta_controller"), settings, **arguments)


def universe(settings: Settings, timeframe: str, *symbols: str) -> Settings:
    names = symbols or settings.universe.symbols
    changed = settings.universe.model_copy(update={"symbols": names, "decision_timeframe": timeframe})
    return settings.model_copy(update={"universe": changed})


def outcomes_in(database_for: DatabaseFor) -> Table:
    return [
        {k: v for k, v in row.items() if k != "recorded_at"} for row in database_for("meta_controller").fetch(OUTCOMES)
    ]


def test_an_outcome_waits_for_the_candles_that_it_is_about(database_for: DatabaseFor, settings: Settings) -> None:
    """A run that comes before its candle, or while the feed is dead, must not take the silence for a calm market."""
    symbols = ("AAA/USDT", "BBB/USDT")
    late = {symbol: candles_of(700, 3600, seed=seed) for seed, symbol in enumerate(symbols)}
    for symbol, candles in late.items():
        store_candles(database_for, "test", symbol, 3600, candles[:-6])
    noon = NOON - 6 * HOUR  # of the last candle there is
    run_at(noon, database_for, settings)
    for hours in range(1, 7):
        run_at(noon + hours * HOUR, database_for, settings)
    assert outcomes_in(database_for) == []
    store_candles(database_for, "test", "AAA/USDT", 3600, late["AAA/USDT"][-6:-2])
    run_at(noon + 4 * HOUR, database_for, settings)
    assert outcomes_in(database_for) == []  # one of the two is still on its way
    store_candles(database_for, "test", "AAA/USDT", 3600, late["AAA/USDT"][-2:])
    store_candles(database_for, "test", "BBB/USDT", 3600, late["BBB/USDT"][-6:])
    run_at(NOON, database_for, settings)
    (found,) = outcomes_in(database_for)
    assert (found["as_of"], found["horizon_s"]) == (noon, HORIZONS_S[0])
    growth = [np.exp(np.diff(np.log(candles.close[-7:-2]))) for candles in late.values()]
    assert found["log_return"] == pytest.approx(np.log(np.mean(growth, axis=0)).sum())


def test_a_horizon_that_nobody_traded_in_has_no_outcome(database_for: DatabaseFor, settings: Settings) -> None:
    """Ten hours and then five weeks are missing for good; half a horizon's bars are enough."""
    before, after, step = 700, 1000, 3600
    candles = candles_of(before + 10 + 20 + 840 + after, step)
    age = np.arange(len(candles.as_of))[::-1]
    kept = (age < after) | ((age >= after + 840) & (age < after + 860)) | (age >= after + 870)
    for symbol in ("AAA/USDT", "BBB/USDT"):
        store_candles(database_for, "test", symbol, step, candles[kept])
    gap, end = (NOON - bars * HOUR for bars in (after + 870, after + 840))  # of what is there before each hole
    run_at(NOON, database_for, settings, span=(gap - 24 * HOUR, end))
    run_at(NOON, database_for, settings, span=(NOON - 20 * HOUR, NOON))
    short = {row["as_of"] for row in outcomes_in(database_for) if row["horizon_s"] == HORIZONS_S[0]}
    hours = [gap + k * HOUR for k in range(-24, 1)] + [gap + k * HOUR for k in range(11, 31)]
    assert [t for t in hours if t not in short] == [gap - HOUR, gap, *(end - k * HOUR for k in (3, 2, 1, 0))]
    run_at(NOON, database_for, settings, span=(end, NOON))
    assert {end - k * HOUR for k in range(4)}.isdisjoint(row["as_of"] for row in outcomes_in(database_for))


@pytest.mark.parametrize("timeframe", ["15m", "1h"])
def test_steering_of_quarter_hours_is_measured_from_an_hour_earlier(
    timeframe: str, database_for: DatabaseFor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the database compares with is not the newest row: that is a quarter of an hour old."""
    for symbol, seed in (("AAA/USDT", 1), ("BBB/USDT", 2)):
        store_candles(database_for, "test", symbol, 900, candles_of(300, 900, seed=seed))
        store_candles(database_for, "test", symbol, 3600, candles_of(300, 3600, seed=seed))
    quarters = universe(settings, "15m")
    bull, bear = (dict.fromkeys(rules.STEERING, rules.STEERING[regime]) for regime in ("bull", "bear"))
    monkeypatch.setattr(rules, "STEERING", bull)
    for minutes in range(120, 0, -15):
        run_at(NOON - minutes * HOUR / 60, database_for, quarters)
    monkeypatch.setattr(rules, "STEERING", bear)
    run_at(NOON, database_for, universe(settings, timeframe))
    query = "SELECT max_exposure FROM policy_config WHERE track = 'live' AND as_of = %(as_of)s"
    (row,) = database_for("meta_controller").fetch(query, {"as_of": NOON})
    assert row["max_exposure"] == pytest.approx(0.8)


@pytest.mark.parametrize("timeframe", ["15m", "4h", "1d"])
def test_an_outcome_is_known_when_the_bars_it_is_made_of_have_closed(
    timeframe: str, database_for: DatabaseFor, settings: Settings
) -> None:
    """Bars may be longer than the shorter horizon: every moment then has its outcome a bar later, not four hours."""
    step_s, days = TIMEFRAMES[timeframe], {"15m": 1, "4h": 10, "1d": 20}[timeframe]
    bars = {"15m": 16 * 96, "4h": 400, "1d": 260}[timeframe]
    midnight = NOON - 12 * HOUR
    for symbol, seed in (("AAA/USDT", 1), ("BBB/USDT", 2)):
        store_candles(database_for, "test", symbol, step_s, candles_of(bars, step_s, midnight, seed))
    span = (midnight - timedelta(days=days), midnight)
    outcome = run_at(NOON, database_for, universe(settings, timeframe), span=span)
    found = outcomes_in(database_for)
    for horizon_s in HORIZONS_S:
        passes_s = max(step_s, horizon_s)
        mine = [row for row in found if row["horizon_s"] == horizon_s]
        assert all(row["known_from"] == row["as_of"] + timedelta(seconds=passes_s) for row in mine)
        assert len(mine) == outcome.result["called"] - passes_s // step_s > 0


def test_moments_that_no_bar_closes_at_get_no_outcome_from_their_neighbour(
    database_for: DatabaseFor, settings: Settings
) -> None:
    """Called every hour once, looked for by a universe of four hours now."""
    for symbol, seed in (("AAA/USDT", 1), ("BBB/USDT", 2)):
        for step_s, bars in ((3600, 800), (14400, 300)):
            store_candles(database_for, "test", symbol, step_s, candles_of(bars, step_s, seed=seed))
    called = NOON - 48 * HOUR
    run_at(called, database_for, settings, span=(called - 11 * HOUR, called))
    now = to_unix(NOON)
    run = read_regimes(database_for("meta_controller"), universe(settings, "4h").universe, now, now)
    between = {to_unix(called) - hours * 3600 for hours in range(12) if hours % 4}
    assert set(run.track.missing_outcomes(HORIZONS_S[1], now)) == between


def store_universe(database_for: DatabaseFor, timeframe: str, bars: int, end: datetime) -> None:
    step_s = TIMEFRAMES[timeframe]
    for symbol, seed in (("AAA/USDT", 1), ("BBB/USDT", 2)):
        store_candles(database_for, "test", symbol, step_s, candles_of(bars, step_s, end, seed))


def test_a_single_run_weighs_by_as_many_rounds_as_a_batch_pass(database_for: DatabaseFor, settings: Settings) -> None:
    """The pool looks back 120 days: all of them are read, and their fits are not made again."""
    store_universe(database_for, "4h", 1100, NOON)
    slow, database = universe(settings, "4h"), database_for("meta_controller")
    first = NOON - 124 * 24 * HOUR
    run_at(NOON, database_for, slow, span=(first, NOON - 4 * HOUR))
    assert read_regimes(database, slow.universe, to_unix(NOON), to_unix(NOON)).new_fits == []
    run_at(NOON, database_for, slow)
    query = "SELECT * FROM regime_calls WHERE expert = 'pool' AND as_of = %(as_of)s ORDER BY horizon_s"
    single = database.fetch(query, {"as_of": NOON})
    assert len(single) == len(HORIZONS_S)
    for table in ("market_state", "policy_config", "regime_calls", "regime_outcomes", "regime_fits"):
        database_for("owner").execute(f"DELETE FROM {table}")
    run_at(NOON, database_for, slow, span=(first, NOON))
    assert database.fetch(query, {"as_of": NOON}) == single


def test_a_fit_is_the_same_in_whichever_of_its_weeks_it_is_made(database_for: DatabaseFor, settings: Settings) -> None:
    midnight = NOON - 12 * HOUR
    due = from_unix(to_unix(midnight) // FIT_S * FIT_S)
    store_universe(database_for, "1d", 1000, midnight + 40 * 24 * HOUR)
    daily, database = universe(settings, "1d"), database_for("meta_controller")
    made = []
    for days in (1, 26):
        run_at(due + days * 24 * HOUR, database_for, daily)
        made.append(database.fetch("SELECT expert, fitted_at, bars, parameters FROM regime_fits ORDER BY expert"))
        for table in ("regime_fits", "regime_calls"):
            database_for("owner").execute(f"DELETE FROM {table}")
    assert made[0] == made[1]
    assert {(row["fitted_at"], row["bars"]) for row in made[0]} == {(due, 539)}  # 540 days of closes


def test_a_batch_pass_asks_no_model_and_its_tracks_follow_the_rules(
    database_for: DatabaseFor, settings: Settings
) -> None:
    store_universe(database_for, "1h", 210, NOON)
    nowhere = Endpoint("http://127.0.0.1:9", "", "nobody")
    outcome = run_at(NOON, database_for, settings, span=(NOON - HOUR, NOON), endpoint=nowhere)
    assert outcome.result["policy_config"] == 2 * len(TRACKS)
    assert database_for("meta_controller").fetch("SELECT * FROM llm_calls") == []
