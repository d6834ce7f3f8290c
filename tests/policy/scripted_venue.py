"""A venue on loopback that answers what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

LINGER_0 = struct.pack("ii", 1, 0)  # close() then sends RST instead of FIN


@dataclass(frozen=True, slots=True)
class Reply:
    """``body``: text as it is, anything else as JSON. ``ending``: how the connection ends."""

    body: Any = ""
    status: int = 200
    ending: Literal["whole", "short", "close", "reset", "hang"] = "whole"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def raw(self) -> bytes:
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    path: str
    arguments: dict[str, str]
    raw: str  # query string or form, as it came
    headers: dict[str, str]


class ScriptedVenue:
    """``with ScriptedVenue() as venue``: ``venue.say("GET /api/v3/order", Reply(…), …)``; the last one said stays."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self._replies: dict[str, list[Reply]] = defaultdict(list)
        self._ended = threading.Event()
        venue = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                venue._serve(self)

            do_GET = do_POST = do_DELETE = handle_any  # noqa: N815 (http.server's names)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> ScriptedVenue:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def say(self, endpoint: str, *replies: Reply) -> None:
        self._replies[endpoint] = list(replies)

    def count(self, endpoint: str) -> int:
        return len(self.all(endpoint))

    def all(self, endpoint: str) -> list[Asked]:
        return [asked for asked in self.asked if f"{asked.method} {asked.path}" == endpoint]

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        address = urlsplit(request.path)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0)).decode()
        raw = address.query + body
        self.asked.append(
            Asked(request.command, address.path, dict(parse_qsl(raw)), raw, dict(request.headers.items()))
        )
        replies = self._replies.get(f"{request.command} {address.path}") or [Reply("unscripted", 404)]
        self._answer(request, replies.pop(0) if len(replies) > 1 else replies[0])

    def _answer(self, request: BaseHTTPRequestHandler, reply: Reply) -> None:
        request.close_connection = True
        if reply.ending == "hang":
            self._ended.wait(5)
            return
        if reply.ending == "reset":
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
            request.connection.close()
            return
        if reply.ending == "close":
            return
        request.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", "Connection": "close", **reply.headers}.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(reply.raw)))
        request.end_headers()
        request.wfile.write(reply.raw[: len(reply.raw) // 2] if reply.ending == "short" else reply.raw)
