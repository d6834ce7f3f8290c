"""Why it bought, and why it did not: the story's numbers add up, and it names the one reason."""

from __future__ import annotations

import io
import json
from datetime import datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from psycopg.types.json import Json
from rich.console import Console

from pipeline import explain as module
from pipeline.explain import NoDecision, explain, find_decision
from pipeline.explain_page import print_explanation
from pipeline.explain_residual import BLOCKS, _shapley
from policy.observation import observation_names
from shared.job import UsageError
from shared.model_store import save_model
from shared.settings import Settings
from shared.version import CODE, settings_hash
from tests.helpers import NOON, DatabaseFor
from tests.policy.paper_world import (
    DECISIONS,
    DELAY,
    HOUR,
    MINUTE,
    A,
    B,
    PaperMarket,
    at,
    insert_config,
    insert_embeddings,
    insert_state,
    store_flat,
)
from tests.policy.small_policy import save_small_policy, small_policy
from tests.shared.llm_spine_rows import llm_rows
from tests.shared.spine_rows import insert

# One weight in each block, so that each has something to say.
WEIGHTS = {
    "embedding[0]": 0.05, "ood": 0.4, "log_volatility": -0.3, "p_up_less_p_down[86400]": 0.5,
    "config.turnover_penalty": 0.6, "book.own_share": -0.2,
}  # fmt: skip
HOURS = ("13:00", "14:00", "15:00")


@pytest.fixture
def market(database_for: DatabaseFor, settings: Settings) -> PaperMarket:
    execution = settings.execution.model_copy(update={"impact": 0.0, "no_trade_band": 0.25})
    return PaperMarket(database_for, settings.model_copy(update={"execution": execution}))


@pytest.fixture
def lived(market: PaperMarket) -> PaperMarket:
    """Three hours of a wallet of two instruments, traded by a real model."""
    instruments = [store_flat(market, A, {"13:05": 101.0}), store_flat(market, B)]
    encoder_id = give_models(market)
    market.wallet("w", at("12:30"))
    for n, text in enumerate(HOURS):
        insert_embeddings(market, encoder_id, instruments, at(text))
        for horizon_s in (14_400, 86_400):
            insert_state(market, at(text), horizon_s, p_up=0.5 + 0.1 * n, p_down=0.2 - 0.1 * n)
        insert_config(market, at(text), turnover_penalty=1.0 + n, target_volatility=0.05, max_position=0.5)
    for text in HOURS:
        market.send(at(text))
        market.trade(at(text) + DELAY)
        market.send(at(text) + DELAY)
        market.send(at(text) + 10 * MINUTE)
    return market


def give_models(market: PaperMarket, **metrics: Any) -> int:
    """An encoder and a policy that can be loaded; the encoder's id."""
    encoder, since = market.database_for("encoder"), NOON - timedelta(days=60)
    id_ = save_model(encoder, kind="encoder", onnx=small_policy(bias=0.5), schema={"kind": "test"}, trained_from=since,
                     trained_to=since + HOUR, label_horizon_s=0, provenance="real", encoder_id=None, metrics={},
                     recorded_at=NOON)  # fmt: skip
    (row,) = encoder.fetch("SELECT schema_hash FROM models WHERE kind = 'encoder'")
    save_small_policy(
        market.database_for("policy"), id_, row["schema_hash"], onnx_bytes=small_policy(WEIGHTS, bias=0.1)
    )
    return id_


def decision(market: PaperMarket, symbol: str = A, text: str = "15:00") -> dict[str, Any]:
    (row,) = [row for row in market.rows(DECISIONS) if row["symbol"] == symbol and row["as_of"] == at(text)]
    return row


def story_of(market: PaperMarket, symbol: str = A, text: str = "15:00", now: datetime | None = None) -> dict[str, Any]:
    row = decision(market, symbol, text)
    return explain(market.database_for("cli"), market.settings, row["id"], now or at("15:10"))


