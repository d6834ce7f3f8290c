"""CcxtTrading on a scripted Binance: what its tests share."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any
from uuid import UUID

from policy.execution.venues.ccxt_trading import CcxtTrading
from policy.execution.venues.protocol import Credentials, NewOrder
from shared.clock import ReplayClock
from tests.policy.scripted_venue import Reply, ScriptedVenue

NOW = 1_750_000_000.0
NOW_MS = int(NOW * 1_000)
KEY, SECRET = "key-3b1f", "secret-77ad"
CLIENT_ID = UUID("0d5b7c1e-6a53-5f0e-9a5a-3e5e0f0a9c11")
ORDER, TIME = "POST /api/v3/order", "GET /api/v3/time"
ACK = {"symbol": "BTCUSDT", "orderId": 28, "orderListId": -1, "clientOrderId": str(CLIENT_ID), "transactTime": NOW_MS}


def trading(venue: ScriptedVenue, *symbols: str, nonce: Any = None, skew_s: float = 0.0) -> CcxtTrading:
    """``skew_s``: our clock is that much ahead of the venue's, which says NOW."""
    venue.say(TIME, Reply({"serverTime": NOW_MS}))
    clock = ReplayClock(datetime.fromtimestamp(NOW + skew_s, UTC))
    take_nonce = nonce or count(1).__next__
    return CcxtTrading(Credentials(KEY, SECRET), take_nonce, symbols or ("BTC/USDT",), clock, venue.url)


def new_order(**changes: Any) -> NewOrder:
    asked = {"client_id": CLIENT_ID, "symbol": "BTC/USDT", "side": "buy", "type": "market", "quantity": Decimal("0.5")}
    return NewOrder(**asked | changes)


def error(code: int, words: str = "So it is.", status: int = 400) -> Reply:
    return Reply({"code": code, "msg": words}, status)


def order_row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "symbol": "BTCUSDT",
        "orderId": number,
        "orderListId": -1,
        "clientOrderId": f"client-{number}",
        "price": "0.00000000",
        "origQty": "1.00000000",
        "executedQty": "1.00000000",
        "cummulativeQuoteQty": "100.00000000",
        "status": "FILLED",
        "timeInForce": "GTC",
        "type": "MARKET",
        "side": "BUY",
        "stopPrice": "0.00000000",
        "time": NOW_MS + number,
        "updateTime": NOW_MS + number,
        "isWorking": True,
    } | changes


def trade_row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "symbol": "BTCUSDT",
        "id": number,
        "orderId": 28,
        "orderListId": -1,
        "price": "100.00000000",
        "qty": "0.50000000",
        "quoteQty": "50.00000000",
        "commission": "0.00050000",
        "commissionAsset": "BTC",
        "time": NOW_MS + number,
        "isBuyer": True,
        "isMaker": False,
        "isBestMatch": True,
    } | changes
