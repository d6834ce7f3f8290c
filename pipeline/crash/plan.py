"""What one world goes through: rounds of a situation, trouble at the venue, and deaths. A pure function of its seed.

A cell is a named point of the sender with one outcome of the venue's call around it. Each world strikes some cells and
some random instants; worlds with consecutive seeds go through all cells in turn.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from policy.execution.crashpoints import POINTS

Situation = Literal["connect", "opening", "entry", "part", "exit", "flatten", "stopped", "kill", "halt", "money"]
Kind = Literal["killed", "paused", "database stopped", "database killed", "venue killed"]

CELLS_A_WORLD, INSTANTS_A_WORLD, OTHERS_A_WORLD = 10, 9, 5
BEFORE = ("close", "reset", "http_5xx", "http_429")  # of a request that never arrives: what its sender sees
AFTER = ("close", "reset", "http_5xx", "bad_json", "empty", "html", "null_result")  # ... that was taken, unanswered
REFUSALS = {"AddOrder": "EOrder:Insufficient funds", "AmendOrder": "EService:Market in post_only mode",
            "CancelOrder": "EService:Market in post_only mode"}  # fmt: skip
ACT = ("answered", "lost", "unheard", "rejected", "late", "too late", "delayed")
READ = ("answered", "lost", "unheard", "rejected")


@dataclass(frozen=True, slots=True)
class Strike:
    """One blow: at the ``nth`` passing of a point, or (None) after ``share`` of what a run usually takes."""

    kind: Kind
    point: str | None = None
    nth: int = 1
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Round:
    """``rule``: the emulator's fault, if any; ``pick`` in [0, 1) chooses symbols and sizes."""

    seed: int
    number: int
    situation: Situation
    outcome: str
    rule: Mapping[str, Any] | None
    strikes: tuple[Strike, ...]
    pick: float

    def __str__(self) -> str:
        blows = ", then ".join(
            f"{s.kind} at {s.point}:{s.nth}" if s.point else f"{s.kind} after {s.share:.0%} of a run"
            for s in self.strikes
        )
        return f"seed {self.seed}, round {self.number}: {self.situation}, {self.outcome}; {blows}"


@dataclass(frozen=True, slots=True)
class Cell:
    """``call``: which of the endpoint's requests since the round's beginning the outcome is of."""

    point: str
    situation: Situation
    endpoint: str
    outcome: str
    call: int = 1


def _cells(point: str) -> list[Cell]:
    place = point.partition(".")[0]
    if place == "send":
        return [Cell(point, "entry", "AddOrder", outcome) for outcome in (*ACT, "hidden")]
    if place == "account":  # something must have been traded
        told = [Cell(point, "entry", "AddOrder", outcome) for outcome in ("answered", "unheard", "late")]
        return [*told, Cell(point, "entry", "TradesHistory", "lost"), Cell(point, "entry", "ClosedOrders", "unheard")]
    if place == "amend":
        # what took effect unheard is not asked for again: then nothing is recorded after a request
        met = ("answered", "lost", "rejected") if point == "amend.after_record" else ACT
        return [Cell(point, "part", "AmendOrder", outcome) for outcome in met if outcome != "too late"]
    if place == "cancel":
        return [Cell(point, "exit", "CancelOrder", outcome) for outcome in (*ACT, "filled") if outcome != "too late"]
    if point == "intent.after_protect":
        return [Cell(point, "opening", "AddOrder", outcome, call=2) for outcome in ACT]  # the stop's own
    if point == "intent.after_flatten":
        return [Cell(point, "flatten", "AddOrder", outcome) for outcome in ACT]
    if point in ("connect.before_import", "connect.after_import"):
        return [Cell(point, "connect", "BalanceEx", outcome) for outcome in READ]
    return [Cell(point, "entry", "GetApiKeyInfo", outcome) for outcome in READ]


CELLS = [cell for point in POINTS for cell in _cells(point)]
ORDER: tuple[Situation, ...] = ("opening", "entry", "part", "exit", "flatten", "money", "stopped", "kill", "halt")
MET: dict[Situation, tuple[str, ...]] = {
    "opening": ("send", "account", "intent.after_protect", "connect.after"),
    "entry": ("send", "account", "connect.after"),
    "money": ("send", "account", "connect.after"),
    "part": ("amend", "send", "account"),
    "exit": ("cancel", "send", "account"),
    "flatten": ("intent.after_flatten", "cancel", "send", "account"),
    "stopped": ("account", "connect.after"),
    "kill": ("cancel", "connect.after"),
    "halt": ("connect.after", "send.before_approval", "send.before_request", "cancel.before_request"),
}


