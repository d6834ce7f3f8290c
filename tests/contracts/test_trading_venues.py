"""What every venue that trades must keep, tried on its emulator; a new one joins by a line in trading_accounts.

The emulator's engine is the truth: what is in its book, what it filled, what it booked.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from policy.execution.venues import VENUES
from policy.execution.venues.protocol import (
    Changed,
    CouldNotAsk,
    Done,
    Gone,
    Rejected,
    TradingVenue,
    Unknown,
)
from tests.contracts.trading_accounts import (
    INSTALLATION,
    MONEY,
    NUMBERS,
    OTHER,
    SYMBOL,
    TRANSPORT,
    WORLDS,
    Account,
    order,
    place,
    placed,
    tick,
)
from tests.exchange_emulator.faults import Phase, Rule
from tests.exchange_emulator.records import Request
from tests.exchange_emulator.server import START, Emulator


@pytest.fixture(scope="module")
def emulated() -> Iterator[Emulator]:
    with Emulator((SYMBOL, OTHER)) as emulator:
        yield emulator


@pytest.fixture(params=sorted(WORLDS))
def account(
    request: pytest.FixtureRequest, emulated: Emulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> Iterator[Account]:
    """With money and coins. Whatever a test does: nothing that is logged has the key in it."""
    caplog.set_level(logging.DEBUG)
    number = next(NUMBERS)
    secret = base64.b64encode(f"secret of account {number}".encode()).decode()
    account = Account(emulated, request.param, f"account-{number}", f"key-of-{number}", secret, tmp_path, count(10**18))
    emulated.engine.accounts.open(account.name, request.param)
    emulated.engine.accounts.add_key(account.name, account.key, secret)
    for asset, amount in (("USDT", MONEY), ("BTC", Decimal(5)), ("ETH", Decimal(5))):
        emulated.engine.accounts.deposit(account.name, asset, amount)
    yield account
    emulated.faults.clear()
    assert account.key not in caplog.text
    assert secret not in caplog.text


@pytest.fixture
def venue(account: Account) -> TradingVenue:
    return account.open()


@pytest.fixture
def price(emulated: Emulator) -> Decimal:
    return emulated.market.last_price(SYMBOL, emulated.clock.now())


def test_every_registered_venue_is_under_contract() -> None:
    assert WORLDS.keys() == VENUES.keys()


# --- an order's life ---


def test_a_filled_order_is_found_with_the_fills_and_the_money_that_moved(venue: TradingVenue, account: Account) -> None:
    bought, sold = order(deadline=START + 5), order(side="sell", quantity=Decimal("1.5"), symbol=OTHER)
    for wanted in (bought, sold):
        venue_order_id = placed(venue, account, wanted)
        for known in (None, venue_order_id):
            found = venue.find(wanted.symbol, wanted.client_id, known, START - 60)
            assert found is not None
            assert (found.venue_order_id, found.client_id) == (venue_order_id, str(wanted.client_id))
            assert (found.symbol, found.side, found.state) == (wanted.symbol, wanted.side, "filled")
            assert found.filled == found.quantity == wanted.quantity
    assert not venue.open_orders()
    assert {ended.client_id for ended in venue.closed_orders(START - 60)} >= {
        str(bought.client_id),
        str(sold.client_id),
    }
    told = {(f.symbol, f.side, f.quantity, f.price, f.cost, f.fee, f.fee_asset) for f in venue.fills(START - 60)}
    truth = account.truth.fills
    assert told == {(f.symbol, f.side, f.quantity, f.price, f.cost, f.fee, f.fee_asset) for f in truth}
    assert len({f.venue_trade_id for f in venue.fills(START - 60)}) == len(truth) > 1
    assert_same_money(venue, account)


def assert_same_money(venue: TradingVenue, account: Account) -> None:
    balances = {asset: (held.total, held.held) for asset, held in venue.balances().items() if held.total}
    truth = {asset: (b.total, b.held) for asset, b in account.truth.balances.items() if b.total and "." not in asset}
    assert balances == truth
    booked = dict.fromkeys(truth, Decimal(0))
    for entry in venue.ledger(START - 60):
        booked[entry.asset] += entry.amount - entry.fee
    assert booked == {asset: total for asset, (total, _) in truth.items()}


def test_what_comes_and_goes_without_trading_is_in_the_ledger(venue: TradingVenue, account: Account) -> None:
    accounts = account.emulator.engine.accounts
    accounts.deposit(account.name, "USDT", Decimal("0.00000001"))
    accounts.withdraw(account.name, "BTC", Decimal("0.5"), fee=Decimal("0.0002"))
    placed(venue, account, order())
    assert_same_money(venue, account)
    told = {(e.kind, e.asset, e.amount, e.fee) for e in venue.ledger(START - 60) if e.kind != "trade"}
    assert told >= {("deposit", "USDT", Decimal("1e-8"), 0), ("withdrawal", "BTC", Decimal("-0.5"), Decimal("0.0002"))}
    assert {e.reference for e in venue.ledger(START - 60) if e.kind == "trade"} == {
        fill.venue_trade_id for fill in venue.fills(START - 60)
    }


def test_a_resting_order_is_open_until_it_is_canceled_and_then_it_is_gone(
    venue: TradingVenue, account: Account, price: Decimal
) -> None:
    limit = order(type="limit", limit_price=tick(price / 2), post_only=True)
    stop = order(type="stop", side="sell", stop_price=tick(price * Decimal("0.85")))
    ids = [placed(venue, account, wanted) for wanted in (limit, stop)]
    resting = {one.venue_order_id: one for one in venue.open_orders()}
    assert [resting[one].client_id for one in ids] == [str(limit.client_id), str(stop.client_id)]
    assert [resting[one].stop_price for one in ids] == [None, stop.stop_price]
    assert [resting[one].state for one in ids] == ["open", "open"]
    assert_same_money(venue, account)
    for venue_order_id in ids:
        assert venue.cancel(SYMBOL, venue_order_id) == Done()
        assert isinstance(venue.cancel(SYMBOL, venue_order_id), Gone)
        ended = venue.find(SYMBOL, limit.client_id, venue_order_id, START - 60)
        assert ended is not None
        assert (ended.state, ended.filled) == ("canceled", 0)
    assert not venue.open_orders()


def test_canceling_what_was_filled_finds_nothing_to_cancel(venue: TradingVenue, account: Account) -> None:
    venue_order_id = placed(venue, account, order())
    assert isinstance(venue.cancel(SYMBOL, venue_order_id), Gone)


def test_a_fill_that_comes_after_the_cancellation_is_told(
    venue: TradingVenue, account: Account, price: Decimal
) -> None:
    """Fault 11: canceled with filled > 0."""
    wanted = order(type="limit", limit_price=tick(price / 2))
    venue_order_id = placed(venue, account, wanted)
    account.emulator.faults.inject(Rule("fill_before_cancel"))
    assert venue.cancel(SYMBOL, venue_order_id) == Done()
    ended = venue.find(SYMBOL, wanted.client_id, venue_order_id, START - 60)
    assert ended is not None
    assert (ended.state, ended.filled) == ("canceled", Decimal("0.006"))
    (fill,) = venue.fills(START - 60)
    assert (fill.quantity, fill.venue_order_id) == (ended.filled, venue_order_id)


def test_an_amendment_changes_the_order_in_place_or_is_refused(
    venue: TradingVenue, account: Account, price: Decimal
) -> None:
    stop = order(type="stop", side="sell", stop_price=tick(price * Decimal("0.85")))
    venue_order_id, lower = placed(venue, account, stop), tick(price * Decimal("0.8"))
    changed: Changed = venue.amend(SYMBOL, venue_order_id, Decimal("0.005"), lower)
    truth = account.order_of(stop.client_id)
    assert truth is not None
    if venue.capabilities.amend:
        assert changed == Done()
        assert (truth.quantity, truth.stop_price) == (Decimal("0.005"), lower)
        assert [(one.quantity, one.stop_price) for one in venue.open_orders()] == [(Decimal("0.005"), lower)]
        assert isinstance(venue.amend(SYMBOL, placed(venue, account, order()), Decimal(1), None), Gone)
    else:
        assert isinstance(changed, Rejected)
        assert truth.quantity == stop.quantity


def test_amounts_survive_to_the_last_digit(venue: TradingVenue, account: Account, price: Decimal) -> None:
    """Fault 45: no float on the way there or back, no scientific notation."""
    wanted = order(type="limit", quantity=Decimal("1.003E-2"), limit_price=Decimal(f"{tick(price / 2):E}"))
    placed(venue, account, wanted)
    (resting,) = venue.open_orders()
    truth = account.order_of(wanted.client_id)
    assert truth is not None
    assert truth.quantity == resting.quantity == Decimal("0.01003")
    assert truth.limit_price == wanted.limit_price
    assert isinstance(resting.quantity, Decimal)


# --- the unknown ---


@pytest.mark.parametrize("phase", ["before", "after_effect"])
@pytest.mark.parametrize("fault", TRANSPORT)
def test_a_lost_answer_leaves_the_order_unknown_and_a_look_decides(
    venue: TradingVenue, account: Account, fault: str, phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faults 1, 2, 3 and 6: whatever was lost, it was sent once, and is there exactly if it arrived."""
    endpoint, wanted = WORLDS[account.venue].order_endpoint, order()
    if fault == "hang":
        monkeypatch.setattr(*WORLDS[account.venue].patience)
    sender = account.open()
    placed(sender, account, order())  # whatever the adapter must know first, it knows now
    before = account.emulator.requests[endpoint]
    account.emulator.faults.inject(Rule(fault, endpoint=endpoint, phase=phase, times=1))
    outcome = place(sender, account, wanted)
    assert isinstance(outcome, Unknown), outcome
    assert (account.key in outcome.reason, account.secret in outcome.reason) == (False, False)
    assert account.emulator.requests[endpoint] == before + 1
    found = venue.find(SYMBOL, wanted.client_id, None, START - 60)
    truth = account.order_of(wanted.client_id)
    assert (found is not None) == (truth is not None) == (phase == "after_effect")
    if found is not None and truth is not None:
        assert (found.state, found.filled) == (truth.state, truth.filled) == ("filled", wanted.quantity)


