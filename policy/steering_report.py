"""Does the policy obey its steering? A grid of risk aversion × turnover penalty, and tight caps, on some data.

Higher risk aversion must never raise exposure, higher turnover penalty never turnover, and no cap may be exceeded; and
in each cell the one policy for all steerings should be worth nearly as much as one trained for that cell alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policy.book_run import run_book
from policy.inputs import static_config
from policy.risk.context import NO_LIMITS
from policy.strategies.residual import Residual
from policy.trading_env import Terms
from policy.training_data import TrainingData
from shared.clock import from_unix
from shared.rows import PolicyConfig

RISK_AVERSIONS = (0.5, 1.0, 2.0, 4.0, 8.0)
TURNOVER_PENALTIES = (0.25, 1.0, 4.0, 10.0)
TIGHT_POSITION, TIGHT_EXPOSURE = 0.1, 0.25
MOST_REGRET = 0.1
ROUNDING = 1e-9
SAME = 0.02  # of a value: two books drift and trade at other moments, so what is equal by design is not measured equal

Act = Callable[[NDArray[np.float32]], Residual]


@dataclass(frozen=True, slots=True)
class Cell:
    """One steering on one stretch: mean ``exposure`` as allowed, ``turnover`` a year (÷ mean equity), ``utility`` (mean
    reward a step), and the largest weight and sum of weights that were allowed beside their caps. ``specialist``: the
    utility of a policy trained for this cell alone, None where none was trained."""

    risk_aversion: float
    turnover_penalty: float
    max_position: float
    max_exposure: float
    exposure: float
    turnover: float
    utility: float
    largest_position: float
    largest_exposure: float
    specialist: float | None = None

    @property
    def regret(self) -> float | None:
        """The share of the specialist's utility that is missed; negative where the policy is better. None where there
        is no specialist, or its utility is not above zero: a share of nothing says nothing."""
        if self.specialist is None or self.specialist <= 0.0:
            return None
        return 1.0 - self.utility / self.specialist


def measure_cell(data: TrainingData, act: Act | None, terms: Terms, config: PolicyConfig) -> Cell:
    """Runs one book through ``data`` under ``config``, at the fixed costs of ``terms``. ``act`` None: the baseline."""
    book = run_book(data, act, replace(terms, steering=config))
    years = len(book.rewards) * data.step_s / (365 * 86_400)
    together = book.weights.sum(axis=1)
    return Cell(
        risk_aversion=config.risk_aversion,
        turnover_penalty=config.turnover_penalty,
        max_position=config.max_position,
        max_exposure=config.max_exposure,
        exposure=float(together.mean()),
        turnover=book.traded / float(book.equity.mean()) / years,
        utility=float(np.mean(book.rewards)),
        largest_position=float(book.weights.max()),
        largest_exposure=float(together.max()),
    )


def measure_grid(
    data: TrainingData,
    act: Act | None,
    terms: Terms,
    config: PolicyConfig | None = None,
    specialist: Callable[[PolicyConfig], Act] | None = None,
) -> list[Cell]:
    """Every pair of RISK_AVERSIONS and TURNOVER_PENALTIES, then each risk aversion under tight caps.

    ``config``: the rest of the steering, None for the operator's static one without limits. ``specialist`` trains a
    policy for one cell alone and is asked for every cell of the grid; None: no regret is measured."""
    config = config or static_config(from_unix(int(data.times[0])), NO_LIMITS)
    cells = []
    for aversion in RISK_AVERSIONS:
        for penalty in TURNOVER_PENALTIES:
            steered = replace(config, risk_aversion=aversion, turnover_penalty=penalty)
            cell = measure_cell(data, act, terms, steered)
            if specialist is not None:
                alone = measure_cell(data, specialist(steered), terms, steered)
                cell = replace(cell, specialist=alone.utility)
            cells.append(cell)
        tight = replace(config, risk_aversion=aversion, max_position=TIGHT_POSITION, max_exposure=TIGHT_EXPOSURE)
        cells.append(measure_cell(data, act, terms, tight))
    return cells


def violations(cells: Sequence[Cell]) -> list[str]:
    """What the steering promises and these cells break, in words; empty when it holds."""
    found = []
    for cell in cells:
        at = f"at risk aversion {cell.risk_aversion:g}, turnover penalty {cell.turnover_penalty:g}"
        if cell.largest_position > cell.max_position + ROUNDING:
            found.append(f"{at}: a position of {cell.largest_position:.4f} above its cap of {cell.max_position:g}")
        if cell.largest_exposure > cell.max_exposure + ROUNDING:
            found.append(f"{at}: an exposure of {cell.largest_exposure:.4f} above its cap of {cell.max_exposure:g}")
        regret = cell.regret
        if regret is not None and regret > MOST_REGRET:
            found.append(f"{at}: {regret:.1%} of the utility of a policy trained for it alone is missed")
    for key, along, what in (
        ("turnover_penalty", "risk_aversion", "exposure"),
        ("risk_aversion", "turnover_penalty", "turnover"),
    ):
        found += _rises(cells, key, along, what)
    return found


def _rises(cells: Sequence[Cell], fixed: str, along: str, what: str) -> list[str]:
    """Where ``what`` rises with ``along`` while the rest stays as it is."""
    found = []
    rows: dict[tuple[float, float, float], list[Cell]] = {}
    for cell in cells:
        rows.setdefault((getattr(cell, fixed), cell.max_position, cell.max_exposure), []).append(cell)
    for row in rows.values():
        row.sort(key=lambda cell: float(getattr(cell, along)))
        for low, high in pairwise(row):
            before, after = getattr(low, what), getattr(high, what)
            if after > before * (1.0 + SAME) + ROUNDING:
                found.append(
                    f"{what} rises from {before:.4f} to {after:.4f} as {along} goes from {getattr(low, along):g} to "
                    f"{getattr(high, along):g} ({fixed} {getattr(low, fixed):g})"
                )
    return found


def write_steering(cells: Sequence[Cell], directory: Path, name: str) -> list[Path]:
    """Writes ``name``.json (cells with their regret, and what is broken) and ``name``.png; the paths."""
    directory.mkdir(parents=True, exist_ok=True)
    table, plot = directory / f"{name}.json", directory / f"{name}.png"
    told = {"cells": [asdict(cell) | {"regret": cell.regret} for cell in cells], "violations": violations(cells)}
    table.write_text(json.dumps(told, indent=1), encoding="utf-8")
    _plot(cells, plot)
    return [table, plot]


def _plot(cells: Sequence[Cell], path: Path) -> None:
    from matplotlib.figure import Figure  # half a second, and no display is needed

    wide = [cell for cell in cells if cell.max_position > TIGHT_POSITION]
    panels = {"exposure": "mean exposure", "turnover": "turnover a year", "utility": "utility a step"}
    if any(cell.regret is not None for cell in wide):
        panels["regret"] = "regret against a specialist"
    aversions = sorted({cell.risk_aversion for cell in wide})
    penalties = sorted({cell.turnover_penalty for cell in wide})
    figure = Figure(figsize=(4.2 * len(panels), 3.8), layout="constrained")
    for axis, (what, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        values = np.full((len(aversions), len(penalties)), np.nan)
        for cell in wide:
            value: Any = getattr(cell, what)
            place = aversions.index(cell.risk_aversion), penalties.index(cell.turnover_penalty)
            values[place] = np.nan if value is None else value
        axis.imshow(values, cmap="cividis", aspect="auto", origin="lower")
        for (row, column), value in np.ndenumerate(values):
            axis.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=8, color="white",
                      bbox={"boxstyle": "round,pad=0.15", "color": "#00000080"})  # fmt: skip
        axis.set_xticks(range(len(penalties)), [f"{penalty:g}" for penalty in penalties])
        axis.set_yticks(range(len(aversions)), [f"{aversion:g}" for aversion in aversions])
        axis.set_xlabel("turnover penalty")
        axis.set_title(title, fontsize=10)
        if axis is figure.axes[0]:
            axis.set_ylabel("risk aversion")
    figure.savefig(path, dpi=110, metadata={"Software": None})
