"""What goes wrong during a soak, and what people do meanwhile: a pure function of the seed and the length."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any, Literal

HOUR, DAY = 3_600.0, 86_400.0
QUIET_S = 3 * HOUR  # at the end: nothing new goes wrong, and all must heal
Draw = Callable[[random.Random, float], "list[Mishap]"]
Kind = Literal["venue", "kill", "database", "clock", "asleep", "money", "stop", "resume"]

# Faults of the venue's REST API (tests/exchange_emulator/faults.py): where the request never arrives, and where it is
# taken and nobody learns it.
BEFORE = ("close", "reset", "http_5xx", "http_429", "error")
AFTER = ("close", "reset", "short_body", "bad_json", "html", "empty", "null_result")
ACTS = ("AddOrder", "AddOrder", "AddOrder", "AmendOrder", "AmendOrder", "CancelOrder")
READS = ("OpenOrders", "ClosedOrders", "TradesHistory", "Ledgers", "BalanceEx", "GetApiKeyInfo",
         "OHLC", "SystemStatus", "Time", "AssetPairs")  # fmt: skip
LISTS = ("ClosedOrders", "TradesHistory", "Ledgers", "OHLC")
STATUSES = ("maintenance", "cancel_only", "post_only")
STOPS = ("pause", "kill", "flatten", "halt")


@dataclass(frozen=True, slots=True)
class Mishap:
    """``at``: seconds since the beginning. ``rule``: a fault of the emulator, ``lasts_s`` for how long, if not once.
    ``number``: seconds (clock: by which ours is wrong; asleep: how long), points passed before a blow, or money."""

    at: float
    kind: Kind
    rule: Mapping[str, Any] = field(default_factory=dict)
    lasts_s: float | None = None
    number: float = 0.0
    word: str = ""


def mishaps(seed: int, days: float) -> list[Mishap]:
    """In the order of time; none in the last QUIET_S."""
    draw = random.Random(seed)  # noqa: S311  (a plan, not a secret)
    drawn = [
        mishap
        for kind, a_day in A_DAY.items()
        for at in _moments(draw, a_day, days * DAY - QUIET_S)
        for mishap in DRAWN[kind](draw, at)
    ]
    words = cycle(STOPS)
    ordered = sorted(drawn, key=lambda mishap: mishap.at)
    return [replace(mishap, word=next(words)) if mishap.kind == "stop" else mishap for mishap in ordered]


def _moments(draw: random.Random, a_day: float, until: float) -> Iterator[float]:
    """A Poisson process."""
    at = draw.expovariate(a_day / DAY)
    while at < until:
        yield at
        at += draw.expovariate(a_day / DAY)


def _act(draw: random.Random, at: float) -> list[Mishap]:
    """Of the next order that is sent, changed or cancelled."""
    endpoint = draw.choice(ACTS)
    rule: dict[str, Any] = {"surface": "rest", "endpoint": endpoint, "times": 1}
    outcome = draw.choice(("lost", "unheard", "unheard", "late" if endpoint == "AddOrder" else "lost"))
    if endpoint == "CancelOrder" and draw.random() < 0.5:
        rule |= {"fault": draw.choice(("fill_before_cancel", "fill_after_cancel"))}
    elif outcome == "late":  # within the order's deadline, and after it
        rule |= {"fault": "late_arrival", "parameter": draw.choice((2.0, 4.0, 8.0, 40.0))}
    elif outcome == "lost":
        rule |= {"fault": draw.choice(BEFORE), "phase": "before"}
    else:
        rule |= {"fault": draw.choice(AFTER), "phase": "after_effect"}
    return [Mishap(at, "venue", rule)]


def _read(draw: random.Random, at: float) -> list[Mishap]:
    """Of the next questions of a kind; what asks in vain may ask again, and so some faults come in a row."""
    if draw.random() < 0.2:
        rule = {"fault": draw.choice(("duplicate", "reorder")), "endpoint": draw.choice(LISTS)}
    else:
        phase = draw.choice(("before", "after_effect"))
        fault = draw.choice(BEFORE if phase == "before" else AFTER)
        rule = {"fault": fault, "phase": phase, "endpoint": draw.choice(READS)}
    return [Mishap(at, "venue", {"surface": "rest", "times": draw.choice((1, 1, 2, 5)), **rule})]


def _spell(draw: random.Random, at: float) -> list[Mishap]:
    """Something that lasts: a venue that trades less than usual, lists that are old, other rules, another time."""
    lasts_s = draw.uniform(600.0, 5_400.0)
    rule: dict[str, Any]
    match draw.choice(("status", "status", "stale", "hidden", "rules", "skew")):
        case "status":
            rule = {"fault": draw.choice(STATUSES)}
        case "stale":
            rule = {"fault": "stale_read", "parameter": draw.choice((5.0, 20.0, 60.0))}
        case "hidden":
            rule = {"fault": "hide_order", "parameter": draw.choice((5.0, 20.0, 50.0))}
        case "rules":
            rule = {"fault": draw.choice(("minimum", "tick_size"))}
        case _:
            rule = {"fault": "clock_skew", "parameter": draw.choice((-30.0, -8.0, 8.0, 30.0))}
    return [Mishap(at, "venue", {"surface": "rest", **rule}, lasts_s)]


def _candle(draw: random.Random, at: float) -> list[Mishap]:
    """The next candle to close is not there, is slightly wrong at first, or absurd at first."""
    fault = draw.choice(("gap", "revision", "spike"))
    rule: dict[str, Any] = {"fault": fault, "surface": "rest", "endpoint": "OHLC", "parameter": "next close"}
    if fault == "gap":
        return [Mishap(at, "venue", rule, draw.uniform(600.0, 7_200.0))]
    return [Mishap(at, "venue", rule | {"times": 1})]


def _clock(draw: random.Random, at: float) -> list[Mishap]:
    """Our clock is wrong for a while."""
    wrong_by = draw.choice((-1, 1)) * draw.choice((2.0, 8.0, 30.0, 90.0))
    return [Mishap(at, "clock", number=wrong_by), Mishap(at + draw.uniform(600.0, 3_600.0), "clock")]


def _people(draw: random.Random, at: float) -> list[Mishap]:
    """The operator stops the live wallet, in another way each time, and lets it trade again later."""
    return [Mishap(at, "stop"), Mishap(at + draw.uniform(HOUR, 5 * HOUR), "resume")]


def _one(kind: Kind, least: float, most: float) -> Draw:
    return lambda draw, at: [Mishap(at, kind, number=draw.uniform(least, most))]


A_DAY = {"act": 4.0, "read": 10.0, "spell": 1.5, "candle": 2.0, "kill": 2.0, "database": 0.5, "clock": 0.5,
         "asleep": 0.2, "money": 0.3, "people": 0.5}  # fmt: skip
DRAWN: dict[str, Draw] = {
    "act": _act,
    "read": _read,
    "spell": _spell,
    "candle": _candle,
    "kill": _one("kill", 1, 12),
    "database": _one("database", 1, 12),
    "clock": _clock,
    "asleep": _one("asleep", 1_200.0, 3 * HOUR),
    "money": _one("money", -2_000.0, 3_000.0),
    "people": _people,
}
