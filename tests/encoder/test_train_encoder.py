"""Training is a pure function of the candles of its span and the plan, and says how good it is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from encoder import model_card, train_encoder, training
from encoder.checkpoints import newest_checkpoint
from encoder.dataset import TrainingSet, build_training_set, split_in_time
from encoder.encoder_model import Encoder
from encoder.inference import embed
from encoder.model_card import even_sample, probe_scores, split, trial_model
from encoder.schema import encoder_schema
from encoder.train_encoder import run_once, train
from encoder.training import TrainingPlan, TrainingStopped
from shared.clock import ReplayClock, to_unix
from shared.features import Grid
from shared.job import JobError, UsageError
from shared.model_store import ModelRefused, active_model, model_by_id
from shared.rows import Candles
from shared.settings import Settings
from tests.encoder.small_encoder import small_encoder
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles

HOUR = 3600
N = 600
FIRST_OPEN = NOON - timedelta(hours=N)
PLAN = TrainingPlan(steps=2, batch_size=8, seed=7, device="cpu")
Trained = tuple[list[Candles], bytes, dict[str, Any]]


def quick(series: list[Candles], **more: Any) -> tuple[bytes, dict[str, Any]]:
    options: dict[str, Any] = {"trained_from": FIRST_OPEN, "trained_to": NOON, "plan": PLAN} | more
    return train(series, timeframe_s=HOUR, **options)


def poison(candles: Candles, where: np.ndarray) -> Candles:
    """Other prices and volumes where ``where``, still valid candles."""
    changed = {name: getattr(candles, name) * np.where(where, 3.7, 1.0) for name in ("open", "high", "low", "close")}
    return replace(candles, **changed, volume=candles.volume + where * 11.0)


@pytest.fixture(scope="module")
def trained() -> Trained:
    series = [random_candles(N, HOUR, seed) for seed in (1, 2)]
    return series, *quick(series)


def graph_of_weights(net: Encoder, fitted: TrainingSet, held: TrainingSet) -> bytes:
    """In place of the export, which takes seconds: other weights or other windows held out give other bytes."""
    digest = hashlib.sha256(held.features.tobytes())
    for value in net.state_dict().values():
        digest.update(value.numpy().tobytes())
    return small_encoder(int.from_bytes(digest.digest()[:8], "big"))


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the graph is the real thing."""
    monkeypatch.setattr(train_encoder, "export", graph_of_weights)
    monkeypatch.setattr(model_card, "_require_same", lambda *_: None)


@pytest.mark.usefixtures("light")
def test_another_seed_gives_other_bytes() -> None:
    series = [random_candles(N, HOUR, 1)]
    assert quick(series, plan=replace(PLAN, seed=8))[0] != quick(series)[0] == quick(series)[0]


def test_stopped_and_resumed_it_gives_the_same_bytes(trained: Trained, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(TrainingStopped):
            quick(trained[0], directory=tmp_path)
    assert quick(trained[0], directory=tmp_path) == trained[1:]
    assert newest_checkpoint(tmp_path) is not None  # it was used: the caller removes it


def stop_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    real = training._Training.advance

    def advance(self: Any) -> float:
        if self.step == steps - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self)

    patch.setattr(training._Training, "advance", advance)


@pytest.mark.usefixtures("light")
def test_candles_outside_the_span_change_nothing() -> None:
    candles = random_candles(N + 200, HOUR, seed=1, end=to_unix(NOON) + 100 * HOUR)
    outside = (candles.as_of > to_unix(NOON)) | (candles.as_of <= to_unix(FIRST_OPEN))
    assert outside.sum() == 200
    expected = quick([candles])
    assert quick([poison(candles, outside)]) == expected
    assert quick([candles[~outside]]) == expected
    assert quick([poison(candles, ~outside)]) != expected


def test_the_stored_graph_runs_and_holds_standard_operators_and_no_path(trained: Trained) -> None:
    grid = Grid(trained[0][0], HOUR)
    embedded = embed(trial_model(trained[1], HOUR), grid.windows(grid.usable()[-40:]))
    np.testing.assert_allclose(np.linalg.norm(embedded.embedding, axis=1), 1, atol=1e-5)
    assert np.ptp(embedded.ood) > 0
    graph = onnx.load_from_string(trained[1])
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", 18)]
    assert not graph.functions
    assert b".py" not in trained[1]
    assert len(trained[1]) < 4_000_000


