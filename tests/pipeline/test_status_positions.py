"""Status says what each position cost, would gain now, and gained by sales; by both books where they differ."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipeline.status import show
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor
from tests.policy.paper_world import FIVE, MINUTE, A, PaperMarket, at, candles
from tests.shared.spine_rows import insert

PAID = "SELECT CASE side WHEN 'buy' THEN cost + fee ELSE fee - cost END AS paid FROM fills ORDER BY filled_at"


@pytest.fixture
def market(database_for: DatabaseFor, settings: Settings) -> PaperMarket:
    return PaperMarket(database_for, settings)


def shown(market: PaperMarket) -> str:
    text = io.StringIO()
    show(market.database_for("cli"), market.settings, at("13:00"), Console(file=text, width=200, force_terminal=False))
    return " ".join(text.getvalue().split())


def trade(market: PaperMarket, wallet: int, a: int, side: str, minute: int) -> None:
    """2 AAA, at the open of the candle after the minute of the hour."""
    market.order(wallet, a, side, "2", not_before=NOON + minute * MINUTE)
    market.send(NOON + (minute + 1) * MINUTE)
    market.send(NOON + (minute + 9) * MINUTE)


def test_a_position_is_shown_with_its_cost_and_both_books_once_they_differ(market: PaperMarket) -> None:
    opens = [100.0] * 3 + [120.0] * 2 + [130.0] * 8
    a = market.store(A, FIVE, candles(NOON - 5 * MINUTE, FIVE, opens))
    wallet = market.wallet("main", NOON)
    assert "gained by sales" not in shown(market), "nothing was ever bought"
    trade(market, wallet, a, "buy", 1)
    (first,) = [row["paid"] for row in market.rows(PAID)]
    text = shown(market)
    assert f"AAA/USDT: cost {float(first) / 2:,.8g} each, worth 130; unrealised {260 - first:+,.2f}" in text
    assert "gained by sales: +0.00" in text
    assert "first in" not in text
    trade(market, wallet, a, "buy", 6)
    trade(market, wallet, a, "sell", 16)
    first, second, got = [row["paid"] for row in market.rows(PAID)]
    text = shown(market)
    assert second > first + 39
    assert f"each, worth 130; unrealised {260 - (first + second) / 2:+,.2f}" in text
    assert f"first in, first out: unrealised {260 - second:+,.2f}, gained by sales {-got - first:+,.2f}" in text
    assert f"gained by sales: {-got - (first + second) / 2:+,.2f}" in text


def test_a_cost_that_is_not_known_is_said_and_the_rest_is_shown(market: PaperMarket) -> None:
    market.store(A, FIVE, candles(NOON - 5 * MINUTE, FIVE, [100.0] * 13))
    wallet = market.wallet("main", NOON)
    flow = {"wallet_id": wallet, "asset": "AAA", "amount": 3, "kind": "adoption", "managed": True, "value": None,
            "reference": "gift", "at": NOON, "recorded_at": NOON}  # fmt: skip
    insert(market.database_for("cli").connection, "cash_flows", flow)
    text = shown(market)
    assert "what it cost is not known: cash flow gift" in text
    assert "holds 3 AAA/USDT" in text
    assert "What blocks or limits trading" in text