def test_an_order_that_is_late_never_appears_after_its_deadline(venue: TradingVenue, account: Account) -> None:
    """Which is what makes "nowhere, and the deadline has passed" mean "never"."""
    assert venue.capabilities.deadline
    clock, endpoint = account.emulator.clock, WORLDS[account.venue].order_endpoint
    wanted = order(deadline=clock.now() + 5)
    account.emulator.faults.inject(Rule("late_arrival", endpoint=endpoint, parameter=6.0, times=1))
    assert isinstance(place(venue, account, wanted), Unknown)
    clock.advance(10)
    assert venue.find(SYMBOL, wanted.client_id, None, START - 60) is None
    assert account.order_of(wanted.client_id) is None


def test_an_id_in_use_takes_no_second_order_and_proves_nothing(
    venue: TradingVenue, account: Account, price: Decimal
) -> None:
    """The order with that id is in the book: a refusal would deny it."""
    wanted = order(type="limit", limit_price=tick(price / 2))
    venue_order_id = placed(venue, account, wanted)
    assert isinstance(place(venue, account, wanted), Unknown)
    found = venue.find(SYMBOL, wanted.client_id, None, START - 60)
    assert found is not None
    assert found.venue_order_id == venue_order_id
    assert account.order_of(wanted.client_id) is not None


