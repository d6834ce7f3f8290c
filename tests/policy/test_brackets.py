"""What a position is to be left at, as a pure function; and the collar of an order that takes at once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.decision_rows import order_terms
from policy.execution.brackets import Bracket, Exits, desired_exits
from policy.execution.collar import collar

BELOW = Decimal("0.15")
NO = Bracket(None, None, None, datetime(2026, 1, 1, tzinfo=UTC), Decimal(100))
PRICES = st.decimals("1", "1000", places=2)
SHARES = st.decimals("0.001", "0.9", places=3)


def told(number: str | None) -> Decimal | None:
    return None if number is None else Decimal(number)


def holding(quantity: str = "2", close: float | None = 100.0) -> dict[str, Any]:
    return {"quantity": Decimal(quantity), "close": close, "tick_size": Decimal("0.01"), "lot_size": Decimal("0.001"),
            "min_quantity": Decimal("0.001"), "min_notional": Decimal(10)}  # fmt: skip


def exits(bracket: Bracket | None = None, cost: str | None = "100", close: float = 100.0, others: str = "0",
          resting: str | None = None, **more: Any) -> Exits:  # fmt: skip
    return desired_exits(holding(close=close), told(cost), Decimal(others), BELOW,
                         told(resting), bracket, **more)  # fmt: skip


@pytest.mark.parametrize(
    ("cost", "close", "resting", "stop"),
    [
        ("100", 100.0, None, "85"),
        ("100", 80.0, None, "68"),  # fell before it was ours: not to be sold by being protected
        ("100", 80.0, "85", "85"),  # a falling price moves no stop
        ("100", 90.0, "68", "76.5"),  # a rising one does, up to what the cost says
        ("100", 300.0, "85", "85"),
        ("90", 100.0, "85", "76.5"),  # a lower cost does too
        ("100.9", 100.9, "85", "85"),  # less than 1 % is not worth a request
        ("101", 101.0, "85", "85.85"),
        (None, 100.0, None, "85"),
        (None, 90.0, "85", "85"),  # of an unknown cost, the highest price since tells
        (None, 110.0, "85", "93.5"),
    ],
)
def test_the_catastrophe_stop(cost: str | None, close: float, resting: str | None, stop: str) -> None:
    assert exits(cost=cost, close=close, resting=resting) == Exits(Decimal(2), Decimal(stop))


@pytest.mark.parametrize(
    ("stop", "trail", "peak", "resting", "wanted"),
    [
        ("98", None, "100", None, "98"),
        ("80", None, "100", None, "85"),  # the catastrophe stop is higher
        (None, "0.005", "100", None, "99.50"),
        (None, "0.005", "104", "99.50", "103.48"),
        ("98", "0.005", "100", None, "99.50"),
        ("99.7", "0.005", "100", None, "99.70"),
        ("98.005", None, "100", "97.99", "98"),  # on the tick below; and by whatever little
    ],
)
def test_the_highest_of_the_three_stops_counts(
    stop: str | None, trail: str | None, peak: str, resting: str | None, wanted: str
) -> None:
    bracket = replace(NO, stop=told(stop), trail=told(trail), peak=Decimal(peak))
    assert exits(bracket, resting=resting).stop == Decimal(wanted)


def test_the_venue_trails_where_it_can_and_nothing_else_is_higher() -> None:
    trailing = replace(NO, trail=Decimal("0.005"))
    assert exits(trailing, can_trail=True).trail == Decimal("0.005")
    assert exits(trailing).trail is None
    assert exits(replace(trailing, stop=Decimal("99.7")), can_trail=True).trail is None
    assert exits(replace(trailing, trail=Decimal("0.2")), can_trail=True).trail is None


@pytest.mark.parametrize(
    ("high", "target", "tried", "at"),
    [("105", "105", False, "105"), ("104.99", "105", False, None), ("105", "105", True, None),
     (None, "105", False, None), ("106", "104.999", False, "105"), ("104.999", "104.999", False, None),
     ("106", None, False, None)],
)  # fmt: skip
def test_a_target_is_reached_on_the_tick_above_it(
    high: str | None, target: str | None, tried: bool, at: str | None
) -> None:
    bracket = replace(NO, target=told(target), high=told(high), tried=tried)
    assert exits(bracket).target == told(at)


@pytest.mark.parametrize(("close", "breached"), [("98.01", False), ("98", True), ("97", True), (None, False)])
def test_a_price_at_its_stop_is_breached(close: str | None, breached: bool) -> None:
    bracket = replace(NO, stop=Decimal(98), close=told(close))
    assert exits(bracket).breached is breached


@pytest.mark.parametrize(
    ("held", "others", "quantity"), [("2", "0.5", "1.5"), ("2.0009", "0", "2"), ("2", "2", "0"), ("2", "1.9", "0")]
)
def test_a_stop_sells_what_nothing_else_sells_in_whole_lots_above_dust(held: str, others: str, quantity: str) -> None:
    made = desired_exits(holding(held), Decimal(100), Decimal(others), BELOW)
    assert made.quantity == Decimal(quantity)


@given(
    held=st.decimals("0", "100", places=4), others=st.decimals("0", "100", places=4), cost=st.none() | PRICES,
    stop=st.none() | PRICES, trail=st.none() | SHARES, peak=PRICES, rise=PRICES,
    closes=st.lists(PRICES, min_size=1, max_size=6),
)  # fmt: skip
def test_stops_sell_no_more_than_is_left_and_never_sink(
    held: Decimal, others: Decimal, cost: Decimal | None, stop: Decimal | None, trail: Decimal | None, peak: Decimal,
    rise: Decimal, closes: list[Decimal],
) -> None:  # fmt: skip
    resting: Decimal | None = None
    bracket = replace(NO, stop=stop, trail=trail, peak=peak)
    for n, close in enumerate(closes):
        made = desired_exits(holding(str(held), float(close)), cost, others, BELOW, resting, bracket)
        assert 0 <= made.quantity <= max(held - others, Decimal(0))
        assert made.quantity % Decimal("0.001") == 0
        assert made.stop % Decimal("0.01") == 0
        assert made.stop > 0
        assert resting is None or made.stop >= resting
        resting, bracket = made.stop, replace(bracket, peak=peak + rise * (n + 1))


@given(close=st.floats(0.001, 1e6), slippage=st.floats(0.0001, 0.1), tick=st.sampled_from(("0.01", "0.00001", "0.5")))
def test_a_collar_is_never_exceeded(close: float, slippage: float, tick: str) -> None:
    step, exact = Decimal(tick), Decimal(repr(close))
    most, least = (exact * (1 + way * Decimal(str(slippage))) for way in (1, -1))
    buy, sell = collar("buy", close, slippage, step), collar("sell", close, slippage, step)
    assert buy % step == sell % step == 0
    assert buy == step or most - step < buy <= most
    assert sell == step or least <= sell < least + step


def test_live_orders_have_a_collar_and_paper_ones_fill_at_the_market() -> None:
    live = {"mode": "live", "name": "w"}
    tick = Decimal("0.1")
    limit = {"type": "limit", "time_in_force": "ioc"}
    assert order_terms(live, "buy", 100.03, tick, 0.01) == limit | {"limit_price": Decimal("101.0")}
    assert order_terms(live, "sell", 100.03, tick, 0.01) == limit | {"limit_price": Decimal("99.1")}
    market = {"type": "market", "time_in_force": "gtc", "limit_price": None}
    assert order_terms({"mode": "paper", "name": "w"}, "buy", 100.03, tick, 0.01) == market
    with pytest.raises(ValueError, match="collar"):
        order_terms(live, "buy", 100.03, tick, None)
