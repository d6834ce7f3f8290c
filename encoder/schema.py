"""What goes into an encoder and what comes out, shared by training (torch) and running (no torch)."""

from __future__ import annotations

from typing import Any

from shared.features import FEATURES, WINDOW

EMBEDDING_SIZE = 64


def encoder_schema(timeframe_s: int) -> dict[str, Any]:
    """The schema of an encoder for candles of ``timeframe_s``; one of another schema is refused."""
    return {
        "inputs": {"window": [1, len(FEATURES), WINDOW]},
        "outputs": {"embedding": [1, EMBEDDING_SIZE], "ood": [1]},
        "features": list(FEATURES),
        "timeframe_s": timeframe_s,
    }
