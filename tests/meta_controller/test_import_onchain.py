from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_controller.import_onchain import main, run_once
from shared.clock import ReplayClock
from shared.job import JobError, Outcome
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor

pytestmark = pytest.mark.usefixtures("rolled_back")

FIGURES = "SELECT chain, metric, as_of, value, source, known_from, recorded_at FROM onchain_data ORDER BY 1, 2, 3"
MIDNIGHT = NOON - timedelta(hours=12)


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def imported(database_for: DatabaseFor, *paths: Path, at: datetime = NOON, lag_hours: float = 0.0) -> Outcome:
    return run_once(ReplayClock(at), database_for("meta_controller"), list(paths), lag_hours=lag_hours)


def test_figures_are_stored_as_given(tmp_path: Path, database_for: DatabaseFor) -> None:
    path = written(
        tmp_path / "glass.csv", "Value, as_of,metric,chain\n1.5e3,2024-06-01T10:00,Fees,BTC\n-2,2024-06-01,fees,btc\n"
    )
    assert imported(database_for, path).status == "done"
    rows = database_for("meta_controller").fetch(FIGURES)
    assert [(row["chain"], row["metric"], row["as_of"], row["value"]) for row in rows] == [
        ("btc", "fees", MIDNIGHT, -2.0), ("btc", "fees", NOON - timedelta(hours=2), 1500.0),
    ]  # fmt: skip
    for row in rows:
        assert (row["source"], row["known_from"], row["recorded_at"]) == ("glass", row["as_of"], NOON)


def test_the_figure_of_a_day_speaks_about_its_end(tmp_path: Path, database_for: DatabaseFor) -> None:
    path = written(tmp_path / "x.csv", "chain,metric,date,value\nbtc,fees,2024-05-31,1\nbtc,fees,2024-06-01,2\n")
    outcome = imported(database_for, path)
    assert outcome.result[str(path)]["examples"] == [
        "line 3: speaks about what is not over, or could not be published yet"
    ]
    (row,) = database_for("meta_controller").fetch(FIGURES)
    assert (row["as_of"], row["value"]) == (MIDNIGHT, 1.0)


def test_a_provider_that_publishes_late_is_known_late(tmp_path: Path, database_for: DatabaseFor) -> None:
    text = "chain,metric,as_of,value\nbtc,fees,2024-06-01T06:00,1\nbtc,fees,2024-06-01T06:01,2\n"
    outcome = imported(database_for, written(tmp_path / "x.csv", text), lag_hours=6)
    assert outcome.status == "refused"
    (row,) = database_for("meta_controller").fetch(FIGURES)
    assert (row["value"], row["known_from"]) == (1.0, NOON)


def test_twice_changes_nothing(tmp_path: Path, database_for: DatabaseFor) -> None:
    path = written(tmp_path / "x.csv", "chain,metric,as_of,value\nbtc,fees,2024-05-31,0.1\nbtc,fees,2024-05-30,2\n")
    imported(database_for, path)
    before = database_for("meta_controller").fetch(FIGURES)
    again = imported(database_for, path, at=NOON + timedelta(hours=1))
    assert (again.status, again.result[str(path)]) == ("nothing", {"new": 0, "known": 2})
    assert database_for("meta_controller").fetch(FIGURES) == before


def test_another_value_for_a_moment_is_refused_and_the_first_stays(tmp_path: Path, database_for: DatabaseFor) -> None:
    header = "chain,metric,as_of,value\n"
    imported(database_for, written(tmp_path / "a.csv", header + "btc,fees,2024-05-31,1\n"))
    text = header + "btc,fees,2024-05-31,1.1\nbtc,fees,2024-05-30,5\nbtc,fees,2024-05-30,6\nbtc,fees,2024-05-30,5\n"
    path = written(tmp_path / "b.csv", text)
    outcome = imported(database_for, path)
    assert outcome.status == "refused"
    result = outcome.result[str(path)]
    assert (result["new"], result["known"], result["refused"]) == (1, 1, {"another value stands for this moment": 2})
    assert [row["value"] for row in database_for("meta_controller").fetch(FIGURES)] == [5.0, 1.0]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("btc,fees,2024-05-31", "not as many fields"),
        ("btc,fees,2024-05-31,1,2", "not as many fields"),
        ("b tc,fees,2024-05-31,1", "no name"),
        (f"btc,{'f' * 41},2024-05-31,1", "no name"),
        ("btc,fees,yesterday,1", "not a time"),
        ("btc,fees,2024-06-01T12:00:01,1", "not over"),
        ("btc,fees,2024-05-31,nan", "not a finite number"),
        ("btc,fees,2024-05-31,1e999", "not a finite number"),
        ("btc,fees,2024-05-31,1_000", "not a finite number"),
        ("btc,fees,2024-05-31,", "not a finite number"),
    ],
)
def test_a_bad_row_is_refused_with_its_line_and_the_rest_is_stored(
    row: str, reason: str, tmp_path: Path, database_for: DatabaseFor
) -> None:
    path = written(tmp_path / "x.csv", f"chain,metric,as_of,value\n{row}\n\neth,fees,2024-05-31,1\n")
    result = imported(database_for, path).result[str(path)]
    assert (result["new"], len(result["examples"])) == (1, 1)
    assert result["examples"][0].startswith("line 2: ")
    assert reason in result["examples"][0]


@pytest.mark.parametrize(
    "text", ["", "btc,fees,2024-05-31,1\n", "chain,metric,value\n", "chain,metric,as_of,date,value\n", 'chain,"x\n']
)
def test_a_file_without_the_header_is_refused_and_nothing_of_any_file_is_stored(
    text: str, tmp_path: Path, database_for: DatabaseFor
) -> None:
    good = written(tmp_path / "good.csv", "chain,metric,as_of,value\nbtc,fees,2024-05-31,1\n")
    with pytest.raises(JobError):
        imported(database_for, good, written(tmp_path / "bad.csv", text))
    assert database_for("meta_controller").fetch(FIGURES) == []


@given(st.text(), st.integers(0, 3))
def test_no_text_in_a_cell_does_anything_but_be_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str, column: int
) -> None:
    from meta_controller.import_onchain import BadRow, _figure

    row = ["btc", "fees", "2024-05-31", "1"]
    row[column] = text
    try:
        (chain, metric, as_of), value = _figure(["chain", "metric", "date", "value"], row, NOON)
    except BadRow:
        return
    assert (chain + metric).isascii()
    assert as_of <= NOON
    assert abs(value) < float("inf")


@pytest.mark.usefixtures("own_database")
def test_the_command_says_by_its_exit_code_what_came_of_it(
    database_for: DatabaseFor, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shared.job.load_settings", lambda: settings)
    good = str(written(tmp_path / "a.csv", "chain,metric,as_of,value\nbtc,fees,2024-05-31,1\n"))
    at = ["--at", NOON.isoformat()]
    assert main([good, "--source", "Glass", *at]) == 0
    assert main([str(written(tmp_path / "b.csv", "chain,metric,as_of,value\nbtc,fees,x,1\n")), *at]) == 3
    assert main([str(tmp_path / "none.csv"), *at]) == 1
    assert main([good, "--lag-hours", "-1", *at]) == 2
    assert [row["source"] for row in database_for("meta_controller").fetch(FIGURES)] == ["Glass"]
