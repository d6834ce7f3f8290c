"""What a long-lived job needs: to be asked to stop, and to wait without missing it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.clock import Timer

LISTEN_S = 1.0  # how long one wait lasts: how fast the end is noticed


@contextmanager
def stop_signals() -> Iterator[list[str]]:
    """The names of the stop signals that came (SIGTERM, SIGINT); a second one does what it always does. A handler runs
    in the midst of anything: it takes no lock and logs nothing."""
    asked: list[str] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: object) -> None:
        asked.append(signal.Signals(number).name)
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        restore()


def sleep_until_ended(seconds: float, ended: Callable[[], bool], timer: Timer) -> None:
    until = timer.monotonic() + seconds
    while not ended() and (left := until - timer.monotonic()) > 0.0:
        timer.sleep(min(left, LISTEN_S))
