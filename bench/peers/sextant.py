"""Our side of the comparisons, on the market of bench/peers/series.py: environment, weight paths, a rule's backtest.

Asked as a peer is, so that its memory is its own.
"""

from __future__ import annotations

import time
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from bench.peers.series import BAR_S, BARS, START, Bars, Floats, bars, features, hourly_weights
from bench.peers.serve import peak_mib, serve
from policy.decision_kernel import MARKET_SIZE
from policy.execution.plan import TradingRules
from policy.simulator import BarGrid, Costs
from policy.weight_path import Occasions, WeightPathRun, WeightPaths, run_weight_path
from shared.rows import IntArray

FEE_BPS = 10.0
CASH = 10_000.0
DAY = 288  # bars
BARS_A_YEAR = 365 * DAY


def bar_grid(markets: list[Bars]) -> BarGrid:
    """One column a market."""
    columns = {
        name: np.stack([getattr(market, name) for market in markets], axis=1)
        for name in ("open", "high", "low", "close", "volume")
    }
    return BarGrid(start=START, base_s=BAR_S, **columns)


def free_rules(instruments: int = 1) -> TradingRules:
    """Steps so fine and minima so small that a book is that of engines without any, to a hundredth of a per mille."""
    n = np.ones(instruments)
    return TradingRules(1e-8 * n, 1e-8 * n, 0.0 * n, no_trade_band=0.1, max_order_notional=float("inf"))


def fee_only() -> Costs:
    return Costs(fee_bps=FEE_BPS, slippage_bps=0.0, impact=0.0)


def occasions(grid: BarGrid, closed: IntArray, step_s: int) -> Occasions:
    """Moments at which ``closed`` [T] bars have closed; orders fill at the next open."""
    shape = (len(closed), grid.close.shape[1])
    return Occasions(
        times=grid.start + grid.base_s * closed, price=grid.close[closed - 1], volatility=np.zeros(shape),
        band=np.zeros(shape), tradable=np.ones(shape, dtype=np.bool_), delay_s=0, step_s=step_s,
    )  # fmt: skip


@numba.njit(cache=True)  # type: ignore[untyped-decorator,unused-ignore]
def crossings(close: Floats, fast: int, slow: int, at: IntArray, weight: Floats) -> int:
    """The rule: all in when the mean of ``fast`` closes rises above that of ``slow``, out when it falls below. Writes
    after how many closes it changes its mind and to what weight; how often it did."""
    total_fast, total_slow, was_above, changes = 0.0, 0.0, True, 0
    for bar in range(len(close)):
        total_fast += close[bar]
        total_slow += close[bar]
        if bar >= fast:
            total_fast -= close[bar - fast]
        if bar < slow - 1:
            continue
        if bar >= slow:
            total_slow -= close[bar - slow]
        is_above = total_fast * slow > total_slow * fast
        if bar >= slow and is_above != was_above and (is_above or changes > 0):
            at[changes], weight[changes], changes = bar + 1, 1.0 if is_above else 0.0, changes + 1
        was_above = is_above
    return changes


def backtest_crossover(grid: BarGrid, fast: int, slow: int, rules: TradingRules) -> WeightPathRun:
    """The rule's whole accounting: equity by bar, fees, fills, closed at the end."""
    at, weight = np.empty(len(grid.close), np.int64), np.empty(len(grid.close))
    changes = crossings(np.ascontiguousarray(grid.close[:, 0]), fast, slow, at, weight)
    moments = occasions(grid, at[:changes], grid.base_s)
    return run_weight_path(grid, rules, fee_only(), moments, weight[:changes, None], capital=CASH)


@numba.njit(cache=True)  # type: ignore[untyped-decorator,unused-ignore]
def max_drawdown(equity: Floats) -> float:
    """The deepest fall below the peak before it, as a negative fraction."""
    peak, deepest = equity[0], 1.0
    for worth in equity:
        peak = max(peak, worth)
        deepest = min(deepest, worth / peak)
    return deepest - 1.0


