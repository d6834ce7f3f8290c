"""The clock, the switchboard, and what each fault of transport looks like from outside."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import ccxt
import krakenex
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from tests.exchange_emulator.clock import VirtualClock
from tests.exchange_emulator.faults import FAULTS, LASTING, TRADING, Rule, Switchboard
from tests.exchange_emulator.rest import STRIKES
from tests.exchange_emulator.server import START, Emulator

PRIVATE_FAULTS = {  # of the issue about execution
    "late_arrival", "fill_before_cancel", "fill_after_cancel", "late_event", "sequence_gap", "token_expiry",
    "post_only", "stale_read", "hide_order", "minimum", "tick_size",
}  # fmt: skip
PUBLIC_FAULTS = {  # of the issue about market data
    "hang", "reset", "close", "short_body", "html", "bad_json", "empty", "null_result", "http_429", "http_5xx", "error",
    "silence", "stream_close", "stream_reset", "stream_bad_json", "checksum", "duplicate", "reorder", "gap",
    "drop_update", "revision", "spike", "maintenance", "cancel_only", "delisting", "clock_skew",
}  # fmt: skip

# --- the clock ---

moves = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.floats(0, 1e6)),
        st.tuples(st.just("speed"), st.floats(0, 1e4)),
        st.tuples(st.just("wait"), st.floats(-1, 1e3)),  # even if the machine's clock slips
    )
)


class Watch:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


@given(moves=moves)
def test_virtual_time_never_goes_back_and_adds_up(moves: list[tuple[str, float]]) -> None:
    watch = Watch()
    clock = VirtualClock(START, 0.0, watch)
    expected, speed = START, 0.0
    for move, amount in moves:
        before = clock.now()
        if move == "advance":
            assert clock.advance(amount) == clock.now()
            expected += amount
        elif move == "speed":
            clock.set_speed(amount)
            speed = amount
        else:
            watch.time += amount
            expected += max(0.0, amount) * speed
        assert clock.now() >= before
        assert clock.now() == pytest.approx(expected, rel=1e-12)
        assert clock.speed == speed


def test_a_slip_of_the_machines_clock_does_not_set_virtual_time_back() -> None:
    watch = Watch()
    clock = VirtualClock(START, 60.0, watch)
    watch.time -= 1.0
    assert clock.now() == START


@pytest.mark.parametrize("amount", [-1.0, float("nan"), float("inf")])
def test_the_clock_refuses_to_be_set_back_or_lost(amount: float) -> None:
    clock = VirtualClock(START)
    for move in (clock.advance, clock.set_speed):
        with pytest.raises(ValueError, match="must be a finite number"):
            move(amount)
    assert clock.now() == START


# --- the switchboard ---


@pytest.fixture
def switchboard() -> Switchboard:
    return Switchboard(VirtualClock(START))


def test_every_fault_of_the_issues_is_on_the_board() -> None:
    assert set(FAULTS) == PUBLIC_FAULTS | PRIVATE_FAULTS
    assert TRADING == PRIVATE_FAULTS


@pytest.mark.parametrize(
    ("aim", "hits"),
    [
        ({}, True),
        ({"surface": "rest"}, True),
        ({"surface": "stream"}, False),
        ({"endpoint": "OHLC"}, True),
        ({"endpoint": "Time"}, False),
        ({"symbol": "BTC/USD"}, True),
        ({"symbol": "ETH/USD"}, False),
        ({"starts": START}, True),
        ({"starts": START + 1}, False),
        ({"ends": START}, False),
        ({"ends": START + 1}, True),
    ],
)
def test_a_rule_strikes_only_what_it_aims_at(switchboard: Switchboard, aim: dict, hits: bool) -> None:
    rule = Rule("reorder", **aim)
    switchboard.inject(rule)
    assert (switchboard.take({"reorder", "hang"}, "rest", "OHLC", "BTC/USD") is rule) == hits
    assert switchboard.take({"hang"}, "rest", "OHLC", "BTC/USD") is None
    assert switchboard.served == ({"reorder": 1} if hits else {})


def test_a_rule_for_one_symbol_or_endpoint_misses_what_has_none(switchboard: Switchboard) -> None:
    switchboard.inject(Rule("close", symbol="BTC/USD"))
    switchboard.inject(Rule("close", endpoint="OHLC"))
    assert switchboard.take({"close"}, "rest") is None


def test_times_are_used_up_and_the_next_rule_takes_over(switchboard: Switchboard) -> None:
    first, second = Rule("close", times=2), Rule("close", times=1)
    assert switchboard.inject(first) < switchboard.inject(second)
    taken = [switchboard.take({"close"}, "rest") for _ in range(4)]
    assert taken == [first, first, second, None]
    assert [rule["left"] for rule in switchboard.rules()] == [0, 0]
    assert switchboard.served["close"] == 3


def test_a_lasting_fault_costs_nothing_until_it_is_served(switchboard: Switchboard) -> None:
    rule = Rule("gap", symbol="BTC/USD", times=1)
    switchboard.inject(rule)
    assert switchboard.active("gap", "BTC/USD") is rule
    assert switchboard.active("gap", "ETH/USD") is None
    assert switchboard.served == {}
    switchboard.spend(rule)
    assert switchboard.active("gap", "BTC/USD") is None
    assert switchboard.served == {"gap": 1}


def test_rules_begin_and_end_with_virtual_time() -> None:
    clock = VirtualClock(START)
    switchboard = Switchboard(clock)
    switchboard.inject(Rule("maintenance", starts=START + 10, ends=START + 20))
    seen = []
    for _ in range(4):
        seen.append(switchboard.active("maintenance") is not None)
        clock.advance(7)
    assert seen == [False, False, True, False]


def test_probability_is_drawn_from_the_seed() -> None:
    def strikes(seed: int) -> list[bool]:
        switchboard = Switchboard(VirtualClock(START), seed)
        switchboard.inject(Rule("empty", probability=0.3))
        return [switchboard.take({"empty"}, "rest") is not None for _ in range(500)]

    assert strikes(1) == strikes(1) != strikes(2)
    assert 100 < sum(strikes(1)) < 200


def test_clearing_ends_all_and_keeps_the_count(switchboard: Switchboard) -> None:
    switchboard.inject(Rule("empty"))
    switchboard.take({"empty"}, "rest")
    switchboard.clear()
    assert switchboard.take({"empty"}, "rest") is None
    assert switchboard.rules() == []
    assert switchboard.served == {"empty": 1}


def test_threads_never_share_one_time(switchboard: Switchboard) -> None:
    switchboard.inject(Rule("empty", times=100))
    taken: list[Rule | None] = []

    def take() -> None:
        taken.extend(switchboard.take({"empty"}, "rest") for _ in range(50))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(rule is not None for rule in taken) == 100 == switchboard.served["empty"]


@pytest.mark.parametrize(
    "nonsense",
    [
        {"fault": "earthquake"},
        {"surface": "telegraph"},
        {"times": 0},
        {"probability": 0.0},
        {"probability": 1.5},
        {"starts": 5.0, "ends": 5.0},
        {"fault": "http_5xx", "parameter": 404},
        {"fault": "http_5xx", "parameter": "bad"},
        {"fault": "gap", "parameter": "yesterday"},
        {"fault": "gap", "probability": 0.5},
        {"fault": "silence", "surface": "rest"},
        {"fault": "html", "surface": "stream"},
    ],
)
def test_a_rule_that_makes_no_sense_cannot_be_made(nonsense: dict) -> None:
    with pytest.raises(ValueError):
        Rule(**{"fault": "close", **nonsense})


def test_lasting_faults_are_named_as_such() -> None:
    assert {fault for fault, text in FAULTS.items() if text.startswith("lasting:")} == LASTING


# --- faults of transport, as krakenex sees them ---


def ask(kraken: krakenex.API) -> dict:
    return kraken.query_public("Time", timeout=2.0)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("reset", requests.exceptions.ConnectionError),
        ("close", requests.exceptions.ConnectionError),
        ("short_body", requests.exceptions.ChunkedEncodingError),
        ("html", requests.exceptions.JSONDecodeError),
        ("bad_json", requests.exceptions.JSONDecodeError),
        ("empty", requests.exceptions.JSONDecodeError),
        ("http_429", requests.exceptions.HTTPError),
        ("http_5xx", requests.exceptions.HTTPError),
    ],
)
def test_krakenex_fails_once_and_then_no_more(
    emulator: Emulator, kraken: krakenex.API, fault: str, error: type[Exception]
) -> None:
    emulator.faults.inject(Rule(fault, times=1))
    with pytest.raises(error):
        ask(kraken)
    assert ask(kraken) == {
        "error": [],
        "result": {"unixtime": int(START), "rfc1123": "Sun, 15 Jun 2025 15:07:10 +0000"},
    }
    assert emulator.faults.served == {fault: 1}
    assert emulator.requests["Time"] == 2


def test_krakenex_returns_a_null_result_and_error_words_as_they_are(emulator: Emulator, kraken: krakenex.API) -> None:
    emulator.faults.inject(Rule("null_result", times=1))
    emulator.faults.inject(Rule("error", times=1))
    emulator.faults.inject(Rule("error", times=1, parameter="EGeneral:Internal error"))
    assert ask(kraken) == {"error": [], "result": None}
    assert ask(kraken) == {"error": ["EService:Unavailable"]}
    assert ask(kraken) == {"error": ["EGeneral:Internal error"]}


def test_a_hanging_answer_never_comes_and_a_late_one_does(emulator: Emulator, kraken: krakenex.API) -> None:
    emulator.faults.inject(Rule("hang", times=1))
    emulator.faults.inject(Rule("hang", times=1, parameter=0.2))
    with pytest.raises(requests.exceptions.ReadTimeout):
        kraken.query_public("Time", timeout=0.3)
    started = time.monotonic()
    assert ask(kraken)["error"] == []
    assert 0.2 <= time.monotonic() - started < 1.0


def test_statuses_and_waits_are_parameters(emulator: Emulator) -> None:
    emulator.faults.inject(Rule("http_5xx", times=1, parameter=520))
    emulator.faults.inject(Rule("http_429", times=1, parameter=9))
    url = emulator.rest_url + "/0/public/Time"
    answers = [requests.get(url, timeout=2) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [520, 429]
    assert answers[1].headers["Retry-After"] == "9"


@pytest.mark.parametrize("fault", STRIKES)
def test_every_fault_of_transport_strikes_binance_too(emulator: Emulator, fault: str) -> None:
    emulator.faults.inject(Rule(fault, endpoint="klines", symbol="BTC/USD", times=1, parameter=None))
    binance = ccxt.binance(
        {
            "timeout": 300,
            "enableRateLimit": False,
            "options": {"fetchCurrencies": False, "fetchMarkets": {"types": ["spot"]}},
        }
    )
    binance.urls["api"]["public"] = emulator.binance_url + "/api/v3"
    binance.load_markets()
    assert len(binance.fetch_ohlcv("ETH/USD", "5m", limit=3)) == 3
    if fault in ("html", "bad_json", "empty", "null_result"):  # which ccxt takes for an answer
        assert not any(all(row) for row in binance.fetch_ohlcv("BTC/USD", "5m", limit=3))
    else:
        with pytest.raises(ccxt.BaseError):
            binance.fetch_ohlcv("BTC/USD", "5m", limit=3)
    assert len(binance.fetch_ohlcv("BTC/USD", "5m", limit=3)) == 3
    assert emulator.faults.served == {fault: 1}


# --- and as a plain socket sees them ---


def bytes_of(emulator: Emulator) -> tuple[bytes, type[OSError] | None]:
    """All that comes back for one request, and how the connection failed if it did."""
    with socket.create_connection(("127.0.0.1", emulator.port), timeout=2) as connection:
        connection.sendall(b"GET /0/public/Time HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except OSError as error:
            return received, type(error)
        return received, None


def test_reset_is_a_tcp_reset_and_close_is_an_end_without_a_byte(emulator: Emulator) -> None:
    emulator.faults.inject(Rule("reset", times=1))
    emulator.faults.inject(Rule("close", times=1))
    assert bytes_of(emulator) == (b"", ConnectionResetError)
    assert bytes_of(emulator) == (b"", None)


def test_a_short_body_is_half_of_what_its_header_promises(emulator: Emulator) -> None:
    emulator.faults.inject(Rule("short_body", times=1))
    short, failure = bytes_of(emulator)
    head, _, body = short.partition(b"\r\n\r\n")
    whole = bytes_of(emulator)[0].partition(b"\r\n\r\n")[2]
    assert failure is None
    assert b"Content-Length: %d" % len(whole) in head
    assert body == whole[: len(whole) // 2]


# --- the emulator's own end ---


def hold_open(emulator: Emulator) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", emulator.port), timeout=5)
    connection.sendall(b"GET /0/public/Time HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_end_is_quick_with_requests_that_hang_and_sockets_that_idle() -> None:
    with Emulator() as emulator:
        emulator.faults.inject(Rule("hang"))
        hanging = [hold_open(emulator) for _ in range(3)]
        idle = socket.create_connection(("127.0.0.1", emulator.port), timeout=5)
        idle.sendall(b"GET /_ctl/clock HTTP/1.1\r\nHost: x\r\n\r\n")  # answered, it is taken in and not in a queue
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        wait_until(lambda: emulator.faults.served["hang"] == 3)
        started = time.monotonic()
    assert time.monotonic() - started < 2.0
    for connection in (*hanging, idle):
        assert connection.recv(100) == b""
        connection.close()


def test_a_taken_port_is_told_and_nothing_keeps_running(emulator: Emulator) -> None:
    before = threading.active_count()
    with pytest.raises(OSError), Emulator(port=emulator.port):
        pass
    wait_until(lambda: threading.active_count() <= before)


def test_an_emulator_outside_the_markets_time_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="Unix seconds"):
        Emulator(start=START * 1000)
