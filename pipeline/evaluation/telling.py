"""An evaluation in words and tables: the same content as a page and in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pipeline.evaluation.contestants import BASELINE, BASELINES, ENSEMBLE
from pipeline.evaluation.pooling import HEADLINE, Pooled, curve
from pipeline.evaluation.trials import CAPITAL, HALF_SPREAD_BPS, HEADLINE_FEE_BPS
from policy.report_bands import luck_band
from policy.report_data import Notice, Report, Table
from policy.report_figures import figure_rows
from policy.report_words import UNDEFINED, percent, ratio, signed
from policy.result import Curve
from shared.performance import Regression, Summary

NAMES = {
    ENSEMBLE: "policy (ensemble)",
    BASELINE: "trend × volatility target",
    "vol_target": "volatility target",
    "rebalanced_hold": "rebalanced hold",
    "buy_and_hold": "buy and hold",
    "cash": "cash",
}
SHOWN = (ENSEMBLE, BASELINE, "buy_and_hold")
SAID = ("policy", "baseline", "hold")
SIGNED = ("cagr", "alpha")
RATIOS = ("sharpe", "sortino", "calmar", "profit_factor", "beta", "turnover_per_year")
LARGEST_DRAWDOWN_SHARE = 0.6  # of buy and hold's: an aim
BREAK_EVEN_AIM = 2.0  # times the headline cost

Numbers = Mapping[str, Any]


def verdict_sentence(found: Numbers, verdict: str | None, why_none: str) -> str:
    """The verdict in words; what forbids one otherwise."""
    d = found["verdict"]["difference"]
    told = (
        f"Sharpe difference to {NAMES[BASELINE]} {signed_ratio(d['point'])} (95 %: {signed_ratio(d['low'])} to "
        f"{signed_ratio(d['high'])}), P(Δ > 0) = {d['p_above_0']:.3f}, P(Δ > -0.2) = {d['p_above_minus_02']:.3f}"
    )
    words = {
        "beats": "the policy beats the baseline",
        "not worse": "the policy is not worse than the baseline",
        "baseline wins": "the baseline wins: a promotion would set the residual to zero",
    }
    return f"{why_none}. {told}." if verdict is None else f"{words[verdict].capitalize()}. {told}."


def signed_ratio(value: float) -> str:
    return f"{value:+.2f}"


def build_report(
    pooled: Pooled, found: Numbers, terms: Mapping[str, str], provenance: str, verdict: str | None, why_none: str
) -> Report:
    """The page of an evaluation."""
    folds, seeds = len(pooled.numbers), len(pooled.seeds)
    notices = [Notice("amber" if verdict is None else "plain", "VERDICT.", verdict_sentence(found, verdict, why_none))]
    notices += [Notice("amber", "NOTE.", f"{flag}.") for flag in found["verdict"]["flags"]]
    band = luck_band(int(pooled.starts[0]), pooled.seeds, pooled.folds)
    return Report(
        kind="evaluation",
        lead=(
            f"Anchored walk-forward: {folds} folds, {seeds} seeds each, everything fitted anew before each fold’s test "
            f"and tested on {len(pooled.starts):,} days that nothing had learnt from. The first curve is the ensemble "
            "that would trade; intervals and verdict are of its seeds in equal parts, drawn anew for each fold."
        ),
        curves=[_curve(pooled, found, name) for name in (ENSEMBLE, *BASELINES)],
        provenance=provenance,
        notices=notices,
        bands=[band] if band else [],
        against_shifts=_shifts(found["shifts"]),
        tables=tables(pooled, found),
        terms=dict(terms),
    )


def _curve(pooled: Pooled, found: Numbers, name: str) -> Curve:
    times, equity = curve(pooled, pooled.named[name])
    of = found["figures"][name]
    return Curve(NAMES[name], times, equity, of["fees"], of["traded"], of["trades"], of["slippage"])


def _shifts(found: Numbers | None) -> str:
    if found is None:
        return "The tests are too short for circular shifts of the policy’s own weights (90 days a fold are needed)."
    return (
        f"Its Sharpe ratio of {ratio(found['sharpe'])} is above that of {percent(found['percentile'])} of "
        f"{found['count']:,} circular shifts of its own weights (5–95 %: {ratio(found['low'])} to "
        f"{ratio(found['high'])}; half of them would be chance)."
    )


def tables(pooled: Pooled, found: Numbers) -> list[Table]:
    return [
        _interval_table(found, pooled),
        _aims(found),
        *(_fold_table(found["folds"][str(k)], k) for k in pooled.numbers),
        _fold_overview(found, pooled),
        _terms_table(found),
        _luck_table(found),
        *_slice_tables(found),
    ]


def _interval_table(found: Numbers, pooled: Pooled) -> Table:
    own, baseline = found["intervals"]["policy"], found["intervals"][BASELINE]
    rows = [
        [_named(name), _interval(name, one), _interval(name, baseline.get(name))]
        for name, one in [*own.items(), *found["seed_ranges"].items()]
    ]
    note = (
        f"All {len(pooled.starts):,} days. Policy: its seeds in equal parts, and the 95 % interval of a stationary "
        "bootstrap that draws other seeds for each fold (of turnover, cost share and exposure: the seeds' range)."
    )
    return Table("Figures with their intervals", note, ("", "policy", "baseline"), rows)


def _named(figure: str) -> str:
    return figure.replace("_", " ").replace("per year", "a year")


def _interval(name: str, one: Numbers | None) -> str:
    if one is None:
        return UNDEFINED
    return f"{_value(name, one['point'])} ({_value(name, one['low'])} to {_value(name, one['high'])})"


def _value(name: str, value: float | None) -> str:
    if name in SIGNED:
        return signed(value)
    if name.endswith("_days"):
        return UNDEFINED if value is None else f"{value:,.0f} d"
    return ratio(value) if name in RATIOS else percent(value)


def _aims(found: Numbers) -> Table:
    """What was hoped for, beside what came out."""
    own, hold = (found["figures"][name]["max_drawdown"] for name in (ENSEMBLE, "buy_and_hold"))
    share = own / hold if own is not None and hold else None
    headline = HEADLINE_FEE_BPS + HALF_SPREAD_BPS
    even = found["break_even"]
    rows = [
        ["max drawdown, of buy and hold's", f"≤ {LARGEST_DRAWDOWN_SHARE:.0%}", percent(share)],
        ["break-even cost a side", f"≥ {BREAK_EVEN_AIM * headline:g} bps", _bps(even["nothing"], even["dear"])],
        ["cost at which the baseline is as good", UNDEFINED, _bps(even["baseline"], even["dear"])],
    ]
    note = (
        "Break-even: of the ensemble’s weights as wanted at the headline cost, fee and half the spread together; "
        "0: the baseline is ahead at no cost at all."
    )
    return Table("Aims", note, ("", "aim", "found"), rows)


def _bps(value: float | None, dear: float) -> str:
    return f"above {dear:g} bps" if value is None else f"{value:.0f} bps"


def _fold_table(fold: Numbers, number: int) -> Table:
    summaries = [summary(fold["figures"][name]) for name in SHOWN]
    intervals = {**fold["intervals"], **fold["seed_ranges"]}
    rows = [row for group in figure_rows(summaries).values() for row in group]
    symbols = ", ".join(symbol.partition("/")[0] for symbol in fold["symbols"])
    note = (
        f"{fold['test_from'][:10]} to {fold['test_to'][:10]} on {symbols}. The policy is the ensemble; of its seeds: "
        f"{', '.join(f'{_named(name)} {_interval(name, one)}' for name, one in intervals.items())}. "
        f"Emergency stops under the operator’s limits: {fold['stops']}."
    )
    return Table(f"Fold {number}", note, ("", *SAID), rows)


def summary(figures: Numbers) -> Summary:
    """The Summary that a row's JSON was made of."""
    regression = figures["regression"]
    return Summary(**{**figures, "regression": None if regression is None else Regression(**regression)})


