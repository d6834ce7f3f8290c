"""approve() for live wallets: who may send, what is held back for other orders, what only an operator lifts."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from psycopg.errors import InsufficientPrivilege

from shared.db import Connection, Database
from tests.shared.approve_world import (
    AT,
    INTENT,
    LIVE,
    alter,
    approve,
    approved,
    begin_epoch,
    command,
    filled,
    intend,
    let_live,
    live_wallet,
    reconciled,
    refusal,
    stopped,
    take_nonce,
    tell,
    working,
)
from tests.shared.spine_rows import NOON

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
UNMATCHED = "the last reconciliation found what does not match: no entries"
LASTING = "a reconciliation found what only an operator can judge: look at make reconcile, then make resume"
NO_CASH = "costs more than the cash that no other order has reserved"
OTHER_SELLS = "sells more than is held less what other orders sell"


@pytest.fixture(scope="module")
def world(home: Path) -> Iterator[Callable[[str], Database]]:
    with live_wallet(home) as database_for:
        yield database_for


@pytest.fixture
def owner(world: Callable[[str], Database]) -> Iterator[Connection]:
    with world("owner").connection.transaction(force_rollback=True):
        yield world("owner").connection


def sale(connection: Connection, quantity: str, **changes: Any) -> uuid.UUID:
    return intend(connection, uuid.uuid4(), side="sell", quantity=Decimal(quantity), **changes)


# --- who may send ---


def test_a_live_intent_passes_and_its_approval_says_the_epoch_and_the_limits(owner: Connection) -> None:
    assert approve(owner) is None
    found = owner.execute("SELECT epoch, limits_recorded_at, approved_at FROM approvals WHERE order_id = %s", [INTENT])
    assert found.fetchall() == [(1, NOON, AT)]


def test_nothing_is_let_through_twice_and_a_refusal_writes_nothing(owner: Connection) -> None:
    count = "SELECT count(*) FROM approvals WHERE order_id = %s"
    assert approve(owner, epoch=7) is not None
    assert owner.execute(count, [INTENT]).fetchone() == (0,)
    assert approve(owner) is None
    assert approve(owner) == "it was approved before: nothing is sent twice"
    assert owner.execute(count, [INTENT]).fetchone() == (1,)


def test_an_order_lives_in_one_epoch_only(owner: Connection) -> None:
    assert refusal(owner, epoch=None) == "epoch of nobody is over: another sender has taken over"
    assert refusal(owner, epoch=2) == "epoch 2 is over: another sender has taken over"
    assert begin_epoch(owner, AT) == 2
    assert refusal(owner, epoch=1) == "epoch 1 is over: another sender has taken over"
    assert refusal(owner, epoch=2) is None


def test_a_wallet_that_no_sender_ever_took_over_sends_nothing(owner: Connection) -> None:
    owner.execute("DELETE FROM sender_sessions WHERE wallet_id = %s", [LIVE])
    assert refusal(owner) == "epoch 1 is over: another sender has taken over"


def test_only_a_granted_wallet_trades_and_the_newest_check_decides(owner: Connection) -> None:
    denied = "the wallet was not let live: make go-live WALLET=…"
    let_live(owner, False, AT - MINUTE)
    assert refusal(owner) == denied
    assert refusal(owner, at=AT - 2 * MINUTE) is None  # not yet
    let_live(owner, True, AT)
    assert refusal(owner) is None
    owner.execute("DELETE FROM live_grants WHERE wallet_id = %s", [LIVE])
    assert refusal(owner) == denied
    assert refusal(owner, sale(owner, "1")) == denied  # an exit as well


def test_the_policy_and_the_operator_may_not_send(world: Callable[[str], Database]) -> None:
    for role in ("policy", "cli", "meta_controller", "encoder", "candles"):
        for call in ("approve(%s::uuid, now(), 1)", "take_nonce(3, 1, now())", "begin_epoch(3, 'x', now())"):
            arguments = [INTENT] if "%s" in call else []
            with pytest.raises(InsufficientPrivilege):
                world(role).connection.execute(f"SELECT {call}", arguments)


# --- epochs and nonces ---


def test_nonces_rise_whatever_the_clock_does_and_start_at_nanoseconds_of_now(owner: Connection) -> None:
    times = [AT, AT, AT - DAY, AT + MINUTE, AT - 365 * DAY, AT + MINUTE]
    nonces = [take_nonce(owner, 1, at) for at in times]
    assert None not in nonces
    known = [nonce for nonce in nonces if nonce is not None]
    assert known == sorted(set(known))
    assert known[0] == int(AT.timestamp()) * 10**9
    assert known[3] == int((AT + MINUTE).timestamp()) * 10**9


def test_a_new_epoch_goes_on_above_the_old_ones_nonces_and_the_old_one_gets_none(owner: Connection) -> None:
    last = take_nonce(owner, 1, AT)
    assert begin_epoch(owner, AT - DAY) == 2
    assert take_nonce(owner, 1, AT + DAY) is None
    assert take_nonce(owner, 3, AT) is None
    assert last is not None
    assert take_nonce(owner, 2, AT - DAY) == last + 1
    assert begin_epoch(owner, AT, wallet=2) >= 1  # another wallet's epochs are its own
    assert take_nonce(owner, 2, AT - DAY) == last + 2


# --- exits ---


def test_quantities_are_whole_lots_of_the_venue(owner: Connection) -> None:
    """The seeded lot is 0.00001."""
    alter(owner, "orders", INTENT, quantity=Decimal("1.99999"))
    assert refusal(owner) is None
    alter(owner, "orders", INTENT, quantity=Decimal("1.999995"))
    told = "a quantity of 1.99999500 is not in whole lots of 0.00001000"
    assert refusal(owner) == told
    assert refusal(owner, sale(owner, "1.999995")) == told


@pytest.mark.parametrize("event", ["sending", "accepted", "unknown"])
def test_what_other_orders_may_still_sell_is_not_sold_again(owner: Connection, event: str) -> None:
    other = working(owner, event, side="sell", quantity=Decimal("1.5"))
    assert refusal(owner, sale(owner, "0.5")) is None
    assert refusal(owner, sale(owner, "0.50001")) == OTHER_SELLS
    assert refusal(owner, sale(owner, "2.00001")) == "sells more than is held"
    filled(owner, other, "sell", "1")  # 1 is left, of which the other may still sell 0.5
    assert refusal(owner, sale(owner, "0.5")) is None
    assert refusal(owner, sale(owner, "0.50001")) == OTHER_SELLS


def test_what_ended_or_was_never_sent_holds_nothing_back(owner: Connection) -> None:
    ended = working(owner, side="sell", quantity=Decimal("1.5"))
    tell(owner, ended, "canceled")
    sale(owner, "2")
    assert refusal(owner, sale(owner, "2")) is None


def test_a_protective_stop_stands_beside_a_sale_and_a_stop_beside_other_sells(owner: Connection) -> None:
    terms: dict[str, Any] = {"purpose": "protect", "side": "sell", "type": "stop", "stop_price": 85}
    working(owner, quantity=Decimal(2), **terms)
    assert refusal(owner, sale(owner, "2")) is None
    working(owner, side="sell", quantity=Decimal(2))
    assert refusal(owner, sale(owner, "0.00001")) == OTHER_SELLS
    assert refusal(owner, intend(owner, uuid.uuid4(), quantity=Decimal(2), **terms)) is None
    assert (
        refusal(owner, intend(owner, uuid.uuid4(), quantity=Decimal("2.00001"), **terms)) == "sells more than is held"
    )


def test_an_amendment_counts_at_the_larger_of_both_sizes(owner: Connection) -> None:
    other = working(owner, side="sell", quantity=Decimal(1))
    tell(owner, other, "amending", quantity=Decimal("1.5"))
    assert refusal(owner, sale(owner, "0.50001")) == OTHER_SELLS
    tell(owner, other, "accepted", quantity=Decimal("1.5"))
    tell(owner, other, "amending", quantity=Decimal("0.5"))
    assert refusal(owner, sale(owner, "0.50001")) == OTHER_SELLS
    tell(owner, other, "accepted", quantity=Decimal("0.5"))
    assert refusal(owner, sale(owner, "1.5")) is None
    assert refusal(owner, sale(owner, "1.50001")) == OTHER_SELLS


# --- what is held back, and what the operator set ---


def test_cash_that_other_orders_may_still_spend_is_not_spent_again(owner: Connection) -> None:
    """5000 here; a resting limit order counts at its limit, what is filled of it at what it cost."""
    owner.execute("UPDATE wallets SET taker_fee_bps = 0")
    resting = working(owner, quantity=Decimal(20), type="limit", limit_price=Decimal(110), reference_price=100.0)
    assert refusal(owner, intend(owner, uuid.uuid4(), quantity=Decimal(10))) is None  # 2200 + 1000
    working(owner, "unknown", quantity=Decimal(26))  # 2200 + 2600 + 200 = 5000
    assert refusal(owner) is None
    alter(owner, "orders", INTENT, quantity=Decimal("2.00001"))
    assert refusal(owner) == NO_CASH
    filled(owner, resting, "buy", "1")  # at 100 instead of 110
    assert refusal(owner) is None


def test_a_limit_above_the_reference_price_reserves_the_limit(owner: Connection) -> None:
    owner.execute("UPDATE wallets SET taker_fee_bps = 0")
    working(owner, quantity=Decimal(48))  # 200 are left
    terms: dict[str, Any] = {"quantity": Decimal(2), "type": "limit"}
    assert refusal(owner, intend(owner, uuid.uuid4(), limit_price=Decimal(100), **terms)) is None
    assert refusal(owner, intend(owner, uuid.uuid4(), limit_price=Decimal("100.01"), **terms)) == NO_CASH


def test_the_fee_must_be_there_too(owner: Connection) -> None:
    working(owner, quantity=Decimal(48))  # 200 are left, and 2 at 100 cost 0.4 % more
    assert refusal(owner) == NO_CASH
    alter(owner, "orders", INTENT, quantity=Decimal("1.99203"))
    assert refusal(owner) is None
    alter(owner, "orders", INTENT, quantity=Decimal("1.99204"))
    assert refusal(owner) == NO_CASH


def test_a_limit_far_above_the_market_is_refused(owner: Connection) -> None:
    terms: dict[str, Any] = {"quantity": Decimal(2), "type": "limit"}
    assert refusal(owner, intend(owner, uuid.uuid4(), limit_price=Decimal(110), **terms)) is None
    far = refusal(owner, intend(owner, uuid.uuid4(), limit_price=Decimal("110.01"), **terms))
    assert far == "its limit of 110.01000000 is far above the newest close of 100"


@pytest.mark.parametrize(
    ("ago", "counted"), [(timedelta(0), True), (DAY - MICROSECOND, True), (DAY, False), (-MICROSECOND, False)]
)
def test_no_more_is_bought_in_24_hours_than_the_operator_allows(
    owner: Connection, ago: timedelta, counted: bool
) -> None:
    bought = working(owner, at=AT - ago, quantity=Decimal(3))
    tell(owner, bought, "canceled")
    working(owner, at=AT - ago, side="sell", quantity=Decimal(1))
    alter(owner, "limits", LIVE, max_day_notional=Decimal(500))
    assert refusal(owner) is None  # 300 + 200
    alter(owner, "limits", LIVE, max_day_notional=Decimal("499.99"))
    assert refusal(owner) == ("bought more than 499.99000000 within 24 hours" if counted else None)


def test_a_position_counts_with_what_is_being_bought(owner: Connection) -> None:
    working(owner, quantity=Decimal(3))
    working(owner, "unknown", side="sell", quantity=Decimal(2))  # may come to nothing
    alter(owner, "limits", LIVE, max_position_notional=Decimal(700))
    assert refusal(owner) is None  # 2 held, 3 being bought, 2 more
    alter(owner, "limits", LIVE, max_position_notional=Decimal("699.99"))
    assert refusal(owner) == "position above the limit of 699.99000000"


def test_a_wallets_first_days_are_small(owner: Connection) -> None:
    """Of 5000: 0.12 are 600. 200 are held, 200 more are being bought, 200 are asked for."""
    working(owner, quantity=Decimal(2))
    alter(owner, "limits", LIVE, ramp_days=14, ramp_exposure=Decimal("0.12"))
    assert refusal(owner) is None
    alter(owner, "limits", LIVE, ramp_exposure=Decimal("0.11999999"))
    told = "in its first 14 live days a wallet may hold 0.11999999 of its capital"
    assert refusal(owner) == told
    alter(owner, "limits", LIVE, ramp_exposure=Decimal("0.12"))
    owner.execute("UPDATE orders SET type = 'limit', limit_price = 105 WHERE id <> %s AND side = 'buy'", [INTENT])
    assert refusal(owner) is None  # what is being bought counts by the price that it was sized at
    alter(owner, "limits", LIVE, ramp_exposure=Decimal("0.11999999"))
    let_live(owner, False, NOON + DAY)
    let_live(owner, True, NOON + 2 * DAY)  # the days count from the first grant on, the capital is the newest's
    alter(owner, "orders", INTENT, deadline=NOON + 30 * DAY)
    assert refusal(owner, at=NOON + 14 * DAY - MICROSECOND) == told
    assert refusal(owner, at=NOON + 14 * DAY) is None
    let_live(owner, True, NOON + 3 * DAY, capital=Decimal(10_000))
    assert refusal(owner, at=NOON + 13 * DAY) is None


# --- what stops entries ---


def test_entries_wait_for_a_clean_reconciliation(owner: Connection) -> None:
    reconciled(owner, 1, AT - MINUTE)
    assert refusal(owner) == UNMATCHED
    assert refusal(owner, sale(owner, "2")) is None
    reconciled(owner, 0, AT)
    assert refusal(owner) is None
    owner.execute("DELETE FROM reconciliations WHERE wallet_id = %s", [LIVE])
    assert refusal(owner) == UNMATCHED


def test_what_only_an_operator_can_judge_lasts_until_a_resume(owner: Connection) -> None:
    reconciled(owner, 1, AT - 2 * MINUTE, lasting=True)
    reconciled(owner, 0, AT - MINUTE)
    assert refusal(owner) == LASTING
    assert refusal(owner, sale(owner, "2")) is None
    command(owner, "resume", AT)
    assert refusal(owner) is None
    reconciled(owner, 0, AT, lasting=True)  # at the very moment: it may have come after
    assert refusal(owner) == LASTING


def test_a_risk_stop_lasts_until_a_resume(owner: Connection) -> None:
    told = "the wallet is stopped (drawdown of 25 %): no entries until it is resumed"
    stopped(owner, AT, wallet=1)
    assert refusal(owner) is None
    stopped(owner, AT - MINUTE)
    assert refusal(owner) == told
    assert refusal(owner, at=AT - 2 * MINUTE) is None
    assert refusal(owner, sale(owner, "2")) is None
    command(owner, "resume", AT)
    assert refusal(owner) is None
    stopped(owner, AT)
    assert refusal(owner) == told


STOPS = {
    "pause": "the wallet is paused: no entries",
    "kill": "the wallet is stopped (kill): no entries",
    "flatten": "the wallet is stopped (flatten): no entries",
    "halt": "the wallet is halted: nothing is sent",
}


@pytest.mark.parametrize("wallet", [LIVE, None])
@pytest.mark.parametrize("what", STOPS)
def test_a_stop_holds_until_the_wallet_is_resumed(owner: Connection, what: str, wallet: int | None) -> None:
    command(owner, what, AT - MINUTE, wallet)
    assert refusal(owner) == STOPS[what]
    assert refusal(owner, at=NOON + timedelta(minutes=59)) == STOPS[what]  # after it expired, too
    assert refusal(owner, sale(owner, "2")) == (STOPS["halt"] if what == "halt" else None)
    command(owner, "resume", AT - MINUTE, 1)  # another wallet's
    assert refusal(owner) == STOPS[what]
    command(owner, "resume", AT)
    assert refusal(owner) is None
    assert refusal(owner, at=AT - MICROSECOND) == STOPS[what]


@pytest.mark.parametrize(
    ("given", "holds"),
    [(("pause", "kill"), "kill"), (("kill", "pause"), "kill"), (("flatten", "kill"), "flatten"),
     (("halt", "flatten", "pause"), "halt"), (("kill", "flatten"), "flatten")],
)  # fmt: skip
@pytest.mark.parametrize("for_all", [0, 1])
def test_the_strictest_stop_since_the_last_resume_holds(
    owner: Connection, given: tuple[str, ...], holds: str, for_all: int
) -> None:
    command(owner, "halt", AT - 2 * MINUTE)
    command(owner, "resume", AT - MINUTE)
    for number, what in enumerate(given):
        command(owner, what, AT, None if number == for_all else LIVE)
    assert refusal(owner) == STOPS[holds]


def test_another_wallets_stop_is_its_own(owner: Connection) -> None:
    command(owner, "halt", AT - MINUTE, 2)
    assert refusal(owner) is None


@pytest.mark.parametrize("status", ["cancel_only", "post_only", "reduce_only", "delisted"])
def test_an_instrument_that_is_not_online_is_not_bought(owner: Connection, status: str) -> None:
    alter(owner, "instruments", 1, status=status)
    gone = "A1/USDT is delisted"
    assert refusal(owner) == (gone if status == "delisted" else f"A1/USDT is {status.replace('_', ' ')}: no entries")
    assert refusal(owner, sale(owner, "2")) == (gone if status == "delisted" else None)


def test_an_approval_from_before_a_resume_still_counts_and_another_wallets_does_not(owner: Connection) -> None:
    alter(owner, "limits", LIVE, max_orders_a_day=1)
    approved(owner, intend(owner, uuid.uuid4(), wallet=2, mode="paper"), AT - MINUTE)
    assert refusal(owner) is None
    approved(owner, intend(owner, uuid.uuid4()), AT - MINUTE)
    command(owner, "resume", AT)
    assert refusal(owner) == "more than 1 orders within 24 hours"
