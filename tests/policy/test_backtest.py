"""The backtest: the trader's path over the past, beside rules run as paths of weights."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from policy.backtest import NAMES, contributions
from policy.decision_path import Decision
from policy.laboratory import EmergencyStop
from policy.observation import View
from policy.result import BacktestResult, Curve
from policy.strategies import STRATEGIES
from policy.strategies.residual import Residual
from shared.job import JobError, UsageError
from shared.rows import FloatArray
from tests.helpers import NOON
from tests.policy.backtest_world import CAPITAL, Model, Past, make_past

HOUR = timedelta(hours=1)


@pytest.fixture
def past(monkeypatch: pytest.MonkeyPatch) -> Past:
    return make_past(monkeypatch)


def figures(curve: Curve) -> tuple[Any, ...]:
    return (curve.name, curve.equity.tolist(), curve.fees, curve.traded, curve.trades, curve.slippage, curve.marked)


def said(decision: Decision) -> tuple[Any, ...]:
    return (decision.wanted.tolist(), decision.allowed.tolist(), decision.plan.reasons, decision.observation_hash)


def everything(result: BacktestResult) -> tuple[Any, ...]:
    decisions = [said(decision) for decision in result.decisions]
    return ([figures(c) for c in result.curves], decisions, result.fills, result.closing, result.terms,
            result.contributions, result.regimes)  # fmt: skip


# ── what runs ────────────────────────────────────────────────────────────────────────────────────────────────
def test_every_registered_strategy_runs_and_the_policy_comes_first(past: Past) -> None:
    result = past.run()
    names = [curve.name for curve in result.curves]
    assert names[0] == "policy"
    assert set(names) == {"policy", *NAMES.values()}
    assert len(names) == len(STRATEGIES)
    for curve in result.curves:
        assert curve.equity[0] == CAPITAL
        assert len(curve.equity) == len(curve.times) == len(result.closes)
        assert np.isfinite(curve.equity).all()
    cash = next(curve for curve in result.curves if curve.name == "cash")
    assert (cash.equity == CAPITAL).all()


def test_the_same_request_gives_the_same_result(past: Past) -> None:
    assert everything(past.run()) == everything(past.run())


def test_without_a_model_the_baseline_is_run_and_called_so(past: Past) -> None:
    past.policy = None
    result = past.run()
    assert result.curves[0].name == "baseline (no model)"
    assert {decision.source for decision in result.decisions} == {"trend_vol_target"}
    assert result.terms["models"] == "none"


@pytest.mark.parametrize("strategy", ["buy_and_hold", "vol_target", "cash"])
def test_one_strategy_alone_asks_no_model(past: Past, strategy: str) -> None:
    past.policy = Model(known_from=NOON + 1000 * HOUR)  # would be in-sample
    result = past.run(strategy=strategy)
    assert [curve.name for curve in result.curves] == [NAMES[strategy]]
    assert (result.decisions, result.in_sample) == ([], "")
    assert figures(result.curves[0])[1:] == next(
        figures(c)[1:] for c in past.run(in_sample=True).curves if c.name == NAMES[strategy]
    )


def test_an_unknown_strategy_is_refused_with_those_there_are(past: Past) -> None:
    with pytest.raises(UsageError, match=r"no strategy 'martingale'; there are drl, .*random"):
        past.run(strategy="martingale")


def test_a_strategy_of_ones_own_runs_through_the_decision_path(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(view: View, residual: Residual | None = None) -> FloatArray:
        return np.full(len(view.market.trend), 0.25)

    monkeypatch.setitem(STRATEGIES, "half", half)
    result = past.run(strategy="half")
    assert [curve.name for curve in result.curves] == ["half"]
    assert all((d.wanted == 0.25).all() for d in result.decisions)
    assert "half" in [curve.name for curve in past.run().curves]


def test_no_candles_at_all_is_an_error_that_names_them(past: Past) -> None:
    past.closes[:] = np.nan
    with pytest.raises(JobError, match="no candles of A/USDT, B/USDT"):
        past.run()


# ── rules are the decision path, only faster ─────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("strategy", ["trend_vol_target", "vol_target"])
@pytest.mark.parametrize("exposure", [1.0, 0.3])
def test_a_rule_as_a_path_of_weights_is_the_decision_path_to_the_bit(
    past: Past, strategy: str, exposure: float
) -> None:
    past.steer(max_exposure=exposure)
    past.policy = None
    past.markets = [replace(m, ood=np.full(2, np.nan)) for m in past.markets]  # what a rule has no opinion about
    past.closes[40:60, 1], past.opens[40:60, 1] = np.nan, np.nan
    for hour in range(11, 16):
        past.know(hour, tradable=np.array([True, False]))
    lab = past.laboratory()
    slow, fast = lab.trade("x", None, only=strategy), lab.rule(strategy, "x")
    assert figures(slow.curve) == figures(fast.curve)
    assert (slow.fills, slow.closing) == (fast.fills, fast.closing)
    assert len(slow.fills) > 10


def test_the_policys_own_weights_as_a_path_are_the_policys_book(past: Past) -> None:
    lab = past.laboratory()
    assert lab.policy is not None
    own = lab.trade("policy", lab.policy.act)
    path = lab._path("policy", own.allowed)
    assert figures(path.curve) == figures(own.curve)
    assert path.fills == own.fills
    assert len(own.fills) > 20


def test_buy_and_hold_buys_once_and_drifts(past: Past) -> None:
    lab = past.laboratory()
    assert np.isnan(lab.weights_of("buy_and_hold")[1:]).all()
    path = lab.rule("buy_and_hold", "hold")
    assert [fill.quantity > 0 for fill in path.fills] == [True, True]
    assert path.fills[0].cost == pytest.approx(path.fills[1].cost, rel=0.02)
    assert [fill.quantity for fill in path.closing] == [-fill.quantity for fill in path.fills]


def test_rebalanced_hold_keeps_trading_back_to_equal_weights(past: Past) -> None:
    past.steer(turnover_penalty=0.0)
    path = past.laboratory().rule("rebalanced_hold", "rebalanced")
    assert len(path.fills) > 20
    assert {fill.quantity > 0 for fill in path.fills} == {True, False}


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────
def test_what_is_open_at_the_end_is_sold_and_charged_and_said(past: Past) -> None:
    result = past.run()
    own = result.curves[0]
    assert result.closing
    assert all(fill.kind == "close out" and fill.filled_at == own.times[-1] for fill in result.closing)
    charged = sum(fill.fee for fill in result.closing)
    spread = own.last_marked - float(own.equity[-1]) - charged
    assert charged > 0.0
    assert 0.0 < spread < 0.01 * own.last_marked
    assert f"{float(own.equity[-1]):,.2f} USDT of {own.last_marked:,.2f} at the last prices" in result.terms["end"]
    assert own.trades == len(result.fills) + len(result.closing)


def test_each_instruments_profit_sums_to_the_whole(past: Past) -> None:
    result = past.run()
    own = result.curves[0]
    assert set(result.contributions) == {"A/USDT", "B/USDT"}
    assert sum(result.contributions.values()) == pytest.approx(float(own.equity[-1]) - CAPITAL, abs=1e-7)
    alone = past.laboratory().rule("buy_and_hold", "hold")
    found = contributions(alone, ["A/USDT", "B/USDT"])
    bought, sold = alone.fills[0], alone.closing[0]
    assert found["A/USDT"] == pytest.approx(sold.cost - sold.fee - bought.cost - bought.fee, abs=1e-7)


# ── decision for decision ────────────────────────────────────────────────────────────────────────────────────
def test_no_candle_no_decision_and_one_missing_instrument_does_not_stop_the_other(past: Past) -> None:
    past.know(5, tradable=np.zeros(2, dtype=bool), doubts=("no usable candles",) * 2)
    past.know(9, tradable=np.array([True, False]), doubts=("", "no usable candles"))
    result = past.run()
    assert NOON + 5 * HOUR not in result.decision_times
    assert len(result.decisions) == 72
    at_nine = result.decisions[result.decision_times.index(NOON + 9 * HOUR)]
    assert at_nine.plan.reasons[1] == "its newest candle is missing"
    assert at_nine.plan.reasons[0] != at_nine.plan.reasons[1]


def test_doubts_stop_entries_of_their_own_instrument_only(past: Past) -> None:
    past.markets = [replace(m, doubts=("", "no embedding")) for m in past.markets]
    result = past.run()
    assert {fill.instrument for fill in result.fills} == {0}
    past.policy = None  # the baseline needs no embedding
    assert {fill.instrument for fill in past.run().fills} == {0, 1}


def test_a_position_whose_price_is_forgotten_is_worth_its_last(past: Past) -> None:
    prices = past.markets[40].prices.copy()
    for hour in range(41, 73):
        unknown = replace(past.markets[hour], prices=np.array([past.markets[hour].prices[0], np.nan]))
        past.markets[hour] = replace(unknown, tradable=np.array([True, False]), doubts=("", "no usable candles"))
    result = past.run()
    assert np.isfinite(result.curves[0].equity).all()
    assert np.isfinite([d.allowed for d in result.decisions]).all()
    assert np.isfinite(prices).all()


def test_an_order_fills_at_the_first_open_after_its_delay(past: Past) -> None:
    for delay_s, opened in ((0, 0), (1, 900), (900, 900), (901, 1800)):
        fills = past.run(delay_s=delay_s).fills
        assert {(fill.filled_at - 43_200) % 3600 for fill in fills} == {opened}


def test_asked_for_costs_and_delay_take_the_place_of_the_wallets(past: Past) -> None:
    given = past.run(fee_bps=0.0, slippage_bps=0.0, impact=0.0, delay_s=600)
    assert (given.curves[0].fees, given.curves[0].slippage) == (0.0, pytest.approx(0.0, abs=1.0))
    assert given.terms["costs"] == "fee 0 + half spread 0 bps a side, impact 0 (given; the wallet's are 40, 5, 1)"
    assert given.terms["fills"].endswith("600 s or more after the decision (given; the wallet's is 120 s)")
    own = past.run()
    assert own.terms["costs"] == "fee 40 + half spread 5 bps a side, impact 1"
    assert own.curves[0].fees == pytest.approx(own.curves[0].traded * 40e-4, rel=1e-6)


def test_dearer_trading_never_leaves_more_of_the_same_weights(past: Past) -> None:
    left = [past.run(strategy="rebalanced_hold", fee_bps=fee).curves[0].equity[-1] for fee in (0.0, 10.0, 40.0, 80.0)]
    assert left == sorted(left, reverse=True)


# ── limits and steering ──────────────────────────────────────────────────────────────────────────────────────
def test_the_operators_limits_bind_the_policy_and_no_baseline(past: Past) -> None:
    past.settings = past.settings.model_copy(
        update={"risk": past.settings.risk.model_copy(update={"max_exposure": 0.1, "max_step": 0.05})}
    )
    bound, free = past.run(limits="operator"), past.run()
    assert max(float(d.allowed.sum()) for d in bound.decisions) <= 0.1 + 1e-12
    assert max(float(d.allowed.sum()) for d in free.decisions) > 0.2
    assert [figures(c) for c in bound.curves[1:]] == [figures(c) for c in free.curves[1:]]
    assert bound.terms["limits"].startswith("operator; emergency stops: 0")
    assert free.terms["limits"] == "off"


def test_steering_is_the_recorded_or_the_operators_static_one(past: Past) -> None:
    past.steer(target_volatility=0.1)
    recorded, static = past.laboratory(), past.laboratory(config="static")
    assert {market.config.target_volatility for _, market in recorded.moments} == {0.1}
    assert {(m.config.track, m.config.target_volatility) for _, m in static.moments} == {("static", 0.4)}
    assert past.run(config="static").terms["config"] == "static: the operator's own steering"
    assert past.run().terms["config"] == "recorded, track live"


def test_config_rules_reads_the_track_of_the_rules(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    from policy import laboratory

    asked: list[Any] = []
    monkeypatch.setattr(laboratory, "Inputs", lambda *arguments, **_: asked.append(arguments[3]) or past)
    past.laboratory(config="rules")
    past.laboratory(config="static")
    past.laboratory()
    assert asked == ["rules", "live", "live"]


def test_an_emergency_stop_is_counted_and_rearms_after_its_days() -> None:
    stop, day = EmergencyStop(7.0), timedelta(days=1)
    assert not stop.resumes(NOON, 0.1, 0.15)
    assert not stop.resumes(NOON + HOUR, 0.2, 0.15)
    assert not stop.resumes(NOON + HOUR + 6.99 * day, 0.2, 0.15)
    assert stop.resumes(NOON + HOUR + 7 * day, 0.2, 0.15)
    assert stop.count == 1
    assert not stop.resumes(NOON + 9 * day, 0.2, 0.15)
    assert stop.count == 2
    forever = EmergencyStop(None)
    assert not any(forever.resumes(NOON + k * day, 0.2, 0.15) for k in range(100))
    assert forever.count == 1


def test_after_a_crash_the_policy_is_in_cash_for_a_week_and_then_trades_again(monkeypatch: pytest.MonkeyPatch) -> None:
    past = make_past(monkeypatch, hours=24 * 14, seed=2)
    past.steer(max_drawdown=0.05, target_volatility=1.0)
    past.closes[24 * 4 :] *= 0.5
    past.opens[24 * 4 :] *= 0.5
    past.markets[25:] = [replace(m, prices=m.prices * 0.5) for m in past.markets[25:]]
    past.settings = past.settings.model_copy(
        update={"risk": past.settings.risk.model_copy(update={"daily_loss_limit": 0.2, "max_drawdown": 0.5})}
    )
    result = past.run(limits="operator")
    stopped = [t for t, d in zip(result.decision_times, result.decisions, strict=True)
               if any(c.rule == "max_drawdown" for of in d.clamps for c in of)]  # fmt: skip
    assert result.emergency_stops >= 1
    assert f"emergency stops: {result.emergency_stops} (they re-arm after 7 days)" in result.terms["limits"]
    first = stopped[0]
    entries = [f.filled_at for f in result.fills if f.quantity > 0 and f.filled_at > first.timestamp() + 3600]
    assert entries
    assert min(entries) >= (first + timedelta(days=7)).timestamp()
    lasting = past.run(limits="operator", rearm_days=None)
    assert lasting.emergency_stops == 1
    assert not [f for f in lasting.fills if f.quantity > 0 and f.filled_at > first.timestamp() + 3600]


def test_stops_and_targets_are_an_experiment_and_said_so(past: Past) -> None:
    result = past.run(stop=0.01, target=0.02)
    assert {"stop", "target"} <= {fill.kind for fill in result.fills}
    assert result.terms["brackets"].endswith("an experiment, not placed by the trader")
    assert {fill.kind for fill in past.run().fills} == {"market"}
    lab = past.laboratory(stop=0.01, target=0.02)
    rule = lab.rule("vol_target", "x")
    assert "stop" in {fill.kind for fill in rule.fills}


# ── what is known ────────────────────────────────────────────────────────────────────────────────────────────
def test_a_span_the_model_was_trained_on_is_refused_or_marked(past: Past) -> None:
    past.policy = Model(known_from=NOON + HOUR)
    with pytest.raises(UsageError, match="proves nothing"):
        past.run()
    assert "trained on candles up to" in past.run(in_sample=True).in_sample


def test_a_residual_that_counts_zero_is_said_plainly(past: Past) -> None:
    past.policy = Model(residual_scale=0.0)
    assert past.run().terms["promotion"].startswith("baseline wins")


def test_regimes_come_with_their_decisions(past: Past) -> None:
    past.know(3, states=None)
    result = past.run()
    assert len(result.regimes) == len(result.decisions)
    assert (result.regimes[2], result.regimes[3]) == ("bull", "")