def _fold_overview(found: Numbers, pooled: Pooled) -> Table:
    seeds = sorted({c.name for c in pooled.contestants if c.kind == "seed"}, key=lambda name: int(name.split()[1]))
    names = [*seeds, *SHOWN]
    rows = [
        [f"fold {k}", *(ratio(found["folds"][str(k)]["figures"][name]["sharpe"]) for name in names)]
        for k in pooled.numbers
    ]
    return Table("Sharpe ratio of every seed", "Net of headline costs.", ("", *seeds, *SAID), rows)


def _terms_table(found: Numbers) -> Table:
    rows = [
        [_terms(line["terms"]), *_short(line["policy"]), *(_short(line["baseline"]) if line["baseline"] else ["–"] * 3)]
        for line in found["terms"]
    ]
    headings = ("", "policy a year", "Sharpe", "max DD", "baseline a year", "Sharpe", "max DD")
    note = (
        "The ensemble and the baseline, each run anew, without the operator’s limits but for the last line. On candles "
        "of an hour every delay above 0 waits for the next one."
    )
    return Table("Other costs and delays", note, headings, rows)


def _terms(label: str) -> str:
    kind, _, number = label.partition(" ")
    return {"cost": f"{number} bps a side", "delay": f"{number} min delay"}.get(
        kind, "headline" if label == HEADLINE else label
    )


