"""One connection to Kraken's WebSocket v2, public or private: opened, listened to, and given up when it is silent.

What the messages mean is the session's: it is fed with text and hands out events and requests, without I/O of its own.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol, TypeVar

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from shared.exchanges.protocol import StreamTrouble

MOST_BYTES = 2**20  # of one message; the largest seen, a snapshot, has some 200 kB
MOST_WAITING = 16  # messages read ahead; beyond it the sender has to wait
CLOSING_S = 0.5  # how long a goodbye may take
EXCERPT = 200  # characters of a message quoted in a trouble
MALFORMED = (AttributeError, KeyError, TypeError, ValueError, ArithmeticError, RecursionError)

Event = TypeVar("Event", covariant=True)


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """As in shared.settings.FeedSettings; ``random`` and ``sleep`` are passed in so that waiting can be tested."""

    silence_s: float = 5.0
    reconnect_s: float = 1.0
    reconnect_max_s: float = 60.0
    random: random.Random = field(default_factory=random.SystemRandom)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class SocketSession(Protocol[Event]):
    """What one connection has told so far. ``now`` is monotonic, in s."""

    def requests(self) -> list[str]:
        """What is to be sent now, once."""
        ...

    def listened(self, seconds: float) -> None:
        """So long was spent on waiting for a message; what the consumer takes for itself does not count."""
        ...

    def receive(self, text: str | bytes, now: float) -> Sequence[Event]:
        """The events in one message; never raises for what is wrong with it, but Lost where it ends the connection."""
        ...

    def check(self, now: float, patience_s: float) -> None:
        """Lost if the connection is open and of no use."""
        ...


class Lost(Exception):
    """The connection is of no use any more."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.trouble = StreamTrouble(kind, detail)


async def listen(url: str, session: SocketSession[Event], options: StreamOptions) -> AsyncGenerator[Event]:
    """One connection from its opening to its end, which is always Lost: ``silence``, ``disconnected`` or the session's
    own kind. Closing the iterator closes the socket."""
    try:
        async with connect(
            url,
            open_timeout=options.silence_s,
            close_timeout=CLOSING_S,
            max_size=MOST_BYTES,
            max_queue=MOST_WAITING,
            compression=None,
        ) as socket:
            now = asyncio.get_running_loop().time
            while True:
                began = now()
                async with asyncio.timeout(options.silence_s):
                    for request in session.requests():
                        await socket.send(request)
                    message = await socket.recv()
                session.listened(now() - began)
                for event in session.receive(message, now()):
                    yield event
                session.check(now(), options.silence_s)
    except TimeoutError:
        raise Lost("silence", f"{url}: no message for {options.silence_s:g} s") from None
    except (ConnectionClosed, OSError, WebSocketException) as error:
        raise Lost("disconnected", f"{url}: {excerpt(str(error) or type(error).__name__)}") from error


def backoff_s(failures: int, options: StreamOptions) -> float:
    """The wait before the next try, with full jitter: uniform in [0, reconnect_s × 2^failures], cut at the maximum."""
    return options.random.uniform(0, min(options.reconnect_max_s, options.reconnect_s * 2 ** min(failures, 32)))


def parse_message(text: str | bytes) -> Any:
    """The JSON with its numbers' exact digits. ValueError: not JSON, or a number that JSON does not have."""
    return json.loads(text, parse_float=Decimal, parse_constant=_refuse)


def excerpt(message: object) -> str:
    text = message if isinstance(message, str) else str(message)
    return " ".join(text[:EXCERPT].split()) + ("…" if len(text) > EXCERPT else "")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
