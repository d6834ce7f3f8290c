"""The reliability plot: how often what was called with a probability then happened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from meta_controller.scorecard import Panel, Scorecard
    from meta_controller.scoring import Reliability

INK, MUTED, GRID = "#1f2a35", "#5d6b7a", "#e4e8ec"
COLOURS = {"pool": "#0f5c7a", "har_logit": "#c9822b", "llm": "#7a4fa3"}
NAMES = {"pool": "pool", "har_logit": "HAR-logit", "llm": "LLM"}
OTHER = "#7f868d"
ROOM = 0.03  # around the curves


def write_plot(card: Scorecard, path: Path) -> None:
    """Writes a PNG of 1600 x 1680 pixels, making its folder where needed: pool, HAR-logit and LLM, as far as they
    called; the first of those there are, if none of them did."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    horizons = sorted({panel.horizon_s for panel in card.panels})
    figure = Figure(figsize=(10, 10.5), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(horizons), squeeze=False)
    figure.subplots_adjust(left=0.08, right=0.97, top=0.86, bottom=0.06, wspace=0.2, hspace=0.24)
    for panel in card.panels:
        _draw(grid[("trend", "volatility").index(panel.axis), horizons.index(panel.horizon_s)], panel)
    handles = {label: line for axes in grid.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="upper right", bbox_to_anchor=(0.97, 0.965), ncols=4,
                  frameon=False, fontsize=10, labelcolor=INK)  # fmt: skip
    figure.text(0.08, 0.95, "Reliability of the regime calls", fontsize=14, color=INK, weight="bold", va="center")
    span = f"{card.first:%Y-%m-%d} to {card.last:%Y-%m-%d}; bands: where 95 % would lie if calibrated"
    figure.text(0.08, 0.922, span, fontsize=9.5, color=MUTED, va="center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def _draw(axes: Axes, panel: Panel) -> None:
    known = {name: panel.curves[name] for name in COLOURS if name in panel.curves}
    curves = known or dict([*panel.curves.items()][:1])
    for name, curve in curves.items():
        colour = COLOURS.get(name, OTHER)
        axes.fill_between(curve.forecast, curve.low, curve.high, color=colour, alpha=0.13, linewidth=0)
        axes.plot(curve.forecast, curve.observed, color=colour, marker="o", markersize=4, linewidth=1.6,
                  label=NAMES.get(name, name))  # fmt: skip
    low, high = _limits([*curves.values()])
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_title(f"{panel.axis} of the next {panel.horizon_s // 3600} hours", fontsize=11, color=INK, loc="left")
    axes.set_xlabel("probability called", fontsize=9, color=MUTED)
    axes.set_ylabel("share that happened", fontsize=9, color=MUTED)
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_color(GRID)


def _limits(curves: list[Reliability]) -> tuple[float, float]:
    """The same for both axes of a panel, as near as its curves and bands allow."""
    if not curves:
        return 0.0, 1.0
    values = np.concatenate([part for c in curves for part in (c.forecast, c.observed, c.low, c.high)])
    return max(0.0, float(values.min()) - ROOM), min(1.0, float(values.max()) + ROOM)
