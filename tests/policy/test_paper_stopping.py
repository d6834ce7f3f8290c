"""What an operator's kill does on paper: what it does at a venue."""

from __future__ import annotations

from decimal import Decimal

import pytest

from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor
from tests.policy.paper_world import FIVE, MINUTE, A, B, PaperMarket, at, candles

pytestmark = pytest.mark.usefixtures("rolled_back")


@pytest.fixture
def market(database_for: DatabaseFor, settings: Settings) -> PaperMarket:
    return PaperMarket(database_for, settings)


@pytest.fixture
def a(market: PaperMarket) -> int:
    market.store(B, FIVE, candles(NOON - 5 * MINUTE, FIVE, [100.0]))
    return market.store(A, FIVE, candles(NOON - 5 * MINUTE, FIVE, [100.0] * 20))


@pytest.fixture
def wallet(market: PaperMarket, a: int) -> int:
    return market.wallet("w", NOON)


@pytest.mark.parametrize(
    ("command", "minute", "ends"),
    [
        ("kill", "12:04", "canceled"),
        ("flatten", "12:04", "canceled"),
        ("pause", "12:04", "filled"),
        ("halt", "12:04", "filled"),  # nothing is sent, a cancellation neither
        ("kill", "12:06", "filled"),  # its candle had opened by then
    ],
)
def test_a_kill_cancels_the_entries_that_wait(
    market: PaperMarket, wallet: int, a: int, command: str, minute: str, ends: str
) -> None:
    order = market.order(wallet, a, "buy", "2")
    market.send(at("12:02"))
    market.command(at(minute), command)
    market.send(at("12:20"))
    assert market.events(order) == ["accepted", ends]
    if ends == "canceled":
        assert market.detail(order) == f"the operator stops the wallet: {command}"


def test_flattening_sells_all_once_and_nothing_of_another_wallet(market: PaperMarket, wallet: int, a: int) -> None:
    other = market.wallet("other", NOON)
    for name in (wallet, other):
        market.order(name, a, "buy", "2")
    market.send(at("12:02"))
    market.send(at("12:10"))
    market.command(at("12:11"), "flatten")
    for moment in ("12:12", "12:13", "12:20", "12:25", "12:30"):
        market.send(at(moment))
    assert market.held(wallet) == {a: Decimal(0)}
    assert market.held(other) == {a: Decimal(2)}
    (sale,) = [fill for fill in market.fills() if fill["side"] == "sell"]
    assert sale["filled_at"] == at("12:15")