def page(story: dict[str, Any], prompt: bool = False) -> str:
    text = io.StringIO()
    print_explanation(story, Console(file=text, width=100, highlight=False), prompt)
    assert max(map(len, text.getvalue().splitlines())) <= 100
    return " ".join(text.getvalue().split())


@pytest.mark.parametrize("symbol", [A, B])
def test_baseline_and_all_parts_are_what_the_model_wanted(lived: PaperMarket, symbol: str) -> None:
    for text in HOURS:
        story, row = story_of(lived, symbol, text), decision(lived, symbol, text)
        residual = story["residual"]
        assert residual["observation_hash_matches"], "each hour's book, steering and regime are rebuilt to the bit"
        action, weight = residual["parts"]["action"], residual["parts"]["weight"]
        assert action["total"] == pytest.approx(row["action"], abs=1e-6)
        added = weight["at_means"] - row["baseline_weight"] + sum(weight["blocks"].values())
        assert row["baseline_weight"] + added == pytest.approx(row["wanted_weight"], abs=1e-6)
        for parts in (action, weight):
            assert abs(parts["remainder"]) < 1e-12
            assert list(parts["blocks"]) == list(BLOCKS)


def test_a_block_that_is_at_its_mean_adds_nothing_and_the_others_what_they_must(lived: PaperMarket) -> None:
    """The mean is over both instruments' three observations."""
    story = story_of(lived)
    assert story["residual"]["means_of"] == "the wallet's 6 observations of the last 30 days"
    parts = story["residual"]["parts"]["action"]["blocks"]
    assert parts["ood"] == 0.0, "0.5 in every row"
    assert parts["market state"] > 0, "up was called more firmly than on average"
    assert parts["config"] > 0, "turnover counted for more than on average"
    assert parts["embedding"] > 0, "the first dimension is this instrument's own"
    assert parts["book"] < 0, "more is held than on average, and the model wants less of what is held"


def test_means_that_training_stored_are_taken(lived: PaperMarket) -> None:
    names = observation_names()
    mean = [0.25 if name == "ood" else 0.0 for name in names]
    lived.database_for("owner").execute(
        "UPDATE models SET metrics = %(metrics)s WHERE kind = 'policy'", {"metrics": Json({"observation_mean": mean})}
    )
    residual = story_of(lived)["residual"]
    assert residual["means_of"] == f"the training data of policy model {residual['model_id']}"
    expected = np.tanh(0.4 * 0.25 + 0.1)
    assert residual["parts"]["action"]["at_means"] == pytest.approx(expected, abs=1e-6)


def test_the_parts_are_shapleys() -> None:
    """Against the definition: the mean of what a block adds, over all orders."""
    values = np.random.default_rng(4).normal(size=16)
    parts = _shapley(values, list("abcd"))
    for bit, name in enumerate("abcd"):
        added = []
        for order in permutations(range(4)):
            before = sum(1 << k for k in order[: order.index(bit)])
            added.append(values[before | 1 << bit] - values[before])
        assert parts.blocks[name] == pytest.approx(np.mean(added), abs=1e-12)


def test_an_observation_that_cannot_be_rebuilt_is_said_loudly(lived: PaperMarket) -> None:
    lived.database_for("owner").execute("UPDATE market_data SET close = 103, high = 103 WHERE timeframe_s = 3600 "
                                        "AND as_of = '2024-06-01 11:00+00'")  # fmt: skip
    story = story_of(lived)
    assert not story["residual"]["observation_hash_matches"]
    assert "THE OBSERVATION CANNOT BE REBUILT" in page(story)
    assert story["changed"] == []


def test_what_other_code_or_settings_decided_is_said(lived: PaperMarket) -> None:
    lived.database_for("owner").execute("UPDATE decisions SET code_version = 'older', settings_hash = 'milder'")
    story = story_of(lived)
    told = " ".join(page(story).split())
    assert f"code was older then and is {CODE} now: what is worked out again below may differ" in told
    assert f"settings were milder then and are {settings_hash(lived.settings)} now" in told