class Engine:
    """The market as the kernel wants it, made once, outside what is timed."""

    def __init__(self) -> None:
        self._grid, self._rules = bar_grid([bars(BARS)]), free_rules()
        hours = occasions(self._grid, np.arange(12, BARS + 1, 12), 12 * BAR_S)
        self._paths = WeightPaths(self._grid, self._rules, hours, CASH)
        self._weights = hourly_weights(self._grid.close[:, 0])[11::12, None]

    def weight_path(self) -> dict[str, float]:
        """As bench/peers/vectorbt.py answers it: from weights to the equity curve."""
        started = time.process_time()
        run = self._paths.run(self._weights, fee_only())
        taken = time.process_time() - started
        return {"seconds": taken, "final": float(run.equity_by_bar[-1]), "trades": run.trades}

    def crossovers(self, pairs: list[tuple[int, int]]) -> dict[str, object]:
        """All pairs of (fast, slow), one after the other; memory afterwards."""
        final, drawdown, trades = [], [], []
        started = time.process_time()
        for fast, slow in pairs:
            run = backtest_crossover(self._grid, fast, slow, self._rules)
            final.append(run.marked)
            drawdown.append(max_drawdown(run.equity_by_bar))
            trades.append(run.trades)
        taken = time.process_time() - started
        return {
            "seconds": taken, "peak_mib": peak_mib(), "final": final, "max_drawdown": drawdown, "trades": trades,
        }  # fmt: skip


def training_data(instruments: int, bars_a_step: int, moments: int) -> Any:
    """policy.training_data.TrainingData of ``moments`` decision times; trend and volatility are those of the last day,
    everything that a model would say is normal noise."""
    from policy.training_data import TrainingData

    grid = bar_grid([bars(DAY + bars_a_step * (moments + 2), seed=7 + n) for n in range(instruments)])
    closed = DAY + bars_a_step * np.arange(1, moments + 1, dtype=np.int64)
    logs = np.log(grid.close)
    squares = np.cumsum(np.diff(logs, axis=0, prepend=logs[:1]) ** 2, axis=0)
    variance = (squares[closed - 1] - squares[closed - 1 - DAY]) / DAY
    trend = (logs[closed - 1] - logs[closed - 1 - DAY]) / np.sqrt(variance * DAY)
    flags = np.ones((moments, instruments), dtype=np.bool_)
    return TrainingData(
        symbols=tuple(f"SIM-{n}/USDT" for n in range(instruments)), times=grid.start + grid.base_s * closed,
        price=grid.close[closed - 1], trend=np.clip(trend, -1.0, 1.0), volatility=np.sqrt(variance * BARS_A_YEAR),
        ood=np.full(flags.shape, 0.5), block=_blocks(moments, instruments), complete=flags, tradable=flags.copy(),
        grid=grid, rules=traded_rules(instruments), step_s=BAR_S * bars_a_step,
    )  # fmt: skip


def _blocks(moments: int, instruments: int) -> NDArray[np.float32]:
    return features(moments, instruments * MARKET_SIZE).clip(-5, 5).reshape(moments, instruments, MARKET_SIZE)


def traded_rules(instruments: int) -> TradingRules:
    """As a venue has them."""
    n = np.ones(instruments)
    return TradingRules(0.01 * n, 1e-5 * n, 5.0 * n, no_trade_band=0.1, max_order_notional=float("inf"))


def portfolio_env(books: int, instruments: int, bars_a_step: int) -> Any:
    """policy.trading_env.PortfolioVecEnv of ``books`` books, as training has it: drawn steering, costs and delays."""
    from policy.trading_env import PortfolioVecEnv, Terms

    return PortfolioVecEnv(training_data(instruments, bars_a_step, 20_000), books, Terms(), seed=7)


if __name__ == "__main__":
    engine = Engine()
    serve({"weight_path": engine.weight_path, "crossovers": engine.crossovers})
