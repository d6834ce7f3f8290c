"""Where a result came from and what held it back: by month, year, regime and symbol, limits, costs, doubts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from policy.report_data import Notice, Report, Table
from policy.report_figures import baseline_index, benchmark_index, of_day
from policy.report_words import amount, percent, ratio, signed, typeset
from shared.clock import from_unix, to_unix
from shared.performance import DAYS_A_YEAR, Slice, Summary, attribute, by_label, by_year
from shared.performance.verdict import TOO_GOOD
from shared.rows import FloatArray, IntArray

if TYPE_CHECKING:
    from policy.decision_path import Decision
    from policy.result import Curve

REGIMES = ("bull", "bear", "sideways", "volatile")
UNKNOWN = "unknown"
OF_A_SLICE = ("Days", "Return", "Volatility", "Sharpe", "Sharpe beside", "Worst day")


@dataclass(frozen=True, slots=True)
class Month:
    """One calendar month (UTC), or what of it the span holds; ``gained`` is a fraction."""

    year: int
    month: int
    gained: float


@dataclass(frozen=True, slots=True)
class ClampRow:
    """How often one rule cut a weight: decisions, their share, the mean cut in points of weight, the last reason."""

    rule: str
    decisions: str
    share: str
    mean_cut: str
    latest: str


# When and where --------------------------------------------------------------------------------------------------


def months(times: IntArray, equity: FloatArray) -> list[Month]:
    """What each calendar month (UTC) gained, the first and the last as far as the curve goes; they compound to the
    total return. A month begins with the last equity at or before its first moment."""
    if len(times) < 2:
        return []
    first, last = from_unix(times[0]), from_unix(times[-1] - 1)
    numbers = range(12 * first.year + first.month - 1, 12 * last.year + last.month)
    begins = [to_unix(datetime(m // 12, m % 12 + 1, 1, tzinfo=UTC)) for m in numbers]
    at = np.maximum(np.searchsorted(times, begins, side="right") - 1, 0)
    marks = [*equity[at].tolist(), float(equity[-1])]
    gains = [after / before - 1.0 for before, after in pairwise(marks)]
    return [Month(m // 12, m % 12 + 1, gained) for m, gained in zip(numbers, gains, strict=True)]


def year_table(report: Report) -> Table | None:
    """By calendar year, beside the baseline; None within one year."""
    own, beside = report.curves[0], _beside(report)
    days, returns = of_day(own)
    slices = by_year(returns, days, _paired(days, beside))
    if len(slices) < 2:
        return None
    return Table("By year", _beside_note(beside), ("Year", *OF_A_SLICE), [_slice_row(part) for part in slices])


def regime_table(report: Report) -> Table | None:
    """By the regime known as each day began; None where no regime is known."""
    if not any(report.regimes):
        return None
    own, beside = report.curves[0], _beside(report)
    days, returns = of_day(own)
    decided = np.array([to_unix(at) for at in report.decision_times], dtype=np.int64)
    newest = np.searchsorted(decided, days, side="right") - 1
    known = [regime or UNKNOWN for regime in report.regimes]
    labels = [known[n] if n >= 0 else UNKNOWN for n in newest.tolist()]
    shares = Counter(known)
    rows = []
    for part in by_label(returns, labels, _paired(days, beside), REGIMES):
        label, *figures = _slice_row(part)
        rows.append([label, percent(shares[label] / len(known)), *figures])
    note = f"A day counts where the regime stood as it began; the share is of all decisions. {_beside_note(beside)}"
    return Table("By regime", note, ("Regime", "Share", *OF_A_SLICE), rows)


def symbol_table(report: Report) -> Table | None:
    """Each instrument's part of the gain, from fills and marks; None where nothing was traded."""
    if not report.fills:
        return None
    fills = [*report.fills, *report.closing]
    known = [column[~np.isnan(column)] for column in report.closes.T]
    marks = {n: float(prices[-1]) for n, prices in enumerate(known) if len(prices)}
    parts = attribute(fills, marks)
    rows = [
        [
            report.symbols[p.instrument],
            amount(float(p.profit)),
            amount(float(p.fees)),
            amount(float(p.traded)),
            f"{p.fills:,}",
        ]
        for p in sorted(parts, key=lambda part: part.profit, reverse=True)
    ]
    sums = [amount(float(sum(column))) for column in zip(*((p.profit, p.fees, p.traded) for p in parts), strict=True)]
    rows.append(["Sum", *sums, f"{len(fills):,}"])
    note = "What each added to the equity, net of costs: the profits add up to the whole gain."
    return Table("By symbol", note, ("Symbol", "Profit", "Fees", "Traded", "Fills"), rows)


def _beside(report: Report) -> Curve:
    return report.curves[baseline_index(report.curves) or benchmark_index(report.curves)]


def _beside_note(beside: Curve) -> str:
    return f"“Sharpe beside” is that of {beside.name}, on the same days."


