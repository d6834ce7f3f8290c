"""The net of a fold, trained and untrained, and what they see in each moment's window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from encoder.dataset import TrainingSet, build_training_set, candles_between
from encoder.evaluation.baselines import Inputs, fit_pca
from encoder.evaluation.panel import Panel
from encoder.evaluation.recipe import Recipe
from encoder.evaluation.splits import Fold
from encoder.inference import embed_features
from shared.features import FEATURES, Grid, compute_channels, compute_features
from shared.model_store import Model
from shared.rows import Candles, FloatArray, IntArray

if TYPE_CHECKING:
    from encoder.encoder_model import Encoder

PCA_SAMPLE = 20_000  # windows
BLOCK = 512  # windows in memory at a time

Project = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Nets:
    """The trained net as it will run, and as it was before, in PyTorch."""

    trained: Model
    untrained: Encoder
    training: dict[str, Any]


def training_windows(series: Sequence[Candles], fold: Fold, timeframe_s: int) -> tuple[TrainingSet, TrainingSet]:
    """Of the candles of [train_from, train_to], labels included: the windows to fit and the last 15 %, which are not.

    JobError for too few.
    """
    from encoder.model_card import split

    inside = [candles_between(candles, fold.train_from - 1, fold.train_to) for candles in series]
    return split(build_training_set([c for c in inside if len(c)], timeframe_s))


def train_nets(
    fitted: TrainingSet, held: TrainingSet, recipe: Recipe, checkpoints: Path | None, progress: bool
) -> Nets:
    """Trained on the windows ``fitted``; resumes from ``checkpoints``. TrainingStopped after SIGTERM or SIGINT."""
    from encoder.model_card import export, trial_model
    from encoder.training import TrainingPlan, fit, reproducible

    plan = TrainingPlan(
        recipe.steps, recipe.batch_size, recipe.seed, recipe.minutes, most_passes=recipe.most_passes, device="cpu"
    )
    net = fit(fitted, plan, checkpoints, progress)
    before = fit(fitted, replace(plan, steps=0, minutes=None)).encoder
    with reproducible(plan.threads, "cpu"):
        trained = trial_model(export(net.encoder, fitted, held), recipe.timeframe_s)
    training = {"steps": net.steps, "windows": len(fitted), "losses": net.losses}
    return Nets(trained, before, training)


def see(
    series: Sequence[Candles], panel: Panel, learn: IntArray, nets: Nets, recipe: Recipe
) -> tuple[Inputs, FloatArray]:
    """What everyone reads of each moment of ``panel``, and the trained net's ood [N]; the components of PCA are
    those of the rows ``learn``."""
    grids = {int(k): Grid(series[k], recipe.timeframe_s) for k in np.unique(panel.series)}
    project = fit_pca(_sample(grids, panel.select(learn)), recipe.seed)
    n = len(panel)
    features = np.empty((n, len(FEATURES)), np.float32)
    pca: NDArray[np.float32] | None = None
    untrained, embedding = np.empty((n, 64), np.float32), np.empty((n, 64), np.float32)
    ood = np.empty(n)
    for k, grid in grids.items():
        rows_of_series = np.flatnonzero(panel.series == k)
        for i in range(0, len(rows_of_series), BLOCK):
            rows = rows_of_series[i : i + BLOCK]
            windows = grid.windows(panel.as_of[rows])
            channels, features[rows] = compute_channels(windows), compute_features(windows)
            trained = embed_features(nets.trained, channels, features[rows])
            embedding[rows], ood[rows] = trained.embedding, trained.ood
            untrained[rows] = _embed_untrained(nets.untrained, channels, features[rows])
            components = project(channels.reshape(len(rows), -1))
            if pca is None:
                pca = np.empty((n, components.shape[1]), np.float32)
            pca[rows] = components
    assert pca is not None  # there is at least one moment
    return Inputs(panel, features, pca, untrained, embedding), ood


def _embed_untrained(
    encoder: Encoder, channels: NDArray[np.float32], features: NDArray[np.float32]
) -> NDArray[np.float32]:
    """[n, 64]; by PyTorch on one thread, since it never runs anywhere else."""
    import torch

    from encoder.training import reproducible

    with reproducible(1, "cpu"), torch.no_grad():
        embedding: NDArray[np.float32] = encoder(torch.from_numpy(channels), torch.from_numpy(features))[1].numpy()
    return embedding


def _sample(grids: dict[int, Grid], panel: Panel) -> NDArray[np.float32]:
    """float32 [at most 20,000, C·L]: windows of the moments, evenly spread."""
    chosen = np.unique(np.linspace(0, len(panel) - 1, min(len(panel), PCA_SAMPLE)).astype(np.int64))
    parts = []
    for k, grid in grids.items():
        closes = panel.as_of[chosen[panel.series[chosen] == k]]
        for i in range(0, len(closes), BLOCK):
            channels = compute_channels(grid.windows(closes[i : i + BLOCK]))
            parts.append(channels.reshape(len(channels), -1))
    return np.concatenate(parts)
