"""What goes into an encoder and what comes out, shared by training (torch) and running (no torch)."""

from __future__ import annotations

from typing import Any

from shared.features import CHANNELS, FEATURES, WINDOW
from shared.job import UsageError

EMBEDDING_SIZE = 64
HORIZONS_S = (3600, 14_400, 86_400)  # how far ahead training looks, and what is asked of embeddings


def require_timeframe(timeframe_s: int) -> None:
    """UsageError unless a whole number of candles fills every horizon: labels of another span would bear its name."""
    if any(horizon % timeframe_s for horizon in HORIZONS_S):
        horizons = ", ".join(f"{horizon // 3600}h" for horizon in HORIZONS_S)
        raise UsageError(
            f"candles of {timeframe_s} s do not divide the encoder's horizons ({horizons}): choose a timeframe that "
            "does, like 5m or 1h"
        )


def encoder_schema(timeframe_s: int) -> dict[str, Any]:
    """The schema of an encoder for candles of ``timeframe_s``; one of another schema is refused."""
    return {
        "inputs": {"channels": ["N", len(CHANNELS), WINDOW], "features": ["N", len(FEATURES)]},
        "outputs": {"embedding": ["N", EMBEDDING_SIZE], "ood": ["N"]},
        "channels": list(CHANNELS),
        "features": list(FEATURES),
        "timeframe_s": timeframe_s,
    }