def _paired(days: IntArray, beside: Curve) -> FloatArray | None:
    """The daily returns beside, where they are of the same days."""
    others, returns = of_day(beside)
    return returns if np.array_equal(days, others) else None


def _slice_row(part: Slice) -> list[str]:
    figures = (signed(part.total_return), percent(part.volatility), ratio(part.sharpe), ratio(part.baseline_sharpe))
    return [part.label, f"{part.days:,}", *figures, signed(part.worst_day)]


# What was held, and what held it back ----------------------------------------------------------------------------


def held_weights(report: Report) -> FloatArray:
    """[B, N] value held of each instrument at each bar's close, as a fraction of equity: rebuilt from the fills.

    A missing close is the last one before it, as the simulator marks its book.
    """
    own = report.curves[0]
    changes = np.zeros((len(own.times) + 1, len(report.symbols)))
    bars = np.searchsorted(own.times, [f.filled_at for f in report.fills], side="right")  # a bar closes after it opens
    for bar, fill in zip(bars, report.fills, strict=True):
        changes[bar, fill.instrument] += fill.quantity
    held = np.round(np.cumsum(changes[:-1], axis=0), 8)
    known = np.where(np.isnan(report.closes), 0, np.arange(len(own.times))[:, None])
    marks = np.take_along_axis(report.closes, np.maximum.accumulate(known, axis=0), axis=0)
    weights: FloatArray = held * np.nan_to_num(marks) / own.equity[:, None]
    return weights


def clamp_rows(decisions: Sequence[Decision]) -> list[ClampRow]:
    """The rules that cut a weight, the most frequent first; a decision counts once a rule."""
    touched: Counter[str] = Counter()
    cuts: dict[str, list[float]] = {}
    latest: dict[str, str] = {}
    for decision in decisions:
        clamps = [clamp for of_one in decision.clamps for clamp in of_one]
        touched.update({clamp.rule for clamp in clamps})
        for clamp in clamps:
            cuts.setdefault(clamp.rule, []).append(clamp.before - clamp.after)
            latest[clamp.rule] = clamp.because
    return [
        ClampRow(rule, f"{n:,}", percent(n / len(decisions)), f"{100.0 * float(np.mean(cuts[rule])):.1f}", latest[rule])
        for rule, n in sorted(touched.items(), key=lambda item: (-item[1], item[0]))
    ]


def sources(decisions: Sequence[Decision]) -> str:
    """Who decided: '700 by policy, 20 by baseline'."""
    counts = Counter(decision.source for decision in decisions).most_common()
    return ", ".join(f"{count:,} by {source}" for source, count in counts)


# What to doubt ---------------------------------------------------------------------------------------------------


def notices(report: Report, own: Summary) -> list[Notice]:
    """What must be known before any figure, the gravest first: the report's own notices come last."""
    found = []
    if report.in_sample:
        found.append(Notice("red", "IN-SAMPLE.", f"This result proves nothing: {report.in_sample}."))
    if own.sharpe is not None and own.sharpe > TOO_GOOD:
        text = (
            f"A net Sharpe ratio of {ratio(own.sharpe)} is too good to be true. Look for a leak before anything else."
        )
        found.append(Notice("red", "SUSPECTED BUG.", text))
    if report.provenance == "simulated":
        text = "Seeded random prices: they show that the machinery works, not that it earns."
        found.append(Notice("amber", "SIMULATED.", text))
    if report.promotion is not None and report.promotion.residual == 0.0:
        text = (
            f"Evaluation of model {report.promotion.model_id} said “{report.promotion.verdict}”, so its residual is at "
            "zero: what trades is the baseline, trend × volatility target."
        )
        found.append(Notice("amber", "BASELINE WINS.", text))
    return [*found, *report.notices]


def doubt(own: Summary) -> dict[str, str] | None:
    """The Sharpe ratio's standard error in words: two of them either way, and the time until they exclude zero."""
    if own.sharpe is None or own.sharpe_standard_error is None:
        return None
    twice = 2.0 * own.sharpe_standard_error
    return {
        "days": f"{own.days:,}",
        "sharpe": ratio(own.sharpe),
        "error": f"{own.sharpe_standard_error:.1f}",
        "low": typeset(f"{own.sharpe - twice:.1f}"),
        "high": typeset(f"{own.sharpe + twice:.1f}"),
        "needed": _needed(own.sharpe, twice, own.days),
    }


def _needed(sharpe: float, twice: float, days: int) -> str:
    """The error shrinks with the root of time, so a ratio needs (2 * error / ratio)**2 times its span."""
    if sharpe <= 0.0:
        return ""
    if twice <= sharpe:
        return "It stands two standard errors above zero, as far as the formula holds."
    years = days / DAYS_A_YEAR * (twice / sharpe) ** 2
    time = f"{years * DAYS_A_YEAR:.0f} days" if years < 2.0 else f"{years:.0f} years"
    return f"A ratio this high needs {time if years < 100.0 else 'over a century'} to stand two of them above zero."
