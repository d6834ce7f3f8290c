"""The watcher's thread, bell and news, with a source that does as it is told instead of a venue."""

from __future__ import annotations

import asyncio
import select
import threading
from collections.abc import AsyncGenerator

import pytest
from websockets.exceptions import InvalidURI

from policy.execution.venues.execution_watcher import MOST_NEWS, ExecutionWatcher
from policy.execution.venues.kraken_executions import Connected, Disconnected, ExecutionEvent, Gap, KrakenExecutions

IN_TIME_S = 5.0


def test_its_bell_is_quiet_after_one_wait_has_taken_all(monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()

    async def come(_source: KrakenExecutions) -> AsyncGenerator[ExecutionEvent]:
        yield Connected()
        told.set()
        await asyncio.sleep(IN_TIME_S)

    monkeypatch.setattr(KrakenExecutions, "events", come)
    with ExecutionWatcher("ws://127.0.0.1:1", lambda: "") as watcher:
        assert told.wait(IN_TIME_S)
        assert select.select([watcher], [], [], 0)[0] == [watcher]
        assert watcher.wait(0) == [Connected()]
        assert select.select([watcher], [], [], 0)[0] == []


def test_news_that_nobody_takes_become_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()

    async def flood(_source: KrakenExecutions) -> AsyncGenerator[ExecutionEvent]:
        for number in range(MOST_NEWS + 2):
            yield Disconnected(str(number))
        told.set()
        await asyncio.sleep(IN_TIME_S)

    monkeypatch.setattr(KrakenExecutions, "events", flood)
    with ExecutionWatcher("ws://127.0.0.1:1", lambda: "") as watcher:
        assert told.wait(IN_TIME_S)
        gap, *rest = watcher.wait(0)
    assert isinstance(gap, Gap)
    assert rest == [Disconnected(str(MOST_NEWS)), Disconnected(str(MOST_NEWS + 1))]


def test_a_watcher_that_was_never_started_stops_too() -> None:
    ExecutionWatcher("ws://127.0.0.1:1", lambda: "").stop()


def test_an_address_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(InvalidURI):
        ExecutionWatcher("https://ws.kraken.com", lambda: "")


def test_what_was_heard_before_an_error_is_told_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def break_off(_source: KrakenExecutions) -> AsyncGenerator[ExecutionEvent]:
        yield Connected()
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(KrakenExecutions, "events", break_off)
    with ExecutionWatcher("ws://127.0.0.1:1", lambda: "") as watcher:
        for thread in threading.enumerate():
            if thread.name == "executions":
                thread.join(IN_TIME_S)
        assert not watcher.connected
        assert watcher.wait(0) == [Connected()]
        with pytest.raises(RuntimeError, match="restart the sender"):
            watcher.wait(0)


def test_it_knows_whether_hints_come(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [threading.Event(), threading.Event()]

    async def come_and_go(_source: KrakenExecutions) -> AsyncGenerator[ExecutionEvent]:
        yield Connected()
        await asyncio.to_thread(steps[0].wait, IN_TIME_S)
        yield Disconnected("silence")
        await asyncio.to_thread(steps[1].wait, IN_TIME_S)

    monkeypatch.setattr(KrakenExecutions, "events", come_and_go)
    with ExecutionWatcher("ws://127.0.0.1:1", lambda: "") as watcher:
        for event, step in zip((Connected(), Disconnected("silence")), steps, strict=True):
            assert watcher.wait(IN_TIME_S) == [event]
            assert watcher.connected is isinstance(event, Connected)
            step.set()
