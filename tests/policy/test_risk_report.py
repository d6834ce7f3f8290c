"""`make risk`: each figure beside its limit, value at risk against what happened, and a wallet from its rows."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from psycopg.types.json import Json

from policy import run_risk_report
from policy.risk.context import VAR_DAYS, RiskContext
from policy.risk_report import (
    Figure,
    consecutive_returns,
    correlation_with,
    figures,
    held_from_the_start,
    kupiec_of,
    returns_by_day,
    risk_of,
)
from policy.run_risk_report import RiskReport, lines_of, main, midnight_row, reports
from shared.clock import to_unix
from shared.db import load_queries
from shared.job import UsageError
from shared.rows import FloatArray
from shared.settings import RiskSettings, Settings, SymbolRisk
from tests.helpers import NOON, DatabaseFor
from tests.policy.paper_world import (
    DELAY,
    FIVE,
    MINUTE,
    SAID_BY_A_MODEL,
    A,
    B,
    PaperMarket,
    candles,
    insert_config,
)
from tests.policy.synthetic import make_context

DAY = timedelta(days=1)
TODAY = NOON.replace(hour=0)


# ── figures beside their limits ──────────────────────────────────────────────────────────────────────────────
def figure(context: RiskContext, name: str) -> Figure:
    (found,) = (figure for figure in figures(context, [f"S{n}" for n in range(len(context.held_weights))])
                if figure.name == name)  # fmt: skip
    return found


LOSING = np.where(np.arange(100) % 10 == 9, -0.2, 0.01)[:, None]  # a day in ten loses a fifth
LIMITS: dict[str, tuple[dict[str, float], dict[str, Any], float]] = {  # rules, changes of the context, the figure
    "exposure": ({}, {"max_exposure": 0.75}, 0.75),
    "leverage": ({"max_leverage": 0.75}, {}, 0.75),
    "largest position": ({}, {"max_position": 0.5}, 0.5),
    "position of S1": ({}, {"symbol_caps": np.array([1.0, 0.25])}, 0.25),
    "heat": ({"max_heat": 0.1125, "stop_distance": 0.15}, {}, 0.1125),
    "correlated exposure": ({"max_correlated_exposure": 0.75, "correlated_from": 0.6}, {}, 0.75),
    "concentration": ({"max_concentration": 0.3125}, {}, 0.3125),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_figure_passes_at_its_limit_and_fails_beyond(name: str) -> None:
    rules, changes, value = LIMITS[name]
    at = figure(make_context([0.5, 0.25], rules, **changes), name)
    assert at.now == pytest.approx(value, rel=1e-12)
    assert at.limit == value
    assert at.verdict == "pass"
    beyond = figure(make_context([0.5001, 0.2501], rules, **changes), name)
    assert beyond.now > value
    assert beyond.verdict == "FAIL"


@pytest.mark.parametrize(("name", "field"), [("loss of the day", "day_return"), ("drawdown", "drawdown")])
def test_what_ends_entries_fails_at_its_limit_already(name: str, field: str) -> None:
    sign = -1.0 if field == "day_return" else 1.0
    for value, verdict in ((0.0, "pass"), (0.0499, "pass"), (0.05, "FAIL"), (0.5, "FAIL")):
        changes: dict[str, Any] = {field: sign * value}
        context = make_context([0.5], daily_loss_limit=0.05, max_drawdown=0.05, **changes)
        assert figure(context, name).now == value
        assert figure(context, name).verdict == verdict
    assert figure(make_context([0.5], day_return=0.3), "loss of the day").now == 0.0


def test_what_a_day_may_cost_and_a_month() -> None:
    """Half in what loses a fifth one day in ten: one day in twenty costs a tenth, and so do such days on average."""
    context = make_context([0.5], {"max_value_at_risk": 0.1, "max_cvar": 0.09}, daily=LOSING)
    day, month, cvar = (figure(context, name) for name in ("value at risk, a day", "value at risk, a month",
                                                           "CVaR, a day"))  # fmt: skip
    assert [day.now, month.now, cvar.now] == pytest.approx([0.1, 0.1 * math.sqrt(30.0), 0.1])
    assert [day.verdict, month.verdict, cvar.verdict] == ["pass", "", "FAIL"]
    assert month.limit is None


def test_what_is_off_what_is_not_known_and_what_nothing_is_asked_of() -> None:
    context = make_context([0.25, 0.25], {"max_correlated_exposure": 1.0, "max_concentration": 1.0})
    verdicts = {found.name: found.verdict for found in figures(context, ["S0", "S1"])}
    assert [name for name, verdict in verdicts.items() if verdict == "off"] == [
        "leverage", "heat", "correlated exposure", "concentration"]  # fmt: skip
    unknown = [name for name, verdict in verdicts.items() if verdict == "not known"]
    assert unknown == ["value at risk, a day", "value at risk, a month", "CVaR, a day"]
    assert "fewer than 60 daily returns" in figure(context, "CVaR, a day").unknown
    assert [name for name, verdict in verdicts.items() if not verdict] == ["diversification"]
    assert figure(context, "diversification").now == 2.0
    assert not [name for name in verdicts if name.startswith("position of")]
    assert figure(context, "largest position").note == "S0"
    assert figure(make_context([0.0, 0.0]), "largest position").note == "nothing is held"


# ── value at risk against what happened ──────────────────────────────────────────────────────────────────────
def test_returns_come_oldest_first_and_only_what_is_held_need_be_known() -> None:
    daily = np.array([[0.1, np.nan], [0.2, np.nan], [-0.3, 0.5]])
    assert returns_by_day(np.array([0.5, 0.0]), make_context([0.5, 0.0], daily=daily)) == pytest.approx(
        [0.05, 0.1, -0.15]
    )
    both = returns_by_day(np.array([0.5, 0.5]), make_context([0.5, 0.5], daily=daily))
    assert both[2] == pytest.approx(0.1)
    assert np.isnan(both[:2]).all()
    strided = make_context([1.0], daily=[[1.0], [2.0], [3.0], [4.0]], day_stride=2)
    assert returns_by_day(np.ones(1), strided).tolist() == [2.0, 4.0]


def test_value_at_risk_looks_back_on_so_many_days_and_no_further() -> None:
    ancient = np.vstack([np.full((50, 1), -0.9), LOSING, LOSING, LOSING[:50]])
    assert risk_of(np.ones(1), make_context([1.0], daily=ancient)).value_at_risk == pytest.approx(0.2)


def test_only_the_last_days_are_tested_and_unknown_ones_left_out() -> None:
    """Every other day loses a hundredth, so one in twenty loses no more; two days lose half."""
    crash: FloatArray = np.tile([0.01, -0.01], 150)
    crash[[70, 290]] = -0.5
    holed = crash.copy()
    holed[[280, 290]] = np.nan
    for returns, last, counted in (
        (crash, None, (240, 2)), (crash, VAR_DAYS, (240, 2)), (crash, 100, (100, 1)), (crash, 999, (240, 2)),
        (holed, 100, (98, 0)), (holed, None, (238, 1)),
    ):  # fmt: skip
        found = kupiec_of(returns, last)
        assert found is not None
        assert (found.days, found.exceptions) == counted
    assert kupiec_of(crash[:60], VAR_DAYS) is None
    assert kupiec_of(np.full(300, np.nan), VAR_DAYS) is None


# ── the benchmark ────────────────────────────────────────────────────────────────────────────────────────────
def test_the_benchmark_is_bought_once_and_drifts() -> None:
    """Doubled, then halved beside what stays: 2 becomes 3, then 2; what has no return on a day is not bought."""
    daily = np.array([[1.0, 0.0, 0.5], [-0.5, 0.0, np.nan]])
    assert held_from_the_start(daily) == pytest.approx([0.5, -1.0 / 3.0])
    assert np.isnan(held_from_the_start(daily[:, 2:])).all()


def test_a_day_without_a_value_has_no_return_nor_has_the_next() -> None:
    values = np.array([100.0, 110.0, 121.0, 60.5])
    found = consecutive_returns(np.array([7, 8, 10, 11]), values, 11, 5)
    np.testing.assert_allclose(found, [np.nan, 0.1, np.nan, np.nan, -0.5])


def test_the_benchmark_is_read_at_midnights_whatever_the_clock() -> None:
    context = make_context([1.0], daily=np.zeros((200, 1)))
    for hours, row in ((0, 199), (1, 198), (23, 176), (24, 199)):
        assert midnight_row(context, to_unix(TODAY) + hours * 3600, 3600) == row
    assert midnight_row(context, to_unix(TODAY) + 8 * 3600, 4 * 3600) == 197


def test_a_correlation_needs_thirty_days_that_move() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0.0, 0.01, 31)
    x[4] = np.nan
    against, days = correlation_with(-2.0 * x, x)
    assert against == pytest.approx(-1.0)
    assert days == 30
    assert correlation_with(x, rng.normal(size=31))[0] == pytest.approx(0.0, abs=0.5)
    few, days = correlation_with(x[:30], x[:30])
    assert (math.isnan(few), days) == (True, 29)
    assert math.isnan(correlation_with(np.zeros(40), rng.normal(size=40))[0])


# ── a wallet from its rows ───────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def daily(rolled_back: None, settings: Settings) -> Settings:
    """Decided about once a day, so that a year is a few rows; of a database that is rolled back."""
    universe = settings.universe.model_copy(update={"decision_timeframe": "1d"})
    return settings.model_copy(update={"universe": universe})


def value_on(day: int) -> float:
    """Of one unit: a tenth of what A does on the way to 10 000 today."""
    return 10_000.0 * (1.0 + 0.1 * (price_on(day) / 100.0 - 1.0))


def price_on(day: int) -> float:
    """Of A, so many days ago: 100 today and every fourth day before, never two days alike between."""
    return 100.0 * (1.0, 0.98, 1.03, 1.01)[day % 4]


@pytest.fixture
def market(database_for: DatabaseFor, daily: Settings) -> PaperMarket:
    """Three hundred days of A and B, and a wallet that bought 20 A at 100 half an hour before noon."""
    market = PaperMarket(database_for, daily)
    closes = {A: [price_on(day) for day in range(300, -1, -1)], B: [50.0 + day % 3 for day in range(300, -1, -1)]}
    ids = {}
    for symbol, price in ((A, 100.0), (B, 50.0)):
        market.store(symbol, FIVE, candles(NOON - 60 * MINUTE, FIVE, [price] * 24))
    for symbol, made in closes.items():
        opens = np.array(made[:-1])
        bars = candles(TODAY - 300 * DAY, 86_400, opens.tolist())
        bars.close[:] = made[1:]
        bars.high[:], bars.low[:] = np.maximum(opens, bars.close), np.minimum(opens, bars.close)
        ids[symbol] = market.store(symbol, 86_400, bars)
    wallet = market.wallet("w", TODAY - 60 * DAY)
    written = [decision(wallet, ids[A], day) for day in range(40, 0, -1)]
    policy = market.database_for("policy")
    policy.fetch_together([(load_queries("policy")["insert_decision"], row) for row in written])
    market.order(wallet, ids[A], "buy", "20", NOON - 30 * MINUTE)
    market.send(NOON - 30 * MINUTE)
    market.send(NOON - 20 * MINUTE)
    insert_config(market, TODAY - DAY, max_position=0.15, max_exposure=0.3, max_drawdown=0.2, daily_loss_limit=0.05,
                  strategy_weights=Json({"drl": 1.0}), valid_until=TODAY + 9 * DAY)  # fmt: skip
    return market


def decision(wallet: int, instrument: int, day: int) -> dict[str, Any]:
    """Of the midnight so many days ago. There were two units until a week ago, when half of the money left."""
    units = 2 if day > 7 else 1
    return {
        "wallet_id": wallet, "instrument_id": instrument, "as_of": TODAY - day * DAY, "source": "test",
        "wanted_weight": 0, "allowed_weight": 0, "baseline_weight": 0, "contributions": Json({}), "clamps": Json([]),
        "reason": "", "price": price_on(day), "quantity_held": 0, "cash": 0, "equity": units * value_on(day),
        "units": units, "recorded_at": TODAY - day * DAY, **dict.fromkeys(SAID_BY_A_MODEL),
        "policy_config_id": None, "paid_in": 10_000, "code_version": "test", "settings_hash": "test",
    }  # fmt: skip


def the_report(market: PaperMarket, settings: Settings) -> RiskReport:
    (found,) = reports(market.database_for("policy"), settings, NOON + DELAY)
    return found


def test_a_wallets_figures_beside_the_stricter_of_steering_and_operator(market: PaperMarket, daily: Settings) -> None:
    found = the_report(market, daily)
    assert (found.wallet, found.as_of, found.quote) == ("w", TODAY, "USDT")
    weight = 20 * 100.0 / found.equity
    now = {figure.name: figure for figure in found.figures}
    assert now["exposure"].now == pytest.approx(weight)
    assert (now["exposure"].limit, now["largest position"].limit) == (0.3, 0.15)  # by the steering
    assert now["drawdown"].limit == 0.15  # by the operator
    assert now["largest position"].note == A
    assert found.failed == ["largest position"]
    falls = [1.0 - price_on(day) / price_on(day + 1) for day in range(VAR_DAYS)]
    worst = sorted(falls, reverse=True)[VAR_DAYS // 20]
    assert now["value at risk, a day"].now == pytest.approx(weight * worst)
    assert found.kupiec is not None
    assert (found.kupiec.days, found.kupiec.exceptions) == (239, 0)
    assert found.unpriced == []


def test_the_correlation_is_that_of_the_days_between_decisions(market: PaperMarket, daily: Settings) -> None:
    """Each unit gains a tenth of what A does, and the benchmark half of it beside B."""
    found = the_report(market, daily).figures[-1]
    own = np.diff([value_on(day) for day in range(40, 0, -1)]) / [value_on(day) for day in range(40, 1, -1)]
    a, b = (np.array([worth(day) for day in range(40, 0, -1)]) for worth in (price_on, lambda day: 50.0 + day % 3))
    together = a / a[0] + b / b[0]  # bought at the first of these midnights
    assert found.name == "correlation"
    assert "39 days" in found.note
    assert found.now == pytest.approx(np.corrcoef(own, np.diff(together) / together[:-1])[0, 1])


def test_correlations_are_read_whether_or_not_a_rule_asks(market: PaperMarket, daily: Settings) -> None:
    """A and B go their own ways: the rule is off, the figure is A's alone, not that of all that might be alike."""
    (b,) = market.rows("SELECT id FROM instruments WHERE symbol = %(symbol)s", symbol=B)
    (w,) = market.rows("SELECT id FROM wallets")
    market.order(w["id"], b["id"], "buy", "10", NOON - 10 * MINUTE, price=50.0)
    market.send(NOON - 10 * MINUTE)
    market.send(NOON)
    now = {figure.name: figure for figure in the_report(market, daily).figures}
    assert now["correlated exposure"].verdict == "off"
    assert now["correlated exposure"].now == pytest.approx(now["largest position"].now)
    assert now["exposure"].now > now["largest position"].now + 0.04


