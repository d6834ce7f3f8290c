"""The same as bench/peers/backtesting.py by our kernel: SMA 50/200 long-only, all-in, 0.1 % a side, as a process."""

from __future__ import annotations

import json
import sys

import numpy as np

from bench.peers.series import Bars
from bench.peers.sextant import backtest_crossover, bar_grid, max_drawdown, traded_rules

FAST, SLOW = 50, 200


def main(path: str) -> None:
    run = backtest_crossover(bar_grid([Bars(*np.load(path))]), FAST, SLOW, traded_rules(1))
    drawdown = max_drawdown(run.equity_by_bar)
    print(json.dumps({"trades": run.trades // 2, "final": run.closed, "fees": run.fees, "max_drawdown": drawdown}))


if __name__ == "__main__":
    main(sys.argv[1])
