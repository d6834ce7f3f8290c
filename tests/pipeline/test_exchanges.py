"""`make exchanges`: every configured connection is tried at once, and what fails says why."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline import exchanges
from shared.clock import ReplayClock, SystemClock
from shared.exchanges import EXCHANGES
from shared.settings import PROJECT, Settings, load_settings
from tests.exchange_emulator.faults import Rule
from tests.exchange_emulator.server import START, Emulator

NOW = datetime.fromtimestamp(START, UTC)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEXTANT_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def emulated() -> Iterator[Emulator]:
    with Emulator(("BTC/USDT", "ETH/USD")) as emulator:
        yield emulator


@pytest.fixture
def emulator(emulated: Emulator) -> Iterator[Emulator]:
    yield emulated
    emulated.faults.clear()


def configured(rest_url: str, *names: str, venue: str = "kraken") -> Settings:
    venues = {name: {"rest_url": rest_url, "requests_per_s": 50.0} for name in names}
    if "kraken" in venues:
        venues["kraken"]["websocket_url"] = rest_url.replace("http", "ws") + "/v2"
    return load_settings(universe={"venue": venue, "symbols": ["BTC/USDT", "ETH/USDT"]}, venues=venues)


def run(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str]:
    monkeypatch.setattr(exchanges, "load_settings", lambda: settings)
    monkeypatch.setenv("COLUMNS", "200")
    code = exchanges.main(list(arguments))
    return code, capsys.readouterr().out


def test_who_answers_is_told_with_round_trip_clock_and_symbols(emulator: Emulator) -> None:
    settings = configured(emulator.rest_url, "kraken", "binance")
    kraken, binance, paper = exchanges.ask_all(["kraken", "binance", "paper", "kraken"], settings, ReplayClock(NOW))
    for report in (kraken, binance):
        assert (report.status, report.trouble) == ("online", "")
        assert 0 < report.round_trip_s < 5
        assert report.skew_s == 0.5  # whole seconds: the middle of the one that was told
        assert report.listed == {"BTC/USDT": "BTC/USDT", "ETH/USDT": "ETH/USD"}
    assert paper.skew_s is None
    assert list(paper.missing) == ["BTC/USDT", "ETH/USDT"]
    assert not any(exchanges.fails(report, settings) for report in (kraken, binance, paper))


def test_a_wrong_clock_and_maintenance_are_seen(emulator: Emulator) -> None:
    emulator.faults.inject(Rule("clock_skew", parameter=42))
    emulator.faults.inject(Rule("maintenance"))
    (report,) = exchanges.ask_all(["kraken"], configured(emulator.rest_url, "kraken"), ReplayClock(NOW))
    assert report.skew_s == 42.5
    assert report.status == "maintenance"


def test_the_table_shows_it_all(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = run(configured(emulator.rest_url, "kraken", "binance"), monkeypatch, capsys)
    assert code == 0
    for words in ("kraken", "binance", "online", " ms", "ETH/USDT as ETH/USD", "latest 720, 720 a page",
                  "all, 1,000 a page", "older candles from trades", "WebSocket", "OCO", "emulator"):  # fmt: skip
        assert words in out
    assert "coinbase" not in out


def test_a_venue_that_does_not_answer_fails_with_the_reason_and_the_others_are_still_told(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shared.exchanges.resilience.Timer", lambda: exchanges.Timer(sleep=lambda _seconds: None))
    emulator.faults.inject(Rule("html", endpoint="time"))
    code, out = run(configured(emulator.rest_url, "kraken", "binance"), monkeypatch, capsys, "ftx")
    assert code == 1
    assert "not_json: the answer is not JSON: <!DOCTYPE html>" in out
    assert "FTX collapsed" in out
    assert "online" in out


def test_the_venue_that_is_traded_on_must_list_what_is_watched_and_others_need_not(emulator: Emulator) -> None:
    emulator.faults.inject(Rule("delisting", symbol="BTC/USDT"))
    for venue, fails in (("binance", True), ("kraken", False)):
        settings = configured(emulator.rest_url, "binance", venue=venue)
        (report,) = exchanges.ask_all(["binance"], settings, ReplayClock(NOW))
        assert "BTC/USDT" in report.missing
        assert exchanges.fails(report, settings) is fails


def test_nothing_waits_beyond_the_deadline(emulator: Emulator) -> None:
    emulator.faults.inject(Rule("hang", endpoint="Time"))
    settings = configured(emulator.rest_url, "kraken", "binance")
    started = time.monotonic()
    kraken, binance = exchanges.ask_all(["kraken", "binance"], settings, SystemClock(), deadline_s=1.5)
    assert time.monotonic() - started < 3
    assert kraken.trouble == "no answer within 1.5 s"
    assert binance.status == "online"


def test_the_process_ends_though_a_venue_still_hangs(home: Path) -> None:
    """A server that accepts and never answers; the deadline shortened from outside."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        code = "import sys; from pipeline import exchanges as e; e.ask_all.__defaults__ = (0.5,); sys.exit(e.main([]))"
        environment = {"PATH": os.defpath, "SEXTANT_VENUES__KRAKEN__REST_URL": url, "COLUMNS": "100",
                       "SEXTANT_VENUES__KRAKEN__WEBSOCKET_URL": url.replace("http", "ws"),
                       "SEXTANT_HOME": str(home)}  # fmt: skip
        ran = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=environment, capture_output=True,
                             text=True, timeout=20, check=False)  # fmt: skip
    assert ran.returncode == 1
    assert "no answer within 0.5 s" in " ".join(ran.stdout.split())


def test_the_limit_is_kept_together_with_the_feed_and_the_backfill(emulator: Emulator, home: Path) -> None:
    settings = configured(emulator.rest_url, "kraken")
    exchanges.ask_all(["kraken"], settings, ReplayClock(NOW))
    assert (home / "rates" / "kraken").exists()


def test_bad_settings_are_a_usage_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SEXTANT_UNIVERSE__VENU", "kraken")
    assert exchanges.main([]) == 2
    assert "SEXTANT_UNIVERSE__VENU" in capsys.readouterr().err


def test_all_asks_the_whole_registry(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And only what is configured or named decides about success."""
    asked = list[str]()

    def report(name: str, *_rest: object) -> exchanges.Report:
        asked.append(name)
        return exchanges.Report(name, trouble="" if name == "simulated" else "away")

    monkeypatch.setattr(exchanges, "ask", report)
    settings = load_settings(universe={"venue": "simulated", "symbols": ["SIM-BTC/USDT"]})
    assert run(settings, monkeypatch, capsys, "--all")[0] == 0
    assert set(asked) == set(EXCHANGES)
    assert run(settings, monkeypatch, capsys, "kraken")[0] == 1
