"""However often a training is interrupted, it ends with the weights of one that never was."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from encoder import training
from encoder.checkpoints import WEIGHTS, newest_checkpoint
from encoder.dataset import TrainingSet, build_training_set
from encoder.fingerprint import _cover, fingerprint
from encoder.training import Fitted, TrainingPlan, TrainingStopped, find_device, fit, measure
from shared.job import JobError, UsageError
from shared.rows import Candles
from shared.settings import PROJECT
from tests.helpers import random_candles

HOUR = 3600
STEPS = 6
PLAN = TrainingPlan(steps=STEPS, batch_size=8, seed=7, device="cpu")
Weights = dict[str, torch.Tensor]


def candles() -> list[Candles]:
    return [random_candles(560, HOUR, seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    return build_training_set(candles(), HOUR)


def weights(fitted: Fitted) -> Weights:
    parts = (("encoder", fitted.encoder), ("heads", fitted.heads))
    return {f"{part} {name}": value.clone() for part, net in parts for name, value in net.state_dict().items()}


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in other)


@pytest.fixture(scope="module")
def uninterrupted(data: TrainingSet) -> Fitted:
    return fit(data, PLAN)


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """``before_step(3, act)``: acts once, when the fourth step begins."""

    def arrange(step: int, act: Callable[[], object]) -> None:
        real, done = training._Training.advance, False

        def advance(self: Any) -> float:
            nonlocal done
            if self.step == step and self.steps < 1000 and not done:  # more are those of a calibration
                done = True
                act()
            return real(self)

        monkeypatch.setattr(training._Training, "advance", advance)

    return arrange


BeforeStep = Callable[[int, Callable[[], object]], None]


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def test_the_same_plan_gives_the_same_weights_and_another_seed_others(data: TrainingSet, uninterrupted: Fitted) -> None:
    again = fit(data, PLAN)
    assert same(weights(again), weights(uninterrupted))
    assert (again.losses, again.steps, again.device) == (uninterrupted.losses, STEPS, "cpu")
    assert set(again.losses) == {"reconstruction", "future", "spread"}
    assert not same(weights(fit(data, replace(PLAN, seed=8))), weights(uninterrupted))
    assert not again.encoder.training
    assert not again.heads.training


def test_checkpoints_change_nothing(data: TrainingSet, uninterrupted: Fitted, tmp_path: Path) -> None:
    assert same(weights(fit(data, PLAN, tmp_path, checkpoint_s=0)), weights(uninterrupted))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000005", "step-000000006"]


@pytest.mark.parametrize("stop", range(STEPS - 1))
def test_stopped_by_a_signal_and_resumed_is_uninterrupted(
    data: TrainingSet, uninterrupted: Fitted, tmp_path: Path, before_step: BeforeStep, stop: int
) -> None:
    before_step(stop, send((signal.SIGTERM, signal.SIGINT)[stop % 2]))
    with pytest.raises(TrainingStopped, match=rf"after step {stop + 1} of 6; run the same command again"):
        fit(data, PLAN, tmp_path)
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == stop + 1  # the step was finished, and nothing was started after it
    resumed = fit(data, PLAN, tmp_path)
    assert same(weights(resumed), weights(uninterrupted))
    assert resumed.losses == uninterrupted.losses


def test_a_resumed_training_makes_only_the_steps_that_are_left(
    data: TrainingSet, tmp_path: Path, before_step: BeforeStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_step(3, send(signal.SIGTERM))
    with pytest.raises(TrainingStopped):
        fit(data, PLAN, tmp_path)
    made: list[int] = []
    real = training._Training.advance
    monkeypatch.setattr(training._Training, "advance", lambda self: (made.append(self.step), real(self))[1])
    fit(data, PLAN, tmp_path)
    assert made == [4, 5]
    fit(data, PLAN, tmp_path)  # finished, but its model was not stored: no step is made again
    assert made == [4, 5]


def test_a_signal_in_the_last_step_lets_it_finish(
    data: TrainingSet, uninterrupted: Fitted, tmp_path: Path, before_step: BeforeStep
) -> None:
    before_step(STEPS - 1, send(signal.SIGTERM))
    assert same(weights(fit(data, PLAN, tmp_path)), weights(uninterrupted))


def test_a_second_signal_does_not_wait(data: TrainingSet, tmp_path: Path, before_step: BeforeStep) -> None:
    before_step(2, lambda: (send(signal.SIGINT)(), send(signal.SIGINT)()))
    with pytest.raises(KeyboardInterrupt):
        fit(data, PLAN, tmp_path)


@pytest.mark.parametrize("directory", [True, False])
def test_the_handlers_of_signals_are_left_as_they_were(data: TrainingSet, tmp_path: Path, directory: bool) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    fit(data, replace(PLAN, steps=1), tmp_path if directory else None)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_it_also_trains_where_signals_cannot_be_heard(data: TrainingSet, uninterrupted: Fitted, tmp_path: Path) -> None:
    fitted: list[Fitted] = []
    thread = threading.Thread(target=lambda: fitted.append(fit(data, PLAN, tmp_path)))
    thread.start()
    thread.join()
    assert same(weights(fitted[0]), weights(uninterrupted))


SCRIPT = f"""
import os, signal, sys
from pathlib import Path
import encoder.checkpoints, encoder.training as training
from tests.encoder.test_training import PLAN, candles
from encoder.dataset import build_training_set
real = training._Training.advance
def advance(self):
    print("step", self.step, flush=True)
    if self.step == 2 and sys.argv[2] == "wait":
        sys.stdin.readline()
    return real(self)
