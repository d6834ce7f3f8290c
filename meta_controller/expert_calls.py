"""The experts over a span: fits where they are due, calls for every bar. Pure; the job reads and writes.

Block by block: a block's calls come from its own history and from parameters fitted before it, so a batch pass over
years makes the calls that hourly runs would have made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from meta_controller.market_index import (
    BLOCK_S,
    LEAST_BARS,
    Grid,
    MarketHistory,
    ShortHistory,
    block_start,
    index_history,
)
from meta_controller.regimes import EXPERTS
from meta_controller.regimes.expert import FIT_S, Calls, Expert
from shared.rows import IntArray

FitKey = tuple[str, int]  # expert, fitted_at in Unix seconds


@dataclass(frozen=True, slots=True)
class Fit:
    expert: str
    fitted_at: int
    bars: int
    parameters: Mapping[str, Any]


class Fits:
    """What the experts have learnt: stored fits are used as they are, missing ones are made and kept in ``new``."""

    def __init__(self, stored: Mapping[FitKey, Fit], experts: Mapping[str, Expert] = EXPERTS) -> None:
        self._known = dict(stored)
        self._experts = experts
        self._short: set[FitKey] = set()
        self.new: list[Fit] = []

    def newest(self, name: str, grid: Grid, start: int) -> Fit | None:
        """The fit that ``name`` calls the block at ``start`` with: of the last multiple of FIT_S, or of the block's
        start while there was too little to learn from; None: too little even then."""
        for at in (start // FIT_S * FIT_S, start):
            if fit := self._fit(name, grid, at):
                return fit
        return None

    def _fit(self, name: str, grid: Grid, at: int) -> Fit | None:
        key = (name, at)
        if key not in self._known and key not in self._short:
            self._make(name, grid, at)
        return self._known.get(key)

    def _make(self, name: str, grid: Grid, at: int) -> None:
        expert = self._experts[name]
        try:
            past = index_history(grid, at, at)
        except ShortHistory:
            self._short.add((name, at))
            return
        if expert.fit is None or len(past) < expert.least_bars:
            self._short.add((name, at))
            return
        learnt = expert.fit(past)
        if learnt is None:
            self._short.add((name, at))
            return
        stored = json.loads(json.dumps(learnt, allow_nan=False))  # as it comes back from the database
        self._known[name, at] = Fit(name, at, len(past), stored)
        self.new.append(self._known[name, at])


@dataclass(frozen=True, slots=True)
class BlockCalls:
    """The calls for the last ``bars`` of a block's history: by expert [bars, horizons, 6]; abstainers are absent."""

    history: MarketHistory
    bars: int
    calls: dict[str, Calls]

    @property
    def as_of(self) -> IntArray:
        return self.history.as_of[len(self.history) - self.bars :]


def blocks(first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """(block's start, first moment, last moment) for each week that [first, last] touches, in Unix seconds."""
    while first <= last:
        start = block_start(first)
        end = min(start + BLOCK_S, last)
        yield start, first, end
        first = end + 1


def call_block(grid: Grid, start: int, first: int, last: int, fits: Fits, experts: Mapping[str, Expert]) -> BlockCalls:
    """All experts' calls for the bars that close in [first, last], which lie in the block at ``start``.

    ShortHistory where there is no index. Bars before the index has LEAST_BARS are left out.
    """
    history = index_history(grid, start, last)
    step = history.timeframe_s
    bars = min(len(history) - LEAST_BARS + 1, (last // step) - (first - 1) // step)
    calls: dict[str, Calls] = {}
    if bars < 1:
        return BlockCalls(history, 0, calls)
    for name, expert in experts.items():
        if expert.fit is None:
            calls[name] = expert.call(history, {}, bars)
        elif fit := fits.newest(name, grid, start):
            calls[name] = expert.call(history, fit.parameters, bars)
    return BlockCalls(history, bars, calls)
