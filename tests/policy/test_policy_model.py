"""The policy model: one row an instrument in, an action and an agreement out, and what its promotion makes of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from psycopg.types.json import Json

from policy.decision_kernel import OBSERVATION_SIZE
from policy.observation import observation_names
from policy.policy_model import PolicyModel, load_policy, usable_policy
from shared.model_store import ModelRefused, save_model
from tests.helpers import NOON, DatabaseFor
from tests.policy.small_policy import REACH, save_small_policy, small_policy
from tests.shared.spine_rows import insert

pytestmark = pytest.mark.usefixtures("rolled_back")

HOUR = 3600
ENCODER_KNOWN = NOON - timedelta(days=60)


@pytest.fixture
def encoder(database_for: DatabaseFor) -> tuple[int, str]:
    """The id and the schema's hash of an encoder whose bytes could be loaded; nobody runs them here."""
    database = database_for("encoder")
    span = {"trained_from": ENCODER_KNOWN - timedelta(days=9), "trained_to": ENCODER_KNOWN, "label_horizon_s": 0}
    id_ = save_model(database, kind="encoder", onnx=small_policy(bias=0.5), schema={"kind": "test"}, **span,
                     provenance="real", encoder_id=None, metrics={}, recorded_at=NOON)  # fmt: skip
    (row,) = database.fetch("SELECT schema_hash FROM models")
    return id_, row["schema_hash"]


def saved(database_for: DatabaseFor, encoder: tuple[int, str], **changes: Any) -> int:
    return save_small_policy(database_for("policy"), *encoder, **changes)


def loaded(database_for: DatabaseFor) -> PolicyModel:
    policy = load_policy(database_for("policy"), HOUR)
    assert policy is not None
    return policy


def observations(n: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(n).uniform(-1, 1, (n, OBSERVATION_SIZE)).astype(np.float32)


def test_one_model_answers_for_any_number_of_instruments_each_by_its_own_row(
    database_for: DatabaseFor, encoder: tuple[int, str]
) -> None:
    saved(database_for, encoder, onnx_bytes=small_policy({"trend": 2.0}, bias=-0.25, agreement=0.75))
    policy, seen = loaded(database_for), observations(7)
    assert policy.reach == REACH
    together = policy.act(seen)
    trend = seen[:, observation_names().index("trend")]
    np.testing.assert_allclose(together.action, np.tanh(2.0 * trend - 0.25), rtol=1e-5)
    assert together.agreement.tolist() == [0.75] * 7
    assert (together.action.dtype, together.agreement.dtype, together.reach) == (np.float64, np.float64, REACH)
    for n in range(7):
        alone = policy.act(seen[n : n + 1])
        assert alone.action == pytest.approx([together.action[n]], rel=1e-6)


def promote(database_for: DatabaseFor, model_id: int, verdict: str) -> None:
    """As promote_policy() writes it."""
    owner = database_for("owner").connection
    if not database_for("owner").fetch("SELECT FROM evaluations"):
        evaluation = {
            "key": "k", "recipe_hash": "r", "profile": "full", "provenance": "real", "evaluated_from": ENCODER_KNOWN,
            "evaluated_to": NOON, "folds": 4, "seeds": 3, "results": Json({}), "verdict": verdict, "recorded_at": NOON,
        }  # fmt: skip
        insert(owner, "evaluations", evaluation)
        canaries = {"recipe_hash": "r", "green": True, "results": Json({}), "seconds": 1.0, "recorded_at": NOON}
        insert(owner, "canary_runs", canaries)
    promotion = {
        "model_id": model_id, "evaluation_id": 1, "canary_run_id": 1, "verdict": verdict,
        "residual": 0.0 if verdict == "baseline wins" else 1.0, "reason": "test", "issuer": "test", "promoted_at": NOON,
    }  # fmt: skip
    insert(owner, "promotions", promotion)


def test_the_newest_promotion_says_whether_the_residual_counts(
    database_for: DatabaseFor, encoder: tuple[int, str]
) -> None:
    """A residual of nothing is the baseline: no action, full agreement."""
    model = saved(database_for, encoder, onnx_bytes=small_policy(bias=1.0, agreement=0.5))
    seen, said = observations(2), []
    for verdict in (None, "baseline wins", "not worse", "baseline wins"):
        if verdict:
            promote(database_for, model, verdict)
        policy = loaded(database_for)
        answer = policy.act(seen)
        said.append((policy.residual_scale, round(answer.action[0], 3), answer.agreement[0]))
    added = (1.0, round(float(np.tanh(1.0)), 3), 0.5)
    assert said == [added, (0.0, 0.0, 1.0), added, (0.0, 0.0, 1.0)]


def test_another_models_promotion_says_nothing_about_this_one(
    database_for: DatabaseFor, encoder: tuple[int, str]
) -> None:
    other = saved(database_for, encoder, onnx_bytes=small_policy(bias=0.1))
    saved(database_for, encoder)
    promote(database_for, other, "baseline wins")
    assert loaded(database_for).residual_scale == 1.0


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"reach": 0.0}, "reach 0.0, which is not above 0"),
        ({"reach": 1.5}, "reach 1.5"),
        ({"reach": None}, "reach None"),
        ({"timeframe_s": 300}, "timeframe_s is 3600, this program wants 300"),
        ({"observation": ["price"]}, r"observation is \['price'\]"),
        ({"onnx_bytes": small_policy(bias=float("nan"))}, "its action of 2 instruments is"),
        ({"onnx_bytes": small_policy(agreement=float("nan"))}, "its agreement of 2 instruments is"),
        ({"onnx_bytes": small_policy(outputs=("action",))}, "does not answer"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_what_is_wrong(
    database_for: DatabaseFor, encoder: tuple[int, str], changes: dict[str, Any], why: str
) -> None:
    timeframe_s = changes.get("timeframe_s", HOUR)
    saved(database_for, encoder, **{name: value for name, value in changes.items() if name != "timeframe_s"})
    with pytest.raises(ModelRefused, match=why):
        load_policy(database_for("policy"), timeframe_s)
    policy, problem = usable_policy(database_for("policy"), timeframe_s, NOON)
    assert policy is None
    assert problem.endswith("the baseline trades in its place")


def test_a_policy_of_another_encoders_schema_is_refused(database_for: DatabaseFor, encoder: tuple[int, str]) -> None:
    save_small_policy(database_for("policy"), encoder[0], "of another encoder")
    with pytest.raises(ModelRefused, match="encoder_schema_hash is 'of another encoder'"):
        load_policy(database_for("policy"), HOUR)


def test_a_policy_is_usable_from_when_it_was_known(database_for: DatabaseFor, encoder: tuple[int, str]) -> None:
    known = NOON - timedelta(days=3)
    saved(database_for, encoder, to=known)
    assert usable_policy(database_for("policy"), HOUR, known)[0] is not None
    policy, problem = usable_policy(database_for("policy"), HOUR, known - timedelta(seconds=1))
    assert policy is None
    assert "is only known from" in problem


def test_without_a_policy_there_is_none_and_the_reason(database_for: DatabaseFor) -> None:
    assert load_policy(database_for("policy"), HOUR) is None
    assert "run `make train-policy`" in usable_policy(database_for("policy"), HOUR, NOON)[1]
