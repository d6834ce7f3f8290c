"""Time is an argument: the only file that reads the wall clock."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from shared.errors import SextantError

LOCAL_URL = r"^http://(127\.0\.0\.1|localhost)(:\d+)?/"


class Clock(Protocol):
    def now(self) -> datetime:
        """The present moment, aware, in UTC."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class ClockUnavailable(SextantError):
    """The emulator that tells the time does not answer."""


class RemoteClock:
    """Follows the virtual time of an exchange emulator (``CLOCK_URL``): every question is asked there anew.

    ``now`` raises ClockUnavailable: a job must not fall back to a time that its venue does not share.
    """

    def __init__(self, url: str) -> None:
        if not re.match(LOCAL_URL, url):
            raise ValueError(f"CLOCK_URL {url!r} is not on this machine: only a local emulator may tell the time")
        self._url = url

    def now(self) -> datetime:
        from urllib.request import urlopen  # only here: it brings ssl and http, which no scheduled job needs

        try:
            with urlopen(self._url, timeout=5) as answer:  # noqa: S310 (http on loopback, checked)
                return from_unix(json.load(answer)["now"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            told = f"{self._url} does not tell the time ({error}): start `make emulator`, or unset CLOCK_URL"
            raise ClockUnavailable(told) from error


@dataclass(frozen=True, slots=True)
class Timer:
    """Elapsed seconds and waiting, apart from the wall clock: a deadline must not move when the clock is set."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class ReplayClock:
    """A clock that stands where it was set: past times for ``--at``, replays and tests."""

    def __init__(self, at: datetime) -> None:
        self._at = require_utc(at)

    def now(self) -> datetime:
        return self._at

    def set(self, at: datetime) -> None:
        self._at = require_utc(at)


def open_clock(url: str | None) -> Clock:
    """The wall clock, or the emulator's where ``CLOCK_URL`` names one."""
    return SystemClock() if url is None else RemoteClock(url)


def require_utc(at: datetime) -> datetime:
    """The same moment in UTC; ValueError for a naive datetime, which could mean any of 24 moments."""
    if at.tzinfo is None:
        raise ValueError(f"{at.isoformat()} has no time zone; write it as {at.isoformat()}+00:00")
    return at.astimezone(UTC)


def parse_time(text: str) -> datetime:
    """An ISO-8601 moment or date; without a zone it is taken as UTC, as this project writes all times."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a time; write 2024-12-01 or 2024-12-01T13:00") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def from_unix(seconds: float) -> datetime:
    return datetime.fromtimestamp(float(seconds), UTC)


def to_unix(at: datetime) -> int:
    """Whole Unix seconds at or before ``at``."""
    return int(require_utc(at).timestamp() // 1)


def floor_time(at: datetime, step_s: int) -> datetime:
    """The last multiple of ``step_s`` (Unix grid) at or before ``at``."""
    return from_unix(to_unix(at) // step_s * step_s)
