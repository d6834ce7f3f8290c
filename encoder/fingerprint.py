"""What a training is told apart by: its code, its settings, its windows. Equal fingerprints, equal weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoder.dataset import TrainingSet
from shared import features
from shared.features import WINDOW
from shared.features.windows import COLUMNS
from shared.rows import IntArray

# Every file that the weights depend on beside the data. Whole files: a list of constants would be forgotten.
HERE = Path(__file__).resolve().parent
CODE = (
    *(HERE / f"{name}.py" for name in ("augment", "dataset", "encoder_model", "schema", "training")),
    *sorted(Path(features.__file__).resolve().parent.glob("*.py")),
)


def recipe_hash(batch_size: int) -> str:
    """sha256 of what makes an encoder, apart from data, seed and budget: code, PyTorch's version, batch size."""
    digest = hashlib.sha256(f"{torch.__version__} {batch_size}".encode())
    for path in CODE:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def fingerprint(data: TrainingSet, settings: Mapping[str, Any]) -> str:
    """sha256 of the settings (JSON), the code and everything the windows show."""
    digest = hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode())
    digest.update(recipe_hash(settings["batch_size"]).encode())
    for column in (data.series, data.as_of, data.features, data.labels):
        digest.update(np.ascontiguousarray(column).data)
    for k, grid in enumerate(data.grids):
        windows = grid.windows(_cover(data.as_of[data.series == k], WINDOW * grid.timeframe_s))
        for name in COLUMNS:
            digest.update(np.ascontiguousarray(getattr(windows, name)).data)
    return digest.hexdigest()


def _cover(closes: IntArray, span_s: int) -> IntArray:
    """A few of ``closes`` (in order) whose windows together show every slot that any window shows."""
    chosen = [0] if len(closes) else []
    while chosen and chosen[-1] < len(closes) - 1:
        reach = int(np.searchsorted(closes, closes[chosen[-1]] + span_s, side="right")) - 1
        chosen.append(max(reach, chosen[-1] + 1))
    return closes[chosen]
