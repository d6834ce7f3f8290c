"""Charts of a backtest as inline SVG: matplotlib's object API, no global figures, the same bytes each time.

Every chart over time comes twice, for a desk and for a phone; the page's style sheet shows the one that fits. Numbers
are in the picture, names and legends beside it in HTML, so that text stays crisp and charts stay plain. Colours are
names of policy.report_palette and end up as CSS variables, so that the page's are the charts', by day and by night.
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
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, StrMethodFormatter
from numpy.typing import NDArray

from policy.report_data import Band
from policy.report_palette import LIGHT, NAMES
from shared.clock import from_unix, to_unix
from shared.performance import DAY_S, drawdowns
from shared.rows import FloatArray, IntArray

FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MAX_MARKERS = 300
STEPS_S = tuple(3600 * h for h in (1, 2, 3, 6, 12)) + tuple(DAY_S * d for d in (1, 2, 3, 5, 7, 10, 14, 21))
STEPS_MONTHS = (1, 2, 3, 6, 12, 24, 60, 120)
LOG_RANGE = 4.0  # highest over lowest growth from which on equal steps mean equal factors
FACTORS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)

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
NARROW = Size("narrow", 4.5, 3.1, 11.5, 500, 3)
PANEL = Size("panel", 4.7, 2.6, 11.0, 500, 4)


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


def bucket_means(values: FloatArray, ends: IntArray) -> FloatArray:
    """The mean of ``values`` [B, N] over each stretch up to and including one of ``ends`` [K], which ``thin`` made."""
    starts = np.append(0, ends[:-1] + 1)
    sums: FloatArray = np.add.reduceat(values, starts, axis=0)
    return sums / np.diff(np.append(starts, len(values)))[:, None]


def is_logarithmic(lines: Sequence[Line], bands: Sequence[Band] = ()) -> bool:
    """Whether growth ranges so far that a linear axis would flatten its beginning."""
    growths = [line.values / line.values[0] for line in lines] + [b for band in bands for b in (band.low, band.high)]
    low, high = min(float(np.nanmin(g)) for g in growths), max(float(np.nanmax(g)) for g in growths)
    return low > 0.0 and high > LOG_RANGE * low


def equity_chart(lines: Sequence[Line], bands: Sequence[Band] = ()) -> str:
    """Each curve's growth since its first point, the policy's line above the others, bands behind them; in percent,
    or in multiples on a logarithmic axis where the range asks for it."""
    logarithmic = is_logarithmic(lines, bands)

    def scale(growth: FloatArray) -> FloatArray:
        return growth if logarithmic else 100.0 * (growth - 1.0)

    def draw(axes: Axes, size: Size) -> None:
        for band in bands:
            _shade(axes, size, band, scale)
        for line in lines:
            _plot(axes, size, line, scale(line.values / line.values[0]))
        axes.axhline(1.0 if logarithmic else 0.0, color=LIGHT["axis"], linewidth=0.7, zorder=1)
        if logarithmic:
            _round_factors(axes)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.3g}×"))
        else:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+,g}%".replace("-", "−") if x else "0%"))

    return _both(draw, "equity")


def _shade(axes: Axes, size: Size, band: Band, scale: Callable[[FloatArray], FloatArray]) -> None:
    at = thin(len(band.times), size.points // 2)
    colour, alpha = (LIGHT["own"], 0.13) if band.kind == "luck" else (LIGHT["shifts"], 0.22)
    low, high = scale(band.low[at]), scale(band.high[at])
    axes.fill_between(band.times[at], low, high, color=colour, alpha=alpha, linewidth=0.0, zorder=1)
    if band.median is not None:
        axes.plot(band.times[at], scale(band.median[at]), color=LIGHT["shifts"], linewidth=0.9, linestyle=(0, (2, 2)))


def _round_factors(axes: Axes) -> None:
    """A logarithmic axis with few round ticks: 0.5, 1, 2, 5."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for factors in (FACTORS, (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        ticks = [factor * 10.0**decade for decade in decades for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 6:
            break
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())


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
                axes.fill_between(line.times[at], below[at], 0.0, color=LIGHT[line.colour], alpha=0.13, linewidth=0.0)
                axes.plot(line.times[deepest], below[deepest], "o", color=LIGHT[line.colour], markersize=3.5, zorder=4)
        axes.set_ylim(top=0.0)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}%"))

    return _both(draw, "drawdown")


