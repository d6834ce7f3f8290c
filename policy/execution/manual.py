"""Orders by hand: a `make place` becomes one intent, in its own words, which approve() judges like any other.

Input: commands (place), market_data. Output: orders of purpose manual. None of them ever rests: the limit, or without
one the price collar of [execution] max_slippage, is immediate or cancel; paper fills at the next candle's open or not.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from policy.execution.collar import collar
from policy.execution.desk import Desk
from shared.alerts import raise_alert
from shared.db import Database, load_queries

Row = Mapping[str, Any]


def take_up_live(desk: Desk) -> None:
    """Writes the intents of a live wallet's places. Each is to be sent while its place holds: a minute at most."""
    slippage = desk.settings.execution.max_slippage
    for place in _places(desk.database, desk.now(), "live", desk.wallet_id):
        limit = place["limit_price"]
        if limit is None:
            limit = collar(place["side"], place["close"], slippage, place["tick_size"])
        terms = {"type": "limit", "time_in_force": "ioc", "limit_price": limit}
        _write(desk.database, desk.now(), place, place["expires_at"], terms)


def take_up_on_paper(database: Database, now: datetime) -> None:
    """Writes the intents of all paper wallets' places; the next candle to open may fill them."""
    for place in _places(database, now, "paper", None):
        limited = place["limit_price"] is not None
        terms = {"type": "limit" if limited else "market", "time_in_force": "ioc" if limited else "gtc",
                 "limit_price": place["limit_price"]}  # fmt: skip
        _write(database, now, place, now + timedelta(seconds=place["base_timeframe_s"]), terms)


def _places(database: Database, now: datetime, mode: str, wallet_id: int | None) -> list[Row]:
    """Those that can be judged: without any price of its instrument the wallet's limits say nothing about one."""
    asked = {"now": now, "mode": mode, "wallet_id": wallet_id}
    found = database.fetch(load_queries("manual")["places_to_take"], asked)
    for place in found:
        if place["close"] is None:
            told = (
                f"wallet {place['wallet']}: the {place['side']} of {place['symbol']} by hand waits for a price: there "
                "is no candle of it; run the feed, or `make backfill`, and ask again"
            )
            raise_alert(database, now, "warning", f"place-without-price:{place['id']}", told)
    return [place for place in found if place["close"] is not None]


def _write(database: Database, now: datetime, place: Row, deadline: datetime, terms: Row) -> None:
    queries = load_queries("manual")
    installation = database.fetch_one(queries["installation"])
    assert installation is not None
    order = {"order_id": uuid.uuid5(installation["id"], f"command:{place['id']}"), "id": place["id"], "now": now,
             "reference_price": place["close"], "volatility": place["volatility"], "deadline": deadline}  # fmt: skip
    database.execute(queries["insert_order"], order | dict(terms))
