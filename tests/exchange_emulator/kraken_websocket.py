"""Kraken's WebSocket v2, public channels and ``executions``, to its documentation; no live venue was asked.

Each connection has a reader for its requests and a pump that tells the news as the virtual time passes. Errors in
the venue's words as far as they are published; a refusal names its symbol but not its channel, as the venue's does.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from tests.exchange_emulator.kraken_executions import ExecutionsFeed
from tests.exchange_emulator.kraken_feeds import (
    DEPTHS,
    INTERVALS_MIN,
    BookFeed,
    Data,
    Feed,
    InstrumentFeed,
    OhlcFeed,
    TickerFeed,
    TradeFeed,
    rfc3339,
    to_json,
)
from tests.exchange_emulator.market import NS
from tests.exchange_emulator.rest import reset

if TYPE_CHECKING:
    from tests.exchange_emulator.server import Emulator

TICK_S = 0.02  # real time between two looks at the clock
HEARTBEAT_S = 1.0  # real time without another message; ``emulator.heartbeat_s`` where it is set
STATUSES = ("maintenance", "cancel_only", "post_only")
TRANSPORT_FAULTS = ("silence", "stream_close", "stream_reset", "stream_bad_json")
GOING_AWAY = 1001
LATE_S = 1.0  # virtual
INVALID_TOKEN = "ESession:Invalid session"
STAMP_STEP_NS = 1_000  # no two messages of a connection are sent at the same time

Key = tuple[str, str | None, int | None]  # channel, symbol, interval or depth


def add_routes(app: web.Application, emulator: Emulator) -> None:
    numbers = itertools.count(1)

    async def accept(request: web.Request) -> web.WebSocketResponse:
        emulator.requests["stream"] += 1
        socket = web.WebSocketResponse(timeout=1.0, compress=False)
        await socket.prepare(request)
        await Connection(emulator, socket, request.transport, next(numbers)).serve()
        return socket

    app.router.add_get("/v2", accept)


class Refused(Exception):
    """The venue's words."""


class Ended(Exception):
    """This connection is over."""


