"""What goes wrong on our own side of the conversation, and the embedder beside it."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest
from pydantic import SecretStr

from meta_controller.llm_prompt import PromptInputs, build
from meta_controller.replay_llm import check_answer
from meta_controller.run_metacontroller import main
from shared.clock import ReplayClock
from shared.db import Database
from shared.settings import LlmModelSettings, Settings
from tests.helpers import NOON, DatabaseFor
from tests.llm_emulator import fixtures
from tests.llm_emulator.behaviours import altered
from tests.llm_emulator.server import MODEL, LlmEmulator
from tests.meta_controller import test_strategist
from tests.meta_controller.test_strategist import CALLS, KEY, LIVE, LLM, World, asking

pytestmark = pytest.mark.usefixtures("rolled_back")

llm_emulator, run = fixtures.llm_emulator, test_strategist.run


def test_trouble_of_our_own_costs_the_live_track_nothing(
    run: World, database_for: DatabaseFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("meta_controller.strategist.build", broken)
    assert run().status == "done"
    database = database_for("meta_controller")
    assert "asking failed: ZeroDivisionError" in database.fetch(LIVE)[0]["reasons"]
    (alert,) = database.fetch("SELECT * FROM alerts")
    assert (alert["key"], alert["message"][:42]) == ("llm-failed", "asking the LLM failed: ZeroDivisionError; ")


def test_a_statement_that_fails_costs_the_live_track_nothing(
    run: World, database_for: DatabaseFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One query of the prompt that takes too long must not leave the steering to expire, hour after hour."""

    def too_slow(database: Database, *_: Any) -> None:
        database.fetch("SELECT 1 FROM (SELECT 'seen: an answer'::integer) hostile")

    monkeypatch.setattr("meta_controller.strategist.build", too_slow)
    assert run().status == "done"
    database = database_for("meta_controller")
    assert "asking failed: DatabaseRefused" in database.fetch(LIVE)[0]["reasons"]
    (alert,) = database.fetch("SELECT * FROM alerts")
    assert "InvalidTextRepresentation" in alert["message"]
    assert "an answer" not in alert["message"]  # the server quotes what it was given


def test_an_answer_that_spells_the_key_in_escapes_leaves_it_nowhere(
    run: World,
    database_for: DatabaseFor,
    llm_emulator: LlmEmulator,
) -> None:
    """The raw body does not hold the key, the text in it does not either: only the answer in the text would."""
    spelt = "".join(f"\\u{ord(letter):04x}" for letter in KEY)
    llm_emulator.always(altered(lambda text: json.dumps(json.loads(text) | {"reasons": "@"}).replace("@", spelt)))
    run(mode="full")
    database = database_for("meta_controller")
    (call,) = database.fetch(CALLS)
    assert call["answer"]["reasons"] == "[key]"
    for table in (CALLS, LLM, LIVE, "SELECT * FROM market_state", "SELECT * FROM alerts"):
        assert KEY not in str(database.fetch(table))
    assert check_answer(call).same


def test_a_prompt_that_is_not_there_is_a_reason(run: World, database_for: DatabaseFor) -> None:
    run(prompt="strategist.v99")
    reasons = database_for("meta_controller").fetch(LIVE)[0]["reasons"]
    assert "there is no prompt strategist.v99" in reasons


def test_the_endpoints_own_embedder_is_used_recorded_and_replayed(
    run: World,
    database_for: DatabaseFor,
    llm_emulator: LlmEmulator,
) -> None:
    model = LlmModelSettings(input_usd=1.0, output_usd=1.0, knowledge_cutoff=date(2023, 1, 1))
    run(embedding_model="embedder", models={MODEL: model, "embedder": model})
    database = database_for("meta_controller")
    embedding, strategist = database.fetch(CALLS)
    assert (embedding["purpose"], strategist["purpose"]) == ("embedding", "strategist")
    assert database.fetch("SELECT text_embedder FROM memory_logs") == [{"text_embedder": "embedder"}]
    assert [call["request"] for call in (embedding, strategist)] == [sent.body for sent in llm_emulator.requests]
    inputs = PromptInputs.model_validate(strategist["inputs"])
    again = build(database, inputs, strategist["as_of"], strategist["recorded_at"])
    assert again.sha256 == strategist["prompt_sha256"]


@pytest.mark.usefixtures("own_database")
def test_a_key_copied_badly_costs_nothing_but_the_model(
    run: World, database_for: DatabaseFor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured = asking(settings).model_copy(update={"openai_api_key": SecretStr("sk-with a blank")})
    monkeypatch.setattr("shared.job.load_settings", lambda: configured)
    monkeypatch.setattr("shared.job.open_clock", lambda url: ReplayClock(NOON))
    assert main([]) == 0
    database = database_for("meta_controller")
    assert database.fetch(LIVE)[0]["source"] == "rules"
    (alert,) = database.fetch("SELECT * FROM alerts")
    assert alert["key"] == "llm-settings"
    assert "OPENAI_API_KEY holds a blank" in alert["message"]
    assert "sk-with" not in alert["message"]
