"""How our executions client lives through lost connections and refused tokens, against small scripted servers."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidURI

from policy.execution.venues.kraken_executions import (
    Connected,
    Disconnected,
    Execution,
    ExecutionEvent,
    Gap,
    KrakenExecutions,
)
from policy.execution.venues.protocol import CouldNotAsk
from shared.exchanges.kraken_socket import StreamOptions
from tests.policy.test_kraken_executions import ACCEPTED, NEW, message

Script = Callable[[ServerConnection, str], Awaitable[None]]  # the connection and the token it was opened with
HEARTBEAT = '{"channel":"heartbeat"}'


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


class Desk:
    """Hands out token-1, token-2, …; an exception in ``troubles`` is raised in the place of a token."""

    def __init__(self, *troubles: Exception | None) -> None:
        self._troubles = list(troubles)
        self.handed = 0

    async def __call__(self) -> str:
        trouble = self._troubles.pop(0) if self._troubles else None
        if trouble is not None:
            raise trouble
        self.handed += 1
        return f"token-{self.handed}"


@asynccontextmanager
async def serving(*scripts: Script) -> AsyncGenerator[str]:
    """The n-th connection follows the n-th script (the last one for ever) and is then closed in order."""
    turn = iter([*scripts[:-1]])

    async def follow(connection: ServerConnection) -> None:
        try:
            request = json.loads(await connection.recv())
            await next(turn, scripts[-1])(connection, request["params"]["token"])
        except ConnectionClosed:
            return

    async with serve(follow, "127.0.0.1", 0, compression=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/v2"


async def collect(
    scripts: list[Script], until: Callable[[list[ExecutionEvent]], bool], desk: Desk, waits: Waits, silence_s: float = 2
) -> list[ExecutionEvent]:
    seen: list[ExecutionEvent] = []
    async with serving(*scripts) as url, asyncio.timeout(5):
        options = StreamOptions(silence_s, random=Ceiling(), sleep=waits)
        async with aclosing(KrakenExecutions(url, desk, options).events()) as events:
            async for event in events:
                seen.append(event)
                if until(seen):
                    return seen
    raise AssertionError("the stream ended")


def kinds(events: list[ExecutionEvent]) -> list[str]:
    return [type(event).__name__ for event in events]


def has(kind: type[ExecutionEvent], times: int = 1) -> Callable[[list[ExecutionEvent]], bool]:
    return lambda seen: sum(isinstance(event, kind) for event in seen) == times


async def accept(connection: ServerConnection, _token: str) -> None:
    await connection.send(json.dumps(ACCEPTED))


async def accept_and_stay(connection: ServerConnection, token: str) -> None:
    await accept(connection, token)
    while True:
        await connection.send(HEARTBEAT)
        await asyncio.sleep(0.05)


async def fall_silent(connection: ServerConnection, token: str) -> None:
    await accept(connection, token)
    await connection.wait_closed()


async def never_answer(connection: ServerConnection, _token: str) -> None:
    while True:
        await connection.send(HEARTBEAT)
        await asyncio.sleep(0.02)


async def refuse(connection: ServerConnection, _token: str) -> None:
    refusal = {"method": "subscribe", "success": False, "error": "ESession:Invalid session", "req_id": 1}
    await connection.send(json.dumps(refusal))
    await connection.wait_closed()


def test_each_connection_has_its_own_token_and_begins_with_a_gap() -> None:
    tokens: list[str] = []

    async def script(connection: ServerConnection, token: str) -> None:
        tokens.append(token)
        await accept(connection, token)
        await connection.send(message(NEW))

    seen = asyncio.run(collect([script], has(Execution, 3), Desk(), Waits()))
    assert kinds(seen) == ["Connected", "Gap", "Execution", "Disconnected"] * 2 + ["Connected", "Gap", "Execution"]
    assert tokens == ["token-1", "token-2", "token-3"]


def test_the_sequence_begins_anew_with_each_connection() -> None:
    async def script(connection: ServerConnection, token: str) -> None:
        await accept(connection, token)
        for sequence in (1, 2):
            await connection.send(message(NEW, sequence=sequence))

    seen = asyncio.run(collect([script], has(Execution, 4), Desk(), Waits()))
    assert kinds(seen).count("Gap") == 2  # of the connections only


@pytest.mark.parametrize("script", [fall_silent, never_answer])
def test_silence_ends_a_connection(script: Script) -> None:
    """Also that of a venue which beats but does not answer."""

    async def main() -> tuple[list[ExecutionEvent], float]:
        before = asyncio.get_running_loop().time()
        seen = await collect([script, accept_and_stay], has(Disconnected), Desk(), Waits(), silence_s=0.2)
        return seen, asyncio.get_running_loop().time() - before

    seen, took_s = asyncio.run(main())
    assert isinstance(seen[-1], Disconnected)
    assert seen[-1].reason.startswith("silence")
    assert 0.2 <= took_s < 1.2


def test_after_silence_it_connects_again() -> None:
    seen = asyncio.run(collect([fall_silent, accept_and_stay], has(Connected, 2), Desk(), Waits(), silence_s=0.2))
    assert kinds(seen) == ["Connected", "Gap", "Disconnected", "Connected"]


def test_a_heartbeat_is_life() -> None:
    async def script(connection: ServerConnection, token: str) -> None:
        await accept(connection, token)
        for _ in range(10):
            await connection.send(HEARTBEAT)
            await asyncio.sleep(0.05)
        await connection.send(message(NEW))
        await connection.wait_closed()

    seen = asyncio.run(collect([script], has(Execution), Desk(), Waits(), silence_s=0.2))
    assert kinds(seen) == ["Connected", "Gap", "Execution"]


def test_a_refused_token_is_replaced_and_the_waits_grow() -> None:
    waits, desk = Waits(), Desk()
    seen = asyncio.run(collect([refuse, refuse, refuse, accept_and_stay], has(Connected), desk, waits))
    assert kinds(seen) == ["Disconnected"] * 3 + ["Connected"]
    assert all("Invalid session" in event.reason for event in seen if isinstance(event, Disconnected))
    assert (waits.taken, desk.handed) == ([1.0, 2.0, 4.0], 4)


def test_a_token_that_cannot_be_had_is_a_failed_try() -> None:
    waits, desk = Waits(), Desk(CouldNotAsk("EService:Busy"), CouldNotAsk("hung"))
    seen = asyncio.run(collect([accept_and_stay], has(Connected), desk, waits))
    assert seen[:2] == [Disconnected("no token: EService:Busy"), Disconnected("no token: hung")]
    assert (kinds(seen[2:]), waits.taken) == (["Connected"], [1.0, 2.0])


def test_whatever_else_the_token_raises_ends_the_stream() -> None:
    with pytest.raises(PermissionError, match="another sender"):
        asyncio.run(collect([accept_and_stay], has(Connected), Desk(PermissionError("another sender")), Waits()))


def test_waits_begin_anew_only_after_a_connection_that_stood() -> None:
    async def stand_a_while(connection: ServerConnection, token: str) -> None:
        await accept(connection, token)
        for _ in range(5):
            await asyncio.sleep(0.05)
            await connection.send(HEARTBEAT)

    waits = Waits()
    scripts: list[Script] = [accept, accept, stand_a_while, accept]
    asyncio.run(collect(scripts, has(Disconnected, 5), Desk(), waits, silence_s=0.2))
    assert waits.taken == [1.0, 2.0, 1.0, 2.0]


def test_an_address_that_is_none_is_refused_at_once() -> None:
    async def main() -> None:
        async with aclosing(KrakenExecutions("https://ws.kraken.com", Desk(), StreamOptions()).events()) as events:
            await anext(events)

    with pytest.raises(InvalidURI):
        asyncio.run(main())


def test_a_gap_comes_before_the_report_that_shows_it_and_the_connection_lives_on() -> None:
    async def script(connection: ServerConnection, token: str) -> None:
        await accept(connection, token)
        for text in (message(NEW), "{", message(NEW, sequence=3), message(NEW, sequence=4)):
            await connection.send(text)
        await connection.wait_closed()

    seen = asyncio.run(collect([script], has(Execution, 3), Desk(), Waits()))
    assert kinds(seen[1:]) == ["Gap", "Execution", "Gap", "Gap", "Execution", "Execution"]
    assert all(isinstance(event, Gap) and event.reason for event in (seen[1], seen[3], seen[4]))
