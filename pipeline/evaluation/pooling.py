"""All folds as one record: figures with their intervals, the comparison with the baseline, and the verdict.

The policy's returns are [seeds, days]: intervals and verdict are of the seeds in equal parts, and draw other seeds for
each fold, so what hangs on a lucky one is as uncertain as it is. The ensemble, which would trade, has its own lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from pipeline.evaluation.contestants import BASELINE, BASELINES, ENSEMBLE, Contestant
from pipeline.evaluation.intervals import deepest, growth, intervals, seed_ranges
from pipeline.evaluation.plan import Profile
from pipeline.evaluation.trials import CAPITAL, COSTS_BPS, DELAYS_MIN
from shared.clock import to_unix
from shared.performance import (
    DAY_S,
    DAYS_A_YEAR,
    Summary,
    Trials,
    Verdict,
    deflated_sharpe,
    judge,
    p_earns,
    paired_difference,
    probability_of_backtest_overfitting,
    summarise,
    superior_predictive_ability,
    trials_until_below,
)
from shared.performance import returns as of_returns
from shared.performance import slices as of_slices
from shared.performance.bootstrap import sharpes
from shared.rows import FloatArray, IntArray

HEADLINE = "headline"
REGIMES = ("bull", "bear", "sideways", "volatile")


@dataclass(frozen=True, slots=True)
class Pooled:
    """What all folds said, day after day: ``seeds`` [S, T], the others [T]; ``starts`` [T] when each day began (Unix
    seconds), ``folds`` [T] its fold."""

    contestants: Sequence[Contestant]
    starts: IntArray
    folds: IntArray
    seeds: FloatArray
    named: Mapping[str, FloatArray]  # the ensemble, and each baseline

    @property
    def ensemble(self) -> FloatArray:
        return self.named[ENSEMBLE]

    @property
    def baseline(self) -> FloatArray:
        return self.named[BASELINE]

    def of_fold(self, number: int, name: str) -> Contestant:
        return next(c for c in self.contestants if (c.fold, c.name) == (number, name))

    @property
    def numbers(self) -> list[int]:
        return sorted({c.fold for c in self.contestants})

    def joined(self, take: Callable[[Mapping[str, Any]], Any]) -> FloatArray:
        """A series of the ensemble's metrics, fold after fold."""
        return np.concatenate([np.asarray(take(self.of_fold(k, ENSEMBLE).metrics)) for k in self.numbers])


def pool(contestants: Sequence[Contestant]) -> Pooled:
    numbers = sorted({c.fold for c in contestants})
    by_name = {(c.fold, c.name): c for c in contestants}
    seeds = sorted({c.name for c in contestants if c.kind == "seed"}, key=lambda name: int(name.split()[1]))

    def joined(name: str) -> FloatArray:
        return np.concatenate([by_name[k, name].returns for k in numbers])

    first = [by_name[k, ENSEMBLE] for k in numbers]
    starts = [to_unix(c.test_from) + DAY_S * np.arange(len(c.returns), dtype=np.int64) for c in first]
    return Pooled(
        contestants=contestants,
        starts=np.concatenate(starts),
        folds=np.repeat(numbers, [len(c.returns) for c in first]),
        seeds=np.stack([joined(name) for name in seeds]),
        named={name: joined(name) for name in (ENSEMBLE, *BASELINES)},
    )


def curve(pooled: Pooled, returns: FloatArray) -> tuple[IntArray, FloatArray]:
    """Midnights (Unix seconds) and the equity of compounding through them, from CAPITAL."""
    return np.append(pooled.starts, pooled.starts[-1] + DAY_S), CAPITAL * np.append(1.0, np.cumprod(1.0 + returns))


def figures(pooled: Pooled, name: str) -> dict[str, Any]:
    """All figures of one contestant over all folds. Drawdowns are of daily equity; traded value, costs, trades and
    exposure are added up over folds, which all began with the same capital."""
    times, equity = curve(pooled, pooled.named[name])
    of_folds = [pooled.of_fold(k, name).metrics["figures"] for k in pooled.numbers]
    summary: Summary = summarise(times, equity, 0.0, 0.0, 0, benchmark=pooled.named["buy_and_hold"])
    days = sum(f["days"] for f in of_folds)
    costs = sum(f["fees"] + (f["slippage"] or 0.0) for f in of_folds)
    gained = sum(CAPITAL * (f["total_return"] or 0.0) for f in of_folds)
    return asdict(summary) | {
        **{field: sum(f[field] for f in of_folds) for field in ("traded", "fees", "trades")},
        "slippage": sum(f["slippage"] or 0.0 for f in of_folds),
        "turnover_per_year": sum((f["turnover_per_year"] or 0.0) * f["days"] for f in of_folds) / days,
        "cost_share": costs / (gained + costs) if gained + costs > 0.0 else None,
        "exposure": sum((f["exposure"] or 0.0) * f["days"] for f in of_folds) / days,
        "trades_per_day": sum(f["trades"] for f in of_folds) / days,
        "start": int(times[0]),
        "end": int(times[-1]),
    }


