"""How the venue is: whether it trades, and how far its clock and ours are apart (reliability fault 23)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from shared.clock import Clock
from shared.exchanges import Exchange, ExchangeError
from shared.exchanges.protocol import VenueStatus
from shared.exchanges.resilience import VenueCalls

SKEW_WARNING_S = 1.0
MEASUREMENTS = 3  # of the venue's clock, at most
QUICK_S = 1.0  # a round trip that needs no second one

Skew = Literal["none", "warning", "critical"]


@dataclass(frozen=True, slots=True)
class VenueCheck:
    """``clock_skew_s`` is our clock minus the venue's; ``doubt_s`` how far that may be wrong."""

    status: VenueStatus | Literal["unreachable"]
    clock_skew_s: float | None = None
    round_trip_s: float | None = None
    doubt_s: float = 0.0

    def skew(self, limit_s: float) -> Skew:
        """How bad the skew is for certain: the doubt is granted."""
        certain = abs(self.clock_skew_s or 0.0) - self.doubt_s
        return "critical" if certain > limit_s else "warning" if certain > SKEW_WARNING_S else "none"


@runtime_checkable
class CountsTroubles(Protocol):
    """A venue whose calls pass through one VenueCalls, which counts also the troubles that a second try cured."""

    calls: VenueCalls


def count_troubles(exchange: Exchange) -> Counter[str]:
    """What went wrong with its REST calls so far, by kind."""
    troubles = exchange.calls.statistics()["troubles"] if isinstance(exchange, CountsTroubles) else {}
    return Counter({f"rest.{kind}": count for kind, count in troubles.items()})


def check_venue(exchange: Exchange, clock: Clock) -> VenueCheck:
    """Asks for status and time. Blocks.

    A slow answer tells little, and here slowness is mostly our own queue: asked again, the quickest one counts.
    """
    try:
        status = exchange.status()
    except ExchangeError:
        return VenueCheck("unreachable")
    checks: list[VenueCheck] = []
    for _ in range(MEASUREMENTS):
        try:
            before = clock.now().timestamp()
            server = exchange.server_time()
            after = clock.now().timestamp()
        except ExchangeError:
            break
        if server is None:
            return VenueCheck(status)
        checks.append(measure(status, before, server, after))
        if after - before < QUICK_S:
            break
    return min(checks, key=lambda check: check.round_trip_s or 0.0, default=VenueCheck("unreachable"))


def measure(status: VenueStatus, before: float, server: float, after: float) -> VenueCheck:
    """The venue's time against the middle of the round trip (Unix seconds). A venue that tells whole seconds means
    any moment within that second: its middle is taken, and half of it doubted."""
    half_tick = 0.5 if server == int(server) else 0.0
    round_trip = after - before
    skew = (before + after) / 2 - (server + half_tick)
    return VenueCheck(status, skew, round_trip, round_trip / 2 + half_tick)
