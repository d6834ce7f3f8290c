"""Money on Kraken: what really moved, by the ledger, to the last decimal."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest

from policy.execution.venues.kraken_trading import KrakenTrading
from policy.execution.venues.protocol import Balance, CouldNotAsk, LedgerEntry, VenueFill
from tests.policy.kraken_account import NOW, FakeAccount, connected, entry, paged, told_order, trade


@pytest.fixture
def account() -> Iterator[tuple[FakeAccount, KrakenTrading]]:
    with connected() as pair:
        yield pair


@pytest.fixture
def fake(account: tuple[FakeAccount, KrakenTrading]) -> FakeAccount:
    return account[0]


@pytest.fixture
def venue(account: tuple[FakeAccount, KrakenTrading]) -> KrakenTrading:
    return account[1]


# --- fills ---


def test_a_fill_is_what_really_moved_to_the_last_decimal(fake: FakeAccount, venue: KrakenTrading) -> None:
    """TradesHistory truncates the cost to the pair's decimals, and may tell the fee in the wrong ones."""
    fake.replies["TradesHistory"] = paged("trades", {"TA": trade(cost="7500.02", fee="19.5")})
    legs = {"LA": entry("TA", "ZUSD", "-7500.0251", "19.5001"), "LB": entry("TA", "XXBT", "0.2500000001")}
    fake.replies["Ledgers"] = paged("ledger", legs | {"LC": entry("TOTHER", "ZUSD", "-1")})
    assert venue.fills(NOW - 60) == [
        VenueFill("TA", "OAAA", "BTC/USD", "buy", Decimal("0.2500000001"), Decimal("30000.1"), Decimal("7500.0251"),
                  Decimal("19.5001"), "USD", NOW),
    ]  # fmt: skip
    (form,) = fake.forms("Ledgers")
    assert form["type"] == "trade"
    assert int(form["start"]) < NOW - 119, "an entry may be older than its trade"


def test_a_fee_in_base_is_told_as_one(fake: FakeAccount, venue: KrakenTrading) -> None:
    fake.replies["TradesHistory"] = paged("trades", {"TA": trade(type="sell")})
    legs = {"LA": entry("TA", "ZUSD", "7500.02"), "LB": entry("TA", "XXBT", "-0.25", "0.00065")}
    fake.replies["Ledgers"] = paged("ledger", legs)
    (fill,) = venue.fills(NOW)
    assert (fill.side, fill.quantity, fill.cost) == ("sell", Decimal("0.25"), Decimal("7500.02"))
    assert (fill.fee, fill.fee_asset) == (Decimal("0.00065"), "BTC")


def test_fees_of_one_trade_in_two_assets_are_not_understood(fake: FakeAccount, venue: KrakenTrading) -> None:
    fake.replies["TradesHistory"] = paged("trades", {"TA": trade()})
    legs = {"LA": entry("TA", "ZUSD", "-7500.02", "1"), "LB": entry("TA", "XXBT", "0.25", "0.001")}
    fake.replies["Ledgers"] = paged("ledger", legs)
    with pytest.raises(CouldNotAsk, match="fees in USD and BTC for one trade"):
        venue.fills(NOW)


def test_a_trade_with_what_earns_meanwhile_is_one_of_the_asset(fake: FakeAccount, venue: KrakenTrading) -> None:
    fake.replies["TradesHistory"] = paged("trades", {"TA": trade()})
    legs = {"LA": entry("TA", "ZUSD", "-7500.02"), "LB": entry("TA", "XBT.F", "0.15"), "LC": entry("TA", "XXBT", "0.1")}
    fake.replies["Ledgers"] = paged("ledger", legs)
    (fill,) = venue.fills(NOW)
    assert (fill.symbol, fill.quantity) == ("BTC/USD", Decimal("0.25"))


@pytest.mark.parametrize("missing", ["LA", "LB", "both"])
def test_a_trade_that_the_ledger_does_not_know_yet_is_no_answer(
    fake: FakeAccount, venue: KrakenTrading, missing: str
) -> None:
    fake.replies["TradesHistory"] = paged("trades", {"TA": trade(), "TB": trade()})
    legs = {"LC": entry("TB", "ZUSD", "-1"), "LD": entry("TB", "XXBT", "1"),
            "LA": entry("TA", "ZUSD", "-7500.02"), "LB": entry("TA", "XXBT", "0.25")}  # fmt: skip
    kept = {name: leg for name, leg in legs.items() if name not in (missing, *("LA", "LB") * (missing == "both"))}
    fake.replies["Ledgers"] = paged("ledger", kept)
    with pytest.raises(CouldNotAsk, match="ledger lags: trade TA"):
        venue.fills(NOW - 60)


def test_a_trade_of_a_pair_that_is_gone_is_named_by_what_moved(fake: FakeAccount, venue: KrakenTrading) -> None:
    fake.replies["TradesHistory"] = paged("trades", {"TA": trade(pair="ETHUSDT", type="sell")})
    legs = {"LA": entry("TA", "XETH", "-2"), "LB": entry("TA", "USDT", "5000")}
    fake.replies["Ledgers"] = paged("ledger", legs)
    (fill,) = venue.fills(NOW)
    assert (fill.symbol, fill.quantity, fill.cost, fill.fee) == ("ETH/USDT", 2, 5000, 0)


def test_our_own_symbol_keeps_its_name_when_it_is_delisted() -> None:
    with connected(["ETH/USD"]) as (fake, venue):
        fake.replies["OpenOrders"] = {
            "open": {"OA": told_order(descr={"pair": "XETHZUSD"}), "OB": told_order(descr={"pair": "ETHUSD"}),
                     "OC": told_order(descr={"pair": "LUNAUSD"})},
        }  # fmt: skip
        assert [order.symbol for order in venue.open_orders()] == ["ETH/USD", "ETH/USD", "LUNAUSD"]


