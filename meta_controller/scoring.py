"""How good calls of the regime were: scores, calibration, skill against what was known before, and recalibration.

Everywhere: calls of one horizon and one axis are ``p`` [n, 3] in the order of the classes (down, flat, up; low, mid,
high), ``happened`` [n] says which it was (0, 1, 2), ``as_of`` [n] are the moments of the calls in Unix seconds,
ascending, with whatever gaps there are. Calls of one day say much the same, and horizons overlap: whatever is said
about chance takes blocks of five days as what is independent. Pure, but for llm_scorecard at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meta_controller.scored_rows import AXES, POOL, Calls, Forecaster, Happened, Window, read_calls, read_outcomes
from shared.db import Database
from shared.forecast_tests import FIXED_B
from shared.rows import FloatArray, IntArray
from shared.scores import SMALLEST_PROBABILITY, brier_loss, log_loss

DAY_S = 86_400
YEAR_S = 365 * DAY_S
BLOCK_DAYS = 5
LEAST_BLOCKS = 4  # of fewer blocks no bootstrap tells anything
REPLICATES = 2_000
BINS = 10
TEMPERATURES = (0.25, 10.0)
PRIOR_CALLS = 50  # what the belief in T = 1 is worth
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
LEAST_CALLS = 10  # fewer say nothing worth a line of the prompt


# ───────────────────────────────────────────────────────────────────────────────────────────────────── scores ──


def rps_loss(p: FloatArray, happened: IntArray) -> FloatArray:
    """Ranked probability score, Σ_k (P(class ≤ k) - 1 if it was ≤ k)² / (classes - 1), between 0 and 1 [n]
    (Epstein, Journal of Applied Meteorology 8, 1969): to miss by two classes costs more than by one."""
    if len(p) != len(happened):
        raise ValueError(f"{len(p)} calls cannot be scored against {len(happened)} outcomes")
    truth = happened[:, None] <= np.arange(p.shape[1] - 1)
    return np.asarray(((np.cumsum(p, axis=1)[:, :-1] - truth) ** 2).sum(axis=1) / (p.shape[1] - 1))


@dataclass(frozen=True, slots=True)
class Scores:
    """Means over ``calls`` calls. ``ece``: see calibration_error. ``temperature``: see fit_temperature; above 1 the
    calls were surer than they had reason to be."""

    calls: int
    brier: float
    rps: float
    log_loss: float
    ece: float
    temperature: float


def scores_of(p: FloatArray, happened: IntArray, as_of: IntArray) -> Scores:
    """ValueError without a single call."""
    if not len(p):
        raise ValueError("there is no call to score")
    return Scores(
        len(p), float(brier_loss(p, happened).mean()), float(rps_loss(p, happened).mean()),
        float(log_loss(p, happened).mean()), calibration_error(p, happened, as_of), fit_temperature(p, happened),
    )  # fmt: skip


# ──────────────────────────────────────────────────────────────────────── what was known at t: the references ──


def climatology(past: Happened, axis: int, at: IntArray) -> FloatArray:
    """How often each class happened, of all that became known in the year up to each moment of ``at`` [n]; [n, 3].
    One more of each is counted, so a third each where nothing is known."""
    return _shares(_known_counts(past.known_from, np.eye(3, dtype=np.int64)[past.classes[:, axis]], at) + 1)


def persistence(past: Happened, axis: int, horizon_s: int, at: IntArray) -> FloatArray:
    """From the class of the horizon that ended last, one step of the transition matrix of the year before; [n, 3].

    Transitions are from the class of one horizon to that of the next, counted when the latter became known, one more
    of each. Where the horizon that ended last ended more than a horizon ago, it says nothing: climatology instead.
    """
    if not len(past.as_of):
        return climatology(past, axis, at)
    classes = past.classes[:, axis]
    before = _index_of(past.as_of, past.as_of - horizon_s)
    pair = before >= 0
    steps = np.zeros((int(pair.sum()), 3, 3), np.int64)
    steps[np.arange(len(steps)), classes[before[pair]], classes[pair]] = 1
    matrix = _known_counts(past.known_from[pair], steps, at) + 1
    last = _newest_known(past, at)
    fresh = (last >= 0) & (at - past.as_of[last] <= 2 * horizon_s)
    from_last = _shares(matrix[np.arange(len(at)), classes[last]])
    return np.where(fresh[:, None], from_last, climatology(past, axis, at))


def _known_counts(known_from: IntArray, counts: IntArray, at: IntArray) -> IntArray:
    """Sums of ``counts`` [m, …] over what became known in the year up to each moment, [n, …]."""
    order = np.argsort(known_from, kind="stable")
    sums = np.concatenate([np.zeros((1, *counts.shape[1:]), np.int64), np.cumsum(counts[order], axis=0)])
    known = known_from[order]
    return np.asarray(sums[np.searchsorted(known, at, "right")] - sums[np.searchsorted(known, at - YEAR_S, "right")])


def _newest_known(past: Happened, at: IntArray) -> IntArray:
    """The index of the latest moment whose outcome was known at each of ``at``; -1 where none was."""
    order = np.argsort(past.known_from, kind="stable")
    latest = np.concatenate([[-1], np.maximum.accumulate(order)])
    return np.asarray(latest[np.searchsorted(past.known_from[order], at, "right")])


def _index_of(ordered: IntArray, values: IntArray) -> IntArray:
    """Where each value stands in ``ordered``; -1 where it does not."""
    at = np.minimum(np.searchsorted(ordered, values), max(len(ordered) - 1, 0))
    return np.where(ordered[at] == values, at, -1) if len(ordered) else np.full(len(values), -1)


def _shares(counts: IntArray) -> FloatArray:
    return np.asarray(counts / counts.sum(axis=-1, keepdims=True))


# ────────────────────────────────────────────────────────────────────────────────── skill, and whether by chance ──


@dataclass(frozen=True, slots=True)
class Comparison:
    """Over ``calls`` common moments: skill 1 - Brier / the other's, and the one-sided chance of a difference so good
    if there were none (NaN: too few days to tell)."""

    calls: int
    skill: float
    p: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the central 95 % interval of it; NaN bounds where there are too few days."""

    mean: float
    low: float
    high: float


