"""gym-anytrading with 84 floats an observation in its fastest way: a window of one bar, sliced without a copy."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from gym_anytrading.envs import StocksEnv  # type: ignore[import-not-found]

from bench.peers.rl_peer import serve_environment
from bench.peers.series import bars, features

LENGTH = 20_000  # bars of an episode


class EmbeddingEnv(StocksEnv):  # type: ignore[misc]
    """StocksEnv with a model's floats as its signal features, as the package's README shows."""

    def _process_data(self) -> tuple[Any, Any]:
        prices = self.df["Close"].to_numpy().astype(np.float32)
        return prices, features(len(prices))


def make() -> EmbeddingEnv:
    frame = pd.DataFrame({"Close": bars(LENGTH).close})
    return EmbeddingEnv(frame, window_size=1, frame_bound=(1, LENGTH))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    serve_environment(make)
