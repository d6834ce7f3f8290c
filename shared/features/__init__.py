"""Causal, scale-free features: each a function of exactly the last candles, in one explicit registry."""

from shared.features.windows import FEATURES, WINDOW, Window, features_of, lay_out, window_features

__all__ = ["FEATURES", "WINDOW", "Window", "features_of", "lay_out", "window_features"]