def test_a_fill_is_told_with_its_price_its_fee_and_what_it_lost(lived: PaperMarket) -> None:
    story = story_of(lived, A, "13:00")
    (fill,) = story["order"]["fills"]
    assert fill["shortfall_bps"] == pytest.approx(106.0), "101 and 5 bps up to the tick, against 100"
    assert [event["event"] for event in story["order"]["events"]] == ["accepted", "filled"]
    told = page(story | {"order": story["order"] | {"state": "intended"}})  # live, the trader settles the row later
    assert f"6 Order {story['order']['id']}: filled" in told
    assert story["outcome"].startswith("buy ")
    assert story["outcome"].endswith("filled in 1 part(s)")
    assert "at 101.06, fee " in told
    assert "+106.0 bps against the close it was sized at" in told
    assert "approved at 06-01 13:02:00" in told
    assert "24 h ahead: bull (down 0.20, flat 0.30, up 0.50" in told


def test_an_order_that_was_refused_tells_the_one_reason(market: PaperMarket) -> None:
    store_flat(market, A)
    market.wallet("w", at("12:30"), symbols=(A,))
    market.steered = True
    insert_config(market, at("12:00"), strategy_weights=Json({"vol_target": 1.0}), max_position=0.5,
                  valid_until=at("20:00"))  # fmt: skip
    market.trade(at("13:02"))
    waiting = story_of(market, A, "13:00", at("13:03"))
    assert waiting["outcome"].endswith("written down, and waiting for the sender")
    market.command(at("13:02") + MINUTE, "pause")
    doomed = story_of(market, A, "13:00", at("13:04"))
    assert doomed["outcome"].endswith("not sent, and would be refused: the wallet is paused: no entries")
    market.send(at("13:04"))
    refused = story_of(market, A, "13:00", at("13:05"))
    assert refused["outcome"].endswith(": rejected, the wallet is paused: no entries")
    told = page(refused)
    assert "never approved" in told
    assert "2 Model: none spoke; the baseline stands" in told
    assert "vol_target: 0.5000, by a weight of 1" in told
    assert "rate_limit: 0.5000 → 0.2500: a position may grow by at most 0.25" in told


def test_a_kill_file_is_the_reason_while_it_lies_there(market: PaperMarket, tmp_path: Path) -> None:
    store_flat(market, A)
    market.wallet("w", at("12:30"), symbols=(A,))
    insert_config(market, at("12:00"), strategy_weights=Json({"vol_target": 1.0}), valid_until=at("20:00"))
    market.trade(at("13:02"))
    market.settings = market.settings.model_copy(update={"home": tmp_path})  # not that of all tests
    (tmp_path / "KILL.w").write_text("halt\n")
    assert story_of(market, A, "13:00", at("13:03"))["outcome"].endswith("not sent, a KILL file says halt")


def test_without_an_order_the_traders_reason_is_the_one(lived: PaperMarket) -> None:
    row = next(row for row in lived.rows(DECISIONS) if "inside the band" in row["reason"])
    story = explain(lived.database_for("cli"), lived.settings, row["id"], at("15:10"))
    assert story["order"] is None
    assert story["outcome"] == f"no order: {row['reason'].removeprefix('policy: ')}"
    assert "6 No order" in page(story)


def nearest(market: PaperMarket, moment: str, now: str = "20:00") -> str:
    with pytest.raises(NoDecision) as error:
        find_decision(market.database_for("cli"), market.settings, A, None, at(moment), at(now))
    return str(error.value)


