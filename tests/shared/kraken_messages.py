"""Messages of Kraken's WebSocket v2, as the venue sends them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from shared.exchanges.kraken_stream import Session
from shared.exchanges.protocol import StreamEvent, StreamTrouble

BTC, ETH = "BTC/USD", "ETH/USD"
MINUTE = 60
OPENED = 1_791_309_960  # 2026-10-06T18:06:00Z
ONLINE = {"channel": "status", "type": "update", "data": [{"system": "online", "api_version": "v2", "version": "2.0"}]}
HEARTBEAT = {"channel": "heartbeat"}
# The worked example of https://docs.kraken.com/exchange/guides/websockets/book-checksum-v2, with its checksum.
EXAMPLE_ASKS = """45285.2 0.00100000 45286.4 1.54571953 45286.6 1.54571109 45289.6 1.54560911 45290.2 0.15890660
                  45291.8 1.54553491 45294.7 0.04454749 45296.1 0.35380000 45297.5 0.09945542 45299.5 0.18772827"""
EXAMPLE_BIDS = """45283.5 0.10000000 45283.4 1.54582015 45282.1 0.10000000 45281.0 0.10000000 45280.3 1.54592586
                  45279.0 0.07990000 45277.6 0.03310103 45277.5 0.30000000 45277.3 1.54602737 45276.6 0.15445238"""
EXAMPLE_CHECKSUM = 3310070434


def rfc3339(at: float, decimals: int = 9) -> str:
    whole, part = divmod(at, 1)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{f'{part:.9f}'[2 : 2 + decimals]}Z"


def candle(opened: int = OPENED, symbol: str = BTC, **changed: Any) -> dict[str, Any]:
    return {"symbol": symbol, "open": 85754.8, "high": 85754.8, "low": 85754.7, "close": 85754.8, "trades": 5,
            "volume": 0.00126522, "vwap": 85754.7, "interval_begin": rfc3339(opened), "interval": 1,
            "timestamp": rfc3339(opened + MINUTE, 6)} | changed  # fmt: skip


def ohlc(*elements: Any, kind: str = "update", sent: float | None = OPENED + 2.5) -> str:
    message = {"channel": "ohlc", "type": kind, "data": elements}
    return json.dumps(message if sent is None else message | {"timestamp": rfc3339(sent)})


def levels(text: str) -> str:
    numbers = text.split()
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return ",".join(f'{{"price":{price},"qty":{quantity}}}' for price, quantity in pairs)


def book(asks: str, bids: str, checksum: int, kind: str = "snapshot", symbol: str = BTC) -> str:
    return (
        f'{{"channel":"book","type":"{kind}","data":[{{"symbol":"{symbol}",'
        f'"asks":[{levels(asks)}],"bids":[{levels(bids)}],"checksum":{checksum}}}]}}'
    )


EXAMPLE = book(EXAMPLE_ASKS, EXAMPLE_BIDS, EXAMPLE_CHECKSUM)


def answers(request: str | bytes, refused: tuple[str, ...] = ()) -> list[str]:
    """As the venue answers: one a symbol, a refusal with its symbol and no channel."""
    asked = json.loads(request)
    common = {"method": asked["method"], "req_id": asked["req_id"], "time_in": rfc3339(0), "time_out": rfc3339(0)}
    params = asked["params"]
    return [
        json.dumps(common | {"success": False, "symbol": symbol, "error": f"Currency pair not supported {symbol}"})
        if symbol in refused
        else json.dumps(common | {"success": True, "result": params | {"symbol": symbol}})
        for symbol in params["symbol"]
    ]


def session(*symbols: str, timeframe_s: int = MINUTE, refused: tuple[str, ...] = ()) -> Session:
    """All subscriptions answered at time 0."""
    made = Session(symbols or (BTC,), timeframe_s, "online")
    for request in made.requests():
        for answer in answers(request, refused):
            made.receive(answer, 0)
    return made


def kinds(events: list[StreamEvent]) -> list[str]:
    return [event.kind if isinstance(event, StreamTrouble) else type(event).__name__ for event in events]
