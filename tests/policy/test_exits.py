"""What an entry is to be left at: levels by hand, temperature, refusals, and positions from entry to exit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.types.json import Json

from pipeline.explain_page import _exits
from policy.backtest import _terms
from policy.decision_path import decide
from policy.exits import NO_EXITS, ExitRules, exit_rules, name_brackets, tightened
from policy.observation import View
from policy.simulated_state import SimulatedState
from policy.simulator import SimulatedFill
from policy.strategies import STRATEGIES
from policy.strategies.residual import Residual
from shared.clock import to_unix
from shared.exit_settings import ExitSettings
from shared.rows import Candles, FloatArray
from shared.settings import Settings, SettingsError, load_settings
from tests.helpers import NOON, DatabaseFor
from tests.policy.backtest_world import Past, make_past
from tests.policy.paper_world import (
    CALM,
    DELAY,
    FIVE,
    HISTORY,
    HOUR,
    HOUR_S,
    MINUTE,
    ORDERS,
    A,
    PaperMarket,
    candles,
    insert_config,
)  # fmt: skip
from tests.policy.synthetic import make_book, make_circumstances, make_config, make_market, make_view

ALL = ExitRules(0.02, 0.05, 0.005)


# ── the levels ───────────────────────────────────────────────────────────────────────────────────────────────
def test_the_levels_by_hand() -> None:
    """The stop rounded down to the tick, the target up; a stop of nothing is none."""
    price, tick = np.array([100.0, 33.33, 0.01, 50.0]), np.array([0.01, 0.01, 0.01, 0.5])
    found = name_brackets(np.array([True, True, True, False]), price, np.zeros(4), tick, ALL)
    assert found.stop.tolist() == [98.0, 32.66, 0.0, 0.0]
    assert found.target.tolist() == [105.0, 35.0, 0.02, 0.0]
    assert found.trail.tolist() == [0.005, 0.005, 0.005, 0.0]
    assert found.named.tolist() == [True, True, True, False]
    only = name_brackets(np.array([True]), np.array([100.0]), np.zeros(1), np.array([0.01]), ExitRules(target=0.05))
    assert (only.stop.tolist(), only.target.tolist(), only.trail.tolist()) == ([0.0], [105.0], [0.0])


@pytest.mark.parametrize(
    ("score", "left", "stop"),
    [(0.0, 0.25, 99.0), (0.0499, 0.25, 99.0), (0.05, 0.5, 98.0), (0.1499, 0.5, 98.0), (0.15, 0.75, 97.0),
     (0.2999, 0.75, 97.0), (0.3, 1.0, 96.0), (1.0, 1.0, 96.0), (-0.1, 0.5, 98.0)],
)  # fmt: skip
def test_the_colder_the_nearer_the_stop_and_nothing_else(score: float, left: float, stop: float) -> None:
    assert tightened(score) == left
    rules = ExitRules(0.04, 0.05, 0.005, tightens=True)
    price, tick, one = np.array([100.0]), np.array([0.01]), np.array([True])
    found = name_brackets(one, price, np.array([score]), tick, rules)
    assert (found.stop[0], found.target[0], found.trail[0]) == (stop, 105.0, 0.005)
    assert name_brackets(one, price, np.array([score]), tick, replace(rules, tightens=False)).stop[0] == 96.0


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0.001, 0.5), st.floats(0.1, 1e5))
def test_temperature_only_tightens(score: float, other: float, stop: float, price: float) -> None:
    assert 0.0 < tightened(score) <= 1.0
    assert (tightened(score) - tightened(other)) * (abs(score) - abs(other)) >= 0.0

    def level(tightens: bool) -> float:
        one = np.array([price]), np.array([score]), np.array([0.01])
        return float(name_brackets(np.array([True]), *one, ExitRules(stop, tightens=tightens)).stop[0])

    assert level(False) <= level(True) < price


# ── whose orders name one ────────────────────────────────────────────────────────────────────────────────────
def test_the_order_that_opens_a_position_names_it_and_no_other() -> None:
    """Of four, one is bought from nothing, one from dust, one was held already; the last is sold."""
    market = make_market([100.0] * 4, [1.0] * 4, [0.5] * 4, config=make_config(strategy_weights={"vol_target": 1.0}))
    book = make_book([0.0, 0.0999, 1.0, 30.0], market.prices.tolist(), cash=10_000.0)
    view, free = make_view(market, book), make_circumstances(4)
    decision = decide(view, None, replace(free, exits=ALL))
    assert np.sign(decision.plan.quantity).tolist() == [1.0, 1.0, 1.0, -1.0]
    assert decision.brackets is not None
    assert decision.brackets.stop.tolist() == [98.0, 98.0, 0.0, 0.0]
    assert decision.brackets.target.tolist() == [105.0, 105.0, 0.0, 0.0]
    assert decision.brackets.trail.tolist() == [0.005, 0.005, 0.0, 0.0]
    rules = replace(free.rules, min_notional=np.zeros(4), lot=np.array([0.1, 0.1, 0.1, 0.1]))
    lots = decide(view, None, replace(free, exits=ALL, rules=rules)).brackets
    assert lots is not None
    assert lots.named.tolist() == [True, True, False, False], "less than a lot is dust"
    rules = replace(rules, lot=np.full(4, 0.0999))
    lots = decide(view, None, replace(free, exits=ALL, rules=rules)).brackets
    assert lots is not None
    assert lots.named.tolist() == [True, False, False, False]
    without = decide(view, None, free)
    assert without.brackets is None
    assert without.plan.quantity.tobytes() == decision.plan.quantity.tobytes()
    paused = decide(view, None, replace(free, exits=ALL, in_flight=np.ones(4, dtype=bool)))
    assert paused.brackets is not None
    assert not paused.brackets.named.any(), "no order, nothing to leave"


# ── the settings ─────────────────────────────────────────────────────────────────────────────────────────────
def test_all_is_off_unless_set() -> None:
    off = load_settings().exits
    assert exit_rules(off) == NO_EXITS
    assert not NO_EXITS.any
    assert not off.averaging
    assert all(rules.any for rules in (ExitRules(stop=0.01), ExitRules(target=0.01), ExitRules(trail=0.01)))


@pytest.mark.parametrize(
    ("exits", "told"),
    [
        ({"stop_loss": 0.15}, "would never act"),
        ({"stop_loss": 0.2}, "risk.stop_distance"),
        ({"stop_loss": -0.1}, "exits.stop_loss"),
        ({"take_profit": -0.1}, "exits.take_profit"),
        ({"trailing_stop": 1.0}, "exits.trailing_stop"),
        ({"temperature_tightens": True}, "no stop_loss to tighten"),
        ({"averaging": True, "stop_loss": 0.025}, "always fires before averaging's first level of 0.025"),
        ({"averaging": True, "stop_loss": 0.1, "temperature_tightens": True}, "always fires before"),
        ({"averaging": True, "trailing_stop": 0.005}, "always fires before"),
        ({"averaging_levels": (0.05, 0.025)}, "further below"),
        ({"averaging_levels": (0.05, 0.05)}, "further below"),
        ({"averaging_levels": ()}, "exits.averaging_levels"),
        ({"averaging_levels": (0.0, 0.1)}, "exits.averaging_levels"),
        ({"averaging_multiplier": 0}, "exits.averaging_multiplier"),
        ({"averaging_a_day": 0}, "exits.averaging_a_day"),
        ({"stoploss": 0.1}, "unknown setting exits.stoploss"),
    ],
)
def test_what_could_not_act_is_refused(exits: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told.replace(".", r"\.")):
        load_settings(exits=exits)


def test_what_just_acts_is_taken() -> None:
    assert load_settings(exits={"stop_loss": 0.1499}).exits.stop_loss == 0.1499
    kept = load_settings(exits={"averaging": True, "stop_loss": 0.0251, "trailing_stop": 0.026, "take_profit": 0.05})
    assert kept.exits.nearest_stop == 0.0251
    assert load_settings(exits={"stop_loss": 0.15}, risk={"stop_distance": 0.2}).exits.stop_loss == 0.15


# ── on paper ─────────────────────────────────────────────────────────────────────────────────────────────────
def a_tenth(view: View, residual: Residual | None) -> FloatArray | None:
    return np.full(len(view.market.prices), 0.1)


@pytest.fixture
def market(
    rolled_back: None, database_for: DatabaseFor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> PaperMarket:
    """A strategy that always wants a tenth, and a wallet that trades at the price itself."""
    monkeypatch.setitem(STRATEGIES, "tenth", a_tenth)
    made = PaperMarket(database_for, settings.model_copy(update={"exits": ExitSettings()}))
    weights = Json({"tenth": 1.0})
    made.store(A, HOUR_S, candles(NOON - (HISTORY + 1) * HOUR, HOUR_S, [*CALM, 100.0]))
    insert_config(made, NOON, strategy_weights=weights, valid_until=NOON + 24 * HOUR, max_position=0.5)
    made.wallet("w", NOON, symbols=(A,))
    made.database_for("owner").execute("UPDATE wallets SET slippage_bps = 0, impact = 0")
    return made


def path(closes: Sequence[float]) -> Candles:
    """5m candles from noon on, each from the close before it, without wicks."""
    close = np.array([100.0, *closes])
    as_of, ones = to_unix(NOON) + FIVE * np.arange(1, len(close)), np.ones(len(closes))
    low, high = np.minimum(close[1:], close[:-1]), np.maximum(close[1:], close[:-1])
    return Candles.from_columns([as_of, close[:-1], high, low, close[1:], ones, ones])


def enter(market: PaperMarket, closes: Sequence[float], **exits: float) -> None:
    """Decided about the close of 12:00, bought at 12:05, and looked after until the candles end."""
    market.store(A, FIVE, candles(NOON - 10 * MINUTE, FIVE, [100.0, 100.0]))
    market.store(A, FIVE, path(closes))
    under = market.settings.model_copy(update={"exits": ExitSettings(**exits)})
    market.trade(NOON + DELAY, under)
    market.send(NOON + DELAY)
    market.send(NOON + len(closes) * timedelta(seconds=FIVE))


@pytest.mark.parametrize(
    ("closes", "exits", "columns", "price"),
    [
        ([100, 100, 99, 97], {"stop_loss": 0.02}, ("98", None, None), "98"),
        ([100, 100, 99, 97], {"stop_loss": 0.02, "take_profit": 0.05, "temperature_tightens": True},
         ("98.5", "105", None), "98.5"),
        ([100, 100, 103, 106], {"stop_loss": 0.02, "take_profit": 0.05}, ("98", "105", None), "105"),
        ([100, 100, 104, 103], {"trailing_stop": 0.005}, (None, None, "0.005"), "103.48"),
    ],
)  # fmt: skip
def test_an_entry_carries_its_bracket_and_its_position_leaves_at_the_exact_level(
    market: PaperMarket, closes: list[float], exits: dict[str, float], columns: tuple[str | None, ...], price: str
) -> None:
    """The trend falls by a little: WARM, three quarters of the stop's distance."""
    enter(market, closes, **exits)
    entry, leave = market.rows(ORDERS)
    named = tuple(entry[f"bracket_{name}"] for name in ("stop", "target", "trail"))
    assert named == tuple(None if column is None else Decimal(column) for column in columns)
    assert leave["purpose"] == "protect"
    bought, sold = market.fills()
    assert (bought["price"], sold["price"], sold["quantity"]) == (Decimal(100), Decimal(price), bought["quantity"])
    told = _exits(entry)
    assert ("98 or below" in told) == (columns[0] == "98")
    assert ("105 or above" in told) == (columns[1] == "105")
    assert ("0.50% below its highest price" in told) == (columns[2] is not None)