def skill(loss: FloatArray, reference: FloatArray) -> float:
    """1 - mean loss / the reference's: 0 is as good, 1 perfect, negative worse; NaN where the reference never lost."""
    return 1.0 - float(loss.mean()) / float(reference.mean()) if len(loss) and reference.any() else math.nan


def compare(loss: FloatArray, reference: FloatArray, as_of: IntArray) -> Comparison:
    """Losses [n] of two forecasters at the same moments."""
    saved = reference - loss
    luck = bootstrap_deviations(saved, as_of)
    beyond = int((luck >= saved.mean()).sum()) if len(luck) else 0
    return Comparison(len(loss), skill(loss, reference), (1 + beyond) / (1 + len(luck)) if len(luck) else math.nan)


def mean_interval(values: FloatArray, as_of: IntArray) -> Interval:
    """The mean of ``values`` [n] and its interval; NaN without values."""
    if not len(values):
        return Interval(math.nan, math.nan, math.nan)
    mean, luck = float(values.mean()), bootstrap_deviations(values, as_of)
    low, high = mean - np.quantile(luck, [0.975, 0.025]) if len(luck) else (math.nan, math.nan)
    return Interval(mean, float(low), float(high))


def bootstrap_deviations(
    values: FloatArray, as_of: IntArray, replicates: int = REPLICATES, seed: int = 0
) -> FloatArray:
    """How far luck takes the mean of ``values`` from the truth: deviations of replicates, at most [replicates].

    Circular blocks of BLOCK_DAYS calendar days, drawn with replacement (Künsch, Annals of Statistics 17, 1989; Politis
    and Romano, 1992): a mean over a draw is the sum of its values over their number, so days without calls weigh
    nothing. Deviations are widened as fixed-b theory widens those of an estimate with so few blocks
    (shared.forecast_tests). Empty with fewer than LEAST_BLOCKS blocks. The same seed, the same bits.
    """
    if not len(values) or as_of[-1] - as_of[0] < LEAST_BLOCKS * BLOCK_DAYS * DAY_S:
        return np.empty(0)
    day = (as_of - as_of[0]) // DAY_S
    days = int(day[-1]) + 1
    blocks = -(-days // BLOCK_DAYS)
    starts = np.random.default_rng(seed).integers(0, days, (replicates, blocks))
    sums, counts = (_circular_sums(np.bincount(day, weights, days))[starts].sum(axis=1)
                    for weights in (values - values.mean(), np.ones(len(values))))  # fmt: skip
    some = counts > 0
    share = BLOCK_DAYS / days
    wider = sum(c * share**i for i, c in enumerate(FIXED_B)) / FIXED_B[0] * math.sqrt(blocks * share)
    return np.asarray(sums[some] / counts[some] * wider)


def _circular_sums(by_day: NDArray[Any]) -> FloatArray:
    """The sum of the BLOCK_DAYS that begin at each day, the first day following the last."""
    return np.asarray(sum(np.roll(by_day, -offset) for offset in range(BLOCK_DAYS)))


# ─────────────────────────────────────────────────────────────────────────────────── calibration and its repair ──


@dataclass(frozen=True, slots=True)
class Reliability:
    """The reliability curve in at most BINS bins of about as many calls [b]: mean probability, how often it happened,
    and where that would lie (95 %) if the calls were calibrated (consistency bars: Bröcker and Smith, Weather and
    Forecasting 22, 2007; here normal, of blocks of days)."""

    forecast: FloatArray
    observed: FloatArray
    low: FloatArray
    high: FloatArray


def reliability(p: FloatArray, happened: IntArray, as_of: IntArray) -> Reliability:
    """The three classes' probabilities in one curve."""
    truth = (happened[:, None] == np.arange(3)).ravel()
    _, forecast, gap, variance = _bins(p.ravel(), truth, np.repeat(as_of, 3))
    half = 1.96 * np.sqrt(np.nan_to_num(variance))
    return Reliability(forecast, forecast + gap, np.maximum(forecast - half, 0.0), np.minimum(forecast + half, 1.0))


def calibration_error(p: FloatArray, happened: IntArray, as_of: IntArray) -> float:
    """Bias-corrected expected calibration error: the root of the mean over classes of Σ over bins of share ·
    (gap² - its variance), gap being mean probability less frequency. NaN with calls of one block only.

    Chance alone opens gaps, of the size of their variance: without the correction what is calibrated looks as if it
    were not (Bröcker, Quarterly Journal of the Royal Meteorological Society 138, 2012; Kumar, Liang and Ma, Verified
    Uncertainty Calibration, NeurIPS 2019). The variance is clustered by blocks of days, since calls that overlap err
    together. The corrected square has the true one as its mean; below 0 it is reported as 0.
    """
    squares = []
    for k in range(p.shape[1]):
        calls, _, gap, variance = _bins(p[:, k], happened == k, as_of)
        known = ~np.isnan(variance)
        if not known.any():
            return math.nan
        squares.append(float(((gap**2 - variance) * calls)[known].sum() / calls[known].sum()))
    return math.sqrt(max(0.0, sum(squares) / len(squares)))


def _bins(
    p: FloatArray, truth: NDArray[np.bool_], as_of: IntArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """By bin [b]: calls, mean probability, frequency less that, and the variance of this gap (NaN for one block)."""
    edges = np.quantile(p, np.arange(1, BINS) / BINS)
    bins, which = np.unique(np.searchsorted(edges, p, "right"), return_inverse=True)
    blocks, block = np.unique(as_of // (BLOCK_DAYS * DAY_S), return_inverse=True)
    calls = np.bincount(which).astype(np.float64)
    error = truth - p
    gap = np.bincount(which, error) / calls
    cell, cells = which * len(blocks) + block, (len(bins), len(blocks))
    sums = np.bincount(cell, error - gap[which], len(bins) * len(blocks)).reshape(cells)
    clusters = (np.bincount(cell, minlength=len(bins) * len(blocks)).reshape(cells) > 0).sum(axis=1)
    few = clusters < 2  # G/(G - 1): the gap itself was estimated (Liang and Zeger, Biometrika 73, 1986)
    variance = (sums**2).sum(axis=1) / calls**2 * clusters / np.maximum(clusters - 1, 1)
    return calls, np.bincount(which, p) / calls, gap, np.where(few, math.nan, variance)


def recalibrate(p: FloatArray, temperature: float) -> FloatArray:
    """p^(1/T), normalised, [..., 3]: T above 1 makes calls less sure, below 1 surer; 1 leaves them as they are but for
    the last bits (Guo, Pleiss, Sun and Weinberger, ICML 2017). ValueError unless T is above 0 and finite."""
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"a temperature is above 0 and finite, not {temperature!r}")
    logs = np.log(np.maximum(p, SMALLEST_PROBABILITY)) / temperature
    powers = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def fit_temperature(p: FloatArray, happened: IntArray) -> float:
    """The temperature under which what happened was likeliest, within TEMPERATURES, drawn towards 1.

    log T is multiplied by n / (n + PRIOR_CALLS): fifty calls move it half the way. 1 without calls, or where no
    temperature is better. The log loss is convex in 1/T, so one golden-section search on log T finds its minimum.
    """
    if len(p) != len(happened):
        raise ValueError(f"{len(p)} calls cannot be scored against {len(happened)} outcomes")
    if not len(p):
        return 1.0
    logs = np.log(np.maximum(p, SMALLEST_PROBABILITY))
    logs -= logs.max(axis=1, keepdims=True)
    given = float(logs[np.arange(len(p)), happened].mean())

    def loss(log_temperature: float) -> float:
        """The mean log loss of ``recalibrate(p, T)``."""
        temperature = math.exp(log_temperature)
        return float(np.log(np.exp(logs / temperature).sum(axis=1)).mean()) - given / temperature

    best = _golden_section(loss, math.log(TEMPERATURES[0]), math.log(TEMPERATURES[1]))
    if loss(best) >= loss(0.0) - 1e-12:
        return 1.0
    return math.exp(best * len(p) / (len(p) + PRIOR_CALLS))


def _golden_section(loss: Callable[[float], float], low: float, high: float) -> float:
    """Where a unimodal ``loss`` is least between ``low`` and ``high``, within 1e-4 (Kiefer, Proceedings of the
    American Mathematical Society 4, 1953)."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > 1e-4:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = loss(right)
    return (low + high) / 2.0


def recalibrate_as_known(p: FloatArray, happened: IntArray, as_of: IntArray, known_from: IntArray) -> FloatArray:
    """Each call [n, 3] at the temperature fitted to the calls whose outcomes were known when its block of BLOCK_DAYS
    began; ``known_from`` [n] is of the outcomes."""
    block = as_of // (BLOCK_DAYS * DAY_S)
    found = np.empty_like(p)
    for number in np.unique(block):
        known = known_from <= number * BLOCK_DAYS * DAY_S
        now = block == number
        found[now] = recalibrate(p[now], fit_temperature(p[known], happened[known]))
    return found


# ─────────────────────────────────────────────────────────────────────────────── the LLM's scorecard in its prompt ──


def llm_scorecard(
    database: Database, recorded_by: datetime, as_of: datetime, model: str, prompt: str
) -> dict[str, Any]:
    """How the calls of one model with one prompt have fared in the year before ``as_of``, for its next prompt.

    {"24h": {"trend": {"calls", "brier", "skill_vs_climatology", "skill_vs_pool"}, "volatility": …}, "4h": …}, three
    digits; None where there is nothing to compare with. A horizon with fewer than LEAST_CALLS scored calls is left out;
    so {} with fewer at all. Only rows recorded by ``recorded_by`` with outcomes known by ``as_of``; contaminated calls
    never count.
    """
    asked = Window(as_of, recorded_by, first=as_of - timedelta(seconds=YEAR_S), last=as_of)
    calls = read_calls(database, Forecaster("llm", model, prompt, contaminated=False), asked)
    if not calls:
        return {}
    pool = read_calls(database, POOL, asked)
    happened = read_outcomes(database, Window(as_of, recorded_by, first=as_of - timedelta(days=735)))
    found = {f"{h // 3600}h": _told(calls[h], pool.get(h), happened[h]) for h in sorted(calls) if h in happened}
    return {horizon: told for horizon, told in found.items() if told}


def _told(calls: Calls, pool: Calls | None, past: Happened) -> Mapping[str, Any] | None:
    """Both axes of one horizon; None for too few scored calls."""
    of_call, of_past = common(calls.as_of, past.as_of)
    if len(of_call) < LEAST_CALLS:
        return None
    told = {}
    for axis, name in enumerate(AXES):
        happened, at = past.classes[of_past, axis], calls.as_of[of_call]
        loss = brier_loss(axis_of(calls.p, axis)[of_call], happened)
        usual = brier_loss(climatology(past, axis, at), happened)
        told[name] = {"calls": len(at), "brier": round(float(loss.mean()), 3),
                      "skill_vs_climatology": _rounded(skill(loss, usual)), "skill_vs_pool": None}  # fmt: skip
        if pool is not None:
            mine, theirs = common(at, pool.as_of)
            others = brier_loss(axis_of(pool.p, axis)[theirs], happened[mine])
            told[name]["skill_vs_pool"] = _rounded(skill(loss[mine], others))
    return told


def common(one: IntArray, other: IntArray) -> tuple[IntArray, IntArray]:
    """The indices of the moments that both have."""
    _, mine, theirs = np.intersect1d(one, other, assume_unique=True, return_indices=True)
    return mine, theirs


def axis_of(p: FloatArray, axis: int) -> FloatArray:
    """The three probabilities [n, 3] of one axis (0 trend, 1 volatility) of calls [n, 6]."""
    return p[:, 3 * axis : 3 * axis + 3]


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3) + 0.0  # no -0.0
