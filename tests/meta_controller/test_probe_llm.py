from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from meta_controller.llm import Conversation, Endpoint, Question
from meta_controller.llm_answer import parse_answer
from meta_controller.llm_record import spending
from meta_controller.probe_llm import Findings, findings, main, probe, report
from shared.clock import ReplayClock, SystemClock
from shared.settings import LlmModelSettings, Settings
from tests.helpers import DatabaseFor
from tests.llm_emulator.fixtures import llm_emulator  # noqa: F401
from tests.llm_emulator.server import LlmEmulator
from tests.meta_controller.prompt_world import AS_OF, HOUR, RECORDED_BY, World
from tests.meta_controller.test_replay_llm import STRATEGIES, body, said

pytestmark = pytest.mark.usefixtures("rolled_back")

ENDPOINT = Endpoint("http://127.0.0.1:1/v1", "none", "gpt-4.1-nano")
MOMENTS = [AS_OF - n * HOUR for n in range(6)]


def answer(up: bool, quiet: bool = True) -> str:
    trend = {"p_down": 0.1, "p_flat": 0.2, "p_up": 0.7} if up else {"p_down": 0.7, "p_flat": 0.2, "p_up": 0.1}
    volatility = {"p_vol_low": 0.6 if quiet else 0.1, "p_vol_mid": 0.3, "p_vol_high": 0.1 if quiet else 0.6}
    call = trend | volatility | {"conviction": 0.1}
    return said(calls={"4h": call, "24h": call})


def one_that(thinks: Callable[[dict[str, Any]], str | None]) -> Callable[[Endpoint, Question, float], Conversation]:
    """A model: from the table to the text of its answer; None: it fails."""

    def ask(endpoint: Endpoint, question: Question, timeout_s: float) -> Conversation:
        text = thinks(json.loads(question.messages[1]["content"]))
        error = "answers 500" if text is None else None
        return Conversation({}, (body(text or ""),), text, 900, 300, 0.5, error, ())

    return ask


def reads(table: dict[str, Any]) -> str:
    return answer(table["market"]["ret"]["24h"] > 0)


def remembers(table: dict[str, Any]) -> str:
    """The trend it has always known, and the volatility that goes with the hour."""
    return answer(up=True, quiet=table["time"]["hour_utc"] < 12)


@pytest.fixture
def world(database_for: DatabaseFor, settings: Settings) -> World:
    price = LlmModelSettings(input_usd=0.1, output_usd=0.4, knowledge_cutoff=AS_OF.date())
    llm = settings.llm.model_copy(update={"models": {"gpt-4.1-nano": price}})
    world = World(database_for, settings.model_copy(update={"llm": llm}))
    world.store_market(bars=24 * 40)
    return world


def probed(world: World, thinks: Callable[[dict[str, Any]], str | None]) -> Findings:
    database = world.database_for("meta_controller")
    return probe(ReplayClock(RECORDED_BY), database, world.settings, ENDPOINT, MOMENTS, one_that(thinks))


CALLS = """
SELECT purpose, status, inputs ->> 'variant' AS variant, cost_usd > 0 AS paid, statistics FROM llm_calls ORDER BY id
"""


def test_a_model_that_reads_its_table_passes(world: World) -> None:
    found = probed(world, reads)
    assert (found.turnable, found.unturned, found.compared, found.agreement) == (12, 0.0, 24, 1.0)
    assert found.missed == []
    rows = world.database_for("owner").fetch(CALLS)
    assert [row["variant"] for row in rows] == ["plain", "mirrored", "renamed"] * len(MOMENTS)
    assert {(row["purpose"], row["status"], row["paid"]) for row in rows} == {("probe", "answered", True)}
    assert rows[0]["statistics"]["market"]["ret"]["24h"] == -rows[1]["statistics"]["market"]["ret"]["24h"]
    assert "asset A" in rows[2]["statistics"]["assets"]


def test_a_model_that_remembers_is_found_out(world: World) -> None:
    found = probed(world, remembers)
    assert found.unturned == 1.0
    assert found.agreement is not None
    assert found.agreement < 0.95
    assert len(found.missed) == 2


