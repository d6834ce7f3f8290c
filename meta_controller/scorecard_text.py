"""The scorecard as tables for a terminal."""

from __future__ import annotations

import math
from io import StringIO
from itertools import groupby
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from meta_controller.scoring import BLOCK_DAYS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meta_controller.scorecard import Line, Panel, Scorecard, Separation, Switches
    from meta_controller.scoring import Comparison, Interval

WIDE = 124  # from here on p-values are written out
NAMES = {"climatology": "climatology", "persistence": "persistence", "har_logit": "HAR-logit", "pool": "pool"}
SHORT = {"climatology": "clim.", "persistence": "pers.", "har_logit": "HAR", "pool": "pool"}
LEGEND = """\
Lower is better for Brier, RPS (ranked probability score), log loss (nats) and ECE (calibration error, corrected for
chance). T: the temperature that would have calibrated the calls, above 1: they were too sure. Then the Brier skill
against each other forecaster on common moments, 1 - Brier / the other's: above 0 is better"""
STARS = f"; * p < 0.05, ** p < 0.01\n(one-sided, blocks of {BLOCK_DAYS} days)."
SPELT = f", with its p\n(one-sided, blocks of {BLOCK_DAYS} days)."
SWITCHES = "Changes of the word for the regime, a day"
RECALIBRATED = "Recalibrated: the LLM's calls, each at the temperature that its calls scored before had shown."
CONTAMINATED = "CONTAMINATED: the model may have read about these times. They prove nothing and count nowhere else."


def as_text(card: Scorecard, width: int) -> str:
    """Of at most ``width`` columns (80 or more), without escape codes."""
    out = StringIO()
    console = Console(file=out, width=width, force_terminal=False, color_system=None, highlight=False, emoji=False)
    console.print(f"Calls from {card.first:%Y-%m-%d %H:%M} to {card.last:%Y-%m-%d %H:%M} UTC", markup=False)
    for panel in card.panels:
        console.print()
        console.print(f"{panel.axis.capitalize()} of the next {panel.horizon_s // 3600} hours", markup=False)
        console.print(_panel_table(panel, wide=width >= WIDE))
    console.print()
    console.print((LEGEND + (SPELT if width >= WIDE else STARS)).replace("\n", " "), markup=False)
    if any(line.forecaster.endswith("recalibrated") for panel in card.panels for line in panel.lines):
        console.print(RECALIBRATED, markup=False)
    if any(line.contaminated for panel in card.panels for line in panel.lines):
        console.print(CONTAMINATED, markup=False)
    of = f"The 24 hours after each kind of call of {card.separation_of}: mean and 95 % interval, in %"
    for title, table in ((SWITCHES, _switch_table(card.switches)), (of, _separation_table(card.separation))):
        if table.row_count:
            console.print(f"\n{title}", markup=False)
            console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _table(apart: int = 1) -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, apart), show_edge=False)


def _panel_table(panel: Panel, wide: bool) -> Table:
    table = _table(apart=int(wide))
    table.add_column("forecaster", min_width=13, overflow="fold")
    for heading in ("calls", "Brier", "RPS", "log loss" if wide else "log", "ECE", "T"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in NAMES:
        table.add_column(f"vs {NAMES[name]}" if wide else SHORT[name], justify="right", no_wrap=True)
    for line in panel.lines:
        table.add_row(*_cells(line, wide))
    return table


def _cells(line: Line, wide: bool) -> list[str]:
    s = line.scores
    numbers = [_fraction(value) for value in (s.brier, s.rps, s.log_loss, s.ece)]
    told = [_skill(line.against.get(name), wide, tested=name != "climatology") for name in NAMES]
    return [line.forecaster, str(s.calls), *numbers, f"{s.temperature:.2f}", *told]


def _skill(comparison: Comparison | None, wide: bool, tested: bool) -> str:
    if comparison is None or math.isnan(comparison.skill):
        return "–"
    value, p = f"{round(comparison.skill, 3) + 0.0:+.3f}".replace("0.", ".", 1), comparison.p
    if not tested:
        return value
    if not wide:
        return value + ("" if math.isnan(p) else "**" if p < 0.01 else "*" if p < 0.05 else "")
    return f"{value} ({'p ?' if math.isnan(p) else '<.001' if p < 0.001 else _fraction(p)})"


def _fraction(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}".removeprefix("0")


def _switch_table(switches: Sequence[Switches]) -> Table:
    horizons = sorted({one.horizon_s for one in switches})
    table = _table()
    table.add_column("forecaster")
    for horizon_s in horizons:
        table.add_column(f"{horizon_s // 3600} h", justify="right")
    for name, own in groupby(switches, key=lambda one: one.forecaster):
        rates = {one.horizon_s: f"{one.a_day:.2f}" for one in own}
        table.add_row(name, *(rates.get(horizon_s, "–") for horizon_s in horizons))
    return table


def _separation_table(separation: Sequence[Separation]) -> Table:
    table = _table()
    for heading in ("called", "as"):
        table.add_column(heading)
    for heading in ("calls", "realised volatility", "log return"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in separation:
        table.add_row(*_separation_cells(one))
    return table


def _separation_cells(one: Separation) -> list[str]:
    return [one.by, one.called, str(one.calls), _percent(one.realised, ".2f"), _percent(one.log_return, "+.2f")]


def _percent(interval: Interval, form: str) -> str:
    if math.isnan(interval.mean):
        return "–"
    bounds = (f"{100 * bound:{form}}" for bound in (interval.low, interval.high))
    known = "too few days" if math.isnan(interval.low) else " to ".join(bounds)
    return f"{100 * interval.mean:{form}} ({known})"