def rounds(seed: int) -> list[Round]:
    """Of one world of a long run."""
    draw = random.Random(seed)  # noqa: S311  (a plan, not a secret)
    everything = [cell for cell in CELLS if cell.situation != "connect"]
    random.Random(7).shuffle(everything)  # noqa: S311
    first = seed * CELLS_A_WORLD
    cells = [everything[(first + n) % len(everything)] for n in range(CELLS_A_WORLD)]
    drawn: list[tuple[Cell, tuple[Strike, ...]]] = [(cell, (Strike("killed", cell.point),)) for cell in cells]
    drawn += [(_some(draw), _instants(draw)) for _ in range(INSTANTS_A_WORLD)]
    for _ in range(OTHERS_A_WORLD):
        cell = _some(draw)
        drawn.append((cell, (_other(draw, cell.situation),)))
    draw.shuffle(drawn)
    connects = [cell for cell in CELLS if cell.situation == "connect"]
    connect = connects[seed % (len(connects) // 2)]
    return [_connect(seed, draw, connect.outcome)] + [
        _round(seed, number, draw, cell, strikes) for number, (cell, strikes) in enumerate(drawn, start=2)
    ]


def each_point(seed: int) -> list[Round]:
    """One world in which every named point strikes once, its outcome by the seed."""
    draw = random.Random(seed)  # noqa: S311
    cells = [draw.choice(_cells(point)) for point in POINTS if "import" not in point]
    cells.sort(key=lambda cell: ORDER.index(cell.situation))
    return [_connect(seed, draw, draw.choice(READ))] + [
        _round(seed, number, draw, cell, (Strike("killed", cell.point),)) for number, cell in enumerate(cells, start=2)
    ]


def _connect(seed: int, draw: random.Random, outcome: str) -> Round:
    """The account is met for the first time, and the sender dies twice over it."""
    strikes = (Strike("killed", "connect.before_import"), Strike("killed", "connect.after_import"))
    return _round(seed, 1, draw, Cell("", "connect", "BalanceEx", outcome), strikes)


def _round(seed: int, number: int, draw: random.Random, cell: Cell, strikes: tuple[Strike, ...]) -> Round:
    rule = _rule(draw, cell)
    return Round(seed, number, cell.situation, f"{cell.endpoint} {cell.outcome}", rule, strikes, draw.random())


def _some(draw: random.Random) -> Cell:
    """Any situation with any trouble, or (more often) none."""
    situation = draw.choice(("entry", "entry", "entry", "part", "part", "exit", "exit", *ORDER))
    endpoint = draw.choice(("AddOrder", "AddOrder", "AmendOrder", "CancelOrder", "OpenOrders", "ClosedOrders",
                            "TradesHistory", "Ledgers", "BalanceEx"))  # fmt: skip
    outcome = draw.choice(("answered", *(ACT if endpoint.endswith("Order") else READ)))
    return Cell("", situation, endpoint, outcome, call=draw.choice((1, 1, 2)))


def _instants(draw: random.Random) -> tuple[Strike, ...]:
    return tuple(Strike("killed", None, 1, draw.uniform(0.0, 1.0)) for _ in range(draw.choice((1, 1, 2, 3))))


def _other(draw: random.Random, situation: Situation) -> Strike:
    kind: Kind = draw.choice(("paused", "paused", "paused", "database stopped", "database killed", "venue killed"))
    met = [point for point in POINTS if point.startswith(MET[situation]) and "import" not in point]
    point = draw.choice((None, None, *met))
    return Strike(kind, point, 1, draw.uniform(0.05, 0.9))


def _rule(draw: random.Random, cell: Cell) -> dict[str, Any] | None:
    """The outcome in the emulator's words: of one request of the endpoint, the ``call``-th from now on."""
    rule: dict[str, Any] = {"surface": "rest", "endpoint": cell.endpoint, "nth": cell.call, "times": 1}
    match cell.outcome:
        case "answered":
            return None
        case "lost":
            return rule | {"fault": draw.choice(BEFORE), "phase": "before"}
        case "unheard":
            return rule | {"fault": draw.choice(AFTER), "phase": "after_effect"}
        case "rejected":
            words = REFUSALS.get(cell.endpoint, "EService:Unavailable")
            return rule | {"fault": "error", "phase": "before", "parameter": words}
        case "late":  # within its deadline
            return rule | {"fault": "late_arrival", "parameter": 2.0}
        case "too late":
            return rule | {"fault": "late_arrival", "parameter": 8.0}
        case "delayed":  # before the gate where nonces are looked at
            return rule | {"fault": "late_arrival", "parameter": 2.0, "phase": "before"}
        case "hidden":  # accepted, and not yet in any list
            return {"surface": "rest", "fault": "hide_order", "parameter": 30.0}
        case "filled":
            return rule | {"fault": "fill_before_cancel"}
    raise AssertionError(cell.outcome)
