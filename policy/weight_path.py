"""Weights given in advance, run through the kernel: what rules, baselines and shifted policies earn after costs.

The orders are planned by policy.decision_kernel and filled by shared.simulation, both compiled: a path of the trader's
own allowed weights gives the trader's own fills, bit for bit (tested). Half a million bars take some ten milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from policy.decision_kernel import Bools, Steering, full_weight, plan_order
from policy.execution.plan import TradingRules
from policy.simulator import BarGrid, Costs
from shared.rows import FloatArray, IntArray
from shared.simulation.kernel import (
    FEES,
    FILL_COLUMNS,
    SLIPPAGE,
    TOTALS,
    TRADED,
    Floats,
    Ints,
    advance_book,
    bar_years_sqrt,
    close_book,
    equity,
)

LEAVE = math.nan  # as a weight: whatever is held, stays


@dataclass(frozen=True, slots=True)
class Occasions:
    """T moments at which a book of N instruments may be changed, and what is known then.

    ``times`` [T], Unix seconds; ``price`` the newest closes, ``volatility`` annualised, ``band`` the change of weight
    below which nothing is traded, ``tradable`` whether the newest candle is there, [T, N]. Orders fill from ``delay_s``
    on, within ``step_s``; entries are at most ``max_order_notional`` of TradingRules.
    """

    times: IntArray
    price: FloatArray
    volatility: FloatArray
    band: FloatArray
    tradable: Bools
    delay_s: int
    step_s: int


class Tape(NamedTuple):
    """Bars [B, N] and occasions [T, N] as the compiled walk takes them. ``closed`` [T] bars have closed at an occasion;
    its orders are good from bar ``order_first`` to ``order_last`` [T]."""

    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    closed: Ints
    order_first: Ints
    order_last: Ints
    price: Floats
    volatility: Floats
    band: Floats
    tradable: Bools
    tick: Floats
    lot: Floats
    min_notional: Floats
    max_order_notional: float
    bar_years_sqrt: float


class Charges(NamedTuple):
    """``stop`` and ``target``: at an entry, how far below and above its price, as fractions; 0 for none."""

    fee_bps: float
    half_spread_bps: float
    impact: float
    stop: float
    target: float


class Room(NamedTuple):
    """One book as the kernel keeps books, [1] and [1, N], and what is written: equity at the occasions [T] and by bar
    [B], totals [1, TOTALS]."""

    cash: Floats
    held: Floats
    order: Floats
    order_first: Ints
    order_last: Ints
    order_volatility: Floats
    stop: Floats
    target: Floats
    slot: Ints
    mark: Floats
    totals: Floats
    equity_at: Floats
    equity_by_bar: Floats


@dataclass(frozen=True, slots=True)
class WeightPathRun:
    """``equity`` [T] at the occasions and ``equity_by_bar`` [B] at the closes, both before the end; ``marked`` is the
    last of it, ``closed`` what is left once every position is sold and charged. Fees, the value traded and what fills
    cost beyond their reference price are in quote, the closing included; so are ``trades``. ``fills`` as the kernel
    writes them, [F, FILL_COLUMNS], the closing ones last; empty unless asked for."""

    equity: FloatArray
    equity_by_bar: FloatArray
    marked: float
    closed: float
    fees: float
    traded: float
    slippage: float
    trades: int
    fills: FloatArray


def walk(tape: Tape, charges: Charges, weights: Floats, shift: int, room: Room, fill_out: Floats) -> tuple[float, int]:
    """One book through all bars; at occasion t it is steered to ``weights[(t + shift) % T]``, NaN leaving a position as
    it is: (equity at the end, before the closing; number of fills). ``fill_out``: as many rows as there are fills, or
    none. The closed equity is in ``room.cash``, but for what never had a price."""
    (open_, high, low, close, volume, closed, order_first, order_last, price, volatility, band, tradable, tick, lot,
     min_notional, max_order_notional, bar_years_sqrt_) = tape  # fmt: skip
    fee_bps, half_spread_bps, impact, stop_share, target_share = charges
    (cash, held, order, first, last, order_volatility, stop, target, slot, mark, totals, equity_at,
     equity_by_bar) = room  # fmt: skip
    bar, fills, moments, recording = 0, 0, len(closed), len(fill_out) > 0
    for t in range(moments + 1):
        end = closed[t] if t < moments else len(open_)
        if end > bar:
            fills += advance_book(
                0, cash, held, order, first, last, stop, target, slot, open_, high, low, close, volume,
                order_volatility, mark, bar, end, bar_years_sqrt_, fee_bps, half_spread_bps, impact, tick, lot,
                equity_by_bar, fill_out[fills:] if recording else fill_out, totals,
            )  # fmt: skip
            bar = end
        if t == moments:
            break
        worth = equity(cash[0], held[0], price[t])
        equity_at[t] = worth
        row = t + shift if t + shift < moments else t + shift - moments
        for n in range(mark.shape[1]):
            allowed, now = weights[row, n], price[t, n]
            if math.isnan(allowed) or order[0, n] != 0.0 or not tradable[t, n]:
                continue
            weight = held[0, n] * now / worth if held[0, n] > 0.0 and worth > 0.0 else 0.0
            quantity, _ = plan_order(
                allowed, weight, held[0, n], worth, now, lot[n], min_notional[n], band[t, n], max_order_notional
            )
            if quantity == 0.0:
                continue
            order[0, n], first[0, n], last[0, n] = quantity, order_first[t], order_last[t]
            order_volatility[0, n] = volatility[t, n]
            if held[0, n] == 0.0:
                stop[0, n] = now * (1.0 - stop_share) if stop_share > 0.0 else 0.0
                target[0, n] = now * (1.0 + target_share) if target_share > 0.0 else 0.0
    marked, closing = equity(cash[0], held[0], mark[0]), fill_out[fills:]
    for n in range(mark.shape[1]):
        if held[0, n] > 0.0 and not math.isnan(mark[0, n]):
            fills += 1
    close_book(
        0, cash, held, order, stop, target, slot, mark, len(open_) - 1, fee_bps, half_spread_bps, tick, lot, closing,
        totals,
    )  # fmt: skip
    return marked, fills


@cache
def compiled_walk() -> Callable[..., Any]:
    """``walk`` by numba; imported here, so that nobody else waits for it."""
    import sys

    from policy import decision_kernel
    from shared.simulation.compiled import compile_functions, compiled

    known = compiled | compile_functions(decision_kernel, ("plan_order",), compiled)
    made = compile_functions(sys.modules[__name__], ("walk",), known)
    walk_: Callable[..., Any] = made["walk"]
    return walk_


def bands_of_full_positions(volatility: FloatArray, steering: Sequence[Steering]) -> FloatArray:
    """The no-trade bands [T, N] of the trader's plan, under one steering a moment [T]."""
    bands, n = np.empty(volatility.shape), volatility.shape[1]
    for t, now in enumerate(steering):
        for k in range(n):
            bands[t, k] = now.band * min(full_weight(float(volatility[t, k]), n, now), now.max_position)
    return bands


