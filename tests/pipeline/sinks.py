"""Where messages of tests end: an HTTP and an SMTP server on this machine, and a transport that sends nothing."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
from pydantic import SecretStr

from shared.settings import Settings, load_settings


def with_urls(urls: str | None, settings: Settings | None = None) -> Settings:
    changes: dict[str, Any] = {} if settings is None else {"home": settings.home, "db_name": settings.db_name}
    return load_settings(alert_urls=None if urls is None else SecretStr(urls), **changes)


class HttpSink(ThreadingHTTPServer):
    """Takes what is posted; refuses ``refuse_next`` of them with status 403, or sends all elsewhere (``moved``)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Posted)
        self.taken: list[tuple[str, dict[str, Any]]] = []
        self.refuse_next = 0
        self.moved = False

    def url(self, path: str = "5ecret-t0ken") -> str:
        return f"json://127.0.0.1:{self.server_port}/{path}"

    @property
    def titles(self) -> list[str]:
        return [payload["title"] for _, payload in self.taken]


class _Posted(BaseHTTPRequestHandler):
    server: HttpSink

    def do_POST(self) -> None:
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refused, self.server.refuse_next = self.server.refuse_next > 0, max(self.server.refuse_next - 1, 0)
        if not refused:
            self.server.taken.append((self.path, payload))
        self.send_response(403 if refused else 307 if self.server.moved else 200)
        if self.server.moved:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Not to stderr."""


class SmtpSink(socketserver.ThreadingTCPServer):
    """As much of SMTP as takes a mail: (sender, recipients, mail)."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Mailed)
        self.taken: list[tuple[str, list[str], EmailMessage]] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Mailed(socketserver.StreamRequestHandler):
    server: SmtpSink

    def handle(self) -> None:
        sender, recipients = "", list[str]()
        self.wfile.write(b"220 sink\r\n")
        while line := self.rfile.readline().decode().strip():
            if line.upper().startswith("MAIL FROM:"):
                sender, recipients = line[10:].split(">")[0].strip("<"), []
            elif line.upper().startswith("RCPT TO:"):
                recipients.append(line[8:].split(">")[0].strip("<"))
            elif line.upper() == "DATA":
                self.wfile.write(b"354 go on\r\n")
                text = b"".join(iter(self.rfile.readline, b".\r\n"))
                mail = message_from_bytes(text, policy=policy.default)
                assert isinstance(mail, EmailMessage)
                self.server.taken.append((sender, recipients, mail))
            self.wfile.write(b"221 bye\r\n" if line.upper() == "QUIT" else b"250 ok\r\n")
            if line.upper() == "QUIT":
                return


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def http_sink() -> Iterator[HttpSink]:
    server = HttpSink()
    with serving(server):
        yield server


@pytest.fixture
def smtp_sink() -> Iterator[SmtpSink]:
    server = SmtpSink()
    with serving(server):
        yield server


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What would have gone to the web: address and JSON of each request; each is answered as taken."""
    sent: list[tuple[str, dict[str, Any]]] = []

    def take(_: Any, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        assert kwargs["timeout"], "a request without a timeout waits for ever"
        assert isinstance(request.body, (str, bytes))
        sent.append((str(request.url), json.loads(request.body)))
        answer = requests.Response()
        answer.status_code, answer.request, answer.url = 200, request, str(request.url)
        answer._content = b"ok" if "slack" in str(request.url) else b'{"ok": true, "result": {}}'
        return answer

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", take)
    return sent
