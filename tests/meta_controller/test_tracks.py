from __future__ import annotations

from dataclasses import replace

import pytest

from meta_controller.controller import HORIZONS_S, HorizonCall, Proposal, call_of
from meta_controller.pool import Track
from meta_controller.regime_run import RegimeRun
from meta_controller.rules import STEERING
from meta_controller.steering import Past
from meta_controller.strategist import Consultation
from meta_controller.tracks import TrackRows, llm_rows
from shared.clock import to_unix
from shared.settings import Settings
from tests.helpers import NOON

AT = to_unix(NOON)
HALF = Consultation("earned", weight=0.5)


def calls(p_up: float) -> tuple[HorizonCall, ...]:
    return tuple(call_of(horizon_s, [0.5 - p_up, 0.5, p_up, 0.2, 0.6, 0.2], "made up") for horizon_s in HORIZONS_S)


EXPERTS, WITH_LLM, LLM = calls(0.25), calls(0.3), calls(0.4)


class Called(RegimeRun):
    def calls(self, as_of: int) -> tuple[HorizonCall, ...]:
        return EXPERTS


def rows_after(consultation: Consultation, settings: Settings) -> TrackRows:
    rows, run = TrackRows(), Called(3600, Track(()), frozenset(), instruments={AT: 2})
    llm_rows(rows, run, Past([]), AT, settings, consultation)
    return rows


@pytest.mark.parametrize(
    ("weight", "pooled", "live", "source"),
    [(0.5, WITH_LLM, WITH_LLM, "pool+llm"), (0.5, (), EXPERTS, "pool"), (0.0, WITH_LLM, EXPERTS, "pool")],
)
def test_live_calls_are_of_the_pool_and_of_the_llm_in_it_where_it_counts(
    weight: float, pooled: tuple[HorizonCall, ...], live: tuple[HorizonCall, ...], source: str, settings: Settings
) -> None:
    answer = Proposal(calls(0.45), replace(STEERING["bear"], pause=True), "because")
    consultation = replace(HALF, proposal=answer, weight=weight, pooled=pooled, recalibrated=LLM)
    rows = rows_after(consultation, settings)
    of = {track: [row for row in rows.states if row.track == track] for track in ("llm", "live")}
    assert [(row.p_up, row.source) for row in of["live"]] == [(call.p_up, source) for call in live]
    assert [(row.p_up, row.source) for row in of["llm"]] == [(call.p_up, "llm") for call in LLM]
    steered = {row.track: row for row in rows.configs}
    assert (steered["llm"].source, steered["llm"].pause) == ("llm", True)
    assert (steered["live"].source, steered["live"].pause) == (("rules+llm", True) if weight else ("rules", False))


def test_without_an_answer_both_tracks_follow_the_rules_and_say_why(settings: Settings) -> None:
    rows = rows_after(Consultation("over budget"), settings)
    assert [(row.track, row.source) for row in rows.configs] == [("llm", "rules"), ("live", "rules")]
    assert all(row.reasons.startswith("no word of the LLM (over budget): ") for row in rows.configs)
    assert [row.p_up for row in rows.states] == [call.p_up for call in (*EXPERTS, *EXPERTS)]