def occasions_at_closes(grid: BarGrid, volatility: float | FloatArray = 0.0, band: float = 0.0) -> Occasions:
    """Every close of the grid as an occasion, filled at the next open: what a rule of the bars alone needs."""
    shape = grid.close.shape
    newest = np.maximum.accumulate(np.where(np.isnan(grid.close), 0, np.arange(shape[0])[:, None]), axis=0)
    closes = grid.start + grid.base_s * np.arange(1, shape[0] + 1, dtype=np.int64)
    return Occasions(
        times=closes,
        price=np.take_along_axis(grid.close, newest, axis=0),
        volatility=np.broadcast_to(np.asarray(volatility, dtype=np.float64), shape),
        band=np.broadcast_to(np.float64(band), shape),
        tradable=~np.isnan(grid.close),
        delay_s=0,
        step_s=grid.base_s,
    )


class WeightPaths:
    """Runs weight paths over the same bars, occasions and rules, one after the other, in the same memory.

    ValueError where shapes do not match.
    """

    def __init__(self, grid: BarGrid, rules: TradingRules, occasions: Occasions, capital: float = 10_000.0) -> None:
        shape = (len(occasions.times), grid.open.shape[1])
        for name in ("price", "volatility", "band", "tradable"):
            if getattr(occasions, name).shape != shape:
                raise ValueError(f"{name} must be {shape} as there are times and instruments, not "
                                 f"{getattr(occasions, name).shape}")  # fmt: skip
        self._shape, self._capital = shape, capital
        self._tape = _tape(grid, rules, occasions)
        self._room = _room(*shape, len(grid.open))
        self._walk = compiled_walk()

    def run(
        self, weights: FloatArray, costs: Costs, *, shift: int = 0, stop: float = 0.0, target: float = 0.0,
        fills: bool = False,
    ) -> WeightPathRun:  # fmt: skip
        """``weights`` [T, N] of equity, LEAVE (NaN) for leaving a position alone; ``shift``: at occasion t the weights
        of occasion (t + shift) % T. The run's curves are valid until the next run: copy what is to last."""
        if weights.shape != self._shape:
            raise ValueError(f"weights must be {self._shape} as there are times and instruments, not {weights.shape}")
        charges = Charges(costs.fee_bps, costs.slippage_bps, costs.impact, stop, target)
        arguments = (self._tape, charges, np.ascontiguousarray(weights), shift % max(self._shape[0], 1))
        fill_out = np.empty((0, FILL_COLUMNS))
        marked, trades = self._walk(*arguments, self._cleared(), fill_out)
        if fills:  # now that their number is known
            fill_out = np.empty((trades, FILL_COLUMNS))
            self._walk(*arguments, self._cleared(), fill_out)
        room = self._room
        return WeightPathRun(
            equity=room.equity_at, equity_by_bar=room.equity_by_bar, marked=marked,
            closed=equity(float(room.cash[0]), room.held[0], room.mark[0]), fees=float(room.totals[0, FEES]),
            traded=float(room.totals[0, TRADED]), slippage=float(room.totals[0, SLIPPAGE]), trades=trades,
            fills=fill_out,
        )  # fmt: skip

    def run_many(self, paths: Iterable[FloatArray], costs: Costs) -> Iterator[WeightPathRun]:
        """One run a path; each is valid until the next is asked for."""
        for weights in paths:
            yield self.run(weights, costs)

    def run_shifts(self, weights: FloatArray, shifts: Iterable[int], costs: Costs) -> Iterator[WeightPathRun]:
        """One run a circular shift of the same weights, likewise."""
        for shift in shifts:
            yield self.run(weights, costs, shift=int(shift))

    def _cleared(self) -> Room:
        room = self._room
        for array in (room.held, room.order, room.stop, room.target, room.totals):
            array[:] = 0.0
        room.cash[:] = self._capital
        room.mark[:] = np.nan
        return room


