"""One schedule: intents, commands, trouble at the venue, and a death of the sender somewhere; then all heals, and
everything must be true. A pure function of its seed and of what earlier schedules left on the account.

Three ways to die: the process ends at a named point (an exception that nothing catches, and what was not committed is
gone); its database connections are cut there, and it goes on with new ones; it is stopped there, a second sender takes
over, and then it wakes up and goes on where it was.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, get_args

from policy.execution import crashpoints
from tests.crash.second_sender import other_sender, superuser
from tests.policy.engine_venue import ACCOUNT, NS, EngineVenue, Trouble
from tests.policy.live_world import SYMBOLS, LiveWorld, check

Death = Literal["none", "killed", "disconnected", "paused"]
HEAL_S, HEAL_RUNS = 20.0, 12  # virtual seconds between runs, and how many it may take until all is known
LATEST_NS = 6 * NS  # an unheard request may take effect that long after it was sent
LEGS_SINCE = "SELECT count(*) FROM orders WHERE purpose = 'protect' AND type = 'limit' AND recorded_at > %(at)s"
LOWEST_STOP = Decimal("0.25")  # a stop is 15 % below cost, and the close may be below cost itself
STOPS = ("pause", "kill", "flatten", "halt")


class Killed(BaseException):
    """The process ends here: no except clause of the program may catch it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one schedule does."""

    seed: int
    death: Death
    point: str
    nth: int  # passing of that point
    troubles: dict[tuple[str, int], Trouble]
    intents: tuple[tuple[str, str, Decimal], ...]  # side, symbol, quantity
    stop: str | None
    cash: Decimal
    brackets: tuple[dict[str, Decimal], ...]  # of each intent, if it is an entry: prices as shares of the close
    wait_s: float  # before it all: candles come in, and earlier entries' levels are reached


def plan(seed: int) -> Plan:
    draw = random.Random(seed)
    kinds = (
        "place",
        "place",
        "cancel",
        "amend",
        "amend",
        "open_orders",
        "closed_orders",
        "fills",
        "balances",
        "ledger",
    )
    troubles: dict[tuple[str, int], Trouble] = {}
    for _ in range(draw.choice((0, 0, 1, 1, 2, 4))):
        troubles[draw.choice(kinds), draw.randint(1, 3)] = draw.choice(get_args(Trouble)[1:])
    intents = tuple(
        (draw.choice(("buy", "buy", "sell")), draw.choice(SYMBOLS), Decimal(draw.randint(1, 400)) / 1000)
        for _ in range(draw.choice((0, 1, 1, 2, 2, 3)))
    )
    return Plan(
        seed=seed,
        death=draw.choice(("none", "killed", "killed", "killed", "disconnected", "disconnected", "paused", "paused")),
        point=draw.choice([point for point in crashpoints.POINTS if "import" not in point]),
        nth=draw.choice((1, 1, 1, 2, 2, 3)),
        troubles=troubles,
        intents=intents,
        stop=draw.choice((None,) * 12 + STOPS),
        cash=Decimal(draw.choice((0, 0, 0, 0, 0, 500, -500, 1))),
        brackets=tuple(_bracket(draw) for _ in intents),
        wait_s=draw.choice((0.0, 0.0, 300.0, 600.0)),
    )


def _bracket(draw: random.Random) -> dict[str, Decimal]:
    """None, or any of the three, near enough to be reached before long."""
    shares = {
        "bracket_stop": draw.choice(("0.9995", "0.98", "0.95")),
        "bracket_target": draw.choice(("1.0003", "1.001", "1.05")),
        "bracket_trail": draw.choice(("0.0005", "0.02", "0.05")),
    }
    named = draw.choice((0, 0, 1, 2, 3))
    return {name: Decimal(shares[name]) for name in draw.sample(sorted(shares), named)}


def run(world: LiveWorld, planned: Plan, seen: Counter[str]) -> None:
    """One schedule on ``world``; AssertionError says what is not true. ``seen`` counts what happened."""
    began = world.now
    if planned.wait_s:
        world.pass_time(planned.wait_s)
    if planned.cash > 0:
        world.engine.accounts.deposit(ACCOUNT, "USD", planned.cash)
    elif planned.cash < 0:
        world.engine.accounts.withdraw(ACCOUNT, "USD", -planned.cash)
    for (side, symbol, quantity), bracket in zip(planned.intents, planned.brackets, strict=True):
        terms = _terms(world, symbol, bracket) if side == "buy" else {}
        world.intend(side, str(quantity), symbol, lifetime_s=120.0, **terms)
    world.prepare = _troubled(planned)
    halted_ns = None
    if planned.stop is not None:
        world.command(planned.stop)
        halted_ns = world.engine.now_ns()
        seen[planned.stop] += 1
    passed = _die(world, planned, seen)
    crashpoints.hook = None
    check(world, settled=False)
    world.prepare = lambda _venue: None
    _heal(world, planned, halted_ns, seen)
    seen["schedules"] += 1
    seen["points"] += passed
    seen["targets tried"] += world.one(LEGS_SINCE, at=began)["count"]


def _terms(world: LiveWorld, symbol: str, bracket: dict[str, Decimal]) -> dict[str, Decimal]:
    close = Decimal(repr(world.close_of(symbol)))
    return {name: share if name == "bracket_trail" else close * share for name, share in bracket.items()}


def _troubled(planned: Plan) -> Callable[[EngineVenue], None]:
    def prepare(venue: EngineVenue) -> None:
        venue.trouble = lambda kind, nth: planned.troubles.get((kind, nth), "none")

    return prepare


def _die(world: LiveWorld, planned: Plan, seen: Counter[str]) -> int:
    """Runs the sender until its death, or to its end where that never comes; how many points it passed."""
    passed: Counter[str] = Counter()

    def hook(name: str) -> None:
        passed[name] += 1
        if planned.death == "none" or name != planned.point or passed[name] != planned.nth:
            return
        seen[f"{planned.death} at {name}"] += 1
        seen[planned.death] += 1
        if planned.death == "killed":
            raise Killed
        _cut_connections(world)
        if planned.death == "paused":
            crashpoints.hook = None
            world.pass_time(3.0)
            with other_sender(world) as second:
                second()

    crashpoints.hook = hook
    try:
        world.send()
    except Killed:
        world.database_for("sender").close()
    except Exception as error:  # a run may fail loudly; it must not leave anything untrue behind
        seen[f"ended: {type(error).__name__}"] += 1
    return passed.total()


def _cut_connections(world: LiveWorld) -> None:
    """As a network that broke, or a server that fell over: the sessions end, and with them their locks."""
    with superuser(world.settings) as server:
        server.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'sextant_sender'"
            " AND datname = current_database()"
        )


def _heal(world: LiveWorld, planned: Plan, halted_ns: int | None, seen: Counter[str]) -> None:
    """No more trouble: within bounded time all is known, and what was forbidden did not happen."""
    _run_until_known(world, seen, protected=halted_ns is None, flat=planned.stop == "flatten")
    if halted_ns is not None:
        _check_stopped(world, planned, halted_ns)
        world.command("resume")
        _run_until_known(world, seen, protected=True)
    check(world)


def _run_until_known(world: LiveWorld, seen: Counter[str], *, protected: bool, flat: bool = False) -> None:
    for number in range(1, HEAL_RUNS + 1):
        world.pass_time(HEAL_S)
        result = world.send().result
        world.settle()
        missing = _unprotected(world) if protected else ""
        if flat:  # a step waits for the fate of what stands in its way
            missing = ", ".join(s for s in SYMBOLS if world.position(s) != 0 and not _is_dust(world, s))
        if number > 1 and not open_questions(world) and not result.get("failures") and not missing:
            seen[f"all known after {number} runs"] += 1
            return
    raise AssertionError(f"not known after {HEAL_RUNS} runs: {world.working()}, {result}; {missing}")


def open_questions(world: LiveWorld) -> list[dict[str, Any]]:
    """Orders of which it is not known how they stand at the venue, or that should not be there any more."""
    pending = ("sending", "unknown", "canceling", "amending")
    return [o for o in world.working() if o["state"] in pending or (o["type"] in ("market", "limit") and o["rest"] > 0)]


def _check_stopped(world: LiveWorld, planned: Plan, since_ns: int) -> None:
    """After a stop no entry, after a halt nothing at all, but for what had been sent before."""
    later = [o for o in world.venue_orders() if o.opened_ns > since_ns + LATEST_NS]
    assert not [o for o in later if o.side == "buy"], f"an entry after {planned.stop}"
    if planned.stop == "halt":
        assert not later, "something was sent after a halt"
    if planned.stop == "flatten":
        for symbol in SYMBOLS:
            assert world.position(symbol) == 0 or _is_dust(world, symbol), f"{symbol} is still held after a flatten"


def _unprotected(world: LiveWorld) -> str:
    """Each position has its stop, and stops never sell more than is held; what is not so."""
    for symbol in SYMBOLS:
        assert world.position(symbol) >= 0, f"more {symbol} was sold than was held"
        resting = sum((o.quantity - o.filled for o in world.stops(symbol)), Decimal(0))
        if resting != world.position(symbol) and not (_is_dust(world, symbol) and resting == 0):
            return f"{symbol}: {world.position(symbol)} held, {resting} protected"
    return ""


def _is_dust(world: LiveWorld, symbol: str) -> bool:
    """Whether the venue takes no order of what is held, at the price of the lowest stop that it could have."""
    worth = world.position(symbol) * Decimal(repr(world.close_of(symbol))) * (1 - LOWEST_STOP)
    return worth < world.market.rules(symbol).min_notional
