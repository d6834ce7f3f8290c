"""What a straight line reads from embeddings: the quick probe kept with a model and compared at an upgrade."""

from __future__ import annotations

import numpy as np

from shared.rows import FloatArray

PENALTY = 1.0  # of the ridge, on standardised inputs, per 1000 windows


def ridge_forecast(inputs: FloatArray, labels: FloatArray, new: FloatArray) -> FloatArray:
    """Ridge regression on standardised inputs, intercept not penalised; the forecasts for ``new``."""
    mean, scale = inputs.mean(0), inputs.std(0) + 1e-9
    X = (inputs - mean) / scale
    gram = X.T @ X + PENALTY * len(X) / 1000 * np.eye(X.shape[1])
    weights = np.linalg.solve(gram, X.T @ (labels - labels.mean()))
    forecast: FloatArray = (new - mean) / scale @ weights + labels.mean()
    return forecast
