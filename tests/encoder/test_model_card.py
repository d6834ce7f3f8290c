"""What calibrates the measure of novelty that goes into the graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from encoder import model_card
from encoder.dataset import LABELS, TrainingSet
from encoder.encoder_model import Encoder, Exported
from encoder.novelty import SHORT_STRETCH, Novelty, distances_between_blocks
from encoder.training import measure
from shared.features import FEATURES, WINDOW, Grid
from tests.helpers import random_candles

HOUR, DAY = 3600, 86_400


def windows(days: int) -> tuple[TrainingSet, TrainingSet]:
    """Of ``days`` of hourly candles: those to fit and those held out; features that change from third to third."""
    grid = Grid(random_candles(WINDOW + 50, HOUR, 1), HOUR)
    as_of = grid.usable()[0] + np.arange(days * 24 - WINDOW) * HOUR
    rng = np.random.default_rng(days)
    features = rng.normal(0, 1, (len(as_of), len(FEATURES))).astype(np.float32)
    features[: len(as_of) // 3] += 1
    nothing = np.zeros((len(as_of), len(LABELS)), np.float32)
    data = TrainingSet((grid,), np.zeros(len(as_of), np.int64), as_of, features, nothing)
    return model_card.split(data)


@pytest.mark.parametrize(("days", "stretch"), [(59, SHORT_STRETCH), (61, 1.0)])
def test_ood_is_calibrated_across_the_span_and_carefully_after_a_short_one(
    days: int, stretch: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[Exported] = []
    monkeypatch.setattr(model_card, "export_onnx", exported.append)
    fitted, held = windows(days)
    first = measure(fitted.select(np.arange(3)))._replace(
        feature_mean=torch.full((len(FEATURES),), 0.5), feature_scale=torch.full((len(FEATURES),), 2.0)
    )
    model_card.export(Encoder(first), fitted, held)
    found = exported[0].novelty

    def seen(data: TrainingSet) -> torch.Tensor:
        return (torch.from_numpy(data.features) - 0.5) / 2.0

    expected = Novelty(seen(fitted.select(model_card.even_sample(len(fitted), model_card.SAMPLE))))
    elsewhere = distances_between_blocks(seen(fitted), fitted.as_of, WINDOW * HOUR, model_card.SAMPLE)
    expected.calibrate(seen(held), elsewhere, stretch)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value)
    narrow = Novelty(seen(fitted))
    narrow.calibrate(seen(held))
    assert found.start[0] > narrow.start[0]
