"""Random books, orders and bars for the simulation kernel, within the amounts that it keeps exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st

from shared.rows import FloatArray, IntArray
from shared.simulation import kernel

MOST = 4_000_000  # of cash, of the value and of the units of each position: 3 of them and the cash stay below 2^24
TICKS = (1e-8, 1e-5, 0.01, 0.1, 5.0)
LOTS = (1e-8, 1e-5, 0.001, 1.0)
FILLED_AT, INSTRUMENT, QUANTITY, PRICE, COST, FEE, KIND = range(kernel.FILL_COLUMNS)


@dataclass(frozen=True, slots=True)
class World:
    """What ``advance`` takes: a book of N instruments, bars [B, M]."""

    cash: float
    held: FloatArray
    order: FloatArray
    first: IntArray
    last: IntArray
    stop: FloatArray
    target: FloatArray
    slot: IntArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray
    volatility: FloatArray
    mark: FloatArray
    bar_years_sqrt: float
    fee_bps: float
    half_spread_bps: float
    impact: float
    tick: FloatArray
    lot: FloatArray

    def until(self, bar: int) -> World:
        """As if the bars ended before ``bar``."""
        return replace(self, **{name: getattr(self, name)[:bar] for name in ("open", "high", "low", "close", "volume")})

    def slippage_bps(self, bar: int, n: int, quantity: float) -> float:
        volatility = self.volatility[n] * self.bar_years_sqrt
        volume = self.volume[bar, self.slot[n]]
        return kernel.slippage_bps(self.half_spread_bps, self.impact, volatility, abs(quantity), volume)


@dataclass(frozen=True, slots=True)
class End:
    """What ``advance`` left: the book, open orders, levels, marks, equity by bar, fills [F, 7], totals."""

    cash: float
    held: FloatArray
    order: FloatArray
    stop: FloatArray
    target: FloatArray
    mark: FloatArray
    equity: FloatArray
    fills: FloatArray
    totals: FloatArray

    def bits(self) -> tuple[bytes, ...]:
        parts = (
            np.float64(self.cash), self.held, self.order, self.stop, self.target, self.mark, self.equity, self.fills,
            self.totals,
        )  # fmt: skip
        return tuple(part.tobytes() for part in parts)


def run(world: World, advance: Callable[..., Any] = kernel.advance, pieces: tuple[int, ...] = ()) -> End:
    """All bars at once, or cut at ``pieces``."""
    w, bars, n = world, len(world.open), len(world.held)
    held, order, mark = w.held.copy(), w.order.copy(), w.mark.copy()
    stop, target = w.stop.copy(), w.target.copy()
    equity, buffer, totals = np.full(bars, np.nan), np.zeros((2 * n, kernel.FILL_COLUMNS)), np.zeros(kernel.TOTALS)
    fills, cash = [], w.cash
    for first_bar, end_bar in pairwise([0, *sorted(pieces), bars]):
        cash, filled = advance(
            cash, held, order, w.first, w.last, stop, target, w.slot, w.open, w.high, w.low, w.close, w.volume,
            w.volatility, mark, first_bar, end_bar, w.bar_years_sqrt, w.fee_bps, w.half_spread_bps, w.impact, w.tick,
            w.lot, equity, buffer, totals,
        )  # fmt: skip
        assert filled <= len(buffer)
        fills.append(buffer[:filled].copy())
    return End(cash, held, order, stop, target, mark, equity, np.concatenate(fills), totals)


def on_grid(steps: int, step: float) -> float:
    """The 8-decimal amount of so many steps, as a float read from the database would be."""
    return round(steps * round(step * 1e8)) / 1e8


VOLUMES = st.sampled_from([0.0, np.nan, 1e-8, 1e9]) | st.floats(0, 1e7)


@st.composite
def instruments(draw: st.DrawFn, bars: int, levels: bool) -> dict[str, Any]:
    tick, lot = draw(st.sampled_from(TICKS)), draw(st.sampled_from(LOTS))
    level = draw(st.integers(1, min(10**7, int(1e5 / tick))))  # in ticks
    near = st.integers(max(1, level // 2), 2 * level).map(lambda ticks: on_grid(ticks, tick))
    bar = st.none() | st.tuples(near, near, near, near, VOLUMES)
    path = [drawn or (np.nan,) * 5 for drawn in draw(st.lists(bar, min_size=bars, max_size=bars))]
    most = int(min(MOST / on_grid(2 * level, tick), MOST) / lot)  # in lots
    first = draw(st.integers(-1, bars))
    signed = draw(st.integers(-most, most))
    off_grid = near.map(lambda price: price * 1.0001)
    some_level = st.just(0.0) | near | off_grid if levels else st.just(0.0)
    return {
        "tick": tick, "lot": lot, "open": [p[0] for p in path], "close": [p[1] for p in path],
        "high": [max(p[:4]) for p in path], "low": [min(p[:4]) for p in path], "volume": [p[4] for p in path],
        "mark": on_grid(level, tick), "held": on_grid(draw(st.integers(0, most)), lot),
        "order": on_grid(signed, lot) if signed >= 0 else -on_grid(-signed, lot),
        "first": first, "last": first + draw(st.integers(0, bars)), "stop": draw(some_level),
        "target": draw(some_level), "volatility": draw(st.sampled_from([0.0, 0.6, 3.0])),
    }  # fmt: skip


@st.composite
def worlds(draw: st.DrawFn, levels: bool = True) -> World:
    """Books of up to 3 of up to 4 instruments; without ``levels`` there are no stops and no targets."""
    bars, m = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    market = [draw(instruments(bars, levels)) for _ in range(m)]
    slot = draw(st.permutations(range(m)))[: draw(st.integers(1, 3))]
    own = [market[column] for column in slot]

    dearest = max(own, key=lambda i: i["order"] * i["mark"])  # cash is often just enough for it, or just too little
    tight = st.floats(0.9, 1.1).map(lambda share: max(round(share * dearest["order"] * dearest["mark"], 8), 0.0))

    def column(name: str, drawn: list[dict[str, Any]], kind: type = np.float64) -> Any:
        return np.array([instrument[name] for instrument in drawn], dtype=kind)

    book = ("held", "order", "stop", "target", "volatility", "mark")
    return World(
        cash=draw(st.integers(0, MOST * 10**8).map(lambda quanta: quanta / 1e8) | tight),
        first=column("first", own, np.int64), last=column("last", own, np.int64), slot=np.array(slot, dtype=np.int64),
        **{name: column(name, own) for name in book},
        **{name: np.ascontiguousarray(column(name, market).T) for name in ("open", "high", "low", "close", "volume")},
        tick=column("tick", market), lot=column("lot", market),
        bar_years_sqrt=kernel.bar_years_sqrt(draw(st.sampled_from([60, 3600, 86400]))),
        half_spread_bps=draw(st.sampled_from([0.0, 1.0, 5.0, 33.3, 500.0])),
        fee_bps=draw(st.sampled_from([0.0, 10.0, 26.5, 40.0, 500.0])), impact=draw(st.sampled_from([0.0, 1.0, 2.5])),
    )  # fmt: skip
