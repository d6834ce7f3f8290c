"""The evaluation through the real jobs on a small market: rows, resuming, the ledger, and what may carry a verdict.

Only the policy's training is replaced: by nets that always want something else, made from their seed.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import SecretStr

from pipeline import evaluate
from pipeline.evaluate import Request, run_once
from pipeline.evaluation import fold as fold_module
from pipeline.evaluation.contestants import BASELINES, Contestant, read_contestants
from pipeline.evaluation.plan import make_profile
from pipeline.evaluation.scratch import (
    PREFIX,
    create_scratch,
    drop_all_scratch,
    drop_scratch,
    scratch_settings,
)
from policy.policy_network import ActorNet
from shared.clock import ReplayClock, to_unix
from shared.db import Database, connect, owner_url, role_url
from shared.embedded_db import ensure_running
from shared.performance import TrialsLedger
from shared.settings import LAYERS, Settings, SettingsError
from tests.helpers import random_candles, store_candles
from tests.shared.spine_rows import own_database

HOUR = 3600
END = datetime(2024, 6, 1, tzinfo=UTC)
CLOCK = ReplayClock(END)
DAYS = 124  # half is tested, and of fewer than 60 days no bootstrap tells anything
KEY = "evaluated" * 7
REQUEST = Request(folds=1, seeds=2, jobs=1)
World = tuple[Settings, Callable[[str], Database], "Seen"]


def net(seed: int) -> Any:
    torch.manual_seed(seed)
    made = ActorNet((8, 8))
    with torch.no_grad():
        made.linear[-1].weight.mul_(100.0)
    return SimpleNamespace(weights=made.weights(), metrics={"chosen": "pathwise"})


@dataclass
class Seen:
    """What happened: the seeds in the order in which they were trained, and what the killed run left."""

    trained: list[int] = field(default_factory=list)
    rows_left: set[str] = field(default_factory=set)
    scratch_left: set[str] = field(default_factory=set)


@pytest.fixture(scope="module", autouse=True)
def alone(home: Path) -> Iterator[None]:
    """Scratch databases are the server's, and forgetting drops all of them: one worker at a time has these tests."""
    with (home.parent / "scratch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")
def world(home: Path) -> Iterator[World]:
    """Candles of two instruments, evaluated once: killed as the ensemble's turn came, then gone on with."""
    seen = Seen()

    def train_seed(data: Any, plan: Any, seed: int, directory: Path) -> Any:
        seen.trained.append(seed)
        return net(seed)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with own_database(home, "evaluate") as (settings, database_for), pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold_module, "train_seed", train_seed)
        patch.setattr(fold_module, "load_training_data", lambda *_: None)
        patch.setattr(evaluate, "evaluation_key", lambda *_: KEY)  # somebody may edit the code meanwhile
        for seed, symbol in enumerate(("AAA/USDT", "BBB/USDT")):
            candles = random_candles(DAYS * 24, HOUR, seed, to_unix(END), 0.006)
            candles.volume[:] *= 1e4
            store_candles(database_for, "test", symbol, HOUR, candles)
        settings = small(settings)
        with patch.context() as first:
            first.setattr(fold_module._Test, "_ensemble", killed)
            with pytest.raises(KeyboardInterrupt):
                run_once(CLOCK, database_for("policy"), settings, REQUEST)
        seen.rows_left = {row.name for row in read_contestants(database_for("policy"), KEY)}
        seen.scratch_left = names_of_scratch(settings)
        assert run_once(CLOCK, database_for("policy"), settings, REQUEST).status == "done"
        yield settings, database_for, seen


def small(settings: Settings) -> Settings:
    encoder = settings.encoder.model_copy(update={"train_steps": 2, "batch_size": 16})
    return settings.model_copy(update={"encoder": encoder})


def rows_of(world: World) -> list[Contestant]:
    return read_contestants(world[1]("policy"), KEY)


def names_of_scratch(settings: Settings) -> set[str]:
    with connect(owner_url(settings)) as connection:
        found = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", (f"{PREFIX}%",))
        return {name for (name,) in found}


def test_each_fold_has_a_row_for_every_seed_the_ensemble_and_every_baseline(world: World) -> None:
    rows = rows_of(world)
    assert {(r.fold, r.name) for r in rows} == {(1, n) for n in ("seed 7", "seed 8", "ensemble", *BASELINES)}
    for row in rows:
        assert len(row.returns) == (row.test_to - row.test_from).days
        assert np.isfinite(row.returns).all()
        assert (row.model is None) == (row.kind == "baseline")


def test_what_a_killed_run_had_is_not_trained_again(world: World) -> None:
    seen = world[2]
    assert seen.rows_left == {"seed 7", "seed 8", *BASELINES}
    assert seen.scratch_left == {scratch_settings(world[0], KEY, 1).db_name}  # kept to go on in
    assert seen.trained == [7, 8]


def test_the_models_are_stored_with_what_it_takes_to_run_them_again(world: World) -> None:
    for row in rows_of(world):
        if row.kind == "seed":
            assert row.model is not None
            again = fold_module.Trained.from_bytes(row.model)
            wanted = net(int(row.name.split()[1])).weights
            assert all(np.array_equal(again.weights[name], wanted[name]) for name in wanted)
            assert again.metrics == {"chosen": "pathwise"}


def test_cash_earns_nothing_and_the_seeds_differ_from_the_baseline_and_from_each_other(world: World) -> None:
    returns = {r.name: r.returns for r in rows_of(world)}
    assert not returns["cash"].any()
    differing = [returns[name] for name in ("seed 7", "seed 8", "trend_vol_target")]
    assert all(np.abs(a - b).max() > 1e-4 for k, a in enumerate(differing) for b in differing[k + 1 :])


