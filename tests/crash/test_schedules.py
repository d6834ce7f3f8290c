"""A few dozen schedules of what `python -m tests.crash` runs by the thousand."""

from __future__ import annotations

from collections import Counter

import pytest

from shared.settings import Settings
from tests.crash.schedules import plan, run
from tests.helpers import DatabaseFor
from tests.policy.live_world import LiveWorld


@pytest.mark.parametrize("first", [0, 1000])
def test_whatever_dies_each_intent_is_one_order(database_for: DatabaseFor, settings: Settings, first: int) -> None:
    world, seen = LiveWorld(database_for, settings), Counter[str]()
    world.send()
    for seed in range(first, first + 30):
        run(world, plan(seed), seen)
    assert seen["schedules"] == 30
    assert sum(seen[death] for death in ("killed", "disconnected", "paused")) >= 5
