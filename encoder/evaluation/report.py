"""The tables of an evaluation, as text of at most 120 columns, and below them what they say."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from encoder.evaluation import retrieval_summary
from encoder.evaluation.baselines import BOTH, CLOCK, FORECASTERS, HAR
from encoder.evaluation.scoring import Result
from encoder.evaluation.summary import best, combined, groups, mean_score, spread
from encoder.evaluation.targets import REGRESSIONS
from encoder.evaluation.verdict import chance, hours, verdict

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 120
HORIZONS = dict(zip(REGRESSIONS, ("1h", "4h", "24h"), strict=True))
TRAINED = {"seen": "series that were trained on", "unseen": "assets that were never trained on"}


def report(results: Sequence[Result]) -> str:
    """All tables and the verdict."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=WIDTH, force_terminal=False, color_system=None)
    for group in groups(results):
        console.print(_volatility(results, group))
        console.print(_clark_west(results, group), highlight=False)
        console.print(_classes(results, group))
        console.print(_events(results, group))
        if retrieval_summary.horizons(results, group):
            console.print(_analogs(results, group))
            console.print(_retrieval_itself(results, group))
        else:
            console.print("no analogs scored")
        for reason in retrieval_summary.reasons(results, group):
            console.print(f"analogs of a fold were not scored: {reason}")
        console.print(_unusual(results, group), highlight=False)
    console.print(_work(results), highlight=False)
    console.print("\n".join(verdict(results)), highlight=False)
    text = console.file
    assert isinstance(text, io.StringIO)
    return text.getvalue()


def _table(title: str, columns: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, min_width=len(title))
    table.add_column("forecaster")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _volatility(results: Sequence[Result], group: str) -> Table:
    columns = [f"{name} {h}" for h in HORIZONS.values() for name in ("R²", "QLIKE")]
    table = _table(f"log realised volatility ahead, {TRAINED[group]} (mean ± deviation over folds)", columns)
    for forecaster in FORECASTERS:
        cells = []
        for task in REGRESSIONS:
            cells += [_with_spread(results, group, task, forecaster, measure) for measure in ("r2", "qlike")]
        table.add_row(forecaster, *cells)
    return table


def _classes(results: Sequence[Result], group: str) -> Table:
    tasks = {"volatility_class": "volatility", "trend_class": "trend"}
    columns = [f"{name} {measure}" for name in tasks.values() for measure in ("macro-F1", "log loss")]
    table = _table(f"classes of the next 24h, {TRAINED[group]}", columns)
    for forecaster in FORECASTERS:
        cells = [_with_spread(results, group, task, forecaster, m) for task in tasks for m in ("macro_f1", "log_loss")]
        table.add_row(forecaster, *cells)
    return table


def _events(results: Sequence[Result], group: str) -> Table:
    columns = ("large move AUROC", "AP", "direction 4h AUROC [95 %]", "direction 24h AUROC [95 %]")
    table = _table(f"large moves, and direction as the control (0.5 is chance), {TRAINED[group]}", columns)
    for forecaster in FORECASTERS:
        cells = [_with_spread(results, group, "large_move", forecaster, "auroc")]
        cells.append(_number(mean_score(results, group, "large_move", forecaster, "average_precision")))
        for task in ("direction_14400s", "direction_86400s"):
            area = combined(results, group, task, "areas", forecaster)
            low, high = area.interval()
            cells.append(f"{_number(area.mean)} [{_number(low)} {_number(high)}]")
        table.add_row(forecaster, *cells)
    return table


def _analogs(results: Sequence[Result], group: str) -> Table:
    horizons = retrieval_summary.horizons(results, group)
    columns = [f"{name} {hours(horizon)}" for horizon in horizons for name in ("CRPS %", "in 80 %")]
    table = _table(f"what followed the moments found: CRPS of log returns in %, coverage, {TRAINED[group]}", columns)
    for method in retrieval_summary.methods(results, group):
        cells = []
        for horizon in horizons:
            share, p = retrieval_summary.coverage_p(results, group, horizon, "80%", method)
            cells.append(f"{100 * retrieval_summary.mean_crps(results, group, horizon, method):.4f}")
            cells.append(f"{share:.1%} (p {p:.2f})")
        table.add_row(method, *cells)
    return table


def _retrieval_itself(results: Sequence[Result], group: str) -> Table:
    horizons = retrieval_summary.horizons(results, group)
    columns = [f"{name} {hours(horizon)}" for horizon in horizons for name in ("CRPS saved", "p")]
    table = _table(f"what finding them gains, {TRAINED[group]} (one-sided p)", columns)
    for method, other in retrieval_summary.RETRIEVAL_ITSELF:
        cells = []
        for horizon in horizons:
            gain, p = retrieval_summary.crps_gain(results, group, horizon, other, method)
            cells += [f"{gain:+.2%}", f"{p:.3f}"]
        table.add_row(f"{method} against {other}", *cells)
    return table


def _clark_west(results: Sequence[Result], group: str) -> str:
    """What the embedding adds to HAR, and who is best by R²."""
    lines = []
    for task, horizon in HORIZONS.items():
        beyond = combined(results, group, task, "clark_west")
        ours, har, clock = (mean_score(results, group, task, f, "qlike") for f in (BOTH, HAR, CLOCK))
        lines.append(
            f"  {horizon}: {BOTH}: QLIKE {ours / har - 1:+.1%} against HAR, Clark–West {chance(beyond.p_above)}; "
            f"{ours / clock - 1:+.1%} against {CLOCK}; best R²: {best(results, group, task, 'r2')}"
        )
    return "\n".join(lines) + "\n"


def _unusual(results: Sequence[Result], group: str) -> str:
    shares = [fold[group]["ood"] for fold in results if group in fold]
    told = ", ".join(f"{sum(s[level] for s in shares) / len(shares):.2%} above {level}" for level in shares[0])
    return f"  ood of clean test windows: {told}\n"


def _work(results: Sequence[Result]) -> str:
    """What was done, fold by fold."""
    lines = []
    for fold in results:
        counts = ", ".join(f"{fold[group]['moments']:,} {group}" for group in groups([fold]))
        spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in fold["seconds"].items())
        lines.append(
            f"fold {fold['fold']['number']}: {fold['training']['steps']:,} steps, HAR of {' '.join(fold['har'])}, "
            f"asked at {counts}; {spent}"
        )
    return "\n".join(lines) + "\n"


def _with_spread(results: Sequence[Result], group: str, task: str, forecaster: str, measure: str) -> str:
    value, deviation = (f(results, group, task, forecaster, measure) for f in (mean_score, spread))
    around = f" ±{deviation:.3f}" if math.isfinite(deviation) else ""
    return _number(value) + around


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"
