"""Blocking calls beside the event loop, in threads that keep no process alive."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """At most ``limit`` threads, begun as they are needed and used again: a venue keeps its connection by thread.

    They are daemons, unlike those of asyncio.to_thread: a call that hangs delays no process that is to end.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._busy = limit, 0
        self._threads: list[threading.Thread] = []
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            self._busy -= 1
            if future.done():  # nobody waits any more
                return
            if error is None:
                future.set_result(result)  # type: ignore[arg-type]  # T may itself be None
            else:
                future.set_exception(error)

        def call() -> None:
            result, failure = None, None
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                failure = error
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, result, failure)

        self._busy += 1
        if len(self._threads) < min(self._busy, self._limit):
            self._threads.append(threading.Thread(target=self._work, name="feed", daemon=True))
            self._threads[-1].start()
        self._calls.put(call)
        return await future

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    def close(self) -> None:
        """Each thread ends after the call it is at."""
        for _ in self._threads:
            self._calls.put(None)

    def ended_within(self, seconds: float) -> bool:
        """Whether all threads have ended by then. Blocks; ``close`` comes first."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


class OneAtATime:
    """Blocking calls on something that only one thread may use; a cancelled caller leaves it free."""

    def __init__(self, patience_s: float) -> None:
        self._lock, self._worker, self._patience_s = asyncio.Lock(), Workers(1), patience_s

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._lock:
            call = asyncio.ensure_future(self._worker.run(function, *args, **kwargs))
            try:
                return await asyncio.shield(call)
            except asyncio.CancelledError:
                await asyncio.wait({call}, timeout=self._patience_s)
                raise

    def close(self) -> None:
        self._worker.close()

    def ended_within(self, seconds: float) -> bool:
        return self._worker.ended_within(seconds)
