"""Charts of a backtest as inline SVG: matplotlib's object API, no global figures, the same bytes each time.

Every chart comes twice, for a desk and for a phone; the page's style sheet shows the one that fits. Numbers are
in the picture, names and legends beside it in HTML, so that text stays crisp and charts stay plain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

from shared.clock import from_unix, to_unix
from shared.metrics import DAY_S, drawdowns
from shared.rows import FloatArray, IntArray

MUTED, GRID, PRICE = "#5d6b7a", "#e4e8ec", "#8794a1"
OWN, BENCHMARK, CASH = "#0f5c7a", "#c9822b", "#97a3af"
OTHERS = ("#7a68a6", "#5b8c6a", "#a65d7b", "#6d7f3f")
INSTRUMENTS = ("#2c6e8f", "#dca35a", "#6fa287", "#8e7cb5", "#c47d6d", "#8fb3c9", "#b7a86b", "#9c8579")
BUY, SELL = "#1d7a5f", "#b4483a"
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MAX_MARKERS = 300
STEPS_S = tuple(3600 * h for h in (1, 2, 3, 6, 12)) + tuple(DAY_S * d for d in (1, 2, 3, 5, 7, 10, 14, 21))
STEPS_MONTHS = (1, 2, 3, 6, 12, 24, 60, 120)

Draw = Callable[[Axes, "Size"], None]


@dataclass(frozen=True, slots=True)
class Size:
    """One rendering: inches, font in points, points along a line, ticks along the time axis."""

    name: str
    width: float
    height: float
    font: float
    points: int
    ticks: int


WIDE = Size("wide", 9.6, 2.9, 8.2, 1500, 8)
NARROW = Size("narrow", 4.5, 2.9, 10.5, 600, 4)


@dataclass(frozen=True, slots=True)
class Line:
    """A line to draw: ``times`` Unix seconds, ``values`` of the same length; ``own`` is the policy's."""

    times: IntArray
    values: FloatArray
    colour: str
    own: bool = False


@dataclass(frozen=True, slots=True)
class Trades:
    """Fills of one instrument: Unix seconds, prices, and which of them were buys."""

    times: IntArray
    prices: FloatArray
    buys: NDArray[np.bool_]


def thin(length: int, limit: int) -> IntArray:
    """At most ``limit`` indices of ``length`` points: the first, and the last of each equal bucket."""
    if length <= limit:
        return np.arange(length, dtype=np.int64)
    lasts = np.linspace(0, length, limit)[1:].astype(np.int64) - 1
    return np.unique(np.append(0, lasts))


def equity_chart(lines: Sequence[Line]) -> str:
    """Each curve's return since its first point, in percent; the policy's line above the others."""

    def draw(axes: Axes, size: Size) -> None:
        for line in lines:
            _plot(axes, size, line, 100.0 * (line.values / line.values[0] - 1.0))
        axes.axhline(0.0, color=CASH, linewidth=0.7, zorder=1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+g}%".replace("-", "−") if x else "0%"))

    return _both(draw, "equity")


def drawdown_chart(lines: Sequence[Line]) -> str:
    """How far each curve stands below its highest so far, in percent; the policy's filled, its deepest marked.

    Drawdowns are taken over all points before the line is thinned, and the deepest point is always among them.
    """

    def draw(axes: Axes, size: Size) -> None:
        for line in lines:
            below = -100.0 * drawdowns(line.values)
            deepest = int(below.argmin())
            at = np.unique(np.append(thin(len(below), size.points - 1), deepest))
            axes.plot(line.times[at], below[at], **_stroke(line))
            if line.own:
                axes.fill_between(line.times[at], below[at], 0.0, color=line.colour, alpha=0.13, linewidth=0.0)
                axes.plot(line.times[deepest], below[deepest], "o", color=line.colour, markersize=3.5, zorder=4)
        axes.set_ylim(top=0.0)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}%"))

    return _both(draw, "drawdown")


