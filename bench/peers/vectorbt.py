"""vectorbt on the same bars with a naive index (a time-zone-aware one makes it pathologically slow), 0.1 % a side."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import vectorbt as vbt  # type: ignore[import-not-found]

from bench.peers.series import BAR_S, BARS, START, Bars, bars, hourly_weights
from bench.peers.serve import peak_mib, serve

FEE = 0.001
CASH = 10_000.0


class Engine:
    """The market and the wanted weights as pandas wants them, made once, outside what is timed."""

    def __init__(self) -> None:
        market: Bars = bars(BARS)
        index = pd.to_datetime(START + BAR_S * np.arange(1, BARS + 1), unit="s")
        self._open, self._close = pd.Series(market.open, index), pd.Series(market.close, index)
        # decided at a close, filled at the next open
        self._weights = pd.Series(hourly_weights(market.close), index).shift(1)

    def weight_path(self) -> dict[str, float]:
        """CPU seconds of the simulation with its equity curve; what is left and how many orders it took."""
        started = time.process_time()
        book = vbt.Portfolio.from_orders(
            self._close, size=self._weights, size_type="targetpercent", direction="longonly", price=self._open,
            fees=FEE, init_cash=CASH, freq="5min",
        )  # fmt: skip
        equity = book.value()
        taken = time.process_time() - started
        return {"seconds": taken, "final": float(equity.iloc[-1]), "trades": int(book.orders.count())}

    def crossovers(self, pairs: list[tuple[int, int]]) -> dict[str, float | list[float]]:
        """All pairs of (fast, slow) at once, each with its equity curve, as vectorbt is made for; memory afterwards."""
        started = time.process_time()
        fast, slow = (vbt.MA.run(self._close, window=[pair[k] for pair in pairs], short_name="ma") for k in (0, 1))
        book = vbt.Portfolio.from_signals(
            self._close, fast.ma_crossed_above(slow).vbt.fshift(1).to_numpy(),
            fast.ma_crossed_below(slow).vbt.fshift(1).to_numpy(), price=self._open,
            fees=FEE, init_cash=CASH, freq="5min",
        )  # fmt: skip
        final = book.value().iloc[-1].to_numpy()
        drawdown = book.max_drawdown().to_numpy()
        taken = time.process_time() - started
        return {
            "seconds": taken, "peak_mib": peak_mib(), "final": final.tolist(), "max_drawdown": drawdown.tolist(),
            "trades": book.orders.count().tolist(),
        }  # fmt: skip


if __name__ == "__main__":
    engine = Engine()
    serve({"weight_path": engine.weight_path, "crossovers": engine.crossovers})
