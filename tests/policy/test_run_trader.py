"""The trader: when it decides, what it writes down, and what a wallet has earned in the end."""

from __future__ import annotations

import uuid
from datetime import timedelta
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal
from typing import Any

import numpy as np
import pytest

from policy import decision_rows, run_trader
from policy.observation import observation_hash, observation_names
from shared.clock import ReplayClock
from shared.db import Database, role_url
from shared.settings import Settings
from shared.version import CODE, settings_hash
from tests.helpers import NOON, DatabaseFor
from tests.policy.paper_world import (
    DECISIONS,
    DELAY,
    FIVE,
    HOUR,
    HOUR_S,
    MINUTE,
    ORDERS,
    SAID_BY_A_MODEL,
    A,
    B,
    PaperMarket,
    ScriptedPolicy,
    at,
    candles,
    insert_config,
    insert_embeddings,
    insert_state,
    install_scripted_policy,
    live_through,
    prepare,
    store_flat,
)

pytestmark = pytest.mark.usefixtures("rolled_back")

ONE = timedelta(hours=1)
LOT, TICK = Decimal("0.00001"), Decimal("0.01")
FEE, SLIP = Decimal("0.0040"), Decimal("0.0005")


@pytest.fixture
def market(database_for: DatabaseFor, settings: Settings) -> PaperMarket:
    """Without impact: half the spread and the fee are what a hand can compute."""
    execution = settings.execution.model_copy(update={"impact": 0.0, "no_trade_band": 0.25})
    return PaperMarket(database_for, settings.model_copy(update={"execution": execution}))


@pytest.fixture
def policy(market: PaperMarket, monkeypatch: pytest.MonkeyPatch) -> ScriptedPolicy:
    return install_scripted_policy(market, monkeypatch)


def test_buy_hold_sell_earns_to_the_last_digit_what_the_hand_computes(
    market: PaperMarket, policy: ScriptedPolicy
) -> None:
    instruments = [store_flat(market, A, {"13:05": 101.0, "15:05": 120.0}), store_flat(market, B)]
    wallet = market.wallet("w", at("12:30"))
    script = {"13:00": (1.0, 0.0), "14:00": (1.0, 0.0), "15:00": (-1.0, 0.0), "16:00": (-1.0, 0.0)}
    prepare(market, policy, instruments, script)
    live_through(market, "12:30", "16:00")

    # 12.5 % of 10,000 at 100; 101 and 5 bps up to the tick; 120 less 5 bps; 40 bps of each value.
    cost, fee = Decimal("12.5") * Decimal("101.06"), Decimal("5.053")
    back, fee_back = Decimal("12.5") * Decimal("119.94"), Decimal("5.997")
    assert [(f["side"], f["quantity"], f["cost"], f["fee"]) for f in market.fills()] == [
        ("buy", Decimal("12.5"), cost, fee), ("sell", Decimal("12.5"), back, fee_back),
    ]  # fmt: skip
    assert market.cash(wallet) == 10_000 - cost - fee + back - fee_back == Decimal("10224.95")
    assert market.held(wallet)[instruments[0]] == 0
    decisions = [row for row in market.rows(DECISIONS) if row["symbol"] == A]
    assert [row["quantity_held"] for row in decisions] == [0, Decimal("12.5"), Decimal("12.5"), 0]
    assert decisions[1]["cash"] == 10_000 - cost - fee
    reasons = [row["reason"] for row in decisions]
    assert reasons[0] == "policy: buy to move weight 0.0000 to 0.1250"
    assert "is inside the band of 0.03125" in reasons[1]
    assert reasons[2].startswith("policy: sell to move weight 0.12")
    assert reasons[3] == "policy: already there"
    assert [row["state"] for row in market.rows(ORDERS)] == ["filled", "filled"]
    (equity,) = market.rows("SELECT equity FROM equity")
    assert equity["equity"] == market.cash(wallet)


