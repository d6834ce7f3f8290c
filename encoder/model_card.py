"""A fitted net becomes a model: the graph that is stored, proof that it runs, and what is worth knowing about it."""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoder.dataset import HELD_OUT, LABEL_HORIZON_S, LABELS, TrainingSet, split_in_time
from encoder.encoder_model import Encoder, Exported, export_onnx
from encoder.inference import Embedded, embed_features
from encoder.novelty import (
    LEAST_CALIBRATION,
    LEAST_SAMPLE,
    SHORT_S,
    SHORT_STRETCH,
    Novelty,
    distances_between_blocks,
)
from encoder.probe import ridge_forecast
from encoder.schema import encoder_schema
from shared.features import FEATURES, WINDOW
from shared.job import JobError
from shared.model_store import Model, ModelRefused, load_model, schema_hash
from shared.rows import FloatArray, IntArray

SAMPLE = 512  # training windows kept in the graph
CALIBRATED = 4096  # windows held out, and as many fitted, that calibrate ood: its tail is the last percent of them
PROBED = 8192  # windows that the probe is fitted on, and a quarter of it that it is scored on
BLOCK = 512  # windows whose channels are in memory at a time
PROBE_LABEL = LABELS.index(f"log_volatility_{LABEL_HORIZON_S}s")
PAST = {  # returns: the column of their log volatility, against 1 %
    int(name.removeprefix("log_volatility_")): column
    for column, name in enumerate(FEATURES)
    if name.removeprefix("log_volatility_").isdigit()
}
LOG_PERCENT = float(np.log(0.01))
SAME = 1e-3  # of an embedding's number: more difference between PyTorch and onnxruntime is a broken export


def even_sample(count: int, size: int) -> IntArray:
    """At most ``size`` of ``count`` rows, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(size, count)).astype(np.int64))


def split(data: TrainingSet) -> tuple[TrainingSet, TrainingSet]:
    """The windows to fit and those held out; JobError, before any training, when ``export`` would find too few."""
    fitted, held = split_in_time(data)
    if len(fitted) >= LEAST_SAMPLE and len(held) >= LEAST_CALIBRATION:
        return fitted, held
    timeframe_s = data.grids[0].timeframe_s
    window_s = (data.as_of[-1] - data.as_of[0] + timeframe_s) / len(data)  # from one to the next, of any series
    to_fit = (LEAST_SAMPLE * window_s + LABEL_HORIZON_S) / (1 - HELD_OUT)
    span_s = WINDOW * timeframe_s + max(to_fit, LEAST_CALIBRATION * window_s / HELD_OUT) + LABEL_HORIZON_S
    raise JobError(
        f"{len(fitted)} windows to fit and {len(held)} to hold out, at least {LEAST_SAMPLE} and {LEAST_CALIBRATION} "
        f"are needed: the last {HELD_OUT:.0%} are held out, and none whose label reaches into them is fitted; "
        f"{math.ceil(span_s / 86_400)} days of candles of {timeframe_s} s without more gaps than these have would do; "
        "run `make backfill` for a longer span, or widen --from/--to"
    )


@torch.no_grad()
def export(encoder: Encoder, fitted: TrainingSet, held: TrainingSet) -> bytes:
    """The graph with its measure of novelty: a sample of the fitted windows, calibrated on windows held out and on
    how far parts of the fitted span are from each other."""
    window_s = WINDOW * fitted.grids[0].timeframe_s
    short = window_s + held.as_of[-1] - fitted.as_of[0] < SHORT_S
    novelty = Novelty(_see(encoder, _thin(fitted, SAMPLE)))
    spread = _thin(fitted, CALIBRATED)
    elsewhere = distances_between_blocks(_see(encoder, spread), spread.as_of, window_s, SAMPLE)
    novelty.calibrate(_see(encoder, _thin(held, CALIBRATED)), elsewhere, SHORT_STRETCH if short else 1.0)
    return export_onnx(Exported(encoder, novelty))


def _thin(data: TrainingSet, size: int) -> TrainingSet:
    return data.select(even_sample(len(data), size))


def _see(encoder: Encoder, data: TrainingSet) -> Tensor:
    """Standardised features, [n, F]."""
    return (torch.from_numpy(data.features) - encoder.feature_mean) / encoder.feature_scale


def trial_model(onnx: bytes, timeframe_s: int) -> Model:
    """The model as it will be loaded, before it has a row; ModelRefused when it can't be."""
    schema, moment = encoder_schema(timeframe_s), datetime(1970, 1, 1, tzinfo=UTC)
    row = {"id": 0, "kind": "encoder", "onnx": onnx, "sha256": hashlib.sha256(onnx).hexdigest(), "schema": schema}
    row |= {"schema_hash": schema_hash(schema), "provenance": "simulated", "encoder_id": None, "metrics": {}}
    row |= dict.fromkeys(("trained_from", "trained_to", "known_from"), moment)
    return load_model(row, schema)


