"""Kraken's private REST API, to its documentation (docs.kraken.com/api, trading and account data); no live venue asked.

A call passes, in this order: key, signature, nonce, counter of calls, permission, arguments, pair, status of the
venue, minimums and ticks, funds, number of open orders, counter of the engine. HTTP 200 even for refusals.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.exchange_emulator.kraken_account import AccountData
from tests.exchange_emulator.kraken_orders import WORDS
from tests.exchange_emulator.kraken_pairs import Pair
from tests.exchange_emulator.kraken_rest import INVALID, ApiError
from tests.exchange_emulator.kraken_trading import Trading
from tests.exchange_emulator.records import ApiKey, Refused, Right
from tests.exchange_emulator.rest import Answer, Call, add_venue, as_json

if TYPE_CHECKING:
    from tests.exchange_emulator.server import Emulator

Handler = Callable[[ApiKey, Call], Any]


@dataclass(frozen=True, slots=True)
class Method:
    handler: Handler
    right: Right | None  # that the key must have
    cost: int  # on the counter of calls


def add_routes(app: web.Application, emulator: Emulator) -> None:
    add_venue(app, emulator, KrakenPrivate(emulator))


class KrakenPrivate:
    prefix = "/0/private/"

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._named = {name.upper(): s for s in emulator.market.symbols for name in Pair(s).names}
        trading, data = Trading(emulator, self._named), AccountData(emulator, self._named)
        self._methods: dict[str, Method] = {
            "AddOrder": Method(trading.add, "trade", 0),
            "AddOrderBatch": Method(trading.add_batch, "trade", 0),
            "AmendOrder": Method(trading.amend, "trade", 0),
            "CancelOrder": Method(trading.cancel, "trade", 0),
            "CancelOrderBatch": Method(trading.cancel_batch, "trade", 0),
            "CancelAll": Method(trading.cancel_all, "trade", 1),
            "CancelAllOrdersAfter": Method(trading.cancel_all_after, "trade", 1),
            "OpenOrders": Method(data.open_orders, "read", 1),
            "ClosedOrders": Method(data.closed_orders, "read", 1),
            "QueryOrders": Method(data.query_orders, "read", 1),
            "TradesHistory": Method(data.trades_history, "read", 2),
            "QueryTrades": Method(data.query_trades, "read", 1),
            "Ledgers": Method(data.ledgers, "read", 2),
            "QueryLedgers": Method(data.query_ledgers, "read", 1),
            "Balance": Method(data.balance, "read", 1),
            "BalanceEx": Method(data.balance_ex, "read", 1),
            "TradeBalance": Method(data.trade_balance, "read", 1),
            "TradeVolume": Method(data.trade_volume, "read", 1),
            "GetWebSocketsToken": Method(data.websockets_token, "read", 1),
            "GetApiKeyInfo": Method(data.api_key_info, None, 1),
        }

    # --- rest.Venue ---

    def answer(self, call: Call) -> Answer:
        try:
            method = self._methods.get(call.endpoint)
            if method is None:
                raise ApiError("EGeneral:Unknown method")
            key = self._admitted(call, method)
            result = method.handler(key, call)
        except ApiError as error:
            return self.error(str(error))
        except Refused as refusal:
            return self.error(WORDS.get(refusal.refusal, f"{INVALID}:{refusal.detail}"))
        return Answer(as_json({"error": [], "result": result}))

    def symbol(self, arguments: dict[str, str]) -> str | None:
        return self._named.get(arguments.get("pair", "").upper())

    def error(self, text: str | None) -> Answer:
        return Answer(as_json({"error": [text or "EService:Unavailable"]}))

    def null(self) -> Answer:
        return Answer(as_json({"error": [], "result": None}))

    def too_many(self, retry_after_s: int) -> Answer:
        return Answer(b"Too Many Requests", 429, "text/plain", {"Retry-After": str(retry_after_s)})

    # --- who asks ---

    def _admitted(self, call: Call, method: Method) -> ApiKey:
        accounts = self._emulator.engine.accounts
        key = accounts.key(call.headers.get("API-Key", ""))
        if key is None or accounts.get(key.account).venue != "kraken":
            raise ApiError("EAPI:Invalid key")
        nonce = call.arguments.get("nonce", "")
        if not hmac.compare_digest(signature(key.secret, call.path, nonce, call.body), _given(call)):
            raise ApiError("EAPI:Invalid signature")
        if call.is_late:
            return key
        if not nonce.isascii() or not nonce.isdigit() or not accounts.take_nonce(key.key, int(nonce)):
            raise ApiError("EAPI:Invalid nonce")
        if method.cost and not self._emulator.kraken_calls.admit(key.key, method.cost):
            raise ApiError("EAPI:Rate limit exceeded")
        if (method.right is not None and method.right not in key.rights) or (key.ips and call.remote not in key.ips):
            raise ApiError("EGeneral:Permission denied")
        return key


def signature(secret: str, path: str, nonce: str, body: bytes) -> bytes:
    """What API-Sign must decode to."""
    message = path.encode() + hashlib.sha256(nonce.encode() + body).digest()
    return hmac.new(base64.b64decode(secret), message, hashlib.sha512).digest()


def _given(call: Call) -> bytes:
    try:
        return base64.b64decode(call.headers.get("API-Sign", ""), validate=True)
    except (binascii.Error, ValueError):
        return b""
