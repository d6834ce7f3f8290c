"""Training is a pure function of the candles of its span and the seed, and says how good it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from encoder.augment import _mirror, _shift_level, augment, draw_mask
from encoder.dataset import LABEL_HORIZON, build_dataset, split_in_time
from encoder.encoder_model import Encoder
from encoder.schema import encoder_schema
from encoder.train_encoder import run_once, train
from shared.clock import ReplayClock, to_unix
from shared.features import FEATURES, WINDOW, window_features
from shared.job import JobError, UsageError
from shared.model_store import active_model, load_model, schema_hash
from shared.rows import Candles
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles

HOUR = 3600
N = 420
FIRST_OPEN = NOON - timedelta(hours=N)


def quick(series: list[Candles], **more: Any) -> tuple[bytes, dict[str, Any]]:
    options: dict[str, Any] = {
        "timeframe_s": HOUR,
        "trained_from": FIRST_OPEN,
        "trained_to": NOON,
        "steps": 3,
        "batch_size": 16,
        "seed": 7,
        "progress": False,
    } | more
    return train(series, **options)


def loaded(onnx_bytes: bytes) -> Any:
    schema = encoder_schema(HOUR)
    row = {"id": 1, "kind": "encoder", "onnx": onnx_bytes, "sha256": hashlib.sha256(onnx_bytes).hexdigest()}
    row |= {"schema": schema, "schema_hash": schema_hash(schema), "trained_from": FIRST_OPEN, "trained_to": NOON}
    row |= {"known_from": NOON, "provenance": "real", "encoder_id": None, "metrics": {}}
    return load_model(row, schema)


def poison(candles: Candles, where: np.ndarray) -> Candles:
    """Other prices and volumes where ``where``, still valid candles."""
    changed = {name: getattr(candles, name) * np.where(where, 3.7, 1.0) for name in ("open", "high", "low", "close")}
    return replace(candles, **changed, volume=candles.volume + where * 11.0)


@pytest.fixture(scope="module")
def trained() -> tuple[list[Candles], bytes, dict[str, Any]]:
    series = [random_candles(N, HOUR, seed) for seed in (1, 2)]
    return series, *quick(series)


Trained = tuple[list[Candles], bytes, dict[str, Any]]


def test_the_same_candles_and_seed_give_the_same_bytes(trained: Trained) -> None:
    series, onnx_bytes, metrics = trained
    assert quick(series) == (onnx_bytes, metrics)
    assert quick(series, seed=8)[0] != onnx_bytes


def test_training_leaves_torch_as_it_was() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    quick([random_candles(N, HOUR)])
    assert torch.rand(1) == expected
    assert torch.get_num_threads() == 2
    assert not torch.are_deterministic_algorithms_enabled()


def test_candles_outside_the_span_change_nothing() -> None:
    candles = random_candles(N + 200, HOUR, seed=1, end=to_unix(NOON) + 100 * HOUR)
    outside = (candles.as_of > to_unix(NOON)) | (candles.as_of <= to_unix(FIRST_OPEN))
    assert outside.sum() == 200
    expected = quick([candles])
    assert quick([poison(candles, outside)]) == expected
    assert quick([candles[~outside]]) == expected
    assert quick([poison(candles, ~outside)]) != expected


def test_no_label_reaches_past_the_span_or_into_the_windows_held_out() -> None:
    candles = random_candles(N, HOUR)
    data = build_dataset([candles], HOUR)
    assert data.as_of.max() == to_unix(NOON) - LABEL_HORIZON * HOUR
    fit, held = split_in_time(data, HOUR)
    assert fit.as_of.max() + LABEL_HORIZON * HOUR == held.as_of.min()
    assert 0.1 < len(held) / len(data) < 0.2


def test_labels_are_the_next_returns_and_windows_are_the_ones_of_running() -> None:
    candles = random_candles(N, HOUR)
    data = build_dataset([candles], HOUR)
    returns = np.diff(np.log(candles.close))
    at = int(np.flatnonzero(candles.as_of == data.as_of[0])[0])
    for column, horizon in enumerate((4, 24)):
        expected = np.log(np.sqrt((returns[at : at + horizon] ** 2).mean()))
        assert data.labels[0, column] == pytest.approx(expected)
        assert data.past[0, column] == pytest.approx(np.log(np.sqrt((returns[at - horizon : at] ** 2).mean())))
    window = window_features(candles, int(data.as_of[0]), HOUR)
    assert window is not None
    assert data.windows[0].tobytes() == window.tobytes()


def test_a_gap_in_the_label_leaves_the_window_out() -> None:
    candles = random_candles(N, HOUR)
    data = build_dataset([candles[np.arange(N) != 300]], HOUR)
    lost = {int(as_of) for as_of in candles.as_of[300 - LABEL_HORIZON : 301]}
    assert not lost & set(data.as_of.tolist())


def test_the_graph_gives_what_torch_gives(trained: Trained) -> None:
    series, onnx_bytes, _ = trained
    window = window_features(series[0], int(series[0].as_of[-1]), HOUR)
    assert window is not None
    embedding, ood = loaded(onnx_bytes).run({"window": window[None]})
    assert embedding.shape == (1, 64)
    assert embedding.dtype == np.float32
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)
    assert ood.shape == (1,)
    assert 0 <= ood[0] <= 1


def test_the_graph_holds_standard_operators_and_no_path(trained: Trained) -> None:
    graph = onnx.load_from_string(trained[1])
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", 18)]
    assert not graph.functions
    assert b".py" not in trained[1]
    assert len(trained[1]) < 2_000_000


def test_the_model_is_small_and_the_metrics_say_what_was_done(trained: Trained) -> None:
    metrics = trained[2]
    assert metrics["parameters"] <= 500_000
    assert metrics["candles"] == 2 * N
    assert (metrics["steps"], metrics["batch_size"], metrics["seed"]) == (3, 16, 7)
    assert {"probe_r2", "persistence_r2", "har_r2", "loss_reconstruction", "loss_future", "loss_spread"} <= set(metrics)


WINDOWS = [random_candles(WINDOW, HOUR, seed) for seed in range(20, 50)]
FAULTS: dict[str, Callable[[Candles], Candles]] = {
    "eight times as wild": lambda c: replace(
        c, **{name: c.close[-1] * (c_ / c.close[-1]) ** 8 for name, c_ in prices(c)}
    ),
    "frozen": lambda c: replace(c, **{name: np.r_[p[:60], np.full(36, c.close[59])] for name, p in prices(c)}),
    "without volume": lambda c: replace(c, volume=np.r_[c.volume[:60], np.zeros(24), c.volume[84:]]),
}


def prices(candles: Candles) -> list[tuple[str, np.ndarray]]:
    return [(name, getattr(candles, name)) for name in ("open", "high", "low", "close")]


def ood(model: Any, candles: Candles) -> float:
    window = window_features(candles, int(candles.as_of[-1]), HOUR)
    assert window is not None
    return float(model.run({"window": window[None]})[1][0])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_market_is_unusual_and_a_usual_one_is_not(trained: Trained, fault: str) -> None:
    model = loaded(trained[1])
    assert np.mean([ood(model, window) for window in WINDOWS]) < 0.9
    assert min(ood(model, FAULTS[fault](window)) for window in WINDOWS) > 0.97


def test_no_patch_sees_a_later_one() -> None:
    encoder = Encoder(torch.zeros(len(FEATURES)), torch.ones(len(FEATURES))).eval()
    window = torch.randn(1, len(FEATURES), WINDOW)
    changed = window.clone()
    changed[:, :, 60:] += 1  # patches 10 and later
    before, after = encoder(window)[0], encoder(changed)[0]
    assert torch.equal(before[:, :10], after[:, :10])
    assert not torch.equal(before[:, 10], after[:, 10])


def test_the_embedding_sees_the_whole_window() -> None:
    encoder = Encoder(torch.zeros(len(FEATURES)), torch.ones(len(FEATURES))).eval()
    window = torch.randn(1, len(FEATURES), WINDOW, requires_grad=True)
    encoder(window)[1].sum().backward()
    assert window.grad is not None
    assert (window.grad.abs().sum((0, 1)) > 0).all()


def test_two_patches_in_five_are_hidden() -> None:
    assert draw_mask(1000, 16, torch.Generator().manual_seed(0)).float().mean() == pytest.approx(0.4, abs=0.02)


def test_a_mirrored_and_shifted_window_is_the_window_of_the_mirrored_and_shifted_market() -> None:
    candles = random_candles(N, HOUR, seed=5)
    level, flipped = {}, {}
    for name in ("open", "high", "low", "close"):
        level[name] = np.log(getattr(candles, name) / 100)
    for name, source in zip(("open", "high", "low", "close"), ("open", "low", "high", "close"), strict=True):
        flipped[name] = 100 * np.exp(-1.01 * level[source])
    true, other = (build_dataset([c], HOUR) for c in (candles, replace(candles, **flipped)))
    windows, labels = torch.from_numpy(true.windows).clone(), torch.from_numpy(true.labels).clone()
    _mirror(windows, labels, torch.ones(len(windows), dtype=torch.bool))
    _shift_level(windows, labels, torch.full((len(windows),), float(np.log(1.01))))
    np.testing.assert_allclose(labels, other.labels, atol=1e-3)
    np.testing.assert_allclose(windows, other.windows, atol=0.03)  # (high - low) / close is mirrored only nearly


def test_augmenting_leaves_the_data_alone() -> None:
    windows, labels = torch.ones(50, len(FEATURES), WINDOW), torch.ones(50, 3)
    changed, _ = augment(windows, labels, torch.Generator().manual_seed(0))
    assert (windows == 1).all()
    assert (labels == 1).all()
    assert (changed[:, list(FEATURES).index("scaled_return")] == -1).any()


def test_too_few_windows_are_refused_with_the_number_of_candles() -> None:
    with pytest.raises(JobError, match="there are 150 candles"):
        quick([random_candles(150, HOUR)])


@pytest.fixture
def few_steps(settings: Settings) -> Settings:
    encoder = settings.encoder.model_copy(update={"train_steps": 2, "batch_size": 8})
    return settings.model_copy(update={"encoder": encoder})


def now_and_then(hours: float) -> ReplayClock:
    return ReplayClock(NOON + timedelta(hours=hours))


def store_universe(database_for: DatabaseFor, second: str = "real") -> None:
    store_candles(database_for, "test", "AAA/USDT", HOUR, random_candles(N, HOUR, 1))
    store_candles(database_for, "test", "BBB/USDT", HOUR, random_candles(N, HOUR, 2), second)


def test_the_job_trains_so_that_the_model_is_known_now(database_for: DatabaseFor, few_steps: Settings) -> None:
    store_universe(database_for)
    outcome = run_once(now_and_then(0.5), database_for("encoder"), few_steps)
    model = active_model(database_for("encoder"), "encoder", encoder_schema(HOUR))
    assert outcome.status == "done"
    assert model is not None
    assert model.id == outcome.result["model_id"]
    assert (model.trained_from, model.trained_to, model.known_from) == (FIRST_OPEN, NOON - timedelta(days=1), NOON)
    assert (model.provenance, model.metrics["candles"]) == ("real", 2 * (N - 24))


def test_training_twice_changes_nothing(database_for: DatabaseFor, few_steps: Settings) -> None:
    store_universe(database_for)
    span = (FIRST_OPEN, NOON)
    first = run_once(now_and_then(0), database_for("encoder"), few_steps, *span)
    second = run_once(now_and_then(1), database_for("encoder"), few_steps, *span)
    assert first == second


def test_one_simulated_series_makes_the_model_simulated(database_for: DatabaseFor, few_steps: Settings) -> None:
    store_universe(database_for, second="simulated")
    run_once(now_and_then(0), database_for("encoder"), few_steps)
    model = active_model(database_for("encoder"), "encoder")
    assert model is not None
    assert model.provenance == "simulated"


def test_a_symbol_without_candles_is_a_warning(database_for: DatabaseFor, few_steps: Settings) -> None:
    store_candles(database_for, "test", "AAA/USDT", HOUR, random_candles(N, HOUR, 1))
    outcome = run_once(now_and_then(0), database_for("encoder"), few_steps)
    assert outcome.status == "done"
    assert "BBB/USDT" in outcome.result["warnings"][0]


def test_no_candles_at_all_is_an_error_that_says_what_to_do(database_for: DatabaseFor, few_steps: Settings) -> None:
    with pytest.raises(JobError, match="make backfill"):
        run_once(now_and_then(0), database_for("encoder"), few_steps)


@pytest.mark.parametrize(
    ("trained_from", "trained_to", "why"),
    [(None, NOON + timedelta(hours=1), "in the future"), (NOON, NOON - timedelta(hours=1), "is not before")],
)
def test_an_impossible_span_is_refused(
    database_for: DatabaseFor, few_steps: Settings, trained_from: datetime | None, trained_to: datetime, why: str
) -> None:
    store_universe(database_for)
    with pytest.raises(UsageError, match=why):
        run_once(now_and_then(0), database_for("encoder"), few_steps, trained_from, trained_to)
