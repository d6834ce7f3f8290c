"""Kraken's WebSocket v2: candles as trades happen, and an order book whose checksum catches a lying connection.

Facts from https://docs.kraken.com/exchange/api-reference/spot-websocket-v2 (ohlc, book, status) and
https://docs.kraken.com/exchange/guides/websockets/book-checksum-v2: a candle is named by ``interval_begin`` (its
``timestamp`` is the end, and deprecated), comes with each trade and carries no sign that it is closed; a heartbeat
comes each second in which nothing else does. The envelope's ``timestamp`` (when it was sent) is in the answers only.

Symbols are v2's own, which are Sextant's (BTC/USD); XBT and XDG are unknown there.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from websockets.uri import parse_uri

from shared.exchanges.kraken_book import DEPTH, Book
from shared.exchanges.kraken_socket import (
    MALFORMED,
    Lost,
    StreamOptions,
    backoff_s,
    excerpt,
    listen,
    parse_message,
)
from shared.exchanges.protocol import (
    BookTop,
    CandleUpdate,
    ExchangeError,
    StreamEvent,
    StreamState,
    StreamTrouble,
    VenueStatus,
)

INTERVALS_MIN = (1, 5, 15, 30, 60, 240, 1_440, 10_080, 21_600)
STATUSES: dict[object, VenueStatus] = {"online": "online", "maintenance": "maintenance",
                                       "cancel_only": "cancel_only", "post_only": "post_only"}  # fmt: skip
BOOK_TOP_S = 1.0  # between two BookTop of one symbol
WRONG_BOOKS, WRONG_BOOKS_S = 3, 60.0  # so many in so long: that symbol's book is left alone until the next connection
VALUES = ("open", "high", "low", "close", "volume")


async def stream_kraken(
    url: str, symbols: Sequence[str], timeframe_s: int, options: StreamOptions
) -> AsyncGenerator[StreamEvent]:
    """Candles, best prices, states and troubles, for ever; closing the iterator closes the socket.

    Kinds of trouble: ``bad_message``, ``silence``, ``disconnected``, ``checksum``, ``subscription_refused``,
    ``out_of_order`` (a candle older than one already seen: not yielded), ``duplicate`` (the same event again: not
    yielded). ExchangeError: a timeframe Kraken does not stream, or no symbol. InvalidURI: not a WebSocket's address.

    The wait between connections starts anew after one that stood for ``silence_s``; one that is accepted and dropped
    at once is not asked again at full pace, since the venue bans who connects more than some 150 times in 10 minutes.
    """
    if timeframe_s % 60 or timeframe_s // 60 not in INTERVALS_MIN:
        raise ExchangeError(f"kraken streams no {timeframe_s} s candles: it has {INTERVALS_MIN} minutes")
    if not symbols:
        raise ExchangeError("kraken: no symbol to stream")
    parse_uri(url)
    status: VenueStatus = "online"
    failures = 0
    while True:
        session = Session(symbols, timeframe_s, status)
        async with aclosing(_connection(url, session, options)) as events:
            async for event in events:
                yield event
        status = session.status
        failures = 0 if session.stood else failures
        await options.sleep(backoff_s(failures, options))
        failures += 1


async def _connection(url: str, session: Session, options: StreamOptions) -> AsyncGenerator[StreamEvent]:
    """One connection from its opening to its loss, which is told as a trouble and a state."""
    try:
        async with aclosing(listen(url, session, options)) as events:
            async for event in events:
                yield event
    except Lost as lost:
        yield lost.trouble
    yield StreamState(False, session.status)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A candle's event: ``sent`` is the envelope's time, None where it had none."""

    opened: int
    sent: datetime | None
    element: Any


