"""How Kraken's WebSocket client lives through lost connections, against small scripted servers."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidURI

from shared.exchanges.kraken_socket import CLOSING_S, MOST_BYTES, StreamOptions, backoff_s
from shared.exchanges.kraken_stream import INTERVALS_MIN, stream_kraken
from shared.exchanges.protocol import CandleUpdate, ExchangeError, StreamEvent, StreamState, StreamTrouble
from tests.shared.kraken_messages import (
    BTC,
    ETH,
    EXAMPLE,
    HEARTBEAT,
    MINUTE,
    ONLINE,
    OPENED,
    answers,
    candle,
    kinds,
    ohlc,
)

Script = Callable[[ServerConnection], Awaitable[None]]


class Waits:
    """Records waits instead of waiting."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        await asyncio.sleep(0)


class Ceiling(random.Random):
    """Draws the upper end."""

    def uniform(self, a: float, b: float) -> float:
        assert a == 0
        return b


async def greet(connection: ServerConnection, refused: tuple[str, ...] = ()) -> None:
    await connection.send(json.dumps(ONLINE))
    for _ in range(2):
        for answer in answers(await connection.recv(), refused):
            await connection.send(answer)


def options(waits: Waits, silence_s: float = 2.0, **changed: Any) -> StreamOptions:
    return StreamOptions(**({"silence_s": silence_s, "random": Ceiling(), "sleep": waits} | changed))


