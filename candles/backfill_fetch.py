"""Asking a venue for many spans: newest first, a few at a time, the answers handed over in one thread.

The workers only ask; whoever iterates over the answers writes them, so a database connection is never shared. They
are daemons: an interrupted job does not wait for a venue that does not answer.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from queue import Empty, PriorityQueue, SimpleQueue
from typing import cast

from shared.exchanges import Exchange, ExchangeError
from shared.exchanges.protocol import BuildsFromTrades
from shared.rows import Candles

WORKERS = 8
SECOND_READING_S = 5.0  # real seconds before absurd candles are asked for again


@dataclass(frozen=True, slots=True)
class Request:
    """One span (since, until] of one symbol, in Unix seconds. ``early`` ones, like the live end, come first.

    ``asked_at``: when it was queued, at or before the moment of which the answer speaks. ``doubted``: the candles
    that were too absurd to be believed, for which it is asked a second time, not before ``not_before`` (monotonic).
    """

    symbol: str
    timeframe_s: int
    since: int
    until: int
    asked_at: int
    from_trades: bool = False
    early: bool = False
    doubted: Candles | None = None
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class Page:
    """What the venue answered about (since, until], all or a part of its request."""

    request: Request
    since: int
    until: int
    candles: Candles


@dataclass(frozen=True, slots=True)
class Trouble:
    """A request that came to nothing, wholly or from some page on."""

    request: Request
    error: ExchangeError


Answer = Page | Trouble
Queued = tuple[bool, int, int, Request | None]  # late?, then the latest ``until`` first, then in the order of asking


def answers(exchange: Exchange, request: Request) -> Iterator[Answer]:
    """Page by page; an ExchangeError ends it as Trouble."""
    r = request
    try:
        if not r.from_trades:
            yield Page(r, r.since, r.until, exchange.candles(r.symbol, r.timeframe_s, r.since, r.until))
            return
        reached, builder = r.since, cast(BuildsFromTrades, exchange)
        for candles, known_until in builder.candles_from_trades(r.symbol, r.timeframe_s, r.since, r.until):
            yield Page(r, reached, known_until, candles)
            reached = known_until
    except ExchangeError as error:
        yield Trouble(r, error)


class Fetcher:
    """Requests go in at any time, batches of answers come out until none is left.

    A venue that lives in this process (no limit of requests) is asked inline: threads would not make it faster.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._in_process = math.isinf(exchange.capabilities.requests_per_s)
        self._candles: PriorityQueue[Queued] = PriorityQueue()
        self._trades: PriorityQueue[Queued] = PriorityQueue()
        self._answered: SimpleQueue[Answer | Request | BaseException] = SimpleQueue()
        self._open = 0  # requests whose last answer has not been handed over
        self._open_trades = 0
        self.behind = 0  # open requests that are not early
        self._serial = itertools.count()
        self._abandoned: set[str] = set()
        self._stopped = threading.Event()

    def add(self, request: Request) -> None:
        self._count(request, 1)
        queue = self._trades if request.from_trades else self._candles
        queue.put((not request.early, -request.until, next(self._serial), request))

    def add_again(self, request: Request, doubted: Candles) -> Request:
        """Asks once more for these candles of its answer (all in one question), after a pause; what lives in this
        process does not change its mind, and need not be waited for."""
        since, until = int(doubted.as_of[0]) - request.timeframe_s, int(doubted.as_of[-1])
        pause_s = 0.0 if self._in_process else SECOND_READING_S
        again = replace(request, since=since, until=until, early=False, doubted=doubted,
                        not_before=time.monotonic() + pause_s)  # fmt: skip
        self.add(again)
        return again

    def abandon(self, symbol: str) -> None:
        """Asks nothing more for this symbol."""
        self._abandoned.add(symbol)

    def batches(self) -> Generator[list[Answer], None, None]:
        """What came in, a list at a time; requests may be added between two of them."""
        threaded = not self._in_process and (self._open > 1 or self._open_trades > 0)
        while self._open:
            yield from self._by_workers() if threaded else self._inline()

    def _inline(self) -> Iterator[list[Answer]]:
        """The early requests of all series are one batch; after them each page is its own."""
        early: list[Answer] = []
        while self._open:
            *_, request = (self._trades if self._candles.empty() else self._candles).get()
            assert request is not None
            at_once = request.early and not request.from_trades
            if early and not at_once:
                yield early
                early = []
            for answer in self._ask(request):
                if at_once:
                    early.append(answer)
                else:
                    yield [answer]
            self._count(request, -1)
        if early:
            yield early

    def _ask(self, request: Request) -> Iterator[Answer]:
        if request.doubted is not None and not self._given_up(request):
            self._stopped.wait(max(0.0, request.not_before - time.monotonic()))
        if self._given_up(request):
            return
        for answer in answers(self._exchange, request):
            yield answer
            if self._given_up(request):
                return

    def _count(self, request: Request, n: int) -> None:
        self._open += n
        self._open_trades += n * request.from_trades
        self.behind += n * (not request.early)

    def _given_up(self, request: Request) -> bool:
        return self._stopped.is_set() or request.symbol in self._abandoned

    def _by_workers(self) -> Iterator[list[Answer]]:
        """All that came in since the last batch is the next one."""
        started = [self._start(self._candles) for _ in range(min(WORKERS, self._candles.qsize()))]
        builds = False
        try:
            while self._open:
                if not builds and self._open == self._open_trades:  # the recent part is there: now the past
                    # One worker of their own: thousands of pages of trades never keep a live candle waiting.
                    queues = [self._trades] if started else [self._trades, self._candles]
                    started += [self._start(queue) for queue in queues]
                    builds = True
                batch = self._next_batch()
                if batch:
                    yield batch
        finally:
            self._stopped.set()
            for queue in started:
                queue.put((True, 0, next(self._serial), None))

    def _start(self, queue: PriorityQueue[Queued]) -> PriorityQueue[Queued]:
        threading.Thread(target=self._work, args=(queue,), daemon=True).start()
        return queue

    def _next_batch(self) -> list[Answer]:
        batch: list[Answer] = []
        came: Answer | Request | BaseException = self._answered.get()
        while True:
            if isinstance(came, BaseException):
                raise came
            if isinstance(came, Request):
                self._count(came, -1)
            else:
                batch.append(came)
            try:
                came = self._answered.get_nowait()
            except Empty:
                return batch

    def _work(self, queue: PriorityQueue[Queued]) -> None:
        while True:
            *_, request = queue.get()
            if request is None:
                return
            try:
                for answer in self._ask(request):
                    self._answered.put(answer)
            except BaseException as error:  # a bug: it belongs to the thread that can tell of it
                self._answered.put(error)
                return
            self._answered.put(request)
