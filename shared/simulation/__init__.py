"""The simulation kernel: the only place where a fill is computed, for training, backtest and paper alike."""
