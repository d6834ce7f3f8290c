"""One wallet's or one instrument's trouble stops that one, and never the others."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from psycopg import IntegrityError, OperationalError

from policy import run_trader
from policy.decision_rows import write_decision
from policy.execution.cost_basis import CostUnknown
from shared.settings import Settings
from tests.helpers import DatabaseFor
from tests.policy.paper_world import (
    DECISIONS,
    HOUR_S,
    ORDERS,
    SAID_BY_A_MODEL,
    A,
    B,
    PaperMarket,
    ScriptedPolicy,
    at,
    candles,
    install_scripted_policy,
    live_through,
    prepare,
    store_flat,
)

pytestmark = pytest.mark.usefixtures("rolled_back")


@pytest.fixture
def market(database_for: DatabaseFor, settings: Settings) -> PaperMarket:
    return PaperMarket(database_for, settings)


@pytest.fixture
def policy(market: PaperMarket, monkeypatch: pytest.MonkeyPatch) -> ScriptedPolicy:
    return install_scripted_policy(market, monkeypatch)


@pytest.fixture
def wanting(market: PaperMarket, policy: ScriptedPolicy) -> list[int]:
    """Both instruments' ids; at 13:00 and 14:00 the policy wants some of AAA."""
    instruments = [store_flat(market, A), store_flat(market, B)]
    prepare(market, policy, instruments, {"13:00": (1.0, 0.0), "14:00": (1.0, 0.0)})
    return instruments


def test_one_wallets_trouble_does_not_stop_another(market: PaperMarket, wanting: list[int]) -> None:
    """What cannot be kept exactly is refused: this wallet's cash."""
    broken = market.wallet("a-broken", at("12:30"))
    market.wallet("b-sound", at("12:30"))
    deposit = "UPDATE cash_flows SET amount = 70000000 WHERE wallet_id = %(w)s"
    market.database_for("owner").execute(deposit, {"w": broken})
    outcome = market.trade(at("13:02"))
    assert (outcome.status, outcome.result["decisions"], outcome.result["orders"]) == ("done", 2, 1)
    assert set(outcome.result["failures"]) == {"a-broken"}
    assert {row["wallet"] for row in market.rows(DECISIONS)} == {"b-sound"}
    (alert,) = market.rows("SELECT layer, severity, key FROM alerts")
    assert alert == {"layer": "policy", "severity": "warning", "key": "wallet:a-broken"}


