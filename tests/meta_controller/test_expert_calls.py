from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from meta_controller.controller import HORIZONS_S
from meta_controller.expert_calls import Fit, Fits, blocks, call_block
from meta_controller.market_index import BLOCK_S, LEAST_BARS, MarketHistory
from meta_controller.regimes.expert import CLASSES, FIT_S, Calls, Expert
from tests.meta_controller.markets import HOUR_S, START, WEEK, grid_of, wandering

MONTH = -(-START // FIT_S) * FIT_S  # fits are due here


def call(history: MarketHistory, parameters: Mapping[str, Any], bars: int) -> Calls:
    return np.full((bars, len(HORIZONS_S), CLASSES), 1 / 3)


def learn(past: MarketHistory) -> dict[str, Any]:
    return {"until": int(past.as_of[-1])}


SLOW = {"slow": Expert(call, learn, least_bars=3 * WEEK)}


def fitted(fits: Fits, first: int, weeks: int, blocks_at: list[int]) -> list[int | None]:
    grid = grid_of(wandering(weeks * WEEK), first=first + HOUR_S)
    found = [fits.newest("slow", grid, at) for at in blocks_at]
    return [None if fit is None else fit.fitted_at for fit in found]


def test_a_fit_stands_for_four_weeks_and_knows_nothing_after_it() -> None:
    fits = Fits({}, SLOW)
    weeks = [MONTH + k * BLOCK_S for k in range(5)]
    assert fitted(fits, MONTH - 4 * BLOCK_S, 10, weeks) == [MONTH] * 4 + [MONTH + FIT_S]
    assert [(fit.fitted_at, fit.parameters["until"]) for fit in fits.new] == [
        (MONTH, MONTH), (MONTH + FIT_S, MONTH + FIT_S),
    ]  # fmt: skip


def test_while_there_is_too_little_on_the_month_a_week_has_its_own_fit() -> None:
    fits = Fits({}, SLOW)
    weeks = [MONTH + k * BLOCK_S for k in range(1, 4)]
    assert fitted(fits, MONTH - 2 * BLOCK_S, 10, weeks) == [
        None,
        *weeks[1:],
    ]  # a bar short of three weeks is too little
    assert [fit.fitted_at for fit in fits.new] == weeks[1:]


def test_a_stored_fit_is_used_as_it_is() -> None:
    stored = Fit("slow", MONTH, 7, {"until": 1})
    fits = Fits({("slow", MONTH): stored}, SLOW)
    grid = grid_of(wandering(6 * WEEK), first=MONTH - 4 * BLOCK_S + HOUR_S)
    assert fits.newest("slow", grid, MONTH + BLOCK_S) is stored
    assert fits.new == []


def test_a_span_is_called_block_by_block_and_every_bar_once() -> None:
    first, last = START - 5 * HOUR_S, START + 2 * BLOCK_S + 3 * HOUR_S
    found = list(blocks(first, last))
    assert [start for start, _, _ in found] == [START - BLOCK_S, START, START + BLOCK_S, START + 2 * BLOCK_S]
    assert [(a, b) for _, a, b in found] == [
        (first, START), (START + 1, START + BLOCK_S), (START + BLOCK_S + 1, START + 2 * BLOCK_S),
        (START + 2 * BLOCK_S + 1, last),
    ]  # fmt: skip


def test_who_has_no_fit_abstains_and_bars_before_the_least_are_left_out() -> None:
    grid = grid_of(wandering(2 * WEEK), first=START + HOUR_S)
    last = START + (LEAST_BARS + 30) * HOUR_S
    experts = SLOW | {"still": Expert(call)}
    block = call_block(grid, START + BLOCK_S, last - 9 * HOUR_S, last, Fits({}, experts), experts)
    assert list(block.calls) == ["still"]
    assert block.as_of.tolist() == [last - k * HOUR_S for k in range(9, -1, -1)]
    early = call_block(grid, START, START + HOUR_S, last, Fits({}, experts), experts)
    assert early.bars == 30  # as many closes make one return fewer
