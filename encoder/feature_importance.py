"""How much each feature tells about what comes after, measured out of sample, and which features are worth keeping.

Importance is the R² that a model fitted on earlier windows loses on later ones when one feature is shuffled
there (permutation importance: Breiman, Machine Learning 45, 2001; of any model: Fisher, Rudin & Dominici, JMLR
20, 2019). Shuffled within days, a feature keeps what all windows of a day share: what is lost is what it tells
apart between them, so slow features are worth more than their figure. Of two features that say the same each
would look useless beside the other: of those that correlate one stands for all, before models are fitted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.rows import FloatArray, IntArray

ALIKE = 0.95  # |correlation| from which one feature stands for another
EARLY = 0.7  # of the windows, to fit on
MOST_LATER = 4_000  # windows scored
SHUFFLES = 5
ERRORS = 2.0  # standard errors above zero: worth keeping
RIDGE = 0.01  # of the windows: the penalty on squared weights of standardised features
ROUNDS = 100
BOOSTING = {
    "objective": "regression",
    "learning_rate": 0.08,
    "num_leaves": 15,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
DAY_S, WEEK_S = 86_400, 604_800

Predict = Callable[[FloatArray], FloatArray]  # features [n, F] → [n]
Fit = Callable[[FloatArray, FloatArray, int], Predict]  # of features, target and seed


@dataclass(frozen=True, slots=True)
class Importance:
    """Of one model for one target: its ``r2`` on the later windows, and for each feature the R² ``lost`` [F] when it
    is shuffled, the mean of 5 shuffles, with its standard ``error`` [F]."""

    r2: float
    lost: FloatArray
    error: FloatArray

    @property
    def kept(self) -> NDArray[np.bool_]:
        """[F]; none of a model that is worse than the mean: what it loses then says nothing."""
        return np.asarray((self.lost > ERRORS * self.error) & (self.r2 > 0))


def importance(
    features: FloatArray, target: FloatArray, as_of: IntArray, purge_s: int, seed: int = 0
) -> dict[str, Importance]:
    """By model (ridge, lightgbm), of ``features`` [N, F] for a ``target`` [N], NaN where unknown.

    Fitted on the first 70 % of the windows (by close, ``as_of`` [N]) that end ``purge_s`` or more before the rest;
    of the rest at most 4,000, drawn by ``seed``, are scored. ValueError where nothing is left to fit or to score.
    """
    known = np.flatnonzero(np.isfinite(target))
    known = known[np.argsort(as_of[known], kind="stable")]
    rng = np.random.default_rng(seed)
    border = as_of[known[int(len(known) * EARLY)]] if len(known) else 0
    early = known[as_of[known] + purge_s <= border]
    later = known[as_of[known] >= border]
    if not len(early) or not len(later):
        raise ValueError(f"{len(known)} windows leave none to fit or none to score, {purge_s} s apart")
    later = later[np.sort(rng.permutation(len(later))[:MOST_LATER])]
    X, mean, scale = _standardise(features[early])
    later_X = (features[later] - mean) / scale
    orders = [_shuffled_within_days(as_of[later], rng) for _ in range(SHUFFLES)]
    return {
        name: _score(fit(X, target[early], seed), later_X, target[later], as_of[later], orders)
        for name, fit in MODELS.items()
    }


def _standardise(values: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    mean, scale = values.mean(axis=0), values.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    return (values - mean) / scale, mean, scale


def _shuffled_within_days(as_of: IntArray, rng: np.random.Generator) -> IntArray:
    """[n], for closes in order of time: which window's value each one gets."""
    return np.asarray(np.lexsort((rng.random(len(as_of)), as_of // DAY_S)))


def _score(
    predict: Predict, features: FloatArray, target: FloatArray, as_of: IntArray, orders: Sequence[IntArray]
) -> Importance:
    spread = float(((target - target.mean()) ** 2).mean()) or 1.0
    again = np.tile(features, (len(orders), 1))
    wanted = np.tile(target, len(orders))
    squares = (wanted - predict(again)) ** 2  # of as many rows: what shuffling leaves as it is must lose exactly 0
    lost, error = np.zeros(features.shape[1]), np.zeros(features.shape[1])
    _, weeks = np.unique(as_of // WEEK_S, return_inverse=True)
    for j in range(features.shape[1]):
        kept = again[:, j].copy()
        again[:, j] = np.concatenate([features[order, j] for order in orders])
        more = ((wanted - predict(again)) ** 2 - squares).reshape(len(orders), -1).mean(axis=0) / spread
        lost[j], error[j] = more.mean(), _standard_error(more, weeks)
        again[:, j] = kept
    return Importance(1 - float(squares.mean()) / spread, lost, error)


def _standard_error(losses: FloatArray, weeks: IntArray) -> float:
    """Of the mean of ``losses`` [n], those of one week (numbered from 0, [n]) not being independent: the sandwich
    estimator clustered by week (Liang & Zeger, Biometrika 73, 1986). Infinite for one week alone.

    Over shuffles alone the error would only say how well *these* windows were measured: of features of pure
    noise it lets every fourth pass at two errors, this one every fortieth.
    """
    sums = np.bincount(weeks, losses - losses.mean())
    if len(sums) < 2:
        return math.inf
    return math.sqrt(float((sums**2).sum()) * len(sums) / (len(sums) - 1)) / len(losses)


def fit_ridge(features: FloatArray, target: FloatArray, seed: int) -> Predict:
    """Least squares with a penalty on the squared weights; draws nothing from ``seed``."""
    n, count = features.shape
    middle = float(target.mean())
    weights = np.linalg.solve(features.T @ features + RIDGE * n * np.eye(count), features.T @ (target - middle))
    return lambda new: np.asarray(new @ weights + middle)


def fit_lightgbm(features: FloatArray, target: FloatArray, seed: int) -> Predict:
    """Gradient-boosted trees; the same bits for the same data and seed."""
    import lightgbm

    model = lightgbm.train(BOOSTING | {"seed": seed}, lightgbm.Dataset(features, target), ROUNDS)
    return lambda new: np.asarray(model.predict(new, num_threads=1))


MODELS: dict[str, Fit] = {"ridge": fit_ridge, "lightgbm": fit_lightgbm}


def stand_ins(features: FloatArray) -> IntArray:
    """[F]: which column stands for each: the earliest one that stands for itself and has |correlation| > 0.95 with it,
    the most alike of them; else itself. ``features`` [N, F]."""
    X, _, _ = _standardise(features)
    alike = np.abs(X.T @ X) / len(X)
    chosen = np.arange(features.shape[1])
    for j in chosen:
        before = np.flatnonzero(chosen[:j] == np.arange(j))
        if len(before) and alike[j, before].max() > ALIKE:
            chosen[j] = before[np.argmax(alike[j, before])]
    return chosen


@dataclass(frozen=True, slots=True)
class Selection:
    """``windows``: how many were looked at; ``stand_in`` [F]: see stand_ins; ``by_target``: the importances of the
    columns that stand for themselves, by target and model."""

    windows: int
    stand_in: IntArray
    by_target: Mapping[str, Mapping[str, Importance]]

    @property
    def own(self) -> IntArray:
        """The columns that stand for themselves, in the order of the importances."""
        return np.flatnonzero(self.stand_in == np.arange(len(self.stand_in)))

    def best(self, target: str) -> tuple[str, Importance]:
        """The model with the higher R², and what it says."""
        return max(self.by_target[target].items(), key=lambda item: item[1].r2)

    @property
    def kept(self) -> NDArray[np.bool_]:
        """[F]: whether the better model of any target loses more than two standard errors without it."""
        kept = np.zeros(len(self.stand_in), dtype=bool)
        kept[self.own] = np.any([self.best(target)[1].kept for target in self.by_target], axis=0)
        return kept


def select(
    features: FloatArray, targets: Mapping[str, FloatArray], as_of: IntArray, purge_s: int, seed: int = 0
) -> Selection:
    """Of ``features`` [N, F] for ``targets``, each [N], as in ``importance``."""
    stand_in = stand_ins(features)
    own = features[:, stand_in == np.arange(len(stand_in))]
    by_target = {name: importance(own, target, as_of, purge_s, seed) for name, target in targets.items()}
    return Selection(len(features), stand_in, by_target)
