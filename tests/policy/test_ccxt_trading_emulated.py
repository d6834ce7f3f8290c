"""CcxtTrading on the emulated Binance: what it tells is what the engine knows, whatever the network does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from itertools import count
from typing import Any
from uuid import uuid4

import pytest

from policy.execution.venues.ccxt_trading import CcxtTrading
from policy.execution.venues.protocol import (
    Accepted,
    Balance,
    CouldNotAsk,
    Credentials,
    Done,
    Gone,
    KeyRights,
    NewOrder,
    Rejected,
    Unknown,
)
from shared.clock import from_unix
from tests.exchange_emulator.faults import Rule
from tests.exchange_emulator.server import START, Emulator

BTC = "BTC/USDT"
TRANSPORT = (
    "reset",
    "close",
    "short_body",
    "html",
    "bad_json",
    "empty",
    "null_result",
    "http_5xx",
    "http_429",
    "error",
)
HALF = Decimal("0.5")


class EmulatorClock:
    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    def now(self) -> Any:
        return from_unix(self._emulator.clock.now())


@pytest.fixture(scope="module")
def shared() -> Iterator[Emulator]:
    with Emulator((BTC, "ETH/USDT")) as emulator:
        yield emulator


@pytest.fixture
def emulator(shared: Emulator) -> Iterator[Emulator]:
    yield shared
    shared.faults.clear()


@pytest.fixture
def name(emulator: Emulator) -> str:
    """Of a new account with money."""
    name = uuid4().hex
    emulator.engine.accounts.open(name, "binance")
    emulator.engine.accounts.add_key(name, f"key-{name}", f"secret-{name}")
    emulator.engine.accounts.deposit(name, "USDT", Decimal(500_000))
    return name


@pytest.fixture
def account(emulator: Emulator, name: str) -> CcxtTrading:
    credentials = Credentials(f"key-{name}", f"secret-{name}")
    clock = EmulatorClock(emulator)
    return CcxtTrading(credentials, count(1).__next__, (BTC, "ETH/USDT"), clock, emulator.binance_url)


def order(**changes: Any) -> NewOrder:
    asked = {"client_id": uuid4(), "symbol": BTC, "side": "buy", "type": "market", "quantity": HALF}
    return NewOrder(**asked | changes)


def price(emulator: Emulator, factor: str) -> Decimal:
    tick = emulator.market.rules(BTC).tick_size
    return emulator.market.last_price(BTC, emulator.clock.now()) * Decimal(factor) // tick * tick


def placed(account: CcxtTrading, order: NewOrder) -> str:
    outcome = account.place(order, 1)
    assert isinstance(outcome, Accepted), outcome
    return outcome.venue_order_id


def test_a_market_order_is_found_filled_and_paid_for(account: CcxtTrading, emulator: Emulator, name: str) -> None:
    bought = order()
    number = placed(account, bought)
    found = account.find(BTC, bought.client_id, None, 0.0)
    assert found == account.find(BTC, bought.client_id, number, 0.0)
    assert found is not None
    assert (found.venue_order_id, found.client_id, found.state, found.filled) == (
        number, str(bought.client_id), "filled", HALF
    )  # fmt: skip
    assert list(account.closed_orders(START - 60)) == [found]
    fills, truth = account.fills(START - 60), emulator.engine.view(name).fills
    assert [(f.quantity, f.price, f.cost, f.fee, f.fee_asset) for f in fills] == [
        (f.quantity, f.price, f.cost, f.fee, f.fee_asset) for f in truth
    ]
    assert {fill.venue_order_id for fill in fills} == {number}
    assert account.balances()["BTC"] == Balance(HALF * Decimal("0.999"), Decimal(0))


def test_the_ledger_adds_up_to_the_balances(account: CcxtTrading, emulator: Emulator, name: str) -> None:
    started = emulator.clock.now()
    placed(account, order())
    placed(account, order(side="sell", quantity=Decimal("0.2")))
    emulator.clock.advance(120)
    emulator.engine.accounts.withdraw(name, "USDT", Decimal("100.5"), Decimal("0.8"))
    emulator.engine.accounts.deposit(name, "ETH", Decimal("1e-8"))
    totals: dict[str, Decimal] = defaultdict(Decimal)
    entries = account.ledger(started)
    for entry in entries:
        totals[entry.asset] += entry.amount - entry.fee
    assert totals == {asset: balance.total for asset, balance in account.balances().items()}
    assert {entry.kind for entry in account.ledger(started + 60)} == {"deposit", "withdrawal"}
    assert len({entry.id for entry in entries}) == len(entries)


def test_every_type_of_order_rests_as_it_was_meant(account: CcxtTrading, emulator: Emulator, name: str) -> None:
    placed(account, order(quantity=Decimal(1)))
    low, high = price(emulator, "0.9"), price(emulator, "1.1")
    small = Decimal("0.1")
    asked = [
        order(side="buy", type="limit", limit_price=low, quantity=small),
        order(side="sell", type="limit", limit_price=high, post_only=True, quantity=small),
        order(side="sell", type="stop", stop_price=low, quantity=small),
        order(side="sell", type="stop", stop_price=low, limit_price=low, quantity=small),
        order(side="sell", type="take_profit", stop_price=high, quantity=small),
        order(side="sell", type="trailing_stop", trail=Decimal("0.05"), quantity=small),
    ]
    numbers = {placed(account, each): each for each in asked}
    told = {each.venue_order_id: each for each in account.open_orders()}
    truth = {f"BTCUSDT:{each.number}": each for each in emulator.engine.view(name).orders if each.is_open}
    assert numbers.keys() == told.keys() == truth.keys()
    for number, meant in numbers.items():
        real = truth[number]
        assert (told[number].client_id, told[number].state) == (str(meant.client_id), "open")
        assert (real.type, real.side, real.quantity, real.limit_price, real.trail, real.post_only) == (
            meant.type, meant.side, meant.quantity, meant.limit_price, meant.trail, meant.post_only
        )  # fmt: skip
        assert told[number].stop_price == real.stop_price
        assert meant.type == "trailing_stop" or real.stop_price == meant.stop_price
    assert account.balances()["BTC"].held == Decimal("0.5")


def test_a_canceled_order_is_done_once_and_then_gone(account: CcxtTrading, emulator: Emulator) -> None:
    resting = order(type="limit", limit_price=price(emulator, "0.9"))
    number = placed(account, resting)
    assert account.cancel(BTC, number) == Done()
    assert isinstance(account.cancel(BTC, number), Gone)
    assert isinstance(account.cancel(BTC, "BTCUSDT:999999"), Gone)
    found = account.find(BTC, resting.client_id, number, 0.0)
    assert found is not None
    assert (found.state, found.client_id) == ("canceled", str(resting.client_id))
    filled = placed(account, order(quantity=Decimal("0.01")))
    assert isinstance(account.cancel(BTC, filled), Gone)


@pytest.mark.parametrize("phase", ["before", "after_effect"])
@pytest.mark.parametrize("fault", TRANSPORT)
def test_a_lost_answer_is_unknown_and_a_look_tells(
    account: CcxtTrading, emulator: Emulator, name: str, fault: str, phase: Any
) -> None:
    account.server_time()
    emulator.faults.inject(Rule(fault, "rest", "order", times=1, phase=phase))
    asked = order(quantity=Decimal("0.01"))
    outcome = account.place(asked, 1)
    if fault == "http_429":  # in the venue's own words, which never come after an effect
        assert isinstance(outcome, Rejected)
    else:
        assert isinstance(outcome, Unknown)
    found = account.find(BTC, asked.client_id, None, 0.0)
    assert (found is not None) == (phase == "after_effect") == bool(emulator.engine.view(name).orders)
    assert (sum(fill.quantity for fill in account.fills(0.0)) == asked.quantity) == (phase == "after_effect")


def test_an_order_that_arrives_after_its_deadline_never_is(account: CcxtTrading, emulator: Emulator, name: str) -> None:
    asked = order(deadline=emulator.clock.now() + 5)
    emulator.faults.inject(Rule("late_arrival", "rest", "order", times=1, parameter=5.1))
    assert isinstance(account.place(asked, 1), Unknown)
    emulator.clock.advance(10)
    assert account.find(BTC, asked.client_id, None, 0.0) is None
    in_time = order(deadline=emulator.clock.now() + 5)
    emulator.faults.inject(Rule("late_arrival", "rest", "order", times=1, parameter=4.9))
    assert isinstance(account.place(in_time, 1), Unknown)
    assert account.find(BTC, in_time.client_id, None, 0.0) is None
    emulator.clock.advance(10)
    assert account.find(BTC, in_time.client_id, None, 0.0) is not None
    assert len(emulator.engine.view(name).orders) == 1


def test_a_cancellation_whose_answer_is_lost_is_unknown(account: CcxtTrading, emulator: Emulator) -> None:
    resting = order(type="limit", limit_price=price(emulator, "0.9"))
    number = placed(account, resting)
    for phase, state in (("before", "open"), ("after_effect", "canceled")):
        emulator.faults.inject(Rule("close", "rest", "order", times=1, phase=phase))  # type: ignore[arg-type]
        assert isinstance(account.cancel(BTC, number), Unknown)
        found = account.find(BTC, resting.client_id, number, 0.0)
        assert found is not None
        assert found.state == state


def test_the_engines_refusals_are_rejections(account: CcxtTrading, emulator: Emulator, name: str) -> None:
    for wrong in (
        order(quantity=Decimal(10_000)),
        order(quantity=Decimal("1e-8")),
        order(type="limit", limit_price=price(emulator, "1") + Decimal("1e-8")),
        order(type="limit", limit_price=price(emulator, "1.1"), post_only=True),
        order(side="sell", type="stop", stop_price=price(emulator, "1.1")),
        order(symbol="LUNA/USDT"),
    ):
        outcome = account.place(wrong, 1)
        assert isinstance(outcome, Rejected), outcome
        assert not outcome.fatal
    assert not emulator.engine.view(name).orders


def test_a_second_order_under_an_open_ones_id_is_unknown_for_there_is_one(
    account: CcxtTrading, emulator: Emulator
) -> None:
    resting = order(type="limit", limit_price=price(emulator, "0.9"))
    number = placed(account, resting)
    assert isinstance(account.place(resting, 2), Unknown)
    found = account.find(BTC, resting.client_id, None, 0.0)
    assert found is not None
    assert found.venue_order_id == number


@pytest.mark.parametrize(
    ("rights", "ips", "expected"),
    [
        (frozenset({"read", "trade"}), (), KeyRights(True, False, False, None)),
        (frozenset({"read", "trade", "withdraw"}), ("127.0.0.1",), KeyRights(True, True, True, None)),
        (frozenset({"read"}), (), KeyRights(False, False, False, None)),
    ],
)
def test_a_keys_rights_are_told_and_a_lost_one_is_fatal(
    account: CcxtTrading, emulator: Emulator, name: str, rights: Any, ips: Any, expected: KeyRights
) -> None:
    emulator.engine.accounts.change_key(f"key-{name}", rights=rights, ips=ips)
    assert account.key_rights() == expected
    if "trade" not in rights:
        outcome = account.place(order(), 1)
        assert isinstance(outcome, Rejected)
        assert outcome.fatal


def test_what_is_staked_is_in_no_balance_and_nothing_else_is_left_out(
    account: CcxtTrading, emulator: Emulator, name: str
) -> None:
    emulator.engine.accounts.deposit(name, "BTC", Decimal(2))
    emulator.engine.accounts.stake(name, "BTC", HALF)
    assert account.balances() == {
        "BTC": Balance(Decimal("1.5"), Decimal(0)),
        "USDT": Balance(Decimal(500_000), Decimal(0)),
        "ETH": Balance(Decimal(0), Decimal(0)),
    }


def test_the_venues_clock_status_and_rules_are_told(account: CcxtTrading, emulator: Emulator) -> None:
    assert account.server_time() == pytest.approx(emulator.clock.now(), abs=0.001)
    assert account.status() == "online"
    real = emulator.rules.of("binance", BTC)
    assert account.rules(BTC) == real
    emulator.faults.inject(Rule("tick_size", symbol=BTC))
    assert account.rules(BTC).tick_size == 10 * real.tick_size
    emulator.faults.inject(Rule("maintenance"))
    assert account.status() == "maintenance"
    emulator.faults.inject(Rule("delisting", symbol=BTC))
    with pytest.raises(CouldNotAsk, match="delisted"):
        account.rules(BTC)
    assert account.rules("ETH/USDT").status == "cancel_only"


def test_a_clock_that_jumps_is_found_out_by_one_refusal(account: CcxtTrading, emulator: Emulator) -> None:
    assert account.balances()
    emulator.faults.inject(Rule("clock_skew", parameter=-3600.0))
    with pytest.raises(CouldNotAsk, match="-1021"):
        account.balances()
    assert account.balances()