# --- the definite ---


@pytest.mark.parametrize(
    "changes",
    [{"quantity": Decimal(900)}, {"quantity": Decimal("0.00001")}, {"quantity": Decimal("1e-9")},
     {"symbol": "XYZ/USDT"}, {"type": "limit", "limit_price": Decimal("20000.000001")}, {"type": "limit"},
     {"type": "limit", "limit_price": Decimal(10**6), "post_only": True}],
    ids=["funds", "minimum", "lot", "symbol", "tick", "price", "post-only"],
)  # fmt: skip
def test_a_refusal_is_definite_and_nothing_was_placed(
    venue: TradingVenue, account: Account, changes: dict[str, Any]
) -> None:
    outcome = place(venue, account, order(**changes))
    assert isinstance(outcome, Rejected), outcome
    assert not outcome.fatal
    assert outcome.reason
    assert not account.truth.orders
    assert venue.find(SYMBOL, order().client_id, None, START - 60) is None


@pytest.mark.parametrize(
    ("fault", "rule", "changes"),
    [("tick_size", "tick size", {"type": "limit", "limit_price": Decimal("19000.01")}), ("minimum", "quantity", {}),
     (None, "minimum notional", {"quantity": Decimal("0.0001"), "type": "limit", "limit_price": Decimal("0.1")}),
     (None, "", {"quantity": Decimal(900)})],
)  # fmt: skip
def test_a_refusal_names_the_rule_of_the_market_that_was_broken(
    venue: TradingVenue, account: Account, fault: str | None, rule: str, changes: dict[str, Any]
) -> None:
    if fault is not None:
        account.emulator.faults.inject(Rule(fault, parameter=1.0))
    outcome = place(venue, account, order(**changes))
    assert isinstance(outcome, Rejected), outcome
    assert bool(outcome.rule) == bool(rule)
    assert rule in outcome.rule


