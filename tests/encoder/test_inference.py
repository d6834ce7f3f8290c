"""An embedding depends on its window alone, to the bit, and what is no embedding is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder import inference
from encoder.encoder_model import Encoder, Exported, Statistics, export_onnx
from encoder.inference import BATCH, Embedded, embed, embed_features
from encoder.novelty import Novelty
from encoder.schema import EMBEDDING_SIZE, encoder_schema
from shared.features import CHANNELS, FEATURES, WINDOW, Grid, compute_channels, compute_features
from shared.model_store import Model, ModelRefused, load_model, schema_hash
from tests.helpers import random_candles

HOUR = 3600
C, F = len(CHANNELS), len(FEATURES)
N = 60
Array = np.ndarray[Any, Any]


def load(onnx: bytes) -> Model:
    schema, at = encoder_schema(HOUR), datetime(2024, 1, 1, tzinfo=UTC)
    row = {"id": 7, "kind": "encoder", "onnx": onnx, "sha256": hashlib.sha256(onnx).hexdigest(), "schema": schema,
           "schema_hash": schema_hash(schema), "trained_from": at, "trained_to": at, "known_from": at,
           "provenance": "simulated", "encoder_id": None, "metrics": {}}  # fmt: skip
    return load_model(row, schema)


@pytest.fixture(scope="module")
def model() -> Model:
    """The real net with random weights and a measure of novelty."""
    torch.manual_seed(5)
    net = Encoder(Statistics(torch.randn(C), torch.rand(C) + 0.5, torch.zeros(F), torch.ones(F))).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    novelty = Novelty(torch.randn(200, F))
    novelty.calibrate(0.9 * torch.randn(400, F))
    return load(export_onnx(Exported(net, novelty)))


@pytest.fixture(scope="module")
def seen() -> tuple[Array, Array]:
    """Channels and features of N windows, no two alike."""
    rng = np.random.default_rng(6)
    wild = rng.uniform(0.6, 1.2, (N, 1))
    return rng.normal(size=(N, C, WINDOW)).astype(np.float32), (wild * rng.normal(size=(N, F))).astype(np.float32)


@pytest.fixture(scope="module")
def alone(model: Model, seen: tuple[Array, Array]) -> Embedded:
    """Each of them embedded by itself."""
    parts = [embed_features(model, seen[0][[i]], seen[1][[i]]) for i in range(N)]
    return Embedded(np.concatenate([p.embedding for p in parts]), np.concatenate([p.ood for p in parts]))


def test_the_windows_of_these_tests_differ_in_the_tail_and_before_it(alone: Embedded) -> None:
    assert (alone.ood > 0.99).sum() > 5
    assert (alone.ood < 0.9).sum() > 5
    assert len(np.unique(alone.ood)) > N / 2
    assert len(np.unique(alone.embedding, axis=0)) == N


@settings(max_examples=30)
@given(st.permutations(range(N)), st.sets(st.integers(1, N - 1), max_size=12))
def test_the_bits_do_not_depend_on_how_windows_are_grouped(
    model: Model, seen: tuple[Array, Array], alone: Embedded, order: Sequence[int], cuts: set[int]
) -> None:
    for group in np.split(np.array(order), sorted(cuts)):
        found = embed_features(model, seen[0][group], seen[1][group])
        assert found.embedding.tobytes() == alone.embedding[group].tobytes()
        assert found.ood.tobytes() == alone.ood[group].tobytes()


@settings(max_examples=20)
@given(st.integers(0, N - 1), st.integers(0, BATCH - 1), st.floats(-8, 8, width=32))
def test_the_bits_do_not_depend_on_the_neighbours_nor_on_the_place(
    model: Model, seen: tuple[Array, Array], alone: Embedded, which: int, place: int, neighbour: float
) -> None:
    channels = np.full((BATCH, C, WINDOW), neighbour, dtype=np.float32)
    features = np.full((BATCH, F), neighbour, dtype=np.float32)
    channels[place], features[place] = seen[0][which], seen[1][which]
    found = embed_features(model, channels, features)
    assert found.embedding[place].tobytes() == alone.embedding[which].tobytes()
    assert found.ood[place] == alone.ood[which]


def test_windows_are_embedded_from_their_channels_and_features_block_by_block(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "BLOCK", 32)
    grid = Grid(random_candles(WINDOW + 39, HOUR), HOUR)
    windows = grid.windows(grid.usable()[-40:])
    found = embed(model, windows)
    wanted = embed_features(model, compute_channels(windows), compute_features(windows))
    assert found.embedding.shape == (40, EMBEDDING_SIZE)
    assert (found.embedding.dtype, found.ood.dtype) == (np.float32, np.float64)
    assert found.embedding.tobytes() == wanted.embedding.tobytes()
    assert found.ood.tobytes() == wanted.ood.tobytes()
    np.testing.assert_allclose(np.linalg.norm(found.embedding, axis=1), 1.0, atol=1e-6)


def test_no_windows_have_no_embeddings(model: Model) -> None:
    nothing = Grid(random_candles(WINDOW, HOUR), HOUR).windows(np.empty(0, dtype=np.int64))
    found = embed(model, nothing)
    assert (found.embedding.shape, found.ood.shape) == ((0, EMBEDDING_SIZE), (0,))


class Session:
    """Answers every batch alike, and remembers its size."""

    def __init__(self, embedding: float, ood: float, which: int) -> None:
        self.embedding, self.ood, self.which = embedding, ood, which
        self.sizes: list[int] = []

    def run(self, _: None, inputs: dict[str, Array]) -> list[Array]:
        size = len(inputs["channels"])
        self.sizes.append(size)
        embedding, ood = np.full((size, 64), 0.125, np.float32), np.full(size, 0.5, np.float32)
        embedding[self.which], ood[self.which] = self.embedding, self.ood
        return [embedding, ood]


@pytest.mark.parametrize(
    ("embedding", "ood", "because"),
    [
        (0.13, 0.5, "an embedding of length 1.04, not 1"),
        (0.0, 0.5, "an embedding of length 0, not 1"),
        (np.nan, 0.5, "an embedding of length nan, not 1"),
        (0.125, -0.01, "ood -0.01, not within 0 and 1"),
        (0.125, 1.01, "ood 1.01, not within 0 and 1"),
        (0.125, np.nan, "ood nan, not within 0 and 1"),
    ],
)
def test_what_is_no_embedding_is_refused(model: Model, embedding: float, ood: float, because: str) -> None:
    def broken(which: int) -> Model:
        return replace(model, session=Session(embedding, ood, which))

    channels, features = np.zeros((3, C, WINDOW), np.float32), np.zeros((3, F), np.float32)
    with pytest.raises(ModelRefused, match=f"encoder model 7 is refused: it gave {because}.*train-encoder"):
        embed_features(broken(2), channels, features)
    embed_features(broken(3), channels, features)  # a copy that fills the batch up: nobody's embedding


def test_the_session_always_sees_batches_of_one_size(model: Model) -> None:
    session = Session(0.125, 0.5, 0)
    counted = replace(model, session=session)
    for size in (1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH):
        found = embed_features(counted, np.zeros((size, C, WINDOW), np.float32), np.zeros((size, F), np.float32))
        assert len(found.embedding) == len(found.ood) == size
    assert session.sizes == [BATCH] * (1 + 1 + 1 + 2 + 3)