def test_a_decision_is_found_by_symbol_and_time(lived: PaperMarket) -> None:
    cli, now = lived.database_for("cli"), at("15:10")

    def found(moment: str | None) -> int:
        return find_decision(cli, lived.settings, A, "w", at(moment) if moment else None, now)

    assert found(None) == found("15:59:59") == decision(lived)["id"]
    assert found("13:59") == decision(lived, A, "13:00")["id"]
    with pytest.raises(UsageError, match="no wallet has CCC/USDT"):
        find_decision(cli, lived.settings, "CCC/USDT", None, None, now)
    lived.wallet("other", at("15:00"))
    with pytest.raises(UsageError, match=r"say which wallet \(WALLET=\): w, other have AAA/USDT"):
        find_decision(cli, lived.settings, A, None, None, now)
    with pytest.raises(UsageError, match="there is no decision 999"):
        explain(cli, lived.settings, 999, now)


def test_where_nothing_was_decided_the_nearest_is_named_and_why(lived: PaperMarket) -> None:
    first, last = decision(lived, A, "13:00")["id"], decision(lived)["id"]
    told = nearest(lived, "12:40")
    assert "at the close of 2024-06-01 12:00: the wallet was made later, at 2024-06-01 12:30" in told
    assert told.endswith(f"Nearest: 2024-06-01 13:00 (DECISION={first})")
    assert "the trader did not run between then and the next close" in nearest(lived, "17:30")
    assert nearest(lived, "17:30").endswith(f"Nearest: 2024-06-01 15:00 (DECISION={last})")
    assert "that is decided at 20:02 at the earliest" in nearest(lived, "20:00")
    assert "its candle is not there" in nearest(lived, "19:30")


def test_a_wallet_that_was_never_resumed_or_later_is_named(market: PaperMarket) -> None:
    store_flat(market, A)
    market.wallet("w", at("12:30"), resume=False)
    assert "no operator had ever resumed the wallet" in nearest(market, "13:30")
    market.command(at("13:30"), "resume")
    told = nearest(market, "13:30")
    assert "the wallet was first resumed at 2024-06-01 13:30, after that close" in told
    assert told.endswith("Nearest: none, ever")
    market.trade(at("14:02"))
    market.database_for("owner").execute("DELETE FROM decisions")
    assert "the trader ran 1 times and wrote none" in nearest(market, "14:30")


def test_the_prompt_that_made_the_steering_is_told_in_full_when_asked(lived: PaperMarket) -> None:
    (config,) = lived.rows("SELECT id FROM policy_config WHERE as_of = %(at)s", at=at("15:00"))
    call = llm_rows(1, NOON)["llm_calls"] | {
        "as_of": at("15:00"), "status": "answered", "config_after_id": config["id"], "answer": Json({"regime": "bull"}),
        "responses": "[\"it rises\"]", "error": None, "ended_at": at("15:00"), "cost_usd": 0, "purpose": "strategist",
        "request": Json({"messages": [{"role": "user", "content": "What do you see? " + 400 * "x"}]}),
    }  # fmt: skip
    assert insert(lived.database_for("meta_controller").connection, "llm_calls", call) == 1
    story = story_of(lived)
    short, full = page(story), page(story, prompt=True)
    assert 'answer: {"regime": "bull"}' in short
    assert "What do you see?" not in short
    assert "What do you see?" in full
    assert "it rises" in full
    assert full.count("x") >= 400
    assert story_of(lived, A, "14:00")["llm_call"] is None


def test_the_command_prints_a_page_json_or_what_is_wrong(
    lived: PaperMarket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "load_settings", lambda: lived.settings)
    assert module.main(["--symbol", A, "--at", "2024-06-01T13:30"]) == 0
    assert f"w (paper) {A} at 2024-06-01 13:00 UTC" in capsys.readouterr().out
    assert module.main(["--decision", str(decision(lived)["id"]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["residual"]["observation_hash_matches"] is True
    assert module.main(["--symbol", A, "--at", "2024-06-01T01:30"]) == 1
    assert "the wallet was made later" in capsys.readouterr().err
    assert module.main([]) == module.main(["--decision", "999"]) == 2
    assert "say which: DECISION=id" in capsys.readouterr().err
