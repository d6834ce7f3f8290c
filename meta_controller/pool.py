"""The experts' calls as one: a logarithmic opinion pool, weighed by how well each has called before.

Pool: p ∝ Π p_k^w_k (Genest and Zidek, Statistical Science 1, 1986). Weights: w_k ∝ exp(-η Σ γ^age · loss_k), Hedge with
forgetting (Freund and Schapire, JCSS 55, 1997), the loss being the log score. A round is one horizon long, its loss the
mean over the calls made in it, so calls that overlap count once; a round counts when its last outcome is known, so the
weights of round d rest on the rounds up to d - 2.

The pool never loses much to the best expert. The log loss of a pool is at most the weighted mean of its members'
(Hölder), and Hedge's is bounded: over rounds 1…T, discounted by γ, for every expert k

    Σ γ^(T-d) (loss_pool(d) - loss_k(d))  <=  ln K / η + η Σ γ^(T-d) (B_d² / 8 + B_d B_(d-1) / 4),

B_d being the distance between the best and the worst expert's loss in round d; the second term is what the delay of a
round costs. (tests/meta_controller/test_pool.py tries to break it.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from meta_controller.controller import HORIZONS_S
from meta_controller.market_index import DAY_S
from meta_controller.outcomes import UNKNOWN
from meta_controller.regimes.expert import CLASSES, Calls
from shared.rows import FloatArray

HALF_LIFE_S = 30 * DAY_S
REACH_S = 120 * DAY_S  # four half-lives: what is older counts for less than a sixteenth, and is left out
ETA = 3.0
AXES = (slice(0, 3), slice(3, 6))  # trend, volatility

Labels = tuple[int, int]  # trend, volatility


class Track:
    """What each expert called and what then happened, moment by moment (Unix seconds), for every horizon.

    Everything that is known when the newest moment is asked about may be added first: the weights at a moment rest on
    rounds whose outcomes were all known before it.
    """

    def __init__(self, experts: Sequence[str]) -> None:
        self.experts = tuple(experts)
        self._calls: dict[int, FloatArray] = {}  # [experts, horizons, CLASSES], NaN where one abstained
        self._called_in: dict[tuple[int, int], list[int]] = {}  # moments by horizon and round
        self._labels: dict[tuple[int, int], Labels] = {}  # by horizon and moment
        self._losses: dict[tuple[int, int], FloatArray] = {}
        self._weights: dict[tuple[int, int, bytes], FloatArray] = {}
        self._raw: dict[tuple[int, int], FloatArray] = {}
        self._scored: dict[tuple[int, int], int] = {}

    def __contains__(self, as_of: int) -> bool:
        return as_of in self._calls

    def add_calls(self, as_of: Sequence[int], calls: Mapping[str, Calls]) -> None:
        """``calls``: by expert [moments, horizons, CLASSES], NaN or unnamed where one abstained; experts that are not
        of this track are left out, and what was added before stays."""
        stacked = np.full((len(as_of), len(self.experts), len(HORIZONS_S), CLASSES), np.nan)
        for k, name in enumerate(self.experts):
            if name in calls:
                stacked[:, k] = calls[name]
        for at, row in zip(as_of, stacked, strict=True):
            if at not in self._calls:
                self._calls[at] = row
                for horizon_s in HORIZONS_S:
                    self._called_in.setdefault((horizon_s, round_of(at, horizon_s)), []).append(at)

    def joined_by(self, name: str, calls: Mapping[int, FloatArray]) -> Track:
        """A track with one more expert, who called [horizons, CLASSES] at some of these moments."""
        joined = Track((*self.experts, name))
        joined._labels = dict(self._labels)
        abstained = np.full((1, len(HORIZONS_S), CLASSES), np.nan)
        for as_of, row in self._calls.items():
            mine = calls[as_of][None] if as_of in calls else abstained
            joined._calls[as_of] = np.concatenate([row, mine])
        joined._called_in = {key: list(moments) for key, moments in self._called_in.items()}
        return joined

    def add_outcome(self, as_of: int, horizon_s: int, labels: Labels) -> None:
        if UNKNOWN not in labels:
            self._labels[horizon_s, as_of] = labels

    def missing_outcomes(self, horizon_s: int, until: int) -> list[int]:
        """The moments called whose horizon has passed by ``until`` and whose outcome was not added, in order."""
        return [t for t in sorted(self._calls) if t + horizon_s <= until and (horizon_s, t) not in self._labels]

    def calls_at(self, as_of: int) -> FloatArray:
        """[experts, horizons, CLASSES]"""
        return self._calls[as_of]

    def weights(self, as_of: int, horizon_s: int) -> FloatArray:
        """[2, experts]: of the trend's and the volatility's pool at ``as_of``; those that abstain now have none."""
        horizon = HORIZONS_S.index(horizon_s)
        present = ~np.isnan(self._calls[as_of][:, horizon, 0])
        key = (horizon_s, round_of(as_of, horizon_s), present.tobytes())
        if key not in self._weights:
            losses = self._losses_before(key[1], horizon_s)
            self._weights[key] = np.stack([hedge(losses[:, axis], horizon_s, present) for axis in range(2)])
        return self._weights[key]

    def pooled(self, as_of: int) -> FloatArray:
        """The pool's own calls, [horizons, CLASSES]. The trend is the mean (of logs) over what was pooled in half a
        horizon: calls an hour apart are about the same day, and their differences are mostly noise."""
        found = np.stack([self._pool(as_of, horizon_s) for horizon_s in HORIZONS_S])
        for horizon, horizon_s in enumerate(HORIZONS_S):
            lately = self._called_since(as_of, horizon_s // 2, horizon_s)
            logs = np.log([self._pool(t, horizon_s)[AXES[0]] for t in lately]).sum(axis=0) / len(lately)
            found[horizon, AXES[0]] = _normalised(logs)
        return found

    def _called_since(self, as_of: int, seconds: int, horizon_s: int) -> list[int]:
        """The moments called in the ``seconds`` up to ``as_of``, in order."""
        rounds = range(round_of(as_of - seconds, horizon_s), round_of(as_of, horizon_s) + 1)
        called = [t for r in rounds for t in self._called_in.get((horizon_s, r), ())]
        return sorted(t for t in called if as_of - seconds < t <= as_of)

    def _pool(self, as_of: int, horizon_s: int) -> FloatArray:
        key = (horizon_s, as_of)
        if key not in self._raw:
            calls = self._calls[as_of][:, HORIZONS_S.index(horizon_s)]
            self._raw[key] = log_pool(calls, self.weights(as_of, horizon_s))
        return self._raw[key]

    def scored_rounds(self, as_of: int, horizon_s: int) -> int:
        """How many rounds the weights at ``as_of`` rest on."""
        key = (horizon_s, round_of(as_of, horizon_s))
        if key not in self._scored:
            losses = self._losses_before(key[1], horizon_s)
            self._scored[key] = int((~np.isnan(losses)).any(axis=(1, 2)).sum())
        return self._scored[key]

    def _losses_before(self, number: int, horizon_s: int) -> FloatArray:
        """[rounds, 2, experts]: of the rounds whose outcomes are all known when round ``number`` begins."""
        newest, horizon = number - 2, HORIZONS_S.index(horizon_s)
        rounds = range(newest - REACH_S // horizon_s + 1, newest + 1)
        return np.stack([self._round_loss(r, horizon_s, horizon) for r in rounds])

    def _round_loss(self, number: int, horizon_s: int, horizon: int) -> FloatArray:
        """Mean log loss of each expert over one round, [2, experts]; NaN where it made no call that could be scored."""
        key = (horizon_s, number)
        if key not in self._losses:
            called = sorted(self._called_in.get(key, ()))
            self._losses[key] = self._mean_loss([t for t in called if (horizon_s, t) in self._labels], horizon)
        return self._losses[key]

    def _mean_loss(self, scored: Sequence[int], horizon: int) -> FloatArray:
        found = np.full((2, len(self.experts)), np.nan)
        if not scored:
            return found
        calls = np.stack([self._calls[t][:, horizon] for t in scored])
        for axis, classes in enumerate(AXES):
            happened = [self._labels[HORIZONS_S[horizon], t][axis] for t in scored]
            given = calls[np.arange(len(scored)), :, classes.start + np.array(happened)]  # [moments, experts]
            made = ~np.isnan(given)
            total = np.where(made, -np.log(np.where(made, given, 1.0)), 0.0).sum(axis=0)
            found[axis] = np.where(made.any(axis=0), total / made.sum(axis=0).clip(1), np.nan)
        return found


def round_of(as_of: int, horizon_s: int) -> int:
    """The number of the round that a call at ``as_of`` belongs to: rounds end at multiples of the horizon."""
    return (as_of - 1) // horizon_s


def hedge(losses: FloatArray, horizon_s: int, present: np.typing.NDArray[np.bool_] | None = None) -> FloatArray:
    """Weights [experts] from each round's losses [rounds, experts], oldest first; they sum to 1 over ``present``.

    An expert without a call in a round is charged what the others lost on average: it neither gains nor loses.
    """
    called = ~np.isnan(losses)
    others = np.where(called, losses, 0.0).sum(axis=1) / called.sum(axis=1).clip(1)
    charged = np.where(called, losses, others[:, None])
    discount = np.exp2(-horizon_s / HALF_LIFE_S * np.arange(len(losses) - 1, -1, -1.0))
    total = (charged * discount[:, None]).sum(axis=0)
    kept = np.ones(losses.shape[1], bool) if present is None else present
    if not kept.any():
        return np.zeros(losses.shape[1])
    weights = np.where(kept, np.exp(-ETA * (total - total[kept].min())), 0.0)
    return np.asarray(weights / weights.sum())


def log_pool(calls: FloatArray, weights: FloatArray) -> FloatArray:
    """Six probabilities from those of the experts: ``calls`` [experts, CLASSES], ``weights`` [2, experts]."""
    pooled = np.empty(CLASSES)
    for axis, classes in enumerate(AXES):
        used = weights[axis] > 0
        pooled[classes] = _normalised((weights[axis][used, None] * np.log(calls[used, classes])).sum(axis=0))
    return pooled


def _normalised(logs: FloatArray) -> list[float]:
    odds = [math.exp(log - logs.max()) for log in logs.tolist()]
    total = math.fsum(odds)
    return [one / total for one in odds]


def told(experts: Sequence[str], weights: FloatArray) -> str:
    """The weights in words, the heaviest first; those under 5 % are left out."""
    parts = []
    for name, row in zip(("trend", "volatility"), weights, strict=True):
        order = sorted(range(len(experts)), key=lambda k: (-row[k], k))
        parts.append(f"{name} by " + ", ".join(f"{experts[k]} {row[k]:.2f}" for k in order if row[k] >= 0.05))
    return "; ".join(parts)
