"""What an embedding knows that matters: how well a linear probe reads tomorrow's volatility from it."""

from __future__ import annotations

import numpy as np

from encoder.dataset import HORIZONS, PAST_HORIZONS, Dataset
from shared.rows import FloatArray

LABEL = HORIZONS.index(24)
PAST = PAST_HORIZONS.index(24)
PENALTY = 1.0  # of the ridge, on standardised inputs, per 1000 windows


def probe_scores(
    fit: Dataset, held: Dataset, fit_embeddings: FloatArray, held_embeddings: FloatArray
) -> dict[str, float]:
    """Out-of-sample R² of ln realised volatility of the next 24 candles, beside two baselines.

    R² = 1 - Σ(error²) / Σ((label - mean of the fitted labels)²): the forecast to beat is one that was
    known at the time. persistence: as it was over the last 24. har: regression on the last 4, 24 and 96.
    """
    label, wanted = fit.labels[:, LABEL], held.labels[:, LABEL]
    forecasts = {
        "probe_r2": ridge_forecast(fit_embeddings, label, held_embeddings),
        "persistence_r2": held.past[:, PAST],
        "har_r2": ridge_forecast(fit.past, label, held.past),
    }
    naive = float(((wanted - label.mean()) ** 2).sum())
    return {name: round(1 - float(((wanted - f) ** 2).sum()) / max(naive, 1e-12), 4) for name, f in forecasts.items()}


def ridge_forecast(inputs: FloatArray, labels: FloatArray, new: FloatArray) -> FloatArray:
    """Ridge regression on standardised inputs, intercept not penalised; the forecasts for ``new``."""
    mean, scale = inputs.mean(0), inputs.std(0) + 1e-9
    X = (inputs - mean) / scale
    gram = X.T @ X + PENALTY * len(X) / 1000 * np.eye(X.shape[1])
    weights = np.linalg.solve(gram, X.T @ (labels - labels.mean()))
    forecast: FloatArray = (new - mean) / scale @ weights + labels.mean()
    return forecast