def exposure_chart(times: IntArray, weights: FloatArray, colours: Sequence[str]) -> str:
    """``weights`` [B, N], fractions of equity, stacked; what is left up to 100 % is cash."""

    def draw(axes: Axes, size: Size) -> None:
        at = thin(len(times), min(size.points, 3000 // max(weights.shape[1], 1)))
        floor = np.zeros(len(at))
        for n, colour in enumerate(colours):
            ceiling = floor + 100.0 * weights[at, n]
            axes.fill_between(times[at], floor, ceiling, color=colour, alpha=0.85, linewidth=0.0)
            floor = ceiling
        axes.set_ylim(0.0, max(100.0, float(floor.max())))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}%"))

    return _both(draw, "exposure")


def price_chart(price: Line, trades: Trades, name: str) -> str:
    """One instrument's closes, with a triangle up at each buy and down at each sell, at the price paid.

    Of more than MAX_MARKERS fills, that many are drawn, evenly spaced.
    """

    def draw(axes: Axes, size: Size) -> None:
        _plot(axes, size, price, price.values)
        some = thin(len(trades.times), MAX_MARKERS)
        across = 7.0 if len(some) <= 100 else 4.5
        when, paid, bought = trades.times[some], trades.prices[some], trades.buys[some]
        for side, shape, colour in ((bought, "^", BUY), (~bought, "v", SELL)):
            for marks in axes.plot(when[side], paid[side], shape, color=colour, markersize=across, zorder=4):
                marks.set(markeredgecolor="white", markeredgewidth=0.6, clip_on=False, in_layout=False)
        axes.set_xlim(price.times[0], price.times[-1])
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))

    return _both(draw, f"price-{name}")


def _plot(axes: Axes, size: Size, line: Line, values: FloatArray) -> None:
    known = np.flatnonzero(~np.isnan(values))
    at = known[thin(len(known), size.points)]
    axes.plot(line.times[at], values[at], **_stroke(line))


def _stroke(line: Line) -> dict[str, Any]:
    return {"color": line.colour, "linewidth": 1.5 if line.own else 1.0, "zorder": 3 if line.own else 2}


def _both(draw: Draw, salt: str) -> str:
    """The chart for a desk and for a phone; ``salt`` keeps the ids of one page's charts apart."""
    return "".join(_render(draw, size, f"{salt}-{size.name}") for size in (WIDE, NARROW))


def _render(draw: Draw, size: Size, salt: str) -> str:
    out = StringIO()
    with mpl.rc_context(
        {"svg.hashsalt": salt, "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": size.font}
    ):
        figure = Figure(figsize=(size.width, size.height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes, size)
        _dress(axes, size)
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=metadata)
    return _inline(out.getvalue(), size.name)


def _dress(axes: Axes, size: Size) -> None:
    """Thin grid lines across, no frame, few ticks."""
    axes.margins(x=0.0)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(CASH)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.tick_params(axis="y", length=0, labelcolor=MUTED, pad=4)
    axes.tick_params(axis="x", length=3, color=CASH, labelcolor=MUTED)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    ticks = time_ticks(*axes.get_xlim(), size.ticks)
    axes.set_xticks([float(at) for at in ticks], labels=list(ticks.values()))


def time_ticks(first: float, last: float, limit: int) -> dict[int, str]:
    """Round moments from ``first`` to ``last`` (Unix seconds), at most ``limit``, and what to call them."""
    for step in STEPS_S:
        ticks = range(int(-(-first // step) * step), int(last) + 1, step)
        if len(ticks) <= limit:
            return {at: _day(at) if at % DAY_S == 0 else f"{from_unix(at):%H:%M}" for at in ticks}
    months = range(12 * from_unix(first).year, 12 * from_unix(last).year + 12)
    starts = {m: to_unix(datetime(m // 12, m % 12 + 1, 1, tzinfo=UTC)) for m in months}
    inside = [m for m, at in starts.items() if first <= at <= last]
    step = next((s for s in STEPS_MONTHS if len(inside) <= s * (limit - 1)), STEPS_MONTHS[-1])
    return {starts[m]: f"{from_unix(starts[m]):%b %Y}" for m in inside if m % step == 0}


def _day(at: int) -> str:
    return f"{from_unix(at).day} {from_unix(at):%b}"


def _inline(svg: str, size: str) -> str:
    """The <svg> element alone, as wide as its column: no prolog, no namespaces (HTML knows them), no counted ids
    (two charts on a page would share them), coordinates of two decimals, the page's fonts."""
    svg = re.sub(r"<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None
    svg = re.sub(r"<svg[^>]*>", f'<svg class="{size}" viewBox="{box.group(1)}" aria-hidden="true">', svg, count=1)
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag.group()), svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", rf"font: \1px {FONTS}", svg)
    return re.sub(r">\s+<", "><", svg).strip()
