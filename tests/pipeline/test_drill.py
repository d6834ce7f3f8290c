"""The drill keeps its promises on the real sender, notices a broken one, and touches nothing of the operator's."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline import drill
from pipeline.drill import Change, Scene, Step
from shared.settings import Settings
from tests.helpers import DatabaseFor

TITLES = ["begin", "pause", "kill", "resume", "flatten", "resume", "halt", "resume", "database away", "database back",
          "resume"]  # fmt: skip


def order(number: int, side: str, kind: str, state: str, quantity: str = "1", filled: str = "0") -> dict[str, Any]:
    return {"number": number, "side": side, "symbol": "BTC/USD", "type": kind, "state": state, "quantity": quantity,
            "filled": filled, "limit_price": None, "stop_price": "90"}  # fmt: skip


def scene(held: str, *orders: dict[str, Any]) -> Scene:
    return Scene({o["number"]: o for o in orders}, Decimal(held))


STOP, HALF_A_STOP = order(1, "sell", "stop", "open"), order(1, "sell", "stop", "open", "0.5")
RESTING, CANCELLED = order(2, "buy", "limit", "open"), order(2, "buy", "limit", "canceled")
BOUGHT, SOLD = order(3, "buy", "market", "filled", "1", "1"), order(4, "sell", "market", "filled", "1", "1")
BEFORE = scene("1", STOP, RESTING)


@pytest.mark.parametrize(
    ("promise", "kept", "broken"),
    [
        (drill.no_entry, [scene("1", STOP, RESTING, SOLD)], [scene("1", STOP, RESTING, BOUGHT)]),
        (drill.entries_stay, [BEFORE], [scene("1", STOP, CANCELLED)]),
        (drill.entries_are_cancelled, [scene("1", STOP, CANCELLED)], [BEFORE, scene("1", STOP, RESTING, BOUGHT)]),
        (drill.an_entry_goes_out, [scene("2", STOP, RESTING, BOUGHT)], [BEFORE, scene("0", STOP, RESTING, SOLD)]),
        (drill.an_exit_goes_out, [scene("0", STOP, RESTING, SOLD)], [BEFORE, scene("2", STOP, RESTING, BOUGHT)]),
        (drill.held_is_protected, [BEFORE], [scene("1", RESTING), scene("1", HALF_A_STOP), scene("0.5", STOP)]),
        (drill.everything_is_sold, [scene("0", CANCELLED, SOLD)], [scene("0", STOP, SOLD), scene("1", CANCELLED)]),
        (drill.nothing_happens, [BEFORE], [scene("1", HALF_A_STOP, RESTING), scene("1", STOP, RESTING, SOLD)]),
    ],
)
def test_a_promise_tells_what_keeps_it_from_what_breaks_it(
    promise: Callable[[Change], bool], kept: list[Scene], broken: list[Scene]
) -> None:
    assert [promise(Change(BEFORE, after)) for after in kept] == [True] * len(kept)
    assert [promise(Change(BEFORE, after)) for after in broken] == [False] * len(broken)


def test_every_stop_does_what_it_promises_and_the_telling_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = drill.drill(tmp_path, "main", ("BTC/USD",))
    assert [(step.title, step.broken) for step in steps] == [(title, []) for title in TITLES]
    told = " ".join(capsys.readouterr().out.split())
    assert "NOT AS PROMISED" not in told
    assert "make kill FLATTEN=1 WALLET=main" in told
    assert "terminating connection" in told  # its database was really away


def test_a_broken_promise_is_told_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: Settings, database_for: DatabaseFor
) -> None:
    step = Step("halt", "make halt", {"nothing is sent": drill.nothing_happens})
    step.change, step.broken = Change(BEFORE, scene("1", STOP, RESTING, SOLD)), ["nothing is sent"]

    def rehearse(_folder: Path, _name: str, _symbols: tuple[str, ...]) -> list[Step]:
        drill.tell(step)
        return [step]

    monkeypatch.setattr(drill, "drill", rehearse)
    monkeypatch.setattr(drill, "load_settings", lambda: settings)
    assert drill.main([]) == 1
    told = capsys.readouterr().out
    assert "NOT AS PROMISED" in told
    assert "0 of 1 steps as promised; written down in operator_checks" in told
    (row,) = database_for("cli").fetch("SELECT kind, passed, details FROM operator_checks")
    assert row == {
        "kind": "drill",
        "passed": False,
        "details": {"steps": [{"step": "halt", "broken": ["nothing is sent"]}]},
    }


def test_a_database_that_does_not_run_is_not_started_for_it(tmp_path: Path, settings: Settings) -> None:
    assert not drill.write_down(settings.model_copy(update={"home": tmp_path}), [])
    assert list(tmp_path.iterdir()) == []


def test_a_wallet_that_nobody_named_is_bad_usage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drill, "load_settings", lambda: settings)
    monkeypatch.setattr("shared.wallets_file.WALLETS_FILE", tmp_path / "wallets.json")
    assert drill.main(["main"]) == 2
    assert "wallets.json" in capsys.readouterr().err
