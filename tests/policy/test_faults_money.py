"""Money that is paid in or out is neither a gain nor a loss: no deposit hides a drawdown, no withdrawal makes one."""

from __future__ import annotations

from decimal import Decimal

import pytest

from pipeline.funding import pay
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
    A,
    B,
    PaperMarket,
    at,
    candles,
    insert_config,
    insert_embeddings,
    insert_state,
    install_scripted_policy,
)

pytestmark = pytest.mark.usefixtures("rolled_back")


@pytest.mark.parametrize(("paid", "falls_to", "drawdown"), [("5000", 70.0, 0.0375), ("-5000", 100.0, 0.0)])
def test_a_payment_moves_no_drawdown(
    database_for: DatabaseFor, settings: Settings, monkeypatch: pytest.MonkeyPatch, paid: str, falls_to: float,
    drawdown: float,
) -> None:  # fmt: skip
    risk = settings.risk.model_copy(update={"max_step": 1.0})
    market = PaperMarket(database_for, settings.model_copy(update={"risk": risk}))
    policy = install_scripted_policy(market, monkeypatch)
    instruments = []
    for symbol, closes in ((A, [100.0, falls_to]), (B, [100.0, 100.0])):
        market.store(symbol, HOUR_S, candles(NOON - HISTORY * HOUR, HOUR_S, [*CALM, *closes]))
        made = [price for price in [100.0, *closes] for _ in range(12)]
        instruments.append(market.store(symbol, FIVE, candles(NOON - 5 * MINUTE, FIVE, made)))
    market.wallet("w", at("12:30"))
    insert_config(market, NOON, valid_until=NOON + 9 * HOUR, target_volatility=1.0, risk_aversion=0.5,
                  daily_loss_limit=0.03, max_drawdown=0.03)  # fmt: skip
    for moment in (at("13:00"), at("14:00")):
        policy.script[moment] = (1.0, 1.0 if moment == at("14:00") else 0.0)
        insert_embeddings(market, policy.encoder_id, instruments, moment)
        for horizon_s in (14_400, 86_400):
            insert_state(market, moment, horizon_s)
        if moment == at("14:00"):
            pay(market.database_for("cli"), at("13:30"), "w", Decimal(paid))
        for then in (moment, moment + DELAY, moment + DELAY + 10 * MINUTE):
            market.send(then)
            market.trade(then)
    first, second = (next(row for row in market.rows(DECISIONS) if (row["as_of"], row["symbol"]) == (at(text), B))
                     for text in ("13:00", "14:00"))  # fmt: skip
    assert first["equity"] == 10_000
    worth = second["equity"] / second["units"]
    assert worth == pytest.approx(10_000 * (1 - drawdown), abs=7)  # what the purchase cost
    assert second["equity"] == pytest.approx(worth + float(paid), rel=1e-12)
    rules = [clamp["rule"] for clamp in second["clamps"]]
    assert ("max_drawdown" in rules) == (drawdown > 0)
    assert (second["allowed_weight"] == 0) == (drawdown > 0)
