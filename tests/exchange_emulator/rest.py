"""What both REST surfaces share: one way in, where the faults of transport strike."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from tests.exchange_emulator.faults import Rule

if TYPE_CHECKING:
    from tests.exchange_emulator.server import Emulator

HTML = b"<!DOCTYPE html><html><head><title>%b</title></head><body><h1>%b</h1></body></html>"
CLIENT_IDS = ("cl_ord_id", "newClientOrderId", "origClientOrderId")  # as the venues' arguments call it
LATE_S = 30.0  # virtual
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


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it came. ``arguments`` are those of the query string and of the body (form or JSON) together,
    as text; ``json`` is the body where it was a JSON object. Signatures are over ``path``, ``query`` and ``body``."""

    method: str
    path: str
    query: str  # undecoded, without the question mark
    endpoint: str  # the path without the venue's prefix
    headers: Mapping[str, str]
    body: bytes
    arguments: dict[str, str]
    json: Mapping[str, Any]
    remote: str  # the client's IP
    is_late: bool = False  # it passed the venue's gate, where nonces are checked, long before it arrives

    @property
    def client_id(self) -> str | None:
        """Of the one order that it is about."""
        return next((self.arguments[name] for name in CLIENT_IDS if name in self.arguments), None)


class Venue(Protocol):
    """One venue's REST API. Arguments are those of the query string and the form together."""

    prefix: str

    def answer(self, call: Call) -> Answer:
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
    call = await _call(request)
    emulator.requests[call.endpoint] += 1
    rule = emulator.faults.take(STRIKES.keys(), "rest", call.endpoint, venue.symbol(call.arguments), call.client_id)
    if rule is None:
        return venue.answer(call).response()
    effect: Answer | None = None
    if rule.phase == "before":
        effect = venue.null()
    elif rule.phase == "after_effect":
        effect = venue.answer(call)

    def truth() -> Answer:
        return venue.answer(call) if effect is None else effect

    return await STRIKES[rule.fault](Strike(emulator, venue, request, call, rule, truth))


async def _call(request: web.Request) -> Call:
    body = await request.read()
    given = _object(body) if request.content_type == "application/json" else {}
    form = {key: str(value) for key, value in (await request.post()).items()}
    scalars = {key: str(value) for key, value in given.items() if not isinstance(value, dict | list)}
    return Call(
        method=request.method,
        path=request.path,
        query=request.rel_url.raw_query_string,
        endpoint=request.match_info["endpoint"],
        headers=request.headers,
        body=body,
        arguments={**request.query, **form, **scalars},
        json=given,
        remote=request.remote or "",
    )


def _object(body: bytes) -> dict[str, Any]:
    """{}: no JSON object; then the venue finds its arguments missing."""
    try:
        given = json.loads(body)
    except ValueError:
        return {}
    return given if isinstance(given, dict) else {}


# --- the faults of transport ---


@dataclass(frozen=True, slots=True)
class Strike:
    """A rule that strikes one request; ``truth`` makes the answer that there would be without it, and its effect
    unless the rule's phase has decided about that."""

    emulator: Emulator
    venue: Venue
    request: web.Request
    call: Call
    rule: Rule
    truth: Callable[[], Answer]

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
        return await _close(strike) if strike.rule.phase == "before" else strike.truth().response()
    return await _close(strike)


async def _late_arrival(strike: Strike) -> web.StreamResponse:
    """On its way for so long that the client gives up, and then it arrives: from behind the gate, or from before it."""
    call = replace(strike.call, is_late=strike.rule.phase != "before")
    strike.emulator.engine.defer(strike.number(LATE_S), partial(strike.venue.answer, call))
    return await _close(strike)


async def _reset(strike: Strike) -> web.StreamResponse:
    reset(strike.request.transport)
    return web.Response()  # nobody is left to read it


async def _close(strike: Strike) -> web.StreamResponse:
    if strike.request.transport is not None:
        strike.request.transport.close()
    return web.Response()  # nobody is left to read it


async def _short_body(strike: Strike) -> web.StreamResponse:
    body = strike.truth().body
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
    await response.prepare(strike.request)
    await response.write(body[: len(body) // 2])
    if strike.request.transport is not None:
        strike.request.transport.close()
    return response


async def _bad_json(strike: Strike) -> web.StreamResponse:
    body = strike.truth().body
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
    "late_arrival": _late_arrival,
}
