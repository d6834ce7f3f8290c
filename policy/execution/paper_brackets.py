"""Brackets of paper wallets: left inside a candle exactly as the simulation leaves them, by the kernel's own function.

A paper venue has nothing resting: when a candle reaches a level, the order that would have rested there is written,
approved and filled at once. A halted wallet's waits; its candle is the same when the halt is over.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Set
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from shared.db import Database, load_queries
from shared.money import to_float, to_money
from shared.simulation import kernel

LIFETIME = timedelta(minutes=5)  # it is approved in the same transaction
Row = Mapping[str, Any]
Record = Callable[..., None]  # of paper_sender: one event of one order


class _NotNow(Exception):
    """approve() refused: nothing of the exit is written."""


class PaperBrackets:
    """The brackets of all paper wallets, candle by candle; ``cancelled`` are the orders that lost their position.
    ``halted``: wallets that a KILL file lets do nothing at all; they wait, as they do where a command says so."""

    def __init__(self, database: Database, now: datetime, record: Record, halted: Set[int] = frozenset()) -> None:
        self._database, self._now, self._record, self._halted = database, now, record, halted
        self._queries = load_queries("brackets")
        row = database.fetch_one(self._queries["any_paper_bracket"])
        self._any = bool(row and row["found"])
        self._waits: set[tuple[int, int]] = set()
        self.cancelled: set[UUID] = set()

    def leave_before(self, opened_at: datetime | None = None) -> int:
        """Looks at the candles that opened before ``opened_at``, or at all that have closed: how many positions were
        left. One that closes changes nothing about the others: each is looked at once."""
        exits = 0
        if not self._any:
            return exits
        done: set[tuple[int, int]] = set()
        for bar in self._database.fetch(self._queries["paper_brackets"], {"now": self._now}):
            key = bar["wallet_id"], bar["instrument_id"]
            if (
                key in done | self._waits
                or bar["wallet_id"] in self._halted
                or (opened_at is not None and bar["opened_at"] >= opened_at)
            ):
                continue
            if self._leave(bar):
                done.add(key)
                exits += key not in self._waits
        return exits

    def _leave(self, bar: Row) -> bool:
        """Whether this candle ends the position."""
        held, level, target = to_float(bar["held"]), bar["level"] or 0.0, bar["target"] or 0.0
        slipped = kernel.slippage_bps(
            float(bar["slippage_bps"]),
            float(bar["impact"]),
            bar["volatility"] * kernel.bar_years_sqrt(bar["base_timeframe_s"]),
            held,
            bar["volume"],
        )
        kind, quantity, price, cost, fee, _ = kernel.bracket_fill(
            held,
            level,
            target,
            bar["open"],
            bar["high"],
            bar["low"],
            slipped,
            float(bar["taker_fee_bps"]),
            to_float(bar["tick_size"]),
            to_float(bar["lot_size"]),
        )
        if quantity == 0.0:
            return False
        reached = ("take_profit", target) if kind == kernel.TARGET else ("stop", level)
        try:
            self._write(bar, *reached, price, cost, fee)
        except _NotNow:
            self._waits.add((bar["wallet_id"], bar["instrument_id"]))
        return True

    def _write(self, bar: Row, type_: str, level: float, price: float, cost: float, fee: float) -> None:
        """The order, its approval and its fill, and the end of what was sized for the position: all or nothing."""
        database, queries, now = self._database, self._queries, self._now
        installation = database.fetch_one(load_queries("live_sender")["installation"])
        assert installation is not None
        name = f"{bar['wallet_id']}:{bar['instrument_id']}:{bar['opened_at'].isoformat()}:bracket"
        order_id, opened_at = uuid.uuid5(installation["id"], name), bar["opened_at"]
        because = f"its entry's {type_.replace('_', ' ')} at {level:.10g} was reached"
        with database.transaction():
            order = {**bar, "id": order_id, "type": type_, "quantity": bar["held"], "level": level, "now": now,
                     "stop_price": to_money(level), "because": because, "deadline": now + LIFETIME}  # fmt: skip
            database.execute(queries["insert_paper_exit"], order)
            verdict = database.fetch_one(load_queries("sender")["approve"], {"id": order_id, "at": now})
            if verdict is None or verdict["refusal"] is not None:
                raise _NotNow
            self._record(database, order_id, "accepted", "paper venue", now, venue_order_id=f"paper-{order_id}")
            fill = {"wallet_id": bar["wallet_id"], "venue_trade_id": f"paper-{order_id}", "order_id": order_id,
                    "side": "sell", "quantity": bar["held"], "price": to_money(price), "cost": to_money(cost),
                    "fee": to_money(fee), "fee_asset": bar["quote"], "filled_at": opened_at,
                    "recorded_at": now}  # fmt: skip
            database.execute(load_queries("sender")["insert_fill"], fill)
            self._record(database, order_id, "filled", because, opened_at, recorded_at=now)
            overtaken = [row["id"] for row in database.fetch(queries["overtaken_orders"], bar)]
            for other in overtaken:
                self._record(database, other, "canceled", f"its position was left: {because}", now)
        self.cancelled.update(overtaken)
