"""A picture of one moment over its analogs: the paths before, and the fan of what followed them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shared.analog_bands import LEVELS
from shared.rows import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID = "#1f2a35", "#5d6b7a", "#e4e8ec"
OWN, ANALOG, FAN, FOLLOWED = "#0f5c7a", "#8794a1", "#c9822b", "#b4483a"
HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class AnalogChart:
    """What is drawn; paths are log returns from the moment, those of analogs at the present volatility.

    ``warning`` is a word or two, or nothing. ``past_s`` [P] up to 0 and ``future_s`` [T] from 0 on, in seconds from
    the moment; ``present`` [P]; ``before`` [n, P] and ``after`` [n, T] of the analogs; ``followed`` [T] is what really
    followed, NaN where not known; ``half_widths`` [H, L] of the calibrated bands at ``horizons_s`` [H]; ``price`` at
    the moment.
    """

    title: str
    subtitle: str
    warning: str
    past_s: FloatArray
    present: FloatArray
    before: FloatArray
    future_s: FloatArray
    after: FloatArray
    followed: FloatArray
    horizons_s: FloatArray
    half_widths: FloatArray
    price: float


def write_chart(chart: AnalogChart, path: Path) -> None:
    """Writes a PNG of 1760 x 880 pixels, making its folder where needed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.5), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 4))
    figure.subplots_adjust(left=0.065, right=0.925, top=0.84, bottom=0.18, wspace=0.0)
    _draw_past(left, chart)
    _draw_future(right, chart)
    _dress(left, right, chart)
    figure.text(0.065, 0.945, chart.title, fontsize=13, color=INK, weight="bold", va="center")
    figure.text(0.065, 0.893, chart.subtitle, fontsize=9, color=MUTED, va="center")
    figure.text(0.925, 0.945, chart.warning, fontsize=13, color=FOLLOWED, weight="bold", va="center", ha="right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def fan(chart: AnalogChart) -> FloatArray:
    """The half widths [T, L] at each of ``future_s``: between horizons linear in the root of time."""
    root = np.sqrt(np.concatenate([[0.0], chart.horizons_s]))
    widths = np.vstack([np.zeros(len(LEVELS)), chart.half_widths])
    return np.column_stack([np.interp(np.sqrt(chart.future_s), root, column) for column in widths.T])


def _percent(log_return: FloatArray) -> FloatArray:
    return np.asarray(100.0 * np.expm1(log_return))


def _draw_past(axes: Axes, chart: AnalogChart) -> None:
    hours = chart.past_s / HOUR_S
    for path in chart.before:
        axes.plot(hours, _percent(path), color=ANALOG, alpha=0.32, linewidth=0.8)
    axes.plot([], [], color=ANALOG, linewidth=1.0, label="analogs, at today's volatility")
    axes.plot(hours, _percent(chart.present), color=OWN, linewidth=2.2, label="this moment")
    axes.set_xlim(hours[0], 0.0)


def _draw_future(axes: Axes, chart: AnalogChart) -> None:
    hours, widths = chart.future_s / HOUR_S, fan(chart)
    for level, alpha, column in reversed(list(zip(LEVELS, (0.40, 0.24, 0.14), widths.T, strict=True))):
        axes.fill_between(
            hours,
            _percent(-column),
            _percent(column),
            color=FAN,
            alpha=alpha,
            linewidth=0,
            label=f"{100 * level:.0f} % band",
        )
    for path in chart.after:
        axes.plot(hours, _percent(path), color=ANALOG, alpha=0.32, linewidth=0.8)
    if np.isfinite(chart.followed[1:]).any():
        axes.plot(hours, _percent(chart.followed), color=FOLLOWED, linewidth=2.0, label="what followed")
    axes.set_xlim(0.0, hours[-1])


def _dress(left: Axes, right: Axes, chart: AnalogChart) -> None:
    """Axes, limits and legends: the present, the fan and the middle of the analogs decide what is seen."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    shown = [chart.present, chart.followed[np.isfinite(chart.followed)], chart.half_widths[:, -1]]
    middle = np.quantile(np.abs(np.hstack([chart.before, chart.after])), 0.97) if len(chart.before) else 0.0
    reach = 1.12 * max(float(np.abs(_percent(np.concatenate(shown))).max()), float(_percent(np.array(middle))))
    for axes in (left, right):
        axes.set_ylim(-reach, reach)
        axes.axhline(0.0, color=MUTED, linewidth=0.7)
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8, colors=MUTED, length=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, prune="both"))
        for side in ("top", "left", "right", "bottom"):
            axes.spines[side].set_visible(False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, fontsize=8, frameon=False, labelcolor=INK)
    left.axvline(0.0, color=INK, linewidth=1.2)
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g} %" if value else "0 %"))
    left.set_xlabel("hours before", fontsize=8.5, color=MUTED)
    right.set_xlabel("hours after", fontsize=8.5, color=MUTED)
    prices = right.twinx()
    prices.set_ylim(chart.price * (1 - reach / 100), chart.price * (1 + reach / 100))
    prices.tick_params(labelsize=8, colors=MUTED, length=0)
    prices.yaxis.set_major_formatter(FuncFormatter(_price))
    for side in ("top", "left", "right", "bottom"):
        prices.spines[side].set_visible(False)


def _price(value: float, _: int | None) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.5g}"