def test_what_failed_is_recorded_and_not_counted(world: World) -> None:
    found = probed(world, lambda table: None if "asset A" in table["assets"] else said(reasons=""))
    assert (found.refused, found.turnable, found.compared, found.unturned) == (18, 0, 0, None)
    assert len(found.missed) == 2
    statuses = [row["status"] for row in world.database_for("owner").fetch(CALLS)]
    assert statuses == ["rejected", "rejected", "failed"] * len(MOMENTS)


def test_it_stops_at_the_budget_and_says_so(world: World) -> None:
    llm = world.settings.llm.model_copy(update={"usd_an_hour": 0.004})
    world.settings = world.settings.model_copy(update={"llm": llm})
    found = probed(world, reads)
    assert found.stopped is not None
    assert 0 < found.moments < len(MOMENTS)
    assert f"stopped: {found.stopped}" in report(found)


def test_a_flat_call_has_no_direction_to_turn() -> None:
    flat = parse_answer(said(), STRATEGIES)
    found = findings([{"plain": flat, "mirrored": flat, "renamed": flat}] * 9)
    assert (found.turnable, found.unturned, found.compared, found.agreement) == (0, None, 36, 1.0)


def test_shares_are_counted_call_by_call() -> None:
    up, down = (parse_answer(answer(up), STRATEGIES) for up in (True, False))
    same, other = {"plain": up, "mirrored": up, "renamed": up}, {"plain": up, "mirrored": down, "renamed": down}
    found = findings([same, other, other, other])  # type: ignore[list-item]
    assert (found.turnable, found.unturned) == (8, 0.25)
    assert (found.compared, found.agreement) == (16, (4 + 3 * 2) / 16)


@pytest.mark.usefixtures("own_database")
def test_the_command_asks_a_real_endpoint_and_fails_where_a_target_is_missed(
    world: World,
    llm_emulator: LlmEmulator,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The emulator's answers lean as the text happens to hash: it does not read."""
    monkeypatch.setenv("SEXTANT_HOME", str(world.settings.home))
    monkeypatch.setenv("DB_NAME", world.settings.db_name)
    monkeypatch.setenv("SEXTANT_UNIVERSE__VENUE", "test")
    monkeypatch.setenv("SEXTANT_UNIVERSE__SYMBOLS", '["AAA/USDT", "BBB/USDT"]')
    monkeypatch.setenv("OPENAI_BASE_URL", llm_emulator.base_url)
    assert main(["--hours", "2", "--at", "2024-06-01T12:05"]) == 1
    assert capsys.readouterr().out.startswith("2 moments asked three times, 0 answers refused or failed\n")
    rows = world.database_for("owner").fetch(CALLS)
    assert [(row["status"], row["paid"]) for row in rows] == [("answered", True)] * 6
    stored = world.database_for("owner").fetch("SELECT request FROM llm_calls ORDER BY id")
    assert [row["request"] for row in stored] == llm_emulator.chats
    spent = spending(world.database_for("owner"), SystemClock().now())
    assert 0 < spent.hour == spent.month  # a question about the past is paid today


@pytest.mark.usefixtures("own_database")
def test_by_an_emulators_clock_only_a_model_on_this_machine_is_asked(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEXTANT_HOME", str(settings.home))
    monkeypatch.setenv("DB_NAME", settings.db_name)
    monkeypatch.setenv("CLOCK_URL", "http://127.0.0.1:9/clock")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://192.0.2.1/v1")
    assert main(["--hours", "1"]) == 2
    assert "unset CLOCK_URL" in capsys.readouterr().err


@pytest.mark.usefixtures("own_database")
def test_without_a_model_it_says_what_to_set(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEXTANT_HOME", str(settings.home))
    monkeypatch.setenv("DB_NAME", settings.db_name)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert main(["--hours", "1"]) == 2
    assert "set OPENAI_API_KEY or OPENAI_BASE_URL" in capsys.readouterr().err