class Session:
    """What one connection has told so far: messages in, events and requests out. No I/O; ``now`` is monotonic, in s."""

    def __init__(self, symbols: Sequence[str], timeframe_s: int, status: VenueStatus) -> None:
        self.status = status
        self.connected = False  # every subscription is answered, and a candle's was accepted
        self.stood = False  # ... and that some time ago: the next loss is a new one, not the last one again
        self._minutes = timeframe_s // 60
        self._symbols = dict.fromkeys(symbols)  # a set that keeps their order
        self._streaming: set[str] = set()
        self._newest: dict[str, _Seen] = {}
        self._books: dict[str, Book] = {}  # only those that can be believed
        self._wrong_at: dict[str, list[float]] = {}
        self._top_at: dict[str, float] = {}
        self._outbox: list[str] = []
        self._waiting: dict[tuple[Any, Any], str] = {}  # (req_id, symbol) -> channel: asked, not yet answered
        self._unanswered_s = 0.0  # of listening, since the last request or answer
        self._connected_at = math.inf
        self._asked = 0
        self._ask("subscribe", "ohlc", [*self._symbols], interval=self._minutes, snapshot=True)
        self._ask("subscribe", "book", [*self._symbols], depth=DEPTH, snapshot=True)

    def requests(self) -> list[str]:
        """What is to be sent now, once."""
        requests, self._outbox = self._outbox, []
        return requests

    def listened(self, seconds: float) -> None:
        """So long was spent on waiting for a message; what the consumer takes for itself does not count."""
        self._unanswered_s += seconds

    def check(self, now: float, patience_s: float) -> None:
        """Lost if subscriptions stay unanswered while other messages come, or if all of them were refused."""
        if self._waiting and self._unanswered_s > patience_s:
            raise Lost("silence", f"no answer to {len(self._waiting)} subscriptions for {patience_s:g} s")
        if not self._waiting and not self._streaming:
            raise Lost("disconnected", f"nothing to wait for: no subscription of {', '.join(self._symbols)} is left")
        self.stood = self.connected and now - self._connected_at >= patience_s

    def receive(self, text: str | bytes, now: float) -> list[StreamEvent]:
        """The events in one message; whatever is wrong with it is one of them."""
        try:
            message = parse_message(text)
            if "method" in message:
                return self._answer(message, now)
            channel = message["channel"]
            if channel == "heartbeat":
                return []
            read = {"ohlc": self._candle, "book": self._book, "status": self._status}[channel]
            elements = list(message["data"])
        except MALFORMED as error:
            return [_bad(error, text)]
        return [event for element in elements for event in self._element(read, element, message, now)]

    def _element(self, read: _Reader, element: Any, message: dict[str, Any], now: float) -> list[StreamEvent]:
        """One element; a bad one does not spoil its neighbours."""
        try:
            return read(element, message, now)
        except MALFORMED as error:
            return [_bad(error, element)]

    def _status(self, element: Any, message: dict[str, Any], now: float) -> list[StreamEvent]:
        self.status = STATUSES[element["system"]]
        return [StreamState(self.connected, self.status)]

    # --- candles ---

    def _candle(self, element: Any, message: dict[str, Any], now: float) -> list[StreamEvent]:
        update = self._parse_candle(element)
        sent = _parse_time(message["timestamp"]) if "timestamp" in message else None
        if sent is not None and update.opened > sent.timestamp() + 1:
            raise ValueError("opened after it was sent")  # believed, it would put all true ones out of order
        seen, last = _Seen(update.opened, sent, element), self._newest.get(update.symbol)
        if last is not None and not _is_snapshot(message):
            if seen == last:
                return [StreamTrouble("duplicate", excerpt(element))]
            if _is_before(seen, last):
                return [StreamTrouble("out_of_order", f"after the candle of {last.opened}: {excerpt(element)}")]
        if last is None or seen.opened >= last.opened:
            self._newest[update.symbol] = seen
        return [update]

    def _parse_candle(self, element: Any) -> CandleUpdate:
        if element["symbol"] not in self._symbols or element["interval"] != self._minutes:
            raise ValueError("not what was subscribed")
        opened = _parse_time(element["interval_begin"]).timestamp()
        if opened % 1 or type(element["trades"]) is not int:
            raise ValueError("not a whole number")
        open_, high, low, close, volume = (_parse_number(element[name]) for name in VALUES)
        return CandleUpdate(element["symbol"], int(opened), open_, high, low, close, volume, element["trades"])

    # --- books ---

    def _book(self, element: Any, message: dict[str, Any], now: float) -> list[StreamEvent]:
        symbol, snapshot = element["symbol"], _is_snapshot(message)
        if symbol not in self._symbols:
            raise ValueError("not what was subscribed")
        book = Book() if snapshot else self._books.get(symbol)
        if book is None or len(self._wrong_at.get(symbol, ())) >= WRONG_BOOKS:
            return []  # under way when the book was dropped
        try:
            right = book.apply(element, snapshot=snapshot)
        except MALFORMED:
            self._drop_book(symbol, now)
            raise
        if not right:
            return [StreamTrouble("checksum", f"book of {symbol}: {self._drop_book(symbol, now)}")]
        self._books[symbol] = book
        return self._book_top(symbol, book, now)

    def _book_top(self, symbol: str, book: Book, now: float) -> list[StreamEvent]:
        top = book.top()
        if top is None or now - self._top_at.get(symbol, -math.inf) < BOOK_TOP_S:
            return []
        self._top_at[symbol] = now
        return [BookTop(symbol, *top)]

    def _drop_book(self, symbol: str, now: float) -> str:
        """What is done about it: a fresh one is asked for, unless that has not helped several times."""
        self._books.pop(symbol, None)
        wrong_at = [at for at in self._wrong_at.get(symbol, ()) if now - at < WRONG_BOOKS_S]
        self._wrong_at[symbol] = [*wrong_at, now]
        self._ask("unsubscribe", "book", (symbol,), depth=DEPTH)
        if len(self._wrong_at[symbol]) >= WRONG_BOOKS:
            return f"wrong {WRONG_BOOKS} times in {WRONG_BOOKS_S:g} s, given up until the next connection"
        self._ask("subscribe", "book", (symbol,), depth=DEPTH, snapshot=True)
        return "dropped and subscribed anew"

    # --- subscriptions ---

    def _ask(self, method: str, channel: str, symbols: Sequence[str], **params: object) -> None:
        self._asked += 1
        self._unanswered_s = 0.0
        request = {"method": method, "params": {"channel": channel, "symbol": [*symbols], **params}}
        self._outbox.append(json.dumps(request | {"req_id": self._asked}))
        if method == "subscribe":
            self._waiting |= {(self._asked, symbol): channel for symbol in symbols}

    def _answer(self, message: dict[str, Any], now: float) -> list[StreamEvent]:
        """To subscribe and unsubscribe: one answer a symbol; a refusal names its symbol, but not its channel."""
        method, request = message["method"], message.get("req_id")
        if method == "pong":
            return []
        if method not in ("subscribe", "unsubscribe"):
            raise ValueError("not an answer to what was asked")
        result = message.get("result") or {}
        symbol: Any = message.get("symbol", result.get("symbol"))
        events: list[StreamEvent] = []
        if message["success"] is not True:
            events.append(self._refused(method, request, symbol, message))
        elif method == "subscribe" and self._waiting.pop((request, symbol)) == "ohlc":
            self._streaming.add(symbol)
        self._unanswered_s = 0.0
        if not self.connected and not self._waiting and self._streaming:
            self.connected, self._connected_at = True, now
            events.append(StreamState(True, self.status))
        return events

    def _refused(self, method: Any, request: Any, symbol: Any, message: object) -> StreamTrouble:
        """Also the end of a subscription that ran (a symbol is delisted), which answers no request."""
        concerned = [key for key in self._waiting if key[0] == request and symbol in (None, key[1])]
        channels = sorted({self._waiting.pop(key) for key in concerned})
        if method == "subscribe" and not concerned:
            self._streaming.discard(symbol)
            self._books.pop(symbol, None)
        refused = f"{' '.join(channels)} {', '.join(key[1] for key in concerned)}" if concerned else excerpt(symbol)
        return StreamTrouble("subscription_refused", f"{excerpt(method)} {refused}: {excerpt(message)}")


_Reader = Callable[[Any, dict[str, Any], float], list[StreamEvent]]


def _bad(error: Exception, message: object) -> StreamTrouble:
    return StreamTrouble("bad_message", f"{type(error).__name__} {excerpt(error)}: {excerpt(message)}")


def _is_snapshot(message: dict[str, Any]) -> bool:
    return {"snapshot": True, "update": False}[message["type"]]


def _is_before(seen: _Seen, last: _Seen) -> bool:
    """An older candle; or an older state of the same one, by the time at which it was sent."""
    if seen.opened != last.opened or seen.sent is None or last.sent is None:
        return seen.opened < last.opened
    return seen.sent < last.sent


def _parse_time(text: Any) -> datetime:
    """RFC3339 with up to nanoseconds; what is below a microsecond is cut off."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time without zone")
    return at


def _parse_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise TypeError("not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number
