"""One cancels the other on Binance, through unmodified ccxt: the sender's own one (decision 036), dead or alive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from policy.execution import crashpoints
from policy.execution.desk import Row
from policy.execution.venues.ccxt_trading import CcxtTrading
from policy.execution.venues.protocol import Credentials, TakeNonce, TradingVenue
from shared.settings import Settings
from shared.wallets_file import WalletEntry
from tests.crash.schedules import Killed
from tests.exchange_emulator.server import SYMBOLS, Emulator
from tests.helpers import DatabaseFor
from tests.policy.engine_venue import ACCOUNT, KEY, EngineClock
from tests.policy.live_world import LiveWorld
from tests.policy.test_live_brackets import enter_with_target, pass_bars, resting, target_legs


@dataclass
class BinanceWorld(LiveWorld):
    """A live wallet at the emulated Binance, asked over HTTP."""

    emulator: Emulator | None = None

    def _begin(self) -> None:
        assert self.emulator is not None
        self.clock, self.market, self.engine = self.emulator.clock, self.emulator.market, self.emulator.engine

    def _open_venue(self, wallet: Row, take_nonce: TakeNonce) -> tuple[TradingVenue, WalletEntry]:
        assert self.emulator is not None
        credentials, clock = Credentials(KEY, "c2VjcmV0"), EngineClock(self.clock.now)
        return CcxtTrading(credentials, take_nonce, SYMBOLS, clock, self.emulator.binance_url), self._entry()


@pytest.fixture
def world(database_for: DatabaseFor, settings: Settings) -> Iterator[BinanceWorld]:
    """Beside what is traded there are coins that are not ours: a sale of too much would find them."""
    with Emulator(SYMBOLS) as emulator:
        made = BinanceWorld(database_for, settings, venue="binance", emulator=emulator)
        made.engine.accounts.deposit(ACCOUNT, "BTC", Decimal(2))
        made.pass_time(60)
        made.send()  # the account is known
        yield made


def sold(world: LiveWorld) -> Decimal:
    return sum((f.quantity for f in world.engine.view(ACCOUNT).fills if f.side == "sell"), Decimal(0))


def stop_states(world: LiveWorld) -> list[Any]:
    return [o.state for o in world.venue_orders() if o.type == "stop"]


@pytest.mark.parametrize("dies_at", [None, "cancel.after_request", "send.after_request", "account.after_fill"])
def test_a_target_that_is_filled_ends_the_stop_also_after_a_restart(world: BinanceWorld, dies_at: str | None) -> None:
    bars, _ = enter_with_target(world)
    bought = world.position()
    assert [order.remaining for order in resting(world)] == [bought]
    pass_bars(world, bars)

    def hook(name: str) -> None:
        if name == dies_at:
            raise Killed

    crashpoints.hook = hook
    try:
        if dies_at is None:
            world.send()
        else:
            with pytest.raises(Killed):
                world.send()
    finally:
        crashpoints.hook = None
        world.database_for("sender").close()
    for _ in range(4 if dies_at else 0):
        world.pass_time(20)
        world.send()
        assert sum((o.remaining for o in resting(world)), Decimal(0)) + sold(world) <= bought
    assert len(target_legs(world)) == 1
    assert sold(world) + sum((o.remaining for o in resting(world)), Decimal(0)) == bought
    assert world.position() == bought - sold(world)
    if dies_at != "cancel.after_request":  # before the sale: what is held has its stop again
        assert (sold(world), stop_states(world)) == (bought, ["canceled"])


def test_a_stop_that_is_filled_ends_the_target_also_after_a_restart(world: BinanceWorld) -> None:
    bars, _ = enter_with_target(world)
    bought, (stop,) = world.position(), resting(world)
    world.engine.force_fill(stop.number)
    pass_bars(world, bars)
    world.send()  # a new process
    world.pass_time(20)
    world.send()
    assert (sold(world), world.position(), resting(world), target_legs(world)) == (bought, Decimal(0), [], [])
    assert world.working() == []
