"""The verdict in words, by a rule fixed before anyone looked; tried on planted worlds (bench/verdict.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from shared.performance.bootstrap import REPLICATES, SharpeDifference, paired_difference, sharpes
from shared.performance.deflation import DeflatedSharpe, deflated_sharpe
from shared.performance.returns import DAYS_A_YEAR
from shared.rows import FloatArray, IntArray

Word = Literal["beats", "not worse", "baseline wins"]

BEATS = 0.95  # P(Δ Sharpe > 0)
NOT_WORSE = 0.90  # P(Δ Sharpe > -0.2)
DEFLATED = 0.95
EARNS = 0.90  # P(Sharpe > 0)
TOO_GOOD = 2.0  # net annual Sharpe; what is credible stays below (reference/ml.md, C5b)
SHORT_YEARS = 3.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """``word`` follows from the probabilities alone; ``reasons`` say how, ``flags`` what a reader must know too."""

    word: Word
    p_above_0: float
    p_above_minus_02: float
    difference: SharpeDifference
    policy_sharpe: float  # annual, of the seeds in equal parts
    baseline_sharpe: float
    deflated: DeflatedSharpe | None  # of the active return; None where no trials were given or it has no ratio
    reasons: tuple[str, ...]
    flags: tuple[str, ...]


def judge(
    policy: FloatArray,
    baseline: FloatArray,
    folds: IntArray | None = None,
    *,
    trials: int | None = None,
    trial_variance: float | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Verdict:
    """Policy [S, T] (or [T]) against the baseline named in advance [T]: daily returns net of costs, out of sample;
    folds [T] the walk-forward fold of each day. With ``trials`` (and ``trial_variance``: ``Trials.count``,
    ``Trials.variance``) the active return's deflated Sharpe ratio is told beside it.

    "beats": P(Δ Sharpe > 0) ≥ 0.95; "not worse": P(Δ > -0.2) ≥ 0.9; else "baseline wins". ValueError as in
    ``paired_difference``.
    """
    policy = np.atleast_2d(policy)
    difference = paired_difference(policy, baseline, folds, replicates=replicates, seed=seed)
    active = policy.mean(axis=0) - baseline
    deflated = None if trials is None else deflated_sharpe(active, trials, trial_variance)
    return Verdict(
        word=word_of(difference),
        p_above_0=difference.p_above_0,
        p_above_minus_02=difference.p_above_minus_02,
        difference=difference,
        policy_sharpe=float(sharpes(policy.mean(axis=0))),
        baseline_sharpe=float(sharpes(baseline)),
        deflated=deflated,
        reasons=_reasons(difference),
        flags=tuple(_flags(sharpes(policy), len(baseline), deflated)),
    )


def p_earns(
    returns: FloatArray, folds: IntArray | None = None, *, replicates: int = REPLICATES, seed: int = 0
) -> float:
    """P(Sharpe > 0) of daily returns [S, T] or [T]: that they earn more than cash does. Who beats a baseline that loses
    by losing less has shown no reason to trade; a promotion asks for EARNS of what is to trade."""
    returns = np.atleast_2d(returns)
    return paired_difference(returns, np.zeros(returns.shape[1]), folds, replicates=replicates, seed=seed).p_above_0


def word_of(difference: SharpeDifference) -> Word:
    if difference.p_above_0 >= BEATS:
        return "beats"
    return "not worse" if difference.p_above_minus_02 >= NOT_WORSE else "baseline wins"


def _reasons(difference: SharpeDifference) -> tuple[str, ...]:
    d = difference
    return (
        f"Sharpe difference {d.point:+.2f}, 95 % interval {d.low:+.2f} to {d.high:+.2f} "
        f"(stationary bootstrap, blocks of {d.block_days:.1f} days, {d.replicates:,} replicates, seeds drawn)",
        f"P(difference > 0) = {d.p_above_0:.3f}: {_against(d.p_above_0, BEATS)} asked for by “beats”",
        f"P(difference > -0.2) = {d.p_above_minus_02:.3f}: {_against(d.p_above_minus_02, NOT_WORSE)} asked for by "
        "“not worse”",
    )


def _against(probability: float, level: float) -> str:
    return f"{'at least' if probability >= level else 'below'} the {level:.2f}"


def _flags(ratios: FloatArray, days: int, deflated: DeflatedSharpe | None) -> list[str]:
    flags = []
    if ratios.max() > TOO_GOOD:
        flags.append(
            f"suspected bug: a net Sharpe of {ratios.max():.2f} is above {TOO_GOOD:.0f}; look for a leak before "
            "believing it"
        )
    if days < SHORT_YEARS * DAYS_A_YEAR:
        flags.append(
            f"short span: {days} days; below 3 years an information ratio of 1 is missed more often than found"
        )
    if deflated is not None and deflated.probability < DEFLATED:
        flags.append(
            f"after {deflated.trials} trials the active return's deflated Sharpe is {deflated.probability:.2f}, below "
            f"{DEFLATED}: it may be the luck of choosing"
        )
    return flags