def test_without_a_setting_an_entry_names_nothing_and_stays(market: PaperMarket) -> None:
    enter(market, [100, 100, 90, 110])
    (entry,) = market.rows(ORDERS)
    assert not any(entry[f"bracket_{name}"] for name in ("stop", "target", "trail"))
    assert _exits(entry) == ""


# ── in the backtest ──────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def past(monkeypatch: pytest.MonkeyPatch) -> Past:
    made = make_past(monkeypatch, hours=48)
    made.settings = load_settings(
        universe={"venue": "test", "symbols": ["A/USDT", "B/USDT"]},
        risk={"daily_loss_limit": 0.2, "max_drawdown": 0.5},
        exits={"stop_loss": 0.01, "take_profit": 0.02, "trailing_stop": 0.005},
    )  # fmt: skip
    made.steer(daily_loss_limit=0.2, max_drawdown=0.5)
    return made


def run(past: Past, **changes: Any) -> tuple[set[str], str]:
    """The kinds of a book's fills, and what its terms say of brackets."""
    lab = past.laboratory(**{"limits": "operator"} | changes)
    book = lab.trade("x", None, only="vol_target")
    return {fill.kind for fill in book.fills}, _terms(lab, book).get("brackets", "")


def test_a_backtest_leaves_where_the_trader_would_and_says_what_it_cannot(past: Past) -> None:
    kinds, told = run(past)
    assert kinds == {"market", "stop", "target"}
    assert told == (
        "stop at 0.01 and target at 0.02 of the price at entry; the trailing stop of 0.005 is not simulated; "
        "as the trader places them ([exits]), the rules beside it have none"
    )
    assert run(past, limits="off") == ({"market"}, "")
    assert run(past, stop=0.0) == ({"market"}, "")
    kinds, told = run(past, stop=0.005)
    assert kinds == {"market", "stop"}
    assert told == "stop at 0.005 of the price at entry; an experiment, not placed by the trader"
    past.settings = past.settings.model_copy(update={"exits": ExitSettings(trailing_stop=0.01)})
    assert run(past)[0] == {"market"}
    assert run(past)[1].startswith("none simulated; the trailing stop of 0.01 is not simulated; as the trader places")


