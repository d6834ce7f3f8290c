"""Who obeys the bounds by symbol: the trader always, a backtest under the operator's limits."""

from __future__ import annotations

import pytest
from psycopg.types.json import Json

from shared.settings import RiskSettings, Settings
from tests.helpers import DatabaseFor
from tests.policy.backtest_world import make_past
from tests.policy.paper_world import DECISIONS, A, B, PaperMarket, at, insert_config, store_flat
from tests.policy.test_symbol_limit import bounded

pytestmark = pytest.mark.usefixtures("rolled_back")


def under(settings: Settings, risk: RiskSettings) -> Settings:
    return settings.model_copy(update={"risk": risk})


def test_the_trader_holds_no_more_of_it_and_writes_down_why(database_for: DatabaseFor, settings: Settings) -> None:
    market = PaperMarket(database_for, settings)
    for symbol in (A, B):
        store_flat(market, symbol)
    market.wallet("w", at("12:30"), symbols=(B, A))
    weights = Json({"rebalanced_hold": 1.0})
    insert_config(market, at("12:30"), strategy_weights=weights, max_position=0.5, max_exposure=1.0)
    market.trade(at("13:02"), under(settings, bounded(AAA=0.0625)))
    a, b = market.rows(DECISIONS)
    assert a["allowed_weight"] == 0.0625
    assert a["clamps"][0]["rule"] == "symbol_limit"
    assert b["allowed_weight"] > 0.0625
    assert "symbol_limit" not in [clamp["rule"] for clamp in b["clamps"]]


def test_a_backtest_obeys_it_under_the_operators_limits_only(monkeypatch: pytest.MonkeyPatch) -> None:
    past = make_past(monkeypatch, hours=30)
    past.settings = under(past.settings, bounded(B=0.03125))
    most = {
        limits: past.laboratory(limits=limits).trade("x", None).allowed.max(axis=0) for limits in ("operator", "off")
    }
    assert most["operator"][1] == 0.03125
    assert most["operator"][0] > 0.03125
    assert most["off"][1] > 0.03125
