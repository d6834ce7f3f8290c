"""backtesting.py as a whole process, SMA 50/200 long-only, all-in, 0.1 % a side: reads a .npy file of OHLCV [5, B],
prints its trades and final equity. Used by itself, not asked through a pipe: what is timed is the process."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from backtesting import Backtest, Strategy  # type: ignore[import-not-found]

FAST, SLOW = 50, 200


def _mean(values: Any, window: int) -> Any:
    return pd.Series(values).rolling(window).mean()


class Crossover(Strategy):  # type: ignore[misc]
    def init(self) -> None:
        self.fast = self.I(_mean, self.data.Close, FAST)
        self.slow = self.I(_mean, self.data.Close, SLOW)

    def next(self) -> None:
        """Compared by hand: the package's own ``crossover`` makes two lists a bar."""
        above = self.fast[-1] > self.slow[-1]
        if above and not self.position and self.fast[-2] <= self.slow[-2]:
            self.buy()
        elif not above and self.position:
            self.position.close()


def main(path: str) -> None:
    columns = dict(zip(("Open", "High", "Low", "Close", "Volume"), np.load(path), strict=True))
    index = pd.date_range("2020-01-01", periods=len(columns["Open"]), freq="5min")
    test = Backtest(pd.DataFrame(columns, index=index), Crossover, cash=10_000_000, commission=0.001)
    result = test.run()
    print(json.dumps({"trades": int(result["# Trades"]), "final": float(result["Equity Final [$]"])}))


if __name__ == "__main__":
    main(sys.argv[1])
