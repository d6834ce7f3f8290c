"""Deposits and withdrawals of a live wallet, as its venue's ledger tells them: no gain, no loss, to the last bit."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from psycopg.types.json import Json

from pipeline.funding import adopt, pay, release
from policy.book import midnight
from policy.observation import Book
from policy.run_trader import _book
from shared.db import load_queries
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor
from tests.policy.engine_venue import ACCOUNT
from tests.policy.live_world import LiveWorld
from tests.policy.paper_world import HOUR, MINUTE, A, PaperMarket, store_flat
from tests.shared.spine_rows import insert

pytestmark = pytest.mark.usefixtures("rolled_back")
PRICES = np.array([30_000.0])


@pytest.fixture
def world(database_for: DatabaseFor, settings: Settings) -> LiveWorld:
    """Worth 120,000 at its peak, 110,000 at midnight, about 100,000 now, half a bitcoin among it."""
    world = LiveWorld(database_for, settings)
    world.intend("buy", "0.5")
    world.send()
    today = midnight(world.now)
    for at, equity, units in ((today - timedelta(days=2), 120_000.0, 1.0), (today, 110_000.0, 1.0),
                              (world.now + timedelta(seconds=1), 100_500.0, 1.0)):  # fmt: skip
        decided(world, at, equity, units)
    world.pass_time(400)
    return world


def decided(world: LiveWorld, at: Any, equity: float, units: float) -> None:
    row = {"wallet_id": world.wallet_id, "instrument_id": world.instruments["BTC/USD"], "as_of": at, "source": f"{at}",
           "wanted_weight": 0.5, "allowed_weight": 0.5, "baseline_weight": 0.5, "clamps": Json([]), "reason": "",
           "price": 30_000.0, "quantity_held": 0, "cash": 0, "equity": equity, "units": units,
           "paid_in": paid_in(world), "code_version": "test", "settings_hash": "test", "recorded_at": at}  # fmt: skip
    insert(world.database_for("policy").connection, "decisions", row)


def paid_in(world: LiveWorld) -> Decimal:
    """All that is known to have been handed to the wallet."""
    total = "SELECT sum(coalesce(value, amount)) AS total FROM cash_flows WHERE managed"
    return Decimal(world.one(total)["total"])


def book_now(world: LiveWorld, prices: Any = PRICES) -> tuple[Book, float]:
    now = world.now
    since = midnight(now) - timedelta(days=10)
    params = {"wallet_id": world.wallet_id, "as_of": now, "midnight": midnight(now), "since": since}
    held = np.array([float(world.position())])
    row = world.database_for("policy").fetch_one(load_queries("policy")["wallet_book"], params)
    assert row is not None
    return _book(row, now, held, SimpleNamespace(prices=prices))  # type: ignore[arg-type]


@pytest.mark.parametrize("paid", ["0.01", "12345.67", "1000000", "-0.01", "-50000", "-84000.55"])
def test_a_payment_leaves_the_days_return_and_the_drawdown_as_they_were(world: LiveWorld, paid: str) -> None:
    before, units = book_now(world)
    amount = Decimal(paid)
    pay = world.engine.accounts.deposit if amount > 0 else world.engine.accounts.withdraw
    pay(ACCOUNT, "USD", abs(amount))
    world.send()
    world.pass_time(400)
    world.send()
    after, now_units = book_now(world)
    assert before.day_return == pytest.approx(before.equity / 110_000 - 1)
    assert before.drawdown == pytest.approx(1 - before.equity / 120_000)
    assert after.day_return == pytest.approx(before.day_return, abs=1e-12)
    assert after.drawdown == pytest.approx(before.drawdown, abs=1e-12)
    assert after.equity / now_units == pytest.approx(before.equity / units, rel=1e-12)
    gained = [Decimal(repr(book.cash)) for book in (before, after)]
    assert gained[1] - amount == gained[0]  # cash, and with it all that was gained, to the cent and beyond


def test_what_is_not_the_wallets_own_buys_no_units(world: LiveWorld) -> None:
    before, units = book_now(world)
    world.engine.accounts.deposit(ACCOUNT, "BTC", Decimal(3))
    world.pass_time(400)
    world.send()
    after, now_units = book_now(world)
    assert (after.equity, now_units) == (before.equity, units)


def test_payments_between_decisions_add_up_and_are_counted_once(world: LiveWorld) -> None:
    """Two before the next decision, one after it; the peak is still that of a unit."""
    first, _ = book_now(world)
    for amount in ("5000", "1000"):
        world.engine.accounts.deposit(ACCOUNT, "USD", Decimal(amount))
        world.pass_time(400)
        world.send()
    second, units = book_now(world)
    assert units == pytest.approx(second.equity / first.equity, rel=1e-12)
    decided(world, world.now, second.equity, units)
    world.pass_time(400)
    same, same_units = book_now(world)
    assert (same.equity, same_units, same.drawdown) == (second.equity, units, second.drawdown)
    world.engine.accounts.withdraw(ACCOUNT, "USD", Decimal(20_000))
    world.pass_time(400)
    world.send()
    third, fewer = book_now(world)
    assert fewer < units
    assert third.drawdown == pytest.approx(first.drawdown, abs=1e-12)
    assert third.day_return == pytest.approx(first.day_return, abs=1e-12)


@pytest.mark.parametrize("late_s", [-3600, -1, 0, 1])
def test_a_flow_that_is_seen_after_a_decision_counts_once_whenever_it_was_written(
    world: LiveWorld, late_s: float
) -> None:
    """Its transaction began before the decision and was committed after it: the decision's cash knows nothing of it."""
    before, units = book_now(world)
    decided(world, world.now, before.equity, units)
    flow = {"wallet_id": world.wallet_id, "asset": "USD", "amount": 5000, "kind": "deposit", "reference": "late",
            "at": world.now, "recorded_at": world.now + timedelta(seconds=late_s)}  # fmt: skip
    insert(world.database_for("sender").connection, "cash_flows", flow)
    world.pass_time(400)
    after, more = book_now(world)
    assert after.equity == before.equity + 5000
    assert after.equity / more == pytest.approx(before.equity / units, rel=1e-12)
    decided(world, world.now, after.equity, more)
    world.pass_time(400)
    assert book_now(world)[1] == more, "once"


