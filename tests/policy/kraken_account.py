"""Kraken's answers, made by hand, in the place of the network: below krakenex, above the sockets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from itertools import count
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import pytest
import requests

from policy.execution.venues.kraken_trading import KrakenTrading
from policy.execution.venues.protocol import Credentials, NewOrder

URL = "http://127.0.0.1:9"  # nobody listens
KEY, SECRET = "kraken-key-of-a-test", base64.b64encode(b"secret of a test").decode()
CLIENT_ID = UUID("6d1b345e-2821-40e2-ad83-4ecb18a06876")
NOW = 1_750_000_030.25
FIRST_NONCE = 1_750_000_030_000_000_000

PAIRS = {
    name: {"altname": altname, "wsname": wsname, "pair_decimals": 1, "lot_decimals": 8, "ordermin": "0.00005",
           "costmin": "0.5", "tick_size": "0.1", "status": "online"}
    for name, altname, wsname in (("XXBTZUSD", "XBTUSD", "XBT/USD"), ("XBTUSDT", "XBTUSDT", "XBT/USDT"))
}  # fmt: skip
ASSETS = {asset: {"altname": name} for asset, name in (
    ("XXBT", "XBT"), ("ZUSD", "USD"), ("USDT", "USDT"), ("XETH", "ETH"), ("XBT.M", "XBT.M"), ("ETH.F", "ETH.F"),
)}  # fmt: skip
Reply = Callable[[dict[str, str]], Any] | Any


class FakeAccount:
    """``replies``: by method, an envelope's result, or a function from the form to a whole body (bytes) or result, or
    an exception to raise. ``sent`` holds every private request, in order."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {"AssetPairs": PAIRS, "Assets": ASSETS}
        self.sent: list[tuple[str, dict[str, str]]] = []
        self.status = 200
        self.headers: dict[str, str] = {}

    def send(self, _adapter: Any, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        assert options["timeout"] is not None
        path = urlsplit(str(request.url)).path
        method, form = path.rsplit("/", 1)[1], {}
        if "/private/" in path:
            form = dict(parse_qsl(str(request.body), strict_parsing=True))
            assert request.headers["API-Key"] == KEY
            assert request.headers["API-Sign"] == signature(path, str(request.body), form["nonce"])
            self.sent.append((method, form))
        reply = self.replies[method]
        reply = reply(form) if callable(reply) else reply
        if isinstance(reply, Exception):
            raise reply
        response = requests.Response()
        response.status_code = self.status if "/private/" in path else 200
        response.headers.update(self.headers)
        response.request, response.url = request, str(request.url)
        response._content = reply if isinstance(reply, bytes) else envelope(reply)
        return response

    def forms(self, method: str) -> list[dict[str, str]]:
        return [form for name, form in self.sent if name == method]


def signature(path: str, body: str, nonce: str) -> str:
    digest = hashlib.sha256((nonce + body).encode()).digest()
    return base64.b64encode(
        hmac.new(base64.b64decode(SECRET), path.encode() + digest, hashlib.sha512).digest()
    ).decode()


def envelope(result: Any, *errors: str) -> bytes:
    return json.dumps({"error": list(errors)} if errors else {"error": [], "result": result}).encode()


@contextmanager
def connected(symbols: Sequence[str] = ("BTC/USD",)) -> Iterator[tuple[FakeAccount, KrakenTrading]]:
    fake, nonces = FakeAccount(), count(FIRST_NONCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("requests.adapters.HTTPAdapter.send", lambda *args, **options: fake.send(*args, **options))
        yield fake, KrakenTrading(Credentials(KEY, SECRET), lambda: next(nonces), symbols, URL, requests_per_s=1e6)


def order(**changes: Any) -> NewOrder:
    told: dict[str, Any] = {"client_id": CLIENT_ID, "symbol": "BTC/USD", "side": "buy", "type": "market",
                            "quantity": Decimal("0.25")}  # fmt: skip
    return NewOrder(**{**told, **changes})


def told_order(status: str = "open", **changes: Any) -> dict[str, Any]:
    """As OpenOrders, ClosedOrders and QueryOrders tell one; ``descr`` is merged."""
    descr = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "price": "30000.0", "price2": "0"}
    descr |= changes.pop("descr", {})
    row = {"status": status, "opentm": NOW - 60.5, "vol": "0.25000000", "vol_exec": "0.00000000",
           "stopprice": "0.00000", "cl_ord_id": str(CLIENT_ID), "reason": None, "descr": descr}  # fmt: skip
    return row | ({} if status in ("open", "pending") else {"closetm": NOW, "reason": "User requested"}) | changes


def trade(order_id: str = "OAAA", **changes: Any) -> dict[str, Any]:
    return {"ordertxid": order_id, "pair": "XXBTZUSD", "time": NOW, "type": "buy", "ordertype": "limit",
            "price": "30000.10000", "cost": "7500.02", "fee": "30.00", "vol": "0.25000000", **changes}  # fmt: skip


def entry(refid: str, asset: str, amount: str, fee: str = "0", **changes: Any) -> dict[str, Any]:
    return {"refid": refid, "time": NOW, "type": "trade", "subtype": "tradespot", "aclass": "currency", "asset": asset,
            "amount": amount, "fee": fee, "balance": "1", **changes}  # fmt: skip


def paged(key: str, rows: dict[str, Any], page: int = 50) -> Reply:
    """Newest first, ``page`` at a time, with their count."""

    def reply(form: dict[str, str]) -> Any:
        ofs = int(form.get("ofs", 0))
        return {key: dict(list(rows.items())[ofs : ofs + page]), "count": len(rows)}

    return reply
