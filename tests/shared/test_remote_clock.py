"""The clock of an emulator: asked anew each time, on this machine only."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

import shared.settings
from shared.clock import ClockUnavailable, RemoteClock, SystemClock, from_unix, open_clock
from shared.settings import SettingsError, load_settings


class TimeServer(HTTPServer):
    now = 1_717_243_200.25


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, TimeServer)
        body = json.dumps({"now": self.server.now, "speed": 60}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[TimeServer]:
    with TimeServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


def test_it_tells_what_the_emulator_says_now(server: TimeServer) -> None:
    clock = open_clock(f"http://127.0.0.1:{server.server_port}/_ctl/clock")
    assert clock.now() == from_unix(server.now)
    server.now += 3600
    assert clock.now() == from_unix(server.now)


def test_without_an_answer_there_is_no_time(server: TimeServer) -> None:
    url = f"http://127.0.0.1:{server.server_port}/_ctl/clock"
    server.now = "noon"  # type: ignore[assignment]
    with pytest.raises(ClockUnavailable, match="does not tell the time"):
        RemoteClock(url).now()
    server.shutdown()
    server.server_close()
    with pytest.raises(ClockUnavailable, match="start `make emulator`, or unset CLOCK_URL"):
        RemoteClock(url).now()


def test_without_a_url_it_is_the_wall_clock() -> None:
    assert isinstance(open_clock(None), SystemClock)


@pytest.mark.parametrize(
    "url", ["http://example.com/clock", "https://127.0.0.1/", "http://127.0.0.1.example.com/", "http://localhost@evil/"]
)
def test_no_other_machine_may_tell_the_time(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(shared.settings, "ENV_FILE", shared.settings.PROJECT / "no-such-file")
    with pytest.raises(ValueError, match="not on this machine"):
        RemoteClock(url)
    monkeypatch.setenv("CLOCK_URL", url)
    with pytest.raises(SettingsError, match="CLOCK_URL"):
        load_settings()