def exposure_chart(times: IntArray, weights: FloatArray, colours: Sequence[str]) -> str:
    """``weights`` [B, N], fractions of equity, stacked; what is left up to 100 % is cash. Where there are more bars
    than the eye can tell apart, each point is the mean of its stretch."""

    def draw(axes: Axes, size: Size) -> None:
        ends = thin(len(times), min(size.points // 3, 3000 // max(weights.shape[1], 1)))
        means = bucket_means(weights, ends)
        floor = np.zeros(len(ends))
        for n, colour in enumerate(colours):
            ceiling = floor + 100.0 * means[:, n]
            axes.fill_between(times[ends], floor, ceiling, color=LIGHT[colour], alpha=0.85, linewidth=0.0)
            floor = ceiling
        axes.set_ylim(0.0, max(100.0, float(floor.max())))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}%"))

    return _both(draw, "exposure")


def price_chart(price: Line, trades: Trades, name: str) -> str:
    """One instrument's closes, with a triangle up at each buy and down at each sell, at the price paid. On a log
    axis where prices range far. Of more than MAX_MARKERS fills, that many are drawn, evenly spaced.
    """

    def draw(axes: Axes, size: Size) -> None:
        _plot(axes, size, price, price.values)
        some = thin(len(trades.times), MAX_MARKERS)
        across = 7.0 if len(some) <= 100 else 4.5
        when, paid, bought = trades.times[some], trades.prices[some], trades.buys[some]
        for side, shape, colour in ((bought, "^", "buy"), (~bought, "v", "sell")):
            for marks in axes.plot(when[side], paid[side], shape, color=LIGHT[colour], markersize=across, zorder=4):
                marks.set(markeredgecolor=LIGHT["card"], markeredgewidth=0.6, clip_on=False, in_layout=False)
        axes.set_xlim(price.times[0], price.times[-1])
        if np.nanmax(price.values) > LOG_RANGE * np.nanmin(price.values) > 0.0:
            _round_factors(axes)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))

    return _both(draw, f"price-{name}")


def steering_chart(points: Sequence[tuple[float, float]], axis: str, unit: str) -> str:
    """What one number of the steering (``axis`` names it) does: a line through ``points``, which are (it, the effect),
    the effect as a share ('%') or a multiple ('×')."""

    def draw(axes: Axes, size: Size) -> None:
        across, effect = np.array(sorted(points), dtype=np.float64).T
        axes.plot(across, effect * (100.0 if unit == "%" else 1.0), "-o", color=LIGHT["own"], markersize=4.0)
        axes.margins(x=0.04)
        axes.set_ylim(0.0, 1.1 * float(axes.dataLim.y1))
        axes.set_xlabel(axis, color=LIGHT["muted"])
        axes.yaxis.set_major_formatter(StrMethodFormatter(f"{{x:g}}{unit}"))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))

    return _render(draw, PANEL, f"steering-{axis}", _dress)


def _plot(axes: Axes, size: Size, line: Line, values: FloatArray) -> None:
    known = np.flatnonzero(~np.isnan(values))
    at = known[thin(len(known), size.points)]
    axes.plot(line.times[at], values[at], **_stroke(line))


def _stroke(line: Line) -> dict[str, Any]:
    return {"color": LIGHT[line.colour], "linewidth": 1.8 if line.own else 0.9, "zorder": 3 if line.own else 2}


def _both(draw: Draw, salt: str) -> str:
    """The chart over time for a desk and for a phone; ``salt`` keeps the ids of one page's charts apart."""
    return "".join(_render(draw, size, f"{salt}-{size.name}", _dress_times) for size in (WIDE, NARROW))


def _render(draw: Draw, size: Size, salt: str, dress: Draw) -> str:
    out = StringIO()
    with mpl.rc_context(
        {"svg.hashsalt": salt, "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": size.font}
    ):
        figure = Figure(figsize=(size.width, size.height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.margins(x=0.0)
        draw(axes, size)
        dress(axes, size)
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=metadata)
    return _inline(out.getvalue(), size.name)


def _dress(axes: Axes, _: Size) -> None:
    """Thin grid lines across, no frame."""
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LIGHT["axis"])
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=LIGHT["grid"], linewidth=0.8)
    axes.tick_params(axis="y", length=0, labelcolor=LIGHT["muted"], pad=4)
    axes.tick_params(axis="x", length=3, color=LIGHT["axis"], labelcolor=LIGHT["muted"])


def _dress_times(axes: Axes, size: Size) -> None:
    """As ``_dress``, with few ticks of value and round moments along the time axis."""
    _dress(axes, size)
    if axes.get_yscale() == "linear":
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
    step = next((s for s in STEPS_MONTHS if sum(m % s == 0 for m in inside) <= limit), STEPS_MONTHS[-1])
    said = "%b %Y" if step < 12 else "%Y"
    return {starts[m]: f"{from_unix(starts[m]):{said}}" for m in inside if m % step == 0}


def _day(at: int) -> str:
    return f"{from_unix(at).day} {from_unix(at):%b}"


def _inline(svg: str, size: str) -> str:
    """The <svg> element alone, as wide as its column: no prolog, no namespaces (HTML knows them), no counted ids
    (two charts on a page would share them), coordinates of two decimals, the page's fonts and colours."""
    svg = re.sub(r"<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None
    svg = re.sub(r"<svg[^>]*>", f'<svg class="{size}" viewBox="{box.group(1)}" aria-hidden="true">', svg, count=1)
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag.group()), svg)
    svg = re.sub(
        r"#[0-9a-f]{6}\b",
        lambda found: f"var(--{NAMES[found.group()]})" if found.group() in NAMES else found.group(),
        svg,
    )
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", rf"font: \1px {FONTS}", svg)
    return re.sub(r">\s+<", "><", svg).strip()