def _short(line: Numbers) -> list[str]:
    return [signed(line["cagr"]), ratio(line["sharpe"]), percent(line["max_drawdown"])]


def _luck_table(found: Numbers) -> Table:
    deflation, overfitting, superior = found["deflation"], found["overfitting"], found["superior"]
    deflated, own = found["verdict"]["deflated"], deflation["ensemble"]
    until = deflation["trials_until_below_95"]
    rows = [
        ["trials in the ledger", f"{deflation['trials']:,}"],
        ["deflated Sharpe of the active return, seeds' mean", _probability(deflated, "probability")],
        ["… of the ensemble", _probability(own, "probability")],
        ["trials at which it falls below 0.95", UNDEFINED if until is None else f"{until:,}"],
        ["probability of backtest overfitting (CSCV)", _probability(overfitting, "probability")],
        ["SPA: p-value of “no policy beats the baseline”", _probability(superior, "consistent")],
        ["Sharpe difference of the ensemble", _difference(found["ensemble_difference"])],
    ]
    named = ", ".join(overfitting["candidates"]) if overfitting else "none: too few days"
    note = f"Overfitting: of choosing, by Sharpe ratio, among {named}."
    return Table("How much of it may be luck", note, ("", "found"), rows)


def _probability(found: Numbers | None, name: str) -> str:
    return UNDEFINED if found is None else f"{found[name]:.3f}"


def _difference(d: Numbers) -> str:
    return f"{signed_ratio(d['point'])} ({signed_ratio(d['low'])} to {signed_ratio(d['high'])})"


def _slice_tables(found: Numbers) -> list[Table]:
    made = []
    for name, parts in found["slices"].items():
        rows = [
            [p["label"], f"{p['days']:,}", signed(p["total_return"]), ratio(p["sharpe"]), ratio(p["baseline_sharpe"])]
            for p in parts
        ]
        note = "What each added to the ensemble, not compounded." if name == "symbol" else "The ensemble, by day."
        headings: Sequence[str] = ("", "days", "return", "Sharpe", "baseline's")
        made.append(Table(f"By {name}", note, headings, rows))
    return made


def terms_of(first: datetime, last: datetime, about: Mapping[str, str]) -> dict[str, str]:
    """On what terms the numbers are."""
    return {
        "tested": f"{first:%Y-%m-%d} to {last:%Y-%m-%d} UTC, {CAPITAL:,.0f} of capital at the start of each fold",
        "costs": f"fee {HEADLINE_FEE_BPS:g} + half spread {HALF_SPREAD_BPS:g} bps a side, and the price’s move",
        "limits": "off (policy and baseline alike); the operator’s on a line of their own",
        "config": "static: the operator’s own steering",
        **about,
    }
