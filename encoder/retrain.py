"""Trains an encoder that somebody asked for: an operator's command, or the daily check.

Input: commands, trainings, market_data. Output: trainings, one row of models. ``python -m encoder.retrain [--at]``

A training is one row. A worker takes one and trains; who finds a worker at it leaves. One that died left its row
'running' and its checkpoints: the next worker goes on there. The new encoder is a candidate (make encoder-upgrade).
"""

from __future__ import annotations

import sys
from typing import Any

from shared.alerts import raise_alert
from shared.clock import Clock
from shared.db import Database, load_queries
from shared.errors import SextantError
from shared.job import Context, JobError, Outcome, job, job_parser, run_job_command
from shared.settings import Settings

MOST_ATTEMPTS = 3


@job("retrain_encoder")
def run_once(clock: Clock, database: Database, settings: Settings, progress: bool = False) -> Outcome:
    """Takes one open training and trains; JobError when that fails, TrainingStopped when it was asked to stop."""
    queries, now = load_queries("encoder"), clock.now()
    with database.transaction():
        database.execute(queries["claim_commands"], {"now": now})
        given_up = database.fetch(queries["give_up_trainings"], {"now": now, "most_attempts": MOST_ATTEMPTS})
        training = database.fetch_one(queries["take_training"], {"now": now})
    for row in given_up:
        _alert(database, clock, row["id"], row["error"])
    if training is None:
        return Outcome("nothing", {"because": "no training is asked for"})
    return _train(clock, database, settings, training, progress)


def _train(clock: Clock, database: Database, settings: Settings, training: dict[str, Any], progress: bool) -> Outcome:
    from encoder import train_encoder  # torch, which an hour without a training does not need
    from encoder.training import TrainingStopped

    attempt = training["attempts"]
    try:
        outcome = train_encoder.run_once(clock, database, settings, progress=progress)
    except TrainingStopped as stopped:
        _end(database, training, "stopped", error=str(stopped), attempts=attempt - 1)  # asked to stop: no failure
        raise
    except SextantError as error:
        failed = attempt >= MOST_ATTEMPTS
        _end(database, training, "failed" if failed else "queued", error=str(error), ended=clock if failed else None)
        if failed:
            _alert(database, clock, training["id"], str(error))
        raise JobError(f"training {training['id']}, attempt {attempt} of {MOST_ATTEMPTS}: {error}") from error
    if outcome.status == "busy":
        _end(database, training, "queued", attempts=attempt - 1)
        return Outcome("nothing", {"training": training["id"], "because": "another training runs; it is tried later"})
    _end(database, training, "done", model_id=outcome.result["model_id"], ended=clock)
    asked = {name: training[name] for name in ("reason", "requested_by")}
    return Outcome("done", {"training": training["id"], **asked, **outcome.result})


def _end(
    database: Database,
    training: dict[str, Any],
    status: str,
    *,
    model_id: int | None = None,
    error: str | None = None,
    attempts: int | None = None,
    ended: Clock | None = None,
) -> None:
    params = {
        "id": training["id"],
        "status": status,
        "model_id": model_id,
        "error": error,
        "attempts": training["attempts"] if attempts is None else attempts,
        "ended_at": ended and ended.now(),
    }
    database.execute(load_queries("encoder")["end_training"], params)


def _alert(database: Database, clock: Clock, training_id: int, error: str) -> None:
    message = f"training {training_id} failed {MOST_ATTEMPTS} times: {error}; ask again by `make retrain REASON=…`"
    raise_alert(database, clock.now(), "warning", f"training-failed:{training_id}", message)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Trains an encoder that was asked for, if one was.")
    return run_job_command("encoder", parser, _work, argv)


def _work(context: Context) -> Outcome:
    return run_once(context.clock, context.database, context.settings, progress=sys.stderr.isatty())


if __name__ == "__main__":
    sys.exit(main())
