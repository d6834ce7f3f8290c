"""What CcxtTrading tells of an account: its ledger, its balances, its key, and the market's rules."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import strategies as st

from policy.execution.venues import ccxt_trading
from policy.execution.venues.binance_rows import trade_entries
from policy.execution.venues.protocol import (
    Balance,
    CouldNotAsk,
    KeyRights,
    LedgerEntry,
    VenueFill,
)
from shared.rows import InstrumentRules
from tests.policy.ccxt_trading_world import (
    NOW,
    NOW_MS,
    error,
    order_row,
    trade_row,
    trading,
)
from tests.policy.scripted_venue import Reply, ScriptedVenue

ALL_ORDERS, TRADES = "GET /api/v3/allOrders", "GET /api/v3/myTrades"
DEPOSITS, WITHDRAWALS = "GET /sapi/v1/capital/deposit/hisrec", "GET /sapi/v1/capital/withdraw/history"
AMOUNTS = st.decimals(Decimal("1e-8"), Decimal("9e18"), places=8)


@pytest.fixture
def venue() -> Iterator[ScriptedVenue]:
    with ScriptedVenue() as scripted:
        yield scripted


@pytest.fixture
def pages_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ccxt_trading, "PAGE", 3)


# --- the ledger, balances, rights ---


def test_a_trade_moves_both_assets_and_a_fee_in_a_third(venue: ScriptedVenue) -> None:
    venue.say(TRADES, Reply([trade_row(1), trade_row(2, isBuyer=False, commission="0.001", commissionAsset="BNB")]))
    bought, sold = trading(venue).fills(0.0)
    assert moved(trade_entries(bought)) == {"BTC": Decimal("0.4995"), "USDT": Decimal(-50)}
    assert moved(trade_entries(sold)) == {"BTC": Decimal("-0.5"), "USDT": Decimal(50), "BNB": Decimal("-0.001")}


def moved(entries: Iterator[LedgerEntry]) -> dict[str, Decimal]:
    return {entry.asset: entry.amount - entry.fee for entry in entries}


def deposit_row(name: str, status: int, **changes: Any) -> dict[str, Any]:
    row = {"id": name, "amount": "100", "coin": "USDT", "network": "BSC", "status": status, "txId": f"0x{name}"}
    return row | {"insertTime": NOW_MS - 9_000_000, "completeTime": NOW_MS + 1_000} | changes


def withdrawal_row(name: str, status: int, **changes: Any) -> dict[str, Any]:
    row = {"id": name, "amount": "8.9", "transactionFee": "0.1", "coin": "USDT", "network": "BSC", "status": status}
    return row | {"txId": "", "applyTime": "2025-06-15 15:06:50", "completeTime": ""} | changes


def test_deposits_and_withdrawals_are_told_when_they_move_the_balance(venue: ScriptedVenue) -> None:
    venue.say(TRADES, Reply("[]"))
    deposits = [deposit_row(name, status) for name, status in (("a", 0), ("b", 1), ("c", 2), ("e", 8))]
    deposits.append(deposit_row("d", 6, completeTime=NOW_MS + 30_000))
    venue.say(DEPOSITS, Reply([*deposits, deposit_row("f", 1, completeTime=NOW_MS - 1)]))
    failed = withdrawal_row("h", 3, completeTime="2025-06-15 15:07:00")
    venue.say(WITHDRAWALS, Reply([withdrawal_row("g", 4), failed]))
    told = {entry.id: (entry.kind, entry.amount, entry.fee, entry.at - NOW) for entry in trading(venue).ledger(NOW)}
    out = "withdrawal", Decimal("-8.9"), Decimal("0.1"), 10.0
    assert told == {
        "deposit:b": ("deposit", Decimal(100), Decimal(0), 1.0),
        "deposit:d": ("deposit", Decimal(100), Decimal(0), 30.0),
        "withdrawal:g": out,
        "withdrawal:h": out,
        "withdrawal:h:back": ("withdrawal", Decimal("9.0"), Decimal(0), 20.0),
    }
    assert [at for *_, at in told.values()] == [1.0, 10.0, 10.0, 20.0, 30.0]


def test_a_withdrawal_in_a_state_that_nobody_knows_is_no_answer(venue: ScriptedVenue) -> None:
    venue.say(TRADES, Reply("[]"))
    venue.say(DEPOSITS, Reply("[]"))
    venue.say(WITHDRAWALS, Reply([withdrawal_row("a", 7)]))
    with pytest.raises(CouldNotAsk, match="no status 7"):
        trading(venue).ledger(NOW)


@pytest.mark.usefixtures("pages_of_three")
def test_a_long_history_of_deposits_is_read_in_windows_and_pages(venue: ScriptedVenue) -> None:
    venue.say(TRADES, Reply("[]"))
    venue.say(WITHDRAWALS, Reply("[]"))
    rows = [deposit_row(name, 1) for name in "abcd"]
    venue.say(DEPOSITS, Reply(rows[:3]), Reply(rows[3:]), Reply("[]"))
    entries = trading(venue).ledger(NOW - 120 * 86_400)
    assert [entry.id for entry in entries] == ["deposit:a", "deposit:b", "deposit:c", "deposit:d"]
    asked = [each.arguments for each in venue.all(DEPOSITS)]
    assert [each["offset"] for each in asked] == ["0", "3", "0"]
    windows = [(int(each["startTime"]), int(each["endTime"])) for each in asked]
    start = NOW_MS - 127 * 86_400_000
    assert windows == [(start, start + 89 * 86_400_000)] * 2 + [(start + 89 * 86_400_000 + 1, NOW_MS)]


def test_what_is_lent_to_the_venue_is_in_no_balance(venue: ScriptedVenue) -> None:
    told = {"BTC": ("0.1", "0.02"), "LDBTC": ("5", "0"), "LDO": ("3", "0"), "USDT": ("1e-8", "0")}
    rows = [{"asset": asset, "free": free, "locked": held} for asset, (free, held) in told.items()]
    venue.say("GET /api/v3/account", Reply({"balances": rows}))
    assert trading(venue).balances() == {
        "BTC": Balance(Decimal("0.12"), Decimal("0.02")),
        "LDO": Balance(Decimal(3), Decimal(0)),
        "USDT": Balance(Decimal("1e-8"), Decimal(0)),
    }
    venue.say("GET /api/v3/account", Reply({"balances": [*rows, {"asset": "BTC", "free": "9", "locked": "0"}]}))
    with pytest.raises(CouldNotAsk):
        trading(venue).balances()


@pytest.mark.parametrize(
    ("withdrawals", "transfers", "withdraw"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_a_key_that_can_move_money_away_is_said_to(
    venue: ScriptedVenue, withdrawals: bool, transfers: bool, withdraw: bool
) -> None:
    told = {"enableWithdrawals": withdrawals, "enableInternalTransfer": transfers, "ipRestrict": True}
    venue.say("GET /sapi/v1/account/apiRestrictions", Reply(told | {"enableSpotAndMarginTrading": True}))
    assert trading(venue).key_rights() == KeyRights(True, withdraw, True, None)


# --- the market's rules ---


def info(status: str = "TRADING", **filters: dict[str, str]) -> Reply:
    named = {
        "PRICE_FILTER": {"tickSize": "0.01000000"},
        "LOT_SIZE": {"stepSize": "0.00001000", "minQty": "0.00010000"},
    } | filters
    rows = [{"filterType": name} | values for name, values in named.items()]
    return Reply({"symbols": [{"symbol": "BTCUSDT", "status": status, "filters": rows}]})


def test_rules_are_the_filters_of_the_market(venue: ScriptedVenue) -> None:
    steps = Decimal("0.01"), Decimal("0.00001")
    for name in ("NOTIONAL", "MIN_NOTIONAL"):
        venue.say("GET /api/v3/exchangeInfo", info(**{name: {"minNotional": "5.00000000"}}))
        assert trading(venue).rules("BTC/USDT") == InstrumentRules(*steps, Decimal(5), Decimal("0.0001"), "online")
    venue.say("GET /api/v3/exchangeInfo", info("BREAK"))
    assert trading(venue).rules("BTC/USDT") == InstrumentRules(*steps, Decimal(0), Decimal("0.0001"), "cancel_only")


def test_a_market_that_is_gone_has_no_rules_and_does_not_hide_another(venue: ScriptedVenue) -> None:
    venue.say("GET /api/v3/exchangeInfo", error(-1121, "Invalid symbol."))
    with pytest.raises(CouldNotAsk, match="delisted"):
        trading(venue).rules("BTC/USDT")
    assert trading(venue).status() == "maintenance"
    venue.say("GET /api/v3/exchangeInfo", error(-1003, status=429))
    with pytest.raises(CouldNotAsk):
        trading(venue).status()
    venue.say("GET /api/v3/exchangeInfo", error(-1121, "Invalid symbol."), info())
    assert trading(venue, "LUNA/USDT", "BTC/USDT").status() == "online"
    venue.say("GET /api/v3/exchangeInfo", info("HALT"))
    assert trading(venue).status() == "maintenance"


def test_a_fill_is_what_moved(venue: ScriptedVenue) -> None:
    venue.say(TRADES, Reply([trade_row(7)]))
    amounts = Decimal("0.5"), Decimal(100), Decimal(50), Decimal("0.0005")
    expected = VenueFill("BTCUSDT:7", "BTCUSDT:28", "BTC/USDT", "buy", *amounts, "BTC", (NOW_MS + 7) / 1_000)
    assert trading(venue).fills(0.0) == [expected]


def test_what_happened_within_the_venues_own_grain_of_time_is_not_missed(venue: ScriptedVenue) -> None:
    venue.say(TRADES, Reply([trade_row(7)]))
    venue.say(ALL_ORDERS, Reply([order_row(7)]))
    venue.say(DEPOSITS, Reply([deposit_row("a", 1)]))
    venue.say(WITHDRAWALS, Reply("[]"))
    account = trading(venue)
    assert len(account.fills(NOW + 0.0079)) == len(account.closed_orders(NOW + 0.0079)) == 1
    assert account.fills(NOW + 0.0081) == account.closed_orders(NOW + 0.0081) == []
    assert [entry.id for entry in account.ledger(NOW + 1.9)] == ["deposit:a"]
    assert account.ledger(NOW + 2.1) == []
