"""The learning curves of a training: a table and a plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = ("seed", "stage", "step", "environment_steps", "reward")
SMOOTHED = 9  # points of a running mean
COLOURS = {"pathwise": "#0072b2", "ppo": "#d55e00"}  # Okabe & Ito: told apart by everybody

Curve = Sequence[Mapping[str, Any]]


def curve_csv(curve: Curve) -> str:
    """The points of all seeds, one a line: COLUMNS."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(curve)
    return sink.getvalue()


def write_curve(curve: Curve, directory: Path, name: str) -> list[Path]:
    """Writes ``name``.csv and ``name``.png to ``directory``; the paths. Rewards of training, not of validation: random
    steering and costs, noise on the actions."""
    directory.mkdir(parents=True, exist_ok=True)
    table, plot = directory / f"{name}.csv", directory / f"{name}.png"
    table.write_text(curve_csv(curve), encoding="utf-8")
    _plot(curve, plot)
    return [table, plot]


def _plot(curve: Curve, path: Path) -> None:
    from matplotlib.figure import Figure  # half a second, and no display is needed

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    stages = list(dict.fromkeys(point["stage"] for point in curve))
    axes = figure.subplots(1, max(len(stages), 1), squeeze=False)[0]
    for axis, stage in zip(axes, stages, strict=False):
        for seed in dict.fromkeys(point["seed"] for point in curve):
            points = [point for point in curve if point["stage"] == stage and point["seed"] == seed]
            steps = np.array([point["environment_steps"] for point in points]) / 1e6
            reward = np.array([point["reward"] for point in points])
            axis.plot(steps, reward, color=COLOURS.get(stage, "#555555"), alpha=0.15, linewidth=1)
            axis.plot(steps, _smooth(reward), color=COLOURS.get(stage, "#555555"), linewidth=1.6)
        axis.axhline(0.0, color="#999999", linewidth=0.8)
        axis.set_title(stage)
        axis.set_xlabel("million decisions of a book")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean reward a step (risk asked for = 1)")
    figure.suptitle("Training reward; one line a seed, running mean")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _smooth(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    width = min(SMOOTHED, len(values))
    if width < 2:
        return values
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, np.full(width, 1.0 / width), mode="valid")
