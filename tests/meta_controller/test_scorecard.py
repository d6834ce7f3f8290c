"""The scorecard, of rows in the database: who is counted, who is marked, what is told, and what the LLM reads of it."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meta_controller import scorecard
from meta_controller.controller import call_of
from meta_controller.scorecard import Line, Scorecard, as_json, build
from meta_controller.scorecard_plot import write_plot
from meta_controller.scorecard_text import as_text
from meta_controller.scored_rows import POOL, Calls
from meta_controller.scoring import Interval, llm_scorecard, recalibrate, skill
from meta_controller.usual_odds import UsualOdds
from shared.clock import from_unix, to_unix
from shared.db import Database
from shared.job import UsageError
from shared.rows import FloatArray, IntArray
from shared.scores import brier_loss
from shared.settings import Settings
from tests.helpers import NOON
from tests.shared.spine_rows import own_database

HOUR, DAY, HORIZONS = 3600, 86_400, (14_400, 86_400)
STEP, DAYS = 8 * HOUR, 200
MOMENTS = to_unix(NOON) - DAYS * DAY + STEP * np.arange(DAYS * DAY // STEP)
NOW = NOON + timedelta(days=2)
LLM_MOMENTS, READ_ABOUT = MOMENTS[-240:], 60  # of these the first, in months that the model may have read about
TREND, VOLATILITY = ("down", "flat", "up"), ("low", "mid", "high")

INSERT_CALL = """
INSERT INTO regime_calls (expert, as_of, horizon_s, p_down, p_flat, p_up, p_vol_low, p_vol_mid, p_vol_high,
                          llm_call_id, contaminated, known_from, recorded_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
INSERT_OUTCOME = """
INSERT INTO regime_outcomes (as_of, horizon_s, trend, volatility, log_return, realised, t_statistic, efficiency,
                             known_from, recorded_at)
VALUES (%s, %s, %s, %s, %s, %s, 0, 0, %s, %s)
"""
INSERT_LLM_CALL = """
INSERT INTO llm_calls (purpose, as_of, model, endpoint, prompt, prompt_sha256, inputs, request, statistics, status,
                       reserved_usd, recorded_at)
VALUES ('strategist', %(at)s, %(model)s, 'localhost', %(prompt)s, repeat('0', 64), '{}', '{}', '{}', 'sent', 0, %(at)s)
RETURNING id
"""


def insert_calls(database: Database, expert: str, moments: IntArray, p: FloatArray, *, llm: Sequence[int] = (),
                 contaminated: bool = False, delay_s: int = 0) -> None:  # fmt: skip
    """``p`` [moments, 6] for both horizons; recorded ``delay_s`` after the moment."""
    rows = [(expert, from_unix(at), h, *p[i].tolist(), llm[i] if llm else None, contaminated, from_unix(at),
             from_unix(at + delay_s)) for i, at in enumerate(moments.tolist()) for h in HORIZONS]  # fmt: skip
    with database.connection.cursor() as cursor:
        cursor.executemany(INSERT_CALL, rows)


def insert_outcomes(database: Database, moments: IntArray, classes: IntArray, realised: FloatArray) -> None:
    rows = [(from_unix(at), h, TREND[t], VOLATILITY[v], 0.01 * (t - 1), r, from_unix(at + h), from_unix(at + h))
            for at, (t, v), r in zip(moments.tolist(), classes.tolist(), realised.tolist(), strict=True)
            for h in HORIZONS]  # fmt: skip
    with database.connection.cursor() as cursor:
        cursor.executemany(INSERT_OUTCOME, rows)


def insert_llm_calls(database: Database, moments: IntArray, model: str, prompt: str = "strategist.v1") -> list[int]:
    asked = [{"at": from_unix(at), "model": model, "prompt": prompt} for at in moments.tolist()]
    return [database.fetch(INSERT_LLM_CALL, one)[0]["id"] for one in asked]


def drawn(p: FloatArray, rng: np.random.Generator) -> IntArray:
    return (rng.random(len(p))[:, None] > np.cumsum(p, axis=1)[:, :2]).sum(axis=1)


class World:
    """The pool knows the chances; HAR-logit does by half; the LLM shouts what the pool says."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        trend, volatility = rng.dirichlet([1.5] * 3, (2, len(MOMENTS)))
        self.pool = np.hstack([trend, volatility])
        self.classes = np.column_stack([drawn(trend, rng), drawn(volatility, rng)])
        self.har = 0.5 * self.pool + 0.5 / 3
        self.llm = np.hstack([recalibrate(p, 0.5) for p in (trend, volatility)])[-len(LLM_MOMENTS) :]
        self.wrong = np.eye(3)[(self.classes + 1) % 3].reshape(len(MOMENTS), 6)[-len(LLM_MOMENTS) :]
        self.realised = 0.02 + 0.02 * self.classes[:, 1] + 0.001 * rng.random(len(MOMENTS))

    def brier(self, p: FloatArray, rows: slice, axis: int) -> FloatArray:
        return brier_loss(p[:, 3 * axis : 3 * axis + 3], self.classes[rows, axis])


WORLD = World()


@pytest.fixture(scope="module")
def stored(home: Path) -> Iterator[tuple[Settings, Callable[[str], Database]]]:
    """In the months the model had read about it called what it knew to be wrong: who counts that, is found out."""
    with own_database(home, "scorecard") as (settings, database_for):
        database = database_for("meta_controller")
        with database.transaction():
            insert_calls(database, "pool", MOMENTS, WORLD.pool)
            insert_calls(database, "har_logit", MOMENTS, WORLD.har)
            ids = insert_llm_calls(database, LLM_MOMENTS, "small")
            read, unread = slice(0, READ_ABOUT), slice(READ_ABOUT, None)
            insert_calls(database, "llm", LLM_MOMENTS[read], WORLD.wrong[read], llm=ids[read], contaminated=True)
            insert_calls(database, "llm", LLM_MOMENTS[unread], WORLD.llm[unread], llm=ids[unread])
            insert_outcomes(database, MOMENTS, WORLD.classes, WORLD.realised)
        yield settings, database_for


@pytest.fixture
def database(stored: tuple[Settings, Callable[[str], Database]]) -> Database:
    return stored[1]("meta_controller")


@pytest.fixture(scope="module")
def card(stored: tuple[Settings, Callable[[str], Database]]) -> Scorecard:
    built = build(stored[1]("meta_controller"), NOW)
    assert built is not None
    return built


def line(card: Scorecard, forecaster: str, horizon_s: int = 24 * HOUR, axis: str = "volatility") -> Line:
    (panel,) = (panel for panel in card.panels if (panel.horizon_s, panel.axis) == (horizon_s, axis))
    (found,) = (one for one in panel.lines if one.forecaster == forecaster)
    return found


def test_everybody_is_scored_on_every_horizon_and_axis(card: Scorecard) -> None:
    assert [(p.horizon_s, p.axis) for p in card.panels] == [
        (h, axis) for h in HORIZONS for axis in ("trend", "volatility")
    ]
    for panel in card.panels:
        assert [one.forecaster for one in panel.lines] == [
            "pool", "har_logit", "llm small strategist.v1", "llm small strategist.v1 recalibrated",
            "llm small strategist.v1 CONTAMINATED", "climatology", "persistence",
        ]  # fmt: skip
    every = slice(None)
    assert line(card, "pool").scores.calls == len(MOMENTS)
    assert line(card, "pool").scores.brier == pytest.approx(WORLD.brier(WORLD.pool, every, 1).mean())
    assert line(card, "har_logit", 4 * HOUR, "trend").scores.brier == pytest.approx(
        WORLD.brier(WORLD.har, every, 0).mean()
    )


def test_skill_is_told_against_everybody_else_on_common_moments(card: Scorecard) -> None:
    pool, llm = line(card, "pool"), line(card, "llm small strategist.v1")
    assert set(pool.against) == {"climatology", "persistence", "har_logit"}
    assert set(llm.against) == {"climatology", "persistence", "har_logit", "pool"}
    assert all(one.p < 0.01 and one.skill > 0 for one in pool.against.values())
    mine = slice(len(MOMENTS) - len(LLM_MOMENTS) + READ_ABOUT, None)
    expected = skill(WORLD.brier(WORLD.llm[READ_ABOUT:], mine, 1), WORLD.brier(WORLD.pool[mine], mine, 1))
    assert llm.against["pool"].skill == pytest.approx(expected)
    assert llm.against["pool"].calls == len(LLM_MOMENTS) - READ_ABOUT
    assert line(card, "climatology").against.keys() == {"persistence"}


def test_what_the_model_may_have_read_about_is_marked_and_counts_nowhere_else(card: Scorecard) -> None:
    read = line(card, "llm small strategist.v1 CONTAMINATED")
    counted = line(card, "llm small strategist.v1")
    assert (read.contaminated, read.scores.calls, read.scores.brier) == (True, READ_ABOUT, pytest.approx(2.0))
    assert (counted.contaminated, counted.scores.calls) == (False, len(LLM_MOMENTS) - READ_ABOUT)
    assert counted.scores.brier < 1.0
    assert not any("CONTAMINATED" in one.forecaster for one in card.switches)
    drawn = card.panels[0].curves["llm"].observed
    assert drawn.min() < 0.3 < drawn.max()  # the wrong ones would be a step the other way round


def test_calls_that_do_not_count_have_no_curve(database: Database) -> None:
    read = build(database, NOW, from_unix(int(LLM_MOMENTS[0])), from_unix(int(LLM_MOMENTS[READ_ABOUT - 1])))
    assert read is not None
    assert line(read, "llm small strategist.v1 CONTAMINATED").scores.calls == READ_ABOUT
    assert all(panel.curves.keys() == {"pool", "har_logit"} for panel in read.panels)


def test_the_overconfident_llm_is_told_its_temperature_and_what_it_would_be_worth_corrected(card: Scorecard) -> None:
    llm, corrected = (line(card, f"llm small strategist.v1{word}") for word in ("", " recalibrated"))
    assert llm.scores.temperature > 1.3
    assert corrected.scores.log_loss < llm.scores.log_loss


def test_a_call_is_scored_only_when_its_horizon_has_passed(database: Database) -> None:
    at = from_unix(int(MOMENTS[50])) + timedelta(hours=5)
    early = build(database, at)
    assert early is not None
    assert line(early, "pool", 4 * HOUR).scores.calls == 51
    assert line(early, "pool", 24 * HOUR).scores.calls == 48  # of the last three the day has not passed
    assert build(database, from_unix(int(MOMENTS[0])) + timedelta(hours=3)) is None


def test_a_span_scores_its_own_calls_with_references_that_know_the_year_before(
    database: Database, card: Scorecard
) -> None:
    first = from_unix(int(MOMENTS[300]))
    part = build(database, NOW, first, NOON)
    assert part is not None
    assert part.first == first
    assert line(part, "pool").scores.calls == len(MOMENTS) - 300
    usual = line(part, "climatology").scores.brier
    assert usual != line(card, "climatology").scores.brier
    counts = np.eye(3)[WORLD.classes[:298, 1]].sum(axis=0) + 1  # known at the first moment: all but three
    whole = build(database, NOW, first, first)
    assert whole is not None
    expected = brier_loss((counts / counts.sum())[None, :], WORLD.classes[300:301, 1])[0]
    assert line(whole, "climatology").scores.brier == pytest.approx(expected)


def test_models_and_prompts_are_scored_apart(stored: tuple[Settings, Callable[[str], Database]]) -> None:
    database = stored[1]("meta_controller")
    others = MOMENTS[:30]
    with database.connection.transaction(force_rollback=True):
        for some, model, prompt in ((others[:15], "small", "strategist.v2"), (others[15:], "large", "strategist.v1")):
            ids = insert_llm_calls(database, some, model, prompt)
            insert_calls(database, "llm", some, np.full((15, 6), 1 / 3), llm=ids)
        card = build(database, NOW)
        assert card is not None
        assert {one.forecaster: one.scores.calls for one in card.panels[0].lines if one.forecaster[:3] == "llm"} == {
            "llm large strategist.v1": 15, "llm large strategist.v1 recalibrated": 15,
            "llm small strategist.v1": 180, "llm small strategist.v1 recalibrated": 180,
            "llm small strategist.v1 CONTAMINATED": 60,
            "llm small strategist.v2": 15, "llm small strategist.v2 recalibrated": 15,
        }  # fmt: skip
        mine = llm_scorecard(database, NOW, NOW, "large", "strategist.v1")
        assert mine["4h"]["trend"]["calls"] == 15


def test_switches_are_counted_a_day_and_gaps_do_not_count(card: Scorecard, database: Database) -> None:
    usual, pools = UsualOdds(), list(zip(MOMENTS.tolist(), WORLD.pool.tolist(), strict=True))
    for at, p in pools:
        usual.add(at, p[0], p[2])
    words = [call_of(24 * HOUR, p, "", usual.before(at)).regime for at, p in pools]
    changes = sum(a != b for a, b in pairwise(words))
    rates = {(one.forecaster, one.horizon_s): one.a_day for one in card.switches}
    assert rates["pool", 24 * HOUR] == pytest.approx(changes / ((MOMENTS[-1] - MOMENTS[0]) / DAY))
    calls = Calls(np.array([0, HOUR, 2 * HOUR, 9 * DAY]), np.tile(np.eye(3)[[0, 0, 2, 1]], 2))
    book = {POOL: {4 * HOUR: calls}}
    (one,) = scorecard._switches(book, [POOL])
    assert one.a_day == pytest.approx(1 / (2 / 24))


def test_the_day_after_a_call_of_high_volatility_is_told_apart(card: Scorecard) -> None:
    by = {(one.by, one.called): one for one in card.separation}
    low, high = by["volatility", "low"], by["volatility", "high"]
    called = WORLD.pool[:, 3:].argmax(axis=1)
    assert high.realised.mean == pytest.approx(WORLD.realised[called == 2].mean())
    assert high.realised.low > low.realised.high
    assert low.realised.low < low.realised.mean < low.realised.high
    assert sum(one.calls for one in card.separation if one.by == "regime") == len(MOMENTS)
    assert by["regime", "bull"].log_return.low > by["regime", "bear"].log_return.high


# ── what is shown ──


@pytest.mark.parametrize("width", [80, 100, 123, 124, 160])
def test_the_tables_fit_and_nothing_in_them_is_cut(card: Scorecard, width: int) -> None:
    text = as_text(card, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert text.count("CONTAMINATED") == 5  # four lines and why
    for told in ("Volatility of the next 24 hours", "pool", "HAR", "persistence", "Changes of the word", "sideways"):
        assert told in text
    pool = next(row for row in text.splitlines() if row.startswith("pool"))
    assert ("**" in pool) == (width < 124)
    assert ("(<.001)" in pool) == (width >= 124)


def test_json_is_json_and_unknown_is_null(card: Scorecard) -> None:
    separation = [replace(card.separation[0], realised=Interval(math.nan, math.nan, math.nan))]
    told = json.loads(as_json(replace(card, separation=separation)), parse_constant=pytest.fail)
    assert told["separation"][0]["realised"] == {"mean": None, "low": None, "high": None}
    first = told["panels"][0]
    assert "curves" not in first
    assert first["lines"][0]["forecaster"] == "pool"
    assert first["lines"][0]["against"]["har_logit"].keys() == {"calls", "skill", "p"}


def test_the_picture_has_a_panel_for_each_horizon_and_axis(
    card: Scorecard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plot(card, tmp_path / "new" / "card.png")
    data = (tmp_path / "new" / "card.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert struct.unpack(">II", data[16:24]) == (1600, 1680)
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    write_plot(card, tmp_path / "card.png")
    (figure,) = drawn
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert axes.get_legend_handles_labels()[1] == ["pool", "HAR-logit", "LLM"]
        inside = [np.asarray(one.get_xdata()) for one in axes.get_lines()[:-1]]
        low, high = axes.get_xlim()
        assert low <= min(x.min() for x in inside)
        assert max(x.max() for x in inside) <= high


def test_the_command_prints_and_writes_its_picture(
    stored: tuple[Settings, Callable[[str], Database]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("shared.job.load_settings", lambda: stored[0])
    picture = tmp_path / "card.png"
    at = ["--at", NOW.isoformat()]
    assert scorecard.main([*at, "--png", str(picture), "--expert", "pool", "llm"]) == 0
    told = capsys.readouterr().out
    assert picture.exists()
    assert str(picture) in told
    assert "\nllm small" in told
    assert "\nhar_logit" not in told
    assert scorecard.main([*at, "--json", "--expert", "pool"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["forecaster"] for one in told["panels"][0]["lines"]] == ["pool", "climatology", "persistence"]
    written = stored[0].home_path / "reports" / f"scorecard-{from_unix(int(MOMENTS[-1])):%Y%m%dT%H%M}.png"
    assert written.exists()
    assert scorecard.main([*at, "--png", str(tmp_path), "--expert", "pool"]) == 1
    failed = capsys.readouterr()
    assert "\npool" in failed.out, "the tables do not wait for the picture"
    assert f"the picture cannot be written to {tmp_path}: Is a directory; name a file by --png" in failed.err
    assert "Traceback" not in failed.err


def test_without_outcomes_the_command_says_what_to_run(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shared.job.load_settings", lambda: settings)
    assert scorecard.main([]) == 0
    assert "make run-meta FROM=" in capsys.readouterr().out
    assert scorecard.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["panels"] == []
    assert scorecard.main(["--expert", "oracle"]) == 2
    assert "oracle made no call" in capsys.readouterr().err
    assert scorecard.main(["--from", "2024-02-01", "--to", "2024-01-01"]) == 2
    assert "swap them" in capsys.readouterr().err


def test_an_unknown_expert_is_told_who_called(database: Database) -> None:
    with pytest.raises(UsageError, match="oracle made no call in this span; who did: har_logit, llm, pool"):
        build(database, NOW, experts=["oracle"])


# ── what the LLM reads of it ──


def test_the_llm_reads_its_own_scores_without_what_it_may_have_read_about(database: Database) -> None:
    told = llm_scorecard(database, NOW, NOW, "small", "strategist.v1")
    assert list(told) == ["4h", "24h"]
    mine = slice(len(MOMENTS) - len(LLM_MOMENTS) + READ_ABOUT, None)
    loss, pools = WORLD.brier(WORLD.llm[READ_ABOUT:], mine, 0), WORLD.brier(WORLD.pool[mine], mine, 0)
    assert told["24h"]["trend"]["calls"] == len(loss)
    assert told["24h"]["trend"]["brier"] == round(float(loss.mean()), 3)
    assert told["24h"]["trend"]["skill_vs_pool"] == round(skill(loss, pools), 3)
    assert json.loads(json.dumps(told)) == told
    for model, prompt in (("small", "strategist.v2"), ("large", "strategist.v1")):
        assert llm_scorecard(database, NOW, NOW, model, prompt) == {}


LATER = {
    "calls": "UPDATE regime_calls SET recorded_at = %(late)s WHERE expert = 'llm' AND as_of > %(since)s",
    "outcomes": "UPDATE regime_outcomes SET recorded_at = %(late)s WHERE as_of > %(since)s",
    "the pool": "UPDATE regime_calls SET recorded_at = %(late)s WHERE expert = 'pool' AND as_of > %(since)s",
}


@pytest.mark.parametrize("rows", LATER)
def test_what_is_recorded_later_is_not_read_now(stored: tuple[Settings, Callable[[str], Database]], rows: str) -> None:
    database, at = stored[1]("owner"), from_unix(int(LLM_MOMENTS[150])) + timedelta(hours=4)
    late = at + timedelta(seconds=1)

    def told(recorded_by: datetime) -> dict[str, Any]:
        return dict(llm_scorecard(database, recorded_by, at, "small", "strategist.v1")["4h"]["trend"])

    before = told(at)
    assert before["calls"] == 91
    with database.connection.transaction(force_rollback=True):
        touched = database.execute(LATER[rows], {"late": late, "since": from_unix(int(LLM_MOMENTS[140]))})
        assert touched > 0
        assert told(at)["calls"] == (91 if rows == "the pool" else 81)
        assert told(at)["skill_vs_pool"] != before["skill_vs_pool"]
        assert told(late) == before


@pytest.mark.parametrize(("scored", "said"), [(9, []), (10, ["4h"])])
def test_fewer_than_ten_scored_calls_say_nothing(database: Database, scored: int, said: list[str]) -> None:
    last = from_unix(int(LLM_MOMENTS[READ_ABOUT + scored - 1]))
    at: datetime = last + timedelta(hours=4)
    assert list(llm_scorecard(database, NOW, at, "small", "strategist.v1")) == said
