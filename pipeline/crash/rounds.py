"""One round: a situation, trouble at the venue, a blow to sender, database or venue; then all heals, and is judged."""

from __future__ import annotations

import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from pipeline.crash.laws import (
    broken_laws,
    broken_laws_when_settled,
    sent_since,
    undecided,
    unmatched,
    unprotected,
)
from pipeline.crash.plan import Round, Situation, Strike
from pipeline.crash.processes import Sender, Told
from pipeline.crash.world import ACCOUNT, SYMBOLS, Holding, World

PATIENCE_S = 90.0  # real seconds for one run of the sender
SOON_S = 0.75  # virtual seconds after a blow and before the first look, which comes before what is late
HEAL_S, HEAL_RUNS = 35.0, 10  # virtual seconds between later runs, and how many it may take until all is known
REACH_RUNS, REACH_S = 4, 4.0  # how often a point is waited for, and virtual seconds between
HALT_S = 10.0  # virtual seconds, longer than any order's deadline
LEDGER = ("orders", "fills", "external_fills", "money", "positions", "reconciliation")
NS = 1_000_000_000
SMALLEST = Decimal(1_000)  # of a position that can be sold in parts, in quote


class Violation(AssertionError):
    """Something that must be true is not."""


@dataclass
class Seen:
    """What happened, for the table. ``typical_s``: how long the last undisturbed runs of the sender took."""

    counts: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)  # SIGKILLs of a sender that worked, by point
    outcomes: Counter[str] = field(default_factory=Counter)
    cells: Counter[tuple[str, str]] = field(default_factory=Counter)  # kills by point and outcome
    runs_s: list[float] = field(default_factory=lambda: [0.3])

    @property
    def typical_s(self) -> float:
        return statistics.median(self.runs_s[-15:])