def run_weight_path(
    grid: BarGrid, rules: TradingRules, costs: Costs, occasions: Occasions, weights: FloatArray, *,
    capital: float = 10_000.0, shift: int = 0, fills: bool = False,
) -> WeightPathRun:  # fmt: skip
    """One path on its own; see WeightPaths."""
    return WeightPaths(grid, rules, occasions, capital).run(weights, costs, shift=shift, fills=fills)


def _tape(grid: BarGrid, rules: TradingRules, occasions: Occasions) -> Tape:
    def doubles(array: FloatArray) -> FloatArray:
        return np.ascontiguousarray(array, dtype=np.float64)

    earliest = occasions.times + occasions.delay_s
    return Tape(
        doubles(grid.open), doubles(grid.high), doubles(grid.low), doubles(grid.close), doubles(grid.volume),
        closed=np.clip((occasions.times - grid.start) // grid.base_s, 0, len(grid.open)),
        order_first=-((grid.start - earliest) // grid.base_s),
        order_last=-((grid.start - earliest - occasions.step_s) // grid.base_s) - 1,
        price=doubles(occasions.price), volatility=doubles(occasions.volatility), band=doubles(occasions.band),
        tradable=np.ascontiguousarray(occasions.tradable),
        tick=doubles(rules.tick), lot=doubles(rules.lot), min_notional=doubles(rules.min_notional),
        max_order_notional=rules.max_order_notional, bar_years_sqrt=bar_years_sqrt(grid.base_s),
    )  # fmt: skip


def _room(moments: int, n: int, bars: int) -> Room:
    book = {name: np.zeros((1, n)) for name in ("held", "order", "order_volatility", "stop", "target", "mark")}
    return Room(
        **book, cash=np.zeros(1), order_first=np.zeros((1, n), np.int64), order_last=np.zeros((1, n), np.int64),
        slot=np.arange(n, dtype=np.int64)[None, :], totals=np.zeros((1, TOTALS)), equity_at=np.zeros(moments),
        equity_by_bar=np.zeros(bars),
    )  # fmt: skip
