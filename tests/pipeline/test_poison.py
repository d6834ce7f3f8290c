"""A row knows when it was known: with another future, everything known before it is the same to the last bit."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.replay import logged_in, replay
from shared.db import Database
from shared.model_store import active_model
from shared.rows import Candles
from shared.settings import Settings
from tests.conftest import database_maker
from tests.pipeline.conftest import TRAINED
from tests.pipeline.world import (
    HOURS,
    TRADES_FROM,
    install_random_policy,
    make_plan,
    make_series,
    poison,
    prepare,
    small,
)

POLICY = 7  # the seed of nets that trade in these hours

# Everything that was known at a moment, without serial ids, which count attempts and not facts. A row's own
# recorded_at is in: the replayed clock writes it.
KNOWN = {
    "models": "SELECT kind, sha256, schema_hash, trained_from, trained_to, known_from, metrics FROM models "
    "WHERE known_from <= %(t)s ORDER BY kind, sha256",
    "embeddings": "SELECT instrument_id, as_of, embedding::text AS embedding, ood, known_from, recorded_at "
    "FROM embeddings WHERE known_from <= %(t)s ORDER BY instrument_id, as_of",
    "market_state": "SELECT to_jsonb(s) - 'id' AS row FROM market_state s WHERE known_from <= %(t)s "
    "ORDER BY track, as_of, horizon_s",
    "policy_config": "SELECT to_jsonb(c) - 'id' AS row FROM policy_config c WHERE known_from <= %(t)s "
    "ORDER BY as_of, track",
    "decisions": "SELECT instrument_id, as_of, wanted_weight, allowed_weight, clamps, reason, price, quantity_held, "
    "cash, equity, observation_hash, recorded_at FROM decisions WHERE as_of <= %(t)s ORDER BY as_of, instrument_id",
    "orders": "SELECT instrument_id, side, quantity, not_before, deadline, recorded_at FROM orders "
    "WHERE recorded_at <= %(delayed)s ORDER BY recorded_at, instrument_id",
    "fills": "SELECT side, quantity, price, cost, fee, filled_at FROM fills WHERE recorded_at <= %(t)s "
    "ORDER BY filled_at, side, quantity",
}

CASES = [
    (TRADES_FROM + timedelta(hours=hours), kind)
    for hours, kind in [
        (0, "crash"), (1, "flat"), (3, "gone"), (4, "reversed"), (6, "crash"),
        (8, "flat"), (9, "gone"), (11, "reversed"), (13, "crash"), (15, "gone"),
    ]
]  # fmt: skip
# Training is over before any of these moments, so the first one asks it everything; TRAIN_EACH=1 trains for all.
TRAINED_ANEW = CASES if os.environ.get("TRAIN_EACH") == "1" else CASES[:1]  # noqa: TID251 (of the tests)

Known = dict[str, list[dict[str, Any]]]


def known_at(database: Database, t: datetime, delay: timedelta) -> Known:
    return {name: database.fetch(query, {"t": t, "delayed": t + delay}) for name, query in KNOWN.items()}


def live_through(settings: Settings, series: dict[str, Candles], moments: list[datetime]) -> dict[datetime, Known]:
    """Trades to the end, and tells what was known at each of ``moments``; trains first where nothing is trained."""
    plan = make_plan(series, "1h", HOURS)
    delay = timedelta(seconds=settings.execution.delay_s)
    with logged_in(settings) as databases:
        if active_model(databases["cli"], "policy") is None:
            prepare(databases, settings, plan)
        install_random_policy(databases, settings, plan, seed=POLICY)
        replay(plan.train_to, plan.end, databases, settings, plan.exchange)
        return {t: known_at(databases["cli"], t, delay) for t in [*moments, plan.end]}


@pytest.fixture(scope="module")
def as_it_was(trained_home: Path) -> dict[datetime, Known]:
    with database_maker(trained_home, TRAINED) as make:
        known = live_through(small(make(), "1h"), make_series("1h", HOURS), [t for t, _ in CASES])
    assert len(known[max(known)]["fills"]) > 5, "what trades nothing has no orders and fills to compare"
    return known


def check_the_past(as_it_was: dict[datetime, Known], poisoned: dict[datetime, Known], t: datetime) -> None:
    for table, rows in as_it_was[t].items():
        assert rows == poisoned[t][table], f"{table} known at {t} changed with the future"
    assert all(poisoned[t][table] for table in ("models", "embeddings", "market_state", "policy_config", "decisions"))
    end = max(as_it_was)
    assert as_it_was[end] != poisoned[end], "the poisoned future left no trace: the test would see nothing"


def name_of(value: str | datetime) -> str:
    return value if isinstance(value, str) else f"{value:%d-%H}"


@pytest.mark.parametrize(("t", "kind"), TRAINED_ANEW, ids=name_of)
def test_what_was_learnt_and_known_does_not_depend_on_what_came_later(
    settings: Settings, as_it_was: dict[datetime, Known], t: datetime, kind: str
) -> None:
    """Trained anew with the other future already there to be seen."""
    series = poison(make_series("1h", HOURS), t, kind)
    check_the_past(as_it_was, live_through(small(settings, "1h"), series, [t]), t)


@pytest.mark.parametrize(("t", "kind"), CASES[1:], ids=name_of)
def test_what_was_known_does_not_depend_on_what_came_later(
    trained_settings: Callable[[], Settings], as_it_was: dict[datetime, Known], t: datetime, kind: str
) -> None:
    series = poison(make_series("1h", HOURS), t, kind)
    check_the_past(as_it_was, live_through(trained_settings(), series, [t]), t)
