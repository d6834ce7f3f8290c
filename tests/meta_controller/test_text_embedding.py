from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_controller.llm import Endpoint
from meta_controller.text_embedding import LOCAL, TEXT_SIZE, embed_locally, prepare_embedding, stored_embedding
from shared.clock import ReplayClock
from shared.settings import PROJECT, LlmModelSettings, Settings
from tests.helpers import NOON, DatabaseFor
from tests.llm_emulator.fixtures import llm_emulator  # noqa: F401
from tests.llm_emulator.server import LlmEmulator

pytestmark = pytest.mark.usefixtures("rolled_back")

ENDPOINT = Endpoint("http://127.0.0.1:9/v1", "secret", "some-model")
CHEAP = LlmModelSettings(input_usd=0.02, output_usd=0.0, knowledge_cutoff=date(2024, 1, 1))
TEXT = "asset 1 trend up; volatility high; drawdown -0.12"
CALLS = "SELECT * FROM llm_calls ORDER BY id"
HOUR = timedelta(hours=1)


def with_model(settings: Settings, **changes: Any) -> Settings:
    llm = settings.llm.model_copy(update={"embedding_model": "embedder", "models": {"embedder": CHEAP}} | changes)
    return settings.model_copy(update={"llm": llm})


def cosine(a: str, b: str) -> float:
    return float(embed_locally(a) @ embed_locally(b))


@given(st.text())
def test_every_text_points_somewhere(text: str) -> None:
    vector = embed_locally(text)
    assert (vector.shape, vector.dtype) == ((TEXT_SIZE,), np.float32)
    assert abs(float(vector @ vector) - 1.0) < 1e-5


def test_the_same_text_is_the_same_vector_in_every_process() -> None:
    code = f"from meta_controller.text_embedding import embed_locally as e; print(e({TEXT!r}).tobytes().hex())"
    run = [sys.executable, "-c", code]
    said = [subprocess.run(run, cwd=PROJECT, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed})
            for seed in ("1", "2")]  # fmt: skip
    assert {one.stdout.strip() for one in said} == {embed_locally(TEXT).tobytes().hex()}


def test_texts_that_share_words_are_alike_and_others_are_not() -> None:
    assert cosine(TEXT, TEXT.upper()) == pytest.approx(1.0)
    assert cosine(TEXT, TEXT.replace("high", "low")) > 0.6
    assert abs(cosine(TEXT, "nothing whatever in common with this sentence here")) < 0.3
    assert cosine("volatility high trend low", "volatility low trend high") < 0.9  # the order of words tells
    assert cosine("ret -0.8", "ret 0.8") < 0.9  # the sign of a number too


def test_words_that_are_not_alike_stay_apart_on_average() -> None:
    rng = np.random.default_rng(3)
    texts = [" ".join(f"w{n}" for n in rng.integers(0, 10**9, 40)) for _ in range(60)]
    vectors = np.stack([embed_locally(text) for text in texts])
    apart = (vectors @ vectors.T)[~np.eye(60, dtype=bool)]
    assert abs(apart.mean()) < 0.01  # signs: collisions cancel instead of adding up
    assert 0.5 / np.sqrt(TEXT_SIZE) < apart.std() < 2 / np.sqrt(TEXT_SIZE)


def refusing(*_: Any) -> list[float] | str:
    raise AssertionError("nothing was to be asked")


def test_without_a_model_or_an_endpoint_nothing_is_asked(database_for: DatabaseFor, settings: Settings) -> None:
    database, clock = database_for("meta_controller"), ReplayClock(NOON)
    assert prepare_embedding(database, settings, ENDPOINT, TEXT, NOON, clock, embed=refusing) == LOCAL
    assert prepare_embedding(database, with_model(settings), None, TEXT, NOON, clock, embed=refusing) == LOCAL
    assert database.fetch(CALLS) == []
    vector = stored_embedding(database, LOCAL, TEXT, NOON)
    assert vector is not None
    assert (vector == embed_locally(TEXT)).all()


