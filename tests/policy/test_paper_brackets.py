"""Brackets of paper wallets: left inside a candle as the simulation leaves them, at exact levels."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from policy.execution.plan import TradingRules
from policy.simulator import BarGrid, Costs, Simulator
from shared.clock import to_unix
from shared.money import to_float, to_money
from shared.rows import Candles
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor, random_candles
from tests.policy.paper_world import DELAY, FIVE, MINUTE, A, B, PaperMarket, candles

pytestmark = pytest.mark.usefixtures("rolled_back")

BARS = 60
STEP = timedelta(seconds=FIVE)
END = to_unix(NOON) + BARS * FIVE
BEFORE = candles(NOON - 10 * MINUTE, FIVE, [100.0, 100.0])
Fill = tuple[int, str, Decimal, Decimal, Decimal, Decimal]  # opened, side, quantity, price, cost, fee


@pytest.fixture
def market(database_for: DatabaseFor, settings: Settings) -> PaperMarket:
    made = PaperMarket(database_for, settings)
    for symbol in (A, B):
        made.store(symbol, FIVE, BEFORE)
    return made


def wild(seed: int) -> Candles:
    return random_candles(BARS, FIVE, seed, end=END, volatility=0.004)


def told(market: PaperMarket, wallet: int) -> list[Fill]:
    rows = market.rows("SELECT f.* FROM fills f JOIN orders o ON o.id = f.order_id WHERE f.wallet_id = %(w)s"
                       " ORDER BY f.filled_at, f.side, o.instrument_id", w=wallet)  # fmt: skip
    return [(to_unix(r["filled_at"]), r["side"], r["quantity"], r["price"], r["cost"], r["fee"]) for r in rows]


def simulated(made: Candles, stop: float, target: float, market: PaperMarket) -> list[Fill]:
    """One entry of 10 at noon, bracketed; nothing else."""
    (rules,) = market.rows("SELECT tick_size, lot_size FROM instruments LIMIT 1")
    tick, lot = np.array([to_float(rules["tick_size"])]), np.array([to_float(rules["lot_size"])])
    book = Simulator(BarGrid.of([made], FIVE, to_unix(NOON), END), TradingRules(tick, lot, np.zeros(1), 0.0, np.inf),
                     Costs(40.0, 5.0, 1.0), int(DELAY.total_seconds()), 3600, 10_000.0)  # fmt: skip
    book.place(np.array([10.0]), NOON, np.array([0.9]), np.array([stop]), np.array([target]))
    book.advance_to(NOON + BARS * STEP)
    return [(f.filled_at, "buy" if f.quantity > 0 else "sell", to_money(abs(f.quantity)), to_money(f.price),
             to_money(f.cost), to_money(f.fee)) for f in book.fills]  # fmt: skip


@pytest.mark.parametrize("every", [1, 7, BARS])
def test_a_bracket_on_paper_is_left_as_the_simulation_leaves_it(market: PaperMarket, every: int) -> None:
    """Many wallets, one a level; the sender looks every so many candles."""
    instrument = market.store(A, FIVE, wild(3))
    levels = [(98.0, 0.0), (0.0, 101.5), (99.0, 101.0), (99.5, 100.5), (90.0, 120.0), (99.93, 100.07)]
    wallets = [market.wallet(f"w{n}", NOON) for n in range(len(levels))]
    for wallet, (stop, target) in zip(wallets, levels, strict=True):
        market.order(wallet, instrument, "buy", "10", volatility=0.9, **_bracket(stop, target))
    market.send(NOON + DELAY)
    for bars in range(every, BARS + every, every):
        market.send(NOON + min(bars, BARS) * STEP + timedelta(seconds=30))
    for wallet, (stop, target) in zip(wallets, levels, strict=True):
        expected = simulated(wild(3), stop, target, market)
        assert told(market, wallet) == expected
    assert [row["type"] for row in market.rows("SELECT DISTINCT type FROM orders ORDER BY 1")] == [
        "market", "stop", "take_profit"
    ]  # fmt: skip


def _bracket(stop: float, target: float) -> dict[str, Any]:
    named = {"bracket_stop": to_money(stop), "bracket_target": to_money(target)}
    return {name: value for name, value in named.items() if value}


def path(closes: Sequence[float]) -> Candles:
    """Each candle opens where the one before it closed, and has no wicks."""
    close = np.array(closes)
    open_ = np.concatenate([[close[0]], close[:-1]])
    as_of = to_unix(NOON) + FIVE * np.arange(1, len(close) + 1)
    high, low, ones = np.maximum(open_, close), np.minimum(open_, close), np.ones(len(close))
    return Candles.from_columns([as_of, open_, high, low, close, ones, ones])


@pytest.mark.parametrize(
    ("closes", "bracket", "price", "bar"),
    [
        ([100, 100, 100, 99, 97.5], {"bracket_stop": "98"}, "98.00", 4),  # 2 % below
        ([100, 100, 100, 99, 96.5, 96], {"bracket_stop": "97", "bracket_target": "105"}, "97.00", 4),
        ([100, 100, 100, 103, 105.5], {"bracket_stop": "98", "bracket_target": "105"}, "105.00", 4),  # 5 % above
        ([100, 100, 100, 99.5], {"bracket_trail": "0.005"}, "99.50", 3),  # from the entry itself
        ([100, 100, 100, 104, 103.4], {"bracket_trail": "0.005"}, "103.48", 4),  # 0.5 % below 104
        ([100, 100, 100, 104, 103.6, 106, 105], {"bracket_trail": "0.005"}, "105.47", 6),
        ([100, 100, 100, 100.1, 99.5], {"bracket_trail": "0.005", "bracket_stop": "99.7"}, "99.70", 4),  # the higher
    ],
)
def test_a_price_path_is_left_at_the_exact_level(
    market: PaperMarket, closes: list[float], bracket: dict[str, str], price: str, bar: int
) -> None:
    """Without a spread or impact: at the level itself, on the tick below."""
    instrument = market.store(A, FIVE, path([*closes, *[closes[-1]] * 3]))
    wallet = market.wallet("w", NOON)
    market.database_for("owner").execute("UPDATE wallets SET slippage_bps = 0, impact = 0")
    named: dict[str, Any] = {name: Decimal(value) for name, value in bracket.items()}
    market.order(wallet, instrument, "buy", "2", **named)
    market.send(NOON + DELAY)
    market.send(NOON + (len(closes) + 3) * STEP)
    entry, leave = told(market, wallet)
    assert (entry[3], leave[1:4]) == (Decimal(100), ("sell", Decimal(2), Decimal(price)))
    assert leave[0] == to_unix(NOON + bar * STEP)
    assert market.held(wallet)[instrument] == 0
    assert market.send(NOON + (len(closes) + 3) * STEP).status == "nothing"


def test_what_was_sized_for_the_position_ends_with_it_and_what_came_later_does_not(market: PaperMarket) -> None:
    instrument = market.store(A, FIVE, path([100, 100, 100, 97, 97, 97, 97, 97, 97, 97]))
    wallet = market.wallet("w", NOON)
    market.order(wallet, instrument, "buy", "2", bracket_stop=Decimal(98))
    market.send(NOON + DELAY)
    market.send(NOON + 3 * STEP)
    more = market.order(wallet, instrument, "sell", "1", NOON + 2 * STEP + DELAY + STEP)  # decided before, due after
    market.send(NOON + 3 * STEP + MINUTE)
    market.send(NOON + 5 * STEP)
    assert market.events(more) == ["accepted", "canceled"]
    assert "its position was left" in market.detail(more)
    assert market.held(wallet)[instrument] == 0
    market.order(wallet, instrument, "buy", "1", NOON + 5 * STEP + DELAY)  # names none, and the old one is gone
    market.send(NOON + 5 * STEP + DELAY)
    market.send(NOON + 10 * STEP)
    assert market.held(wallet)[instrument] == 1


def test_a_halted_wallet_leaves_when_the_halt_is_over_at_the_same_candle(market: PaperMarket) -> None:
    instrument = market.store(A, FIVE, path([100, 100, 100, 97, 99, 99, 99]))
    wallet = market.wallet("w", NOON)
    market.order(wallet, instrument, "buy", "2", bracket_stop=Decimal(98))
    market.send(NOON + DELAY)
    market.send(NOON + 3 * STEP)
    market.command(NOON + 3 * STEP, "halt")
    assert market.send(NOON + 5 * STEP).status == "nothing"
    assert market.held(wallet)[instrument] == 2
    market.command(NOON + 6 * STEP, "resume")
    market.send(NOON + 6 * STEP)
    assert [fill[0] for fill in told(market, wallet)] == [to_unix(NOON + STEP), to_unix(NOON + 3 * STEP)]


def test_a_candle_that_comes_late_is_passed_over_once_a_fill_came_after_it(market: PaperMarket) -> None:
    instrument = market.store(A, FIVE, path([100] * 10))
    wallet, owner = market.wallet("w", NOON), market.database_for("owner")
    market.order(wallet, instrument, "buy", "2", bracket_stop=Decimal(98))
    market.send(NOON + DELAY)
    market.send(NOON + 3 * STEP)
    market.order(wallet, instrument, "sell", "1", NOON + 3 * STEP + DELAY)
    market.send(NOON + 3 * STEP + DELAY)
    market.send(NOON + 6 * STEP)
    owner.execute("UPDATE market_data SET low = 90 WHERE as_of = %(at)s", {"at": NOON + 3 * STEP})
    assert market.send(NOON + 6 * STEP).status == "nothing"
    assert market.held(wallet)[instrument] == 1
