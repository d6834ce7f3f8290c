"""One decision path: the jobs, tick by tick, and the backtest of the same span are the same thing.

``PARITY_HOURS=100`` in the environment makes it the long form (`make test-long`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from pipeline import demo
from pipeline.replay import Databases, logged_in, replay
from policy import backtest
from policy.result import BacktestResult
from shared.clock import to_unix
from shared.money import to_float
from shared.settings import Settings
from tests.pipeline.world import HOURS as TRAINED_HOURS
from tests.pipeline.world import install_random_policy, make_plan, make_series, prepare, small

HOURS = int(os.environ.get("PARITY_HOURS", "50"))  # noqa: TID251 (of the tests, not of a job)
DECISIONS = """
SELECT d.as_of, i.symbol, d.wanted_weight, d.allowed_weight, d.reason, d.price, d.quantity_held, d.equity,
       d.observation_hash
FROM decisions d JOIN instruments i ON i.id = d.instrument_id ORDER BY d.as_of, i.symbol
"""
FILLS = """
SELECT extract(epoch FROM f.filled_at)::bigint AS filled_at, i.symbol, f.side, f.quantity, f.price, f.cost, f.fee
FROM fills f JOIN orders o ON o.id = f.order_id JOIN instruments i ON i.id = o.instrument_id
ORDER BY f.filled_at, f.side DESC, i.symbol
"""


@pytest.fixture
def traded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Databases, BacktestResult]]:
    """HOURS through the jobs on 5m candles with a policy that keeps trading, then through the backtest."""
    settings = small(settings, "5m")
    plan = make_plan(make_series("5m", HOURS), "5m", HOURS)
    # No policy is trained: it would be replaced at once.
    monkeypatch.setattr(demo, "_trained", lambda _databases, kind, *_span: kind == "policy")
    with logged_in(settings) as databases:
        prepare(databases, settings, plan)
        install_random_policy(databases, settings, plan)
        replay(plan.train_to, plan.end, databases, settings, plan.exchange)
        wallet = backtest.find_wallet(databases["policy"], plan.end, demo.WALLET)
        request = backtest.Request(wallet, plan.train_to, plan.end, demo.CAPITAL, "operator", rearm_days=None)
        yield databases, backtest.run_backtest(databases["policy"], settings, request)


def test_jobs_and_backtest_make_identical_decisions_and_fills(traded: tuple[Databases, BacktestResult]) -> None:
    databases, result = traded
    stored = databases["cli"].fetch(DECISIONS)
    assert len(stored) == 2 * (HOURS + 1)
    assert stored == list(_simulated_decisions(stored, result))

    fills = databases["cli"].fetch(FILLS)
    assert len(fills) > HOURS / 2, "a test of parity needs trades"
    assert {fill["side"] for fill in fills} == {"buy", "sell"}
    assert [_as_floats(fill) for fill in fills] == sorted(_simulated_fills(result), key=_order)

    equity = databases["cli"].fetch_one("SELECT equity FROM equity")
    assert equity is not None
    assert float(equity["equity"]) == pytest.approx(result.curves[0].last_marked, abs=1e-7)


def _simulated_decisions(stored: list[dict[str, Any]], result: BacktestResult) -> Iterator[dict[str, Any]]:
    """The backtest's decisions in the shape of the stored rows; the book's fields are compared via observation."""
    rows = iter(stored)
    for as_of, decision in zip(result.decision_times, result.decisions, strict=True):
        for n, symbol in enumerate(result.symbols):
            row = next(rows)
            yield row | {
                "as_of": as_of,
                "symbol": symbol,
                "wanted_weight": float(decision.wanted[n]),
                "allowed_weight": float(decision.allowed[n]),
                "reason": f"{decision.source}: {decision.plan.reasons[n]}",
                "observation_hash": decision.observation_hash,
            }


def _simulated_fills(result: BacktestResult) -> Iterator[tuple[Any, ...]]:
    for fill in result.fills:
        side = "buy" if fill.quantity > 0 else "sell"
        symbol = result.symbols[fill.instrument]
        yield fill.filled_at, symbol, side, abs(fill.quantity), fill.price, fill.cost, fill.fee


def _as_floats(fill: dict[str, Any]) -> tuple[Any, ...]:
    money = (to_float(fill[name]) for name in ("quantity", "price", "cost", "fee"))
    return (fill["filled_at"], fill["symbol"], fill["side"], *money)


def _order(fill: tuple[Any, ...]) -> tuple[Any, ...]:
    return fill[0], fill[2] == "buy", fill[1]


def test_a_second_replay_of_the_same_ticks_writes_nothing_new(trained_settings: Callable[[], Settings]) -> None:
    settings, hours = trained_settings(), 12
    plan = make_plan(make_series("1h", TRAINED_HOURS), "1h", hours)
    tables = (
        "market_data",
        "embeddings",
        "market_state",
        "policy_config",
        "decisions",
        "orders",
        "order_events",
        "fills",
    )
    with logged_in(settings) as databases:
        install_random_policy(databases, settings, plan, seed=7)  # one that trades in these hours
        replay(plan.train_to, plan.end, databases, settings, plan.exchange)

        def rows() -> dict[str, list[dict[str, Any]]]:
            cli = databases["cli"]
            return {t: cli.fetch(f"SELECT (to_jsonb(t) - 'state')::text AS row FROM {t} t ORDER BY 1") for t in tables}  # type: ignore[arg-type]

        before = rows()
        assert before["fills"]
        replay(plan.train_to, plan.end, databases, settings, plan.exchange)
        assert rows() == before


def test_a_backtest_of_what_the_model_was_trained_on_is_refused_or_marked(
    trained_settings: Callable[[], Settings],
) -> None:
    settings = trained_settings()
    plan = make_plan(make_series("1h", TRAINED_HOURS), "1h", TRAINED_HOURS)
    with logged_in(settings) as databases:
        demo.backfill.run_once(demo.ReplayClock(plan.end), databases["candles"], settings, plan.exchange)
        database = databases["policy"]
        wallet = backtest.find_wallet(database, plan.end, None)
        early = plan.train_to - timedelta(days=2)
        request = backtest.Request(wallet, early, plan.end, 1_000.0, "operator")
        with pytest.raises(backtest.UsageError, match="proves nothing"):
            backtest.run_backtest(database, settings, request)
        marked = backtest.Request(wallet, early, plan.end, 1_000.0, "operator", in_sample=True)
        result = backtest.run_backtest(database, settings, marked)
        assert "trained on candles up to" in result.in_sample
        assert to_unix(result.decision_times[0]) == to_unix(early)
