"""Paper wallets: approved intents are accepted at once and filled at the open of a candle, as the kernel fills them;
brackets are left inside one (paper_brackets). What an operator's kill does at a venue is done here, by the commands and
by the KILL files."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from policy.execution.manual import take_up_on_paper
from policy.execution.paper_brackets import PaperBrackets
from shared.db import Database, load_queries
from shared.exchanges.paper import fill_market_order
from shared.kill_file import file_mandate, mandate_now

FLATTEN_WITHIN = timedelta(hours=1)  # a candle must open until then; else it is written anew


def send_on_paper(database: Database, now: datetime, home: Path | None = None) -> dict[str, int]:
    """First what the market did meanwhile (fills, expiries), then the new intents; how often each event was written.
    ``home``: where KILL files lie; None: none is looked for."""
    counts = {"filled": 0, "canceled": 0, "expired": 0, "accepted": 0, "rejected": 0}
    queries = load_queries("sender")
    names = ("paper_wallets", "stopped_entries", "working_orders")
    wallets, overtaken, working = database.fetch_together([(queries[name], {"now": now}) for name in names])
    by_file = {wallet["id"]: _by_file(home, wallet["name"]) for wallet in wallets}
    brackets = PaperBrackets(database, now, _record, {id_ for id_, mandate in by_file.items() if mandate == "halt"})
    stopped = {row["id"]: row for row in overtaken}
    for order in working:
        if order["opened_at"] is not None:
            counts["filled"] += brackets.leave_before(order["opened_at"])
        if order["id"] in brackets.cancelled:
            continue
        why = _overtaken(order, stopped.get(order["id"]), by_file[order["wallet_id"]])
        if why:
            _record(database, order["id"], "canceled", why, now)
            outcome: str | None = "canceled"
        else:
            outcome = _settle(database, order, now)
        if outcome:
            counts[outcome] += 1
    counts["filled"] += brackets.leave_before()
    counts["canceled"] += len(brackets.cancelled)
    _flatten(database, now, [w for w in wallets if _mandate(home, w) == "flatten"])
    take_up_on_paper(database, now)
    for intent in database.fetch(queries["new_intents"]):
        counts[_send(database, intent, now, home)] += 1
    return counts


def _by_file(home: Path | None, wallet: str) -> str | None:
    return None if home is None else file_mandate(home, wallet)


def _mandate(home: Path | None, wallet: Mapping[str, Any]) -> str:
    """The strictest of commands and files, as for a live wallet."""
    return str(wallet["mandate"]) if home is None else mandate_now(home, wallet["name"], wallet["mandate"])


def _overtaken(order: Mapping[str, Any], stop: Mapping[str, Any] | None, by_file: str | None) -> str:
    """Why an entry is gone before it was filled; empty where nothing stops it. A command says since when: a candle that
    opened before had filled it. A file says only that it is there: what is not filled by now is not filled any more."""
    if stop is not None and (order["opened_at"] is None or order["opened_at"] >= stop["since"]):
        return f"the operator stops the wallet: {stop['mandate']}"
    if order["side"] == "buy" and by_file in ("kill", "flatten"):
        return f"the operator stops the wallet: {by_file}, by a KILL file"
    return ""


def _flatten(database: Database, now: datetime, wallets: Sequence[Mapping[str, Any]]) -> None:
    """Writes the sale of each position of wallets that their operator flattens; once, until it has ended."""
    queries = load_queries("sender")
    for wallet in wallets:
        asked = {"wallet_id": wallet["id"], "now": now}
        installation = database.fetch_one(load_queries("live_sender")["installation"])
        assert installation is not None
        for holding in database.fetch(queries["holdings_to_flatten"], asked):
            name = f"{wallet['id']}:{holding['instrument_id']}:{now.isoformat()}:flatten"
            order = {**holding, **asked, "id": uuid.uuid5(installation["id"], name), "deadline": now + FLATTEN_WITHIN}
            database.execute(queries["insert_flatten"], order)


def _send(database: Database, intent: Mapping[str, Any], now: datetime, home: Path | None) -> str:
    """Offers one intent to the venue, if no KILL file forbids it at this moment and approve() lets it through."""
    queries, order_id = load_queries("sender"), intent["id"]
    by_file = _by_file(home, intent["wallet"])
    with database.transaction():
        if by_file == "halt" or (by_file is not None and intent["side"] == "buy"):
            refusal: str | None = f"the wallet is stopped by a KILL file: {by_file}"
        else:
            verdict = database.fetch_one(queries["approve"], {"id": order_id, "at": now})
            refusal = verdict["refusal"] if verdict else "approve() does not know this order"
        event = "rejected" if refusal else "accepted"
        _record(
            database,
            order_id,
            event,
            refusal or "paper venue",
            now,
            venue_order_id=None if refusal else f"paper-{order_id}",
        )
    return event


def _settle(database: Database, order: Mapping[str, Any], now: datetime) -> str | None:
    """Fills a working order at its fill candle, or lets it expire once no candle can come any more."""
    if order["opened_at"] is None:
        last_chance = order["deadline"] + timedelta(seconds=order["base_timeframe_s"])
        if now < last_chance:
            return None
        with database.transaction():
            _record(database, order["id"], "expired", f"no candle opened before {order['deadline']}", now)
        return "expired"
    queries = load_queries("sender")
    with database.transaction():
        book = database.fetch_one(queries["book"], order)
        assert book is not None
        fill = fill_market_order(
            side=order["side"],
            quantity=order["quantity"],
            cash=book["cash"],
            held=book["held"],
            open_price=order["open"],
            volume=order["volume"],
            bar_s=order["base_timeframe_s"],
            volatility=order["volatility"],
            half_spread_bps=order["slippage_bps"],
            impact=order["impact"],
            fee_bps=order["taker_fee_bps"],
            tick=order["tick_size"],
            lot=order["lot_size"],
        )
        if fill.quantity == 0:
            _record(database, order["id"], "canceled", "nothing affordable or held at the fill price", now)
            return "canceled"
        if _beyond_limit(order, fill.price):
            told = f"immediate or cancel: {fill.price} is beyond its limit of {order['limit_price']}"
            _record(database, order["id"], "canceled", told, now)
            return "canceled"
        row = {
            "wallet_id": order["wallet_id"],
            "venue_trade_id": f"paper-{order['id']}",
            "order_id": order["id"],
            "side": order["side"],
            "quantity": fill.quantity,
            "price": fill.price,
            "cost": fill.cost,
            "fee": fill.fee,
            "fee_asset": order["quote"],
            "filled_at": order["opened_at"],
            "recorded_at": now,
        }
        database.execute(queries["insert_fill"], row)
        rest = order["quantity"] - fill.quantity
        why = f"not affordable at {fill.price}" if order["side"] == "buy" else "not held"
        detail = f"{rest} canceled: {why}" if rest else "whole quantity"
        _record(database, order["id"], "filled", detail, order["opened_at"], recorded_at=now)
    return "filled"


def _beyond_limit(order: Mapping[str, Any], price: Decimal) -> bool:
    """Whether it may not be filled at this price; slippage counts, for it is paid like the price."""
    limit: Decimal | None = order["limit_price"]
    if limit is None:
        return False
    return price > limit if order["side"] == "buy" else price < limit


def _record(
    database: Database,
    order_id: Any,
    event: str,
    detail: str,
    at: datetime,
    *,
    venue_order_id: str | None = None,
    recorded_at: datetime | None = None,
) -> None:
    row = {
        "order_id": order_id,
        "event": event,
        "detail": detail,
        "venue_order_id": venue_order_id,
        "at": at,
        "recorded_at": recorded_at or at,
    }
    database.execute(load_queries("sender")["insert_event"], row)