def test_a_key_that_does_not_pass_is_fatal(account: Account) -> None:
    other = base64.b64encode(b"another secret").decode()
    for stranger in (account.open(key="nobodys-key"), account.open(secret=other)):
        outcome = place(stranger, account, order())
        assert isinstance(outcome, Rejected)
        assert outcome.fatal
        with pytest.raises(CouldNotAsk) as refused:
            stranger.balances()
        assert refused.value.fatal
    assert not account.truth.orders


def test_a_key_that_may_only_look_places_nothing(venue: TradingVenue, account: Account) -> None:
    account.emulator.engine.accounts.change_key(account.key, frozenset({"read"}))
    outcome = place(venue, account, order())
    assert isinstance(outcome, Rejected)
    assert outcome.fatal
    assert venue.balances()
    assert not account.truth.orders


def test_a_keys_rights_are_told(venue: TradingVenue, account: Account) -> None:
    accounts = account.emulator.engine.accounts
    rights = venue.key_rights()
    assert (rights.trade, rights.withdraw) == (True, False)
    accounts.change_key(account.key, frozenset({"read", "trade", "withdraw"}), ips=("127.0.0.1",))
    rights = venue.key_rights()
    assert (rights.trade, rights.withdraw, rights.ip_restricted) == (True, True, True)
    accounts.change_key(account.key, frozenset({"read"}))
    assert venue.key_rights().trade is False


# --- asking (R6) ---

ASKS: dict[str, Callable[[TradingVenue], object]] = {
    "open_orders": lambda venue: venue.open_orders(),
    "closed_orders": lambda venue: venue.closed_orders(START - 60),
    "find": lambda venue: venue.find(SYMBOL, INSTALLATION, None, START - 60),
    "fills": lambda venue: venue.fills(START - 60),
    "ledger": lambda venue: venue.ledger(START - 60),
    "balances": lambda venue: venue.balances(),
    "key_rights": lambda venue: venue.key_rights(),
    "server_time": lambda venue: venue.server_time(),
    "status": lambda venue: venue.status(),
}


@pytest.mark.parametrize("ask", sorted(ASKS))
def test_what_could_not_be_asked_is_never_empty(venue: TradingVenue, account: Account, ask: str) -> None:
    placed(venue, account, order())
    ASKS[ask](venue)
    requests, faults = account.emulator.requests, account.emulator.faults
    before = requests.copy()
    ASKS[ask](venue)
    asked = sorted(requests - before)
    assert asked
    for endpoint in asked:
        for fault in TRANSPORT[1:]:  # to hang is tried by placing
            faults.inject(Rule(fault, endpoint=endpoint, phase="before"))
            with pytest.raises(CouldNotAsk) as refused:
                ASKS[ask](account.open())
            assert not refused.value.fatal
            assert account.key not in str(refused.value)
            faults.clear()
    ASKS[ask](account.open())


def test_a_ledger_that_lags_is_no_answer(venue: TradingVenue, account: Account) -> None:
    placed(venue, account, order())
    account.emulator.faults.inject(Rule("stale_read", endpoint="Ledgers", parameter=10.0))
    if account.venue == "kraken":
        with pytest.raises(CouldNotAsk, match="ledger lags"):
            venue.fills(START - 60)
        account.emulator.faults.clear()
    assert len(venue.fills(START - 60)) == len(account.truth.fills)


@pytest.mark.parametrize("fault", [None, "duplicate", "reorder"])
def test_many_pages_are_read_whole(venue: TradingVenue, account: Account, fault: str | None) -> None:
    for number in range(60):
        request = Request(SYMBOL, "buy", "market", Decimal("0.001"), client_id=f"elsewhere-{number}")
        account.emulator.engine.place(account.name, request)
    if fault is not None:
        account.emulator.faults.inject(Rule(fault, surface="rest"))
    truth = account.truth
    assert len(venue.closed_orders(START - 60)) == len(truth.orders) == 60
    assert [fill.quantity for fill in venue.fills(START - 60)] == [fill.quantity for fill in truth.fills]
    assert len(venue.ledger(START - 60)) >= 2 * len(truth.fills)


# --- the nonce ---


def test_a_sender_that_was_taken_over_reaches_nobody(venue: TradingVenue, account: Account) -> None:
    def taken_over() -> int:
        raise PermissionError("another sender has taken over")

    venue_order_id = placed(venue, account, order())
    venue.open_orders()
    before = account.emulator.requests.copy()
    paused = account.open(take_nonce=taken_over)
    for act in (lambda: paused.cancel(SYMBOL, venue_order_id), paused.balances, paused.open_orders, paused.key_rights):
        with pytest.raises(PermissionError):
            act()
    assert set(account.emulator.requests - before) <= {"Assets", "AssetPairs", "time"}, "only public ones"
