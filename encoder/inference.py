"""Embeddings of windows: the one place where an encoder runs, for live steps, back-fills and evaluation.

An embedding must have the same bits whatever windows are embedded beside it, or a back-fill would not write what
live steps wrote. Two things can break that. The bits of a matrix product may depend on its number of rows (MLAS has
kernels of its own for one row and for what is left over after the full tiles), and so does a batch's speed; so the
session always sees 16 windows, the last batch filled up with copies of its last window: 98 % of the best speed of any
batch size, and a live step takes as long as 16 windows, 2 to 3 ms. And a vectorised sum along a row depends on how the
row's address is aligned: a mean over 10 numbers differed in the last bit between even and odd places in the batch. No
batch shape mends that; the graph must sum along rows of a multiple of 16 numbers, as encoder_model and novelty do. A
test shuffles and regroups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.schema import EMBEDDING_SIZE
from shared.features import Windows, compute_channels, compute_features
from shared.model_store import Model, ModelRefused
from shared.rows import FloatArray

BATCH = 16  # windows
BLOCK = 512  # windows whose channels are in memory at a time; a multiple of BATCH
LENGTH_TOLERANCE = 1e-3  # of an embedding


@dataclass(frozen=True, slots=True)
class Embedded:
    """``embedding`` float32 [N, 64], of length 1; ``ood`` float64 [N], how unusual, in [0, 1]."""

    embedding: NDArray[np.float32]
    ood: FloatArray


def embed(model: Model, windows: Windows) -> Embedded:
    """What ``model`` sees in each window; ModelRefused when that is no unit vectors or no percentiles."""
    parts = [windows.select(slice(i, i + BLOCK)) for i in range(0, len(windows), BLOCK)]
    return _join([embed_features(model, compute_channels(part), compute_features(part)) for part in parts])


def embed_features(model: Model, channels: NDArray[np.float32], features: NDArray[np.float32]) -> Embedded:
    """The same from ``channels`` [N, C, L] and ``features`` [N, F]."""
    return _join(
        [_run(model, channels[i : i + BATCH], features[i : i + BATCH]) for i in range(0, len(channels), BATCH)]
    )


def _run(model: Model, channels: NDArray[np.float32], features: NDArray[np.float32]) -> Embedded:
    count = len(channels)
    padded = np.minimum(np.arange(BATCH), count - 1)
    embedding, ood = model.run({"channels": channels[padded], "features": features[padded]})
    embedding, ood = embedding[:count], ood[:count].astype(np.float64)
    _check(model, embedding, ood)
    return Embedded(embedding, ood)


def _check(model: Model, embedding: NDArray[np.float32], ood: FloatArray) -> None:
    length = np.linalg.norm(embedding, axis=1)
    wrong = ~(np.abs(length - 1.0) <= LENGTH_TOLERANCE)  # so is what is no number
    outside = ~((ood >= 0.0) & (ood <= 1.0))
    if wrong.any():
        what = f"an embedding of length {length[wrong][0]:.4g}, not 1"
    elif outside.any():
        what = f"ood {ood[outside][0]:.4g}, not within 0 and 1"
    else:
        return
    raise ModelRefused(
        f"{model.kind} model {model.id} is refused: it gave {what}. Train a new one (make train-encoder)."
    )


def _join(parts: list[Embedded]) -> Embedded:
    if not parts:
        return Embedded(np.empty((0, EMBEDDING_SIZE), dtype=np.float32), np.empty(0))
    return Embedded(np.concatenate([p.embedding for p in parts]), np.concatenate([p.ood for p in parts]))
