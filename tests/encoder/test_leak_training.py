"""Scales and weights are of the fitted windows alone: what is held out may be anything."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from encoder import train_encoder
from encoder.dataset import HELD_OUT
from encoder.training import TrainingPlan, measure
from shared.rows import Candles
from tests.helpers import NOON, random_candles

HOUR, N = 3600, 700
PLAN = TrainingPlan(steps=1, batch_size=8, seed=7, device="cpu")


class Fitted(Exception):
    """In the place of the training: what it was about to be fitted on."""


def fitted_on(monkeypatch: pytest.MonkeyPatch, candles: Candles) -> Any:
    def fit(data: Any, *_: Any) -> None:
        raise Fitted(data)

    monkeypatch.setattr(train_encoder, "fit", fit)
    with pytest.raises(Fitted) as caught:
        train_encoder.train(
            [candles], timeframe_s=HOUR, trained_from=NOON - timedelta(hours=N), trained_to=NOON, plan=PLAN
        )
    return caught.value.args[0]


def test_scales_and_windows_do_not_depend_on_what_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    candles = random_candles(N, HOUR, seed=1)
    windows = N - 260 - 24 + 1
    later = np.arange(N) >= N - 24 - int(HELD_OUT * windows)  # those that only windows held out have seen
    wild = {name: getattr(candles, name) * np.where(later, 3.7, 1.0) for name in ("open", "high", "low", "close")}
    poisoned = replace(candles, **wild, volume=candles.volume + 11.0 * later)
    one, other = fitted_on(monkeypatch, candles), fitted_on(monkeypatch, poisoned)
    assert one.as_of.tolist() == other.as_of.tolist()
    assert len(one) < (1 - HELD_OUT) * windows
    assert (one.features == other.features).all()
    assert (one.labels == other.labels).all()
    for own, others in zip(measure(one), measure(other), strict=True):
        assert (own == others).all()
