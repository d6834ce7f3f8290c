"""Money that comes or goes is no gain and no loss, on a wallet's first day neither."""

from __future__ import annotations

from decimal import Decimal

import pytest

from pipeline.funding import pay
from shared.settings import Settings
from tests.helpers import DatabaseFor
from tests.policy.paper_world import DECISIONS, A, B, PaperMarket, at, install_scripted_policy, prepare, store_flat

pytestmark = pytest.mark.usefixtures("rolled_back")

STOPS = "SELECT rule, because FROM risk_events WHERE kind = 'stop'"


@pytest.fixture
def market(database_for: DatabaseFor, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> PaperMarket:
    market = PaperMarket(database_for, settings)
    policy = install_scripted_policy(market, monkeypatch)
    script = {f"{hour}:00": (0.0, 0.0) for hour in (13, 14, 15)}
    prepare(market, policy, [store_flat(market, A), store_flat(market, B)], script)
    return market


@pytest.mark.parametrize("first", ["13:02", None])
def test_a_withdrawal_between_a_close_and_its_decision_is_no_loss(market: PaperMarket, first: str | None) -> None:
    """Of 30 % at 14:01, after the close of 14:00: the daily loss limit would stop the wallet."""
    market.wallet("w", at("12:30"))
    if first:
        market.trade(at(first))
    pay(market.database_for("cli"), at("14:01"), "w", Decimal(-3_000))
    assert market.trade(at("14:02")).result["decisions"] == 2
    assert market.rows(STOPS) == []
    assert market.rows(DECISIONS)[-1]["equity"] == 7_000


def test_a_deposit_on_the_first_day_does_not_dilute_a_loss(market: PaperMarket) -> None:
    """6 % lost of 10,000, then as much again paid in: a unit has still lost 6 %, the limit is 4 %."""
    market.wallet("w", at("12:30"))
    market.trade(at("13:02"))
    owner = market.database_for("owner")
    owner.execute("UPDATE decisions SET equity = 10000 / 0.94")  # as if it had been worth more then
    pay(market.database_for("cli"), at("13:30"), "w", Decimal(10_000))
    risk = market.settings.risk.model_copy(update={"daily_loss_limit": 0.04})
    market.trade(at("14:02"), market.settings.model_copy(update={"risk": risk}))
    (stop,) = market.rows(STOPS)
    assert stop["rule"] == "daily_loss"
    assert "6" in stop["because"]