def conclude(pooled: Pooled, profile: Profile, trials: Trials) -> dict[str, Any]:
    """Every pooled number; ``verdict`` is judge()'s word, whoever may say it (pipeline.evaluate decides)."""
    hold = pooled.named["buy_and_hold"]
    spread = partial(intervals, benchmark=hold, folds=pooled.folds, replicates=profile.replicates)
    judged = judged_by(pooled, profile, trials)
    active = pooled.seeds.mean(axis=0) - pooled.baseline
    own = deflated_sharpe(pooled.ensemble - pooled.baseline, max(trials.count, 1), trials.variance)
    return {
        "verdict": asdict(judged),
        "p_earns": {
            "policy": p_earns(pooled.seeds, pooled.folds, replicates=profile.replicates),
            "baseline": p_earns(pooled.baseline, pooled.folds, replicates=profile.replicates),
        },
        "ensemble_difference": asdict(
            paired_difference(pooled.ensemble, pooled.baseline, pooled.folds, replicates=profile.replicates)
        ),
        "figures": {name: figures(pooled, name) for name in pooled.named},
        "intervals": {"policy": spread(pooled.seeds), BASELINE: spread(pooled.baseline)},
        "seed_ranges": seed_ranges(pooled.contestants),
        "deflation": {
            "trials": trials.count,
            "head": trials.head,
            "torn": trials.torn,
            "ensemble": None if own is None else asdict(own),
            "trials_until_below_95": trials_until_below(active, 0.95, trials.variance),
        },
        "overfitting": _overfitting(pooled),
        "superior": _superior(pooled, profile),
        "terms": terms(pooled),
        "break_even": break_even(pooled),
        "shifts": shifts(pooled),
        "slices": slices(pooled),
        "folds": {str(k): fold_figures(pooled, k, profile) for k in pooled.numbers},
    }


def judged_by(pooled: Pooled, profile: Profile, trials: Trials) -> Verdict:
    return judge(
        pooled.seeds, pooled.baseline, pooled.folds, trials=max(trials.count, 1), trial_variance=trials.variance,
        replicates=profile.replicates,
    )  # fmt: skip


def fold_figures(pooled: Pooled, number: int, profile: Profile) -> dict[str, Any]:
    """One fold's figures by contestant, and the policy's intervals there."""
    inside = pooled.folds == number
    rows = [c for c in pooled.contestants if c.fold == number]
    first = rows[0]
    return {
        "symbols": list(first.symbols),
        "test_from": first.test_from.isoformat(),
        "test_to": first.test_to.isoformat(),
        "figures": {c.name: c.metrics["figures"] for c in rows},
        "intervals": intervals(pooled.seeds[:, inside], pooled.named["buy_and_hold"][inside], None, profile.replicates),
        "seed_ranges": seed_ranges(rows),
        "seconds": {c.name: round(c.seconds, 1) for c in rows},
        "stops": pooled.of_fold(number, ENSEMBLE).metrics["operator"]["stops"],
    }


def terms(pooled: Pooled) -> list[dict[str, Any]]:
    """A line for each cost and delay: the ensemble and the baseline there, and under the operator's limits."""
    lines = []
    labels = [*(f"cost {bps:g}" for bps in COSTS_BPS), *(f"delay {minutes}" for minutes in DELAYS_MIN)]
    known = pooled.of_fold(pooled.numbers[0], ENSEMBLE).metrics["terms"]
    for label in [HEADLINE, *labels]:
        if label == HEADLINE:
            policy, baseline = pooled.ensemble, pooled.baseline
        elif label in known:
            policy = pooled.joined(lambda m, at=label: m["terms"][at]["policy"])  # type: ignore[misc]
            baseline = pooled.joined(lambda m, at=label: m["terms"][at]["baseline"])  # type: ignore[misc]
        else:
            continue  # it is the headline
        lines.append({"terms": label, "policy": _short(policy), "baseline": _short(baseline)})
    limited = pooled.joined(lambda m: m["operator"]["returns"])
    return [*lines, {"terms": "operator's limits", "policy": _short(limited), "baseline": None}]


def _short(returns: FloatArray) -> dict[str, float | None]:
    return {"cagr": growth(returns), "sharpe": of_returns.sharpe(returns), "max_drawdown": deepest(returns)}