def test_what_the_policy_adds_is_told_apart_from_the_baseline(market: PaperMarket, policy: ScriptedPolicy) -> None:
    instruments = [store_flat(market, A), store_flat(market, B)]
    market.wallet("w", at("12:30"))
    prepare(market, policy, instruments, {"13:00": (1.0, -0.25)})
    policy.agreement = 0.75
    market.trade(at("13:02"))
    bought, left = market.rows(DECISIONS)
    assert (bought["baseline_weight"], bought["action"], bought["agreement"]) == (0.0, 1.0, 0.75)
    assert (left["baseline_weight"], left["action"], left["agreement"]) == (0.0, -0.25, 0.75)
    assert bought["contributions"] == {"drl": bought["wanted_weight"]} == {"drl": 0.125}
    (order,) = market.rows(ORDERS)
    assert order["volatility"] == pytest.approx(0.07, abs=0.005)
    cost = policy.seen[at("13:00")][0][observation_names().index("book.cost")]
    assert cost == pytest.approx(50 * 0.0045 / order["volatility"], rel=1e-6), "40 bps of fee and 5 of half the spread"


def test_a_policy_promoted_with_a_residual_of_nothing_trades_the_baseline_and_says_so(
    market: PaperMarket, policy: ScriptedPolicy
) -> None:
    instruments = [store_flat(market, A), store_flat(market, B)]
    market.wallet("w", at("12:30"))
    prepare(market, policy, instruments, {"13:00": (0.0, 0.0)})
    policy.residual_scale = 0.0
    market.trade(at("13:02"))
    for row in market.rows(DECISIONS):
        assert row["reason"].startswith("trend_vol_target (the policy is promoted with a residual of 0): ")
        assert row["model_id"] == policy.id
        assert row["wanted_weight"] == row["baseline_weight"]


def trend_closes(falling: int) -> list[float]:
    """480 hours up to 100 at NOON, then hours down; with a little noise."""
    up = [100 * np.exp(0.0005 * (k - 479)) * (1 + 0.001 * (-1) ** k) for k in range(480)]
    return up + [100 * np.exp(-0.002 * k) * (1 + 0.001 * (-1) ** k) for k in range(1, falling + 1)]


def test_without_a_model_the_baseline_rides_a_trend_up_and_leaves_when_it_turns(market: PaperMarket) -> None:
    closes = trend_closes(240)
    market.store(A, HOUR_S, candles(NOON - 480 * HOUR, HOUR_S, closes))
    opens = {NOON: 99.5, NOON + 24 * HOUR: 95.5, NOON + 240 * HOUR: 61.5}
    for hour, price in opens.items():
        market.store(A, FIVE, candles(hour - 5 * MINUTE, FIVE, [price] * 3))
    wallet = market.wallet("w", NOON, symbols=(A,))
    risk = market.settings.risk.model_copy(update={"max_position": 0.25})
    for hour in opens:
        traded = market.trade(hour + DELAY, market.settings.model_copy(update={"risk": risk}))
        assert traded.result["decisions"] == 1
        market.send(hour + DELAY)
        market.send(hour + 10 * MINUTE)

    bought, held, sold = market.rows(DECISIONS)
    assert (bought["allowed_weight"], held["allowed_weight"], sold["allowed_weight"]) == (0.25, 0.25, 0.0)
    quantity = (Decimal(2_500) / Decimal(repr(float(closes[479])))).quantize(LOT, ROUND_DOWN)
    price_in = (Decimal("99.5") * (1 + SLIP)).quantize(TICK, ROUND_CEILING)
    price_out = (Decimal("61.5") * (1 - SLIP)).quantize(TICK, ROUND_FLOOR)
    fees = [round(quantity * price * FEE, 8) for price in (price_in, price_out)]
    assert [(f["quantity"], f["price"], f["fee"]) for f in market.fills()] == [
        (quantity, price_in, fees[0]), (quantity, price_out, fees[1]),
    ]  # fmt: skip
    assert market.cash(wallet) == 10_000 + quantity * (price_out - price_in) - sum(fees)
    for row in (bought, held, sold):
        assert row["reason"].startswith("trend_vol_target: ")
        assert [row[name] for name in SAID_BY_A_MODEL] == [None] * len(SAID_BY_A_MODEL)
        assert row["contributions"] == {"trend_vol_target": row["wanted_weight"]}
        assert row["baseline_weight"] == row["wanted_weight"]
    alerts = {row["key"]: row["message"] for row in market.rows("SELECT DISTINCT key, message FROM alerts")}
    assert alerts.keys() == {
        "policy-model",
        "emergency-daily_loss:w:12:00",
    }  # it lost 8.5 % since midnight, above 7.5 %
    assert "no active policy model: the baseline trades" in alerts["policy-model"]


@pytest.fixture
def wanting(market: PaperMarket, policy: ScriptedPolicy) -> list[int]:
    """Both instruments' ids; at 13:00 and 14:00 the policy wants some of AAA."""
    instruments = [store_flat(market, A), store_flat(market, B)]
    prepare(market, policy, instruments, {"13:00": (1.0, 0.0), "14:00": (1.0, 0.0)})
    return instruments