def test_the_metrics_say_what_was_done(trained: Trained) -> None:
    metrics = trained[2]
    assert metrics["parameters"] <= 1_000_000
    assert metrics["candles"] == 2 * N
    assert (metrics["steps"], metrics["batch_size"], metrics["seed"]) == (2, 8, 7)
    assert (metrics["device"], metrics["threads"]) == ("cpu", 1)
    assert "minutes" not in metrics
    assert {"probe_r2", "persistence_r2", "har_r2", "torch", "recipe"} <= set(metrics)
    assert {"loss_reconstruction", "loss_future", "loss_spread"} <= set(metrics)
    assert json.loads(json.dumps(metrics)) == metrics


def test_the_probe_scores_what_is_read_from_the_embeddings(trained: Trained) -> None:
    fitted, held = split_in_time(build_training_set(trained[0], HOUR))
    label = fitted.labels[:, 2:3], held.labels[:, 2:3]
    assert probe_scores(fitted, held, *label)["probe_r2"] > 0.99  # who knows the outcome
    noise = [np.random.default_rng(k).normal(size=(len(d), 3)).astype(np.float32) for k, d in enumerate((fitted, held))]
    assert probe_scores(fitted, held, *noise)["probe_r2"] < 0.05
    known = fitted.features.copy(), held.features.copy()
    for features, labels in zip(known, label, strict=True):
        features[:, model_card.PAST[24]] = labels[:, 0] - np.log(0.01)
    scores = probe_scores(replace(fitted, features=known[0]), replace(held, features=known[1]), *noise)
    assert scores["persistence_r2"] > 0.999
    assert scores["har_r2"] > 0.99


def test_a_sample_is_spread_over_all_rows() -> None:
    assert even_sample(10, 3).tolist() == [0, 4, 9]
    assert even_sample(2, 5).tolist() == [0, 1]


def test_too_few_windows_are_refused_with_the_number_of_candles() -> None:
    with pytest.raises(JobError, match="there are 350 candles"):
        quick([random_candles(350, HOUR)])


def market(timeframe_s: int, candles: int, series: int) -> list[Candles]:
    return [random_candles(candles, timeframe_s, seed) for seed in range(series)]


