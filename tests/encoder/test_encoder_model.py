"""The net sees its window and nothing later, keeps every dimension alive, and is stored as it was computed."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from encoder.augment import LEVELS, NOISE, add_noise, augment, draw_mask
from encoder.dataset import LABELS, LOG_RANGES, LOG_VOLATILITY
from encoder.encoder_model import (
    PATCH,
    PATCHES,
    QUANTILES,
    Batch,
    Encoder,
    Exported,
    Heads,
    Statistics,
    export_onnx,
    losses,
    pinball,
    spread,
)
from encoder.novelty import Novelty
from shared.features import CHANNELS, FEATURES, WINDOW

B = 5


def make_encoder(seed: int = 1) -> Encoder:
    torch.manual_seed(seed)
    c, f = len(CHANNELS), len(FEATURES)
    return Encoder(Statistics(torch.randn(c), torch.rand(c) + 0.5, torch.randn(f), torch.rand(f) + 0.5)).eval()


def make_batch(seed: int = 2, size: int = B) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shapes = (size, len(CHANNELS), WINDOW), (size, len(FEATURES)), (size, len(LABELS))
    return Batch(*(torch.randn(*shape, generator=generator) for shape in shapes))


@pytest.fixture(scope="module")
def stored() -> tuple[Encoder, bytes]:
    encoder = make_encoder()
    features = torch.randn(200, len(FEATURES), generator=torch.Generator().manual_seed(5))
    novelty = Novelty(features[:100])
    novelty.calibrate(features[100:])
    return encoder, export_onnx(Exported(encoder, novelty))


def test_embeddings_are_of_length_one_and_of_less_than_a_million_weights() -> None:
    encoder, batch = make_encoder(), make_batch()
    hidden, embedding = encoder(batch.channels, batch.features)
    assert hidden.shape[:2] == (B, PATCHES)
    assert embedding.detach().norm(dim=-1) == pytest.approx(torch.ones(B), abs=1e-6)
    assert sum(p.numel() for p in encoder.parameters()) <= 1_000_000


@pytest.mark.parametrize("patch", [0, 1, 13, PATCHES - 1])
def test_a_patch_is_seen_by_itself_and_later_ones_and_every_one_by_the_last(patch: int) -> None:
    encoder, batch = make_encoder(), make_batch()
    changed = batch.channels.clone()
    changed[:, 3, patch * PATCH] += 1.0
    before, after = (encoder(channels, batch.features)[0] for channels in (batch.channels, changed))
    moved = (before != after).any(dim=-1).any(dim=0)
    assert not moved[:patch].any()
    assert moved[patch]
    assert moved[-1]


def test_hidden_patches_tell_nothing() -> None:
    encoder, batch = make_encoder(), make_batch()
    masked = torch.zeros(B, PATCHES, dtype=torch.bool)
    masked[:, 4] = True
    changed = batch.channels.clone()
    changed[:, :, 4 * PATCH : 5 * PATCH] = 0.0
    before, after = (encoder(channels, batch.features, masked)[1] for channels in (batch.channels, changed))
    assert (before == after).all()
    assert (encoder(batch.channels, batch.features)[1] != before).any()


def test_half_of_the_windows_are_learnt_from_without_their_picture() -> None:
    encoder, batch = make_encoder().train(), make_batch(size=1)
    features = batch.features.expand(400, -1)
    seen = []
    for channels in (batch.channels, batch.channels + 1.0):
        torch.manual_seed(1)
        seen.append(encoder(channels.expand(400, -1, -1), features)[1])
    blind = (seen[0] == seen[1]).all(dim=-1)
    assert 0.4 < blind.float().mean() < 0.6


def test_patches_cut_each_channel_in_order() -> None:
    encoder, batch = make_encoder(), make_batch()
    patches = encoder.patches(batch.channels)
    assert patches.shape == (B, PATCHES, len(CHANNELS) * PATCH)
    assert (patches[2, 7].reshape(len(CHANNELS), PATCH) == batch.channels[2, :, 7 * PATCH : 8 * PATCH]).all()


def test_pinball_is_least_at_the_quantiles() -> None:
    labels = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(1))
    right = torch.quantile(labels[:, 0], torch.tensor(QUANTILES)).reshape(1, 1, -1)
    best = pinball(right, labels)
    for k in range(len(QUANTILES)):
        for step in (-0.1, 0.1):
            moved = right.clone()
            moved[..., k] += step
            assert pinball(moved, labels) > best


def test_the_spread_term_punishes_collapse() -> None:
    generator = torch.Generator().manual_seed(1)
    free = torch.nn.functional.normalize(torch.randn(2000, 64, generator=generator), dim=-1)
    flat = torch.nn.functional.normalize(free * torch.cat([torch.ones(4), torch.zeros(60)]), dim=-1)
    one = free[:1].expand(2000, -1)
    assert spread(free) < 0.1
    assert spread(flat) > 0.9
    assert spread(one) > 0.9


def test_each_loss_reaches_the_encoder() -> None:
    batch = make_batch()
    masked = draw_mask(B, PATCHES, torch.Generator().manual_seed(1))
    for name in ("reconstruction", "future", "spread"):
        encoder, heads = make_encoder(), Heads()
        getattr(losses(encoder, heads, batch, batch, masked), name).backward()
        assert encoder.patch.weight.grad is not None
        assert encoder.patch.weight.grad.abs().sum() > 0


def test_another_level_of_volatility_moves_what_speaks_of_it_and_nothing_else() -> None:
    batch = make_batch()
    other = augment(batch, torch.Generator().manual_seed(3))
    shift = (other.labels - batch.labels)[:, LOG_VOLATILITY][:, :1]
    assert shift.abs().min() > 0
    assert shift.std() > 0
    expected = torch.zeros_like(batch.labels)
    expected[:, LOG_VOLATILITY] += shift
    expected[:, LOG_RANGES] += shift
    assert other.labels - batch.labels == pytest.approx(expected, abs=1e-6)
    moved = torch.zeros(len(FEATURES))
    moved[LEVELS] = 1.0
    assert other.features - batch.features == pytest.approx(shift * moved, abs=1e-6)
    assert (other.channels == batch.channels).all()
    ranges = [name for name in LABELS if name.startswith("log_range")]
    assert list(LABELS[LOG_RANGES]) == ranges
    assert {name for row, name in enumerate(FEATURES) if row in LEVELS} == {n for n in FEATURES if n.startswith("log_")}


def test_noise_is_in_each_ones_own_unit() -> None:
    batch = make_batch(size=400)
    channel_scale = torch.linspace(0.1, 3, len(CHANNELS)).reshape(1, -1, 1)
    feature_scale = torch.linspace(0.1, 3, len(FEATURES))
    noisy = add_noise(batch, channel_scale, feature_scale, torch.Generator().manual_seed(3))
    of_channels = (noisy.channels - batch.channels).std(dim=(0, 2)) / channel_scale.flatten()
    of_features = (noisy.features - batch.features).std(dim=0) / feature_scale
    assert of_channels == pytest.approx(torch.full_like(of_channels, NOISE), rel=0.05)
    assert of_features == pytest.approx(torch.full_like(of_features, NOISE), rel=0.2)
    assert (noisy.labels == batch.labels).all()


def test_what_is_stored_computes_what_was_trained_for_any_number_of_windows(stored: tuple[Encoder, bytes]) -> None:
    encoder, onnx = stored
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    for size in (1, 2, 7):
        batch = make_batch(size=size)
        with torch.no_grad():
            wanted = encoder(batch.channels, batch.features)[1].numpy()
        inputs = {"channels": batch.channels.numpy(), "features": batch.features.numpy()}
        embedding, ood = session.run(["embedding", "ood"], inputs)
        np.testing.assert_allclose(embedding, wanted, atol=2e-6)
        assert ood.shape == (size,)


def test_what_is_stored_names_no_file_and_no_person(stored: tuple[Encoder, bytes]) -> None:
    for trace in (b"/encoder/", b".py", b"site-packages", b"home"):
        assert trace not in stored[1]