def test_nothing_is_decided_before_the_delay_is_over(market: PaperMarket, wanting: list[int]) -> None:
    market.wallet("w", at("12:30"))
    assert market.trade(at("13:01:59")).status == "nothing", "12:00 was before it was resumed, 13:00 is too fresh"
    assert market.trade(at("13:02")).result == {"decisions": 2, "orders": 1}
    assert {row["as_of"] for row in market.rows(DECISIONS)} == {at("13:00")}
    assert market.trade(at("14:01:59")).status == "nothing"
    assert market.trade(at("14:02")).result["decisions"] == 2


def test_a_wallet_that_was_never_resumed_decides_nothing(market: PaperMarket, wanting: list[int]) -> None:
    market.wallet("w", at("12:30"), resume=False)
    for moment in ("13:02", "14:02"):
        assert market.trade(at(moment)).status == "nothing"
    market.command(at("14:03"), "pause")
    assert market.trade(at("14:04")).status == "nothing"
    assert market.rows(DECISIONS) == []


def test_a_resume_given_later_does_not_reach_back(market: PaperMarket, wanting: list[int]) -> None:
    market.wallet("w", at("12:30"), resume=False)
    market.command(at("13:30"), "resume")
    assert market.trade(at("13:29")).status == "nothing", "it was not given yet"
    assert market.trade(at("13:31")).status == "nothing"
    assert market.trade(at("14:02")).result["decisions"] == 2


def test_a_run_as_of_the_past_hears_no_later_command(market: PaperMarket, wanting: list[int]) -> None:
    market.wallet("w", at("12:30"))
    for command in ("pause", "resume"):
        market.command(at("14:30"), command)
    assert market.trade(at("13:02")).result == {"decisions": 2, "orders": 1}


def test_run_twice_for_one_candle_there_is_nothing_new(market: PaperMarket, wanting: list[int]) -> None:
    market.wallet("w", at("12:30"))
    market.trade(at("13:02"))
    before = market.rows(DECISIONS), market.rows(ORDERS)
    assert [len(rows) for rows in before] == [2, 1]
    for moment in ("13:02", "13:03", "14:01"):
        assert market.trade(at(moment)).status == "nothing"
    assert (market.rows(DECISIONS), market.rows(ORDERS)) == before


def test_an_order_has_the_id_that_follows_from_installation_wallet_instrument_and_candle(
    market: PaperMarket, wanting: list[int]
) -> None:
    wallet = market.wallet("w", at("12:30"))
    market.trade(at("13:07"))
    (order,) = market.rows(ORDERS)
    (installation,) = market.rows("SELECT id FROM installation")
    key = f"{wallet}:{wanting[0]}:2024-06-01T13:00:00+00:00:policy"
    assert order["id"] == uuid.uuid5(installation["id"], key)
    owner = market.database_for("owner")
    for table in ("orders", "decisions"):
        owner.execute(f"DELETE FROM {table}")  # type: ignore[arg-type]
    market.trade(at("13:40"))
    assert [row["id"] for row in market.rows(ORDERS)] == [order["id"]]


def test_an_order_says_what_it_is_and_how_long_it_is_good(market: PaperMarket, wanting: list[int]) -> None:
    market.wallet("w", at("12:30"))
    market.trade(at("13:07"))
    (order,) = market.rows(ORDERS)
    decided = next(row for row in market.rows(DECISIONS) if row["symbol"] == A)
    told = {
        "decision_id": decided["id"], "symbol": A, "mode": "paper", "side": "buy", "type": "market",
        "quantity": Decimal("12.5"), "reference_price": 100.0, "state": "intended",
        "not_before": at("13:02"), "deadline": at("14:02"), "recorded_at": at("13:07"),
    }  # fmt: skip
    assert {name: order[name] for name in told} == told