@pytest.mark.parametrize(("asset", "quantity"), [("USD", "12345.67"), ("BTC", "0.123")])
def test_what_is_released_is_no_loss_and_what_is_adopted_no_gain(world: LiveWorld, asset: str, quantity: str) -> None:
    """To the cent: the equity of a unit, the day's return and the drawdown are what they were."""
    prices = np.array([world.close_of("BTC/USD")])
    first, units = book_now(world, prices)
    cli, amount = world.database_for("cli"), Decimal(quantity)
    worth = release(cli, world.now, "main", asset, amount, "rent")
    assert worth is not None
    second, fewer = book_now(world, prices)
    assert second.equity == pytest.approx(first.equity - float(worth), abs=1e-6)
    assert second.equity / fewer == pytest.approx(first.equity / units, rel=1e-12)
    assert second.drawdown == pytest.approx(first.drawdown, abs=1e-12)
    assert second.day_return == pytest.approx(first.day_return, abs=1e-12)
    assert adopt(cli, world.now, "main", asset, amount) == worth
    third, as_before = book_now(world, prices)
    assert (third.equity, as_before) == (first.equity, units)


def test_what_a_decision_knew_is_what_its_own_cash_was_made_of(market: PaperMarket) -> None:
    """The trader itself writes it down: a payment that comes in after it has read is the next decision's."""
    market.wallet("w", NOON - 2 * HOUR, symbols=(A,))
    market.trade(NOON + 2 * MINUTE)
    pay(market.database_for("cli"), NOON + MINUTE, "w", Decimal("250.5"))
    market.trade(NOON + HOUR + 2 * MINUTE)
    found = market.rows("SELECT paid_in, units, equity FROM decisions ORDER BY as_of")
    assert [(row["paid_in"], row["equity"]) for row in found] == [(10_000, 10_000.0), (Decimal("10250.5"), 10_250.5)]
    assert [row["units"] for row in found] == [1.0, pytest.approx(1.02505)]


@pytest.fixture
def market(database_for: DatabaseFor, settings: Settings) -> PaperMarket:
    market = PaperMarket(database_for, settings)
    store_flat(market, A)
    return market
