"""The demo as a user meets it, pulled out of the wall twice: it completes, and nothing is there twice.

Three days are traded here; ``DEMO_DAYS=42`` in the environment makes it the long form (`make test-long`).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline import demo as demo_command
from pipeline.demo import SIMULATED_END, SIMULATED_SYMBOLS, plan_spans
from shared.db import Database, DatabaseError, DatabaseUnavailable, role_url
from shared.embedded_db import is_running, remove
from shared.exchanges import open_exchange
from shared.job import UsageError
from shared.kill_file import write_stop
from shared.settings import PROJECT, HomeSettings, load_settings

LEAST_DAYS = 29  # what Kraken's list of candles holds
DAYS = int(os.environ.get("DEMO_DAYS", LEAST_DAYS + 1))  # noqa: TID251 (of the tests, not of a job)
PLAN = plan_spans(open_exchange("simulated"), SIMULATED_SYMBOLS, "5m", 3600, SIMULATED_END, DAYS)
TRADED_HOURS = (PLAN.end - PLAN.train_to) // timedelta(hours=1)
DEADLINE_S = 240
SMALL = {
    "SEXTANT_ENCODER__TRAIN_STEPS": "5",
    "SEXTANT_POLICY__PATHWISE_STEPS": "3",
    "SEXTANT_POLICY__PPO_STEPS": "64",
    "SEXTANT_POLICY__SEEDS": "1",
    "SEXTANT_EXECUTION__NO_TRADE_BAND": "0.01",
}
COUNTS = """
SELECT (SELECT count(*) FROM market_data) AS candles, (SELECT count(*) FROM decisions) AS decisions,
       (SELECT count(*) FROM orders) AS orders, (SELECT count(*) FROM order_events) AS events,
       (SELECT count(*) FROM fills) AS fills, (SELECT count(*) FROM models) AS models,
       (SELECT count(*) FROM embeddings) AS embeddings, (SELECT count(*) FROM market_state) AS states
"""


def plan(days: int) -> list[float]:
    """Days of training the encoder, then the policy, then of trading."""
    spans = plan_spans(open_exchange("simulated"), SIMULATED_SYMBOLS, "5m", 3600, SIMULATED_END, days)
    edges = (spans.start, spans.encoder_to, spans.train_to, spans.end)
    return [(after - before) / timedelta(days=1) for before, after in pairwise(edges)]


def test_the_last_sixth_is_traded_and_half_of_the_rest_trains_the_encoder() -> None:
    assert plan(180) == [75, 75, 30]


def test_a_short_history_leaves_enough_to_learn_from_and_some_to_trade() -> None:
    encoder, policy, traded = plan(LEAST_DAYS)
    assert encoder * 24 >= 288 + 24 + 100  # a window, its label, a hundred of them of each symbol
    assert policy * 24 >= 24 + 200
    assert 1.5 <= traded < LEAST_DAYS / 6
    with pytest.raises(UsageError, match=r"28 days are too few .* at least 29"):
        plan(LEAST_DAYS - 1)


@pytest.fixture
def demo_home() -> Iterator[Path]:
    """A home of this test's own, which the server's user may enter: its server is going to be killed."""
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o711)
        home = Path(parent) / "home"
        home.mkdir()
        compiled = HomeSettings().home_path / "compiled"  # half a minute that every home would cost anew
        compiled.mkdir(parents=True, exist_ok=True)
        (home / "compiled").symlink_to(compiled)
        try:
            yield home
        finally:
            remove(home)


def test_a_stop_that_lies_there_is_said_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEXTANT_HOME", str(tmp_path))
    monkeypatch.setattr(demo_command, "bring_up", lambda settings: None)
    write_stop(tmp_path, None, "halt", "a storm", "cli:anna", SIMULATED_END)
    assert demo_command.main(["--days", str(DAYS)]) == 2
    told = " ".join(capsys.readouterr().out.split())
    assert "says halt, so nothing would be traded" in told
    assert "make resume WALLET=demo" in told


def start(home: Path) -> subprocess.Popen[str]:
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "COLUMNS": "200", "SEXTANT_HOME": str(home)} | SMALL
    command = [sys.executable, "-m", "pipeline.demo", "--days", str(DAYS)]
    return subprocess.Popen(
        command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def wait_for_decisions(home: Path, demo: subprocess.Popen[str], wanted: int) -> None:
    """Until the replay is in the middle of trading."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        assert demo.poll() is None, f"the demo ended by itself:\n{demo.communicate()[0]}"
        if is_running(home) and (counted := counts(home)) and counted["decisions"] >= wanted:
            return
        time.sleep(0.5)
    raise AssertionError(f"no {wanted} decisions within {DEADLINE_S} s")


def counts(home: Path) -> dict[str, int] | None:
    database = Database(role_url(load_settings(home=home), "cli"))
    try:
        return database.fetch_one(COUNTS)
    except (DatabaseError, DatabaseUnavailable):
        return None
    finally:
        database.close()


def finish(demo: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = demo.communicate(timeout=DEADLINE_S)
    return demo.returncode, output


def test_the_demo_survives_the_death_of_its_database_and_its_own(
    demo_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = start(demo_home)
    wait_for_decisions(demo_home, demo, 20)
    (pid_file,) = demo_home.rglob("postmaster.pid")
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)
    code, output = finish(demo)
    assert code == 1
    assert "goes on where this stopped" in output

    demo = start(demo_home)
    wait_for_decisions(demo_home, demo, 60)
    demo.kill()
    demo.wait()

    code, output = finish(start(demo_home))
    assert code == 0, output
    paper, tested = re.findall(r"paper wallet ([\d,.]+), backtest ([\d,.]+): the same", output)[0]
    assert paper == tested
    complete = counts(demo_home)
    assert complete is not None
    assert complete["decisions"] == 2 * (TRADED_HOURS + 1)
    assert complete["fills"] > 5
    assert complete["models"] == 2
    assert complete["candles"] == 2 * (DAYS * 24 * 12 + DAYS * 24)

    for name, value in (SMALL | {"SEXTANT_HOME": str(demo_home)}).items():
        monkeypatch.setenv(name, value)
    started = time.monotonic()
    assert demo_command.main(["--days", str(DAYS)]) == 0
    assert "trained already" in capsys.readouterr().out
    assert time.monotonic() - started < 60
    assert counts(demo_home) == complete
