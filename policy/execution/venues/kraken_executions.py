"""Kraken's WebSocket v2 ``executions``: what happens to the account's orders, as hints that something has happened.

Facts from https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/executions: one message may mix reports on
orders and on trades; each carries the ``sequence`` of its subscription, one more than the last; a ``trade`` may say
``partially_filled`` although it fills the order, and ``filled`` follows by itself; a snapshot holds the open orders
and no more than the last 50 trades. A token is good for 15 minutes until it is used.

Nothing here is proof: the sender asks the venue's REST API what happened, and a Gap says that it has to ask for all.
A last message that gets lost is noticed with the next one only, so the sender must ask from time to time anyway.
ccxt.pro is not used: it reads a mixed message as if all of it were of its first element's kind, and checks no sequence.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, TypeVar, get_args

from websockets.uri import parse_uri

from policy.execution.venues.protocol import CouldNotAsk, Side
from shared.exchanges.kraken_socket import (
    MALFORMED,
    Lost,
    StreamOptions,
    backoff_s,
    excerpt,
    listen,
    parse_message,
)

ExecutionKind = Literal["pending_new", "new", "trade", "filled", "iceberg_refill", "canceled", "expired", "amended",
                        "restated", "status"]  # fmt: skip
KINDS: dict[object, ExecutionKind] = {kind: kind for kind in get_args(ExecutionKind)}
SIDES: dict[object, Side] = {side: side for side in get_args(Side)}
LIQUIDITY: dict[object, bool] = {"m": True, "t": False}
ENDINGS = ("filled", "canceled", "expired")
FIRST = 1  # the sequence of a subscription's first message
REQUEST = 1  # the number of our only request

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Trade:
    """One fill as this channel tells it; what really moved is in the ledger. ``fees``: asset and amount."""

    venue_trade_id: str
    quantity: Decimal
    price: Decimal
    cost: Decimal | None
    fees: tuple[tuple[str, Decimal], ...]
    maker: bool | None


@dataclass(frozen=True, slots=True)
class Execution:
    """One report about one order; which fields it has depends on its kind, None is what it does not tell.

    ``status`` is the venue's word at that moment, of a trade often an older one: only ``ended`` says that the order
    has. ``snapshot``: it stood so when the subscription began, whenever it happened. The same trade may come again.
    """

    kind: ExecutionKind
    venue_order_id: str
    client_id: str | None
    symbol: str | None
    side: Side | None
    status: str | None
    quantity: Decimal | None
    filled: Decimal | None
    trade: Trade | None  # there if and only if the kind is trade
    reason: str | None
    at: float  # Unix seconds of the venue's clock
    snapshot: bool

    @property
    def ended(self) -> bool:
        return self.kind in ENDINGS


@dataclass(frozen=True, slots=True)
class Gap:
    """Something may have been missed: ask the venue for all fills since a minute before the last known one."""

    reason: str


@dataclass(frozen=True, slots=True)
class Connected:
    """The subscription stands; a Gap follows, since nobody knows what happened before."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """No hints from here to the next Connected; ``reason`` also of a try that failed."""

    reason: str


ExecutionEvent = Execution | Gap | Connected | Disconnected


@dataclass(frozen=True, slots=True)
class KrakenExecutions:
    """One account's executions. ``fetch_token`` is asked for a new token before each connection; where it raises
    CouldNotAsk, that try has failed, and any other exception ends the stream."""

    url: str
    fetch_token: Callable[[], Awaitable[str]]
    options: StreamOptions

    async def events(self) -> AsyncGenerator[ExecutionEvent]:
        """For ever: reconnects by itself; closing the iterator closes the socket. InvalidURI: no WebSocket's address.

        The wait between connections starts anew after one that stood for ``silence_s``, as in stream_kraken.
        """
        parse_uri(self.url)
        failures = 0
        while True:
            session: ExecutionSession | None = None
            try:
                session = ExecutionSession(await self.fetch_token())
                async with aclosing(listen(self.url, session, self.options)) as events:
                    async for event in events:
                        yield event
            except CouldNotAsk as error:
                yield Disconnected(f"no token: {error}")
            except Lost as lost:
                yield Disconnected(f"{lost.trouble.kind}: {lost.trouble.detail}")
            if session is not None and session.stood:
                failures = 0
            await self.options.sleep(backoff_s(failures, self.options))
            failures += 1


class ExecutionSession:
    """What one connection has told so far: messages in, events and the one request out. No I/O; ``now`` monotonic."""

    def __init__(self, token: str) -> None:
        self.connected = False  # the subscription was accepted
        self.stood = False  # ... and that some time ago: the next loss is a new one, not the last one again
        self._token = token
        self._outbox = [_subscription(token)]
        self._unanswered_s = 0.0
        self._connected_at = math.inf
        self._expected = FIRST
        self._last: Any = None  # the last message of the channel

    def requests(self) -> list[str]:
        """What is to be sent now, once."""
        requests, self._outbox = self._outbox, []
        return requests

    def listened(self, seconds: float) -> None:
        self._unanswered_s += seconds

    def check(self, now: float, patience_s: float) -> None:
        """Lost if the subscription stays unanswered while other messages come."""
        if not self.connected and self._unanswered_s > patience_s:
            raise Lost("silence", f"no answer to the subscription for {patience_s:g} s")
        self.stood = self.connected and now - self._connected_at >= patience_s

    def receive(self, text: str | bytes, now: float) -> list[ExecutionEvent]:
        """The events in one message; one that cannot be read is a Gap. Lost: the venue refused the subscription."""
        try:
            message = parse_message(text)
            if "method" in message:
                return self._answer(message, now)
            if message["channel"] != "executions":
                return []  # a heartbeat, the venue's status: that they came is all that counts
            elements, snapshot = list(message["data"]), {"snapshot": True, "update": False}[message["type"]]
        except MALFORMED as error:
            return [_unreadable(error, text)]
        if message == self._last and message.get("sequence") == self._expected - 1:
            return []  # twice the same
        self._last = message
        reports = [self._report(element, snapshot) for element in elements]
        return [*self._gaps(message.get("sequence")), *reports]

    def _gaps(self, sequence: Any) -> list[ExecutionEvent]:
        """Empty where the message is the next one; whatever else came, the count goes on from there."""
        if type(sequence) is not int:
            return [Gap(f"a message whose sequence is {excerpt(repr(sequence))}")]
        expected, self._expected = self._expected, sequence + 1
        return [] if sequence == expected else [Gap(f"message {sequence} came where {expected} was expected")]

    def _report(self, element: Any, snapshot: bool) -> ExecutionEvent:
        """One element; a bad one does not spoil its neighbours."""
        try:
            return _parse(element, snapshot)
        except MALFORMED as error:
            return _unreadable(error, element)

    def _answer(self, message: dict[str, Any], now: float) -> list[ExecutionEvent]:
        """To our one request. A refusal also ends a subscription that stood."""
        if message["method"] == "pong":
            return []
        if message["success"] is not True:
            raise Lost("subscription_refused", excerpt(str(message).replace(self._token, "…")))
        if message["method"] != "subscribe" or self.connected:
            raise ValueError("not an answer to what was asked")
        self.connected, self._connected_at = True, now
        return [Connected(), Gap("connected: what happened before was not heard")]


def _subscription(token: str) -> str:
    params = {"channel": "executions", "token": token, "snap_orders": True, "snap_trades": True}
    return json.dumps({"method": "subscribe", "params": params, "req_id": REQUEST})


def _parse(element: Any, snapshot: bool) -> Execution:
    """One of MALFORMED: a kind unknown to us, or a field of the wrong type."""
    kind = KINDS[element["exec_type"]]
    return Execution(
        kind=kind,
        venue_order_id=_text(element["order_id"]),
        client_id=_optional(_text, element.get("cl_ord_id")),
        symbol=_optional(_text, element.get("symbol")),
        side=_optional(SIDES.__getitem__, element.get("side")),
        status=_optional(_text, element.get("order_status")),
        quantity=_optional(_number, element.get("order_qty")),
        filled=_optional(_number, element.get("cum_qty")),
        trade=_parse_trade(element) if kind == "trade" else None,
        reason=_optional(_text, element.get("reason")),
        at=_parse_time(element["timestamp"]),
        snapshot=snapshot,
    )


def _parse_trade(element: Any) -> Trade:
    quantity, price = _number(element["last_qty"]), _number(element["last_price"])
    if quantity <= 0 or price <= 0:
        raise ValueError("a trade of nothing or for nothing")
    return Trade(
        venue_trade_id=_text(element["exec_id"]),
        quantity=quantity,
        price=price,
        cost=_optional(_number, element.get("cost")),
        fees=tuple((_text(fee["asset"]), _number(fee["qty"])) for fee in element.get("fees") or ()),
        maker=_optional(LIQUIDITY.__getitem__, element.get("liquidity_ind")),
    )


def _optional(parse: Callable[[Any], T], value: Any) -> T | None:
    return None if value is None else parse(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("not a text")
    return value


def _number(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise TypeError("not a number")
    return Decimal(value)


def _parse_time(text: Any) -> float:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time without zone")
    return at.timestamp()


def _unreadable(error: Exception, message: object) -> Gap:
    return Gap(f"unreadable, {type(error).__name__} {excerpt(error)}: {excerpt(message)}")
