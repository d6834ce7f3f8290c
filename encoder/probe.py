"""What a straight line reads from embeddings: the quick probe kept with a model and compared at an upgrade."""

from __future__ import annotations

from encoder.evaluation.probes import Design, fit_ridge
from shared.rows import FloatArray

PENALTY = 1e-3  # of the ridge, a window, on standardised inputs


def ridge_forecast(inputs: FloatArray, labels: FloatArray, new: FloatArray) -> FloatArray:
    """Ridge regression on standardised inputs, intercept not penalised; the forecasts for ``new``."""
    return fit_ridge(Design.of(inputs), labels, PENALTY)(Design.of(new))
