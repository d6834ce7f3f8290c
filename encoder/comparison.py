"""Two encoders side by side, on the same moments: what a linear probe reads from each, and how far they agree on
which moments are alike."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from encoder.dataset import LABEL_HORIZON_S
from encoder.outcomes import Seen, known_before
from encoder.probe import ridge_forecast
from shared.clock import from_unix
from shared.features import WINDOW
from shared.forecast_tests import diebold_mariano
from shared.market_data import BoolArray
from shared.rows import FloatArray, IntArray

LOOK_BACK = timedelta(days=270)  # of stored embeddings
LEAST_FITTED = 200
LEAST_SCORED = 168
SCORED = timedelta(days=7)  # at least, from when both were known on: volatility comes in spells of days
SCORED_IN_SAMPLE = timedelta(days=30)  # where too little is known after both were trained
NEIGHBOURS = 50
QUERIES = 300
LIBRARY = 20_000  # moments searched for neighbours


@dataclass(frozen=True, slots=True)
class Comparison:
    """``in_sample``: fewer than 7 days are known after both were, so the last 30 days were scored, which flatters who
    was trained on them: to look at, not to judge by. R² of ln volatility of the next 24 hours; ``p_worse``: how
    likely a difference like this is if the new one is no worse (Diebold and Mariano); overlap: the share of the 50
    nearest neighbours that both have, beside what chance would give. None: too few moments."""

    moments: int
    scored: int
    in_sample: bool
    r2_old: float | None
    r2_new: float | None
    p_worse: float | None
    overlap: float | None
    overlap_by_chance: float | None


def compare(old: Seen, new: Seen, both_known_from: datetime, timeframe_s: int) -> Comparison:
    """Compares two models' embeddings on the moments that both have."""
    old, new = _common(old, new)
    since, in_sample = _score_since(old, both_known_from)
    overlap, chance = neighbour_overlap(old, new, timeframe_s)
    scored = int(np.count_nonzero(_scored(old, since)))
    of_old, of_new = probe_errors(old, since), probe_errors(new, since)
    if of_old is None or of_new is None:
        return Comparison(len(old), scored, in_sample, None, None, None, overlap, chance)
    test = diebold_mariano(of_old.squared, of_new.squared, LABEL_HORIZON_S // timeframe_s, of_old.as_of)
    return Comparison(len(old), scored, in_sample, of_old.r2, of_new.r2, test.p_above, overlap, chance)


def _common(old: Seen, new: Seen) -> tuple[Seen, Seen]:
    """The moments that both saw, in one order."""
    of_both = [seen.instrument_id * 2**34 + seen.as_of for seen in (old, new)]  # seconds until the year 2514
    _, of_old, of_new = np.intersect1d(of_both[0], of_both[1], assume_unique=True, return_indices=True)
    return old.select(of_old), new.select(of_new)


def _score_since(seen: Seen, both_known_from: datetime) -> tuple[datetime, bool]:
    """From when on to score, and whether that is in-sample."""
    known = seen.as_of[~np.isnan(seen.outcome)]
    last = from_unix(known.max()) if len(known) else both_known_from
    enough = np.count_nonzero(_scored(seen, both_known_from)) >= LEAST_SCORED and last >= both_known_from + SCORED
    return (both_known_from, False) if enough else (last - SCORED_IN_SAMPLE, True)


def _scored(seen: Seen, since: datetime) -> BoolArray:
    return ~np.isnan(seen.outcome) & (seen.as_of >= since.timestamp())


@dataclass(frozen=True, slots=True)
class Errors:
    """Squared errors [n] of a probe at ``as_of``, and of the mean of the outcomes that it was fitted on."""

    as_of: IntArray
    squared: FloatArray
    of_mean: FloatArray

    @property
    def r2(self) -> float:
        return 1 - float(self.squared.sum() / max(self.of_mean.sum(), 1e-12))


def probe_errors(seen: Seen, since: datetime) -> Errors | None:
    """Of a ridge fitted on what was known before ``since``, on the moments from then on.

    None when there are fewer than 200 moments to fit or 168 to score.
    """
    fitted, scored = known_before(seen, since), _scored(seen, since)
    if np.count_nonzero(fitted) < LEAST_FITTED or np.count_nonzero(scored) < LEAST_SCORED:
        return None
    forecast = ridge_forecast(seen.embedding[fitted], seen.outcome[fitted], seen.embedding[scored])
    actual = seen.outcome[scored]
    return Errors(seen.as_of[scored], (actual - forecast) ** 2, (actual - seen.outcome[fitted].mean()) ** 2)


def neighbour_overlap(old: Seen, new: Seen, timeframe_s: int) -> tuple[float | None, float | None]:
    """The mean share of a moment's 50 nearest that both models name, and the share that chance would give.

    Neighbours are sought by exact scan in at most 20,000 moments; not among those of the same instrument whose
    windows overlap, for these are alike to any model.
    """
    library = _spread(len(old), LIBRARY)
    old, new = old.select(library), new.select(library)
    shares, chances = [], []
    for query in _spread(len(old), QUERIES).tolist():
        near = (old.instrument_id == old.instrument_id[query]) & (
            np.abs(old.as_of - old.as_of[query]) < WINDOW * timeframe_s
        )
        others = np.flatnonzero(~near)
        if len(others) <= NEIGHBOURS:
            continue
        of_old, of_new = (_nearest(seen.embedding[others], seen.embedding[query]) for seen in (old, new))
        shares.append(np.isin(of_old, of_new).mean())
        chances.append(NEIGHBOURS / len(others))
    return (float(np.mean(shares)), float(np.mean(chances))) if shares else (None, None)


def _spread(n: int, most: int) -> IntArray:
    """At most ``most`` of the indices below ``n``, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64)) if n else np.empty(0, np.int64)


def _nearest(embeddings: FloatArray, query: FloatArray) -> IntArray:
    return np.argpartition(-(embeddings @ query), NEIGHBOURS)[:NEIGHBOURS].astype(np.int64)
