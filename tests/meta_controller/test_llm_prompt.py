from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest

from meta_controller import llm_prompt
from meta_controller.llm_prompt import (
    PromptChanged,
    PromptInputs,
    build,
    digest,
    messages_sha256,
    read_prompt_file,
)
from meta_controller.market_index import ShortHistory
from meta_controller.statistics import in_words
from shared.errors import SextantError
from shared.settings import Settings
from tests.helpers import DatabaseFor
from tests.meta_controller.prompt_world import AS_OF, DAY, HOUR, RECORDED_BY, World

pytestmark = pytest.mark.usefixtures("rolled_back")

BEFORE, LATER = AS_OF, RECORDED_BY + HOUR / 60
CHARACTERS_A_TOKEN, MOST_TOKENS, MOST_SYSTEM_TOKENS = 4, 1700, 700
PRICE = re.compile(r"\d{4,}|\d\.\d{4,}")  # longer than any number that is shown


@pytest.fixture
def world(database_for: DatabaseFor, settings: Settings) -> Iterator[World]:
    return World(database_for, settings)


# Each kind of row twice: once recorded by then, which the prompt must show, and once later, which it must not.
KINDS: dict[str, Callable[[World, datetime, int], None]] = {
    "a revised candle": lambda w, at, n: w.revision(AS_OF - (5 + n) * HOUR, at),
    "a backfilled candle": lambda w, at, n: w.candle(AS_OF - (30 + n) * HOUR, at),
    "a call of an expert": lambda w, at, n: w.call(AS_OF, at, ("late_one", "early_one")[n]),
    "an outcome": lambda w, at, n: w.outcome(AS_OF - (200 + n) * HOUR, at, "up"),
    "the newest outcome": lambda w, at, n: w.outcome(AS_OF - (24 + n) * HOUR, at, "up", 86_400),
    "a steering": lambda w, at, n: w.config(AS_OF - (2 + n) * HOUR / 2, at, "llm", max_exposure=0.7),
    "an equity": lambda w, at, n: w.equity(1, AS_OF - (1 + n) * HOUR, at, 1500.0),
    "a payment": lambda w, at, n: w.flow(1, AS_OF - (3 + n) * HOUR, at, 200.0),
    "a trust": lambda w, at, n: w.trust(AS_OF - n * HOUR, at),
    "news": lambda w, at, n: w.news(AS_OF - HOUR, at, "technology", -0.9),
    "news that was read": lambda w, at, n: w.news(AS_OF - HOUR, AS_OF, "other", 0.9, read=at),
    "a figure of a chain": lambda w, at, n: w.onchain(AS_OF - (n + 1) * HOUR, at, 30.0 + n),
    "an embedding": lambda w, at, n: w.embedding(1, AS_OF - (26 + n) * DAY, at),
    "a memory's outcome": lambda w, at, n: w.memory(AS_OF - (60 + n) * HOUR, at, "trend-24h flat"),
}


def test_what_was_recorded_later_is_not_in_the_prompt_and_what_was_recorded_by_then_is(world: World) -> None:
    world.fill()
    for n in range(2):
        world.gap(AS_OF - (30 + n) * HOUR)
    inputs = world.inputs()
    for kind, add in KINDS.items():
        sha256 = world.prompt(inputs).sha256
        add(world, LATER, 0)
        assert world.prompt(inputs).sha256 == sha256, f"{kind} that was recorded later is shown"
        add(world, BEFORE, 1)
        assert world.prompt(inputs).sha256 != sha256, f"{kind} that was recorded by then is not shown"


SOON = AS_OF + HOUR
KNOWN_LATER: dict[str, Callable[[World], None]] = {
    "a candle": lambda w: w.candle(SOON, SOON),
    "a call": lambda w: w.call(SOON, SOON),
    "a call that was known later": lambda w: w.call(AS_OF, AS_OF, "late_one", known=SOON),
    "an outcome": lambda w: w.outcome(AS_OF - 3 * HOUR, SOON, "up"),
    "the steering of the moment itself": lambda w: w.config(AS_OF, AS_OF, "llm", max_exposure=0.7),
    "a steering that was known later": lambda w: w.config(
        AS_OF - HOUR, AS_OF, "llm", max_exposure=0.7, known_from=SOON
    ),
    "the equity of the moment itself": lambda w: w.equity(1, AS_OF, AS_OF, 1500.0),
    "a payment": lambda w: w.flow(1, SOON, SOON, 200.0),
    "a trust": lambda w: w.trust(SOON, SOON),
    "a trust that was known later": lambda w: w.trust(AS_OF - HOUR, AS_OF, known=SOON),
    "news": lambda w: w.news(SOON, SOON),
    "news that was read later": lambda w: w.news(AS_OF - HOUR, AS_OF, known=SOON),
    "news that was public later": lambda w: w.news(AS_OF - HOUR, AS_OF, public=SOON),
    "a figure of a chain": lambda w: w.onchain(SOON, SOON, 99.0),
    "a figure of a chain that was known later": lambda w: w.onchain(AS_OF - HOUR, AS_OF, 99.0, known=SOON),
    "an embedding": lambda w: w.embedding(1, SOON, SOON),
    "an embedding that was known later": lambda w: w.embedding(1, AS_OF - 26 * DAY, AS_OF, known=SOON),
    "a memory's outcome": lambda w: w.memory(AS_OF - 23 * HOUR, AS_OF + 2 * HOUR, "trend-24h flat"),
}