def break_even(pooled: Pooled) -> dict[str, float | None]:
    """Costs a side (bps) at which the ensemble's weights, as wanted at the headline, gain nothing; and at which they
    gain no more than the baseline's. None where that is at no cost that was tried. ``dear``: the highest tried."""
    curves = [pooled.of_fold(k, ENSEMBLE).metrics["cost_curve"] for k in pooled.numbers]
    bps = np.array(curves[0]["bps"])
    policy, baseline = (np.sum([c[name] for c in curves], axis=0) for name in ("policy", "baseline"))
    return {
        "nothing": falls_to_zero(bps, policy),
        "baseline": falls_to_zero(bps, policy - baseline),
        "dear": float(bps[-1]),
    }


def falls_to_zero(x: FloatArray, y: FloatArray) -> float | None:
    """Where ``y``, above 0 at the first of ``x``, first is 0, between points on a straight line; None for nowhere, 0
    where it begins there or below."""
    if y[0] <= 0.0:
        return 0.0
    below = np.flatnonzero(y <= 0.0)
    if not len(below):
        return None
    k = int(below[0])
    return float(x[k - 1] + (x[k] - x[k - 1]) * y[k - 1] / (y[k - 1] - y[k]))


def shifts(pooled: Pooled) -> dict[str, Any] | None:
    """Where the ensemble's Sharpe ratio stands among those of circular shifts of its own weights, drawn for each fold;
    None where a fold is too short for them."""
    drawn = [pooled.of_fold(k, ENSEMBLE).metrics["shifts"] for k in pooled.numbers]
    if any(one is None for one in drawn):
        return None
    days = sum(one["days"] for one in drawn)
    sums, squares = (np.sum([one[name] for one in drawn], axis=0) for name in ("sums", "squares"))
    mean = sums / days
    deviation = np.sqrt(np.maximum(squares - days * mean**2, 0.0) / (days - 1))
    ratios = np.where(deviation > 0.0, mean, 0.0) / np.where(deviation > 0.0, deviation, 1.0) * np.sqrt(DAYS_A_YEAR)
    own = float(sharpes(pooled.ensemble))
    low, median, high = np.quantile(ratios, [0.05, 0.5, 0.95])
    return {
        "count": len(ratios),
        "sharpe": own,
        "percentile": float(np.mean(ratios < own)),
        "low": float(low),
        "median": float(median),
        "high": float(high),
    }


def _overfitting(pooled: Pooled) -> dict[str, Any] | None:
    """PBO of choosing, by its Sharpe ratio, among all that could have been chosen: each seed, their ensemble, each
    baseline but cash. None for a span shorter than 16 blocks of two days."""
    named = [name for name in pooled.named if name != "cash"]
    candidates = np.column_stack([*pooled.seeds, *(pooled.named[name] for name in named)])
    if len(candidates) < 32:
        return None
    found = probability_of_backtest_overfitting(candidates)
    return {
        "probability": found.probability,
        "loss": found.loss,
        "candidates": [*(f"seed {k + 1}" for k in range(len(pooled.seeds))), *named],
    }


def _superior(pooled: Pooled, profile: Profile) -> dict[str, float] | None:
    """Hansen's SPA: seeds and ensemble against the baseline. None where none of them ever differs from it."""
    models = np.column_stack([*pooled.seeds, pooled.ensemble])
    differ = (models - pooled.baseline[:, None]).std(axis=0) > 1e-12
    if not differ.any() or len(models) < 60:
        return None
    return asdict(superior_predictive_ability(models[:, differ], pooled.baseline, replicates=profile.replicates))


def slices(pooled: Pooled) -> dict[str, list[dict[str, Any]]]:
    """The ensemble by calendar year, by the regime that stood as the day began, by symbol."""
    regimes = [str(label) for label in pooled.joined(lambda m: m["regimes"])]
    symbols = sorted({s for c in pooled.contestants for s in c.symbols})
    gained = np.zeros((len(pooled.starts), len(symbols)))
    for number in pooled.numbers:
        for symbol, column in pooled.of_fold(number, ENSEMBLE).metrics["contributions"].items():
            gained[pooled.folds == number, symbols.index(symbol)] = column
    found = {
        "year": of_slices.by_year(pooled.ensemble, pooled.starts, pooled.baseline),
        "regime": of_slices.by_label(pooled.ensemble, regimes, pooled.baseline, REGIMES),
        "symbol": of_slices.by_symbol(gained, symbols),
    }
    return {name: [asdict(one) for one in parts] for name, parts in found.items()}
