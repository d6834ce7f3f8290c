"""A timeframe that does not divide the horizons is refused wherever labels would be made of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from encoder import feature_report, train_encoder
from encoder.schema import require_timeframe
from shared.clock import ReplayClock
from shared.job import UsageError
from shared.settings import TIMEFRAMES, Settings
from tests.helpers import NOON, DatabaseFor

FIT = {"1m", "5m", "15m", "1h"}


def test_only_timeframes_that_divide_every_horizon_will_do() -> None:
    for name, seconds in TIMEFRAMES.items():
        if name in FIT:
            require_timeframe(seconds)
        else:
            with pytest.raises(UsageError, match=r"do not divide the encoder's horizons \(1h, 4h, 24h\)"):
                require_timeframe(seconds)


def test_training_and_the_feature_report_refuse_the_others(database_for: DatabaseFor, settings: Settings) -> None:
    universe = settings.universe.model_copy(update={"base_timeframe": "4h", "decision_timeframe": "4h"})
    settings = settings.model_copy(update={"universe": universe})
    clock, database = ReplayClock(NOON), database_for("encoder")
    with pytest.raises(UsageError, match="candles of 14400 s do not divide"):
        train_encoder.run_once(clock, database, settings)
    asked = SimpleNamespace(span_from=None, span_to=None, symbols=())
    with pytest.raises(UsageError, match="candles of 14400 s do not divide"):
        feature_report._work(SimpleNamespace(arguments=asked, clock=clock, settings=settings, database=database))
