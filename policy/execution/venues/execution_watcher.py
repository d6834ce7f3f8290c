"""Hears a venue's executions in a thread of its own, so that the sender can sleep until something happens.

The thread holds no key and asks the venue nothing: tokens are fetched in the sender's own thread, while it waits here,
so that all signed calls of one key go one after the other, each with the next nonce.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from types import TracebackType

from websockets.uri import parse_uri

from policy.execution.venues.kraken_executions import (
    Connected,
    Disconnected,
    ExecutionEvent,
    Gap,
    KrakenExecutions,
)
from policy.execution.venues.protocol import CouldNotAsk
from shared.exchanges.kraken_socket import StreamOptions

MOST_NEWS = 1_000  # events kept for a sender that does not come for them; beyond it they become one Gap
STOP_S = 0.9  # how long stop() waits for the goodbye; the thread ends by itself after that
WAKES = 4_096  # bytes read at once, each one a wake-up


class ExecutionWatcher:
    """``with ExecutionWatcher(url, fetch_token) as watcher:`` listens until the block ends. Its methods are for one
    thread, the sender's. InvalidURI: not a WebSocket's address.

    ``fetch_token`` is called in ``wait`` only, and must be bounded by itself; CouldNotAsk is a try that failed,
    anything else it raises (another sender has taken over) comes out of ``wait``.
    """

    def __init__(self, url: str, fetch_token: Callable[[], str], options: StreamOptions | None = None) -> None:
        parse_uri(url)
        self._source = KrakenExecutions(url, self._token, options or StreamOptions())
        self._fetch_token = fetch_token
        self._lock = threading.Lock()  # over what follows
        self._news: deque[ExecutionEvent] = deque()
        self._connected = False
        self._wanted: asyncio.Future[str] | None = None  # a token, by the thread
        self._ended: BaseException | None = None
        self._cancel: Callable[[], object] | None = None  # thread-safe; None before the thread runs, and after
        self._stopping = False
        self._bell, self._ringer = socket.socketpair()
        self._ringer.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="executions", daemon=True)

    def __enter__(self) -> ExecutionWatcher:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def connected(self) -> bool:
        """Whether hints come at the moment; without them the sender has to ask more often."""
        with self._lock:
            return self._connected

    def fileno(self) -> int:
        """Readable when there may be something for ``wait``, for those who wait for several things at once."""
        return self._bell.fileno()

    def wait(self, timeout_s: float) -> list[ExecutionEvent]:
        """All news since the last call, oldest first, as soon as there is some; empty after ``timeout_s`` without.

        RuntimeError: the thread has ended by an error that is no trouble of the network's.
        """
        ends = time.monotonic() + timeout_s
        while True:
            self._serve_token()
            if news := self._take():
                return news
            left = ends - time.monotonic()
            if left <= 0:
                return []
            self._sleep(left)

    def stop(self) -> None:
        """Bounded by STOP_S; the watcher cannot be used any more."""
        with self._lock:  # the thread takes it before it closes its loop
            self._stopping = True
            if self._cancel is not None:
                self._cancel()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)
        self._bell.close()
        self._ringer.close()

    # --- the sender's thread ---

    def _take(self) -> list[ExecutionEvent]:
        with self._lock:
            self._sleep(0)  # the bell has rung for what is taken now
            if self._wanted is not None:
                self._ring()
            news, ended = list(self._news), self._ended
            self._news.clear()
        if ended is not None and not news:
            raise RuntimeError("no executions are heard any more: restart the sender") from ended
        return news

    def _serve_token(self) -> None:
        with self._lock:
            wanted = self._wanted
        if wanted is None:
            return
        try:
            answer = partial(wanted.set_result, self._fetch_token())
        except CouldNotAsk as error:
            answer = partial(wanted.set_exception, error)
        with self._lock:  # not before: where another exception left, the token is still wanted
            self._wanted = None
        wanted.get_loop().call_soon_threadsafe(answer)

    def _sleep(self, seconds: float) -> None:
        self._bell.settimeout(seconds)
        with contextlib.suppress(TimeoutError, BlockingIOError):
            self._bell.recv(WAKES)

    # --- the watcher's thread ---

    def _run(self) -> None:
        try:
            asyncio.run(self._listen())
        except asyncio.CancelledError:
            return
        except Exception as error:
            with self._lock:
                self._ended, self._connected = error, False
                self._ring()

    async def _listen(self) -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        with self._lock:
            if self._stopping:
                return
            self._cancel = partial(loop.call_soon_threadsafe, task.cancel)
        try:
            async with aclosing(self._source.events()) as events:
                async for event in events:
                    self._tell(event)
        finally:
            with self._lock:
                self._cancel = None

    async def _token(self) -> str:
        wanted: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._wanted = wanted
            self._ring()
        return await wanted

    def _tell(self, event: ExecutionEvent) -> None:
        with self._lock:
            if len(self._news) >= MOST_NEWS:
                self._news.clear()
                self._news.append(Gap(f"{MOST_NEWS} events were not taken in time"))
            self._news.append(event)
            if isinstance(event, Connected | Disconnected):
                self._connected = isinstance(event, Connected)
            self._ring()

    def _ring(self) -> None:
        """Under the lock, so that it never rings for what is taken already."""
        with contextlib.suppress(OSError):  # full: it rings already; closed: nobody listens
            self._ringer.send(b"!")
