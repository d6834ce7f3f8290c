"""The policy model as the trader and the backtest use it: one observation in, what it adds to the baseline out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from policy.decision_kernel import OBSERVATION_SIZE
from policy.observation import policy_schema
from policy.strategies.residual import Residual
from shared.db import Database, load_queries
from shared.model_store import Model, ModelRefused, load_model_once


@dataclass(frozen=True, slots=True)
class PolicyModel:
    """``residual_scale`` is what the model's promotion says of its residual: 0 where the evaluation said that the
    baseline wins, so that the baseline trades; 1 where it was promoted for what it adds, or not promoted yet."""

    model: Model
    encoder: Model
    residual_scale: float = 1.0
    verdict: str = ""  # of its promotion, empty where it was never promoted

    @property
    def id(self) -> int:
        return self.model.id

    @property
    def encoder_id(self) -> int:
        return self.encoder.id

    @property
    def known_from(self) -> datetime:
        return max(self.model.known_from, self.encoder.known_from)

    @property
    def reach(self) -> float:
        return float(self.model.schema["reach"])

    def act(self, observation: NDArray[np.float32]) -> Residual:
        """observation [N, OBSERVATION_SIZE] -> actions [N] in [-1, 1] and agreements [N] in [0, 1]."""
        action, agreement = (output.astype(np.float64) for output in self.model.run({"observation": observation}))
        scale = self.residual_scale
        return Residual(
            action=scale * np.clip(action, -1.0, 1.0),
            agreement=1.0 - scale * (1.0 - np.clip(agreement, 0.0, 1.0)),
            reach=self.reach,
        )


def load_policy(database: Database, timeframe_s: int) -> PolicyModel | None:
    """The active policy with the encoder that it was trained on; ModelRefused where it does not fit."""
    row = database.fetch_one(load_queries("policy")["active_policy"])
    if row is None:
        return None
    model = load_model_once(database, row["id"], row["sha256"])
    if model.encoder_id is None:
        raise ModelRefused(f"policy model {model.id} names no encoder; train it again with `make train-policy`")
    encoder = load_model_once(database, model.encoder_id, row["encoder_sha256"])
    expected = policy_schema(timeframe_s, encoder.schema_hash, _reach_of(model))
    terms = (1.0, "") if row["residual"] is None else (row["residual"], row["verdict"])
    policy = PolicyModel(load_model_once(database, model.id, row["sha256"], expected), encoder, *terms)
    _check_answers(policy)
    return policy


def _reach_of(model: Model) -> float:
    """What its actions are multiplied by: the model was trained with it, so its schema says it."""
    reach = model.schema.get("reach")
    if not isinstance(reach, int | float) or not 0.0 < reach <= 1.0:
        raise ModelRefused(
            f"policy model {model.id} is refused: its schema says reach {reach!r}, which is not above 0 and at most 1; "
            "train a new one with `make train-policy`"
        )
    return float(reach)


def _check_answers(policy: PolicyModel) -> None:
    """Two instruments, nothing observed: a model that has no finite answer to that has none to anything."""
    try:
        answer = policy.act(np.zeros((2, OBSERVATION_SIZE), np.float32))
    except Exception as error:  # onnxruntime's errors share no other base class
        raise ModelRefused(
            f"policy model {policy.id} is refused: it does not answer [N, {OBSERVATION_SIZE}] with actions and "
            f"agreements ({error}); train a new one with `make train-policy`"
        ) from error
    for name, values in (("action", answer.action), ("agreement", answer.agreement)):
        if values.shape != (2,) or not np.isfinite(values).all():
            raise ModelRefused(
                f"policy model {policy.id} is refused: its {name} of 2 instruments is {values.tolist()}; "
                "train a new one with `make train-policy`"
            )


def usable_policy(database: Database, timeframe_s: int, as_of: datetime) -> tuple[PolicyModel | None, str]:
    """The policy, if it fits and was known at ``as_of``; else None and the reason, for the alert."""
    try:
        policy = load_policy(database, timeframe_s)
    except ModelRefused as error:
        return None, f"{error}; the baseline trades in its place"
    if policy is None:
        return None, "no active policy model: the baseline trades; run `make train-policy`"
    if policy.known_from > as_of:
        return None, f"policy model {policy.id} is only known from {policy.known_from}; the baseline trades at {as_of}"
    return policy, ""
