"""What the numbers say, in words; nothing here is true before it is computed.

One of ours is named in advance and judged: HAR ⊕ embedding. It stands against the baseline that turned out best, which
that baseline's choice flatters; picking the better of two of ours as well would flatter us.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from encoder.evaluation.baselines import BOTH, CLOCK, EMBEDDING, FORECASTERS, HAR, PCA, RIDGE
from encoder.evaluation.retrieval_summary import coverage_p, crps_gain, horizons
from encoder.evaluation.scoring import Result
from encoder.evaluation.summary import ALPHA, best, combined, groups, mean_score, primary, primary_gain
from encoder.evaluation.targets import CLASSES, REGRESSIONS

NAMES = {
    **dict(zip(REGRESSIONS, ("volatility 1h", "volatility 4h", "volatility 24h"), strict=True)),
    "volatility_class": "volatility class 24h",
    "trend_class": "trend class 24h",
    "large_move": "large move 4h",
    "direction_14400s": "direction 4h",
    "direction_86400s": "direction 24h",
}
MEASURES = {"qlike": "QLIKE", "auroc": "AUROC", "log_loss": "log loss", "r2": "R²"}
BASELINES = tuple(name for name in FORECASTERS if name not in (EMBEDDING, BOTH))
QLIKE_AIM, PCA_AIM, AUROC_AIM, CRPS_AIM = 0.03, 0.05, 0.02, 0.015
DAY = "log_volatility_86400s"


def verdict(results: Sequence[Result]) -> list[str]:
    """Sentences: who wins each task, on series seen and unseen in training; then each aim, reached or missed."""
    lines = [_winner(results, group, task) for group in groups(results) for task in (*REGRESSIONS, *CLASSES)]
    for group in groups(results):
        lines += _aims(results, group)
    return lines


def chance(p: float) -> str:
    """A p-value for reading."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def hours(horizon: str) -> str:
    """``86400s`` → ``24h``"""
    return f"{int(horizon.removesuffix('s')) // 3600}h"


def _winner(results: Sequence[Result], group: str, task: str) -> str:
    measure = primary(task)
    rival = best(results, group, task, measure, BASELINES)
    ours, theirs = (mean_score(results, group, task, f, measure) for f in (BOTH, rival))
    if not (math.isfinite(ours) and math.isfinite(theirs)):
        return f"{NAMES[task]}, {group}: nothing could be scored."
    gain = primary_gain(results, group, task, BOTH, rival)
    figures = f"{MEASURES[measure]} {ours:.4f} against {theirs:.4f}, {chance(gain.p_two_sided)}"
    text = f"{NAMES[task]}, {group}: "
    if not gain.p_two_sided < ALPHA:
        return text + f"no clear winner between {BOTH} and {rival} ({figures})."
    if gain.mean > 0:
        return text + f"{BOTH} wins over the best baseline, {rival} ({figures})."
    return text + f"{rival} wins: a baseline beats {BOTH} ({figures})."


def _aims(results: Sequence[Result], group: str) -> list[str]:
    ours, har, clock = (mean_score(results, group, DAY, f, "qlike") for f in (BOTH, HAR, CLOCK))
    beyond = combined(results, group, DAY, "clark_west")
    saved, saved_clock = (1 - ours / other if other else math.nan for other in (har, clock))
    over_clock = primary_gain(results, group, DAY, BOTH, CLOCK)
    pca, ridge = (
        mean_score(results, group, DAY, EMBEDDING, "r2") - mean_score(results, group, DAY, f, "r2")
        for f in (PCA, RIDGE)
    )
    large = mean_score(results, group, "large_move", BOTH, "auroc") - mean_score(
        results, group, "large_move", HAR, "auroc"
    )
    lines = [
        _aim(
            saved >= QLIKE_AIM and beyond.p_above < ALPHA,
            f"{BOTH} saves {saved:.1%} of HAR's QLIKE 24h (aim {QLIKE_AIM:.0%}; Clark–West {chance(beyond.p_above)}), "
            f"{saved_clock:+.1%} of {CLOCK}'s ({chance(over_clock.p_above)})",
            group,
        ),
        _aim(
            pca >= PCA_AIM,
            f"{EMBEDDING} less {PCA} in R² at 24h: {pca:+.3f} (aim {PCA_AIM:+.2f}); less {RIDGE}: {ridge:+.3f}",
            group,
        ),
        _aim(
            large >= AUROC_AIM,
            f"{BOTH} less HAR in AUROC of large moves: {large:+.3f} (aim {AUROC_AIM:+.2f})",
            group,
        ),
    ]
    return lines + _retrieval_aims(results, group)


def _retrieval_aims(results: Sequence[Result], group: str) -> list[str]:
    lines = []
    for horizon in horizons(results, group):
        matched, matched_p = crps_gain(results, group, horizon, "matched_random")
        scaled, scaled_p = crps_gain(results, group, horizon, "har_random")
        itself, itself_p = crps_gain(results, group, horizon, "forecast_random")
        share, p = coverage_p(results, group, horizon, "80%")
        lines += [
            _aim(
                matched >= CRPS_AIM and scaled > 0,
                f"analogs' CRPS over {hours(horizon)}: {matched:+.1%} better than volatility-matched (aim "
                f"{CRPS_AIM:.1%}; {chance(matched_p)}), {scaled:+.1%} than HAR-scaled ({chance(scaled_p)}), "
                f"of which retrieval itself (against random moments with the same rescaling): {itself:+.1%}, "
                f"{chance(itself_p)}",
                group,
            ),
            _aim(p >= ALPHA, f"analogs' 80 % band over {hours(horizon)} holds {share:.1%} ({chance(p)})", group),
        ]
    return lines


def _aim(reached: bool, text: str, group: str) -> str:
    return f"{'Reached' if reached else 'Missed'}, {group}: {text}."
