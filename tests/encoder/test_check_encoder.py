"""The daily check finds an old, a drifted and a degraded encoder, says so once a day, and asks for one training."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from encoder import check_encoder
from encoder.check_encoder import Findings, judge, measure, measure_drift, population_stability_index, run_once
from encoder.embedding_rows import Moments, write_embeddings
from encoder.inference import Embedded
from encoder.outcomes import Seen
from shared.clock import ReplayClock, to_unix
from shared.db import Database
from shared.model_store import model_by_id
from shared.rows import FloatArray
from shared.settings import Settings
from tests.encoder.small_encoder import save_encoder
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles

HOUR = 3600
TODAY = datetime.fromisoformat("2024-09-20T00:00:00+00:00")
TRAINED_TO = TODAY - timedelta(days=100)
KNOWN = TRAINED_TO + timedelta(hours=10)
GOOD = Findings(1.0, 0.1, 0.3, 0.2, 0.01, 1.0)


def moments(days: float, seed: int = 0, instruments: int = 1) -> Seen:
    """Independent random embeddings, hourly, of the days before TODAY."""
    rng, n = np.random.default_rng(seed), int(days * 24)
    as_of = np.tile(to_unix(TODAY) - HOUR * np.arange(n)[::-1], instruments)
    ids = np.repeat(np.arange(instruments), n)
    return Seen(ids, as_of, rng.normal(0, 1, (len(as_of), 64)), np.full(len(as_of), 0.5), np.zeros(len(as_of)))


def slow_index(before: FloatArray, after: FloatArray) -> float:
    """Bin by bin, value by value."""
    edges = [-np.inf, *np.quantile(before, np.arange(1, 10) / 10), np.inf]
    total = 0.0
    for low, high in pairwise(edges):
        p, q = ((sum(low < value <= high for value in values) + 0.5) / (len(values) + 5) for values in (before, after))
        total += (q - p) * np.log(q / p)
    return total


@hypothesis(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.floats(-3, 3), st.integers(5, 300))
def test_the_index_is_that_of_the_book(seed: int, shift: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.normal(0, 1, (200, 3)), rng.normal(shift, 1, (n, 3))
    found = population_stability_index(before, after)
    assert found == pytest.approx([slow_index(before[:, d], after[:, d]) for d in range(3)])
    assert (found >= 0).all()


def test_the_index_of_itself_is_zero_and_grows_with_the_shift() -> None:
    before = np.random.default_rng(0).normal(0, 1, (5000, 1))
    found = [population_stability_index(before, before + shift)[0] for shift in (0.0, 0.1, 0.5, 1.0)]
    assert found[0] == pytest.approx(0)
    assert found == sorted(found)
    assert found[1] < 0.1 < 0.2 < found[2]


def test_drift_is_found_where_it_is_and_not_where_it_is_not() -> None:
    reference = moments(120)
    same = measure_drift(reference, moments(7, seed=1))
    assert same is not None
    assert same.share == 0
    recent = moments(7, seed=1)
    moved = recent.embedding.copy()
    moved[:, :40] += 2.0
    drift = measure_drift(reference, replace(recent, embedding=moved))
    assert drift is not None
    assert drift.share == 40 / 64
    assert (drift.index[:40] > 1).all()
    assert (drift.index[40:] < 0.25).all()


def test_a_reference_whose_weeks_differ_as_much_is_no_drift() -> None:
    """A dimension that wanders from week to week has not drifted when it wanders on."""
    reference, recent = moments(112), moments(7, seed=1)
    wandering = reference.embedding + 3 * ((np.arange(len(reference)) // (7 * 24)) % 4)[:, None]
    drift = measure_drift(replace(reference, embedding=wandering), recent)
    assert drift is not None
    assert (drift.index > 0.25).all()
    assert drift.share == 0


@pytest.mark.parametrize(("days", "recent"), [(120, 3), (20, 7), (80, 7), (0, 7), (120, 0)])
def test_of_too_few_embeddings_no_drift_is_told(days: float, recent: float) -> None:
    assert measure_drift(moments(days), moments(recent, seed=1)) is None


def test_only_instruments_that_both_have_are_compared() -> None:
    reference, recent = moments(120), moments(7, seed=1, instruments=2)
    strange = np.where(recent.instrument_id[:, None] == 1, recent.embedding + 9, recent.embedding)
    drift = measure_drift(reference, replace(recent, embedding=strange))
    alone = measure_drift(reference, recent.select(recent.instrument_id == 0))
    assert drift is not None
    assert alone is not None
    assert drift.index.tolist() == alone.index.tolist()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"stale_days": 14.0, "drift_share": 0.25, "ood_share": 0.1, "error_ratio": 1.25}, []),  # at the limits
        ({"stale_days": 14.1}, ["stale"]),
        ({"drift_share": 0.26}, ["drifted"]),
        ({"ood_share": 0.11}, ["unusual"]),
        ({"error_ratio": 1.26}, ["degraded"]),
        ({"drift_share": None, "psi_max": None, "psi_mean": None, "ood_share": None, "error_ratio": None}, []),
        ({"stale_days": 20.0, "error_ratio": 3.0}, ["stale", "degraded"]),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], found: list[str]) -> None:
    assert list(judge(replace(GOOD, **changes), 14.0)) == found


@pytest.fixture
def encoder(database_for: DatabaseFor, monkeypatch: pytest.MonkeyPatch) -> Database:
    """An active encoder, and what a test says was measured: ``check_encoder.measure`` gives GOOD."""
    save_encoder(database_for, trained_to=TRAINED_TO)
    monkeypatch.setattr(check_encoder, "measure", lambda *_: GOOD)
    return database_for("encoder")


def check(encoder: Database, settings: Settings, hours: float = 5) -> dict[str, Any]:
    outcome = run_once(ReplayClock(TODAY + timedelta(hours=hours)), encoder, settings)
    return {"status": outcome.status, **outcome.result}


def rows(database: Database, table: str) -> list[dict[str, Any]]:
    return database.fetch(f"SELECT * FROM {table} ORDER BY 1")  # type: ignore[arg-type]


def test_a_day_is_checked_once_and_written_down(encoder: Database, settings: Settings) -> None:
    assert check(encoder, settings)["verdict"] == "good"
    assert check(encoder, settings, 20)["status"] == "nothing"
    (row,) = rows(encoder, "encoder_checks")
    expected = {"as_of": TODAY, "stale_days": 1.0, "drift_share": 0.1, "psi_max": 0.3, "ood_share": 0.01,
                "error_ratio": 1.0, "verdict": "good", "recorded_at": TODAY + timedelta(hours=5)}  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert check(encoder, settings, 24)["status"] == "done"
    assert [row["as_of"] for row in rows(encoder, "encoder_checks")] == [TODAY, TODAY + timedelta(days=1)]
    assert rows(encoder, "alerts") == rows(encoder, "trainings") == []


@pytest.mark.parametrize(
    ("changes", "trains"),
    [
        ({"stale_days": 15.0}, 0),
        ({"ood_share": 0.5}, 0),
        ({"drift_share": 0.9}, 1),
        ({"error_ratio": 2.0}, 1),
        ({"drift_share": 0.9, "error_ratio": 2.0, "stale_days": 20.0}, 1),
    ],
)
def test_each_finding_is_an_alert_and_drift_or_lost_knowledge_asks_for_one_training(
    encoder: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], trains: int
) -> None:
    monkeypatch.setattr(check_encoder, "measure", lambda *_: replace(GOOD, **changes))
    result = check(encoder, settings)
    assert len(rows(encoder, "alerts")) == len(changes) == len(result["verdict"].split(", "))
    assert result["training_asked"] is bool(trains)
    for day in (1, 2):
        assert check(encoder, settings, 24 * day + 1)["training_asked"] is False
    asked = rows(encoder, "trainings")
    assert [row["status"] for row in asked] == ["queued"] * trains
    for row in asked:
        assert row["requested_by"] == "check_encoder"
        assert row["reason"].startswith("encoder 1: ")
        assert "training ends" not in row["reason"], "age alone is no reason"


@pytest.mark.parametrize(("days", "asked"), [(13, False), (15, True)])
def test_a_newer_encoder_that_waits_too_long_to_be_switched_to_does_not_count(
    database_for: DatabaseFor, encoder: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch,
    days: int, asked: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(check_encoder, "measure", lambda *_: replace(GOOD, drift_share=0.9))
    save_encoder(database_for, 1, TRAINED_TO + timedelta(days=1), recorded_at=TODAY - timedelta(days=days))
    assert check(encoder, settings)["training_asked"] is asked


def test_what_cannot_be_told_is_not_called_good(
    encoder: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_encoder, "measure", lambda *_: replace(GOOD, error_ratio=None))
    assert check(encoder, settings)["verdict"] == "good, as far as can be told"


def test_without_an_active_encoder_there_is_nothing_to_check(database_for: DatabaseFor, settings: Settings) -> None:
    assert "make train-encoder" in check(database_for("encoder"), settings)["because"]


def fill(
    database_for: DatabaseFor, first: datetime, forget_from: datetime | None = None, move_from: datetime | None = None
) -> dict[str, Any]:
    """An encoder whose first dimension tells the volatility ahead, until it forgets; which moves by and by."""
    database, n = database_for("encoder"), 24 * 230
    rng = np.random.default_rng(5)
    wild = np.repeat(rng.choice([1.0, 4.0], n // 24 + 2), 24)[: n + 24]  # a day is calm or wild
    candles = random_candles(n + 24, HOUR, 6, end=to_unix(TODAY))
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.002, n + 24) * wild))
    candles = replace(candles, open=close, high=close * 1.0001, low=close * 0.9999, close=close)
    instrument_id = store_candles(database_for, "test", "AAA/USDT", HOUR, candles)
    model_id = save_encoder(database_for, trained_to=TRAINED_TO)
    r = np.diff(np.log(close), prepend=np.log(close[0])) ** 2
    ahead = np.log(np.sqrt(np.convolve(r, np.ones(24) / 24)[23:][1 : n + 25]))
    chosen = (candles.as_of >= first.timestamp()) & (np.arange(len(candles)) >= 24)
    embedding = rng.normal(0, 1, (len(candles), 64))
    embedding[:, 0] = np.resize(ahead, len(candles)) * 3
    if forget_from is not None:
        embedding[candles.as_of >= forget_from.timestamp(), 0] = 0
    if move_from is not None:
        embedding[candles.as_of >= move_from.timestamp(), 10:50] += 3
    ood = np.where(candles.as_of > to_unix(TODAY) - 48 * HOUR, 0.995, 0.5)
    embedded = Embedded(embedding[chosen].astype(np.float32), ood[chosen])
    ids = np.full(int(chosen.sum()), instrument_id)
    write_embeddings(
        database, model_by_id(database, model_id), HOUR, Moments(ids, candles.as_of[chosen]), embedded, NOON
    )
    return {"id": model_id, "trained_to": TRAINED_TO, "known_from": KNOWN}


LONG_AGO = TODAY - timedelta(days=229)


def test_measures_of_an_encoder_that_is_as_it_was(database_for: DatabaseFor) -> None:
    found = measure(database_for("encoder"), fill(database_for, LONG_AGO), HOUR, TODAY)
    assert found.stale_days == 100
    assert found.drift_share == 0
    assert found.psi_max is not None
    assert found.ood_share == pytest.approx(48 / 168)
    assert found.error_ratio is not None
    assert 0.7 < found.error_ratio < 1.25


def test_an_encoder_that_forgot_has_a_higher_error(database_for: DatabaseFor) -> None:
    model = fill(database_for, LONG_AGO, forget_from=TODAY - timedelta(days=9))
    found = measure(database_for("encoder"), model, HOUR, TODAY)
    assert found.error_ratio is not None
    assert found.error_ratio > 2
    assert measure(database_for("encoder"), model, HOUR, TODAY - timedelta(days=9)).error_ratio == pytest.approx(
        1, abs=0.3
    )


def test_an_encoder_that_moved_has_drifted(database_for: DatabaseFor) -> None:
    found = measure(
        database_for("encoder"), fill(database_for, LONG_AGO, move_from=TODAY - timedelta(days=7)), HOUR, TODAY
    )
    assert found.drift_share == pytest.approx(40 / 64, abs=0.02)


def test_without_embeddings_of_the_training_span_the_first_known_ones_are_the_reference(
    database_for: DatabaseFor,
) -> None:
    model = fill(database_for, KNOWN, move_from=TODAY - timedelta(days=7))
    found = measure(database_for("encoder"), model, HOUR, TODAY)
    assert found.drift_share == pytest.approx(40 / 64, abs=0.02)
    assert found.error_ratio is None, "there is nothing known with the model to fit a probe on"


def test_the_future_is_not_read(database_for: DatabaseFor) -> None:
    model = fill(database_for, LONG_AGO)
    encoder, day = database_for("encoder"), TODAY - timedelta(days=5)
    before = measure(encoder, model, HOUR, day)
    database_for("owner").execute(
        "UPDATE market_data SET high = high * 2, close = open * 1.5 WHERE as_of > %(day)s", {"day": day}
    )
    database_for("owner").execute("UPDATE embeddings SET ood = 1 WHERE as_of > %(day)s", {"day": day})
    assert measure(encoder, model, HOUR, day) == before


def test_the_command_checks(
    encoder: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shared.job.load_settings", lambda: settings)
    assert check_encoder.main(["--at", TODAY.isoformat()]) == 0
    assert '"verdict": "good"' in capsys.readouterr().err