@pytest.mark.parametrize(
    ("timeframe_s", "candles", "series", "held", "said"),
    [
        (300, 800, 1, 20, "0 windows to fit and 38 to hold out, at least 64 and 20 are needed"),
        (300, 700, 4, 20, "0 windows to fit"),
        (HOUR, 308, 10, 20, "0 windows to fit"),
        (HOUR, 600, 1, 60, r"2\d\d windows to fit and 48 to hold out, at least 64 and 60"),
    ],
)
def test_too_few_windows_to_fit_are_refused_before_training_with_a_span_that_would_do(
    monkeypatch: pytest.MonkeyPatch, timeframe_s: int, candles: int, series: int, held: int, said: str
) -> None:
    monkeypatch.setattr(model_card, "LEAST_CALIBRATION", held)
    monkeypatch.setattr(train_encoder, "fit", lambda *_: pytest.fail("trained"))
    span = {"trained_from": NOON - timedelta(days=100), "trained_to": NOON, "plan": PLAN}
    with pytest.raises(JobError, match=said) as refused:
        train(market(timeframe_s, candles, series), timeframe_s=timeframe_s, **span)
    found = re.search(r"(\d+) days of candles of \d+ s .* would do", str(refused.value))
    assert found is not None
    days = int(found[1])
    assert days * 86_400 <= 2 * candles * timeframe_s  # and not a month where two days are missing
    fitted, scored = split(build_training_set(market(timeframe_s, days * 86_400 // timeframe_s, series), timeframe_s))
    assert len(fitted) >= 64
    assert len(scored) >= held


@pytest.fixture
def few_steps(settings: Settings, light: None) -> Settings:
    encoder = settings.encoder.model_copy(update={"train_steps": 2, "batch_size": 8})
    return settings.model_copy(update={"encoder": encoder})


def now_and_then(hours: float) -> ReplayClock:
    return ReplayClock(NOON + timedelta(hours=hours))


def store_universe(database_for: DatabaseFor, second: str = "real") -> None:
    store_candles(database_for, "test", "AAA/USDT", HOUR, random_candles(N, HOUR, 1))
    store_candles(database_for, "test", "BBB/USDT", HOUR, random_candles(N, HOUR, 2), second)


def checkpoints_of(settings: Settings) -> list[Path]:
    return list((settings.home_path / "training" / f"encoder-{settings.db_name}").glob("*"))


def test_the_job_trains_so_that_the_model_is_known_now(database_for: DatabaseFor, few_steps: Settings) -> None:
    store_universe(database_for)
    outcome = run_once(now_and_then(0.5), database_for("encoder"), few_steps)
    model = active_model(database_for("encoder"), "encoder", encoder_schema(HOUR))
    assert outcome.status == "done"
    assert model is not None
    assert (outcome.result["model_id"], outcome.result["status"]) == (model.id, "active")
    assert (model.trained_from, model.trained_to, model.known_from) == (FIRST_OPEN, NOON - timedelta(days=1), NOON)
    assert (model.provenance, model.metrics["candles"]) == ("real", 2 * (N - 24))
    assert model.metrics["symbols"] == ["test:AAA/USDT", "test:BBB/USDT"]
    assert outcome.result["schema_hash"] == model.schema_hash
    assert checkpoints_of(few_steps) == []  # the row is there, so they are not needed


def test_training_twice_changes_nothing(database_for: DatabaseFor, few_steps: Settings) -> None:
    store_universe(database_for)
    span = (FIRST_OPEN, NOON)
    first = run_once(now_and_then(0), database_for("encoder"), few_steps, *span)
    second = run_once(now_and_then(1), database_for("encoder"), few_steps, *span)
    assert first == second


def test_a_later_encoder_is_a_candidate(database_for: DatabaseFor, few_steps: Settings) -> None:
    store_universe(database_for)
    first = run_once(now_and_then(0), database_for("encoder"), few_steps)
    second = run_once(now_and_then(1), database_for("encoder"), few_steps, steps=1)
    assert second.result["status"] == "candidate"
    active = active_model(database_for("encoder"), "encoder")
    assert active is not None
    assert active.id == first.result["model_id"] != second.result["model_id"]


def test_several_venues_go_into_one_model(database_for: DatabaseFor, few_steps: Settings) -> None:
    store_universe(database_for)
    store_candles(database_for, "other", "AAA/USD", HOUR, random_candles(N, HOUR, 3))
    encoder = few_steps.encoder.model_copy(update={"train_on": ("other:AAA/USD", "BBB/USDT")})
    by_setting = few_steps.model_copy(update={"encoder": encoder})
    one = run_once(now_and_then(0), database_for("encoder"), by_setting)
    two = run_once(now_and_then(0), database_for("encoder"), few_steps, symbols=["other:AAA/USD", "test:BBB/USDT"])
    assert one.result["symbols"] == ["other:AAA/USD", "test:BBB/USDT"]
    assert one == two
    all_three = ["AAA/USDT", "test:AAA/USDT", "BBB/USDT", "other:AAA/USD"]
    three = run_once(now_and_then(0), database_for("encoder"), by_setting, symbols=all_three)
    assert three.result["candles"] == 3 * (N - 24)  # named twice is trained on once


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
    with pytest.raises(JobError, match="no candles of test:AAA/USDT, test:BBB/USDT are stored; run `make backfill`"):
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


STATUS = "SELECT status, error FROM job_runs WHERE job = 'train_encoder' ORDER BY id DESC LIMIT 1"


@pytest.fixture
def stopped(database_for: DatabaseFor, few_steps: Settings) -> Settings:
    """A training of two steps over everything until noon less a day, stopped after the first."""
    store_universe(database_for)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(TrainingStopped, match="after step 1 of 2"):
            run_once(now_and_then(0), database_for("encoder"), few_steps)
    row = database_for("encoder").fetch_one(STATUS)
    assert row is not None
    assert "run the same command again" in row["error"]
    assert database_for("encoder").fetch("SELECT FROM alerts") == []
    assert active_model(database_for("encoder"), "encoder") is None
    return few_steps


@pytest.mark.parametrize(
    ("hours", "ended", "first_step"),
    [
        (0, 0, 1),
        (3, 0, 1),  # hours later it still ends where it ended: else its checkpoint would be of no use
        (24, 0, 1),
        (25, 25, 0),  # too old to be worth finishing
        (-1, -1, 0),  # a replay of the past must not know the future
    ],
)
def test_a_stopped_training_goes_on_with_its_own_span(
    database_for: DatabaseFor, stopped: Settings, hours: int, ended: int, first_step: int
) -> None:
    made: list[int] = []
    real = training._Training.advance
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training._Training, "advance", lambda self: (made.append(self.step), real(self))[1])
        outcome = run_once(now_and_then(hours), database_for("encoder"), stopped)
    assert outcome.result["trained_to"] == (NOON + timedelta(hours=ended - 24)).isoformat()
    assert made == list(range(first_step, 2))
    assert checkpoints_of(stopped) == []


@pytest.mark.parametrize(
    "other",
    [{"steps": 3}, {"symbols": ["AAA/USDT"]}, {"trained_from": FIRST_OPEN}, {"trained_to": NOON - timedelta(hours=30)}],
)
def test_another_request_does_not_go_on_with_it(
    database_for: DatabaseFor, stopped: Settings, other: dict[str, Any]
) -> None:
    outcome = run_once(now_and_then(2), database_for("encoder"), stopped, **other)
    assert outcome.result["trained_to"] == other.get("trained_to", NOON + timedelta(hours=2 - 24)).isoformat()
    (kept,) = checkpoints_of(stopped)
    assert newest_checkpoint(kept) is not None, "who asked before can go on"
    month_ago = kept.stat().st_mtime - 30 * 24 * HOUR
    for age_s, left in ((-60, [kept]), (60, [])):
        os.utime(kept, (0, month_ago - age_s))
        run_once(now_and_then(2), database_for("encoder"), stopped, **other)
        assert checkpoints_of(stopped) == left


def test_a_model_that_does_not_run_is_not_stored(
    database_for: DatabaseFor, few_steps: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_universe(database_for)
    first = run_once(now_and_then(0), database_for("encoder"), few_steps)
    monkeypatch.undo()

    def of_another_net(net: Any, *data: Any) -> bytes:
        bias = net.head[2].bias.data.clone()
        net.head[2].bias.data += 0.5
        graph = model_card.export(net, *data)
        net.head[2].bias.data = bias
        return graph

    for broken, why in ((lambda *_: b"nonsense", "is refused"), (of_another_net, "differs from the trained net by")):
        monkeypatch.setattr(train_encoder, "export", broken)
        with pytest.raises(ModelRefused, match=why):
            run_once(now_and_then(1), database_for("encoder"), few_steps)
    row = database_for("encoder").fetch_one("SELECT count(*) AS models FROM models")
    assert row == {"models": 1}
    assert model_by_id(database_for("encoder"), first.result["model_id"]).id == first.result["model_id"]


def test_the_command_prints_the_card_and_refuses_bad_arguments(
    database_for: DatabaseFor,
    few_steps: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store_universe(database_for)
    monkeypatch.setattr("shared.job.load_settings", lambda: few_steps)
    monkeypatch.setattr(training.statistics, "median", lambda _: 1.0)
    noon = NOON.isoformat()
    arguments = ["--at", noon, "--minutes", "0.05", "--symbols", "AAA/USDT", "BBB/USDT", "--device", "cpu"]
    assert train_encoder.main(arguments) == 0
    said = capsys.readouterr()
    assert "active, sha256" in said.out
    assert "3 steps of 8 (0.05 minutes asked)" in said.out
    assert "HAR" in said.out
    assert "3/3" in said.err  # the bar
    assert "loss=" in said.err
    model = active_model(database_for("encoder"), "encoder")
    assert model is not None
    assert (model.metrics["steps"], model.metrics["minutes"]) == (3, 0.05)
    for wrong in (["--steps", "0"], ["--minutes", "0"], ["--minutes", "nan"]):
        assert train_encoder.main(["--at", noon, *wrong]) == 2
        assert f"{wrong[0]} {wrong[1]}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train_encoder.main(["--steps", "2", "--minutes", "2"])
