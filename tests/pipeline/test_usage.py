"""A command that lacks its object says which make variable names it; it never speaks of an option that nobody typed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline import go_live, restore
from shared.settings import Settings


@pytest.mark.parametrize(
    ("main", "told"),
    [
        (go_live.main, "go live with which wallet? LIVE_CONFIRM=… make go-live WALLET=…; `make wallets` lists them"),
        (restore.main, "restore which backup? `make restore FILE=… YES=1`; "),
    ],
)
def test_what_is_missing_is_named_as_make_names_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, main: Callable[[list[str]], int], told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for module in ("shared.job", "pipeline.restore"):
        monkeypatch.setattr(f"{module}.load_settings", lambda: settings)
    monkeypatch.setattr("pipeline.restore.configure_logging", lambda _level: None)
    assert main([]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "required" not in said