def test_days_without_candles_are_not_days_without_risk(market: PaperMarket, daily: Settings) -> None:
    """Ten days after the last candle: of the 250 that are tested ten are not known, and the first has 59 before it."""
    (found,) = reports(market.database_for("policy"), daily, NOON + DELAY + 10 * DAY)
    assert found.kupiec is not None
    assert found.kupiec.days == 239
    assert found.silent == [f"{A} for 10.0 days", f"{B} for 10.0 days"]
    assert f"No candle closed of {A} for 10.0 days, {B} for 10.0 days" in " ".join(lines_of(found))
    assert the_report(market, daily).silent == []
    (long,) = reports(market.database_for("policy"), daily, NOON + DELAY + 200 * DAY)
    assert long.kupiec is not None
    assert long.kupiec.days == 50  # fewer than any value at risk is said from
    assert {f.name: f.verdict for f in long.figures}["value at risk, a day"] == "not known"


def test_a_symbols_own_bound_has_a_line(market: PaperMarket, daily: Settings) -> None:
    risk = RiskSettings(symbols={A: SymbolRisk(max_position=0.25)})
    found = the_report(market, daily.model_copy(update={"risk": risk}))
    (own,) = (figure for figure in found.figures if figure.name == f"position of {A}")
    assert (own.limit, own.verdict) == (0.25, "pass")