def test_what_was_stopped_is_not_entered_again_while_it_is_wanted(past: Past) -> None:
    book = past.laboratory(limits="operator", stop=0.005).trade("x", None, only="vol_target")
    stops = [fill for fill in book.fills if fill.kind == "stop"]
    assert stops
    for stop in stops:
        assert not [f for f in book.fills if f.instrument == stop.instrument and f.filled_at > stop.filled_at]
    assert {c.rule for d in book.decisions for clamps in d.clamps for c in clamps} >= {"stopped_out"}


def test_a_simulated_position_is_remembered_from_its_first_fill_until_it_is_dust() -> None:
    memory = SimulatedState(np.array([9.0, 0.1]))
    fills = [SimulatedFill(100, 1, 2.0, 50.0, 100.0, 0.0), SimulatedFill(200, 1, 6.0, 46.0, 276.0, 0.0)]
    fills += [SimulatedFill(300, 1, -7.0, 48.0, 336.0, 0.0), SimulatedFill(400, 1, 1.0, 40.0, 40.0, 0.0)]
    found = memory.at(fills).entries
    assert found is not None
    told = (found.price[1], found.quantity[1], found.at[1], found.average[1])
    assert told == (50.0, 2.0, 100, pytest.approx((100 + 276 + 40) / 9))
    assert (found.price[0], found.at[0]) == (0.0, 0)
    fills += [SimulatedFill(500, 1, -1.9, 48.0, 91.2, 0.0), SimulatedFill(600, 1, 3.0, 30.0, 90.0, 0.0)]
    again = memory.at(fills[:5]).entries
    assert again is not None
    assert (again.price[1], again.quantity[1], again.at[1], again.average[1]) == (0.0, 0.0, 0, 0.0), "a lot is dust"
    last = memory.at(fills).entries
    assert last is not None
    assert (last.price[1], last.quantity[1], last.at[1], last.average[1]) == (30.0, 3.0, 600, 30.0)


def test_what_was_stopped_is_entered_again_once_nothing_of_it_was_wanted() -> None:
    memory = SimulatedState(np.array([0.1]))
    bought, stopped = SimulatedFill(100, 0, 2.0, 50.0, 100.0, 0.0), SimulatedFill(200, 0, -2.0, 49.0, 98.0, 0.0, "stop")
    assert not memory.at([bought]).stopped_out[0]
    assert memory.at([bought, stopped]).stopped_out[0]
    memory.decided(200, np.array([0.0]))
    assert memory.at([bought, stopped]).stopped_out[0], "that was decided before the stop was known of"
    memory.decided(300, np.array([0.2]))
    assert memory.at([bought, stopped]).stopped_out[0]
    memory.decided(400, np.array([0.0]))
    assert not memory.at([bought, stopped]).stopped_out[0]
