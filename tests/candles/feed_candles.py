"""A short market, as a stream tells it and as REST serves it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from candles.feed_state import Pace, Span
from shared.exchanges.protocol import CandleUpdate
from shared.rows import Candles
from tests.helpers import random_candles

STEP, HOUR = 300, 3600
START = 1_700_006_400  # a whole hour
GRACE = 10.0
PACE = Pace(STEP, HOUR, GRACE, 60.0, depth=719)
TRADES = 3  # updates of one candle


def market(n: int, absent: frozenset[int] = frozenset()) -> Candles:
    """The candles that close after START; those of the intervals in ``absent`` had no trade."""
    candles = random_candles(n, STEP, seed=3, end=START + n * STEP)
    candles = replace(candles, trades=np.full(n, TRADES))
    return candles[np.array([i not in absent for i in range(n)])]


def row_of(candles: Candles, i: int) -> tuple[float, ...]:
    return tuple(getattr(candles, name)[i].item() for name in Candles.__slots__)


def rows_of(candles: Candles) -> dict[int, tuple[float, ...]]:
    return {int(candles.as_of[i]): row_of(candles, i) for i in range(len(candles))}


def updates_of(row: tuple[float, ...]) -> list[CandleUpdate]:
    """The states of one candle, trade by trade: the last is the whole truth."""
    as_of, open_, high, low, close, volume, _ = row
    states = [(open_, open_, open_, open_, volume / 4), (open_, high, low, low, volume / 2),
              (open_, high, low, close, volume)]  # fmt: skip
    return [CandleUpdate("A", int(as_of) - STEP, *state, i + 1) for i, state in enumerate(states)]


def before() -> Candles:
    """What was stored up to START."""
    return random_candles(5, STEP, seed=3, end=START)


def served(truth: Candles, span: Span) -> Candles:
    everything = Candles.concatenate([before(), truth])
    return everything[(everything.as_of > span.since) & (everything.as_of <= span.until)]


def spiked(truth: Candles, as_of: int) -> Candles:
    hit = truth.as_of == as_of
    return replace(truth, high=np.where(hit, truth.high * 10, truth.high),
                   close=np.where(hit, truth.close * 10, truth.close))  # fmt: skip
