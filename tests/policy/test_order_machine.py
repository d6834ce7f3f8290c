"""Whatever happens to orders, in whatever order: hypothesis draws the events, and the laws of ``check`` hold.

120 short lives here; ``ORDER_MACHINE_EXAMPLES=10000`` in the environment makes it the long form (`make test-long`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from policy.execution import crashpoints, sender
from shared.embedded_db import ensure_running
from shared.settings import Settings
from tests.crash.schedules import LATEST_NS, Killed
from tests.exchange_emulator.records import Refused, Request
from tests.policy.engine_venue import ACCOUNT, EngineClock, EngineVenue, Trouble
from tests.policy.live_world import SYMBOLS, LiveWorld, check
from tests.policy.one_connection import OneConnection, open_superuser

EXAMPLES = int(os.environ.get("ORDER_MACHINE_EXAMPLES", "120"))  # noqa: TID251 (of the tests, not of a job)
STEPS = 6
DUST = Decimal(10)  # in quote: the smallest order that the venue takes
HEAL_S, HEAL_RUNS = 25.0, 8  # virtual seconds between runs, and how many it may take until all is known
POINTS = [point for point in crashpoints.POINTS if not point.startswith(("connect.", "intent."))]
TROUBLES: tuple[Trouble, ...] = ("lost", "unheard", "refused", "late")
ASKED = ("open_orders", "closed_orders", "fills", "balances", "ledger")
ACTED = ("place", "cancel", "amend")


class OrderMachine(RuleBasedStateMachine):
    """One live wallet's life on the emulator's engine, in a transaction that is rolled back."""

    shared: ClassVar[OneConnection]
    app: ClassVar[Settings]

    def __init__(self) -> None:
        super().__init__()
        self._open = ExitStack()
        self._open.enter_context(self.shared.example())
        crashpoints.hook = None
        self.world = LiveWorld(self.shared.database_for, self.app)
        self.halted_ns: int | None = None
        self.stopped_ns: int | None = None

    @initialize(amend=st.booleans(), everything=st.booleans())
    def connect(self, amend: bool, everything: bool) -> None:
        self.world.amend = amend
        self.world.managed = "all" if everything else Decimal(60_000)
        self.world.send()

    # --- the trader and the operator ---

    @rule(side=st.sampled_from(["buy", "buy", "sell"]), symbol=st.sampled_from(SYMBOLS), lots=st.integers(1, 40),
          lifetime_s=st.sampled_from([3.0, 600.0]))  # fmt: skip
    def intend(self, side: str, symbol: str, lots: int, lifetime_s: float) -> None:
        self.world.intend(side, str(Decimal(lots) / 100), symbol, lifetime_s)

    @rule(side=st.sampled_from(["buy", "sell"]), away=st.sampled_from([0.9, 0.999, 1.001, 1.1]),
          rests=st.sampled_from(["gtc", "ioc"]))  # fmt: skip
    def intend_at_a_limit(self, side: str, away: float, rests: str) -> None:
        limit = Decimal(int(self.world.close_of("BTC/USD") * away))
        self.world.intend(side, "0.2", type="limit", limit_price=limit, time_in_force=rests)

    @rule(what=st.sampled_from(["pause", "kill", "flatten", "halt"]))
    def stop(self, what: str) -> None:
        self.world.command(what)
        self.stopped_ns = self.stopped_ns or self.world.engine.now_ns()
        if what == "halt":
            self.halted_ns = self.halted_ns or self.world.engine.now_ns()

    @precondition(lambda self: self.stopped_ns is not None)
    @rule()
    def resume(self) -> None:
        self._nothing_came_after_a_stop()
        self.world.command("resume")
        self.halted_ns = self.stopped_ns = None

    @rule(amount=st.sampled_from([-2000, -1, 1, 500]))
    def pay(self, amount: int) -> None:
        pay = self.world.engine.accounts.deposit if amount > 0 else self.world.engine.accounts.withdraw
        try:
            pay(ACCOUNT, "USD", Decimal(abs(amount)))
        except Refused:
            return  # it is all in use

    # --- the sender, and what becomes of it ---

    @rule(asked=st.sampled_from(ACTED + ASKED), trouble=st.sampled_from(TROUBLES), nth=st.integers(1, 2))
    def send_in_trouble(self, asked: str, trouble: Trouble, nth: int) -> None:
        def prepare(venue: EngineVenue) -> None:
            venue.trouble = lambda kind, k: trouble if (kind, k) == (asked, nth) else "none"

        self._send(prepare)

    @rule(lag_s=st.sampled_from([0.0, 0.0, 3.0, 40.0]), repeats=st.sampled_from([1, 2]))
    def send(self, lag_s: float, repeats: int) -> None:
        def prepare(venue: EngineVenue) -> None:
            venue.lag_s, venue.repeats = lag_s, repeats

        self._send(prepare)

    @rule(point=st.sampled_from(POINTS), nth=st.integers(1, 2), waits=st.booleans())
    def die(self, point: str, nth: int, waits: bool) -> None:
        """The process ends there; or it falls asleep, another takes over, and it wakes up."""
        passed = 0

        def hook(name: str) -> None:
            nonlocal passed
            passed += name == point
            if name != point or passed != nth:
                return
            crashpoints.hook = None
            if not waits:
                raise Killed
            self.shared.careful = True  # what it writes when it wakes up may be refused
            self.world.pass_time(4.0)
            live = self.world.live_wallets()
            sender.run_once(EngineClock(self.world.clock.now), self.world.database_for("sender"), live)

        crashpoints.hook = hook
        try:
            self._send(lambda _venue: None)
        except Killed:
            self.shared.forget()
        finally:
            crashpoints.hook, self.shared.careful = None, False

    # --- the venue, and other people ---

    @rule(seconds=st.sampled_from([1.0, 20.0, 70.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.world.settle()

    @rule(share=st.sampled_from([1, 3]), newest=st.booleans())
    def fill(self, share: int, newest: bool) -> None:
        """One that rests is filled, a third of it or all."""
        resting = [o for o in self.world.venue_orders() if o.is_open]
        if resting:
            order = resting[-1 if newest else 0]
            lot = self.world.market.rules(order.symbol).lot_size
            self.world.engine.force_fill(order.number, max(order.remaining / share // lot * lot, lot))

    @rule()
    def cancel_by_hand(self) -> None:
        resting = [o for o in self.world.venue_orders() if o.is_open]
        if resting:
            self.world.engine.cancel(ACCOUNT, resting[-1].number)

    @rule()
    def buy_by_hand(self) -> None:
        try:
            self.world.engine.place(ACCOUNT, Request("ETH/USD", "buy", "market", Decimal("0.05")))
        except Refused:
            return  # nothing is free for it

    # --- what must hold ---

    @invariant()
    def the_laws_hold(self) -> None:
        check(self.world, settled=False)
        for symbol in SYMBOLS:
            assert self.world.position(symbol) >= 0

    def teardown(self) -> None:
        try:
            self._nothing_came_after_a_stop()
            if self.stopped_ns is not None:
                self.world.command("resume")
            self._heal()
        finally:
            crashpoints.hook = None
            self._open.close()

    def _unprotected(self) -> str:
        """Of each position all rests in sales: in its stop, but for what other orders sell. What is not so."""
        for symbol in SYMBOLS:
            selling = [o for o in self.world.venue_orders() if o.is_open and o.side == "sell" and o.symbol == symbol]
            resting = sum((o.remaining for o in selling), Decimal(0))
            left = self.world.position(symbol) - resting
            if left < 0 or left * Decimal(repr(self.world.close_of(symbol))) >= DUST:
                return f"{symbol}: {self.world.position(symbol)} held, {resting} protected"
        return ""

    def _pending(self) -> list[dict[str, Any]]:
        """Orders of which it is not known how they stand at the venue."""
        return [o for o in self.world.working() if o["state"] in ("sending", "unknown", "canceling", "amending")]

    def _send(self, prepare: Callable[[EngineVenue], None]) -> dict[str, Any]:
        self.world.prepare = prepare
        try:
            return self.world.send().result
        finally:
            self.world.prepare = lambda _venue: None

    def _nothing_came_after_a_stop(self) -> None:
        """Of what is sent before, the venue may take some later: an unheard request in flight."""
        orders = [o for o in self.world.venue_orders() if o.client_id is not None]
        if self.stopped_ns is not None:
            assert not [o for o in orders if o.side == "buy" and o.opened_ns > self.stopped_ns + LATEST_NS]
        if self.halted_ns is not None:
            assert not [o for o in orders if o.opened_ns > self.halted_ns + LATEST_NS]

    def _heal(self) -> None:
        """No more trouble: within bounded time all is known, protected, and the ledger is the account's."""
        for number in range(HEAL_RUNS):
            self.world.pass_time(HEAL_S)
            result = self._send(lambda _venue: None)
            missing = self._unprotected()
            if number and not self._pending() and not result.get("failures") and not missing:
                break
        else:
            raise AssertionError(f"not known after {HEAL_RUNS} runs: {self.world.working()}, {result}; {missing}")
        check(self.world)


@pytest.fixture
def shared(home: Path, settings: Settings) -> Iterator[OneConnection]:
    server = ensure_running(home)
    one = open_superuser(server.url("postgres", server.superuser_password, settings.db_name))
    yield one
    one.raw.close()


def test_whatever_happens_to_orders_the_laws_hold(
    shared: OneConnection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OrderMachine, "shared", shared, raising=False)
    monkeypatch.setattr(OrderMachine, "app", settings, raising=False)
    logging.disable(logging.WARNING)  # a pass that ends early says so, thousands of times
    try:
        run_state_machine_as_test(
            OrderMachine,
            settings=given_settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                derandomize=True,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=(Phase.generate, Phase.shrink),
            ),
        )
    finally:
        logging.disable(logging.NOTSET)
