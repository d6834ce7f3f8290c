"""The stop that needs no database: the strictest of all lines of both files holds, and doubt counts as kill."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.kill_file import (
    MANDATES,
    CannotStop,
    content_of,
    file_mandate,
    in_words,
    kill_path,
    lift,
    strictest,
    write_stop,
)
from tests.helpers import NOON

MANDATE = st.sampled_from(MANDATES)
LAW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def stop(home: Path, wallet: str | None, mandate: str, reason: str = "a test") -> bool:
    return write_stop(home, wallet, mandate, reason, "cli:anna", NOON)


def clear(home: Path) -> None:
    for file in home.iterdir():
        file.unlink()


def test_without_a_file_nothing_stops_and_a_home_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert file_mandate(tmp_path, "main") is None
    assert file_mandate(tmp_path / "absent", "main") is None


def test_from_the_mildest_to_the_strictest(tmp_path: Path) -> None:
    assert MANDATES == ("pause", "kill", "flatten", "halt")
    assert strictest(None, None) is None
    assert strictest("pause", None, "halt", "kill") == "halt"
    assert strictest("pause", "trade") == "kill", "a word that it does not know must not weaken"


@LAW
@given(st.lists(st.tuples(st.sampled_from([None, "main", "other"]), MANDATE), max_size=5))
def test_the_strictest_stop_of_both_files_holds_in_any_order(
    tmp_path: Path, stops: list[tuple[str | None, str]]
) -> None:
    clear(tmp_path)
    for wallet, mandate in stops:
        stop(tmp_path, wallet, mandate)
    for name in ("main", "other"):
        mine = [mandate for wallet, mandate in stops if wallet in (None, name)]
        assert file_mandate(tmp_path, name) == (max(mine, key=MANDATES.index) if mine else None)


@LAW
@given(MANDATE, st.binary(max_size=40), MANDATE)
def test_no_rubbish_before_or_after_weakens_a_stop(tmp_path: Path, first: str, rubbish: bytes, second: str) -> None:
    clear(tmp_path)
    path = kill_path(tmp_path, "main")
    stop(tmp_path, "main", first)
    with path.open("ab") as file:
        file.write(rubbish)  # a torn line, as a crash leaves it
    stop(tmp_path, "main", second)
    held = file_mandate(tmp_path, "main")
    assert held is not None
    assert MANDATES.index(held) >= max(MANDATES.index(first), MANDATES.index(second))


@pytest.mark.parametrize(
    ("content", "mandate"),
    [
        (b"", "kill"),  # touch KILL
        (b"\n \n", "kill"),
        (b"halt\n", "halt"),  # echo halt > KILL
        (b"pause", "pause"),
        (b"stop everything", "kill"),
        (b"\xff\xfe", "kill"),
        (b'{"mandate": "hal', "kill"),
        (b'{"mandate": "trade"}', "kill"),
        (b'{"mandate": ["halt"]}', "kill"),
        (b'["halt"]', "kill"),
        (b"[" * 100_000, "kill"),
        (b'{"mandate": "pause"}\nwhat?', "kill"),
    ],
)
@pytest.mark.parametrize("name", ["KILL", "KILL.main"])
def test_a_file_made_by_hand_stops_and_what_is_odd_counts_as_kill(
    tmp_path: Path, name: str, content: bytes, mandate: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert file_mandate(tmp_path, "main") == mandate
    assert file_mandate(tmp_path, "other") == (mandate if name == "KILL" else None)


def test_what_cannot_be_read_stops(tmp_path: Path) -> None:
    (tmp_path / "KILL").mkdir()
    assert file_mandate(tmp_path, "main") == "kill"
    assert "an empty or unreadable file" in in_words(tmp_path / "KILL")
    (tmp_path / "file").touch()
    assert file_mandate(tmp_path / "file", "main") == "kill", "a home that is no directory"


def test_a_stop_says_who_when_and_why(tmp_path: Path) -> None:
    assert stop(tmp_path, "main", "pause", 'the "venue" is\ndown: µ')
    assert not stop(tmp_path, "main", "halt", "again"), "it was there before"
    said = in_words(kill_path(tmp_path, "main"))
    assert said == (
        f'pause: the "venue" is\ndown: µ (cli:anna, {NOON.isoformat()}); halt: again (cli:anna, {NOON.isoformat()})'
    )
    (tmp_path / "KILL").write_text("halt\n")
    assert in_words(tmp_path / "KILL") == "halt"


def test_only_names_that_wallets_have_become_files(tmp_path: Path) -> None:
    for name in ("../main", "", "a/b", "Main", "a.b"):
        with pytest.raises(ValueError, match="a wallet is named in"):
            stop(tmp_path, name, "kill")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_says_what_else_stops(tmp_path: Path) -> None:
    (tmp_path / "KILL").mkdir()
    with pytest.raises(CannotStop, match="stop the sender itself, or make an empty file"):
        stop(tmp_path, None, "kill")


def test_half_a_line_is_no_stop_that_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:10]))
    with pytest.raises(CannotStop, match="half of the line"):
        stop(tmp_path, None, "halt")
    assert file_mandate(tmp_path, "main") == "kill", "and yet it stops"


def test_a_stop_that_a_resume_takes_away_under_it_is_written_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []
    write = os.write

    def write_and_lose(file: int, line: bytes) -> int:
        done = write(file, line)
        if not taken:
            taken.append(lift(tmp_path, "main", content_of(kill_path(tmp_path, "main"))))
        return done

    monkeypatch.setattr(os, "write", write_and_lose)
    stop(tmp_path, "main", "halt")
    assert taken == [True]
    assert file_mandate(tmp_path, "main") == "halt"


def test_only_what_was_seen_is_lifted(tmp_path: Path) -> None:
    stop(tmp_path, "main", "kill")
    stop(tmp_path, None, "pause")
    seen = content_of(kill_path(tmp_path, "main"))
    write_stop(tmp_path, "main", "halt", "came in meanwhile", "cli:anna", NOON + timedelta(seconds=1))
    assert not lift(tmp_path, "main", seen)
    assert not lift(tmp_path, "main", None)
    assert file_mandate(tmp_path, "main") == "halt"
    assert lift(tmp_path, "main", content_of(kill_path(tmp_path, "main")))
    assert file_mandate(tmp_path, "main") == "pause", "the file of all wallets is another one"
    assert lift(tmp_path, "main", None), "there is none: nothing is to be done"
    (tmp_path / "KILL.dir").mkdir()
    with pytest.raises(CannotStop, match="only you can take it away"):
        lift(tmp_path, "dir", b"")


def test_a_stop_between_the_look_and_the_lifting_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was written and looked after (_append) before the file went: nobody would write it a second time."""
    stop(tmp_path, "main", "pause")
    path, rename = kill_path(tmp_path, "main"), Path.rename

    def stopped_before(self: Path, target: Path) -> Path:
        write_stop(tmp_path, "main", "halt", "came in at the last moment", "cli:anna", NOON)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stopped_before)
    assert not lift(tmp_path, "main", content_of(path))
    assert file_mandate(tmp_path, "main") == "halt"
    assert [entry.name for entry in tmp_path.iterdir()] == ["KILL.main"]
