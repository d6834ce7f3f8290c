"""`make reconcile` and the dry run: they look, tell, and send nothing."""

from __future__ import annotations

from decimal import Decimal

import pytest

from policy.execution import run_reconcile
from shared.job import JobError
from shared.settings import Settings
from tests.helpers import DatabaseFor
from tests.policy.engine_venue import ACCOUNT, EngineClock
from tests.policy.live_world import LiveWorld

pytestmark = pytest.mark.usefixtures("rolled_back")


@pytest.fixture
def world(database_for: DatabaseFor, settings: Settings) -> LiveWorld:
    made = LiveWorld(database_for, settings)
    made.intend("buy", "0.5")
    made.send()
    made.pass_time(60)
    return made


def test_what_agrees_is_counted_and_what_does_not_is_named(
    world: LiveWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, database = EngineClock(world.clock.now), world.database_for("sender")
    assert run_reconcile.run_once(clock, database, world.live_wallets()).result == {"wallets": 1}
    assert "unmatched 0" in capsys.readouterr().out
    flow = "UPDATE cash_flows SET amount = amount + 1 WHERE kind = 'opening' AND managed"
    world.database_for("owner").execute(flow)
    with pytest.raises(JobError, match="main: ledger and account do not match"):
        run_reconcile.run_once(clock, database, world.live_wallets())
    told = capsys.readouterr().out
    assert "unmatched 1" in told
    assert "balance  USD:" in told


def test_a_dry_run_tells_what_would_be_sent_and_sends_nothing(
    world: LiveWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    world.intend("sell", "0.2")
    world.intend("sell", "0.7")
    world.intend("buy", "0.1", code="other")
    before = world.venue_orders(), world.rows("SELECT id FROM order_events")
    world.live_wallets().rehearse(EngineClock(world.clock.now), world.database_for("sender"))
    assert (world.venue_orders(), world.rows("SELECT id FROM order_events")) == before
    told = capsys.readouterr().out
    assert told.count("would be sent") == 1
    assert "would not be sent: sells more than is held" in told
    assert "would not be sent: it was decided by code other" in told
    assert f"{Decimal('0.5')}" in told
    assert len(world.engine.view(ACCOUNT).orders) == len(before[0])
