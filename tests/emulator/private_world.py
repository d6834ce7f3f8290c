"""An account on the emulated Kraken and the two client libraries, as they come, that trade on it."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any

import ccxt
import krakenex

from tests.exchange_emulator.server import Emulator

SECRET = base64.b64encode(b"not a secret: an emulated account's").decode()
CLIENT_ID = "6d1b345e-2821-40e2-ad83-4ecb18a06876"


class Signed(krakenex.API):
    """krakenex with a nonce that two calls in one millisecond do not share; else as it comes."""

    last = 0

    def _nonce(self) -> int:
        self.last = max(self.last + 1, super()._nonce())
        return self.last


def open_account(emulator: Emulator, name: str = "main") -> None:
    """100,000 USD and 2 BTC, with the keys ``krakenex`` and ``ccxt``."""
    accounts = emulator.engine.accounts
    accounts.open(name)
    for key in ("krakenex", "ccxt"):
        accounts.add_key(name, key, SECRET)
    accounts.deposit(name, "USD", Decimal(100_000))
    accounts.deposit(name, "BTC", Decimal(2))


def krakenex_of(emulator: Emulator, key: str = "krakenex") -> krakenex.API:
    api = Signed(key, SECRET)
    api.uri = emulator.rest_url
    return api


def ccxt_of(emulator: Emulator) -> ccxt.kraken:
    venue = ccxt.kraken({"apiKey": "ccxt", "secret": SECRET, "timeout": 5000, "enableRateLimit": False})
    venue.urls["api"]["public"] = venue.urls["api"]["private"] = emulator.rest_url
    return venue


def said(api: krakenex.API, method: str, **arguments: Any) -> Any:
    """The whole answer."""
    return api.query_private(method, arguments, timeout=5)


def result(api: krakenex.API, method: str, **arguments: Any) -> Any:
    answer = said(api, method, **arguments)
    assert answer["error"] == []
    return answer["result"]


def refused(api: krakenex.API, method: str, **arguments: Any) -> str:
    answer = said(api, method, **arguments)
    assert "result" not in answer
    (error,) = answer["error"]
    return str(error)


def order(**more: Any) -> dict[str, Any]:
    """Arguments of AddOrder: a resting purchase where nothing else is said."""
    return {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "volume": "0.1", "price": "20000"} | more
