"""gym-trading-env with 84 floats an observation: 82 of ours and its own two, positions of -1, 0 and 1, 0.1 % fees."""

from __future__ import annotations

import warnings

import pandas as pd  # type: ignore[import-untyped]
from gym_trading_env.environments import TradingEnv  # type: ignore[import-not-found]

from bench.peers.rl_peer import serve_environment
from bench.peers.series import BAR_S, FLOATS, START, bars, features

LENGTH = 2_000  # bars: it allots its history anew at each reset and keeps one a step


def make() -> TradingEnv:
    market, seen = bars(LENGTH), features(LENGTH, FLOATS - 2)
    columns = {name: getattr(market, name) for name in ("open", "high", "low", "close", "volume")}
    columns |= {f"feature_{n}": seen[:, n] for n in range(FLOATS - 2)}
    index = pd.to_datetime(START + BAR_S * pd.RangeIndex(LENGTH).to_numpy(), unit="s")
    return TradingEnv(
        pd.DataFrame(columns, index=index), positions=[-1, 0, 1], trading_fees=0.001, initial_position=0, verbose=0
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # the package turns warnings into errors, those of others too
    serve_environment(make)
