"""What the trader reads of one moment says the same as a span that ends at it, which is what a backtest reads."""

from __future__ import annotations

from datetime import timedelta

import pytest

from policy.inputs import DEFAULT_SOURCE, Inputs
from policy.observation import HORIZONS_S, Market
from policy.risk.context import OperatorLimits
from policy.run_trader import operator_limits
from shared.market_data import find_instruments
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor
from tests.policy.paper_world import CALM, HOUR, HOUR_S, A, PaperMarket, candles, insert_config, insert_state

pytestmark = pytest.mark.usefixtures("rolled_back")

MINUTE = timedelta(minutes=1)


@pytest.fixture
def market(database_for: DatabaseFor, settings: Settings) -> PaperMarket:
    market = PaperMarket(database_for, settings)
    market.store(A, HOUR_S, candles(NOON - len(CALM) * HOUR, HOUR_S, CALM))
    return market


def read(market: PaperMarket, operator: OperatorLimits, hours: int) -> Market:
    """The market at NOON, where that is the end of a span of so many hours."""
    database = market.database_for("policy")
    instruments = find_instruments(database, "test", [A])
    args = (
        database, instruments, HOUR_S, "live", None, operator, NOON - hours * HOUR, NOON, 6 * HOUR_S,
    )  # fmt: skip
    return Inputs(*args).at(NOON)


def test_one_moment_reads_the_newest_that_was_known_by_then_as_a_span_does(
    market: PaperMarket, settings: Settings
) -> None:
    operator = operator_limits(settings)
    for hours, known_after in ((3, 0 * HOUR), (2, HOUR), (1, HOUR + MINUTE), (0, MINUTE)):
        at = NOON - hours * HOUR
        for n, horizon_s in enumerate(HORIZONS_S):
            insert_state(market, at, horizon_s, known_from=at + known_after, conviction=0.1 * hours + 0.01 * n)
        insert_config(market, at, known_from=at + known_after, risk_aversion=1.0 + hours, valid_until=NOON + HOUR)
    once, span = read(market, operator, hours=0), read(market, operator, hours=3)
    assert (once.states, once.config) == (span.states, span.config)
    assert once.states is not None
    assert [round(state.conviction, 6) for state in once.states] == [0.2, 0.21]
    assert once.config.risk_aversion == 3.0


def test_what_is_not_yet_known_speaks_in_neither(market: PaperMarket, settings: Settings) -> None:
    operator = operator_limits(settings)
    for horizon_s in HORIZONS_S:
        insert_state(market, NOON, horizon_s, known_from=NOON + MINUTE)
    insert_config(market, NOON, known_from=NOON + MINUTE)
    once, span = read(market, operator, hours=0), read(market, operator, hours=3)
    assert (once.states, once.config) == (span.states, span.config)
    assert once.states is None
    assert once.config.source == DEFAULT_SOURCE
