"""Random books, orders and bars for the simulation kernel, within the amounts that it keeps exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st

from shared.rows import FloatArray, IntArray
from shared.simulation import kernel

MOST = 4_000_000  # of cash, of the value and of the units of each position: 3 of them and the cash stay below 2^24
TICKS = (1e-8, 1e-5, 0.01, 0.1, 5.0)
LOTS = (1e-8, 1e-5, 0.001, 1.0)


@dataclass(frozen=True, slots=True)
class World:
    """What ``advance`` takes: N instruments, B bars."""

    cash: float
    held: FloatArray
    order: FloatArray
    first: IntArray
    last: IntArray
    open: FloatArray
    close: FloatArray
    mark: FloatArray
    slippage_bps: float
    fee_bps: float
    tick: FloatArray
    lot: FloatArray


@dataclass(frozen=True, slots=True)
class End:
    """What ``advance`` left: the book, open orders, marks, equity by bar, fills [F, 6]."""

    cash: float
    held: FloatArray
    order: FloatArray
    mark: FloatArray
    equity: FloatArray
    fills: FloatArray

    def bits(self) -> tuple[bytes, ...]:
        parts = (np.float64(self.cash), self.held, self.order, self.mark, self.equity, self.fills)
        return tuple(part.tobytes() for part in parts)


def run(world: World, advance: Callable[..., Any] = kernel.advance, pieces: tuple[int, ...] = ()) -> End:
    """All bars at once, or cut at ``pieces``."""
    held, order, mark = world.held.copy(), world.order.copy(), world.mark.copy()
    bars = len(world.open)
    equity, buffer, fills, cash = np.full(bars, np.nan), np.zeros((2 * len(held), 6)), [], world.cash
    edges = [0, *sorted(pieces), bars]
    for first_bar, end_bar in pairwise(edges):
        cash, n = advance(
            cash, held, order, world.first, world.last, world.open, world.close, mark, first_bar, end_bar,
            world.slippage_bps, world.fee_bps, world.tick, world.lot, equity, buffer,
        )  # fmt: skip
        fills.append(buffer[:n].copy())
    return End(cash, held, order, mark, equity, np.concatenate(fills))


def on_grid(steps: int, step: float) -> float:
    """The 8-decimal amount of so many steps, as a float read from the database would be."""
    return round(steps * round(step * 1e8)) / 1e8


@st.composite
def instruments(draw: st.DrawFn, bars: int) -> dict[str, Any]:
    tick, lot = draw(st.sampled_from(TICKS)), draw(st.sampled_from(LOTS))
    level = draw(st.integers(1, min(10**7, int(1e5 / tick))))  # in ticks
    near = st.integers(max(1, level // 2), 2 * level).map(lambda ticks: on_grid(ticks, tick))
    bar = st.none() | st.tuples(near, near)
    path = [pair or (np.nan, np.nan) for pair in draw(st.lists(bar, min_size=bars, max_size=bars))]
    most = int(min(MOST / on_grid(2 * level, tick), MOST) / lot)  # in lots
    first = draw(st.integers(-1, bars))
    signed = draw(st.integers(-most, most))
    return {
        "tick": tick, "lot": lot, "open": [o for o, _ in path], "close": [c for _, c in path],
        "mark": on_grid(level, tick), "held": on_grid(draw(st.integers(0, most)), lot),
        "order": on_grid(signed, lot) if signed >= 0 else -on_grid(-signed, lot),
        "first": first, "last": first + draw(st.integers(0, bars)),
    }  # fmt: skip


@st.composite
def worlds(draw: st.DrawFn) -> World:
    bars, n = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    drawn = [draw(instruments(bars)) for _ in range(n)]

    dearest = max(drawn, key=lambda i: i["order"] * i["mark"])  # cash is often just enough for it, or just too little
    tight = st.floats(0.9, 1.1).map(lambda share: max(round(share * dearest["order"] * dearest["mark"], 8), 0.0))

    def column(name: str, kind: type = np.float64) -> Any:
        return np.array([instrument[name] for instrument in drawn], dtype=kind)

    return World(
        cash=draw(st.integers(0, MOST * 10**8).map(lambda quanta: quanta / 1e8) | tight),
        held=column("held"), order=column("order"),
        first=column("first", np.int64), last=column("last", np.int64),
        open=np.ascontiguousarray(column("open").T), close=np.ascontiguousarray(column("close").T),
        mark=column("mark"), slippage_bps=draw(st.sampled_from([0.0, 1.0, 5.0, 33.3, 500.0])),
        fee_bps=draw(st.sampled_from([0.0, 10.0, 26.5, 40.0, 500.0])), tick=column("tick"), lot=column("lot"),
    )  # fmt: skip