def test_what_could_not_be_known_at_the_moment_is_not_in_the_prompt_however_late_it_is_built(world: World) -> None:
    world.fill()
    inputs, late = world.inputs(), AS_OF + 30 * DAY
    sha256 = world.prompt(inputs, late).sha256
    for kind, add in KNOWN_LATER.items():
        add(world)
        assert world.prompt(inputs, late).sha256 == sha256, f"{kind} that could not be known is shown"


def test_the_scorecard_is_that_of_the_calls_scored_by_then(world: World) -> None:
    world.fill()

    def score(n: int, at: datetime) -> None:
        as_of = AS_OF - (30 + n) * HOUR
        call = world.llm_call(as_of, as_of, "strategist")
        world.call(as_of, as_of, "llm", llm_call_id=call)
        world.outcome(as_of, at, "up", 86_400)

    for n in range(12):
        score(n, AS_OF)
    shown = world.prompt()
    assert shown.statistics["scorecard"]["24h"]["trend"]["calls"] == 12
    score(12, LATER)
    assert world.prompt().sha256 == shown.sha256
    score(13, BEFORE)
    assert world.prompt().statistics["scorecard"]["24h"]["trend"]["calls"] == 13


def test_a_prompt_is_anonymous_short_and_whole(world: World) -> None:
    world.fill()
    prompt = world.prompt()
    system, user = (message["content"] for message in prompt.messages)
    shown = json.loads(user)
    assert "absent" not in {key: part for key, part in shown.items() if key not in ("book", "scorecard")}.values()
    for hidden in ("AAA", "BBB", "USDT", "2024", "June", "06-01", "bitcoin", "Ignore", "wire", "wallet"):
        assert hidden not in user, f"{hidden} is in the prompt"
    assert not PRICE.findall(user)
    assert list(shown["assets"]) == ["asset 1", "asset 2"]
    assert len(user) <= MOST_TOKENS * CHARACTERS_A_TOKEN
    assert len(system) <= MOST_SYSTEM_TOKENS * CHARACTERS_A_TOKEN
    assert shown == prompt.statistics
    assert prompt.memory_ids == (1,)
    assert prompt.sha256 == messages_sha256(json.loads(json.dumps(prompt.messages)))


def test_assets_are_numbered_from_the_most_volatile_and_not_in_the_order_of_the_settings(world: World) -> None:
    world.store_market()
    inputs = world.inputs()
    turned = inputs.model_copy(update={"symbols": inputs.symbols[::-1]})
    assert world.prompt(inputs).sha256 == world.prompt(turned).sha256
    named = world.prompt(inputs.model_copy(update={"anonymous": False})).statistics
    assert list(named["assets"]) == ["BBB/USDT", "AAA/USDT"]  # the second is twice as volatile
    assert named["time"] == "2024-06-01T12:00Z"
    assert float(named["assets"]["AAA/USDT"]["price"]) > 0


def test_absent_data_is_said_to_be_absent(world: World) -> None:
    world.store_market(bars=24 * 10)
    shown = world.prompt().statistics
    absent = (
        "experts",
        "base_rates",
        "happened",
        "book",
        "trust",
        "scorecard",
        "news",
        "onchain",
        "analogs",
        "memories",
    )
    assert {name: shown[name] for name in absent} == dict.fromkeys(absent, "absent")
    assert shown["market"]["ret"]["30d"] is None
    assert shown["market"]["vol"]["24h"] == {"pct": None, "low": None, "high": None}
    assert shown["steering"]["max_exposure"] == [None, None, 0, 1]


def test_no_news_today_is_not_the_absence_of_news(world: World) -> None:
    world.store_market(bars=24 * 10)
    world.news(AS_OF - 3 * DAY, AS_OF - 3 * DAY)
    assert world.prompt().statistics["news"] == {}


