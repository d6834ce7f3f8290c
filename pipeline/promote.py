"""Lets a policy trade: writes the promotion and makes the model the active one, or says why not and what to run next.

It takes candles that are real, canaries that are green, and a full evaluation, all of the very code that made the model
(policy/recipe.py). Where the evaluation said "baseline wins", the residual is promoted at zero: the baseline trades.
``python -m pipeline.promote MODEL [--reason]``
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from policy.recipe import recipe_hash
from shared.clock import Clock
from shared.db import Database, load_queries
from shared.job import Context, JobError, Outcome, UsageError, job, job_parser, run_job_command
from shared.performance import EARNS

TRAIN = "`make train-policy`"

IN_WORDS = {
    "beats": "it beats the baseline",
    "not worse": "it is not worse than the baseline",
    "baseline wins": "the baseline wins",
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a promotion rests on."""

    evaluation_id: int
    canary_run_id: int
    verdict: str

    @property
    def residual(self) -> float:
        return 0.0 if self.verdict == "baseline wins" else 1.0


@job("promote")
def run_once(clock: Clock, database: Database, model_id: int, reason: str, issuer: str) -> Outcome:
    """Promotes, as role cli; UsageError for a policy that is not there, JobError with the first thing that is missing
    and what to run next."""
    if not reason.strip():
        raise UsageError("say why (REASON=…): a promotion is written down with its reason")
    evidence = find_evidence(database, model_id, recipe_hash())
    params = {"model_id": model_id, "reason": reason, "issuer": issuer, "at": clock.now()} | _ids(evidence)
    made = database.fetch_one(load_queries("policy_evaluation")["promote"], params)
    assert made is not None  # promote_policy returns an id or raises
    said = f"evaluation {evidence.evaluation_id}: {IN_WORDS[evidence.verdict]}"
    print(f"policy {model_id} is promoted and active ({said})")
    if evidence.residual == 0.0:
        print("its residual is at ZERO: what trades is the baseline, trend × volatility target")
    return Outcome("done", {"promotion_id": made["id"], "verdict": evidence.verdict, "residual": evidence.residual})


def _ids(evidence: Evidence) -> dict[str, int]:
    return {"evaluation_id": evidence.evaluation_id, "canary_run_id": evidence.canary_run_id}


def find_evidence(database: Database, model_id: int, recipe: str) -> Evidence:
    """The newest canaries and the newest verdict of ``recipe``, which must be the model's own."""
    queries, asked = load_queries("policy_evaluation"), {"recipe_hash": recipe}
    model = database.fetch_one(queries["policy_to_promote"], {"model_id": model_id})
    if model is None:
        raise UsageError(f"there is no policy model {model_id}; `make status` lists the models, {TRAIN} makes one")
    _require_fit(model, recipe)
    canaries = database.fetch_one(queries["newest_canary_run"], asked)
    if canaries is None:
        raise JobError(f"policy {model_id} is not promoted: no canaries were run on this code; run `make canaries`")
    if not canaries["green"]:
        raise JobError(
            f"policy {model_id} is not promoted: the canaries of {canaries['recorded_at']:%Y-%m-%d %H:%M} are not "
            "green; see what they found, mend it, and run `make canaries`"
        )
    evaluation = database.fetch_one(queries["newest_verdict"], asked)
    if evaluation is None:
        raise JobError(
            f"policy {model_id} is not promoted: there is no verdict on this code; run `make evaluate PROFILE=full` on "
            "real candles (hours)"
        )
    if model["training"] != evaluation["training"]:
        raise JobError(
            f"policy {model_id} is not promoted: it was trained by {_budget(model['training'])}, those of evaluation "
            f"{evaluation['id']} by {_budget(evaluation['training'])}; set [policy] alike and run {TRAIN} or `make "
            "evaluate PROFILE=full`"
        )
    found = Evidence(evaluation["id"], canaries["id"], evaluation["verdict"])
    earns = evaluation["p_earns"]["policy" if found.residual else "baseline"]
    if earns < EARNS:
        raise JobError(
            f"policy {model_id} is not promoted: in evaluation {found.evaluation_id} what would trade is not shown to "
            f"earn more than cash, P(net Sharpe > 0) = {earns:.2f} of {EARNS:.2f} asked for; hold cash, or train and "
            "evaluate on another history"
        )
    return found


def _budget(training: Mapping[str, Any] | None) -> str:
    return (
        ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in sorted((training or {}).items()))
        or "nobody knows"
    )


def _require_fit(model: Mapping[str, Any], recipe: str) -> None:
    name = f"policy {model['id']} is not promoted"
    if "simulated" in (model["provenance"], model["encoder_provenance"]):
        raise JobError(
            f"{name}: it, or its encoder, learnt from SIMULATED candles; fetch real ones (`make backfill`, `make "
            f"import-csv FILE=…`), then `make train-encoder` and {TRAIN}"
        )
    if model["recipe_hash"] != recipe:
        made = "it does not say by which code it was made" if model["recipe_hash"] is None else "other code made it"
        raise JobError(f"{name}: {made}, and what proves this code proves nothing about it; run {TRAIN}")


@dataclass(frozen=True, slots=True)
class Promotion:
    """On what terms a policy trades."""

    model_id: int
    verdict: str
    residual: float
    promoted_at: datetime


def promotion_of(database: Database, model_id: int) -> Promotion | None:
    """The newest promotion of a model; None for one that was never promoted."""
    row = database.fetch_one(load_queries("policy_evaluation")["newest_promotion"], {"model_id": model_id})
    return None if row is None else Promotion(model_id, row["verdict"], row["residual"], row["promoted_at"])


def promotion_line(database: Database, model_id: int) -> str:
    """What status says of the active policy."""
    found = promotion_of(database, model_id)
    if found is None:
        where = "where the market is real, it trades on paper only"
        return f"never promoted: {where}; `make promote MODEL={model_id}` asks for its proofs"
    said = f"promoted on {found.promoted_at:%Y-%m-%d}: {IN_WORDS[found.verdict]}"
    return f"{said}, so its residual is at ZERO and the baseline trades" if found.residual == 0.0 else said


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Promotes a policy that canaries and a full evaluation of its own code vouch for.")
    parser.add_argument("model", type=int, help="id of the policy model")
    parser.add_argument("--reason", default="operator's wish")
    return run_job_command("cli", parser, _work, argv)


def _work(context: Context) -> Outcome:
    return run_once(context.clock, context.database, context.arguments.model, context.arguments.reason, "cli")


if __name__ == "__main__":
    sys.exit(main())
