"""Trains the policy by PPO on out-of-sample embeddings and writes it as an ONNX row of models.

Input: market_data, embeddings (of the active encoder, only those known at their time), market_state.
Output: one row of models, kind policy, active.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np

from policy.inputs import Inputs, static_default, timestamps
from policy.observation import policy_schema
from policy.run_trader import operator_limits, trading_rules
from policy.simulator import BarGrid, Costs
from policy.trading_env import PortfolioEnv, TrainingData
from shared.clock import Clock, floor_time, to_unix
from shared.db import Database
from shared.job import Context, JobError, Outcome, UsageError, job, job_parser, run_job_command
from shared.market_data import find_instruments, read_candles
from shared.model_store import Model, active_model, save_model
from shared.rows import FloatArray, Instrument
from shared.settings import Settings

ENVIRONMENTS = 8
ROLLOUT = 256
VALIDATION_SHARE = 0.15
MIN_DECISIONS = 200
MIN_VALIDATION = 24


@job("train_policy")
def run_once(
    clock: Clock,
    database: Database,
    settings: Settings,
    trained_from: datetime,
    trained_to: datetime,
    progress: bool = False,
) -> Outcome:
    if not trained_from < trained_to <= clock.now():
        raise UsageError(f"the training span {trained_from} to {trained_to} must be forward and end by {clock.now()}")
    encoder = active_model(database, "encoder")
    if encoder is None:
        raise JobError("no active encoder; run `make train-encoder` first: the policy learns from its embeddings")
    universe = settings.universe
    instruments = find_instruments(database, universe.venue, universe.symbols)
    data = load_training_data(database, settings, instruments, encoder, trained_from, trained_to)
    onnx, metrics = train(data, settings.policy.train_steps, settings.policy.seed, progress)
    model_id = save_model(
        database,
        kind="policy",
        onnx=onnx,
        schema=policy_schema(universe.symbols, universe.decision_timeframe_s, encoder.schema_hash),
        trained_from=trained_from,
        trained_to=trained_to,
        label_horizon_s=0,
        provenance="simulated" if any(i.provenance == "simulated" for i in instruments) else "real",
        encoder_id=encoder.id,
        metrics=metrics,
        recorded_at=clock.now(),
    )
    return Outcome("done", {"model_id": model_id, **metrics})


def load_training_data(
    database: Database,
    settings: Settings,
    instruments: list[Instrument],
    encoder: Model,
    first: datetime,
    last: datetime,
) -> TrainingData:
    """Everything known at each decision time of the span, and the bars between; JobError when too little."""
    step_s, execution = settings.universe.decision_timeframe_s, settings.execution
    inputs = Inputs(
        database,
        instruments,
        step_s,
        "rules",
        encoder.id,
        operator_limits(settings),
        first,
        last,
        execution.stale_after_s,
    )
    times, markets = [], []
    for as_of in timestamps(first, last, step_s):
        market = inputs.at(as_of)
        known = as_of >= encoder.known_from  # a learner feeds only on out-of-sample outputs of the one before it
        if known and not np.isnan(market.prices).any():
            times.append(as_of)
            markets.append(replace(market, config=static_default(as_of, operator_limits(settings))))
    usable = sum(m.embeddings is not None and m.states is not None for m in markets)
    if usable < MIN_DECISIONS:
        raise JobError(
            f"only {usable} decisions from {first} to {last} have embeddings and market state known in time (the "
            f"active encoder is known from {encoder.known_from}); need {MIN_DECISIONS}. Run `make run-encoder` and "
            f"`make run-meta` with FROM/TO over the span, or give the policy a later span"
        )
    base_s = max(i.base_timeframe_s for i in instruments)
    start, end = to_unix(first), to_unix(last)
    series = [read_candles(database, i.id, base_s, start, end) for i in instruments]
    return TrainingData(
        times=times,
        markets=markets,
        grid=BarGrid.of(series, base_s, start, end),
        rules=trading_rules(instruments, settings),
        costs=Costs(execution.taker_fee_bps, execution.slippage_bps),
        delay_s=execution.delay_s,
        step_s=step_s,
    )


def train(data: TrainingData, steps: int, seed: int, progress: bool) -> tuple[bytes, dict[str, Any]]:
    """PPO (Schulman et al., 2017) by Stable-Baselines3; (ONNX bytes, metrics). Deterministic in data and seed."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    from policy.policy_export import export_actor
    from policy.train_progress import ProgressCallback

    torch.set_num_threads(1)
    split = int(len(data.times) * (1 - VALIDATION_SHARE))
    training = data.part(0, split)
    vector = DummyVecEnv([lambda: PortfolioEnv(training) for _ in range(ENVIRONMENTS)])
    vector.seed(seed)
    rollout = min(ROLLOUT, max(steps // ENVIRONMENTS, 8))
    model = PPO(
        "MlpPolicy",
        vector,
        n_steps=rollout,
        batch_size=min(512, rollout * ENVIRONMENTS),
        n_epochs=5,
        learning_rate=1e-4,
        gamma=0.98,
        gae_lambda=0.9,
        clip_range=0.2,
        target_kl=0.03,
        policy_kwargs={"net_arch": [64, 64], "log_std_init": -2.0},
        seed=seed,
        device="cpu",
    )
    with torch.no_grad():
        for parameter in model.policy.action_net.parameters():
            parameter.mul_(0.01)  # start at the baseline: a residual of nearly zero
    model.learn(total_timesteps=steps, callback=ProgressCallback(steps, progress))
    onnx = export_actor(model.policy)
    return onnx, {"steps": int(model.num_timesteps), **validate(data.part(split, len(data.times)), model)}


def validate(data: TrainingData, model: Any) -> dict[str, float]:
    """Log returns over the held-back end of the span, net of costs, beside the baseline (a residual of zero)."""

    def policy(observation: Any) -> FloatArray:
        action: FloatArray = model.predict(observation, deterministic=True)[0]
        return action

    usable, n = data.usable, data.grid.open.shape[1]
    first = usable.index(True) if any(usable) else len(usable)
    if len(usable) - first < MIN_VALIDATION:
        return {}  # said by its absence: the held-back end has too few moments with embeddings and regime
    data = data.part(first, len(usable))
    return {
        "validation_log_return": _run_through(data, policy),
        "validation_log_return_baseline": _run_through(data, lambda _: np.zeros(n)),
    }


def _run_through(data: TrainingData, act: Any) -> float:
    environment = PortfolioEnv(data, episode_steps=len(data.times), config=data.markets[0].config)
    observation, _ = environment.reset(seed=0, options={"start": 0})
    total, done = 0.0, False
    while not done:
        observation, _, ruined, over, info = environment.step(act(observation))
        total += info["log_return"]
        done = ruined or over
    return round(total, 6)


def _command(context: Context) -> Outcome:
    arguments, settings = context.arguments, context.settings
    if arguments.steps:
        settings = settings.model_copy(
            update={"policy": settings.policy.model_copy(update={"train_steps": arguments.steps})}
        )
    last = arguments.span_to or floor_time(context.clock.now(), settings.universe.decision_timeframe_s)
    encoder = active_model(context.database, "encoder")
    first = arguments.span_from or (encoder.known_from if encoder else None)
    if first is None:
        raise JobError("no active encoder; run `make train-encoder` first: the policy learns from its embeddings")
    return run_once(context.clock, context.database, settings, first, last, True)


def main(argv: list[str] | None = None) -> int:
    parser: argparse.ArgumentParser = job_parser(
        "Train the policy by PPO; default span: since the encoder is known.", span=True
    )
    parser.add_argument("--steps", type=int, help="training steps (default: settings)")
    return run_job_command("policy", parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
