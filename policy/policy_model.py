"""The policy model as the trader and the backtest use it: one observation in, one action out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from policy.observation import policy_schema
from shared.db import Database
from shared.model_store import Model, ModelRefused, active_model, model_by_id
from shared.rows import FloatArray


@dataclass(frozen=True, slots=True)
class PolicyModel:
    model: Model
    encoder: Model

    @property
    def id(self) -> int:
        return self.model.id

    @property
    def encoder_id(self) -> int:
        return self.encoder.id

    @property
    def known_from(self) -> datetime:
        return max(self.model.known_from, self.encoder.known_from)

    def act(self, observation: NDArray[np.float32]) -> FloatArray:
        """observation [D] -> action [N] in [-1, 1]."""
        (action,) = self.model.run({"observation": observation[None, :]})
        clipped: FloatArray = np.clip(action[0].astype(np.float64), -1.0, 1.0)
        return clipped


def load_policy(database: Database, symbols: Sequence[str], timeframe_s: int) -> PolicyModel | None:
    """The active policy with the encoder that it was trained on; ModelRefused where it does not fit."""
    model = active_model(database, "policy")
    if model is None:
        return None
    if model.encoder_id is None:
        raise ModelRefused(f"policy model {model.id} names no encoder; train it again with `make train-policy`")
    encoder = model_by_id(database, model.encoder_id)
    expected = policy_schema(symbols, timeframe_s, encoder.schema_hash)
    return PolicyModel(model_by_id(database, model.id, expected), encoder)


def usable_policy(
    database: Database, symbols: Sequence[str], timeframe_s: int, as_of: datetime
) -> tuple[PolicyModel | None, str]:
    """The policy, if it fits and was known at ``as_of``; else None and the reason, for the alert."""
    try:
        policy = load_policy(database, symbols, timeframe_s)
    except ModelRefused as error:
        return None, f"{error}; the baseline trades in its place"
    if policy is None:
        return None, "no active policy model: the baseline trades; run `make train-policy`"
    if policy.known_from > as_of:
        return None, f"policy model {policy.id} is only known from {policy.known_from}; the baseline trades at {as_of}"
    return policy, ""
