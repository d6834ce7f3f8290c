"""The emulator's own doors, and the program that a user starts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import Any

import pytest
import requests

from shared.clock import RemoteClock, from_unix
from shared.settings import PROJECT
from tests.exchange_emulator.faults import FAULTS
from tests.exchange_emulator.server import START, Emulator


def get(emulator: Emulator, door: str, **arguments: Any) -> Any:
    return requests.get(f"{emulator.rest_url}/_ctl/{door}", params=arguments, timeout=5).json()


def post(emulator: Emulator, door: str, body: Any) -> requests.Response:
    return requests.post(f"{emulator.rest_url}/_ctl/{door}", json=body, timeout=5)


def test_our_clock_follows_the_emulators(emulator: Emulator) -> None:
    clock = RemoteClock(emulator.clock_url)
    assert clock.now() == from_unix(START)
    assert post(emulator, "clock", {"advance": 90}).json() == {"now": START + 90, "speed": 0.0}
    assert clock.now() == from_unix(START + 90)
    assert post(emulator, "clock", {"speed": 1000}).json()["speed"] == 1000
    assert clock.now() > from_unix(START + 90)


@pytest.mark.parametrize(
    "body", [{"advance": -1}, {"advance": "1"}, {"speed": -2}, {"rewind": 1}, {}, [], {"speed": 1, "advance": 2}]
)
def test_the_clock_refuses_nonsense(emulator: Emulator, body: Any) -> None:
    answer = post(emulator, "clock", body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert get(emulator, "clock") == {"now": START, "speed": 0.0}


def test_a_rule_is_injected_served_listed_and_cleared(emulator: Emulator) -> None:
    rule = {"fault": "http_5xx", "endpoint": "Time", "times": 3, "parameter": 503, "ends": START + 60}
    assert post(emulator, "faults", rule).json() == {"id": 1}
    assert requests.get(emulator.rest_url + "/0/public/Time", timeout=5).status_code == 503
    told = get(emulator, "faults")
    (listed,) = told["rules"]
    assert rule.items() <= listed.items()
    assert (listed["id"], listed["left"], listed["surface"]) == (1, 2, "any")
    assert told["served"] == {"http_5xx": 1}
    assert told["faults"] == FAULTS
    cleared = requests.delete(emulator.rest_url + "/_ctl/faults", timeout=5).json()
    assert (cleared["rules"], cleared["served"]) == ([], {"http_5xx": 1})
    assert requests.get(emulator.rest_url + "/0/public/Time", timeout=5).status_code == 200


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"fault": "earthquake"}, "no fault 'earthquake'; there are hang, reset"),
        ({"fault": "hang", "colour": "red"}, "unknown: colour; a rule has fault, surface"),
        ({"endpoint": "Time"}, "which fault"),
        ({"fault": "hang", "times": 1.5}, "times cannot be 1.5"),
        ({"fault": "hang", "times": True}, "times cannot be True"),
        ({"fault": "hang", "times": 0}, "times must be 1 or more"),
        ({"fault": "hang", "starts": "now"}, "starts cannot be 'now'"),
        ({"fault": "hang", "endpoint": 5}, "endpoint cannot be 5"),
        ({"fault": "hang", "symbol": "XBTUSD"}, "no symbol 'XBTUSD'; there are BTC/USD"),
        ({"fault": "hang", "parameter": ["x"]}, "parameter cannot be"),
        ({"fault": "hang", "probability": 2}, "probability must be"),
        ({"fault": 7}, "fault cannot be 7"),
        ({"fault": None}, "no fault None"),
        (["hang"], "as a JSON object"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_with_the_reason(emulator: Emulator, body: Any, reason: str) -> None:
    answer = post(emulator, "faults", body)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]
    assert get(emulator, "faults")["rules"] == []


def test_a_body_that_is_not_json_is_refused(emulator: Emulator) -> None:
    answer = requests.post(emulator.rest_url + "/_ctl/faults", data="{", timeout=5)
    assert answer.status_code == 400


def test_the_truth_is_told_as_columns(emulator: Emulator) -> None:
    opened = int(START) // 300 * 300
    told = get(emulator, "truth", symbol="BTC/USD", timeframe=300, since=opened - 900)
    truth = emulator.market.truth("BTC/USD", 300, opened - 900, int(START))
    assert told["as_of"] == [opened - 600, opened - 300, opened] == truth.as_of.tolist()
    assert told["close"] == truth.close.tolist()
    assert told["trades"] == truth.trades.tolist()
    until = get(emulator, "truth", symbol="BTC/USD", timeframe=300, since=opened - 900, until=opened - 300)
    assert until["as_of"] == told["as_of"][:2]


@pytest.mark.parametrize(
    "question",
    [
        {"symbol": "NOPE/USD", "timeframe": 300, "since": int(START) - 900},
        {"symbol": "BTC/USD", "timeframe": 7, "since": int(START) - 900},
        {"symbol": "BTC/USD", "timeframe": 300},
        {"symbol": "BTC/USD", "timeframe": 300, "since": "yesterday"},
        {"symbol": "BTC/USD", "timeframe": 300, "since": 1, "till": 2},
    ],
)
def test_the_truth_of_nonsense_is_refused(emulator: Emulator, question: dict) -> None:
    assert "error" in get(emulator, "truth", **question)


def test_requests_are_counted_by_endpoint_and_the_doors_are_not_counted(emulator: Emulator) -> None:
    for path in ("/0/public/Time", "/0/public/OHLC?pair=XBTUSD", "/api/v3/ticker/bookTicker"):
        requests.get(emulator.rest_url + path, timeout=5)
    emulator.kraken_limit.burst = 0
    requests.get(emulator.rest_url + "/0/public/Time", timeout=5)
    assert get(emulator, "requests") == {
        "requests": {"Time": 2, "OHLC": 1, "ticker/bookTicker": 1},
        "rate_limited": {"kraken": 1, "binance": 0},
    }


def test_the_faults_never_strike_the_doors(emulator: Emulator) -> None:
    post(emulator, "faults", {"fault": "close"})
    assert get(emulator, "clock")["now"] == START


# --- python -m tests.exchange_emulator ---


def start_program(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.exchange_emulator", *arguments],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_program_tells_what_to_type_and_ends_in_order(ending: signal.Signals) -> None:
    program = start_program("--port", "0", "--start", "2024-03-01T12:00", "--symbols", "SOL/USD", "--speed", "0")
    try:
        text = ""
        while "Ctrl-C" not in text:
            line = program.stdout.readline()
            assert line, program.stderr.read()
            text += line
        exports = dict(re.findall(r"export (\w+)=(.*)", text))
        answer = requests.get(exports["CLOCK_URL"], timeout=5).json()
        assert answer == {"now": 1_709_294_400.0, "speed": 0.0}
        rest_url = exports["SEXTANT_VENUES__KRAKEN__REST_URL"]
        assert list(requests.get(rest_url + "/0/public/AssetPairs", timeout=5).json()["result"]) == ["SOLUSD"]
        assert exports["SEXTANT_VENUES__KRAKEN__WEBSOCKET_URL"] == rest_url.replace("http", "ws") + "/v2"
        assert exports["SEXTANT_UNIVERSE__SYMBOLS"] == """'["SOL/USD"]'"""
        commands = re.findall(r"curl -s (\S+) -d '(.*?)'", text)
        assert [requests.post(url, data=body, timeout=5).status_code for url, body in commands] == [200] * 6
        os.kill(program.pid, ending)
        assert program.wait(timeout=5) == 0
        assert "1 requests answered" in program.stdout.read()
    finally:
        program.kill()


def test_the_program_says_why_it_cannot_start(emulator: Emulator) -> None:
    reasons = {
        ("--symbols", "bitcoin"): "like BTC/USD",
        ("--start", "soon"): "'soon' is not a time",
        ("--port", str(emulator.port)): "in use",
        ("--speed", "-1"): "speed must be",
    }
    programs = [start_program(*arguments) for arguments in reasons]
    for program, reason in zip(programs, reasons.values(), strict=True):
        _, trouble = program.communicate(timeout=20)
        assert (program.returncode, "Traceback" in trouble) == (2, False)
        assert reason in trouble
