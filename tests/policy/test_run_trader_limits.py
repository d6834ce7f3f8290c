"""What stops the trader from opening positions, and what never stops it from closing them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from policy import run_trader
from shared.clock import ReplayClock
from shared.db import Database, role_url
from shared.job import Outcome
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
    ORDERS,
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
    prepare,
    store_flat,
)
from tests.shared.spine_rows import insert, rows

pytestmark = pytest.mark.usefixtures("rolled_back")

LONG, DAY = timedelta(days=3), timedelta(days=1)


@pytest.fixture
def market(database_for: DatabaseFor, settings: Settings) -> PaperMarket:
    """Positions may grow at once, if a test does not say otherwise."""
    risk = settings.risk.model_copy(update={"max_step": 1.0})
    return PaperMarket(database_for, settings.model_copy(update={"risk": risk}))


@pytest.fixture
def policy(market: PaperMarket, monkeypatch: pytest.MonkeyPatch) -> ScriptedPolicy:
    return install_scripted_policy(market, monkeypatch)


def store(market: PaperMarket, symbol: str, closes: Sequence[float]) -> int:
    """Calm hours, then hours that close at ``closes``, the first at 13:00; between them the price stands."""
    market.store(symbol, HOUR_S, candles(NOON - HISTORY * HOUR, HOUR_S, [*CALM, *closes]))
    made = [price for price in [100.0, *closes] for _ in range(12)]
    return market.store(symbol, FIVE, candles(NOON - 5 * MINUTE, FIVE, made))


def store_rising(market: PaperMarket, symbol: str) -> int:
    """Hours that climb steadily to 100: the baseline wants as much of it as it may have."""
    hours = [100 * 1.001 ** (k - HISTORY) for k in range(HISTORY + 6)]
    market.store(symbol, HOUR_S, candles(NOON - HISTORY * HOUR, HOUR_S, hours))
    return market.store(symbol, FIVE, candles(NOON - 10 * MINUTE, FIVE, [100.0] * 80))


def buy(market: PaperMarket, wallet: int, instrument: int, quantity: str) -> None:
    """A position from before the first decision."""
    market.order(wallet, instrument, "buy", quantity, at("12:02"))
    market.send(at("12:02"))
    market.send(at("12:10"))
    market.settle()
    assert instrument in market.held(wallet)


def decided(market: PaperMarket, moment: str) -> dict[str, dict[str, Any]]:
    """The decisions of one candle by symbol, each with the names of the rules that clamped it."""
    rows = [row for row in market.rows(DECISIONS) if row["as_of"] == at(moment)]
    return {row["symbol"]: row | {"rules": [clamp["rule"] for clamp in row["clamps"]]} for row in rows}


def sides(market: PaperMarket, moment: str) -> list[tuple[str, str]]:
    """The orders written for one candle."""
    return [(row["symbol"], row["side"]) for row in market.rows(ORDERS) if row["not_before"] == at(moment) + DELAY]


def run(market: PaperMarket, moment: str) -> Outcome:
    """One decision with what the sender does before and after it."""
    market.send(at(moment))
    outcome = market.trade(at(moment) + DELAY)
    market.send(at(moment) + DELAY)
    market.send(at(moment) + 10 * MINUTE)
    market.settle()
    return outcome


def test_without_embeddings_there_are_exits_but_no_entries_and_an_alert(
    market: PaperMarket, policy: ScriptedPolicy
) -> None:
    b = store_rising(market, A) and store_flat(market, B)
    wallet = market.wallet("w", NOON)
    buy(market, wallet, b, "20")
    for horizon_s in (14_400, 86_400):
        insert_state(market, at("13:00"), horizon_s)
    run(market, "13:00")
    entry, exit_ = decided(market, "13:00").values()
    assert entry["wanted_weight"] > 0.4
    assert (entry["allowed_weight"], entry["rules"][-1]) == (0.0, "fresh_data")
    assert entry["clamps"][-1]["because"] == "no embedding"
    assert (exit_["allowed_weight"], exit_["rules"]) == (0.0, [])
    assert sides(market, "13:00") == [(B, "sell")]
    assert market.held(wallet)[b] == 0
    assert policy.seen == {}
    for row in (entry, exit_):
        assert (row["model_id"], row["encoder_id"], row["observation_hash"]) == (None, None, None)
    (alert,) = market.rows("SELECT layer, severity, key, message FROM alerts")
    assert (alert["layer"], alert["severity"], alert["key"]) == ("policy", "warning", "doubts:w")
    assert alert["message"] == f"no entries at 2024-06-01 13:00: no embedding ({A}, {B})"


@pytest.mark.parametrize(("told", "fresh"), [("11:00", True), ("10:59:59", False)])
def test_a_market_state_that_is_too_old_is_a_doubt(
    market: PaperMarket, policy: ScriptedPolicy, told: str, fresh: bool
) -> None:
    instruments = [store_flat(market, A), store_flat(market, B)]
    market.wallet("w", NOON)
    policy.script[at("13:00")] = (1.0, 0.0)
    insert_embeddings(market, policy.encoder_id, instruments, at("13:00"))
    insert_state(market, at("13:00"), 14_400)
    insert_state(market, at(told), 86_400, valid_until=at("20:00"))
    run(market, "13:00")
    row = decided(market, "13:00")[A]
    assert row["reason"].split(":")[0] == ("policy" if fresh else "trend_vol_target")
    assert (row["market_state_id"] is not None) == fresh
    assert sides(market, "13:00") == [(A, "buy")] * fresh
    alerts = [alert["message"] for alert in market.rows("SELECT message FROM alerts")]
    assert alerts == ([] if fresh else [f"no entries at 2024-06-01 13:00: no fresh market state ({A}, {B})"])


@pytest.mark.parametrize(("valid_until", "valid"), [("13:00", False), ("13:00:01", True)])
def test_an_expired_config_means_the_operators_default_at_half_exposure(
    market: PaperMarket, policy: ScriptedPolicy, valid_until: str, valid: bool
) -> None:
    instruments = [store_rising(market, A), store_rising(market, B)]
    market.wallet("w", NOON)
    policy.script[at("13:00")] = (1.0, 1.0)
    insert_embeddings(market, policy.encoder_id, instruments, at("13:00"))
    for horizon_s in (14_400, 86_400):
        insert_state(market, at("13:00"), horizon_s)
    config = insert_config(market, at("12:30"), valid_until=at(valid_until), max_position=0.5)
    run(market, "13:00")
    rows = decided(market, "13:00").values()
    assert {row["policy_config_id"] for row in rows} == {config if valid else None}
    assert [row["wanted_weight"] for row in rows] == [0.5, 0.5]
    assert sum(row["allowed_weight"] for row in rows) == pytest.approx(1.0 if valid else 0.5)
    assert [row["rules"] for row in rows] == [[] if valid else ["max_exposure"]] * 2


@pytest.mark.parametrize(("hours", "entries"), [(23, True), (25, False), (48, False), (24 * 8, False)])
def test_a_meta_controller_that_is_silent_for_a_day_leaves_exits_only(
    market: PaperMarket, policy: ScriptedPolicy, hours: int, entries: bool
) -> None:
    market.steered = False
    instruments = [store_rising(market, A), store_rising(market, B)]
    market.wallet("w", NOON)
    policy.script[at("13:00")] = (1.0, 1.0)
    insert_embeddings(market, policy.encoder_id, instruments, at("13:00"))
    for horizon_s in (14_400, 86_400):
        insert_state(market, at("13:00"), horizon_s)
    insert_config(market, at("13:00") - hours * HOUR, max_position=0.5)
    run(market, "13:00")
    rows = decided(market, "13:00").values()
    assert {row["policy_config_id"] for row in rows} == {None}
    assert sum(row["allowed_weight"] for row in rows) == pytest.approx(0.5 if entries else 0.0)
    (alert,) = market.rows("SELECT severity, key, message FROM alerts")
    assert (alert["severity"], alert["key"]) == (
        ("warning", "no-steering:w") if entries else ("critical", "no-entries-without-steering:w")
    )
    assert f"no valid policy_config for {min(hours, 168)} hours" in alert["message"]


def test_the_operators_bounds_hold_whatever_the_config_says(
    market: PaperMarket, policy: ScriptedPolicy, settings: Settings
) -> None:
    instruments = [store_flat(market, A), store_flat(market, B)]
    market.wallet("w", NOON)
    prepare(market, policy, instruments, {"13:00": (1.0, 1.0)})
    tight = settings.risk.model_copy(update={"max_position": 0.1, "max_exposure": 0.15})
    market.trade(at("13:02"), settings.model_copy(update={"risk": tight}))
    for row in decided(market, "13:00").values():
        assert (row["wanted_weight"], row["allowed_weight"]) == (0.125, pytest.approx(0.075))
        assert row["rules"] == ["max_position", "max_exposure"]


def test_a_position_grows_step_by_step_and_goes_at_once(
    market: PaperMarket, policy: ScriptedPolicy, settings: Settings
) -> None:
    instruments = [store_flat(market, A), store_flat(market, B)]
    wallet = market.wallet("w", NOON)
    prepare(market, policy, instruments, {"13:00": (1.0, 0.0), "14:00": (1.0, 0.0), "15:00": (-1.0, 0.0)})
    slow = settings.model_copy(update={"risk": settings.risk.model_copy(update={"max_step": 0.0625})})
    for moment in ("13:00", "14:00", "15:00"):
        market.send(at(moment))
        market.trade(at(moment) + DELAY, slow)
        market.send(at(moment) + DELAY)
        market.send(at(moment) + 10 * MINUTE)
    first, second, third = (decided(market, moment)[A] for moment in ("13:00", "14:00", "15:00"))
    assert (first["wanted_weight"], first["allowed_weight"], first["rules"]) == (0.125, 0.0625, ["rate_limit"])
    assert second["allowed_weight"] == pytest.approx(0.125, abs=1e-4)
    assert (third["allowed_weight"], third["rules"]) == (0.0, [])
    assert market.held(wallet) == {instruments[0]: 0}


@pytest.mark.parametrize("by", ["operator", "config"])
def test_paused_it_leaves_positions_but_enters_none(market: PaperMarket, policy: ScriptedPolicy, by: str) -> None:
    instruments = [store_flat(market, A), store_flat(market, B)]
    wallet = market.wallet("w", NOON)
    buy(market, wallet, instruments[0], "12")
    prepare(market, policy, instruments, {"13:00": (1.0, 1.0), "14:00": (-1.0, 1.0)})
    if by == "operator":
        market.command(at("12:30"), "pause")
    else:
        market.database_for("owner").execute("UPDATE policy_config SET pause = true")
    run(market, "13:00")
    held, entry = decided(market, "13:00").values()
    assert entry["rules"] == held["rules"] == ["pause"]
    assert (entry["wanted_weight"], entry["allowed_weight"]) == (0.125, 0.0)
    assert held["allowed_weight"] == pytest.approx(1200 / held["equity"])
    assert held["reason"] == "policy: already there"
    because = {"operator": "the wallet is paused by its operator", "config": "policy_config says pause"}[by]
    assert entry["clamps"][0]["because"] == because
    assert sides(market, "13:00") == []
    run(market, "14:00")
    assert sides(market, "14:00") == [(A, "sell")]
    assert market.held(wallet) == {instruments[0]: 0}


def restarted(market: PaperMarket, moment: str) -> Outcome:
    """The same job in what might be another process: nothing remembered but the rows."""
    database = Database(role_url(market.settings, "policy"))
    try:
        return run_trader.run_once(ReplayClock(at(moment) + DELAY), database, market.settings)
    finally:
        database.close()


def steer(market: PaperMarket, policy: ScriptedPolicy, instruments: list[int], script: dict[str, Any], **config: Any
          ) -> None:  # fmt: skip
    """One config that holds for days, so bold that a crash's volatility takes nothing away; and what each decision of
    the script needs."""
    insert_config(market, NOON, valid_until=NOON + LONG, target_volatility=1.0, risk_aversion=0.5, **config)
    for text, action in script.items():
        moment: datetime = at(text)
        policy.script[moment] = action
        insert_embeddings(market, policy.encoder_id, instruments, moment)
        for horizon_s in (14_400, 86_400):
            insert_state(market, moment, horizon_s)


@pytest.mark.usefixtures("own_database")
def test_after_too_large_a_loss_nothing_is_entered_until_the_next_midnight(
    market: PaperMarket, policy: ScriptedPolicy
) -> None:
    crash_at = 25 - 13  # the hour that closes at 01:00 of the next day
    a = store(market, A, [100.0] * crash_at + [70.0] * 30)
    b = store(market, B, [100.0] * (crash_at + 30))
    wallet = market.wallet("w", at("22:30"))
    script = {"23:00": (1.0, 0.0), "24:00": (1.0, 0.0), "25:00": (1.0, 1.0), "26:00": (-1.0, 1.0),
              "27:00": (-1.0, 1.0), "47:00": (-1.0, 1.0), "48:00": (-1.0, 1.0)}  # fmt: skip
    steer(market, policy, [a, b], script, daily_loss_limit=0.02, max_drawdown=0.5)
    run(market, "23:00")
    run(market, "24:00")
    assert decided(market, "24:00")[A]["rules"] == []
    run(market, "25:00")
    held, entry = decided(market, "25:00").values()
    loss = 1 - held["equity"] / decided(market, "24:00")[A]["equity"]
    assert loss == pytest.approx(0.0375, abs=1e-4)
    assert held["rules"] == entry["rules"] == ["daily_loss"]
    assert entry["clamps"][0]["because"] == f"lost {loss:.2%} today; no entries beyond 2.00% until UTC midnight"
    assert sides(market, "25:00") == []

    restarted(market, "26:00")
    assert sides(market, "26:00") == [(A, "sell")], "an exit is not an entry"
    for moment in ("27:00", "47:00"):
        run(market, moment)
        assert decided(market, moment)[B]["rules"] == ["daily_loss"]
        assert sides(market, moment) == []
    run(market, "48:00")
    assert decided(market, "48:00")[B]["rules"] == []
    assert sides(market, "48:00") == [(B, "buy")]
    assert b in market.held(wallet)


def test_what_was_lost_before_midnight_is_not_todays_loss(market: PaperMarket, policy: ScriptedPolicy) -> None:
    a = store(market, A, [100.0] * 11 + [70.0] * 5)  # the hour that closes at midnight falls
    b = store(market, B, [100.0] * 16)
    market.wallet("w", at("22:30"))
    steer(market, policy, [a, b], {"23:00": (1.0, 0.0), "24:00": (1.0, 1.0)}, daily_loss_limit=0.02, max_drawdown=0.5)
    run(market, "23:00")
    run(market, "24:00")
    assert sides(market, "24:00")[-1] == (B, "buy")
    assert decided(market, "24:00")[B]["rules"] == []


@pytest.mark.usefixtures("own_database")
def test_too_far_below_the_peak_it_goes_into_cash_and_stays_there_until_resumed(
    market: PaperMarket, policy: ScriptedPolicy
) -> None:
    a = store(market, A, [100.0, 70.0, *[100.0] * 25])
    b = store(market, B, [100.0] * 27)
    wallet = market.wallet("w", at("12:30"))
    script = {"13:00": (1.0, 0.0), "14:00": (1.0, 1.0), "15:00": (1.0, 1.0), "37:00": (1.0, 1.0), "38:00": (0.0, 1.0)}
    steer(market, policy, [a, b], script, daily_loss_limit=0.2, max_drawdown=0.03)
    run(market, "13:00")
    assert a in market.held(wallet)
    run(market, "14:00")
    rows = decided(market, "14:00")
    for row in rows.values():
        assert (row["allowed_weight"], row["rules"]) == (0.0, ["max_drawdown"])
    assert rows[A]["clamps"][0]["because"].endswith("below the peak (limit 3.00%); in cash until resumed")
    assert market.held(wallet) == {a: 0}

    restarted(market, "15:00")
    run(market, "37:00")  # another day, and the price has long come back
    for moment in ("15:00", "37:00"):
        assert [row["rules"] for row in decided(market, moment).values()] == [["max_drawdown"]] * 2
        assert sides(market, moment) == []
    market.command(at("37:30"), "resume")
    run(market, "38:00")
    assert decided(market, "38:00")[B]["rules"] == []
    assert sides(market, "38:00") == [(B, "buy")]


@pytest.mark.parametrize(
    ("days", "capital", "together"), [(0, 8_000, 800.0), (0, 20_000, 1_000.0), (14, 8_000, 9_000.0)]
)
def test_all_entries_of_a_live_wallets_first_days_fit_into_its_ramp(
    market: PaperMarket, days: int, capital: int, together: float
) -> None:
    """A tenth of the capital that its grant names, be it less than the wallet is worth or more; prices may move by
    max_slippage until approve() looks, and the last of the entries is let through all the same."""
    store_rising(market, A)
    store_rising(market, B)
    wallet, owner = market.wallet("w", NOON), market.database_for("owner")
    owner.execute("ALTER TABLE wallets DISABLE TRIGGER USER")
    owner.execute("UPDATE wallets SET mode = 'live'")
    owner.execute("UPDATE limits SET ramp_days = 14, ramp_exposure = 0.1, max_order_notional = 1000000")
    grant = rows(1)["live_grants"] | {"wallet_id": wallet, "granted": True}
    for changes in ({"capital": 100, "recorded_at": NOON - days * DAY}, {"capital": capital, "recorded_at": NOON}):
        insert(owner.connection, "live_grants", grant | changes)
    insert_config(market, at("12:30"), max_position=0.45)
    market.trade(at("13:02"))
    bought = [row["quantity"] * Decimal(repr(row["reference_price"])) for row in market.rows(ORDERS)]
    assert len(bought) == 2
    room = 1.0 if days else 1.0 - market.settings.execution.max_slippage
    room = 1.0 if capital == 20_000 else room  # 0.1 of what it is worth is the stricter then
    assert together * room * 0.99 < float(sum(bought)) <= together * room
