"""A strategy registered at run time trades through the jobs, beside another, and each is told apart."""

from __future__ import annotations

import numpy as np
import pytest
from psycopg.types.json import Json

from policy.observation import View
from policy.strategies import STRATEGIES
from policy.strategies.residual import Residual
from shared.rows import FloatArray
from shared.settings import Settings
from tests.helpers import DatabaseFor
from tests.policy.paper_world import (
    DECISIONS,
    HOUR,
    ORDERS,
    A,
    B,
    PaperMarket,
    ScriptedPolicy,
    at,
    insert_config,
    insert_embeddings,
    insert_state,
    install_scripted_policy,
    store_flat,
)

pytestmark = pytest.mark.usefixtures("rolled_back")


def falling(view: View, residual: Residual | None) -> FloatArray | None:
    """A tenth of whatever sinks."""
    return np.where(view.market.trend < 0, 0.1, 0.0)


@pytest.fixture
def market(database_for: DatabaseFor, settings: Settings) -> PaperMarket:
    return PaperMarket(database_for, settings)


@pytest.fixture
def policy(market: PaperMarket, monkeypatch: pytest.MonkeyPatch) -> ScriptedPolicy:
    return install_scripted_policy(market, monkeypatch)


def decide(market: PaperMarket, policy: ScriptedPolicy, weights: dict[str, float]) -> None:
    """At 13:00 the policy wants all it may have of A, an eighth, and nothing of B."""
    instruments = [store_flat(market, A), store_flat(market, B)]
    market.wallet("w", at("12:30"))
    policy.script[at("13:00")] = (1.0, -1.0)
    insert_embeddings(market, policy.encoder_id, instruments, at("13:00"))
    for horizon_s in (14_400, 86_400):
        insert_state(market, at("13:00"), horizon_s)
    insert_config(market, at("13:00") - HOUR / 2, strategy_weights=Json(weights))
    market.trade(at("13:02"))


def test_two_strategies_trade_by_their_weights_and_each_part_is_on_the_decisions_row(
    market: PaperMarket, policy: ScriptedPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STRATEGIES, "falling", falling)
    decide(market, policy, {"drl": 0.5, "falling": 0.5})
    a, b = market.rows(DECISIONS)
    assert (a["symbol"], b["symbol"]) == (A, B)
    assert a["contributions"] == {"drl": 0.0625, "falling": 0.05}
    assert b["contributions"] == {"drl": 0.0, "falling": 0.05}
    for row in (a, b):
        assert row["wanted_weight"] == pytest.approx(sum(row["contributions"].values()))
    bought = {row["symbol"]: float(row["quantity"]) * 100 / 10_000 for row in market.rows(ORDERS)}
    assert bought == pytest.approx({A: 0.1125, B: 0.05}, abs=1e-5)


def test_without_a_weight_a_registered_strategy_has_no_say(
    market: PaperMarket, policy: ScriptedPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STRATEGIES, "falling", falling)
    decide(market, policy, {"drl": 1.0})
    assert [row["contributions"] for row in market.rows(DECISIONS)] == [{"drl": 0.125}, {"drl": 0.0}]


def test_a_strategy_that_nobody_knows_has_no_say_either_and_an_alert_says_so(
    market: PaperMarket, policy: ScriptedPolicy
) -> None:
    decide(market, policy, {"unheard-of": 1.0})
    for row in market.rows(DECISIONS):
        assert row["contributions"] == {"trend_vol_target": row["baseline_weight"]}
    (alert,) = market.rows("SELECT key, message FROM alerts")
    assert alert["key"] == "unknown-strategy:w"
    assert "unheard-of, which is not registered" in alert["message"]