def test_a_decision_names_exactly_the_rows_it_was_made_from(market: PaperMarket, policy: ScriptedPolicy) -> None:
    instruments = [store_flat(market, A), store_flat(market, B)]
    moment, horizons = at("13:00"), (14_400, 86_400)
    policy.script[moment] = (1.0, 0.0)
    insert_embeddings(market, policy.encoder_id, instruments, moment)
    short, long = (
        insert_state(market, moment - 15 * MINUTE, horizon_s, p_down=0.1, p_flat=0.4) for horizon_s in horizons
    )
    config = insert_config(market, moment - 15 * MINUTE, max_position=0.4)
    other: dict[str, Any] = {"max_position": 0.35, "valid_until": moment + 2 * ONE}
    for early in (True, False):  # older ones, and ones of the future
        insert_config(market, moment + (-ONE if early else ONE), **other)
        for horizon_s in horizons:
            insert_state(market, moment + (-ONE if early else ONE), horizon_s)
    insert_config(market, moment, known_from=moment + ONE, **other)  # nobody could have had it yet
    insert_config(market, moment, track="rules", **other)
    for horizon_s in horizons:
        insert_state(market, moment, horizon_s, known_from=moment + ONE)
        insert_state(market, moment, horizon_s, track="rules")
    market.wallet("w", at("12:30"))
    market.trade(at("13:02"))
    for row in market.rows(DECISIONS):
        assert (row["model_id"], row["encoder_id"]) == (policy.id, policy.encoder_id)
        assert (row["market_state_short_id"], row["market_state_id"]) == (short, long)
        assert row["policy_config_id"] == config
        assert row["observation_hash"] == observation_hash(policy.seen[moment])
        assert (row["price"], row["quantity_held"], row["cash"], row["equity"]) == (100.0, 0, 10_000, 10_000.0)
        assert (row["as_of"], row["recorded_at"], row["source"]) == (moment, at("13:02"), "policy")
        assert (row["code_version"], row["settings_hash"]) == (CODE, settings_hash(market.settings))
    assert [row["wanted_weight"] for row in market.rows(DECISIONS)] == [0.4, 0.0]


def test_an_instrument_with_an_order_in_flight_gets_no_second_one(market: PaperMarket, wanting: list[int]) -> None:
    market.wallet("w", at("12:30"))
    market.trade(at("13:02"))
    market.send(at("13:02"))
    market.trade(at("14:02"))  # the sender did not run in between
    assert len(market.rows(ORDERS)) == 1
    assert market.rows(DECISIONS)[2]["reason"] == "policy: an earlier order is still open"
    assert market.rows(ORDERS)[0]["state"] == "accepted"


def test_an_entry_is_no_larger_than_the_operators_limit_on_an_order(market: PaperMarket, wanting: list[int]) -> None:
    wallet = market.wallet("w", at("12:30"))
    cli = market.database_for("cli")
    cli.execute("UPDATE limits SET max_order_notional = 500 WHERE wallet_id = %(w)s", {"w": wallet})
    market.trade(at("13:02"))
    (order,) = market.rows(ORDERS)
    assert order["quantity"] == 5
    market.send(at("13:02"))
    assert market.events(order["id"]) == ["accepted"]


def test_wallets_that_trade_the_same_have_books_and_orders_of_their_own(
    market: PaperMarket, wanting: list[int]
) -> None:
    market.wallet("small", at("12:30"), capital=1_000.0)
    market.wallet("w", at("12:30"))
    assert market.trade(at("13:02")).result == {"decisions": 4, "orders": 2}
    assert {row["quantity"] for row in market.rows(ORDERS)} == {Decimal("1.25"), Decimal("12.5")}


def test_a_failure_while_writing_leaves_no_decision_and_no_order(
    market: PaperMarket, wanting: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    market.wallet("w", at("12:30"))

    def dies(*arguments: object) -> Decimal:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(decision_rows.uuid, "uuid5", dies)  # after the first decision's row
        with pytest.raises(KeyboardInterrupt):
            market.trade(at("13:02"))
    assert (market.rows(DECISIONS), market.rows(ORDERS)) == ([], [])
    assert market.trade(at("13:03")).result == {"decisions": 2, "orders": 1}


@pytest.mark.usefixtures("own_database")
def test_a_second_trader_at_the_same_time_says_so_and_leaves(
    market: PaperMarket, wanting: list[int], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.wallet("w", at("12:30"))
    other, outcomes = Database(role_url(settings, "policy")), []
    settle = run_trader._settle

    def meanwhile(database: Database, wallet: Any) -> int:
        outcomes.append(run_trader.run_once(ReplayClock(at("13:02")), other, settings))
        return settle(database, wallet)

    monkeypatch.setattr(run_trader, "_settle", meanwhile)
    assert market.trade(at("13:02")).result["decisions"] == 2
    other.close()
    assert [outcome.status for outcome in outcomes] == ["busy"]
