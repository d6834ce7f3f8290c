"""What the manners of shared/exchanges/resilience.py are worth: one stated workload, with and without them.

Ten minutes on a clock that moves only when somebody waits. In one process: a dashboard that reads the venue's status
and the recent candles of 20 symbols every 5 s, a status command that reads status, time and the rules of all symbols
every minute, and three jobs that read status, rules and recent candles of all symbols every five minutes, all three at
once. The venue counts as Kraken does: a call adds 1, 1 a second leaks away, and beyond 15 it answers 429; each call
takes 50 ms. Without the layer every read is a call, and a 429 is a read without an answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.workbench import Row, print_rows
from shared.clock import Timer
from shared.exchanges.protocol import ExchangeError
from shared.exchanges.resilience import CACHE_TTL_S, PassingTrouble, ReadCache, RetryPolicy, VenueCalls

SYMBOLS = [f"COIN{n}/USD" for n in range(20)]
SPAN_S = 600
CALL_S = 0.05
LEAK_PER_S, MOST = 1.0, 15.0
RULES_TTL_S = 3_600.0


@dataclass(frozen=True, slots=True, order=True)
class Read:
    at: float
    question: str
    ttl_s: float


@dataclass
class FakeTime:
    now: float = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def timer(self) -> Timer:
        return Timer(lambda: self.now, self.sleep)


@dataclass
class Venue:
    """Refuses what comes too fast."""

    time: FakeTime
    calls: int = 0
    refused: int = 0
    _level: float = 0.0
    _at: float = field(default=0.0)

    def answer(self) -> str:
        self.calls += 1
        self._level = max(0.0, self._level - (self.time.now - self._at) * LEAK_PER_S)
        self._at = self.time.now
        self.time.now += CALL_S
        if self._level + 1 > MOST:
            self.refused += 1
            raise PassingTrouble("rate_limited", "EAPI:Rate limit exceeded")
        self._level += 1
        return "answer"


def workload() -> list[Read]:
    status, clock = ("status", CACHE_TTL_S), ("time", 0.0)
    candles = [(f"candles {symbol}", CACHE_TTL_S) for symbol in SYMBOLS]
    rules = [(f"rules {symbol}", RULES_TTL_S) for symbol in SYMBOLS]
    readers = [
        (5, [status, *candles]),  # the dashboard
        (60, [status, clock, *rules]),  # the status command
        *[(300, [status, *rules, *candles])] * 3,  # backfill, encoder, trader
    ]
    reads = [Read(float(at), *what) for every, asks in readers for at in range(0, SPAN_S, every) for what in asks]
    return sorted(reads, key=lambda read: read.at)


def play(reads: list[Read], time: FakeTime, ask: Callable[[Read], object]) -> tuple[int, list[float]]:
    """How many reads were answered, and by how much each was late, in seconds."""
    answered, late = 0, []
    for read in reads:
        time.now = max(time.now, read.at)
        try:
            ask(read)
        except (ExchangeError, PassingTrouble):
            continue
        answered += 1
        late.append(time.now - read.at)
    return answered, sorted(late)


def ideal_hit_rate(reads: list[Read]) -> float:
    """Of the same cache where calls take no time and nobody limits them."""
    time = FakeTime()
    cache = ReadCache(timer=time.timer())
    cached = [read for read in reads if read.ttl_s > 0]
    play(cached, time, lambda read: cache.get(read.question, lambda: "answer", read.ttl_s))
    return cache.hits / len(reads)


def main() -> None:
    reads = workload()
    time = FakeTime()
    bare = Venue(time)
    bare_answered, _ = play(reads, time, lambda _read: bare.answer())

    time = FakeTime()
    venue, timer = Venue(time), time.timer()
    calls = VenueCalls("venue", LEAK_PER_S, timer=timer, retry=RetryPolicy(timer=timer, rng=random.Random(7)))
    answered, late = play(reads, time, lambda read: calls.read(read.question, venue.answer, read.ttl_s))
    told = calls.statistics()
    hit_rate, ideal = told["hits"] / len(reads), ideal_hit_rate(reads)

    print(f"{len(reads):,} reads in {SPAN_S // 60} minutes, of {len({read.question for read in reads})} questions")
    print(f"without: {bare.calls:,} calls, {bare.refused:,} answered 429, {bare_answered:,} reads answered")
    print(f"with: {venue.calls:,} calls, {venue.refused} answered 429, {answered:,} reads answered, "
          f"hit rate {hit_rate:.1%}, {told['calls_saved']:,} calls saved, {told['retries']} retries")  # fmt: skip
    print(f"late: median {late[len(late) // 2]:.1f} s, 95 % within {late[len(late) * 95 // 100]:.1f} s")
    without = "without the layer"
    print_rows(
        [
            Row("calls to the venue", venue.calls, "calls", without, bare.calls, bare.calls / venue.calls),
            Row("calls answered 429 (ratio: to at least 1)", venue.refused, "calls", without, bare.refused,
                bare.refused / max(1, venue.refused)),
            Row("reads answered", answered, "reads", without, bare_answered, answered / bare_answered),
            Row("hit rate", hit_rate, "of all reads", "calls that take no time", ideal, hit_rate / ideal),
        ]
    )  # fmt: skip


if __name__ == "__main__":
    main()