class Stage:
    """Plays rounds in one world."""

    def __init__(self, world: World, seen: Seen) -> None:
        self._world, self._seen = world, seen
        self._senders: list[Sender] = []
        self._stopped_ns = 0

    def play(self, planned: Round) -> None:
        """Violation says which law does not hold."""
        world, seen = self._world, self._seen
        try:
            SITUATIONS[planned.situation](self, planned)
            if planned.situation == "halt" and planned.strikes[0].kind == "killed":
                self._stop("halt", planned)
            if planned.rule is not None:
                if planned.rule["fault"] == "hide_order":
                    world.pass_time(HEAL_S)  # what came before is listed: only the round's own orders are hidden
                world.venue.ask("POST", "faults", planned.rule)
            for strike in planned.strikes:
                self._strike(strike, planned)
                world.pass_time(SOON_S)
            self._demand(broken_laws(*self._truth_and_ledger()), "at once")
            self._heal(planned)
        finally:
            for sender in self._senders:
                sender.end()
            self._senders = []
        seen.counts["rounds"] += 1
        seen.counts[f"situation {planned.situation}"] += 1
        seen.outcomes[planned.outcome] += 1

    # --- situations ---

    def _connect(self, _planned: Round) -> None:
        """Nothing was there before."""

    def _entry(self, planned: Round) -> None:
        """One more purchase or two, of what is held already or not."""
        self._buy(_either(planned), Decimal(2_000 + int(planned.pick * 3_000)))
        if planned.pick > 0.7:
            self._buy(SYMBOLS[planned.pick > 0.85], Decimal(2_000))

    def _opening(self, planned: Round) -> None:
        """The first purchase of something: its stop is a new one. Where everything is held, one is sold before."""
        free = set(SYMBOLS) - {holding.instrument.symbol for holding in self._world.holdings()}
        if not free:
            self._exit(planned)
            self._run_until_known(None)
            free = set(SYMBOLS) - {holding.instrument.symbol for holding in self._world.holdings()}
        if not free:
            raise Violation("an undisturbed sender does not sell what it is told to")
        self._buy(min(free), Decimal(2_000 + int(planned.pick * 3_000)))

    def _money(self, planned: Round) -> None:
        """Money comes or goes while an order is on its way."""
        kind, amount = ("deposit", "512.3456") if planned.pick < 0.6 else ("withdrawal", "137.11")
        body = {"account": ACCOUNT, "kind": kind, "asset": "USD", "amount": amount}
        self._world.venue.ask("POST", "money", body)
        self._buy(_either(planned), Decimal(2_500))

    def _part(self, planned: Round) -> None:
        holding = self._hold(planned)
        share = Decimal(25 + int(planned.pick * 50)) / 100
        symbol = holding.instrument.symbol
        self._world.intend("sell", symbol, self._world.lots(symbol, holding.quantity * share))

    def _exit(self, planned: Round) -> None:
        holding = self._hold(planned)
        symbol = holding.instrument.symbol
        self._world.intend("sell", symbol, self._world.lots(symbol, holding.quantity))

    def _flatten(self, planned: Round) -> None:
        self._hold(planned)
        self._world.command("flatten")

    def _stopped(self, planned: Round) -> None:
        """The stop of a position is filled at the venue while nobody looks."""
        symbol = self._hold(planned).instrument.symbol
        for order in self._world.venue.truth(ACCOUNT)["orders"]:
            if order["state"] == "open" and order["type"] == "stop" and order["symbol"] == symbol:
                self._world.venue.ask("POST", "fills", {"order": order["number"]})

    def _kill(self, planned: Round) -> None:
        """An entry rests and another is wanted when the operator says kill: one is cancelled, one is never sent."""
        symbol = _either(planned)
        limit = self._world.below(symbol, Decimal("0.05"))
        self._world.intend("buy", symbol, self._world.lots(symbol, Decimal(2_000) / limit), limit)
        self._finish(self._sender())
        self._world.settle()
        self._buy(symbol, Decimal(2_000))
        self._stop("kill", planned)

    def _wishes(self, planned: Round) -> None:
        """An entry and an exit are wanted when the halt comes."""
        self._exit(planned)
        self._buy(_either(planned), Decimal(2_000))

    def _buy(self, symbol: str, notional: Decimal) -> None:
        quantity = self._world.lots(symbol, notional / Decimal(repr(self._world.close_of(symbol))))
        self._world.intend("buy", symbol, quantity)

    def _hold(self, planned: Round) -> Holding:
        """A position that is worth selling in parts; bought in an undisturbed round where there is none."""
        for _ in range(3):
            large = [holding for holding in self._world.holdings() if self._worth(holding) >= SMALLEST]
            if large:
                return large[int(planned.pick * 991) % len(large)]
            self._buy(_either(planned), Decimal(5_000))
            self._run_until_known(None)
        raise Violation("an undisturbed sender does not buy what it is told to")

    def _worth(self, holding: Holding) -> Decimal:
        return holding.quantity * Decimal(repr(self._world.close_of(holding.instrument.symbol)))

    # --- blows ---

    def _strike(self, strike: Strike, planned: Round) -> None:
        if strike.kind == "killed":
            if strike.point is None:
                self._kill_after(strike.share)
            else:
                self._kill_at(strike, planned)
            return
        first = self._stop_somewhere(strike)
        if planned.situation == "halt":
            self._stop("halt", planned)  # while it stands still: what it had in mind comes too late
            self._world.pass_time(HALT_S)
        if first is None:
            return
        place = "at a point" if strike.point else "at an instant"
        self._seen.counts[f"{strike.kind} {place}"] += 1
        if strike.kind == "paused":
            self._take_over(first)
            return
        if strike.kind == "venue killed":
            self._world.venue.kill()
        else:
            self._world.strike_database(signal.SIGQUIT if strike.kind == "database stopped" else signal.SIGKILL)
        first.signal(signal.SIGCONT)
        self._finish(first)

    def _kill_at(self, strike: Strike, planned: Round) -> None:
        """The trouble may keep the first runs from coming so far."""
        assert strike.point is not None
        for _ in range(REACH_RUNS):
            if self._finish(self._sender(f"{strike.point}:{strike.nth}")).ending == "killed":
                self._seen.kills[strike.point] += 1
                self._seen.cells[strike.point, planned.outcome] += 1
                return
            self._world.pass_time(REACH_S)
        self._seen.counts[f"not reached: {strike.point} ({planned.outcome})"] += 1

    def _kill_after(self, share: float) -> None:
        sender = self._sender()
        time.sleep(share * self._seen.typical_s)
        if sender.look() is None:
            sender.signal(signal.SIGKILL)
        killed = self._finish(sender).ending == "killed"
        self._seen.kills["any instant"] += killed
        self._seen.counts["ended before its instant"] += not killed

    def _stop_somewhere(self, strike: Strike) -> Sender | None:
        """A sender that stands still; None where none came to the point, or it had ended before its instant."""
        for _ in range(REACH_RUNS if strike.point else 1):
            if strike.point is not None:
                sender = self._sender(f"{strike.point}:{strike.nth}", stops=True)
            else:
                sender = self._sender()
                time.sleep(strike.share * self._seen.typical_s)
                if sender.look() is None:
                    sender.signal(signal.SIGSTOP)
            if self._finish(sender).ending == "stopped":
                return sender
            self._world.pass_time(REACH_S)
        self._seen.counts[f"{strike.kind}: ended before"] += 1
        return None

    def _take_over(self, first: Sender) -> None:
        """The first one's connections are cut, a second sender works to its end, and then the first wakes up: where it
        had begun an epoch, that is over, and nothing of it may pass any more."""
        world = self._world
        began = world.holds_epoch(first)
        world.end_sessions()
        world.pass_time(3.0)
        self._finish(self._sender())
        world.venue.ask("DELETE", "faults")
        woken_ns = self._moment()
        first.signal(signal.SIGCONT)
        self._finish(first)
        if began:
            self._seen.counts["superseded, and woken"] += 1
            self._demand(self._sent_after(woken_ns), "by a sender that was superseded")

    def _sender(self, at: str | None = None, *, stops: bool = False) -> Sender:
        sender = self._world.sender(at, stops=stops)
        self._senders.append(sender)
        return sender

    def _finish(self, sender: Sender) -> Told:
        told = sender.wait(PATIENCE_S)
        if told.ending == "ended" and "failed" in told.result:
            self._seen.counts[f"a run failed: {str(told.result['failed']).partition(':')[0]}"] += 1
        return told

    def _stop(self, mandate: str, planned: Round) -> None:
        """By a command or by a file."""
        self._stopped_ns = self._moment()
        if planned.pick < 0.5:
            self._world.command(mandate)
        else:
            self._world.stop_by_file(mandate)

    def _moment(self) -> int:
        """In the venue's nanoseconds: later than all that was sent so far, earlier than all that will be."""
        self._world.pass_time(SOON_S)
        moment_ns = int(self._world.venue.now * NS)
        self._world.pass_time(SOON_S)
        return moment_ns

    # --- healing ---

    def _heal(self, planned: Round) -> None:
        """No more trouble, but for the first run's: within bounded virtual time all is known and protected."""
        if planned.situation == "halt":
            self._finish(self._sender())
            self._demand(self._sent_after(self._stopped_ns), "after a halt")
            self._resume()
        self._run_until_known(planned)
        if planned.situation == "kill":
            self._demand(self._sent_after(self._stopped_ns, "buy"), "after a kill")
        if planned.situation in ("kill", "flatten"):
            self._resume()
        self._demand(broken_laws_when_settled(*self._truth_and_ledger()), "when settled")

    def _resume(self) -> None:
        self._world.lift_file()
        self._world.command("resume")

    def _sent_after(self, since_ns: int, side: str | None = None) -> list[str]:
        return sent_since(self._world.venue.truth(ACCOUNT), since_ns, side)

    def _run_until_known(self, planned: Round | None) -> None:
        world, seen = self._world, self._seen
        why: list[str] = []
        for number in range(1, HEAL_RUNS + 1):
            if number == 2:
                world.venue.ask("DELETE", "faults")
            world.pass_time(SOON_S if number == 1 else HEAL_S)
            told = self._finish(self._sender())
            world.settle()
            failed = told.ending != "ended" or told.result.get("status") == "busy" or bool(
                {"failed", "failures"} & told.result.keys())  # fmt: skip
            if not failed and number > 1:
                seen.runs_s.append(told.seconds)
            truth, ledger = self._truth_and_ledger()
            why = [f"the run: {told}"] if failed else undecided(ledger["orders"])
            why += [*unprotected(truth, ledger["positions"]), *unmatched(ledger["reconciliation"])]
            if planned is not None and planned.situation == "flatten":
                why += [f"{h.instrument.symbol} is held" for h in world.holdings() if self._worth(h) >= SMALLEST]
            if not why:
                world.venue.ask("DELETE", "faults")
                seen.counts[f"all known after {number} {'run' if number == 1 else 'runs'}"] += planned is not None
                return
        raise Violation(f"not healed after {HEAL_RUNS} runs ({HEAL_RUNS * HEAL_S:.0f} virtual seconds): {why}")

    def _truth_and_ledger(self) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
        ledger = {name: self._world.rows(name) for name in LEDGER}
        return self._world.venue.truth(ACCOUNT), ledger

    def _demand(self, wrong: list[str], when: str) -> None:
        if wrong:
            raise Violation(f"{when}: {'; '.join(wrong)}")


def _either(planned: Round) -> str:
    return SYMBOLS[int(planned.pick * 997) % len(SYMBOLS)]


SITUATIONS: dict[Situation, Callable[[Stage, Round], None]] = {
    "connect": Stage._connect,
    "opening": Stage._opening,
    "entry": Stage._entry,
    "part": Stage._part,
    "exit": Stage._exit,
    "flatten": Stage._flatten,
    "stopped": Stage._stopped,
    "kill": Stage._kill,
    "halt": Stage._wishes,
    "money": Stage._money,
}