@pytest.mark.parametrize("trouble", [ValueError("odd"), KeyError("odd"), IntegrityError("odd"), CostUnknown("odd")])
def test_no_kind_of_trouble_with_one_wallet_stops_another(
    market: PaperMarket, wanting: list[int], monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    market.wallet("a-broken", at("12:30"))
    market.wallet("b-sound", at("12:30"))

    def troubled(database: Any, wallet: Any, *rest: Any) -> tuple[int, int]:
        if wallet["name"] == "a-broken":
            raise trouble
        return write_decision(database, wallet, *rest)

    monkeypatch.setattr(run_trader, "write_decision", troubled)
    outcome = market.trade(at("13:02"))
    assert set(outcome.result["failures"]) == {"a-broken"}
    assert {row["wallet"] for row in market.rows(DECISIONS)} == {"b-sound"}
    assert [row["key"] for row in market.rows("SELECT key FROM alerts")] == ["wallet:a-broken"]


def test_a_database_that_is_lost_is_everybodys_trouble(
    market: PaperMarket, wanting: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    market.wallet("w", at("12:30"))

    def lost(*_: Any) -> tuple[int, int]:
        raise OperationalError("the server went away")

    monkeypatch.setattr(run_trader, "write_decision", lost)
    with pytest.raises(OperationalError):
        market.trade(at("13:02"))


def test_an_instrument_that_never_had_a_candle_is_left_out_alone(
    market: PaperMarket, policy: ScriptedPolicy, wanting: list[int]
) -> None:
    """The others are decided as ever, and no row claims a price for it."""
    policy.script[at("13:00")] = (1.0, 0.0, 0.0)
    market.wallet("w", at("12:30"), symbols=(A, B, "ZZZ/USDT"))
    outcome = market.trade(at("13:02"))
    assert outcome.result == {"decisions": 2, "orders": 1}
    assert [(row["symbol"], row["model_id"] is not None) for row in market.rows(DECISIONS)] == [(A, True), (B, True)]
    alerts = {row["key"]: row["message"] for row in market.rows("SELECT key, message FROM alerts")}
    assert set(alerts) == {"no-price:w", "doubts:w"}
    assert "no price of ZZZ/USDT on test is known: not traded, the others are" in alerts["no-price:w"]
    assert "(ZZZ/USDT)" in alerts["doubts:w"]
    assert A not in alerts["doubts:w"]


def test_one_instruments_missing_embedding_stops_its_own_entries_only(market: PaperMarket, wanting: list[int]) -> None:
    market.wallet("w", at("12:30"))
    market.database_for("owner").execute("DELETE FROM embeddings WHERE instrument_id = %(b)s", {"b": wanting[1]})
    assert market.trade(at("13:02")).result == {"decisions": 2, "orders": 1}
    seen, unseen = market.rows(DECISIONS)
    assert seen["reason"].startswith("policy: buy")
    assert seen["observation_hash"] is not None
    assert unseen["reason"] == "trend_vol_target: already there"
    assert [unseen[name] for name in SAID_BY_A_MODEL] == [None] * len(SAID_BY_A_MODEL)
    (alert,) = market.rows("SELECT key, message FROM alerts")
    assert (alert["key"], alert["message"]) == ("doubts:w", f"no entries at 2024-06-01 13:00: no embedding ({B})")


def test_what_is_held_of_a_coin_that_ended_long_ago_keeps_its_last_price(
    market: PaperMarket, wanting: list[int]
) -> None:
    """Its candles are beyond the window; the wallet's equity is known all the same, and the others are traded."""
    wallet = market.wallet("w", at("12:30"))
    live_through(market, "13:00", "13:15")
    assert market.held(wallet) == {wanting[0]: Decimal("12.5")}
    owner, gone = market.database_for("owner"), {"a": wanting[0]}
    owner.execute("DELETE FROM embeddings WHERE instrument_id = %(a)s", gone)
    owner.execute("DELETE FROM market_data WHERE instrument_id = %(a)s AND timeframe_s = 3600", gone)
    assert market.trade(at("14:02")).result == {"decisions": 2}
    ended, other = market.rows(DECISIONS)[2:]
    assert (ended["price"], ended["reason"]) == (100.0, "trend_vol_target: its newest candle is missing")
    assert ended["equity"] == other["equity"] == pytest.approx(9_994, abs=1)


def test_candles_that_are_late_are_waited_for(market: PaperMarket, wanting: list[int]) -> None:
    market.wallet("w", at("12:30"))
    owner = market.database_for("owner")
    owner.execute("DELETE FROM embeddings")
    owner.execute("DELETE FROM market_data WHERE timeframe_s = 3600 AND as_of >= '2024-06-01 13:00Z'")
    assert market.trade(at("13:02")).status == "nothing"
    (alert,) = market.rows("SELECT key, message FROM alerts")
    assert alert["key"] == "no-candles:w"
    assert f"no decision at 2024-06-01 13:00: no usable candles; no embedding ({A}, {B})" in alert["message"]
    for symbol in (A, B):
        market.store(symbol, HOUR_S, candles(at("12:00"), HOUR_S, [100.0]))
    assert market.trade(at("13:07")).result["decisions"] == 2


def test_an_instrument_whose_candle_is_missing_is_neither_bought_nor_sold(
    market: PaperMarket, wanting: list[int]
) -> None:
    wallet = market.wallet("w", at("12:30"))
    live_through(market, "13:00", "13:15")
    assert market.held(wallet) == {wanting[0]: Decimal("12.5")}
    owner, gone = market.database_for("owner"), {"id": wanting[0]}
    owner.execute("DELETE FROM embeddings WHERE instrument_id = %(id)s AND as_of = '2024-06-01 14:00Z'", gone)
    owner.execute("DELETE FROM market_data WHERE instrument_id = %(id)s AND as_of = '2024-06-01 14:00Z'", gone)
    market.trade(at("14:02"))
    first, second = market.rows(DECISIONS)[2:]
    assert (first["reason"], first["price"]) == ("trend_vol_target: its newest candle is missing", 100.0)
    assert second["reason"] == "policy: already there"
    assert len(market.rows(ORDERS)) == 1
