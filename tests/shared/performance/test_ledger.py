"""The ledger keeps every trial, survives a crash in mid-write, and names the line that someone changed."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.performance.ledger import START, LedgerTampered, Trial, TrialsLedger

TRIAL = Trial(datetime(2026, 1, 2, tzinfo=UTC), "evaluation", "abc", {"seed": 1, "lr": 3e-4}, 0.05, 1460)


def trial(number: int) -> Trial:
    return replace(TRIAL, recipe_hash=f"recipe-{number}", daily_active_sharpe=0.01 * number)


@pytest.fixture
def ledger(tmp_path: Path) -> TrialsLedger:
    ledger = TrialsLedger(tmp_path / "new" / "trials.jsonl")
    for number in range(3):
        ledger.append(trial(number))
    return ledger


def lines(ledger: TrialsLedger) -> list[bytes]:
    return ledger.path.read_bytes().splitlines()


def test_what_is_appended_is_read(ledger: TrialsLedger) -> None:
    assert ledger.read().entries == (trial(0), trial(1), trial(2))
    assert ledger.append(TRIAL) == ledger.read()


def test_no_file_is_no_trial_yet(tmp_path: Path) -> None:
    trials = TrialsLedger(tmp_path / "trials.jsonl").read()
    assert (trials.entries, trials.count, trials.variance, trials.head) == ((), 0, None, START)
    assert not (tmp_path / "trials.jsonl").exists()


def test_each_line_holds_the_hash_of_the_line_before(ledger: TrialsLedger) -> None:
    written = lines(ledger)
    assert json.loads(written[0])["previous"] == "0" * 64
    for before, line in pairwise(written):
        assert json.loads(line)["previous"] == hashlib.sha256(before).hexdigest()
    assert ledger.read().head == hashlib.sha256(written[-1]).hexdigest()


def test_appending_leaves_what_is_there_and_is_on_disk_before_it_returns(
    ledger: TrialsLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, synced = ledger.path.read_bytes(), []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    ledger.append(TRIAL)
    assert ledger.path.read_bytes().startswith(before)
    assert synced == [str(ledger.path), str(ledger.path.parent)]


def test_only_its_owner_may_read_it(ledger: TrialsLedger) -> None:
    assert ledger.path.stat().st_mode & 0o777 == 0o600


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_byte_is_found_and_its_line_named(ledger: TrialsLedger, data: st.DataObject) -> None:
    content = ledger.path.read_bytes()
    position = data.draw(st.integers(0, len(content) - 1).filter(lambda i: content[i : i + 1] != b"\n"))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b not in (content[position], ord("\n"))))
    changed = TrialsLedger(ledger.path.with_name("changed.jsonl"))
    changed.path.write_bytes(content[:position] + bytes([byte]) + content[position + 1 :])
    number = content[:position].count(b"\n") + 1
    with pytest.raises(LedgerTampered, match=f"line {number} of .*changed.jsonl is not as it was written"):
        changed.read()


def test_a_line_rewritten_with_its_own_check_is_found_by_the_next(ledger: TrialsLedger, tmp_path: Path) -> None:
    other = TrialsLedger(tmp_path / "other.jsonl")
    other.append(replace(trial(0), daily_active_sharpe=9.0))
    ledger.path.write_bytes(b"\n".join([lines(other)[0], *lines(ledger)[1:]]) + b"\n")
    with pytest.raises(LedgerTampered, match=r"line 2 .* does not follow the line before it"):
        ledger.read()


@pytest.mark.parametrize("removed", [0, 1])
def test_a_removed_line_is_found(ledger: TrialsLedger, removed: int) -> None:
    kept = [line for number, line in enumerate(lines(ledger)) if number != removed]
    ledger.path.write_bytes(b"\n".join(kept) + b"\n")
    with pytest.raises(LedgerTampered, match=f"line {removed + 1} .* does not follow"):
        ledger.read()


def test_nothing_is_appended_to_what_was_tampered_with(ledger: TrialsLedger) -> None:
    ledger.path.write_bytes(ledger.path.read_bytes().replace(b"recipe-1", b"recipe-7"))
    before = ledger.path.read_bytes()
    with pytest.raises(LedgerTampered, match="line 2"):
        ledger.append(TRIAL)
    assert ledger.path.read_bytes() == before


def test_who_kept_the_head_sees_that_the_newest_lines_are_gone(ledger: TrialsLedger) -> None:
    head = ledger.read().head
    ledger.path.write_bytes(b"\n".join(lines(ledger)[:2]) + b"\n")
    cut = ledger.read()
    assert cut.count == 2
    assert not cut.holds(head)
    assert cut.holds(cut.head)
    assert cut.holds(START)


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_a_line_that_a_crash_cut_off_is_reported_kept_and_no_trial(ledger: TrialsLedger, cut: int) -> None:
    whole = ledger.path.read_bytes()
    ledger.append(TRIAL)
    line = lines(ledger)[-1]
    torn = line[:cut] if cut > 0 else line  # the whole line, only its newline is missing
    ledger.path.write_bytes(whole + torn)
    assert (ledger.read().count, ledger.read().torn) == (3, 1)
    assert ledger.append(trial(7)).torn == 1
    after = ledger.append(trial(8))
    assert after.entries == (trial(0), trial(1), trial(2), trial(7), trial(8))
    assert ledger.path.read_bytes().startswith(whole + torn + b"\n")


def test_a_line_cut_off_is_part_of_the_chain_from_then_on(ledger: TrialsLedger) -> None:
    with ledger.path.open("ab") as file:
        file.write(b'{"at": "20')
    ledger.append(TRIAL)
    ledger.path.write_bytes(ledger.path.read_bytes().replace(b'{"at": "20', b'{"at": "21'))
    with pytest.raises(LedgerTampered, match=r"line 5 .* does not follow"):
        ledger.read()


def test_a_crash_in_the_very_first_write(tmp_path: Path) -> None:
    ledger = TrialsLedger(tmp_path / "trials.jsonl")
    ledger.path.write_bytes(b'{"at"')
    assert (ledger.read().count, ledger.read().torn) == (0, 1)
    assert ledger.append(TRIAL).entries == (TRIAL,)


def test_a_broken_line_that_no_crash_left_is_tampering(ledger: TrialsLedger) -> None:
    with ledger.path.open("ab") as file:
        file.write(b'{"at"\n')
    with pytest.raises(LedgerTampered, match="line 4"):
        ledger.read()


def append_some(arguments: tuple[Path, int]) -> None:
    path, first = arguments
    for number in range(first, first + 10):
        TrialsLedger(path).append(trial(number))


def test_processes_side_by_side_lose_no_trial(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(append_some, [(path, 10 * n) for n in range(4)])
    assert {one.recipe_hash for one in TrialsLedger(path).read().entries} == {f"recipe-{n}" for n in range(40)}


def test_the_same_recipe_with_the_same_outcome_is_one_trial(ledger: TrialsLedger) -> None:
    assert ledger.append(trial(1)).count == 3
    assert ledger.append(replace(trial(1), daily_active_sharpe=0.5)).count == 4
    assert ledger.append(replace(trial(1), kind="sweep")).count == 5
    assert len(ledger.read().entries) == 6


def test_the_variance_is_of_the_ratios_that_are_known(ledger: TrialsLedger) -> None:
    trials = ledger.append(replace(TRIAL, recipe_hash="residual of zero", daily_active_sharpe=None))
    assert trials.count == 4
    assert trials.variance == pytest.approx(np.var([0.0, 0.01, 0.02], ddof=1))


@pytest.mark.parametrize("what", [{10: "a", 9: "b"}, {"ü": [1, None, {"z": 0.1, "a": 1e300}]}, {}])
def test_whatever_json_can_hold_reads_back(tmp_path: Path, what: dict[Any, Any]) -> None:
    ledger = TrialsLedger(tmp_path / "trials.jsonl")
    assert ledger.append(replace(TRIAL, what=what)).entries[0].what == json.loads(json.dumps(what))


@pytest.mark.parametrize("bad", [{"daily_active_sharpe": math.nan}, {"what": {"loss": math.inf}}])
def test_what_json_cannot_hold_is_refused_and_leaves_nothing(ledger: TrialsLedger, bad: dict[str, Any]) -> None:
    before = ledger.path.read_bytes()
    with pytest.raises(ValueError):
        ledger.append(replace(TRIAL, **bad))
    assert ledger.path.read_bytes() == before


def test_a_naive_time_is_refused(ledger: TrialsLedger) -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        ledger.append(replace(TRIAL, at=datetime(2026, 1, 2)))  # noqa: DTZ001
