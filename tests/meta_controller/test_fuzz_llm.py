"""10,000 hostile answers: each is refused in a sentence or becomes rows within every bound. More: bench/fuzz_llm.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import islice
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from meta_controller.bounds import check
from meta_controller.controller import Proposal
from meta_controller.llm_answer import BadAnswer, parse_answer, to_proposal
from shared.db import Database, load_queries
from tests.helpers import NOON, DatabaseFor
from tests.meta_controller.hostile_answers import (
    DECOY_RISK_AVERSION,
    GRAMMAR,
    NOISE,
    STRATEGIES,
    STRUCTURED,
    WRAPPINGS,
    Hostile,
    hostile_answers,
)

pytestmark = pytest.mark.usefixtures("rolled_back")

SEED, TRIED, STORED = 6, 10_000, 1_000


@dataclass(frozen=True, slots=True)
class Judged:
    hostile: Hostile
    proposal: Proposal | None
    refusal: str


def judge(hostile: Hostile) -> Judged:
    """Nothing but BadAnswer is caught."""
    try:
        return Judged(hostile, to_proposal(parse_answer(hostile.text, STRATEGIES)), "")
    except BadAnswer as refused:
        return Judged(hostile, None, str(refused))


@pytest.fixture(scope="module")
def judged() -> Sequence[Judged]:
    return [judge(hostile) for hostile in islice(hostile_answers(SEED), TRIED)]


@pytest.fixture(scope="module")
def accepted(judged: Sequence[Judged]) -> Sequence[Proposal]:
    return [one.proposal for one in judged if one.proposal is not None]


def test_every_kind_of_attack_is_tried(judged: Sequence[Judged]) -> None:
    tried = {part for one in judged for part in one.hostile.kind.split(", ")}
    assert tried == {*STRUCTURED, *WRAPPINGS, *GRAMMAR, *NOISE}


def test_what_is_accepted_is_within_bounds(accepted: Sequence[Proposal]) -> None:
    assert len(accepted) >= STORED
    assert [problems for proposal in accepted if (problems := check(proposal))] == []


def test_whatever_must_be_refused_is_and_whatever_is_sound_is_not(judged: Sequence[Judged]) -> None:
    wrong = [
        (one.hostile.kind, one.refusal, one.hostile.text[:2000])
        for one in judged
        if one.hostile.sound is not None and one.hostile.sound != (one.proposal is not None)
    ]
    assert wrong == []
    assert sum(one.hostile.sound is True for one in judged) >= STORED
    assert sum(one.hostile.sound is False for one in judged) >= TRIED // 2


def test_no_decoy_is_taken_for_the_answer(accepted: Sequence[Proposal]) -> None:
    assert DECOY_RISK_AVERSION not in {proposal.steering.risk_aversion for proposal in accepted}


def test_a_refusal_is_one_short_line_that_any_log_and_row_can_hold(judged: Sequence[Judged]) -> None:
    refusals = {one.refusal for one in judged if one.proposal is None}
    assert [text for text in refusals if not (text.isascii() and text.isprintable() and 10 < len(text) < 200)] == []


def store(database: Database, proposal: Proposal, n: int) -> int:
    """The proposal's rows; as all lie within one hour, none is compared with another. Returns how many are new."""
    at = NOON + timedelta(seconds=3 * n)
    shared = {"track": "llm", "as_of": at, "source": "test", "known_from": at, "recorded_at": at}
    shared |= {"valid_until": at + timedelta(hours=3)}
    steering: dict[str, Any] = asdict(proposal.steering) | {"reasons": proposal.reasons} | shared
    steering["strategy_weights"] = Jsonb(steering["strategy_weights"])
    calls = [asdict(call) | {"regime": call.regime} | shared for call in proposal.calls]
    queries = load_queries("meta_controller")
    return database.execute(queries["insert_policy_config"], steering) + database.execute_many(
        queries["insert_market_state"], calls
    )


WORST = """
SELECT max(abs(p_down + p_flat + p_up - 1)) AS trend, max(abs(p_vol_low + p_vol_mid + p_vol_high - 1)) AS volatility,
       count(*) AS rows
FROM market_state WHERE track = 'llm'
"""


def test_the_database_takes_what_is_accepted(accepted: Sequence[Proposal], database_for: DatabaseFor) -> None:
    database = database_for("meta_controller")
    with database.transaction():
        assert [store(database, proposal, n) for n, proposal in enumerate(accepted[:STORED])] == [3] * STORED
    row = database.fetch_one(WORST)
    assert row is not None
    assert row["rows"] == 2 * STORED
    assert max(row["trend"], row["volatility"]) < 1e-9
