"""A promotion: refused until every proof is there, each refusal with what to run next; then the model is active."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Json

from pipeline import promote
from shared.clock import ReplayClock
from shared.db import load_queries
from shared.job import JobError, UsageError
from tests.helpers import NOON, DatabaseFor
from tests.shared.spine_rows import insert

RECIPE = "a" * 64
BUDGET = {"seeds": 3, "pathwise_steps": 1500, "ppo_steps": 200_000}
CLOCK = ReplayClock(NOON)


@pytest.fixture(autouse=True)
def _recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promote, "recipe_hash", lambda: RECIPE)


def add_model(database_for: DatabaseFor, name: str, recipe: str | None = RECIPE, **changed: Any) -> int:
    """A policy on its own encoder; bytes that nobody runs here."""
    provenance = changed.get("provenance", "real")
    encoder = _model(database_for, "encoder", f"encoder of {name}", changed.get("encoder_provenance", provenance))
    metrics = {"training": changed.get("training", BUDGET)} | ({} if recipe is None else {"recipe": recipe})
    status = changed.get("status", "candidate")
    return _model(database_for, "policy", name, provenance, encoder_id=encoder, metrics=Json(metrics), status=status)


def _model(database_for: DatabaseFor, kind: str, name: str, provenance: str, **changed: Any) -> int:
    onnx = name.encode()
    row = {
        "kind": kind, "onnx": onnx, "sha256": hashlib.sha256(onnx).hexdigest(), "schema": Json({}), "schema_hash": "",
        "trained_from": NOON - timedelta(days=9), "trained_to": NOON - timedelta(days=1), "label_horizon_s": 0,
        "known_from": NOON, "provenance": provenance, "metrics": Json({}), "status": "candidate", "recorded_at": NOON,
    } | changed  # fmt: skip
    insert(database_for(kind).connection, "models", row)
    found = database_for(kind).fetch_one("SELECT max(id) AS id FROM models")
    assert found is not None
    return int(found["id"])


def add_canaries(database_for: DatabaseFor, green: bool = True, recipe: str = RECIPE) -> int:
    row = {"recipe_hash": recipe, "green": green, "results": Json({}), "seconds": 1.0, "recorded_at": NOON}
    made = database_for("policy").fetch_one(load_queries("policy_evaluation")["insert_canary_run"], row)
    assert made is not None
    return int(made["id"])


def add_evaluation(database_for: DatabaseFor, verdict: str | None, profile: str = "full", recipe: str = RECIPE,
                   earns: tuple[float, float] = (0.95, 0.95)) -> int:  # fmt: skip
    row = {
        "key": f"{verdict} {profile}", "recipe_hash": recipe, "profile": profile, "provenance": "real",
        "evaluated_from": NOON - timedelta(days=365), "evaluated_to": NOON, "folds": 4, "seeds": 3,
        "results": Json({"training": BUDGET, "p_earns": {"policy": earns[0], "baseline": earns[1]}}),
        "verdict": verdict, "recorded_at": NOON,
    }  # fmt: skip
    made = database_for("policy").fetch_one(load_queries("policy_evaluation")["insert_evaluation"], row)
    assert made is not None
    return int(made["id"])


def run(database_for: DatabaseFor, model: int) -> dict[str, Any]:
    return promote.run_once(CLOCK, database_for("cli"), model, "to see", "test").result


def statuses(database_for: DatabaseFor) -> dict[int, str]:
    return {
        r["id"]: r["status"] for r in database_for("cli").fetch("SELECT id, status FROM models WHERE kind='policy'")
    }


def test_each_missing_proof_is_named_with_what_to_run_next(database_for: DatabaseFor) -> None:
    with pytest.raises(UsageError, match="no policy model 1; `make status`"):
        run(database_for, 1)
    model = add_model(database_for, "p")
    add_canaries(database_for, recipe="other")
    with pytest.raises(JobError, match="no canaries were run on this code; run `make canaries`"):
        run(database_for, model)
    add_canaries(database_for)
    add_canaries(database_for, green=False)
    with pytest.raises(JobError, match="are not green"):
        run(database_for, model)
    add_canaries(database_for)
    add_evaluation(database_for, None, profile="quick")
    add_evaluation(database_for, "beats", recipe="other")
    with pytest.raises(JobError, match="no verdict on this code; run `make evaluate PROFILE=full`"):
        run(database_for, model)
    assert not database_for("cli").fetch("SELECT FROM promotions")
    assert statuses(database_for) == {model: "candidate"}


@pytest.mark.parametrize("simulated", [{"provenance": "simulated"}, {"encoder_provenance": "simulated"}])
def test_what_learnt_from_simulated_candles_is_refused(database_for: DatabaseFor, simulated: dict[str, str]) -> None:
    model = add_model(database_for, "p", **simulated)
    add_canaries(database_for)
    add_evaluation(database_for, "beats")
    with pytest.raises(JobError, match="SIMULATED"):
        run(database_for, model)


@pytest.mark.parametrize(("recipe", "why"), [("b" * 64, "other code made it"), (None, "does not say by which code")])
def test_a_model_of_other_code_is_refused(database_for: DatabaseFor, recipe: str | None, why: str) -> None:
    model = add_model(database_for, "p", recipe)
    add_canaries(database_for)
    add_evaluation(database_for, "beats")
    with pytest.raises(JobError, match=f"{why}.*make train-policy"):
        run(database_for, model)


def test_a_model_trained_for_another_time_than_those_evaluated_is_refused(database_for: DatabaseFor) -> None:
    model = add_model(database_for, "p", training=BUDGET | {"ppo_steps": 1})
    canary_run, evaluation = add_canaries(database_for), add_evaluation(database_for, "beats")
    with pytest.raises(JobError, match=r"trained by 1,500 pathwise steps, 1 ppo steps, 3 seeds, those.*make evaluate"):
        run(database_for, model)
    row = {"model_id": model, "evaluation_id": evaluation, "canary_run_id": canary_run}
    with pytest.raises(psycopg.errors.RaiseException, match="not trained as long"):
        database_for("cli").execute(
            load_queries("policy_evaluation")["promote"], row | {"reason": "r", "issuer": "i", "at": NOON}
        )


@pytest.mark.parametrize(("verdict", "residual"), [("beats", 1.0), ("not worse", 1.0), ("baseline wins", 0.0)])
def test_a_promotion_makes_the_model_active_with_the_residual_of_its_verdict(
    database_for: DatabaseFor, verdict: str, residual: float, capsys: pytest.CaptureFixture[str]
) -> None:
    before = add_model(database_for, "before", status="active")
    model = add_model(database_for, "p")
    canaries, evaluation = add_canaries(database_for), add_evaluation(database_for, verdict)
    assert run(database_for, model)["residual"] == residual
    assert ("ZERO" in capsys.readouterr().out) == (residual == 0.0)
    assert statuses(database_for) == {before: "retired", model: "active"}
    row = database_for("cli").fetch_one("SELECT * FROM promotions")
    assert row is not None
    wanted = {"model_id": model, "canary_run_id": canaries, "evaluation_id": evaluation, "verdict": verdict}
    assert row | wanted == row
    assert (row["residual"], row["reason"], row["issuer"], row["promoted_at"]) == (residual, "to see", "test", NOON)
    said = promote.promotion_line(database_for("cli"), model)
    assert ("baseline trades" in said) == (residual == 0.0)
    assert "never promoted" in promote.promotion_line(database_for("cli"), before)


def test_the_newest_verdict_counts_and_a_promotion_can_be_taken_back_by_another(database_for: DatabaseFor) -> None:
    model = add_model(database_for, "p")
    add_canaries(database_for)
    add_evaluation(database_for, "beats")
    assert run(database_for, model)["residual"] == 1.0
    add_evaluation(database_for, "baseline wins")
    assert run(database_for, model)["residual"] == 0.0
    found = promote.promotion_of(database_for("cli"), model)
    assert found is not None
    assert (found.verdict, found.residual) == ("baseline wins", 0.0)


def test_a_promotion_needs_a_reason(database_for: DatabaseFor) -> None:
    with pytest.raises(UsageError, match="say why"):
        promote.run_once(CLOCK, database_for("cli"), 1, " ", "test")


def test_the_database_itself_refuses_what_the_program_would_not_ask_for(database_for: DatabaseFor) -> None:
    model, simulated = add_model(database_for, "p"), add_model(database_for, "s", provenance="simulated")
    green, red, foreign = (
        add_canaries(database_for),
        add_canaries(database_for, False),
        add_canaries(database_for, recipe="b"),
    )
    full, quick = add_evaluation(database_for, "beats"), add_evaluation(database_for, None, "quick")
    cases = [
        (model, full, 99, "there is no policy"), (simulated, full, green, "simulated"),
        (model, quick, green, "no verdict"), (model, full, red, "not green"),
        (model, full, foreign, "different recipes"),
    ]  # fmt: skip
    promoted = load_queries("policy_evaluation")["promote"]
    for model_id, evaluation_id, canary_run_id, why in cases:
        row = {"model_id": model_id, "evaluation_id": evaluation_id, "canary_run_id": canary_run_id}
        with pytest.raises(psycopg.errors.RaiseException, match=why):
            database_for("cli").execute(promoted, row | {"reason": "r", "issuer": "i", "at": NOON})
    row = {"model_id": model, "evaluation_id": full, "canary_run_id": green, "reason": "r", "issuer": "i", "at": NOON}
    for role in ("policy", "encoder", "sender", "candles", "meta_controller"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            database_for(role).execute(promoted, row)


def test_only_a_full_evaluation_has_a_verdict(database_for: DatabaseFor) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="only_full_and_real_has_a_verdict"):
        add_evaluation(database_for, "beats", profile="quick")


@pytest.mark.parametrize(("verdict", "earns"), [("beats", (0.8, 0.99)), ("baseline wins", (0.99, 0.8))])
def test_what_is_not_shown_to_earn_more_than_cash_is_not_promoted(
    database_for: DatabaseFor, verdict: str, earns: tuple[float, float]
) -> None:
    """Of a baseline that loses, who loses less is no reason to trade: judged is what would trade."""
    model = add_model(database_for, "one")
    canaries, evaluation = add_canaries(database_for), add_evaluation(database_for, verdict, earns=earns)
    with pytest.raises(JobError, match="not shown to earn more than cash"):
        run(database_for, model)
    with pytest.raises(psycopg.errors.RaiseException, match="earns more than cash"):
        database_for("cli").execute(
            "SELECT promote_policy(%(m)s, %(e)s, %(c)s, 'because', 'test', %(at)s)",
            {"m": model, "e": evaluation, "c": canaries, "at": NOON},
        )
