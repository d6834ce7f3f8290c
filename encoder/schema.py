"""What goes into an encoder and what comes out, shared by training (torch) and running (no torch)."""

from __future__ import annotations

from typing import Any

from shared.features import CHANNELS, FEATURES, WINDOW

EMBEDDING_SIZE = 64
HORIZONS_S = (3600, 14_400, 86_400)  # how far ahead training looks, and what is asked of embeddings


def encoder_schema(timeframe_s: int) -> dict[str, Any]:
    """The schema of an encoder for candles of ``timeframe_s``; one of another schema is refused."""
    return {
        "inputs": {"channels": ["N", len(CHANNELS), WINDOW], "features": ["N", len(FEATURES)]},
        "outputs": {"embedding": ["N", EMBEDDING_SIZE], "ood": ["N"]},
        "channels": list(CHANNELS),
        "features": list(FEATURES),
        "timeframe_s": timeframe_s,
    }