def test_it_writes_nothing(market: PaperMarket, daily: Settings) -> None:
    policy = market.database_for("policy")
    with policy.transaction():
        policy.execute("SET LOCAL transaction_read_only = on")
        assert reports(policy, daily, NOON + DELAY, "w")


def test_another_wallet_is_named_and_an_empty_one_has_nothing_to_test(market: PaperMarket, daily: Settings) -> None:
    market.wallet("empty", TODAY - DAY)
    policy = market.database_for("policy")
    with pytest.raises(UsageError, match="no wallet 'nobody'; there are w, empty"):
        reports(policy, daily, NOON + DELAY, "nobody")
    (found,) = reports(policy, daily, NOON + DELAY, "empty")
    assert found.kupiec is None
    assert {figure.verdict for figure in found.figures} <= {"pass", "off", "not known", ""}
    assert found.figures[-1].verdict == "not known"


def test_the_command_prints_each_wallet_and_exits_by_what_fails(
    market: PaperMarket, daily: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    market.wallet("empty", TODAY - DAY)
    monkeypatch.setattr(run_risk_report, "load_settings", lambda: daily)
    monkeypatch.setattr(run_risk_report, "open_database", lambda settings, role: market.database_for(role))
    at = ["--at", f"{NOON + DELAY:%Y-%m-%dT%H:%M}Z"]
    assert main(at) == 1
    told = " ".join(capsys.readouterr().out.split())  # whatever the width
    assert re.search(r"^w: 9,99\d\.\d\d USDT at 2024-06-01 00:00 UTC", told)
    assert "largest position" in told
    assert "FAIL: largest position." in told
    assert "0 of 239 days lost more, 11.9 expected; Kupiec p 0.000: refused" in told
    assert "empty: 10,000.00 USDT" in told
    assert main([*at, "--wallet", "empty"]) == 0
    empty = capsys.readouterr().out
    assert "Value at risk is not tested" in empty
    assert "-0.00%" not in empty
    assert main([*at, "--wallet", "nobody"]) == 2
    assert "no wallet 'nobody'" in capsys.readouterr().err
