"""An upgrade ends with the new encoder active and filled as far back as the old one, or with nothing changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from encoder import upgrade
from encoder.comparison import Comparison
from encoder.run_encoder import run_once as run_encoder
from encoder.schema import encoder_schema
from encoder.upgrade import run_once, switch
from policy.inputs import Inputs
from policy.policy_model import load_policy
from policy.run_trader import operator_limits
from shared.clock import ReplayClock, to_unix
from shared.db import Database, connect, role_url
from shared.embeddings import read_embeddings
from shared.job import JobError, UsageError
from shared.market_data import find_instruments
from shared.model_store import ModelRefused, active_model, schema_hash
from shared.settings import Settings
from tests.encoder.small_encoder import save_encoder, small_encoder
from tests.encoder.test_run_encoder import save_policy, statuses
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles
from tests.policy.small_policy import save_small_policy

HOUR = 3600
NOW = NOON + timedelta(hours=300)
SERIES = {
    symbol: random_candles(900, HOUR, seed, end=to_unix(NOW)) for seed, symbol in enumerate(("AAA/USDT", "BBB/USDT"))
}
SPAN = (NOW - timedelta(hours=600), NOW)
SHORT = (NOW - timedelta(hours=60), NOW)
CLOCK = ReplayClock(NOW)
ALIKE = Comparison(1000, 500, False, 0.30, 0.27, 0.2, 0.6, 0.01)


@pytest.fixture
def encoder(database_for: DatabaseFor) -> Database:
    for symbol, candles in SERIES.items():
        store_candles(database_for, "test", symbol, HOUR, candles)
    return database_for("encoder")


@pytest.fixture
def old(database_for: DatabaseFor, encoder: Database, settings: Settings) -> int:
    """The active encoder, with embeddings of 60 hours."""
    model_id = save_encoder(database_for, trained_to=NOON - timedelta(days=10))
    run_encoder(CLOCK, encoder, settings, SHORT)
    return model_id


@pytest.fixture
def alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "compare", lambda *_: ALIKE)


def rows_of(database: Database) -> dict[int, int]:
    rows = database.fetch("SELECT model_id, count(*) AS n FROM embeddings GROUP BY model_id ORDER BY model_id")
    return {row["model_id"]: row["n"] for row in rows}


def indexes(database: Database) -> list[str]:
    rows = database.fetch("SELECT indexname FROM pg_indexes WHERE indexname LIKE 'embeddings_of_%' ORDER BY 1")
    return [row["indexname"] for row in rows]


def test_an_upgrade_fills_compares_switches_and_retires(
    database_for: DatabaseFor, encoder: Database, settings: Settings, old: int
) -> None:
    new = save_encoder(database_for, seed=1)
    policy = save_policy(database_for, old)
    run_encoder(CLOCK, encoder, settings, SPAN)
    before = encoder.fetch("SELECT * FROM embeddings ORDER BY instrument_id, as_of")
    outcome = run_once(CLOCK, encoder, settings)
    assert outcome.status == "done"
    assert statuses(database_for) == {old: "retired", new: "active"}
    assert rows_of(encoder) == {old: len(before), new: len(before)}
    assert outcome.result["embedded"] == len(before) == 2 * 601
    query = "SELECT * FROM embeddings WHERE model_id = %(id)s ORDER BY instrument_id, as_of"
    assert encoder.fetch(query, {"id": old}) == before, "rows that decisions cite stay as they were"
    assert indexes(encoder) == [f"embeddings_of_{new}"]
    assert outcome.result["policy"].startswith(f"policy {policy} goes on with encoder {old}, which run_encoder keeps")
    result = outcome.result
    assert not result["in_sample"]
    assert (result["moments"], result["scored"]) == (2 * 601, 2 * (300 - 24 - 10 + 1))
    assert result["r2_old"] is not None
    assert result["r2_new"] is not None
    assert result["overlap"] > 3 * result["overlap_by_chance"], "two projections of the same features are alike"
    run_encoder(ReplayClock(NOW), encoder, settings)
    current = encoder.fetch("SELECT model_id, count(*) AS n FROM current_embeddings GROUP BY model_id")
    assert current == [{"model_id": new, "n": 2}]


def test_after_the_upgrade_both_encoders_are_written_until_the_policy_is_trained_again(
    database_for: DatabaseFor, encoder: Database, settings: Settings, old: int, alike: None
) -> None:
    new = save_encoder(database_for, seed=1)
    save_policy(database_for, old)
    run_once(CLOCK, encoder, settings)
    database_for("owner").execute("DELETE FROM embeddings WHERE as_of = %(now)s", {"now": NOW})
    assert run_encoder(ReplayClock(NOW), encoder, settings).result["by_model"] == {str(new): 2, str(old): 2}
    save_policy(database_for, new, plus=1)
    database_for("owner").execute("DELETE FROM embeddings WHERE as_of = %(now)s", {"now": NOW})
    assert run_encoder(ReplayClock(NOW), encoder, settings).result == {
        "model_id": new, "embedded": 2, "windows_with_gaps": {},
    }  # fmt: skip


def test_a_policy_reads_the_encoder_it_learnt_from_and_no_other(
    database_for: DatabaseFor, encoder: Database, settings: Settings, old: int, alike: None
) -> None:
    new = save_encoder(database_for, seed=1)
    symbols = ("AAA/USDT", "BBB/USDT")
    save_small_policy(database_for("policy"), old, schema_hash(encoder_schema(HOUR)))
    run_once(CLOCK, encoder, settings)
    policy = load_policy(database_for("policy"), HOUR)
    assert policy is not None
    assert policy.encoder_id == old
    instruments = find_instruments(encoder, "test", symbols)
    for model_id in (old, new):
        inputs = Inputs(
            database_for("policy"), instruments, HOUR, "live", model_id, operator_limits(settings), NOW, NOW, 7200
        )
        stored = read_embeddings(encoder, model_id, [i.id for i in instruments], HOUR, 0, to_unix(NOW))
        assert inputs.at(NOW).ood.tolist() == [stored[i.id].ood[-1] for i in instruments]
    database_for("owner").execute("DELETE FROM embeddings WHERE model_id = %(id)s", {"id": old})
    inputs = Inputs(database_for("policy"), instruments, HOUR, "live", old, operator_limits(settings), NOW, NOW, 7200)
    assert np.isnan(inputs.at(NOW).ood).all(), "another model's rows are no substitute"


def test_with_nothing_to_switch_to_nothing_happens_but_the_index(
    database_for: DatabaseFor, encoder: Database, settings: Settings, old: int
) -> None:
    outcome = run_once(CLOCK, encoder, settings)
    assert outcome.status == "nothing"
    assert "make train-encoder" in outcome.result["because"]
    assert "TO_MODEL" not in outcome.result["because"]
    assert run_once(CLOCK, encoder, settings, to=old).status == "nothing"
    assert statuses(database_for) == {old: "active"}
    assert indexes(encoder) == [f"embeddings_of_{old}"]


def test_the_shadow_in_progress_comes_before_candidates_and_of_these_the_newest(
    database_for: DatabaseFor, encoder: Database, settings: Settings, old: int, alike: None
) -> None:
    days = (-8, -5, -7)
    first, second, third = (
        save_encoder(database_for, seed, NOON + timedelta(days=day)) for seed, day in enumerate(days, 1)
    )
    encoder.execute("UPDATE models SET status = 'shadow' WHERE id = %(id)s", {"id": first})
    run_once(CLOCK, encoder, settings)
    assert statuses(database_for) == {old: "retired", first: "active", second: "candidate", third: "candidate"}
    run_once(CLOCK, encoder, settings)
    assert statuses(database_for) == {old: "retired", first: "retired", second: "active", third: "candidate"}
    encoder.execute("UPDATE models SET status = 'shadow' WHERE id = %(id)s", {"id": third})
    run_once(CLOCK, encoder, settings, to=old)  # the way back; another shadow steps back
    assert statuses(database_for) == {old: "active", first: "retired", second: "retired", third: "candidate"}
    assert indexes(encoder) == [f"embeddings_of_{old}"]


@pytest.mark.parametrize("status", ["candidate", "shadow"])
@pytest.mark.parametrize("days", [-10, -11])  # as old as the active one, older
def test_without_being_told_it_never_goes_back(
    database_for: DatabaseFor, encoder: Database, settings: Settings, old: int, alike: None, days: int, status: str
) -> None:
    other = save_encoder(database_for, seed=1, trained_to=NOON + timedelta(days=days))
    encoder.execute("UPDATE models SET status = %(to)s WHERE id = %(id)s", {"id": other, "to": status})
    outcome = run_once(CLOCK, encoder, settings)
    assert outcome.status == "nothing"
    assert (
        f"Trained until no later than it: {other} ({status}); to take one of them, TO_MODEL="
        in outcome.result["because"]
    )
    assert statuses(database_for) == {old: "active", other: status}
    assert run_once(CLOCK, encoder, settings, to=other).status == "done"
    assert statuses(database_for) == {old: "retired", other: "active"}


def test_an_encoder_that_is_not_there_is_bad_usage(encoder: Database, settings: Settings, old: int) -> None:
    with pytest.raises(UsageError, match=rf"--to 99: there is no such encoder; there are {old} \(active\)"):
        run_once(CLOCK, encoder, settings, to=99)


def test_without_an_active_encoder_or_its_embeddings_it_says_what_to_do(
    database_for: DatabaseFor, encoder: Database, settings: Settings
) -> None:
    with pytest.raises(JobError, match="make train-encoder"):
        run_once(CLOCK, encoder, settings)
    old, new = save_encoder(database_for), save_encoder(database_for, 1, NOON + timedelta(hours=1))
    with pytest.raises(JobError, match="make run-encoder"):
        run_once(CLOCK, encoder, settings)
    assert statuses(database_for) == {old: "active", new: "candidate"}


def test_a_worse_encoder_is_retired_and_forced(
    database_for: DatabaseFor, encoder: Database, settings: Settings, old: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = save_encoder(database_for, seed=1)
    worse = Comparison(1000, 500, False, 0.30, 0.249, 0.049, 0.6, 0.01)
    monkeypatch.setattr(upgrade, "compare", lambda *_: worse)
    with pytest.raises(JobError, match=rf"clearly worse than .*0\.249 against 0\.300.*TO_MODEL={new} FORCE=1"):
        run_once(CLOCK, encoder, settings)
    assert statuses(database_for) == {old: "active", new: "retired"}
    assert "job-failed:encoder_upgrade" in {row["key"] for row in encoder.fetch("SELECT key FROM alerts")}
    assert run_once(CLOCK, encoder, settings).status == "nothing", "it was judged once"
    run_once(CLOCK, encoder, settings, to=new, force=True)
    assert statuses(database_for) == {old: "retired", new: "active"}


def test_of_a_fresh_encoder_nothing_can_be_said_until_eight_days_after_it_was_known(
    database_for: DatabaseFor, encoder: Database, settings: Settings, old: int
) -> None:
    known = NOW - timedelta(days=8)
    run_encoder(CLOCK, encoder, settings, SPAN)
    new = save_encoder(database_for, seed=1, trained_to=known - timedelta(hours=10))
    early = run_once(ReplayClock(NOW - timedelta(hours=1)), encoder, settings)
    assert (early.status, early.result["shadow"], early.result["in_sample"]) == ("nothing", new, True)
    assert "make encoder-upgrade` again in 1 day, or switch now with FORCE=1" in early.result["because"]
    assert statuses(database_for) == {old: "active", new: "shadow"}
    assert indexes(encoder) == [f"embeddings_of_{old}"], "it has no index before it is active"
    encoder.execute("UPDATE models SET status = 'candidate' WHERE id = %(id)s", {"id": new})
    outcome = run_once(CLOCK, encoder, settings)
    assert (outcome.status, outcome.result["in_sample"]) == ("done", False)
    assert statuses(database_for) == {old: "retired", new: "active"}


def test_a_fresh_encoder_can_be_forced(
    database_for: DatabaseFor, encoder: Database, settings: Settings, old: int
) -> None:
    new = save_encoder(database_for, seed=1, trained_to=NOW - timedelta(hours=10))
    outcome = run_once(CLOCK, encoder, settings)
    assert "again in 8 days" in outcome.result["because"]
    assert run_once(CLOCK, encoder, settings, force=True).status == "done"
    assert statuses(database_for) == {old: "retired", new: "active"}


def test_of_too_few_moments_it_says_how_there_are_more(
    database_for: DatabaseFor, encoder: Database, settings: Settings, old: int
) -> None:
    new = save_encoder(database_for, seed=1)
    outcome = run_once(CLOCK, encoder, settings)
    assert outcome.status == "nothing"
    assert "both have 122 moments in common, too few" in outcome.result["because"]
    assert "make run-encoder FROM=" in outcome.result["because"]
    assert statuses(database_for) == {old: "active", new: "shadow"}
    run_encoder(CLOCK, encoder, settings, SPAN)
    assert run_once(CLOCK, encoder, settings).status == "done"


def test_the_index_is_built_after_the_switch_and_a_busy_table_delays_neither(
    database_for: DatabaseFor, encoder: Database, settings: Settings, old: int, alike: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run_once(CLOCK, encoder, settings)
    new = save_encoder(database_for, seed=1)
    at_the_switch: list[list[str]] = []
    monkeypatch.setattr(upgrade, "switch", lambda *a: (at_the_switch.append(indexes(encoder)), switch(*a)))
    for function in ("build_analog_index", "drop_analog_index"):
        settings_of = encoder.fetch_one("SELECT proconfig FROM pg_proc WHERE proname = %(name)s", {"name": function})
        assert settings_of is not None
        assert "lock_timeout=5s" in settings_of["proconfig"]
        database_for("owner").connection.execute(f"ALTER FUNCTION {function} SET lock_timeout = '50ms'")
    reader = database_for("policy")
    with reader.transaction():
        reader.fetch("SELECT FROM embeddings LIMIT 1")
        outcome = run_once(CLOCK, encoder, settings)
    assert at_the_switch == [[f"embeddings_of_{old}"]]
    assert outcome.status == "done"
    (warning,) = outcome.result["warnings"]
    assert "drop analog indexes of retired was put off" in warning
    assert indexes(encoder) == [f"embeddings_of_{old}", f"embeddings_of_{new}"]
    assert run_once(CLOCK, encoder, settings).status == "nothing"
    assert indexes(encoder) == [f"embeddings_of_{new}"]


@pytest.mark.parametrize(("r2", "p"), [(0.251, 0.01), (0.1, 0.051)])
def test_a_little_worse_or_worse_by_chance_is_not_clearly_worse(
    database_for: DatabaseFor, encoder: Database, settings: Settings, old: int, monkeypatch: pytest.MonkeyPatch,
    r2: float, p: float,
) -> None:  # fmt: skip
    new = save_encoder(database_for, seed=1)
    monkeypatch.setattr(upgrade, "compare", lambda *_: Comparison(1000, 500, False, 0.30, r2, p, 0.6, 0.01))
    run_once(CLOCK, encoder, settings)
    assert statuses(database_for) == {old: "retired", new: "active"}


@pytest.mark.parametrize("wrong", ["schema", "lengths"])
def test_an_encoder_that_does_not_fit_is_refused_and_the_old_one_stays(
    database_for: DatabaseFor, encoder: Database, settings: Settings, old: int, wrong: str
) -> None:
    more: dict[str, Any] = {"timeframe_s": 300} if wrong == "schema" else {"onnx": small_encoder(1, length=2.0)}
    new = save_encoder(database_for, seed=1, **more)
    with pytest.raises(ModelRefused, match=f"encoder model {new} is refused"):
        run_once(CLOCK, encoder, settings)
    assert statuses(database_for) == {old: "active", new: "retired"}
    assert rows_of(encoder) == {old: 2 * 61}


STEPS = ("_begin_dual_write", "_back_fill", "_compare", "switch", "settle_indexes")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_one_encoder_is_active_and_the_next_run_ends_the_work(
    database_for: DatabaseFor, encoder: Database, settings: Settings, old: int, alike: None,
    monkeypatch: pytest.MonkeyPatch, step: str, when: str,
) -> None:  # fmt: skip
    new = save_encoder(database_for, seed=1)
    work: Callable[..., Any] = getattr(upgrade, step)

    def killed(*arguments: Any) -> Any:
        if when == "after":
            work(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(upgrade, step, killed)
        with pytest.raises(KeyboardInterrupt):
            run_once(CLOCK, encoder, settings)
    after = statuses(database_for)
    assert list(after.values()).count("active") == 1
    assert after[old] == ("retired" if step == "settle_indexes" or (step, when) == ("switch", "after") else "active")
    run_encoder(CLOCK, encoder, settings)  # the hourly job goes on in between
    run_once(CLOCK, encoder, settings)
    assert statuses(database_for) == {old: "retired", new: "active"}
    assert rows_of(encoder) == {old: 2 * 61, new: 2 * 61}
    assert indexes(encoder) == [f"embeddings_of_{new}"]


def test_a_switch_whose_connection_dies_between_its_two_steps_has_not_happened(
    database_for: DatabaseFor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = save_encoder(database_for), save_encoder(database_for, seed=1)
    database_for("encoder").execute("UPDATE models SET status = 'shadow' WHERE id = %(id)s", {"id": new})
    dying = Database(role_url(settings, "encoder"))
    change = upgrade._change

    def change_and_die(database: Database, model_id: int, *statuses: str) -> None:
        change(database, model_id, *statuses)
        with connect(role_url(settings, "encoder")) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [dying.connection.info.backend_pid])

    monkeypatch.setattr(upgrade, "_change", change_and_die)
    with pytest.raises(Exception, match=r"terminat|closed|lost"):
        switch(dying, old, new)
    assert statuses(database_for) == {old: "active", new: "shadow"}
    active = active_model(database_for("policy"), "encoder")
    assert active is not None
    assert active.id == old


def test_a_switch_of_something_else_is_refused_whole(database_for: DatabaseFor) -> None:
    old, new = save_encoder(database_for), save_encoder(database_for, seed=1)
    with pytest.raises(JobError, match=f"encoder {new} is no longer shadow"):
        switch(database_for("encoder"), old, new)
    assert statuses(database_for) == {old: "active", new: "candidate"}


def test_the_command_prints_the_comparison(
    database_for: DatabaseFor, encoder: Database, settings: Settings, old: int, alike: None,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("shared.job.load_settings", lambda: settings)
    new = save_encoder(database_for, seed=1)
    save_policy(database_for, old)
    assert upgrade.main(["--at", NOW.isoformat(), "--to", "77"]) == 2
    assert encoder.fetch("SELECT FROM alerts") == []
    assert upgrade.main(["--at", NOW.isoformat(), "--to", str(new), "--force"]) == 0
    told = capsys.readouterr().err
    for part in (f"encoder {old} → {new}", "0.300", "0.270", "0.600", "0.010", "out of sample", "make train-policy"):
        assert part in told
    assert json.loads(told.splitlines()[-1])["active"] == new
    assert upgrade.main(["--at", NOW.isoformat()]) == 0
