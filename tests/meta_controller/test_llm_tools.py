from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from meta_controller.llm import Tool, ToolError
from meta_controller.llm_tools import LONGEST_RESULT, MOST_ANALOGS, MOST_BARS, MOST_HOURS, read_only_tools
from meta_controller.statistics_series import scale
from meta_controller.statistics_view import View, read_market
from shared.settings import Settings
from tests.helpers import DatabaseFor
from tests.meta_controller.prompt_world import AS_OF, DAY, HOUR, RECORDED_BY, World

pytestmark = pytest.mark.usefixtures("rolled_back")

MOST: dict[str, dict[str, Any]] = {
    "news": {"hours": MOST_HOURS},
    "prices": {"asset": 2, "bars": MOST_BARS},
    "performance": {"track": "llm"},
    "onchain": {"metric": "fees"},
    "analogs": {"asset": 1, "count": MOST_ANALOGS},
}


@pytest.fixture
def world(database_for: DatabaseFor, settings: Settings) -> World:
    return World(database_for, settings)


def tools_of(world: World, **changes: Any) -> dict[str, Tool]:
    database = world.database_for("meta_controller")
    tools = read_only_tools(database, world.inputs(**changes), AS_OF, RECORDED_BY)
    return {tool.name: tool for tool in tools}


def test_every_tool_answers_shortly_anonymously_and_from_what_was_recorded_by_then(world: World) -> None:
    world.fill()
    answers = {name: tools_of(world)[name].run(given) for name, given in MOST.items()}
    for name, told in answers.items():
        assert json.loads(told) != "absent", name
        assert len(told) <= LONGEST_RESULT
        assert not re.search(r"AAA|BBB|USDT|2024|bitcoin|wire|Ignore|wallet|\d\.\d{4,}", told), name
    later = RECORDED_BY + HOUR
    world.news(AS_OF - HOUR, later, "technology", 0.9)
    world.revision(AS_OF - 5 * HOUR, later)
    world.equity(1, AS_OF - HOUR, later, 5000.0)
    world.onchain(AS_OF - HOUR, later, 99.0)
    world.embedding(1, AS_OF - 26 * DAY, later)
    assert {name: tools_of(world)[name].run(given) for name, given in MOST.items()} == answers


def test_absent_data_is_said_to_be_absent(world: World) -> None:
    world.store_market(bars=24 * 10)
    tools = tools_of(world, encoder_id=world.encoder())
    absent = ("news", "performance", "onchain", "analogs")
    assert [json.loads(tools[name].run(MOST[name])) for name in absent] == ["absent"] * 4


def test_what_there_can_be_nothing_of_is_not_offered(world: World) -> None:
    assert list(tools_of(world, onchain_metrics=())) == ["news", "prices", "performance"]


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("news", {}),
        ("news", {"hours": 0}),
        ("news", {"hours": MOST_HOURS + 1}),
        ("news", {"hours": "24"}),
        ("news", {"hours": True}),
        ("news", {"hours": 2.5}),
        ("news", {"hours": 24, "source": "wire"}),
        ("prices", {"asset": 3, "bars": 10}),
        ("prices", {"asset": "AAA/USDT", "bars": 10}),
        ("performance", {"track": "live"}),
        ("performance", {"track": ["llm"]}),
        ("onchain", {"metric": "'; DROP TABLE fills; --"}),
    ],
)
def test_arguments_outside_the_schema_are_refused_before_anything_is_read(
    world: World, name: str, given: dict[str, Any]
) -> None:
    with pytest.raises(ToolError):
        tools_of(world)[name].run(given)


def test_an_asset_without_candles_has_no_number(world: World, settings: Settings) -> None:
    symbols = (*settings.universe.symbols, "CCC/USDT")
    world.store_market(bars=24 * 10)
    with pytest.raises(ToolError, match="only 2 assets"):
        tools_of(world, symbols=symbols)["prices"].run({"asset": 3, "bars": 10})


def test_prices_are_the_last_returns_in_units_of_a_usual_bar(world: World) -> None:
    world.store_market()
    told = json.loads(tools_of(world)["prices"].run({"asset": 1, "bars": 5}))
    view = View(world.database_for("meta_controller"), AS_OF, RECORDED_BY)
    asset = read_market(view, "test", world.settings.universe.symbols, 3600).assets[0]
    assert told["bar_s"] == 3600
    assert told["returns"] == pytest.approx(asset.returns[-5:] / scale(asset.returns, 3600), abs=0.006)


def test_analogs_tell_what_followed_and_not_what_is_yet_to_follow(world: World) -> None:
    """The moment's own look-alikes are planted: the same embedding a week ago, and an hour ago."""
    world.store_market()
    model = world.encoder()
    for at in (AS_OF, AS_OF - HOUR, AS_OF - 7 * DAY):
        world.embedding(model, at, at)
    world.execute(
        "UPDATE embeddings SET embedding = (SELECT embedding FROM embeddings WHERE as_of = %(at)s LIMIT 1)", at=AS_OF
    )
    view = View(world.database_for("meta_controller"), AS_OF, RECORDED_BY)
    (first,) = (asset for asset in read_market(view, "test", world.settings.universe.symbols, 3600).assets
                if asset.instrument_id == world.ids[0])  # fmt: skip
    before, after = first.returns[: -7 * 24], first.returns[-7 * 24 : -6 * 24]
    unit = np.sqrt(np.mean(before[-7 * 24 :] ** 2))
    told = json.loads(tools_of(world)["analogs"].run({"asset": 1, "count": 20}))
    assert len(told) == 1, "what is an hour old has no outcome yet, and two of one day are one: the first instrument's"
    expected = [1.0, after.sum() / (unit * np.sqrt(24)), np.sqrt(np.mean(after**2)) / unit]
    assert told[0] == pytest.approx(expected, abs=0.006)


def test_a_day_without_a_decision_has_no_return(world: World) -> None:
    world.store_market(bars=24 * 10)
    wallet = world.wallet("rules")
    for hours, equity in ((72, 1000.0), (48, 1010.0), (1, 1111.0)):
        world.equity(wallet, AS_OF - timedelta(hours=hours), AS_OF, equity)
    told = json.loads(tools_of(world)["performance"].run({"track": "rules"}))
    assert told["by_day"] == [None] * 27 + [1, None, None]
    assert told["7d"] == [11.1, 0]