class Connection:
    def __init__(
        self,
        emulator: Emulator,
        socket: web.WebSocketResponse,
        transport: asyncio.BaseTransport | None,
        number: int,
    ) -> None:
        self._emulator, self._faults, self._market = emulator, emulator.faults, emulator.market
        self._socket, self._transport, self._number = socket, transport, number
        self._feeds: dict[Key, Feed] = {}
        self._held: dict[Key, str] = {}  # an event that waits for the next one to overtake it
        self._late: list[tuple[float, str]] = []  # messages of executions, each from a virtual time on
        self._sequences: Counter[Key] = Counter()  # the number of the last message
        self._accounts: dict[str, str] = {}  # by the tokens that this connection has used: they live as long as it
        self._status = "online"
        self._subscribed = self._mute = False
        self._sent_at, self._stamp_ns = 0.0, 0

    async def serve(self) -> None:
        """Until either side ends it."""
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._pump())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, Ended | ConnectionError):
                raise outcome

    # --- telling ---

    async def _pump(self) -> None:
        while not self._emulator.stopping.is_set():
            await self._tell_status()
            await self._end_delisted()
            now = self._emulator.clock.now()
            for key, feed in list(self._feeds.items()):
                for data in feed.updates(now):
                    await self._tell(key, "update", data)
            await self._tell_late(now)
            await self._beat()
            await asyncio.sleep(TICK_S)
        await self._socket.close(code=GOING_AWAY)

    async def _tell_status(self, always: bool = False) -> None:
        rules = [self._faults.active(status, None, "stream", "status") for status in STATUSES]
        rule = next((rule for rule in rules if rule is not None), None)
        status = "online" if rule is None else rule.fault
        if status == self._status and not always:
            return
        if rule is not None:
            self._faults.spend(rule)
        self._status = status
        element = {"system": status, "api_version": "v2", "connection_id": self._number, "version": "2.0.10"}
        await self._send("status", None, to_json({"channel": "status", "type": "update", "data": [element]}))

    async def _end_delisted(self) -> None:
        for symbol in {symbol for _, symbol, _ in self._feeds if symbol is not None}:
            if self._is_delisted(symbol):
                self._feeds = {key: feed for key, feed in self._feeds.items() if key[1] != symbol}
                refusal = {"success": False, "error": f"Currency pair not supported {symbol}", "symbol": symbol}
                await self._answer({"method": "subscribe"}, refusal, "subscribe", symbol)

    async def _beat(self) -> None:
        quiet_s = asyncio.get_running_loop().time() - self._sent_at
        if self._subscribed and quiet_s >= getattr(self._emulator, "heartbeat_s", HEARTBEAT_S):
            await self._send("heartbeat", None, '{"channel":"heartbeat"}')

    async def _tell(self, key: Key, kind: str, data: Data) -> None:
        """One message of a channel, unless a fault spoils, swaps, doubles or loses it."""
        if self._mute:  # what is not sent cannot be spoilt, and must not be counted
            return
        channel, symbol, _ = key
        if channel == "book" and self._faults.take({"checksum"}, "stream", channel, symbol):
            data[0]["checksum"] ^= 1
        message = {"channel": channel, "type": kind, "data": data}
        if channel == "executions":
            message["sequence"] = self._next_sequence(key, is_update=kind == "update")
        elif channel == "ohlc":
            message["timestamp"] = self._stamp()
        else:
            await self._send(channel, symbol, to_json(message))
            return
        text = to_json(message)
        for late in self._disordered(key, text) if kind == "update" else [text]:
            await self._send(channel, symbol, late)

    async def _tell_late(self, now: float) -> None:
        """What was held back until now."""
        due = [text for at, text in self._late if at <= now]
        self._late = [(at, text) for at, text in self._late if at > now]
        for text in due:
            await self._send("executions", None, text)

    def _next_sequence(self, key: Key, is_update: bool) -> int:
        """The next sequence; a gap in it loses nothing but the number."""
        skipped = is_update and self._faults.take({"sequence_gap"}, "stream", "executions") is not None
        self._sequences[key] += 2 if skipped else 1
        return self._sequences[key]

    def _disordered(self, key: Key, text: str) -> list[str]:
        """What is sent in the place of one candle's event, or of one message of executions."""
        channel, symbol, _ = key
        if rule := self._faults.take({"drop_update"}, "stream", channel, symbol):
            if rule.parameter == "unnumbered":
                self._sequences[key] -= 1
            return []
        if channel == "executions" and (rule := self._faults.take({"late_event"}, "stream", channel)):
            delay_s = LATE_S if rule.parameter is None else float(rule.parameter)
            self._late.append((self._emulator.clock.now() + delay_s, text))
            return []
        if key in self._held:
            return [text, self._held.pop(key)]
        if self._faults.take({"reorder"}, "stream", channel, symbol):
            self._held[key] = text
            return []
        return [text] * (2 if self._faults.take({"duplicate"}, "stream", channel, symbol) else 1)

    async def _send(self, channel: str, symbol: str | None, text: str) -> None:
        """The only way out; here the faults of transport strike. A rule of so many times mutes for good."""
        if self._mute:
            return
        rule = self._faults.take(TRANSPORT_FAULTS, "stream", channel, symbol)
        fault = None if rule is None else rule.fault
        if fault == "silence":
            self._mute = rule.times is not None
            return
        if fault == "stream_close":
            await self._socket.close(code=GOING_AWAY, message=b"emulated")
            raise Ended
        if fault == "stream_reset":
            reset(self._transport)
            raise Ended
        await self._socket.send_str(text[: len(text) // 2] if fault == "stream_bad_json" else text)
        self._sent_at = asyncio.get_running_loop().time()

    def _stamp(self) -> str:
        self._stamp_ns = max(int(self._emulator.clock.now() * NS), self._stamp_ns + STAMP_STEP_NS)
        return rfc3339(self._stamp_ns, 9)

    # --- requests ---

    async def _read(self) -> None:
        await self._tell_status(always=True)
        async for frame in self._socket:
            if frame.type is WSMsgType.TEXT:
                await self._handle(frame.data)

    async def _handle(self, text: str) -> None:
        try:
            request = json.loads(text)
        except ValueError:
            request = None
        if not isinstance(request, dict):
            await self._answer({}, {"success": False, "error": "Malformed request"})
            return
        method, params = request.get("method"), request.get("params")
        if method == "ping":
            await self._answer(request | {"method": "pong"}, {}, "pong")
        elif method in ("subscribe", "unsubscribe") and isinstance(params, dict):
            await self._subscription(request, method, params)
        else:
            await self._answer(request, {"success": False, "error": "Event(s) not found"})

    async def _subscription(self, request: dict[str, Any], method: str, params: dict[str, Any]) -> None:
        """One answer a symbol."""
        channel, symbols = params.get("channel"), params.get("symbol")
        if channel in ("instrument", "executions"):
            symbols = [None]
        elif not isinstance(symbols, list) or not symbols:
            await self._answer(request, {"success": False, "error": "Pair field must be an array"})
            return
        change = self._subscribe if method == "subscribe" else self._unsubscribe
        for symbol in symbols:
            try:
                await change(request, params, channel, symbol)
            except Refused as refused:
                named = {} if symbol is None else {"symbol": symbol}
                await self._answer(request, {"success": False, "error": str(refused)} | named, method, symbol)

    async def _subscribe(self, request: dict[str, Any], params: dict[str, Any], channel: Any, symbol: Any) -> None:
        key, open_feed = self._opener(params, channel, symbol)
        if key in self._feeds:
            raise Refused("Already subscribed")
        snapshot = params.get("snapshot", channel != "trade")
        feed = open_feed()
        data = feed.snapshot(self._emulator.clock.now())
        accepted = _accepted(key, snapshot)
        if isinstance(feed, ExecutionsFeed):
            snapshot, accepted = feed.has_snapshot, {"result": feed.accepted, "success": True}
        await self._answer(request, accepted, "subscribe", symbol)
        self._subscribed = True
        if snapshot:
            await self._tell(key, "snapshot", data)
        self._feeds[key] = feed  # from here on the pump tells it

    async def _unsubscribe(self, request: dict[str, Any], params: dict[str, Any], channel: Any, symbol: Any) -> None:
        key, _ = self._opener(params, channel, symbol)
        if self._feeds.pop(key, None) is None:
            raise Refused("Subscription Not Found")
        self._sequences.pop(key, None)
        await self._answer(request, _accepted(key, None), "unsubscribe", symbol)

    def _opener(self, params: dict[str, Any], channel: Any, symbol: Any) -> tuple[Key, Callable[[], Feed]]:
        """Which subscription is meant, and how to begin it."""
        if channel == "instrument":
            return (channel, None, None), lambda: InstrumentFeed(self._market, self._faults)
        if channel == "executions":
            account = self._account(params.get("token"))
            return (channel, None, None), lambda: ExecutionsFeed(self._emulator.engine, account, params)
        if channel not in ("ohlc", "book", "trade", "ticker"):
            raise Refused("Subscription name invalid")
        if symbol not in self._market.symbols or self._is_delisted(symbol):
            raise Refused(f"Currency pair not supported {symbol}")
        if channel == "ohlc":
            interval = _one_of(params.get("interval", 1), INTERVALS_MIN, "Subscription ohlc interval not supported")
            return (channel, symbol, interval), lambda: OhlcFeed(self._market, self._faults, symbol, interval)
        if channel == "book":
            depth = _one_of(params.get("depth", 10), DEPTHS, "Subscription depth not supported")
            return (channel, symbol, depth), lambda: BookFeed(self._market, symbol, depth)
        feed = TradeFeed if channel == "trade" else TickerFeed
        return (channel, symbol, None), lambda: feed(self._market, symbol)

    def _account(self, token: Any) -> str:
        """Whose executions the token opens."""
        if self._faults.take({"token_expiry"}, "stream", "executions"):
            raise Refused(INVALID_TOKEN)
        account = self._accounts.get(str(token)) or self._emulator.tokens.account(token)
        if account is None:
            raise Refused(INVALID_TOKEN)
        self._accounts[str(token)] = account
        return account

    def _is_delisted(self, symbol: str) -> bool:
        rule = self._faults.active("delisting", symbol, "stream", "subscribe")
        if rule is not None:
            self._faults.spend(rule)
        return rule is not None

    async def _answer(
        self, request: dict[str, Any], answer: dict[str, Any], method: str = "error", symbol: str | None = None
    ) -> None:
        echoed = {name: request[name] for name in ("method", "req_id") if name in request}
        at = rfc3339(int(self._emulator.clock.now() * NS))
        await self._send(method, symbol, to_json(echoed | answer | {"time_in": at, "time_out": at}))


def _accepted(key: Key, snapshot: bool | None) -> dict[str, Any]:
    channel, symbol, detail = key
    result: dict[str, Any] = {"channel": channel}
    if symbol is not None:
        result["symbol"] = symbol
    if detail is not None:
        result["interval" if channel == "ohlc" else "depth"] = detail
    if snapshot is not None:
        result["snapshot"] = snapshot
    if channel == "ohlc":
        result["warnings"] = ["timestamp is deprecated, use interval_begin"]
    return {"result": result, "success": True}


def _one_of(value: Any, allowed: tuple[int, ...], words: str) -> int:
    if type(value) is not int or value not in allowed:
        raise Refused(words)
    return value
