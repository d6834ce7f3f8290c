"""What the trader is told at a moment: the newest row that was known by then, and nothing that is stale."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from policy import inputs
from policy.inputs import Inputs
from policy.observation import HORIZONS_S
from policy.risk.context import NO_LIMITS
from shared.rows import Candles, Instrument, MarketState
from tests.helpers import NOON
from tests.policy.synthetic import make_config, make_state

HOUR = timedelta(hours=1)
INSTRUMENT = Instrument(1, "test", "A/USDT", 3600, Decimal("0.01"), Decimal("0.00001"), Decimal(10), "real")
LATE = (0, 1, 4)  # hours after noon that rows speak about; that of 1 was only known at half past 2
KNOWN = {0: 0.0, 1: 2.5, 4: 4.0}


class Rows:
    """A database that has states and configs only."""

    def fetch_rows(self, kind: type, query: Any, parameters: Any) -> Sequence[Any]:
        if kind is MarketState:
            return [
                make_state(h, as_of=NOON + k * HOUR, known_from=NOON + KNOWN[k] * HOUR, conviction=k / 10)
                for k in LATE
                for h in HORIZONS_S
            ]
        return [
            make_config(
                as_of=NOON + k * HOUR, known_from=NOON + KNOWN[k] * HOUR, valid_until=NOON + 9 * HOUR,
                risk_aversion=1.0 + k,
            )
            for k in LATE
        ]  # fmt: skip


def told(
    monkeypatch: pytest.MonkeyPatch, hours: float, stale_after: timedelta = 9 * HOUR, in_sample: bool = False
) -> tuple[float | None, float]:
    """Which hour's market state and config are used so many hours after noon."""
    monkeypatch.setattr(inputs, "read_candles", lambda *_: Candles.empty())
    database: Any = Rows()
    read = Inputs(
        database, [INSTRUMENT], 3600, "live", None, NO_LIMITS, NOON, NOON + 6 * HOUR, int(stale_after.total_seconds()),
        ignore_known_from=in_sample,
    )  # fmt: skip
    market = read.at(NOON + hours * HOUR)
    state = None if market.states is None else round(market.states[0].conviction * 10)
    return state, round(market.config.risk_aversion - 1.0)


@pytest.mark.parametrize(("hours", "expected"), [(0, 0), (1, 0), (2, 0), (3, 1), (4, 4), (5, 4)])
def test_a_row_counts_from_when_it_was_known(monkeypatch: pytest.MonkeyPatch, hours: int, expected: int) -> None:
    assert told(monkeypatch, hours) == (expected, expected)


@pytest.mark.parametrize(("hours", "expected"), [(0, 0), (1, 1), (3, 1), (4, 4)])
def test_in_sample_only_when_it_was_known_is_ignored(
    monkeypatch: pytest.MonkeyPatch, hours: int, expected: int
) -> None:
    """A row never speaks at a moment before its own."""
    assert told(monkeypatch, hours, in_sample=True) == (expected, expected)


def test_a_state_that_is_too_old_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [told(monkeypatch, hours, stale_after=HOUR)[0] for hours in (0, 1, 2, 3, 4, 5, 6)] == [
        0, 0, None, None, 4, 4, None,
    ]  # fmt: skip
