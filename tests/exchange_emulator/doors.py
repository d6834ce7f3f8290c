"""How the doors under /_ctl listen and answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from tests.exchange_emulator.records import Refused

Handler = Callable[[web.Request], Awaitable[Any]]


def door(handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Answers in JSON; what the caller did wrong is told in its words, with a status of 400."""

    async def handle(request: web.Request) -> web.Response:
        try:
            return web.json_response(await handler(request))
        except (ValueError, Refused) as error:
            return web.json_response({"error": str(error)}, status=400)
        except KeyError as error:
            return web.json_response({"error": str(error.args[0])}, status=400)

    return handle


async def json_object(request: web.Request) -> dict[str, Any]:
    body = await request.json()
    if not isinstance(body, dict):
        raise ValueError(f"say it as a JSON object, not {body!r}")
    return body
