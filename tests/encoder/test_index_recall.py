"""The index is measured against what an exact scan finds, of the active encoder only."""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from encoder.index_recall import IndexRecall, index_recall, recall
from encoder.run_encoder import run_once
from encoder.upgrade import settle_indexes
from shared.analogs import SENT_MOMENT
from shared.clock import ReplayClock
from shared.settings import load_settings
from tests.encoder.small_encoder import HOUR, save_encoder
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles


def moments(*similarity: float) -> np.ndarray:
    records = np.zeros(len(similarity), SENT_MOMENT)
    records["similarity"] = similarity
    return records


def test_recall_is_the_share_of_the_nearest_that_was_found() -> None:
    every = moments(0.9, 0.1, 0.8, 0.7, 0.7, 0.2)
    assert recall(moments(0.9, 0.8, 0.7), every, 3) == 1.0
    assert recall(moments(0.2, 0.9, 0.7), every, 3) == 2 / 3
    assert recall(moments(0.9), every, 2) == 0.5


def test_an_index_is_measured_once_there_is_one(database_for: DatabaseFor) -> None:
    encoder = database_for("encoder")
    assert "no encoder is active" in str(index_recall(encoder, NOON))
    store_candles(database_for, "test", "A/USDT", HOUR, random_candles(600, HOUR, seed=1))
    model = save_encoder(database_for, 1, NOON - timedelta(days=20))
    assert f"encoder {model} has none yet; `make encoder-upgrade`" in str(index_recall(encoder, NOON))
    settle_indexes(encoder)
    assert "has 0 embeddings only" in str(index_recall(encoder, NOON))
    run_once(ReplayClock(NOON), encoder, load_settings(), (NOON - timedelta(days=12), NOON))
    measured = index_recall(encoder, NOON)
    assert isinstance(measured, IndexRecall)
    assert (measured.model_id, measured.k, measured.questions, measured.rows) == (model, 50, 30, 289)
    assert 0.95 <= measured.recall <= 1.0
    assert index_recall(encoder, NOON) == measured
    assert (
        index_recall(encoder, NOON - timedelta(days=11))
        == f"no HNSW index to measure: encoder {model} has 25 embeddings only"
    )