training._Training.advance = advance
if sys.argv[2] == "kill":
    write = encoder.checkpoints._write_synced
    def die(path, content):
        if path.name == "state.json" and b'"step": 5' in content:
            os.kill(os.getpid(), signal.SIGKILL)  # the weights are there, their state is not
        write(path, content)
    encoder.checkpoints._write_synced = die
training.fit(build_training_set(candles(), {HOUR}), PLAN, Path(sys.argv[1]), checkpoint_s=0)
"""


def start(directory: Path, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(directory), how],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_that_are_terminated_and_killed_lose_nothing(
    data: TrainingSet, uninterrupted: Fitted, tmp_path: Path
) -> None:
    with start(tmp_path, "wait") as process:
        assert process.stdout is not None
        while process.stdout.readline() != "step 2\n":
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate("go on\n", timeout=60)
    assert process.returncode == 1
    assert "TrainingStopped: training was stopped by SIGTERM after step 3 of 6" in said
    with start(tmp_path, "kill") as process:
        steps, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert steps == "step 3\nstep 4\n"
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 4
    assert same(weights(fit(data, PLAN, tmp_path)), weights(uninterrupted))


def test_a_damaged_checkpoint_costs_its_steps_only(
    data: TrainingSet, uninterrupted: Fitted, tmp_path: Path, before_step: BeforeStep
) -> None:
    before_step(3, send(signal.SIGTERM))
    with pytest.raises(TrainingStopped):
        fit(data, PLAN, tmp_path, checkpoint_s=0)
    (tmp_path / "step-000000004" / WEIGHTS).write_bytes(b"something else")
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 3
    assert same(weights(fit(data, PLAN, tmp_path)), weights(uninterrupted))


OTHERS: dict[str, Callable[[TrainingSet], tuple[TrainingSet, TrainingPlan]]] = {
    "seed": lambda data: (data, replace(PLAN, seed=8)),
    "batch": lambda data: (data, replace(PLAN, batch_size=9)),
    "steps": lambda data: (data, replace(PLAN, steps=3)),
    "candles": lambda data: (build_training_set(candles()[:1], HOUR), PLAN),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_training_begins_anew(
    data: TrainingSet, tmp_path: Path, other: str, caplog: pytest.LogCaptureFixture
) -> None:
    fit(data, PLAN, tmp_path)
    windows, plan = OTHERS[other](data)
    assert same(weights(fit(windows, plan, tmp_path)), weights(fit(windows, plan)))
    assert "begins anew" in caplog.text
    steps = [int(path.name[-9:]) for path in sorted(tmp_path.iterdir())]
    assert steps == [0, plan.steps]  # nothing of the other one is left that could pass for the newest


def test_other_code_begins_anew(data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "net.py"
    code.write_text("WIDTH = 128")
    monkeypatch.setattr("encoder.fingerprint.CODE", (code,))
    before = fingerprint(data, {"batch_size": 8})
    assert fingerprint(data, {"batch_size": 8}) == before
    code.write_text("WIDTH = 129")
    assert fingerprint(data, {"batch_size": 8}) != before


def test_the_fingerprint_sees_every_candle_that_a_window_shows(data: TrainingSet) -> None:
    before = fingerprint(data, {"batch_size": 8})
    for slot in (0, 5, 400, 560 - 24 - 1):
        series = candles()
        volume = series[1].volume.copy()
        volume[slot] = np.nextafter(volume[slot], np.inf)
        series[1] = replace(series[1], volume=volume)
        assert fingerprint(build_training_set(series, HOUR), {"batch_size": 8}) != before
    assert fingerprint(data, {"batch_size": 9}) != before


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 12))
def test_a_few_windows_cover_what_all_windows_show(steps: list[int], length: int) -> None:
    closes = np.cumsum(np.array(steps, dtype=np.int64))
    covered, chosen = (
        {close - k for close in some for k in range(length)} for some in (closes, _cover(closes, length))
    )
    assert chosen == covered
    assert len(_cover(closes, length)) <= 2 * len(covered) / length + 1


@pytest.fixture
def seconds_a_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    return lambda seconds: monkeypatch.setattr(training.statistics, "median", lambda _: seconds)


def test_minutes_become_steps_once(
    data: TrainingSet, tmp_path: Path, before_step: BeforeStep, seconds_a_step: Callable[[float], None]
) -> None:
    plan = replace(PLAN, steps=None, minutes=0.1)
    seconds_a_step(1.0)
    before_step(4, send(signal.SIGTERM))
    with pytest.raises(TrainingStopped, match="of 6"):
        fit(data, plan, tmp_path)
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.state["steps"], checkpoint.state["minutes"]) == (6, 0.1)
    shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    seconds_a_step(0.5)  # the machine is free now
    assert fit(data, plan, tmp_path).steps == 6
    assert fit(data, replace(plan, minutes=0.05), tmp_path.with_name("copy")).steps == 6  # 3 s at 0.5 s: anew
    seconds_a_step(1000.0)
    assert fit(data, plan).steps == 1


def test_measuring_leaves_no_trace_in_the_weights(
    data: TrainingSet, uninterrupted: Fitted, seconds_a_step: Callable[[float], None]
) -> None:
    seconds_a_step(1.0)
    assert same(weights(fit(data, replace(PLAN, steps=None, minutes=0.1))), weights(uninterrupted))


def test_few_windows_are_not_learnt_by_heart(data: TrainingSet, seconds_a_step: Callable[[float], None]) -> None:
    few = replace(PLAN, steps=5, most_passes=20 / len(data))  # 20 windows by 8: 3 steps
    assert fit(data, few).steps == 3
    assert fit(data, replace(few, steps=2)).steps == 2
    seconds_a_step(1.0)
    assert fit(data, replace(few, steps=None, minutes=1.0)).steps == 3


@pytest.mark.parametrize(("steps", "minutes"), [(None, None), (1, 1.0)])
def test_a_plan_has_one_budget(steps: int | None, minutes: float | None) -> None:
    with pytest.raises(ValueError, match="either steps or minutes"):
        TrainingPlan(steps=steps, minutes=minutes, batch_size=8, seed=0)


def test_checkpoints_come_by_the_clock(data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = training.write_checkpoint
    monkeypatch.setattr(training, "write_checkpoint", lambda d, c: (written.append(c.step), write(d, c)))
    now = iter(range(0, 10_000, 10))  # each look at the clock is ten seconds after the one before
    monkeypatch.setattr(training.time, "monotonic", lambda: next(now))
    fit(data, PLAN, tmp_path, checkpoint_s=25)
    assert written == [0, 3, 6]


def test_no_place_for_checkpoints_is_said_before_the_first_step(data: TrainingSet, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JobError, match="step 0 can't be written"):
        fit(data, PLAN, tmp_path / "file" / "training")


def test_training_leaves_torch_as_it_was(data: TrainingSet) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    fit(data, replace(PLAN, steps=1))
    broken = replace(data, labels=np.full_like(data.labels, np.nan))
    with pytest.raises(JobError, match="the loss of step 1 is nan"):
        fit(broken, PLAN)
    assert torch.rand(1) == expected
    assert torch.get_num_threads() == 2
    assert not torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)


def test_no_steps_give_the_net_as_it_is_before_training(data: TrainingSet, uninterrupted: Fitted) -> None:
    untrained, once = fit(data, replace(PLAN, steps=0)), fit(data, replace(PLAN, steps=1))
    assert untrained.losses == {}
    assert torch.equal(untrained.encoder.channel_mean, uninterrupted.encoder.channel_mean)
    moved = (untrained.encoder.patch.weight - once.encoder.patch.weight).abs().max()
    assert 0 < moved < 0.01  # one step from where training begins


def test_statistics_are_those_of_the_windows(data: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "BLOCK", 100)
    statistics = measure(data)
    channels = data.channels(np.arange(len(data))).astype(np.float64)
    expected = channels.mean((0, 2)), np.maximum(channels.std((0, 2)), training.SMALLEST_SCALE)
    np.testing.assert_allclose(statistics.channel_mean, expected[0], atol=1e-6)
    np.testing.assert_allclose(statistics.channel_scale, expected[1], atol=1e-6)
    np.testing.assert_allclose(statistics.feature_mean, data.features.mean(0), atol=1e-5)
    spread = np.maximum(data.features.std(0), training.SMALLEST_SCALE)
    np.testing.assert_allclose(statistics.feature_scale, spread, atol=1e-5)


def learnable() -> Candles:
    """Volatility that changes fourfold every other week: the next day's is that of the last days."""
    wild = np.repeat(np.arange(6) % 2, 168)[:900] * np.log(4)
    quiet = random_candles(900, HOUR, 3, volatility=0.002)
    returns = np.diff(np.log(quiet.close), prepend=np.log(100)) * np.exp(wild)
    close = 100 * np.exp(np.cumsum(returns))
    open_ = np.concatenate([[100.0], close[:-1]])
    return replace(quiet, open=open_, close=close, high=np.maximum(open_, close), low=np.minimum(open_, close))


def test_the_loss_falls_where_there_is_something_to_learn() -> None:
    data = build_training_set([learnable()], HOUR)
    first = fit(data, replace(PLAN, steps=2, batch_size=32)).losses
    later = fit(data, replace(PLAN, steps=80, batch_size=32)).losses  # the mean of the last 50
    assert later["future"] < 0.85 * first["future"]
    assert later["reconstruction"] < 0.9 * first["reconstruction"]
    assert later["spread"] < first["spread"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_an_error_that_says_so(data: TrainingSet) -> None:
    assert find_device("auto") == find_device("cpu") == "cpu"
    with pytest.raises(UsageError, match="sees no NVIDIA GPU here; install its driver"):
        fit(data, replace(PLAN, device="cuda"))
