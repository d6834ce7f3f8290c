"""Anchored walk-forward: each fold learns from all that came before and is tested on what came after.

    start ─ encoder ─ encoder_to ─ 24 h ─ policy_from ─ policy ─ policy_to ─ purge, embargo ─ test_from ─ test_to

Between what a policy learnt from and its first test decision lie a whole window of the encoder, the horizon of its
labels and a day of embargo: no candle is seen by both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from encoder.dataset import LABEL_HORIZON_S
from pipeline.evaluation.sources import UNIVERSE, Source, choose_universe
from shared.clock import floor_time, from_unix
from shared.features import WINDOW
from shared.job import UsageError
from shared.performance.bootstrap import LEAST_DAYS
from shared.settings import Settings

EMBARGO = timedelta(hours=24)
FULL_FOLDS, QUICK_FOLDS = 6, 2  # six years: fewer days cannot tell a good policy from luck (bench/verdict.py)
QUICK_SEEDS = 2
QUICK_DAYS = 365  # of the newest candles
QUICK_STEPS = 400  # of the encoder's training, at most: as in `make demo`
LEAST_TEST = timedelta(days=14)
LEAST_TESTED = timedelta(days=LEAST_DAYS)  # of all folds together: of fewer days no bootstrap tells anything
LEAST_POLICY = timedelta(days=10)
LEAST_ENCODER = timedelta(days=20)

ProfileName = Literal["quick", "full"]


@dataclass(frozen=True, slots=True)
class Profile:
    """How much is done. Only a full evaluation on real candles ends in a verdict."""

    name: ProfileName
    folds: int
    seeds: int
    encoder_steps: int
    shifts: int  # circular ones of the policy's own weights
    replicates: int  # of the bootstrap


@dataclass(frozen=True, slots=True)
class Fold:
    """One part of the walk; moments on the decision clock. ``symbols``: the universe, fixed at ``test_from``."""

    number: int
    start: datetime
    encoder_to: datetime
    policy_from: datetime
    policy_to: datetime
    test_from: datetime
    test_to: datetime
    symbols: tuple[str, ...]


def make_profile(name: ProfileName, settings: Settings, folds: int | None, seeds: int | None) -> Profile:
    steps = settings.encoder.train_steps
    if name == "full":
        return Profile(name, folds or FULL_FOLDS, seeds or settings.policy.seeds, steps, 1000, 2000)
    least = min(settings.policy.seeds, QUICK_SEEDS)
    return Profile(name, folds or QUICK_FOLDS, seeds or least, min(steps, QUICK_STEPS), 200, 500)


def gap(step_s: int) -> timedelta:
    """Purge (a window of the encoder and its label's horizon) and embargo."""
    return timedelta(seconds=WINDOW * step_s + LABEL_HORIZON_S) + EMBARGO


def plan_folds(source: Source, profile: Profile, step_s: int) -> list[Fold]:
    """Full: a test of each of the last whole calendar years. Quick: the last half of the newest year, in equal parts.

    UsageError where the history is too short for the folds that are asked for."""
    last = floor_time(from_unix(source.last), 86_400)
    first = floor_time(from_unix(source.first + step_s - 1), step_s)
    if profile.name == "quick":
        first = max(first, last - timedelta(days=QUICK_DAYS))
    edges = _calendar_edges(last, profile.folds) if profile.name == "full" else _equal_edges(first, last, profile.folds)
    if edges[-1] - edges[0] < LEAST_TESTED:
        raise UsageError(
            f"{(edges[-1] - edges[0]).days} days would be tested; {LEAST_TESTED.days} are needed for any comparison: "
            'give a longer history (DATA="FILE …")'
        )
    return [
        _fold(source, number, first, edges[number - 1], edges[number], step_s) for number in range(1, profile.folds + 1)
    ]


def _calendar_edges(last: datetime, folds: int) -> list[datetime]:
    newest = last.year  # the year before it is whole
    return [datetime(newest - folds + k, 1, 1, tzinfo=UTC) for k in range(folds + 1)]


def _equal_edges(first: datetime, last: datetime, folds: int) -> list[datetime]:
    half = (last - first) / 2
    return [floor_time(last - half * (folds - k) / folds, 86_400) for k in range(folds + 1)]


def _fold(source: Source, number: int, start: datetime, test_from: datetime, test_to: datetime, step_s: int) -> Fold:
    policy_to = floor_time(test_from - gap(step_s), step_s)
    encoder_to = floor_time(start + (policy_to - start) / 2, step_s)
    policy_from = encoder_to + timedelta(seconds=LABEL_HORIZON_S)
    if encoder_to - start < LEAST_ENCODER or policy_to - policy_from < LEAST_POLICY or test_to - test_from < LEAST_TEST:
        raise UsageError(
            f"fold {number} would be tested from {test_from:%Y-%m-%d} to {test_to:%Y-%m-%d} on candles that begin on "
            f"{start:%Y-%m-%d}: too little to learn from. It takes {LEAST_ENCODER.days} days for the encoder, "
            f"{LEAST_POLICY.days} for the policy, {gap(step_s).days} between training and test and {LEAST_TEST.days} "
            'of test; ask for fewer folds (FOLDS=), or give a longer history (DATA="FILE …")'
        )
    symbols = choose_universe(source, test_from, UNIVERSE)
    if not symbols:
        raise UsageError(f"no series had been traded for 30 days and still was on {test_from:%Y-%m-%d}")
    return Fold(number, start, encoder_to, policy_from, policy_to, test_from, test_to, symbols)


def in_words(folds: Sequence[Fold]) -> list[str]:
    """A line a fold: the spans, and the universe."""
    return [
        f"fold {f.number}: encoder {f.start:%Y-%m-%d} to {f.encoder_to:%Y-%m-%d}, policy to {f.policy_to:%Y-%m-%d}, "
        f"test {f.test_from:%Y-%m-%d} to {f.test_to:%Y-%m-%d} on "
        f"{', '.join(symbol.partition('/')[0] for symbol in f.symbols)}"
        for f in folds
    ]