@asynccontextmanager
async def serving(*scripts: Script) -> AsyncGenerator[str]:
    """The n-th connection follows the n-th script (the last one for ever) and is then closed in order."""
    turn = iter([*scripts[:-1]])

    async def follow(connection: ServerConnection) -> None:
        try:
            await next(turn, scripts[-1])(connection)
        except ConnectionClosed:
            return

    async with serve(follow, "127.0.0.1", 0, compression=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/v2"


async def collect(
    url: str, until: Callable[[list[StreamEvent]], bool], chosen: StreamOptions, symbols: tuple[str, ...] = (BTC,)
) -> list[StreamEvent]:
    seen: list[StreamEvent] = []
    async with asyncio.timeout(3), aclosing(stream_kraken(url, symbols, MINUTE, chosen)) as events:
        async for event in events:
            seen.append(event)
            if until(seen):
                break
    return seen


def count(kind: str, times: int) -> Callable[[list[StreamEvent]], bool]:
    return lambda seen: kinds(seen).count(kind) == times


async def stay(connection: ServerConnection) -> None:
    await connection.wait_closed()


def test_a_connection_tells_status_state_candles_and_prices_in_order() -> None:
    async def script(connection: ServerConnection) -> None:
        await greet(connection)
        await connection.send(json.dumps(HEARTBEAT))
        await connection.send(ohlc(candle(OPENED - 60), candle(OPENED), kind="snapshot"))
        await connection.send(EXAMPLE)
        await stay(connection)

    async def main() -> list[StreamEvent]:
        async with serving(script) as url:
            return await collect(url, count("BookTop", 1), options(Waits()))

    seen = asyncio.run(main())
    assert kinds(seen) == ["StreamState", "StreamState", "CandleUpdate", "CandleUpdate", "BookTop"]
    assert seen[:2] == [StreamState(False, "online"), StreamState(True, "online")]


def test_silence_ends_a_connection_that_is_open_and_answers_pings() -> None:
    async def script(connection: ServerConnection) -> None:
        await greet(connection)
        for _ in range(20):  # protocol pings are no messages
            await connection.ping()
            await asyncio.sleep(0.05)

    async def main() -> list[StreamEvent]:
        async with serving(script) as url:
            return await collect(url, count("silence", 1), options(Waits(), silence_s=0.2))

    started = asyncio.Runner()
    with started as runner:
        before = runner.get_loop().time()
        seen = runner.run(main())
        assert 0.2 <= runner.get_loop().time() - before < 0.8
    assert kinds(seen)[-1] == "silence"


def test_a_heartbeat_is_life() -> None:
    async def script(connection: ServerConnection) -> None:
        await greet(connection)
        for _ in range(8):
            await asyncio.sleep(0.05)
            await connection.send(json.dumps(HEARTBEAT))
        await connection.send(ohlc(candle()))
        await stay(connection)

    async def main() -> list[StreamEvent]:
        async with serving(script) as url:
            return await collect(url, count("CandleUpdate", 1), options(Waits(), silence_s=0.2))

    assert kinds(asyncio.run(main())) == ["StreamState", "StreamState", "CandleUpdate"]


async def _close(connection: ServerConnection) -> None:
    await connection.close(1012, "service restart")


async def _reset(connection: ServerConnection) -> None:
    raw = connection.transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.transport.abort()


async def _too_large(connection: ServerConnection) -> None:
    await connection.send(" " * (MOST_BYTES + 1))
    await stay(connection)


@pytest.mark.parametrize(("end", "words"), [(_close, "service restart"), (_reset, ""), (_too_large, "1009")])
def test_a_lost_connection_is_told_with_its_reason_and_comes_back(end: Script, words: str) -> None:
    async def script(connection: ServerConnection) -> None:
        await greet(connection)
        await end(connection)

    async def again(connection: ServerConnection) -> None:
        await greet(connection)
        await connection.send(ohlc(candle()))
        await stay(connection)

    async def main() -> list[StreamEvent]:
        async with serving(script, again) as url:
            return await collect(url, count("CandleUpdate", 1), options(Waits()))

    seen = asyncio.run(main())
    states = ["StreamState", "StreamState"]
    assert kinds(seen) == [*states, "disconnected", "StreamState", *states, "CandleUpdate"]
    assert isinstance(seen[2], StreamTrouble)
    assert words in seen[2].detail
    assert seen[3] == StreamState(False, "online")


def test_a_refused_symbol_is_tried_again_at_the_next_connection() -> None:
    async def first(connection: ServerConnection) -> None:
        await greet(connection, refused=(ETH,))
        await connection.send(ohlc(candle()))

    async def second(connection: ServerConnection) -> None:
        await greet(connection)
        await connection.send(ohlc(candle(symbol=ETH)))
        await stay(connection)

    async def main() -> list[StreamEvent]:
        async with serving(first, second) as url:
            return await collect(url, count("CandleUpdate", 2), options(Waits()), (BTC, ETH))

    seen = asyncio.run(main())
    assert kinds(seen).count("subscription_refused") == 2
    assert [e.symbol for e in seen if isinstance(e, CandleUpdate)] == [BTC, ETH]


def test_what_was_seen_before_does_not_judge_the_next_connection() -> None:
    async def script(connection: ServerConnection) -> None:
        await greet(connection)
        await connection.send(ohlc(candle(OPENED - 60), candle(OPENED), kind="snapshot"))
        await connection.send(ohlc(candle(OPENED), sent=OPENED + 3))

    async def main() -> list[StreamEvent]:
        async with serving(script) as url:
            return await collect(url, count("CandleUpdate", 6), options(Waits()))

    assert not {"duplicate", "out_of_order"} & set(kinds(asyncio.run(main())))


def test_the_wait_doubles_up_to_its_maximum_while_nothing_stands() -> None:
    waits = Waits()

    async def main() -> list[StreamEvent]:
        with socket.create_server(("127.0.0.1", 0)) as held:
            port = held.getsockname()[1]
        return await collect(f"ws://127.0.0.1:{port}/v2", count("disconnected", 6), options(waits, reconnect_max_s=8))

    seen = asyncio.run(main())
    assert kinds(seen) == ["disconnected", "StreamState"] * 5 + ["disconnected"]
    assert waits.taken == [1, 2, 4, 8, 8]


def test_the_wait_starts_anew_after_a_connection_that_stood_and_not_after_one_that_flapped() -> None:
    waits = Waits()

    async def flap(connection: ServerConnection) -> None:
        await greet(connection)

    async def stand(connection: ServerConnection) -> None:
        await greet(connection)
        for _ in range(4):
            await asyncio.sleep(0.1)
            await connection.send(json.dumps(HEARTBEAT))

    async def main() -> None:
        async with serving(flap, flap, flap, stand, flap) as url:
            await collect(url, count("disconnected", 6), options(waits, silence_s=0.25))

    asyncio.run(main())
    assert waits.taken == [1, 2, 4, 1, 2]


@given(st.integers(0, 10_000), st.floats(0.001, 60), st.floats(0.001, 3600), st.randoms(use_true_random=False))
def test_jitter_stays_between_nothing_and_the_doubled_wait(n: int, first: float, most: float, rng: Any) -> None:
    wait = backoff_s(n, StreamOptions(reconnect_s=first, reconnect_max_s=most, random=rng))
    assert 0 <= wait <= min(most, first * 2 ** min(n, 60)) * (1 + 1e-12)


def test_jitter_is_spread_over_the_whole_wait() -> None:
    chosen = StreamOptions(random=random.Random(1))
    waits = [backoff_s(3, chosen) for _ in range(1000)]
    assert min(waits) < 0.1
    assert max(waits) > 7.9
    assert 3.7 < sum(waits) / len(waits) < 4.3


def test_a_server_that_never_completes_the_handshake_is_silence() -> None:
    async def main() -> list[StreamEvent]:
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            url = f"ws://127.0.0.1:{deaf.getsockname()[1]}/v2"
            return await collect(url, count("silence", 1), options(Waits(), silence_s=0.2))

    assert kinds(asyncio.run(main())) == ["silence"]


def test_closing_the_iterator_closes_the_socket_at_once_and_leaves_no_task() -> None:
    closed = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        await greet(connection)
        await stay(connection)
        closed.set()

    async def main() -> float:
        async with serving(script) as url:
            events = stream_kraken(url, (BTC,), MINUTE, options(Waits()))
            before = asyncio.all_tasks()
            assert [await anext(events) for _ in range(2)][-1] == StreamState(True, "online")
            start = asyncio.get_running_loop().time()
            await events.aclose()
            took = asyncio.get_running_loop().time() - start
            await asyncio.wait_for(closed.wait(), 1)
            await asyncio.sleep(0.05)
            assert {t for t in asyncio.all_tasks() if "stream" in repr(t.get_coro())} <= before
            return took

    assert asyncio.run(main()) < CLOSING_S


def test_closing_does_not_wait_for_a_peer_that_is_gone_quiet() -> None:
    async def main() -> float:
        async with serving(greet_and_stop_reading) as url:
            events = stream_kraken(url, (BTC,), MINUTE, options(Waits()))
            assert [await anext(events) for _ in range(2)][-1] == StreamState(True, "online")
            start = asyncio.get_running_loop().time()
            await events.aclose()
            return asyncio.get_running_loop().time() - start

    assert asyncio.run(main()) < 2 * CLOSING_S + 0.5


async def greet_and_stop_reading(connection: ServerConnection) -> None:
    await greet(connection)
    connection.transport.pause_reading()
    await asyncio.sleep(1.2)
    connection.transport.abort()


@pytest.mark.parametrize("when", ["receiving", "waiting"])
def test_cancellation_is_honoured(when: str) -> None:
    async def forever(seconds: float) -> None:
        await asyncio.sleep(30)

    async def main() -> float:
        async with serving(greet if when == "waiting" else greet_and_stay) as url:
            chosen = options(Waits(), sleep=forever)
            task = asyncio.create_task(collect(url, count("never", 1), chosen))
            await asyncio.sleep(0.3)
            start = asyncio.get_running_loop().time()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return asyncio.get_running_loop().time() - start

    assert asyncio.run(main()) < CLOSING_S


async def greet_and_stay(connection: ServerConnection) -> None:
    await greet(connection)
    await stay(connection)


def test_a_flood_makes_the_sender_wait_instead_of_growing_memory() -> None:
    sent = 0

    async def flood(connection: ServerConnection) -> None:
        nonlocal sent
        await greet(connection)
        while True:
            await connection.send(" " * 100_000 + json.dumps(HEARTBEAT))
            sent += 1

    async def main() -> None:
        async with serving(flood) as url:
            events = stream_kraken(url, (BTC,), MINUTE, options(Waits()))
            async with aclosing(events):
                assert [await anext(events) for _ in range(2)][-1] == StreamState(True, "online")
                await asyncio.sleep(0.5)  # the consumer is busy
                held = sent
                await asyncio.sleep(0.3)
                assert sent == held < 300  # sixteen messages here, the rest in the buffers of two sockets

    asyncio.run(main())


@pytest.mark.parametrize("timeframe_s", [59, 61, 120, 0, 90])
def test_a_timeframe_that_is_not_streamed_is_refused_with_those_that_are(timeframe_s: int) -> None:
    with pytest.raises(ExchangeError, match=str(INTERVALS_MIN[-1])):
        asyncio.run(anext(stream_kraken("ws://127.0.0.1:9/v2", (BTC,), timeframe_s, StreamOptions())))


def test_no_symbols_and_no_address_are_errors_and_not_endless_retries() -> None:
    with pytest.raises(ExchangeError):
        asyncio.run(anext(stream_kraken("ws://127.0.0.1:9/v2", (), MINUTE, StreamOptions())))
    with pytest.raises(InvalidURI):
        asyncio.run(anext(stream_kraken("http://127.0.0.1:9/v2", (BTC,), MINUTE, StreamOptions())))