@torch.no_grad()
def check(encoder: Encoder, onnx: bytes, fitted: TrainingSet, held: TrainingSet) -> dict[str, float]:
    """Runs the graph that will be stored on real windows; what it knows of them.

    ModelRefused when it does not run, gives no unit vectors, or says something else than the net does.
    """
    model = trial_model(onnx, fitted.grids[0].timeframe_s)
    learn, score = _thin(fitted, PROBED), _thin(held, PROBED // 4)
    seen, new = _embed(model, learn).embedding, _embed(model, score).embedding
    _require_same(encoder, score, new)
    return probe_scores(learn, score, seen, new)


def probe_scores(
    fit: TrainingSet, held: TrainingSet, seen: NDArray[np.float32], new: NDArray[np.float32]
) -> dict[str, float]:
    """Out-of-sample R² of ln realised volatility of the next 24 hours: a quick look, kept with the model.

    R² = 1 - Σ(error²) / Σ((label - mean of the fitted labels)²): the forecast to beat is one that was known at
    the time. probe: ridge on the embeddings [windows, 64]; har: on the volatilities of all past spans among the
    features; persistence: as over the last 24 hours, or what of them the window holds.
    """
    label, wanted = _double(fit.labels[:, PROBE_LABEL]), _double(held.labels[:, PROBE_LABEL])
    day = min(PAST, key=lambda returns: abs(returns - LABEL_HORIZON_S // fit.grids[0].timeframe_s))
    past = list(PAST.values())
    forecasts = {
        "probe_r2": ridge_forecast(_double(seen), label, _double(new)),
        "persistence_r2": _double(held.features[:, PAST[day]]) + LOG_PERCENT,
        "har_r2": ridge_forecast(_double(fit.features[:, past]), label, _double(held.features[:, past])),
    }
    naive = max(float(((wanted - label.mean()) ** 2).sum()), 1e-12)
    return {name: round(1 - float(((wanted - f) ** 2).sum()) / naive, 4) for name, f in forecasts.items()}


def _double(values: NDArray[np.float32]) -> FloatArray:
    return values.astype(np.float64)


def _embed(model: Model, data: TrainingSet) -> Embedded:
    parts = []
    for i in range(0, len(data), BLOCK):
        block = np.arange(i, min(i + BLOCK, len(data)))
        parts.append(embed_features(model, data.channels(block), data.features[block]))
    return Embedded(np.concatenate([p.embedding for p in parts]), np.concatenate([p.ood for p in parts]))


def _require_same(encoder: Encoder, data: TrainingSet, exported: NDArray[np.float32]) -> None:
    chosen = even_sample(len(data), BLOCK)
    channels, features = torch.from_numpy(data.channels(chosen)), torch.from_numpy(data.features[chosen])
    difference = float(np.abs(encoder(channels, features)[1].numpy() - exported[chosen]).max())
    if not difference <= SAME:
        raise ModelRefused(
            f"the new encoder is refused: as exported, it differs from the trained net by {difference:.2g}; the "
            "versions of torch, onnx and onnxruntime may not fit together (requirements/)"
        )


def describe(result: dict[str, Any]) -> str:
    """The model card as a few lines for a person."""
    asked = f" ({result['minutes']:g} minutes asked)" if "minutes" in result else ""
    held_out = f"{result['windows_held_out']:,}"
    lines = {
        "model": f"{result['model_id']}, {result['status']}, sha256 {result['sha256'][:12]}…",
        "span": f"{result['trained_from']} to {result['trained_to']}, known from {result['known_from']}",
        "candles": f"{result['candles']:,} of {', '.join(result['symbols'])}",
        "windows": f"{result['windows_fitted']:,} fitted, {held_out} held out",
        "training": f"{result['steps']:,} steps of {result['batch_size']}{asked}, seed {result['seed']}, "
        f"{result['threads']} thread on {result['device']}, PyTorch {result['torch']}",
        "net": f"{result['parameters']:,} parameters, schema {result['schema_hash'][:12]}…",
        "losses": ", ".join(
            f"{key.removeprefix('loss_')} {v:g}" for key, v in result.items() if key.startswith("loss")
        ),
        "volatility": f"of the next 24 h, R² on the windows held out: {result['probe_r2']:.3f} from the embedding, "
        f"{result['har_r2']:.3f} HAR, {result['persistence_r2']:.3f} persistence",
    }
    return "\n".join(f"{name:<10}  {text}" for name, text in lines.items())
