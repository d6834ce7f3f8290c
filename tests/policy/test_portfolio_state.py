"""What the risk rules ask of a wallet's own rows: reserved cash, last fills, ages, protective stops."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from policy.portfolio_state import read_portfolio_state
from policy.risk.context import PortfolioState
from shared.db import Database, load_queries
from shared.rows import Instrument
from tests.helpers import NOON, DatabaseFor
from tests.shared.spine_rows import insert, rows

pytestmark = pytest.mark.usefixtures("rolled_back")

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


class Wallet:
    """A wallet with two instruments, written as its owner likes."""

    def __init__(self, database_for: DatabaseFor) -> None:
        self._owner, self._database, self._count = database_for("owner"), database_for("policy"), 1
        for k in (1, 2):
            self._insert("instruments", rows(k)["instruments"])
        self._insert("wallets", rows(1)["wallets"])
        self._insert("limits", rows(1)["limits"])
        asked = {"venue": "test", "symbols": ["A1/USDT", "A2/USDT"]}
        found = self._database.fetch_rows(Instrument, load_queries("shared")["find_instruments"], asked)
        self.instruments = sorted(found, key=lambda instrument: instrument.symbol)

    def _insert(self, table: str, row: dict[str, Any]) -> None:
        assert insert(self._owner.connection, table, row) == 1

    def decide(self, at: datetime, wanted: float) -> int:
        row = rows(1)["decisions"] | {"as_of": at, "wanted_weight": wanted, "allowed_weight": 0.0}
        self._insert("decisions", row)
        found = self._owner.fetch_one("SELECT max(id) AS id FROM decisions")
        assert found is not None
        return int(found["id"])

    def order(self, at: datetime, side: str, **changes: Any) -> uuid.UUID:
        self._count += 1
        id_ = uuid.UUID(int=self._count)
        protects = changes.get("purpose") == "protect"
        decision = None if protects else self.decide(at - timedelta(seconds=self._count), 0.5)
        own = {"id": id_, "decision_id": decision, "side": side, "author": "sender" if protects else "policy",
               "because": "a stop" if protects else "", "not_before": at, "deadline": at + HOUR}  # fmt: skip
        self._insert("orders", rows(1)["orders"] | own | changes)
        return id_

    def fill(self, at: datetime, side: str, quantity: float = 1, **changes: Any) -> None:
        order = self.order(at, side, **changes)
        own = {"venue_trade_id": str(order), "order_id": order, "side": side, "quantity": quantity,
               "cost": 100 * quantity, "filled_at": at}  # fmt: skip
        self._insert("fills", rows(1)["fills"] | own)

    def accept(self, order: uuid.UUID) -> None:
        self._insert("approvals", rows(1)["approvals"] | {"order_id": order})
        self._insert("order_events", rows(1)["order_events"] | {"order_id": order, "event": "accepted"})

    def at(self, moment: datetime) -> PortfolioState:
        return read_portfolio_state(self._database, 1, self.instruments, moment)


@pytest.fixture
def wallet(database_for: DatabaseFor) -> Wallet:
    return Wallet(database_for)


def test_who_never_traded_has_nothing(wallet: Wallet) -> None:
    state, fresh = wallet.at(NOON), PortfolioState.fresh(2)
    assert state.reserved == fresh.reserved == 0.0
    for name in ("stopped_out", "since_fill_s", "age_s"):
        assert getattr(state, name).tolist() == getattr(fresh, name).tolist()


def test_fills_date_the_last_trade_and_the_position(wallet: Wallet) -> None:
    """A position is as old as the first fill since it was last flat; what comes later changes the last trade only."""
    wallet.fill(NOON, "buy", 2)
    wallet.fill(NOON + HOUR, "buy")
    wallet.fill(NOON + 2 * HOUR, "sell")
    state = wallet.at(NOON + 2 * HOUR + MINUTE)
    assert state.since_fill_s.tolist() == [60.0, np.inf]
    assert state.age_s.tolist() == [7260.0, 0.0]
    wallet.fill(NOON + 3 * HOUR, "sell", 2)
    assert wallet.at(NOON + 4 * HOUR).age_s.tolist() == [0.0, 0.0], "flat"
    wallet.fill(NOON + 5 * HOUR, "buy")
    state = wallet.at(NOON + 6 * HOUR)
    assert (state.age_s[0], state.since_fill_s[0]) == (3600.0, 3600.0)
    assert wallet.at(NOON + 30 * MINUTE).age_s.tolist() == [1800.0, 0.0], "as it was known then"


def test_dust_is_no_position(wallet: Wallet) -> None:
    wallet.fill(NOON, "buy", 2)
    wallet.fill(NOON + HOUR, "sell", 2 - float(wallet.instruments[0].lot_size))
    assert wallet.at(NOON + 2 * HOUR).age_s.tolist() == [0.0, 0.0]


def test_a_protective_stop_holds_until_the_strategies_wanted_nothing(wallet: Wallet) -> None:
    wallet.fill(NOON, "buy", 2)
    wallet.decide(NOON + 10 * MINUTE, 0.0)
    wallet.fill(NOON + HOUR, "sell", purpose="protect", type="stop", stop_price=90)
    assert wallet.at(NOON + HOUR).stopped_out.tolist() == [True, False]
    wallet.decide(NOON + 2 * HOUR, 0.4)
    assert wallet.at(NOON + 3 * HOUR).stopped_out.tolist() == [True, False]
    wallet.decide(NOON + 3 * HOUR, 0.0)
    assert wallet.at(NOON + 2 * HOUR).stopped_out.tolist() == [True, False]
    assert wallet.at(NOON + 3 * HOUR).stopped_out.tolist() == [False, False]
    wallet.fill(NOON + 4 * HOUR, "sell", purpose="protect", type="trailing_stop", trail=0.1)
    assert wallet.at(NOON + 4 * HOUR).stopped_out.tolist() == [True, False], "stopped anew"


@pytest.mark.parametrize("how", [{}, {"purpose": "protect", "type": "take_profit", "stop_price": 110}])
def test_an_exit_that_protects_from_nothing_keeps_nobody_out(wallet: Wallet, how: dict[str, Any]) -> None:
    wallet.fill(NOON, "buy", 2)
    wallet.fill(NOON + HOUR, "sell", **how)
    assert wallet.at(NOON + 2 * HOUR).stopped_out.tolist() == [False, False]


def test_open_buys_reserve_what_they_may_cost(wallet: Wallet) -> None:
    """At their limit where it is above the price they were sized at; sells and what was never sent reserve nothing."""
    wallet.accept(wallet.order(NOON, "buy", quantity=3))
    wallet.accept(wallet.order(NOON, "buy", quantity=1, type="limit", limit_price=120))
    wallet.accept(wallet.order(NOON, "sell", quantity=1))
    wallet.order(NOON, "buy", quantity=50)
    assert wallet.at(NOON).reserved == 420.0


def test_another_wallet_has_its_own(wallet: Wallet, database_for: DatabaseFor) -> None:
    wallet.fill(NOON, "buy", 2)
    wallet.accept(wallet.order(NOON, "buy"))
    database: Database = database_for("policy")
    state = read_portfolio_state(database, 2, wallet.instruments, NOON + HOUR)
    assert (state.reserved, state.since_fill_s.tolist()) == (0.0, [np.inf, np.inf])