def test_fills_come_oldest_first_from_all_pages_and_none_from_before(fake: FakeAccount, venue: KrakenTrading) -> None:
    trades = {f"T{n:03}": trade(time=NOW - n) for n in range(70)}
    legs = {f"L{n:03}{a}": entry(f"T{n:03}", a, v) for n in range(70) for a, v in (("ZUSD", "-1"), ("XXBT", "1"))}
    fake.replies |= {"TradesHistory": paged("trades", trades), "Ledgers": paged("ledger", legs)}
    assert [fill.venue_trade_id for fill in venue.fills(NOW - 60)] == [f"T{n:03}" for n in range(60, -1, -1)]
    assert len(fake.forms("TradesHistory")), len(fake.forms("Ledgers")) == (2, 3)


def test_without_trades_the_ledger_is_not_asked(fake: FakeAccount, venue: KrakenTrading) -> None:
    fake.replies["TradesHistory"] = paged("trades", {})
    assert venue.fills(NOW) == []
    assert not fake.forms("Ledgers")


def test_a_trade_on_margin_by_hand_is_no_fill_and_no_reason_to_wait(fake: FakeAccount, venue: KrakenTrading) -> None:
    fake.replies["TradesHistory"] = paged("trades", {"TA": trade(), "TM": trade(margin="1500.00000")})
    legs = {"LA": entry("TA", "ZUSD", "-7500.02"), "LB": entry("TA", "XXBT", "0.25")}
    fake.replies["Ledgers"] = paged("ledger", legs)
    assert [fill.venue_trade_id for fill in venue.fills(NOW - 60)] == ["TA"]


def test_what_was_told_of_a_trade_is_not_asked_for_again_until_it_is_told_otherwise(
    fake: FakeAccount, venue: KrakenTrading
) -> None:
    fake.replies["TradesHistory"] = paged("trades", {"TA": trade()})
    legs = {"LA": entry("TA", "ZUSD", "-7500.02"), "LB": entry("TA", "XXBT", "0.25")}
    fake.replies["Ledgers"] = paged("ledger", legs)
    first = venue.fills(NOW - 60)
    assert venue.fills(NOW - 60) == first
    assert len(fake.forms("Ledgers")) == 1
    fake.replies["TradesHistory"] = paged("trades", {"TA": trade(price="30001")})
    (retold,) = venue.fills(NOW - 60)
    assert retold.price == Decimal(30_001)
    assert len(fake.forms("Ledgers")) == 2


# --- money ---


def test_movements_are_told_by_what_they_are(fake: FakeAccount, venue: KrakenTrading) -> None:
    rows = {
        "L1": entry("Q1", "ZUSD", "1000.0000", "0", type="deposit", subtype="", time=NOW - 9),
        "L2": entry("Q2", "XXBT", "-0.5", "0.00015", type="withdrawal", time=NOW - 8),
        "L3": entry("Q3", "XXBT", "-0.1", type="earn", subtype="allocation", time=NOW - 7),
        "L4": entry("Q3", "XBT.M", "0.1", type="earn", subtype="allocation", time=NOW - 7),
        "L5": entry("Q5", "XETH", "-1", type="transfer", subtype="spottostaking", time=NOW - 6),
        "L6": entry("Q6", "XETH", "1", type="transfer", subtype="spotfromfutures", time=NOW - 5),
        "L7": entry("TA", "ZUSD", "-10", "0.04", time=NOW - 4),
        "L8": entry("Q8", "ZUSD", "5", type="something new", subtype="", time=NOW - 3),
        "L9": entry("Q9", "ZUSD", "7", type="deposit", time=NOW - 61),
    }
    fake.replies["Ledgers"] = paged("ledger", rows)
    told = venue.ledger(NOW - 60)
    assert [(one.id, one.kind, one.asset) for one in told] == [
        ("L1", "deposit", "USD"), ("L2", "withdrawal", "BTC"), ("L3", "staking", "BTC"), ("L5", "staking", "ETH"),
        ("L6", "transfer", "ETH"), ("L7", "trade", "USD"), ("L8", "other", "USD"),
    ]  # fmt: skip
    assert told[1] == LedgerEntry("L2", "withdrawal", "BTC", Decimal("-0.5"), Decimal("0.00015"), NOW - 8, "Q2",
                                  "withdrawal tradespot")  # fmt: skip


def test_balances_are_what_can_be_traded_under_plain_names(fake: FakeAccount, venue: KrakenTrading) -> None:
    def held(balance: str, hold: str = "0") -> dict[str, str]:
        return {"balance": balance, "hold_trade": hold}

    fake.replies["BalanceEx"] = {
        "XXBT": held("0.0000000001", "1e-10"), "ZUSD": held("1234.5678", "100"), "XBT.M": held("3"), "ETH.F": held("4"),
        "DOT28.S": held("5"), "USD.HOLD": held("6"), "SOL": held("7"),
    }  # fmt: skip
    assert venue.balances() == {
        "BTC": Balance(Decimal("1e-10"), Decimal("1e-10")), "USD": Balance(Decimal("1234.5678"), Decimal(100)),
        "SOL": Balance(Decimal(7), Decimal(0)),
    }  # fmt: skip


def test_json_numbers_are_never_floats(fake: FakeAccount, venue: KrakenTrading) -> None:
    body = b'{"error":[],"result":{"XXBT":{"balance":0.12345678901234567890,"hold_trade":1e-8}}}'
    fake.replies["BalanceEx"] = body
    assert venue.balances() == {"BTC": Balance(Decimal("0.12345678901234567890"), Decimal("0.00000001"))}
