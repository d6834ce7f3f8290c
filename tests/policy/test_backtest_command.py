"""The backtest as a job: a span, a wallet, a table, a row and a page."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.operator import create_wallet
from policy import backtest
from policy.laboratory import MARKET_ONLY, Request
from policy.strategies import STRATEGIES
from shared.clock import ReplayClock, to_unix
from shared.db import Database
from shared.job import UsageError
from shared.rows import Candles
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles
from tests.policy.paper_world import DECISIONS, DELAY, FIVE, PaperMarket, insert_config

HOURS = 40 * 24
FIRST = NOON - timedelta(days=5)
SYMBOLS = ("AAA/USDT", "BBB/USDT")


@pytest.fixture
def stored(settings: Settings, database_for: DatabaseFor) -> Database:
    """Forty days of hourly candles of two instruments, and a wallet that trades them; no model."""
    for seed, symbol in enumerate(SYMBOLS):
        store_candles(database_for, "test", symbol, 3600, random_candles(HOURS, 3600, seed, volatility=0.01))
    create_wallet(database_for("cli"), settings, NOON, "w", "test", SYMBOLS, 5_000.0)
    return database_for("policy")


def requested(database: Database, **changes: Any) -> Request:
    wallet = backtest.find_wallet(database, NOON, None)
    return Request(wallet, FIRST, NOON, 5_000.0, **{"limits": "operator", "shifts": 10, **changes})


def test_a_run_prints_its_table_stores_its_row_and_writes_its_page(
    stored: Database, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.html"
    outcome = backtest.run_once(ReplayClock(NOON), stored, settings, requested(stored), path)
    printed = capsys.readouterr().out
    assert "baseline (no model)" in printed
    assert "config: recorded, track live" in printed
    assert path.exists()
    row = stored.fetch_one("SELECT * FROM backtests")
    assert row is not None
    assert row["id"] == outcome.result["backtest_id"]
    assert (row["span_from"], row["span_to"], row["in_sample"]) == (FIRST, NOON, False)
    assert {"buy and hold", "cash", "trend × volatility target"} < set(row["metrics"])
    assert row["parameters"]["limits"].startswith("operator; emergency stops: 0")


def test_no_report_draws_and_writes_nothing(stored: Database, settings: Settings, tmp_path: Path) -> None:
    reports = settings.home_path / "reports"  # other tests write there too
    before = {path.name for path in reports.glob("*")}
    outcome = backtest.run_once(ReplayClock(NOON), stored, settings, requested(stored, strategy="cash"), None)
    assert outcome.result["report"] is None
    assert (outcome.result["final_equity"], outcome.result["closed_equity"]) == (5_000.0, 5_000.0)
    assert {path.name for path in reports.glob("*") if "backtest" in path.name} <= before


def test_rules_and_the_decision_path_agree_on_stored_candles(stored: Database, settings: Settings) -> None:
    lab = backtest.Laboratory(stored, settings, requested(stored, limits="off"))
    for strategy in ("trend_vol_target", "vol_target"):
        slow, fast = lab.trade("x", None, only=strategy), lab.rule(strategy, "x")
        assert slow.fills == fast.fills
        assert slow.curve.equity.tolist() == fast.curve.equity.tolist()
        assert slow.fills or strategy == "trend_vol_target"  # nothing need rise


def test_every_strategy_that_is_run_as_a_rule_is_registered() -> None:
    assert set(MARKET_ONLY) <= set(STRATEGIES)
    assert set(backtest.NAMES) == set(MARKET_ONLY)


def test_the_wallet_brings_its_costs_impact_included(stored: Database, settings: Settings) -> None:
    wallet = backtest.find_wallet(stored, NOON, "w")
    assert float(wallet["impact"]) == settings.execution.impact
    assert float(wallet["taker_fee_bps"]) == settings.execution.taker_fee_bps
    with pytest.raises(UsageError, match="there are: w"):
        backtest.find_wallet(stored, NOON, "other")


def test_a_span_not_given_goes_from_the_first_candle_to_the_last_for_a_rule(
    stored: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Request, Any]] = []

    def run_once(clock: Any, database: Any, settings: Any, request: Request, path: Any) -> None:
        seen.append((request, path))

    monkeypatch.setattr(backtest, "run_once", run_once)
    context = backtest.Context(settings, stored, ReplayClock(NOON), None)  # type: ignore[arg-type]
    for arguments in (["--strategy", "cash", "--no-report"], ["--from", "2024-05-30", "--fee", "10", "--delay", "0"]):
        parsed = backtest._parser().parse_args(arguments)
        backtest._command(backtest.Context(context.settings, stored, context.clock, parsed))
    (rule, no_path), (given, path) = seen
    assert (rule.first, rule.last, no_path) == (NOON - timedelta(hours=HOURS - 1), NOON, None)
    assert (given.first.day, given.fee_bps, given.delay_s, given.slippage_bps) == (30, 10.0, 0, None)
    assert str(path).endswith("backtest_20240530T0000_20240601T1200.html")
    with pytest.raises(UsageError, match="no span to test"):
        late = backtest._parser().parse_args(["--from", "2024-06-02"])
        backtest._command(backtest.Context(settings, stored, context.clock, late))


@pytest.mark.parametrize("wrong", [["--stop", "1.5"], ["--fee", "-1"], ["--limits", "none"], ["--config", "mine"]])
def test_arguments_out_of_bounds_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        backtest._parser().parse_args(wrong)
    assert wrong[0] in capsys.readouterr().err


def test_jobs_and_backtest_of_the_same_hours_make_the_same_decisions_and_fills(
    settings: Settings, database_for: DatabaseFor
) -> None:
    """Without a model; with one, tests/pipeline/test_parity.py."""
    hours, begun = 12, NOON - timedelta(hours=12)
    market = PaperMarket(database_for, settings)
    for seed, symbol in enumerate(SYMBOLS, start=5):
        base = random_candles(hours * 12 + 12, FIVE, seed, volatility=0.02)
        history = random_candles(HOURS, 3600, seed, to_unix(begun), volatility=0.01)
        market.store(symbol, 3600, Candles.concatenate([_joined(history, base), hourly(base, to_unix(begun))]))
        market.store(symbol, FIVE, base)
    market.wallet("w", begun, symbols=SYMBOLS)
    market.command(begun, "resume", "w")
    for hour in range(hours + 1):
        insert_config(market, begun + timedelta(hours=hour), turnover_penalty=0.0, target_volatility=0.8)
    moment = begun
    while moment <= NOON:
        market.send(moment)
        market.trade(moment + DELAY)
        market.send(moment + DELAY)
        moment += timedelta(seconds=FIVE)
    request = replace(requested(database_for("policy")), first=begun, last=NOON, capital=10_000.0)
    result = backtest.run_backtest(database_for("policy"), settings, request)
    stored, decided = market.rows(DECISIONS), zip(result.decision_times, result.decisions, strict=True)
    expected = [
        (as_of, symbol, float(d.allowed[n]), f"{d.source}: {d.plan.reasons[n]}")
        for as_of, d in decided
        for n, symbol in enumerate(SYMBOLS)
    ]
    assert [(r["as_of"], r["symbol"], r["allowed_weight"], r["reason"]) for r in stored] == expected
    fills = [(f["symbol"], f["side"], float(f["quantity"]), float(f["price"]), float(f["fee"])) for f in market.fills()]
    simulated = sorted(result.fills, key=lambda f: (f.filled_at, f.quantity > 0.0, f.instrument))
    assert fills == [
        (SYMBOLS[f.instrument], "buy" if f.quantity > 0 else "sell", abs(f.quantity), f.price, f.fee) for f in simulated
    ]
    assert len(fills) > 3
    equity = market.rows("SELECT equity FROM equity")[0]["equity"]
    assert float(equity) == pytest.approx(result.curves[0].last_marked, abs=1e-7)


def _joined(history: Candles, later: Candles) -> Candles:
    """``history``, rising and scaled to end where ``later`` begins."""
    rising = np.exp(0.003 * np.arange(1 - len(history), 1))
    scale = float(later.open[0]) / float(history.close[-1]) * rising
    prices = (getattr(history, name) * scale for name in ("open", "high", "low", "close"))
    return Candles(history.as_of, *prices, history.volume, history.trades)


def hourly(base: Candles, after: int) -> Candles:
    """Hours from 5m candles, those that close after ``after``."""
    first = int(np.searchsorted(base.as_of, after, side="right"))
    parts = [base[k : k + 12] for k in range(first, len(base) - 11, 12)]
    columns = [
        [int(p.as_of[-1]) for p in parts], [p.open[0] for p in parts], [p.high.max() for p in parts],
        [p.low.min() for p in parts], [p.close[-1] for p in parts], [p.volume.sum() for p in parts], [1 for _ in parts],
    ]  # fmt: skip
    return Candles.from_columns(columns)
