"""What both REST surfaces share: one way in, where the faults of transport strike."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from tests.exchange_emulator.faults import Rule

if TYPE_CHECKING:
    from tests.exchange_emulator.server import Emulator

HTML = b"<!DOCTYPE html><html><head><title>%b</title></head><body><h1>%b</h1></body></html>"
LINGER_0 = struct.pack("ii", 1, 0)  # close() then sends RST instead of FIN


@dataclass(frozen=True, slots=True)
class Answer:
    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> web.Response:
        return web.Response(body=self.body, status=self.status, content_type=self.content_type, headers=self.headers)


def as_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class Venue(Protocol):
    """One venue's REST API. Arguments are those of the query string and the form together."""

    prefix: str

    def answer(self, endpoint: str, arguments: dict[str, str]) -> Answer:
        """What the venue says, its own errors and distortions of the market included."""
        ...

    def symbol(self, arguments: dict[str, str]) -> str | None:
        """BASE/QUOTE of the one symbol that is asked for."""
        ...

    def error(self, text: str | None) -> Answer: ...

    def null(self) -> Answer: ...

    def too_many(self, retry_after_s: int) -> Answer:
        """Status 429."""
        ...


def add_venue(app: web.Application, emulator: Emulator, venue: Venue) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await _serve(emulator, venue, request)

    app.router.add_route("*", venue.prefix + "{endpoint:.+}", handle)


async def _serve(emulator: Emulator, venue: Venue, request: web.Request) -> web.StreamResponse:
    endpoint = request.match_info["endpoint"]
    arguments = {key: str(value) for key, value in {**request.query, **await request.post()}.items()}
    emulator.requests[endpoint] += 1

    async def truth() -> Answer:
        return await asyncio.to_thread(venue.answer, endpoint, arguments)

    rule = emulator.faults.take(STRIKES.keys(), "rest", endpoint, venue.symbol(arguments))
    if rule is None:
        return (await truth()).response()
    return await STRIKES[rule.fault](Strike(emulator, venue, request, rule, truth))


# --- the faults of transport ---


@dataclass(frozen=True, slots=True)
class Strike:
    """A rule that strikes one request; ``truth`` makes the answer that there would be without it."""

    emulator: Emulator
    venue: Venue
    request: web.Request
    rule: Rule
    truth: Callable[[], Awaitable[Answer]]

    def number(self, default: float) -> float:
        return default if self.rule.parameter is None else float(self.rule.parameter)


def reset(transport: asyncio.BaseTransport | None) -> None:
    """Ends a connection with a TCP RST."""
    if isinstance(transport, asyncio.Transport):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        transport.abort()


async def _hang(strike: Strike) -> web.StreamResponse:
    """The client's leaving cancels this handler; the emulator's stop ends the wait."""
    patience = None if strike.rule.parameter is None else strike.number(0)
    try:
        await asyncio.wait_for(strike.emulator.stopping.wait(), patience)
    except TimeoutError:
        return (await strike.truth()).response()
    return await _close(strike)


async def _reset(strike: Strike) -> web.StreamResponse:
    reset(strike.request.transport)
    return web.Response()  # nobody is left to read it


async def _close(strike: Strike) -> web.StreamResponse:
    if strike.request.transport is not None:
        strike.request.transport.close()
    return web.Response()  # nobody is left to read it


async def _short_body(strike: Strike) -> web.StreamResponse:
    body = (await strike.truth()).body
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
    await response.prepare(strike.request)
    await response.write(body[: len(body) // 2])
    if strike.request.transport is not None:
        strike.request.transport.close()
    return response


async def _bad_json(strike: Strike) -> web.StreamResponse:
    body = (await strike.truth()).body
    return Answer(body[: len(body) // 2]).response()


async def _html(_strike: Strike) -> web.StreamResponse:
    return _page(200, b"Just a moment...")


async def _http_5xx(strike: Strike) -> web.StreamResponse:
    return _page(int(strike.number(502)), b"Bad gateway")


def _page(status: int, title: bytes) -> web.Response:
    return Answer(HTML % (title, title), status, "text/html").response()


async def _empty(_strike: Strike) -> web.StreamResponse:
    return Answer(b"").response()


async def _null_result(strike: Strike) -> web.StreamResponse:
    return strike.venue.null().response()


async def _http_429(strike: Strike) -> web.StreamResponse:
    return strike.venue.too_many(int(strike.number(1))).response()


async def _error(strike: Strike) -> web.StreamResponse:
    text = strike.rule.parameter
    return strike.venue.error(None if text is None else str(text)).response()


STRIKES: dict[str, Callable[[Strike], Awaitable[web.StreamResponse]]] = {
    "hang": _hang,
    "reset": _reset,
    "close": _close,
    "short_body": _short_body,
    "html": _html,
    "bad_json": _bad_json,
    "empty": _empty,
    "null_result": _null_result,
    "http_429": _http_429,
    "http_5xx": _http_5xx,
    "error": _error,
}
