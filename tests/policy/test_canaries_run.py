"""The job of the canaries: a row under the recipe's hash, green or red, and a failure that names what is red."""

from __future__ import annotations

from typing import Any

import pytest

from policy.canaries import run_canaries
from policy.canaries.findings import Finding
from policy.recipe import recipe_hash
from shared.clock import ReplayClock
from shared.job import JobError
from tests.helpers import NOON, DatabaseFor

ROWS = "SELECT recipe_hash, green, results, seconds, recorded_at FROM canary_runs ORDER BY id"
GREEN, RED = Finding("fees", "rise", -0.1, "at most", 0.0), Finding("oracle", "share", 0.4, "at least", 0.9)


@pytest.mark.parametrize(("found", "green"), [([GREEN], True), ([GREEN, RED], False)])
def test_a_run_is_stored_under_the_recipe_and_red_fails_the_job(
    found: list[Finding], green: bool, database_for: DatabaseFor, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(run_canaries, "tasks_of", lambda long: [("null", 0)])
    monkeypatch.setattr(run_canaries, "work", lambda task: None)
    monkeypatch.setattr(run_canaries, "findings_of", lambda tasks, results: found)
    database = database_for("policy")
    if green:
        outcome = run_canaries.run_once(ReplayClock(NOON), database, jobs=1)
        assert outcome.result["green"] is True
    else:
        with pytest.raises(JobError, match=r"is RED: oracle \(share\)"):
            run_canaries.run_once(ReplayClock(NOON), database, jobs=1)
    (row,) = database.fetch(ROWS)
    assert (row["recipe_hash"], row["green"], row["recorded_at"]) == (recipe_hash(), green, NOON)
    assert [one["passed"] for one in row["results"]] == [one.passed for one in found]
    assert ("RED" in capsys.readouterr().out) is not green


def test_every_kind_of_task_has_its_work_and_its_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    from policy.canaries import proofs
    from policy.canaries.null import NullResult

    null = NullResult(0, "not worse", 0.5, "not worse", 0.0, 0.1, "ppo", (1.0, 2.0), (0.1, 0.2))
    answers: dict[str, Any] = {
        "prove_known_answer": [GREEN], "prove_oracle": [GREEN], "prove_parity": (250, []), "run_null": null,
    }  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(proofs, name, lambda *_, answer=answer: answer)
    tasks = run_canaries.tasks_of(long=False)
    findings = run_canaries.findings_of(tasks, [run_canaries.work(task) for task in tasks])
    assert {one.canary for one in findings} == {"fees", "null", "parity"}
    assert all(one.passed for one in findings)
    assert sum(kind == "null" for kind, _ in tasks) == 20
    assert sum(len(paths) for kind, paths in tasks if kind == "parity") == 1_000
    assert sum(kind == "null" for kind, _ in run_canaries.tasks_of(long=True)) == 100
