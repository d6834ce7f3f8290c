"""From allowed weights to orders: what may be sent, and why nothing is."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.decision_kernel import full_weight
from policy.decision_path import Circumstances, plan
from policy.execution.plan import Plan, TradingRules
from policy.observation import View
from policy.risk.context import NO_LIMITS
from shared.money import to_money
from shared.rows import FloatArray
from shared.simulation.kernel import round_money
from tests.policy.synthetic import columns, make_book, make_config, make_market, make_view

# A full position is half of equity, and the band 4 % of that: 0.02.
CALM = 0.1
BAND = 0.04
RULES = TradingRules(np.array([0.01]), np.array([0.001]), np.array([10.0]), BAND, max_order_notional=1e9)


def circumstances(rules: TradingRules, in_flight: bool = False) -> Circumstances:
    n = len(rules.lot)
    return Circumstances(NO_LIMITS, rules, np.full(n, in_flight), wallet_paused=False, doubts=("",) * n)


def one(allowed: float, held: float, price: float = 100.0, worth: float = 1000.0, band: float = BAND, **rules: Any
        ) -> tuple[float, str]:  # fmt: skip
    """What is sent for one instrument by a book worth ``worth`` that holds so much of it."""
    book = make_book([held], [price], cash=worth - held * price)
    view = make_view(make_market([price], [0.0], [CALM]), book, band=band)
    made = plan(np.array([allowed]), view, circumstances(replace(RULES, **rules)))
    return float(made.quantity[0]), made.reasons[0]


def test_a_buy_and_a_sell_by_hand() -> None:
    """1000 in all, 2 held at 100: 20 %. To 50 %: 3 more. To 5 %: 1.5 less."""
    assert one(0.5, held=2) == (3.0, "buy to move weight 0.2000 to 0.5000")
    assert one(0.05, held=2) == (-1.5, "sell to move weight 0.2000 to 0.0500")
    assert one(0.2, held=2) == (0.0, "already there")


def test_quantities_are_whole_lots_rounded_towards_no_trade() -> None:
    assert one(0.33337, held=0)[0] == 3.333
    assert one(0.12345, held=2)[0] == -0.765
    assert one(0.5, held=2, price=33.33, lot=np.array([1.0]))[0] == 13.0  # 500 - 66.66 = 433.34


@pytest.mark.parametrize("direction", [1, -1])
def test_a_change_inside_the_band_is_not_worth_an_order(direction: int) -> None:
    quantity, reason = one(0.5 + direction * 0.0199, held=5)
    assert (quantity, "inside the band of 0.02" in reason) == (0.0, True)
    assert one(0.5 + direction * 0.0201, held=5)[0] == pytest.approx(direction * 0.201)
    assert one(0.5 + direction * 0.03125, held=5, band=0.0625)[0] != 0.0  # at the band is outside


def test_the_band_is_a_share_of_a_full_position_and_no_wider_than_one_of_max_position() -> None:
    """So that a timid steering, with its small positions, trades their changes all the same."""
    book = make_book([0.0], [100.0])
    for aversion, volatility, band in ((1.0, 1.0, 0.25), (10.0, 1.0, 0.25), (1.0, 0.1, 0.25), (2.0, 0.8, 0.5)):
        config = make_config(risk_aversion=aversion, max_position=0.3)
        view = make_view(make_market([100.0], [0.0], [volatility], config=config), book, band=band)
        edge = band * min(full_weight(volatility, 1, view.steering), 0.3)
        rules = circumstances(replace(RULES, lot=np.array([1e-8]), min_notional=np.array([0.0])))
        assert plan(np.array([edge * 0.999]), view, rules).quantity[0] == 0.0
        assert plan(np.array([edge * 1.001]), view, rules).quantity[0] > 0.0


def test_leaving_for_good_is_never_inside_the_band() -> None:
    assert one(0.0, held=0.15) == (-0.15, "sell to move weight 0.0150 to 0.0000")
    assert one(0.001, held=0.15)[0] == 0.0


def test_a_full_exit_sells_everything_even_what_is_no_whole_lot() -> None:
    assert one(0.0, held=2.0005)[0] == -2.0005
    assert one(0.0, held=2, lot=np.array([0.3]))[0] == -2.0


@pytest.mark.parametrize("held", [0.0, 5.0])
def test_an_order_below_the_venues_minimum_is_not_sent(held: float) -> None:
    direction = 1 if held == 0 else -1
    weight, least = held * 100 / 1000, np.array([50.0])
    quantity, reason = one(weight + direction * 0.0499, held=held, min_notional=least)
    assert (quantity, "below the venue's minimum of 50" in reason) == (0.0, True)
    assert one(weight + direction * 0.0501, held=held, min_notional=least)[0] == pytest.approx(direction * 0.501)


def test_what_is_less_than_a_lot_is_no_order_and_says_so() -> None:
    """Also for a venue without a minimum: a reason to buy and no order would be a lie."""
    for allowed, held in ((0.05, 0.0), (0.45, 5.0)):
        quantity, reason = one(allowed, held=held, lot=np.array([1.0]), min_notional=np.array([0.0]))
        assert quantity == 0.0
        assert not np.signbit(quantity)
        assert "is less than a lot of 1" in reason


def test_an_order_in_flight_or_a_missing_candle_or_price_stops_entries_and_exits_alike() -> None:
    view = make_view(make_market([100.0], [0.0], [CALM]), make_book([2.0], [100.0], cash=800))
    blind = replace(view, market=replace(view.market, tradable=np.array([False])))
    unpriced = make_view(make_market([np.nan], [0.0], [CALM]), make_book([0.0], [100.0]))
    for allowed in (0.0, 0.5):
        wanted = np.array([allowed])
        for where, flying, why in (
            (view, True, "an earlier order is still open"),
            (blind, False, "its newest candle is missing"),
            (unpriced, False, "it never had a price"),
        ):
            made = plan(wanted, where, circumstances(RULES, flying))
            assert (made.quantity[0], made.reasons) == (0.0, [why])


def test_one_instruments_order_in_flight_does_not_stop_anothers() -> None:
    book = make_book([2.0, 2.0], [100.0, 100.0], cash=600)
    view = make_view(make_market([100.0, 100.0], [0.0, 0.0], [CALM, CALM]), book)
    rules = replace(RULES, tick=np.full(2, 0.01), lot=np.full(2, 0.001), min_notional=np.full(2, 10.0))
    state = replace(circumstances(rules), in_flight=np.array([True, False]))
    assert plan(np.array([0.5, 0.5]), view, state).quantity.tolist() == [0.0, 3.0]


def test_the_notional_limit_cuts_entries_and_not_exits() -> None:
    assert one(0.5, held=0, max_order_notional=123.456)[0] == 1.234
    assert one(0.0, held=5, max_order_notional=123.456)[0] == -5.0
    assert one(0.1, held=5, max_order_notional=123.456)[0] == -4.0
    assert one(0.5, held=0, max_order_notional=5.0)[0] == 0.0  # what is left of it is below the venue's minimum


Situation = tuple[FloatArray, View, TradingRules, Plan]


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    n = draw(st.integers(1, 3))
    share = st.sampled_from([0.0, 0.5]) | st.floats(0, 1)
    allowed, prices = draw(columns(share, n)) / n, draw(columns(st.floats(0.01, 1e5), n))
    lot = draw(columns(st.sampled_from([1e-8, 1e-5, 0.001, 1.0]), n))
    worth = draw(columns(share, n)) * 1e5
    held = [round_money(value / price) for value, price in zip(worth.tolist(), prices.tolist(), strict=True)]
    rules = TradingRules(np.full(n, 0.01), lot, draw(columns(st.sampled_from([0.0, 10.0]), n)), BAND,
                         draw(st.sampled_from([500.0, 1e9])))  # fmt: skip
    book = make_book(held, prices.tolist(), cash=draw(st.floats(0, 1e5)))
    market = make_market(prices.tolist(), [0.0] * n, draw(columns(st.floats(0.05, 3.0), n)).tolist())
    view = make_view(market, book, band=draw(st.sampled_from([0.0, 0.02, 0.25])))
    return allowed, view, rules, plan(allowed, view, circumstances(rules))


@given(situations())
def test_every_order_keeps_the_rules(situation: Situation) -> None:
    allowed, view, rules, made = situation
    book, prices, cap = view.book, view.market.prices, view.market.config.max_position
    weights = book.weights(prices)
    for n, quantity in enumerate(made.quantity.tolist()):
        value, change = abs(quantity) * prices[n], allowed[n] - weights[n]
        if quantity == 0.0:
            assert not made.reasons[n].startswith(("buy", "sell"))
            continue
        assert made.reasons[n].startswith("buy" if quantity > 0 else "sell")
        assert (quantity > 0) == (change > 0)
        assert quantity >= -book.held[n]
        assert value >= rules.min_notional[n]
        assert value <= abs(change) * book.equity * (1 + 1e-9) + rules.lot[n] * prices[n] * 1e-6
        if allowed[n] == 0.0:
            assert quantity == -book.held[n]
        else:
            full = full_weight(float(view.market.volatility[n]), len(allowed), view.steering)
            assert abs(change) >= view.steering.band * min(full, cap)
            whole = to_money(quantity) % to_money(rules.lot[n]) == 0
            assert whole or quantity == -book.held[n]
        if quantity > 0:
            assert value <= rules.max_order_notional * (1 + 1e-9)


@given(situations())
def test_who_wants_nothing_and_may_sell_it_sells_all_it_holds(situation: Situation) -> None:
    allowed, view, rules, made = situation
    held, prices = view.book.held, view.market.prices
    for n in np.flatnonzero((allowed == 0.0) & (held > 0.0)):
        sold = Decimal(repr(float(-made.quantity[n])))
        assert sold == (to_money(held[n]) if held[n] * prices[n] >= rules.min_notional[n] else 0)