def test_contributions_of_the_symbols_add_up_to_the_returns(world: World) -> None:
    for row in rows_of(world):
        if "contributions" in row.metrics:
            summed = np.sum(list(row.metrics["contributions"].values()), axis=0)
            assert np.allclose(summed, row.returns, atol=1e-9)


def test_dearer_trading_never_leaves_more_of_the_same_weights(world: World) -> None:
    for row in rows_of(world):
        if row.kind == "ensemble":
            for name in ("policy", "baseline"):
                assert (np.diff(row.metrics["cost_curve"][name]) <= 1e-12).all()


def test_the_same_again_computes_nothing_and_is_the_same_row(world: World) -> None:
    settings, database_for, seen = world
    count = database_for("policy").fetch_one("SELECT count(*) AS n FROM evaluations")
    outcome = run_once(CLOCK, database_for("policy"), settings, REQUEST)
    assert (outcome.status, outcome.result["verdict"]) == ("nothing", "quick: no verdict")
    assert seen.trained == [7, 8]
    assert database_for("policy").fetch_one("SELECT count(*) AS n FROM evaluations") == count


def test_the_ledger_has_one_trial_for_each_seed_of_each_fold(world: World) -> None:
    trials = [t for t in TrialsLedger(world[0].home_path / fold_module.LEDGER).read().entries if t.what["key"] == KEY]
    assert [(t.what["fold"], t.what["seed"]) for t in trials] == [(1, 7), (1, 8)]
    returns = {r.name: r.returns for r in rows_of(world)}
    for trial in trials:
        active = returns[f"seed {trial.what['seed']}"] - returns["trend_vol_target"]
        assert trial.daily_active_sharpe == pytest.approx(active.mean() / active.std(ddof=1))


def test_the_main_database_keeps_its_models_and_no_scratch_database_stays(world: World) -> None:
    database_for = world[1]
    assert not database_for("policy").fetch("SELECT FROM models")
    assert not database_for("policy").fetch("SELECT FROM embeddings")
    assert not names_of_scratch(world[0])


def test_quick_has_no_verdict_and_says_so_everywhere(world: World) -> None:
    row = world[1]("policy").fetch_one("SELECT * FROM evaluations ORDER BY id LIMIT 1")
    assert row is not None
    assert (row["profile"], row["verdict"], row["provenance"]) == ("quick", None, "real")
    page = (world[0].home_path / "reports" / f"evaluation_{row['id']}.html").read_text()
    assert "quick: no verdict" in page
    results = row["results"]
    assert results["verdict"]["word"] in ("beats", "not worse", "baseline wins")
    assert {line["terms"] for line in results["terms"]} >= {"headline", "cost 10", "cost 80", "delay 60"}
    assert results["shifts"] is None  # 30-day shifts do not fit


@pytest.mark.parametrize(
    ("profile", "folds", "seeds", "provenance", "why"),
    [
        ("full", None, None, "real", ""),
        ("full", 3, None, "real", "on 3 folds"),
        ("full", None, 1, "real", "of 1 seeds"),
        ("full", None, None, "simulated", "SIMULATED"),
        ("quick", None, None, "real", "quick: no verdict"),
    ],
)
def test_only_a_whole_full_evaluation_of_real_candles_may_say_a_verdict(
    settings: Settings, profile: Any, folds: int | None, seeds: int | None, provenance: str, why: str
) -> None:
    made = make_profile(profile, settings, folds, seeds)
    source = SimpleNamespace(provenance=provenance)
    said = evaluate._why_no_verdict(made, source, settings)  # type: ignore[arg-type]
    assert (why in said) if why else said == ""


def test_a_scratch_database_is_made_dropped_and_never_any_other(settings: Settings) -> None:
    scratch = scratch_settings(settings, "abc" * 10, 1)
    create_scratch(settings, scratch)
    create_scratch(settings, scratch)
    database = Database(role_url(scratch, "encoder"))
    assert database.fetch("SELECT FROM models") == []
    database.close()
    drop_scratch(settings, scratch)
    drop_scratch(settings, scratch)
    assert scratch.db_name not in names_of_scratch(settings)
    create_scratch(settings, scratch)
    assert drop_all_scratch(settings) == [scratch.db_name]
    assert settings.db_name in {n for (n,) in connect(owner_url(settings)).execute("SELECT datname FROM pg_database")}
    with pytest.raises(SettingsError, match="no scratch database"):
        drop_scratch(settings, settings)


def test_a_server_of_the_users_own_is_used_the_same_way(home: Path, settings: Settings) -> None:
    server = ensure_running(home)
    url = owner_url(settings)
    roles = {f"db_password_{layer}": (home / "secrets" / f"sextant_{layer}").read_text().strip() for layer in LAYERS}
    external = settings.model_copy(
        update={"database_url": SecretStr(url)} | {n: SecretStr(p) for n, p in roles.items()}
    )
    scratch = scratch_settings(external, "def" * 10, 2)
    with connect(server.url("postgres", server.superuser_password, "template1")) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")  # what an administrator did there
    try:
        create_scratch(external, scratch)
        assert scratch.db_name in names_of_scratch(settings)
    finally:
        drop_scratch(external, scratch)
        with connect(server.url("postgres", server.superuser_password, "template1")) as connection:
            connection.execute("DROP EXTENSION vector")
    assert scratch.db_name not in names_of_scratch(settings)