def test_the_endpoints_vector_is_recorded_paid_and_asked_for_once(
    database_for: DatabaseFor, settings: Settings, llm_emulator: LlmEmulator  # noqa: F811
) -> None:  # fmt: skip
    database, clock = database_for("meta_controller"), ReplayClock(NOON)
    endpoint = Endpoint(llm_emulator.base_url, "a-secret-key", "some-model")
    assert prepare_embedding(database, with_model(settings), endpoint, TEXT, NOON, clock) == "embedder"
    again = prepare_embedding(database, with_model(settings), endpoint, TEXT, NOON, clock, embed=refusing)
    assert again == "embedder"
    (call,) = database.fetch(CALLS)
    assert (call["purpose"], call["model"], call["status"], call["as_of"]) == (
        "embedding",
        "embedder",
        "answered",
        NOON,
    )
    assert 0 < call["cost_usd"] <= call["reserved_usd"]
    assert "a-secret-key" not in str(call)
    vector = stored_embedding(database, "embedder", TEXT, NOON)
    assert vector is not None
    assert vector.tolist() == np.asarray(call["answer"]["embedding"], np.float32).tolist()
    assert float(vector @ vector) == pytest.approx(1.0)
    assert stored_embedding(database, "embedder", TEXT + ".", NOON) is None
    assert stored_embedding(database, "another", TEXT, NOON) is None
    assert stored_embedding(database, "embedder", TEXT, NOON - HOUR / 3600) is None


def test_a_vector_counts_from_when_it_had_come(database_for: DatabaseFor, settings: Settings) -> None:
    database, clock = database_for("meta_controller"), ReplayClock(NOON)

    def slow(*_: Any) -> list[float] | str:
        clock.set(NOON + HOUR)
        return [1.0] * TEXT_SIZE

    prepare_embedding(database, with_model(settings), ENDPOINT, TEXT, NOON, clock, embed=slow)
    (call,) = database.fetch(CALLS)
    assert (call["recorded_at"], call["ended_at"], call["latency_s"]) == (NOON, NOON + HOUR, 3600.0)
    assert stored_embedding(database, "embedder", TEXT, NOON + HOUR / 2) is None
    vector = stored_embedding(database, "embedder", TEXT, NOON + HOUR)
    assert vector is not None
    assert vector.tolist() == [1 / 16] * TEXT_SIZE


@pytest.mark.parametrize(
    ("embed", "error"),
    [
        (lambda *_: "127.0.0.1:9 answers 500", "answers 500"),
        (lambda *_: [1.0] * 255, "no direction"),
        (lambda *_: [0.0] * 256, "no direction"),
        (lambda *_: [float("nan")] * 256, "no direction"),
        (lambda *_: [1e300] * 256, "no direction"),
    ],
)
def test_an_endpoint_that_fails_leaves_the_local_embedder(
    embed: Callable[..., Any], error: str, database_for: DatabaseFor, settings: Settings
) -> None:
    database, clock = database_for("meta_controller"), ReplayClock(NOON)
    with np.errstate(over="ignore"):
        assert prepare_embedding(database, with_model(settings), ENDPOINT, TEXT, NOON, clock, embed=embed) == LOCAL
    (call,) = database.fetch(CALLS)
    assert (call["status"], call["answer"]) == ("failed", None)
    assert error in call["error"]
    assert stored_embedding(database, "embedder", TEXT, NOON) is None


@pytest.mark.parametrize("changes", [{"models": {}}, {"usd_a_month": 0.0}])
def test_what_could_cost_too_much_is_not_asked(
    changes: dict[str, Any], database_for: DatabaseFor, settings: Settings
) -> None:
    database, clock = database_for("meta_controller"), ReplayClock(NOON)
    dear = with_model(settings, **changes)
    assert prepare_embedding(database, dear, ENDPOINT, TEXT, NOON, clock, embed=refusing) == LOCAL
    assert database.fetch(CALLS) == []
