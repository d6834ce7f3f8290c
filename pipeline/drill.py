"""`make drill`: rehearses stopping, on the emulated venue: every stop once, and whether it does what it promises.

Input: config/wallets.json where WALLET is given (its name and symbols, not its key). Output: what was sent, cancelled
and left after each step; a row of operator_checks in the operator's own database, where that runs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from psycopg.types.json import Json
from rich.console import Console
from rich.table import Table

from pipeline.commands import issue_command, operator_name
from pipeline.drill_world import ACCOUNT, LIFETIME, DrillWorld, rehearsed
from pipeline.stopping import resume, resume_all
from shared.clock import SystemClock
from shared.db import Database, DatabaseError, load_queries, role_url
from shared.embedded_db import is_running
from shared.errors import SextantError
from shared.job import UsageError
from shared.kill_file import write_stop
from shared.log import configure_logging
from shared.settings import Settings, SettingsError, load_settings
from shared.wallets_file import WalletsFileError, load_wallets

SYMBOLS = ("BTC/USD",)
WALLET = "drill"
ENTRY, EXIT = Decimal(1_000), Decimal(200)  # what is bought and sold at a time, in the quote currency
REST_BELOW = Decimal("0.05")  # where an entry rests
PASSES = 6  # of the sender, at most, until a step is through
PASS_S = 20.0  # of the venue's time between two passes
Order = Mapping[str, Any]

console = Console(highlight=False)


@dataclass(frozen=True, slots=True)
class Scene:
    """What the venue really has at a moment, by order number, and what the wallet holds."""

    orders: dict[int, Order]
    held: Decimal

    def open(self) -> list[Order]:
        return [order for order in self.orders.values() if order["state"] == "open"]


@dataclass(frozen=True, slots=True)
class Change:
    """What a step did at the venue."""

    before: Scene
    after: Scene

    @property
    def sent(self) -> list[Order]:
        return [order for number, order in self.after.orders.items() if number not in self.before.orders]

    @property
    def cancelled(self) -> list[Order]:
        left = self.after.orders
        return [left[o["number"]] for o in self.before.open() if left[o["number"]]["state"] == "canceled"]

    def is_none(self) -> bool:
        return self.before.orders == self.after.orders


Promise = Callable[[Change], bool]


def no_entry(change: Change) -> bool:
    return not [order for order in change.sent if order["side"] == "buy"]


def entries_stay(change: Change) -> bool:
    return not [order for order in change.cancelled if order["side"] == "buy"]


def entries_are_cancelled(change: Change) -> bool:
    return any(o["side"] == "buy" for o in change.cancelled) and not [o for o in change.after.open() if _is_entry(o)]


def an_entry_goes_out(change: Change) -> bool:
    return any(_is_entry(order) and order["state"] == "filled" for order in change.sent)


def an_exit_goes_out(change: Change) -> bool:
    return any(order["side"] == "sell" and order["state"] == "filled" for order in change.sent)


def held_is_protected(change: Change) -> bool:
    stops = [order for order in change.after.open() if order["type"] == "stop" and order["side"] == "sell"]
    return change.after.held > 0 and sum(map(_rest, stops), Decimal(0)) == change.after.held


def everything_is_sold(change: Change) -> bool:
    return change.before.held > 0 and change.after.held == 0 and not change.after.open()


def nothing_happens(change: Change) -> bool:
    return change.is_none() and bool(change.after.open())


def _is_entry(order: Order) -> bool:
    return bool(order["side"] == "buy")


def _rest(order: Order) -> Decimal:
    return Decimal(order["quantity"]) - Decimal(order["filled"])


@dataclass
class Step:
    """One act of the operator, and what must have come of it."""

    title: str
    command: str  # what a person types for it
    promises: dict[str, Promise]
    change: Change | None = None
    broken: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def kept(self) -> bool:
        return self.change is not None and not self.broken


class Drill:
    """The steps in their order, on one world. Each takes what the one before left."""

    def __init__(self, world: DrillWorld, tell: Callable[[Step], None]) -> None:
        self._world, self._tell, self._name = world, tell, world.entry.name
        self.steps: list[Step] = []

    def run(self) -> list[Step]:
        self._begin()
        self._stop("pause", intends_exit=True, promises={
            "no entry is sent": no_entry, "the entry order stays": entries_stay, "an exit goes out": an_exit_goes_out,
            "what is held has its stop": held_is_protected})  # fmt: skip
        self._stop("kill", promises={
            "no entry is sent": no_entry, "the entry order is cancelled": entries_are_cancelled,
            "what is held has its stop": held_is_protected})  # fmt: skip
        self._resume()
        self._stop("flatten", promises={"no entry is sent": no_entry, "all is sold": everything_is_sold})
        self._resume()
        self._stop("halt", intends_exit=True, promises={
            "nothing is sent, changed or cancelled": nothing_happens, "what is held has its stop": held_is_protected,
        })  # fmt: skip
        self._resume()
        self._without_database()
        return self.steps

    def _begin(self) -> None:
        self._world.send()  # finds what the account has
        self._resume("begin")

    def _resume(self, title: str = "resume", *, everybody: bool = False) -> None:
        """It trades again: an entry is filled and protected, another one rests."""
        world = self._world
        world.pass_time(LIFETIME.total_seconds())  # what was intended under the stop is too old to be sent now
        word = "ALL=1" if everybody else f"WALLET={self._name}"
        step = Step(title, f'make resume {word} REASON="a drill"', {
            "an entry goes out": an_entry_goes_out, "what is held has its stop": held_is_protected,
            "another entry rests": lambda change: any(_is_entry(order) for order in change.after.open())})  # fmt: skip
        before, cli = self._scene(), world.of("cli")
        if everybody:
            resumed, _ = resume_all(cli, world.home, world.venue.time, "a drill", operator_name())
            step.note = f"resumed: {', '.join(resumed) or 'nobody'}"
        else:
            resume(cli, world.home, world.venue.time, self._name, "a drill", operator_name())
        world.intend("buy", world.lots(ENTRY))
        world.intend("buy", world.lots(ENTRY), below=REST_BELOW)
        self._pass_and_judge(step, before)

    def _stop(self, mandate: str, promises: dict[str, Promise], *, intends_exit: bool = False) -> None:
        world = self._world
        word = "kill FLATTEN=1" if mandate == "flatten" else mandate
        step = Step(mandate, f'make {word} WALLET={self._name} REASON="a drill"', promises)
        before = self._scene()
        write_stop(world.home, self._name, mandate, "a drill", operator_name(), world.venue.time)
        issue_command(world.of("cli"), world.venue.time, self._name, mandate, "a drill", operator_name())
        world.intend("buy", world.lots(ENTRY))
        if intends_exit:
            world.intend("sell", world.lots(EXIT))
        self._pass_and_judge(step, before)

    def _without_database(self) -> None:
        """The file alone stops, also after the database is back: it never heard of the stop."""
        world, before = self._world, self._scene()
        away = Step(
            "database away", "touch KILL   (in SEXTANT_HOME)", {"nothing happens at the venue": nothing_happens}
        )
        world.intend("buy", world.lots(ENTRY))
        world.stop_database()
        write_stop(world.home, None, "kill", "a drill", operator_name(), world.venue.time)
        try:
            world.send()
            away.broken.append("the sender does not notice that its database is away")
        except (DatabaseError, SextantError) as error:
            away.note = f"the sender says: {str(error).strip().splitlines()[0]}"
        self._judge(away, before, self._orders())
        world.start_database()
        back = Step("database back", "(the database starts again)", {
            "no entry is sent": no_entry, "the entry order is cancelled": entries_are_cancelled,
            "what is held has its stop": held_is_protected})  # fmt: skip
        self._pass_and_judge(back, before)
        self._resume(everybody=True)

    # --- looking ---

    def _orders(self) -> dict[int, Order]:
        return {order["number"]: order for order in self._world.venue.truth(ACCOUNT)["orders"]}

    def _scene(self) -> Scene:
        return Scene(self._orders(), self._world.held())

    def _pass_and_judge(self, step: Step, before: Scene) -> None:
        """The sender runs until all promises are kept, PASSES times at most; a step that promises that nothing happens
        is watched as long."""
        patient = nothing_happens in step.promises.values()
        for _ in range(PASSES):
            self._world.send()
            self._world.pass_time(PASS_S)
            after = self._scene()
            if not patient and all(promise(Change(before, after)) for promise in step.promises.values()):
                break
        self._judge(step, before, after.orders, after.held)

    def _judge(self, step: Step, before: Scene, orders: dict[int, Order], held: Decimal | None = None) -> None:
        step.change = Change(before, Scene(orders, before.held if held is None else held))
        step.broken += [words for words, promise in step.promises.items() if not promise(step.change)]
        self.steps.append(step)
        self._tell(step)


# --- telling ---


def tell(step: Step) -> None:
    assert step.change is not None
    change = step.change
    mark = "[green]as promised[/]" if step.kept else "[bold red]NOT AS PROMISED[/]"
    console.print(f"\n[bold]{step.title}[/]  {mark}  [dim]{step.command}[/]")
    lines = Table.grid(padding=(0, 2))
    lines.add_column(min_width=11)
    lines.add_column()
    lines.add_row("  promised", "; ".join(step.promises))
    for words, orders in (("sent", change.sent), ("cancelled", change.cancelled), ("left", change.after.open())):
        lines.add_row(f"  {words}", "\n".join(map(in_words, orders)) or "nothing")
    lines.add_row("  held", f"{change.after.held.normalize():f}")
    if step.note:
        lines.add_row("  note", step.note)
    for words in step.broken:
        lines.add_row("  [red]broken[/]", f"[red]{words}[/]")
    console.print(lines)


def in_words(order: Order) -> str:
    price = order["limit_price"] or order["stop_price"]
    at = f" at {Decimal(price).normalize():f}" if price else ""
    state = "rests" if order["state"] == "open" else order["state"]
    return f"{order['side']} {Decimal(order['quantity']).normalize():f} {order['symbol']} {order['type']}{at}, {state}"


def write_down(settings: Settings, steps: Sequence[Step]) -> bool:
    """A row in the operator's own database; False where that does not run, for a drill starts nothing of it."""
    if not settings.external_database and not is_running(settings.home_path):
        return False
    details = {"steps": [{"step": step.title, "broken": step.broken} for step in steps]}
    row = {"passed": all(s.kept for s in steps), "details": Json(details), "at": SystemClock().now()}
    with closing(Database(role_url(settings, "cli"))) as database:
        database.execute(load_queries("drill")["insert_check"], row)
    return True


