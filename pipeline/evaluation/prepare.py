"""What a fold's policies learn from and are tested on, made by the real jobs: candles, encoder, embeddings, regimes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from candles import backfill
from candles.store import default_rules
from encoder import run_encoder, train_encoder
from meta_controller import run_metacontroller
from pipeline.evaluation.plan import Fold, Profile
from pipeline.evaluation.scratch import create_scratch, scratch_settings
from pipeline.evaluation.sources import Source, load_series
from pipeline.replay import Databases, logged_in
from shared.clock import ReplayClock, from_unix
from shared.exchanges.recorded import RecordedExchange
from shared.model_store import active_model
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class FoldTask:
    """A fold as one of the processes gets it. ``main``: the settings of the database that the results go to; ``at``:
    the evaluation's clock; ``series``: the file with the candles; ``seed``: of the policy to train, None where the task
    is not about one."""

    main: Settings
    at: datetime
    key: str
    profile: Profile
    fold: Fold
    venue: str
    provenance: str
    timeframe_s: int
    series: Path
    seed: int | None = None

    @property
    def settings(self) -> Settings:
        """Of the fold's own scratch database, universe and budgets."""
        scratch = scratch_settings(self.main, self.key, self.fold.number)
        return fold_settings(scratch, self.venue, self.timeframe, self.fold, self.profile)

    @property
    def timeframe(self) -> str:
        return Source(self.venue, self.timeframe_s, self.provenance, {}, ()).timeframe

    def with_seed(self, seed: int) -> FoldTask:
        return replace(self, seed=seed)

    def __str__(self) -> str:
        return f"fold {self.fold.number}" + ("" if self.seed is None else f" seed {self.seed}")


def fold_settings(settings: Settings, venue: str, timeframe: str, fold: Fold, profile: Profile) -> Settings:
    universe = {"venue": venue, "symbols": fold.symbols, "base_timeframe": timeframe}
    return settings.model_copy(
        update={
            "universe": settings.universe.model_copy(update=universe),
            "encoder": settings.encoder.model_copy(update={"train_steps": profile.encoder_steps, "train_on": ()}),
        }
    )


def prepare(task: FoldTask) -> None:
    """Fills the fold's scratch database up to the end of its test; what a killed run left is gone on from."""
    settings, fold = task.settings, task.fold
    create_scratch(task.main, settings)
    with logged_in(settings) as databases:
        _store_candles(task, settings, databases)
        _train_encoder(settings, databases, fold)
        clock, span = ReplayClock(fold.test_to), (fold.policy_from, fold.test_to)
        run_encoder.run_once(clock, databases["encoder"], settings, span)
        run_metacontroller.run_once(clock, databases["meta_controller"], settings, span)


def _store_candles(task: FoldTask, settings: Settings, databases: Databases) -> None:
    """All candles of the universe up to the end of the test, from their very first: trends look back a year."""
    series = load_series(task.series, task.fold.symbols)
    first = min(int(candles.as_of[0]) for candles in series.values()) - task.timeframe_s
    rules = {symbol: default_rules(float(candles.close[0])) for symbol, candles in series.items()}
    exchange = RecordedExchange(task.venue, task.provenance, task.timeframe_s, series, rules)
    backfill.run_once(ReplayClock(task.fold.test_to), databases["candles"], settings, exchange, from_unix(first))


def _train_encoder(settings: Settings, databases: Databases, fold: Fold) -> None:
    made = active_model(databases["cli"], "encoder")
    if made is None or (made.trained_from, made.trained_to) != (fold.start, fold.encoder_to):
        clock = ReplayClock(_known(fold))
        train_encoder.run_once(clock, databases["encoder"], settings, fold.start, fold.encoder_to)


def _known(fold: Fold) -> datetime:
    """When the encoder's training is over: nothing later is there to be looked at."""
    return fold.policy_from
