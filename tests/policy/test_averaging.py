"""Buying more of what fell: levels in time, what is held at least, caps, and the jobs beside a backtest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.types.json import Json

from policy import backtest
from policy.averaging import Averaging, Entries, averaged_price, averaging_of, floor_quantity, floor_weights
from policy.averaging import levels_reached as reached
from policy.decision_path import Decision, decide
from policy.exits import ExitRules
from policy.observation import View
from policy.portfolio_state import read_portfolio_state
from policy.risk.context import NO_LIMITS, PortfolioState
from policy.risk.history import CloseHistory, PortfolioHistory
from policy.strategies import STRATEGIES
from policy.strategies.residual import Residual
from shared.clock import to_unix
from shared.db import load_queries
from shared.exit_settings import ExitSettings
from shared.rows import Candles, FloatArray, Instrument
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor
from tests.policy.paper_world import (
    CALM,
    DECISIONS,
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

LEVELS = (0.025, 0.05, 0.1, 0.2, 0.3)
T0 = to_unix(NOON)
RULES = Averaging(LEVELS, 2.0, 2, T0)


# ── which level is reached ───────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("closes", "levels"),
    [
        ([], 0),
        ([100, 97.51, 99], 0),
        ([97.5], 1),  # at the level
        ([97.4, 97.4, 97.4], 1),  # once
        ([97.4, 103, 97.4], 1),  # also when it comes back
        ([94.9], 1),  # one level a close
        ([94.9, 94.9], 2),
        ([97.4, 94.9, 80, 80], 2),  # two in 24 hours
        ([97.4, 94.9, *[60] * 22], 2),
        ([97.4, 94.9, *[60] * 23], 3),  # 24 hours after the first
        ([97.4, 94.9, *[60] * 24], 4),  # and after the second
        ([97.4, 94.9, *[60] * 46], 4),
        ([97.4, 94.9, *[60] * 47], 5),
        ([97.4, *[99] * 30, 94.9, 89.9], 3),
        ([97.4, 94.9, *[60] * 200], 5),  # there are no more
        ([np.nan, 97.4, np.nan], 1),
    ],
)
def test_levels_are_reached_in_time_and_no_more_than_two_a_day(closes: list[float], levels: int) -> None:
    assert len(reached(np.array(closes, dtype=float), 100.0, LEVELS, 2, 24)) == levels


@given(st.lists(st.floats(50.0, 110.0), max_size=60), st.integers(1, 3), st.sampled_from([2, 6, 24]))
def test_the_walk_is_the_one_of_the_definition(closes: list[float], a_day: int, stride: int) -> None:
    """Close by close, as the words say it."""
    bought: list[int] = []
    for at, close in enumerate(closes):
        recent = [b for b in bought if at - b < stride]
        if len(bought) < len(LEVELS) and len(recent) < a_day and close <= 100.0 * (1.0 - LEVELS[len(bought)]):
            bought.append(at)
    assert reached(np.array(closes), 100.0, LEVELS, a_day, stride) == bought
    for count in range(len(closes)):  # what was reached is not taken back
        assert reached(np.array(closes[:count]), 100.0, LEVELS, a_day, stride) == [b for b in bought if b < count]


# ── what is held at least ────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("levels", "now", "held", "least"),
    [
        (0, False, 2.0, 0.0),  # none reached: the strategies may sell all they like
        (1, True, 2.0, 6.0),  # 2 + 4
        (2, True, 6.0, 14.0),  # + 8
        (2, False, 6.0, 6.0),  # missed, and not made up for
        (2, True, 2.0, 10.0),  # nor with the next one
        (2, True, 9.0, 14.0),  # the strategies had more already
        (2, True, 20.0, 14.0),
        (2, False, 14.0, 14.0),  # what was bought is kept
        (2, False, 20.0, 14.0),
        (5, True, 62.0, 126.0),  # 63 times the first
    ],
)
def test_the_floor_by_hand(levels: int, now: bool, held: float, least: float) -> None:
    assert floor_quantity(levels, now, held, 2.0, 2.0) == least


def entries(price: float = 100.0, quantity: float = 2.0, at: int = T0 - 3 * HOUR_S, average: float = 100.0) -> Entries:
    """Of two instruments, the first."""
    return Entries(np.array([price, 0.0]), np.array([quantity, 0.0]), np.array([at, 0]), np.array([average, 0.0]))


def weights(found: Entries, closes: Sequence[float], equity: float = 1000.0, **changes: Any) -> Any:
    both = np.column_stack([closes, closes]).astype(float)
    given_ = {"prices": both[-1], "held": np.array([2.0, 2.0]), "equity": equity} | changes
    return floor_weights(found, RULES, both, 24, given_["prices"], given_["held"], given_["equity"]).tolist()


def test_only_closes_since_the_entry_count_and_only_where_somebody_bought() -> None:
    assert weights(entries(), [90, 97, 97, 97]) == pytest.approx([2 * 97 / 1000, 0.0]), "two hours ago"
    assert weights(entries(), [90, 99, 99, 97]) == pytest.approx([6 * 97 / 1000, 0.0])
    assert weights(entries(), [90, 99, 97, 94]) == pytest.approx([10 * 94 / 1000, 0.0]), "97 was missed"
    assert weights(entries(), [90, 99, 99, 99]) == [0.0, 0.0], "90 was before it"
    assert weights(entries(at=T0), [90, 90, 90, 90]) == [0.0, 0.0]
    assert weights(entries(at=T0 - 1), [90, 90, 90, 97])[0] > 0.0
    assert weights(entries(at=T0 - 10_000 * HOUR_S), [97, 99])[0] == pytest.approx(0.198), "kept; the rest is forgotten"
    assert weights(entries(), [90, 99, 99, 97], held=np.zeros(2)) == [0.0, 0.0]
    assert weights(entries(), [90, 99, 99, 97], equity=0.0) == [0.0, 0.0]
    assert weights(entries(), [90, 99, 99, 97], equity=10.0) == [1.0, 0.0]
    assert weights(entries(), [90, 99, 99, 97], prices=np.full(2, np.nan)) == [0.0, 0.0]


def test_the_average_is_that_of_what_will_be_held() -> None:
    prices, held, quantity = np.array([97.0, 50.0]), np.array([2.0, 5.0]), np.array([4.0, 1.0])
    found = averaged_price(entries(), np.array([True, False]), quantity, prices, held)
    assert found.tolist() == pytest.approx([(200 + 388) / 6, 50.0])


# ── the decision ─────────────────────────────────────────────────────────────────────────────────────────────
def two(wanted: float = 0.1, **changes: Any) -> Decision:
    """A at 97 an hour after 100, 2 of it held of 2,000; the strategies want ``wanted`` of A and as much of B."""
    closes = np.array([[100.0, 50.0], [100.0, 50.0], [97.0, 50.0]])
    config = make_config(strategy_weights={"rebalanced_hold": 2 * wanted, "cash": 1 - 2 * wanted})
    history = PortfolioHistory(CloseHistory(closes, 24), 2)
    market = make_market([97.0, 50.0], [0.0, 0.0], [0.5, 0.5], config=config, history=history)
    book = make_book([2.0, 0.0], [97.0, 50.0], cash=2000.0 - 194.0)
    state = replace(PortfolioState.fresh(2), entries=entries(at=T0 - 2 * HOUR_S))
    free = make_circumstances(2, averaging=RULES, state=state)
    return decide(make_view(market, book), None, replace(free, **changes))


def test_averaging_is_a_contribution_of_its_own_and_rules_come_after() -> None:
    decision = two()
    assert decision.wanted.tolist() == pytest.approx([6 * 97 / 2000, 0.1])
    assert decision.contributions["averaging"].tolist() == pytest.approx([6 * 97 / 2000 - 0.1, 0.0])
    assert np.sum(list(decision.contributions.values()), axis=0).tobytes() == decision.wanted.tobytes()
    assert decision.plan.quantity[0] == pytest.approx(4.0, abs=1e-4)
    capped = two(operator=replace(NO_LIMITS, max_position=0.15))
    assert capped.wanted.tolist() == decision.wanted.tolist()
    assert capped.allowed.tolist() == pytest.approx([0.15, 0.1])
    assert [clamp.rule for clamp in capped.clamps[0]] == ["max_position"]


def test_off_or_unknown_or_unwanted_it_says_nothing() -> None:
    off = two(averaging=None)
    assert set(off.contributions) == {"rebalanced_hold", "cash"}
    assert two(state=None).wanted.tobytes() == off.wanted.tobytes()
    assert two(state=PortfolioState.fresh(2)).wanted.tobytes() == off.wanted.tobytes()
    unwanted = two(wanted=0.0)
    assert unwanted.wanted.tolist() == [0.0, 0.0], "it is left, not averaged"
    more = two(wanted=0.4)
    assert "averaging" not in more.contributions


def test_an_averaging_order_is_left_by_the_average() -> None:
    decision = two(exits=ExitRules(stop=0.1, target=0.05))
    assert decision.brackets is not None
    bought = float(decision.plan.quantity[0])
    average = (2 * 100 + bought * 97) / (2 + bought)
    assert decision.brackets.target[0] == np.ceil(average * 105.0 - 1e-6) / 100
    assert decision.brackets.stop[0] == np.floor(average * 90.0 + 1e-6) / 100
    assert (decision.brackets.stop[1], decision.brackets.target[1]) == (45.0, 52.5), "B is opened at its price"
    waits = two(exits=ExitRules(stop=0.1, target=0.05), in_flight=np.array([True, False])).brackets
    assert waits is not None
    assert waits.named.tolist() == [False, True], "no order, nothing to leave"


def test_the_operator_turns_it_on() -> None:
    assert averaging_of(ExitSettings(), T0) is None
    assert averaging_of(ExitSettings(averaging=True), T0) == RULES


# ── the jobs, and the backtest of the same hours ─────────────────────────────────────────────────────────────
HOURS = [100, 97, 94.5, 89, 98, 98, 98, 103, 103]  # the closes from noon on
EXITS = ExitSettings(averaging=True, take_profit=0.05, stop_loss=0.14)


def a_tenth(view: View, residual: Residual | None) -> FloatArray | None:
    return np.full(len(view.market.prices), 0.1)


@pytest.fixture
def lived(
    rolled_back: None, database_for: DatabaseFor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> PaperMarket:
    """A strategy that always wants a tenth lives through HOURS, in twelve equal steps from each to the next."""
    monkeypatch.setitem(STRATEGIES, "tenth", a_tenth)
    risk = settings.risk.model_copy(update={"daily_loss_limit": 0.2, "max_drawdown": 0.5})
    market = PaperMarket(database_for, settings.model_copy(update={"exits": EXITS, "risk": risk}))
    market.store(A, HOUR_S, candles(NOON - (HISTORY + 1) * HOUR, HOUR_S, [*CALM, 100.0, *HOURS[1:]]))
    way = np.concatenate([np.linspace(a, b, 13)[1:] for a, b in pairwise([100.0, *HOURS[1:]])])
    open_ = np.concatenate([[100.0], way[:-1]])
    as_of, ones = T0 + FIVE * np.arange(1, len(way) + 1), np.full(len(way), 1e6)
    columns = [as_of, open_, np.maximum(open_, way), np.minimum(open_, way), way, ones, ones]
    market.store(A, FIVE, Candles.from_columns(columns))
    market.store(A, FIVE, candles(NOON - 10 * MINUTE, FIVE, [100.0, 100.0]))
    weights_ = Json({"tenth": 1.0})
    insert_config(market, NOON, strategy_weights=weights_, valid_until=NOON + 24 * HOUR, max_position=0.5,
                  daily_loss_limit=0.2, max_drawdown=0.5)  # fmt: skip
    market.wallet("w", NOON, symbols=(A,))
    for hour in range(len(HOURS)):
        moment = NOON + hour * HOUR
        market.send(moment)
        market.trade(moment + DELAY)
        market.send(moment + DELAY)
        market.send(moment + 10 * MINUTE)
    return market


def the_state_is_in_the_rows_as_of_then(lived: PaperMarket) -> None:
    """Whoever starts anew finds it: also afterwards, what it was at each moment."""
    database = lived.database_for("policy")
    (wallet,), asked = lived.rows("SELECT id FROM wallets"), {"venue": "test", "symbols": [A]}
    instruments = database.fetch_rows(Instrument, load_queries("shared")["find_instruments"], asked)

    def at(moment: datetime) -> Entries:
        found = read_portfolio_state(database, wallet["id"], instruments, moment).entries
        assert found is not None
        return found

    opened, one, *_ = lived.fills()
    for moment in (NOON + HOUR, NOON + 2 * HOUR, NOON + 6 * HOUR):
        found = at(moment)
        assert (found.price[0], found.quantity[0]) == (float(opened["price"]), float(opened["quantity"]))
        assert found.at[0] == to_unix(opened["filled_at"])
    assert at(NOON + HOUR).average[0] == float(opened["price"])
    paid = sum(float(f["price"] * f["quantity"]) for f in (opened, one))
    assert at(NOON + 2 * HOUR).average[0] == pytest.approx(paid / float(opened["quantity"] + one["quantity"]))
    again, anew = lived.fills()[-1], at(NOON + 8 * HOUR)
    assert (anew.price[0], anew.average[0]) == (float(again["price"]), float(again["price"])), "what was before is gone"
    for empty in (at(NOON), at(NOON + 7 * HOUR)):
        assert (empty.price[0], empty.quantity[0], empty.at[0], empty.average[0]) == (0.0, 0.0, 0, 0.0)


def test_a_path_buys_once_a_level_caps_win_and_the_average_leaves(lived: PaperMarket) -> None:
    rows, orders = lived.rows(DECISIONS), lived.rows(ORDERS)
    first = float(orders[0]["quantity"])
    parts = [row["contributions"].get("averaging", 0.0) for row in rows]
    assert [part > 0.0 for part in parts] == [False, True, True, True, True, True, True, False, False]
    opened, one, capped, *rest = [o for o in orders if o["side"] == "buy"]
    assert float(one["quantity"]) == pytest.approx(2 * first, rel=1e-4)
    assert float(capped["quantity"]) < 4 * first
    assert [clamp["rule"] for clamp in rows[2]["clamps"]] == ["max_position"]
    held = float(rows[3]["quantity_held"])
    assert rows[3]["wanted_weight"] == pytest.approx(held * 89 / rows[3]["equity"]), "no third level in a day"
    assert not [o for o in rest if o["recorded_at"] < NOON + 7 * HOUR], "and the cut one is not made up for"
    average = (float(lived.fills()[0]["price"]) + 2 * 97) / 3
    assert float(opened["bracket_target"]) == 105.0
    assert float(one["bracket_target"]) == pytest.approx(average * 1.05, abs=0.01)
    assert float(capped["bracket_target"]) < float(one["bracket_target"])
    leave = next(o for o in orders if o["purpose"] == "protect")
    assert (leave["type"], leave["stop_price"]) == ("take_profit", capped["bracket_target"])
    for row in rows:
        assert row["wanted_weight"] == sum(row["contributions"].values())
    the_state_is_in_the_rows_as_of_then(lived)


def test_the_backtest_averages_likewise(lived: PaperMarket) -> None:
    database = lived.database_for("policy")
    last = NOON + (len(HOURS) - 1) * HOUR
    request = backtest.Request(backtest.find_wallet(database, last, "w"), NOON, last, 10_000.0, "operator", shifts=0)
    result = backtest.run_backtest(database, lived.settings, request)
    stored = [(r["as_of"], r["wanted_weight"], r["allowed_weight"], r["contributions"]) for r in lived.rows(DECISIONS)]
    assert stored == [
        (as_of, float(d.wanted[0]), float(d.allowed[0]), {k: float(v[0]) for k, v in d.contributions.items()})
        for as_of, d in zip(result.decision_times, result.decisions, strict=True)
    ]
    fills = [(to_unix(f["filled_at"]), float(f["quantity"]), float(f["price"])) for f in lived.fills()]
    assert fills == [(f.filled_at, abs(f.quantity), f.price) for f in result.fills]
    assert {f.kind for f in result.fills} == {"market", "target"}
    assert result.terms["averaging"].startswith("at 0.025, 0.05, 0.1, 0.2, 0.3 below the first entry, each buy 2 ×")
