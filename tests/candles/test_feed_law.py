"""Whatever mixture of news, losses and answers comes: what is stored at the end is the truth."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from candles.feed_state import SeriesState
from shared.exchanges.protocol import CandleUpdate
from shared.rows import Candles
from tests.candles.feed_candles import (
    GRACE,
    PACE,
    START,
    STEP,
    TRADES,
    before,
    market,
    row_of,
    rows_of,
    served,
    spiked,
    updates_of,
)

FATES = ("ok", "ok", "ok", "drop", "twice", "swap", "trouble", "lost", "back")
ANSWERS = ("ok", "ok", "fails", "hole", "spike", "wrong", "refused", "late")


@dataclass
class World:
    """The venue as it is, what it tells, and what was stored of it."""

    truth: Candles
    state: SeriesState = field(default_factory=lambda: SeriesState(PACE, START, before()))
    stored: dict[int, tuple[float, ...]] = field(default_factory=lambda: rows_of(before()))
    denied: set[int] = field(default_factory=set)  # closes that an answer left out
    monotonic: float = 0.0

    def attend(self, now: float, answer: str) -> None:
        self.monotonic += 0.7 * GRACE
        self.store(self.state.take(now).store, now)
        span = self.state.ask(now, self.monotonic)
        if span is None:
            return
        if answer == "fails":
            self.state.failed(self.monotonic)
            return
        assert span.until <= now
        verdict = self.state.answered(span, self.told(served(self.truth, span), answer), now, self.monotonic)
        self.store(verdict.store, now)

    def told(self, candles: Candles, answer: str) -> Candles:
        if not len(candles) or answer == "ok":
            return candles
        at = len(candles) // 2
        if answer in ("hole", "late"):
            at = at if answer == "hole" else len(candles) - 1
            self.denied.add(int(candles.as_of[at]))
            return candles[np.arange(len(candles)) != at]
        hit = np.arange(len(candles)) == at
        if answer == "spike":
            return spiked(candles, int(candles.as_of[at]))
        if answer == "refused":
            return replace(candles, volume=np.where(hit, -1.0, candles.volume))
        return replace(candles, volume=np.where(hit, candles.volume * 0.5, candles.volume))

    def store(self, candles: Candles, now: float) -> None:
        for i in range(len(candles)):
            row = row_of(candles, i)
            as_of = int(row[0])
            assert as_of <= now, "an open candle"
            assert self.stored.get(as_of) != row, "stored twice"
            if as_of not in self.stored:
                in_order = as_of > max(self.stored)
                assert in_order or as_of in self.denied, "out of order, though the venue never denied it"
            self.stored[as_of] = row

    def hear(self, update: CandleUpdate, now: float, fate: str) -> None:
        if fate == "trouble":
            self.state.doubt(now)
        elif fate == "lost":
            self.state.lost()
        elif fate == "back":
            self.state.connected(now)
        if fate not in ("drop", "lost"):
            self.state.saw(update)
        if fate == "twice":
            self.state.saw(update)


@settings(max_examples=100, deadline=None)
@given(
    absent=st.frozensets(st.integers(1, 16), max_size=3),
    fates=st.lists(st.sampled_from(FATES), min_size=18 * TRADES, max_size=18 * TRADES),
    answers=st.lists(st.sampled_from(ANSWERS), min_size=18 * TRADES, max_size=18 * TRADES),
)
def test_whatever_is_lost_on_the_way_the_series_ends_as_the_truth(
    absent: frozenset[int], fates: list[str], answers: list[str]
) -> None:
    n, faulty = 50, 18
    world = World(market(n, absent))
    world.state.connected(START + 1)
    held: list[CandleUpdate] = []
    for i in range(len(world.truth)):
        interval = int(world.truth.as_of[i] - START) // STEP - 1
        for j, update in enumerate(updates_of(row_of(world.truth, i))):
            now = START + interval * STEP + 60 + 80 * j
            place = interval * TRADES + j
            fate, answer = (fates[place], answers[place]) if interval < faulty else ("ok", "ok")
            if interval == faulty and j == 0:
                world.state.connected(now)
            if fate == "swap":
                held.append(update)
                continue
            world.hear(update, now, fate)
            while held:
                world.hear(held.pop(), now, "ok")
            world.attend(now, answer)
    for extra in range(6):  # the venue's committed candles after the last close
        world.attend(START + n * STEP + 20 * extra, "ok")
    assert world.stored == rows_of(Candles.concatenate([before(), world.truth]))
