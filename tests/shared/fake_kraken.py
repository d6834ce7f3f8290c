"""A Kraken on 127.0.0.1 for tests: the documented shapes of AssetPairs and OHLC, a frozen clock, scripted faults."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from shared.clock import Timer
from shared.exchanges.kraken import KrakenExchange

NOW = 1_750_000_030  # 30 s into a minute: the candle that opened at NOW // 60 * 60 is not committed
SERVED = 720
Fault = tuple[int, bytes]  # HTTP status and body, in place of the true answer
Answer = Callable[[dict[str, str]], Any]  # from the query to the envelope


def pair(wsname: str | None, **overrides: Any) -> dict[str, Any]:
    info = {
        "altname": (wsname or "").replace("/", ""),
        "wsname": wsname,
        "quote": "USDT",
        "pair_decimals": 1,
        "lot_decimals": 8,
        "ordermin": "0.00005",
        "costmin": "0.5",
        "tick_size": "0.1",
        "status": "online",
    }
    return {key: value for key, value in (info | overrides).items() if value is not None}


PAIRS = {
    "XBTUSDT": pair("XBT/USDT"),
    "XXBTZUSD": pair("XBT/USD", quote="ZUSD"),
    "XDGUSD": pair("XDG/USD", quote="ZUSD", tick_size="0.0000001"),
    "SOLUSD": pair("SOL/USD", quote="ZUSD"),
}


class FakeKraken:
    """What the server answers; tests change it and read what was asked."""

    def __init__(self) -> None:
        self.now = NOW
        self.pairs: dict[str, Any] = dict(PAIRS)
        self.faults: list[Fault] = []
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.answers: dict[str, Answer] = {"AssetPairs": self._pairs, "OHLC": self._ohlc}

    def fail(self, *faults: Fault) -> None:
        self.faults.extend(faults)

    def respond(self, method: str, query: dict[str, str]) -> Fault:
        self.asked.append((method, query))
        if self.faults:
            return self.faults.pop(0)
        return 200, json.dumps(self.answers[method](query)).encode()

    def calls(self, method: str) -> list[dict[str, str]]:
        return [query for name, query in self.asked if name == method]

    def _pairs(self, query: dict[str, str]) -> Any:
        return {"error": [], "result": self.pairs}

    def _ohlc(self, query: dict[str, str]) -> Any:
        """Entries opened after ``since``, of the latest 720; the last is the unfinished one."""
        width, since = 60 * int(query["interval"]), int(query["since"])
        if query["pair"] not in self.pairs:
            return {"error": ["EQuery:Unknown asset pair"]}
        current = self.now // width * width
        served = [current - width * i for i in range(SERVED - 1, -1, -1)]
        page = [opened for opened in served if opened > since]
        if page[-1:] != [current]:
            page.append(current)
        last = page[-2] if len(page) > 1 else max(since, current - width)
        return {"error": [], "result": {query["pair"]: [entry(opened, width) for opened in page], "last": last}}


def entry(opened: int, width: int) -> list[Any]:
    """[time, open, high, low, close, vwap, volume, count]; a smooth made-up price that depends on the time only."""
    start, end = (round(30_000 + 500 * math.sin(t / 9_000), 1) for t in (opened, opened + width))
    high, low = max(start, end) + 1.5, min(start, end) - 1.5
    return [opened, f"{start:.1f}", f"{high:.1f}", f"{low:.1f}", f"{end:.1f}", f"{start:.1f}", "1.25000000", 7]


def api_error(text: str) -> Fault:
    return 200, json.dumps({"error": [text]}).encode()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeKraken

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        method = url.path.removeprefix("/0/public/")
        status, body = self.fake.respond(method, {key: values[0] for key, values in parse_qs(url.query).items()})
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in self.fake.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@contextmanager
def serving(fake: FakeKraken) -> Iterator[str]:
    """The base address while a thread serves ``fake`` on an ephemeral port."""
    handler = type("Handler", (_Handler,), {"fake": fake})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Patience:
    """A clock that moves only when slept on, and remembers the naps."""

    def __init__(self) -> None:
        self.time, self.naps = 0.0, list[float]()

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.time += seconds


def connect(uri: str, patience: Patience | None = None) -> KrakenExchange:
    patience = patience or Patience()
    return KrakenExchange(uri, timer=Timer(patience.monotonic, patience.sleep))