def test_news_that_nobody_has_read_yet_is_absent(world: World) -> None:
    world.store_market(bars=24 * 10)
    world.news(AS_OF - 3 * DAY, AS_OF - 3 * DAY, read=LATER)
    assert world.prompt().statistics["news"] == "absent"
    world.news(AS_OF - 3 * DAY, AS_OF - 3 * DAY, known=SOON)
    assert world.prompt(recorded_by=AS_OF + HOUR / 12).statistics["news"] == "absent"


def test_last_months_news_payments_and_figures_are_forgotten(world: World) -> None:
    world.fill()
    sha256 = world.prompt().sha256
    world.news(AS_OF - 2 * DAY, AS_OF, "technology")
    world.onchain(AS_OF - 91 * DAY, AS_OF, 1e6)
    world.outcome(AS_OF - 370 * DAY, AS_OF)
    world.equity(1, AS_OF - 40 * DAY - HOUR, AS_OF, 1e6)
    world.flow(1, AS_OF - 40 * DAY, AS_OF, 1e6)
    assert world.prompt().sha256 == sha256


def test_what_the_encoder_sees_now_counts_only_once_it_was_known_and_recorded(world: World) -> None:
    world.store_market()
    model = world.encoder()
    for n in range(1, 26):
        world.embedding(model, AS_OF - n * DAY, AS_OF - n * DAY)
    inputs = world.inputs(encoder_id=model)
    world.embedding(model, AS_OF, LATER)
    assert world.prompt(inputs).statistics["analogs"] == "absent"
    assert world.prompt(inputs, LATER).statistics["analogs"] != "absent"
    world.execute("UPDATE embeddings SET known_from = %(soon)s WHERE as_of = %(now)s", soon=SOON, now=AS_OF)
    assert world.prompt(inputs, LATER).statistics["analogs"] == "absent"


def test_what_the_encoder_commits_after_the_prompt_with_an_earlier_stamp_does_not_change_it(world: World) -> None:
    """It starts at the same minute as the hourly job, and stamps its rows with its start."""
    world.store_market()
    model = world.encoder()
    for n in range(1, 26):
        world.embedding(model, AS_OF - n * DAY, AS_OF - n * DAY)
    inputs, sha256 = world.inputs(), world.prompt().sha256
    world.embedding(model, AS_OF, BEFORE)
    assert world.prompt(inputs).sha256 == sha256
    assert world.inputs().encoder_id == model
    assert world.prompt().statistics["analogs"] != "absent"


def test_twenty_assets_fit_into_the_same_prompt(world: World, settings: Settings) -> None:
    symbols = tuple(f"C{n:02}/USDT" for n in range(20))
    world.settings = settings.model_copy(update={"universe": settings.universe.model_copy(update={"symbols": symbols})})
    world.store_market(bars=24 * 10)
    prompt = world.prompt()
    assert list(prompt.statistics["assets"]) == ["lowest, median, highest of 20"]
    assert prompt.statistics["market"]["assets"] == 20
    low, middle, high = prompt.statistics["assets"]["lowest, median, highest of 20"]["ret"]["24h"]
    assert low < middle < high
    assert len(prompt.messages[1]["content"]) <= MOST_TOKENS * CHARACTERS_A_TOKEN


def test_without_candles_there_is_no_prompt(world: World) -> None:
    with pytest.raises(ShortHistory):
        world.prompt()


def test_inputs_survive_being_stored(world: World) -> None:
    inputs = world.inputs()
    assert PromptInputs.model_validate(json.loads(json.dumps(inputs.model_dump(mode="json")))) == inputs


def test_a_changed_prompt_file_is_not_passed_over(world: World) -> None:
    with pytest.raises(PromptChanged, match="needs a new version"):
        world.prompt(world.inputs(prompt_file_sha256="0" * 64))


@pytest.mark.parametrize(("name", "sha256"), [("strategist.v1", "e7624721792d4e2a"), ("news.v1", "c428feacb1bb999f")])
def test_a_version_of_a_prompt_stays_as_it_is(name: str, sha256: str) -> None:
    """Trust is by name: whoever changes what a version says lets the new one inherit it. Write the next version."""
    assert digest(read_prompt_file(name)).startswith(sha256)


def test_an_unknown_prompt_names_those_there_are() -> None:
    with pytest.raises(SextantError, match=r"strategist\.v1"):
        llm_prompt.read_prompt_file("strategist.v99")


def test_words_for_memories_can_be_had_before_the_prompt(world: World) -> None:
    world.store_market()
    database, inputs = world.database_for("meta_controller"), world.inputs()
    words = llm_prompt.words_now(database, inputs, AS_OF, RECORDED_BY)
    prompt = build(database, inputs, AS_OF, RECORDED_BY)
    assert words == prompt.words == in_words(prompt.statistics)
    assert re.fullmatch(r"[a-z0-9_; -]+", words)
