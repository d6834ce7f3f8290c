"""Kraken's WebSocket v2 as emulated, and our client against it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager

import pytest

from shared.exchanges.kraken_socket import StreamOptions
from shared.exchanges.kraken_stream import stream_kraken
from shared.exchanges.protocol import BookTop, CandleUpdate, StreamEvent, StreamState, StreamTrouble
from tests.exchange_emulator.faults import Rule
from tests.exchange_emulator.market import Bar
from tests.exchange_emulator.server import Emulator

BTC, ETH = "BTC/USD", "ETH/USD"
MINUTE = 60
START = 1_750_000_030.0  # half a minute has passed
OPEN = int(START // MINUTE * MINUTE)
QUICK = StreamOptions(silence_s=0.5, reconnect_s=0.01, reconnect_max_s=0.05)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator((BTC, ETH), start=START) as running:
        running.heartbeat_s = 0.05
        yield running


# --- our client, listening ---


class Listener:
    """The events of our client as they come."""

    def __init__(self, events: AsyncGenerator[StreamEvent]) -> None:
        self._events = events
        self.seen: list[StreamEvent] = []

    async def until(self, wanted: Callable[[StreamEvent], bool]) -> list[StreamEvent]:
        """The events from here to the first wanted one."""
        first = len(self.seen)
        async with asyncio.timeout(2.5):
            async for event in self._events:
                self.seen.append(event)
                if wanted(event):
                    return self.seen[first:]
        raise AssertionError("the stream ended")

    async def during(self, seconds: float) -> list[StreamEvent]:
        """What else comes in that time; the last thing to be asked of a listener."""
        first = len(self.seen)
        try:
            async with asyncio.timeout(seconds):
                async for event in self._events:
                    self.seen.append(event)
        except TimeoutError:
            pass
        return self.seen[first:]


@asynccontextmanager
async def listening(emulator: Emulator, *symbols: str, options: StreamOptions = QUICK) -> AsyncGenerator[Listener]:
    """Connected, which is after the snapshot of candles."""
    stream = stream_kraken(emulator.websocket_url, symbols or (BTC,), MINUTE, options)
    async with aclosing(stream):
        listener = Listener(stream)
        await listener.until(lambda event: event == StreamState(True, "online"))
        yield listener


def is_candle(opened: int, symbol: str = BTC) -> Callable[[StreamEvent], bool]:
    return lambda event: isinstance(event, CandleUpdate) and (event.opened, event.symbol) == (opened, symbol)


def is_trouble(kind: str) -> Callable[[StreamEvent], bool]:
    return lambda event: isinstance(event, StreamTrouble) and event.kind == kind


def is_connected(event: StreamEvent) -> bool:
    return isinstance(event, StreamState) and event.connected


def candles(events: list[StreamEvent], symbol: str = BTC) -> list[CandleUpdate]:
    return [event for event in events if isinstance(event, CandleUpdate) and event.symbol == symbol]


def troubles(events: list[StreamEvent]) -> list[str]:
    return [event.kind for event in events if isinstance(event, StreamTrouble)]


def as_update(bar: Bar, symbol: str = BTC) -> CandleUpdate:
    prices = (float(value) for value in (bar.open, bar.high, bar.low, bar.close, bar.volume))
    return CandleUpdate(symbol, bar.opened, *prices, trades=bar.count)


def truth(emulator: Emulator, opened: int, symbol: str = BTC) -> CandleUpdate:
    """The closed candle as it truly is."""
    (bar,) = emulator.market.bars(symbol, MINUTE, opened, opened + MINUTE)
    return as_update(bar, symbol)


def test_the_client_connects_and_gets_the_latest_candles_and_best_prices(emulator: Emulator) -> None:
    async def main() -> list[StreamEvent]:
        async with listening(emulator, BTC, ETH) as listener:
            await listener.until(lambda event: isinstance(event, BookTop) and event.symbol == ETH)
            return listener.seen

    seen = asyncio.run(main())
    assert troubles(seen) == []
    for symbol in (BTC, ETH):
        expected = emulator.market.bars_at(symbol, MINUTE, OPEN - 9 * MINUTE, START)
        assert candles(seen, symbol) == [as_update(bar, symbol) for bar in expected if bar.count]
        last = float(emulator.market.last_price(symbol, START))
        (top,) = (event for event in seen if isinstance(event, BookTop) and event.symbol == symbol)
        assert last * 0.999 < top.bid < last < top.ask < last * 1.001


def test_a_clock_that_jumps_over_candles_gets_each_ones_final_state_in_order(emulator: Emulator) -> None:
    async def main() -> list[StreamEvent]:
        async with listening(emulator) as listener:
            await listener.until(lambda event: isinstance(event, BookTop))
            emulator.clock.advance(4 * MINUTE)
            return await listener.until(is_candle(OPEN + 4 * MINUTE))

    *closed, still_open = candles(asyncio.run(main()))
    assert closed == [truth(emulator, OPEN + n * MINUTE) for n in range(4)]
    assert still_open == as_update(emulator.market.bars_at(BTC, MINUTE, OPEN + 4 * MINUTE, emulator.clock.now())[0])


def test_a_running_clock_gives_every_candle_whole(emulator: Emulator) -> None:
    async def main() -> list[StreamEvent]:
        async with listening(emulator, BTC, ETH) as listener:
            emulator.clock.set_speed(300)  # a minute in 0.2 s
            for symbol in (BTC, ETH):
                if not any(is_candle(OPEN + 6 * MINUTE, symbol)(event) for event in listener.seen):
                    await listener.until(is_candle(OPEN + 6 * MINUTE, symbol))
            return listener.seen

    seen = asyncio.run(main())
    assert troubles(seen) == []
    for symbol in (BTC, ETH):
        updates = candles(seen, symbol)
        assert [u.opened for u in updates] == sorted(u.opened for u in updates)
        last = {update.opened: update for update in updates}
        for opened in range(OPEN, OPEN + 6 * MINUTE, MINUTE):
            assert last[opened] == truth(emulator, opened, symbol)
        assert len(updates) > len(last) + 6  # and it was seen growing


# --- faults ---


def test_silence_is_noticed_and_the_next_connection_speaks(emulator: Emulator) -> None:
    async def main() -> list[StreamEvent]:
        async with listening(emulator) as listener:
            emulator.faults.inject(Rule("silence", times=1))
            await listener.until(is_trouble("silence"))
            return await listener.until(is_candle(OPEN))

    events = asyncio.run(main())
    assert events[0] == StreamState(False, "online")
    assert emulator.faults.served == {"silence": 1}


def test_lasting_silence_says_nothing_until_it_ends(emulator: Emulator) -> None:
    async def main() -> list[StreamEvent]:
        async with listening(emulator) as listener:
            emulator.faults.inject(Rule("silence"))
            emulator.clock.advance(MINUTE)
            await listener.until(is_trouble("silence"))
            await listener.until(is_trouble("silence"))
            emulator.faults.clear()
            assert not candles(listener.seen)[-1].opened > OPEN
            return await listener.until(is_candle(OPEN + MINUTE))

    assert truth(emulator, OPEN) in candles(asyncio.run(main()))


@pytest.mark.parametrize("fault", ["stream_close", "stream_reset"])
def test_an_ended_connection_comes_back_with_what_was_missed(emulator: Emulator, fault: str) -> None:
    async def main() -> list[StreamEvent]:
        async with listening(emulator) as listener:
            emulator.faults.inject(Rule(fault, times=1))
            await listener.until(is_trouble("disconnected"))
            emulator.clock.advance(3 * MINUTE)
            return await listener.until(is_candle(OPEN + 3 * MINUTE))

    updates = {update.opened: update for update in candles(asyncio.run(main()))}
    assert [updates[OPEN + n * MINUTE] for n in range(3)] == [truth(emulator, OPEN + n * MINUTE) for n in range(3)]
    assert emulator.faults.served == {fault: 1}


def test_bad_json_is_survived_on_the_same_connection(emulator: Emulator) -> None:
    async def main() -> list[StreamEvent]:
        async with listening(emulator) as listener:
            emulator.faults.inject(Rule("stream_bad_json", times=2, endpoint="heartbeat"))
            await listener.until(is_trouble("bad_message"))
            await listener.until(is_trouble("bad_message"))
            emulator.clock.advance(MINUTE)
            return await listener.until(is_candle(OPEN + MINUTE))

    assert troubles(asyncio.run(main())) == []
    assert emulator.requests["stream"] == 1


def test_a_wrong_checksum_costs_one_book_and_no_candle(emulator: Emulator) -> None:
    async def main() -> list[StreamEvent]:
        async with listening(emulator, BTC, ETH) as listener:
            emulator.faults.inject(Rule("checksum", times=1, symbol=BTC))
            emulator.clock.advance(MINUTE)
            await listener.until(is_trouble("checksum"))
            await asyncio.sleep(1.0)  # until the next price may be told
            emulator.clock.advance(MINUTE)
            last = float(emulator.market.last_price(BTC, emulator.clock.now()))
            await listener.until(lambda e: isinstance(e, BookTop) and e.symbol == BTC and e.bid < last < e.ask)
            return listener.seen

    seen = asyncio.run(main())
    assert troubles(seen) == ["checksum"]
    assert truth(emulator, OPEN) in candles(seen)


def test_an_event_that_comes_twice_is_counted_once(emulator: Emulator) -> None:
    async def main() -> list[StreamEvent]:
        async with listening(emulator) as listener:
            emulator.faults.inject(Rule("duplicate", times=1))
            emulator.clock.advance(2 * MINUTE)
            return await listener.until(is_candle(OPEN + 2 * MINUTE))

    events = asyncio.run(main())
    assert troubles(events) == ["duplicate"]
    assert [update.opened for update in candles(events)] == [OPEN, OPEN + MINUTE, OPEN + 2 * MINUTE]


def test_swapped_events_are_out_of_order_and_the_older_is_not_yielded(emulator: Emulator) -> None:
    async def main() -> list[StreamEvent]:
        async with listening(emulator) as listener:
            emulator.faults.inject(Rule("reorder", times=1))
            emulator.clock.advance(2 * MINUTE)
            return await listener.until(is_candle(OPEN + 2 * MINUTE))

    events = asyncio.run(main())
    assert troubles(events) == ["out_of_order"]
    assert [update.opened for update in candles(events)] == [OPEN + MINUTE, OPEN + 2 * MINUTE]


def test_a_dropped_event_is_missing_and_nothing_tells(emulator: Emulator) -> None:
    async def main() -> list[StreamEvent]:
        async with listening(emulator) as listener:
            emulator.faults.inject(Rule("drop_update", times=1))
            emulator.clock.advance(2 * MINUTE)
            return await listener.until(is_candle(OPEN + 2 * MINUTE))

    events = asyncio.run(main())
    assert troubles(events) == []
    assert [update.opened for update in candles(events)] == [OPEN + MINUTE, OPEN + 2 * MINUTE]


def test_a_gap_swallows_every_event_of_its_candle(emulator: Emulator) -> None:
    gone = OPEN + 2 * MINUTE

    async def main() -> list[StreamEvent]:
        async with listening(emulator) as listener:
            emulator.faults.inject(Rule("gap", parameter=gone + 7.0))
            for _ in range(8):
                emulator.clock.advance(MINUTE / 2)
                await asyncio.sleep(0.05)
            return await listener.until(is_candle(OPEN + 4 * MINUTE))

    opened = {update.opened for update in candles(asyncio.run(main()))}
    assert gone not in opened
    assert {gone - MINUTE, gone + MINUTE} <= opened
    assert emulator.faults.served == {"gap": 1}


@pytest.mark.parametrize("fault", ["revision", "spike"])
def test_a_closed_candle_is_told_wrong_and_the_truth_stays(emulator: Emulator, fault: str) -> None:
    async def main() -> list[StreamEvent]:
        async with listening(emulator) as listener:
            emulator.faults.inject(Rule(fault, parameter=OPEN))
            emulator.clock.advance(2 * MINUTE)
            return await listener.until(is_candle(OPEN + 2 * MINUTE))

    wrong, right, _ = candles(asyncio.run(main()))
    assert right == truth(emulator, OPEN + MINUTE)
    assert wrong.opened == OPEN
    assert (wrong.close > 5 * wrong.open) == (fault == "spike")
    assert (wrong.volume < truth(emulator, OPEN).volume) == (fault == "revision")
    assert emulator.faults.served == {fault: 1}


@pytest.mark.parametrize("status", ["maintenance", "cancel_only"])
def test_the_status_is_told_when_it_begins_and_when_it_ends(emulator: Emulator, status: str) -> None:
    async def main() -> None:
        async with listening(emulator) as listener:
            emulator.faults.inject(Rule(status, ends=START + 10))
            await listener.until(lambda event: event == StreamState(True, status))
            emulator.clock.advance(11)
            await listener.until(lambda event: event == StreamState(True, "online"))

    asyncio.run(main())
    assert emulator.faults.served == {status: 1}


def test_a_connection_made_during_maintenance_is_told_so(emulator: Emulator) -> None:
    emulator.faults.inject(Rule("maintenance"))

    async def main() -> StreamEvent:
        async with aclosing(stream_kraken(emulator.websocket_url, (BTC,), MINUTE, QUICK)) as events:
            return await anext(events)

    assert asyncio.run(main()) == StreamState(False, "maintenance")


def test_a_delisted_symbol_ends_and_the_other_goes_on(emulator: Emulator) -> None:
    async def main() -> list[StreamEvent]:
        async with listening(emulator, BTC, ETH) as listener:
            emulator.faults.inject(Rule("delisting", symbol=BTC))
            await listener.until(is_trouble("subscription_refused"))
            emulator.clock.advance(2 * MINUTE)
            return await listener.until(is_candle(OPEN + 2 * MINUTE, ETH))

    events = asyncio.run(main())
    assert candles(events, BTC) == []
    assert len(candles(events, ETH)) == 3


def test_a_delisted_symbol_is_refused_and_comes_back_when_it_is_listed_again(emulator: Emulator) -> None:
    emulator.faults.inject(Rule("delisting", symbol=BTC))

    async def main() -> list[StreamEvent]:
        async with listening(emulator, BTC, ETH) as listener:
            assert troubles(listener.seen) == ["subscription_refused", "subscription_refused"]
            emulator.faults.clear()
            emulator.faults.inject(Rule("stream_close", times=1))
            return await listener.until(is_candle(OPEN))

    assert "subscription_refused" not in troubles(asyncio.run(main()))