def drill(folder: Path, name: str, symbols: tuple[str, ...], told: Callable[[Step], None] = tell) -> list[Step]:
    """All steps, on a world of their own in ``folder``."""
    with DrillWorld(folder, rehearsed(name, symbols)) as world:
        return Drill(world, told).run()


def main(argv: list[str] | None = None) -> int:
    """Exit 0: every promise kept; 1: one was broken, or the rehearsal itself failed; 2: usage, settings."""
    parser = argparse.ArgumentParser(description="Rehearse pause, kill, flatten, halt and resume on the emulator.")
    parser.add_argument("wallet", nargs="?", help="one of config/wallets.json: its name and symbols are rehearsed")
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings()
        configure_logging("CRITICAL")
        name: str = WALLET
        symbols: tuple[str, ...] = SYMBOLS
        if arguments.wallet is not None:
            entry = load_wallets().entry(arguments.wallet)
            if entry.venue != "kraken":
                raise UsageError(f"only a wallet on kraken can be rehearsed; {entry.name} is on {entry.venue}")
            name, symbols = entry.name, entry.symbols
        console.print(
            f"A drill of wallet {name} on the emulated venue: nothing here is money, no key of yours is used."
        )
        with tempfile.TemporaryDirectory(prefix="sextant-drill-") as folder:
            steps = drill(Path(folder), name, symbols)
        written = write_down(settings, steps)
    except (SettingsError, UsageError, WalletsFileError) as error:
        print(error, file=sys.stderr)
        return 2
    except (SextantError, DatabaseError) as error:
        print(f"the drill itself failed: {error}", file=sys.stderr)
        return 1
    kept = sum(step.kept for step in steps)
    console.print(
        f"\n{kept} of {len(steps)} steps as promised" + ("; written down in operator_checks" if written else "")
    )
    return int(kept < len(steps))


if __name__ == "__main__":
    sys.exit(main())
