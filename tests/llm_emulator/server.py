"""The emulator itself: one port on 127.0.0.1, one thread with its own event loop, a script, a log, a clean end."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from aiohttp import web

from tests.llm_emulator.behaviours import BEHAVIOURS, Behaviour, answer_to

HOST = "127.0.0.1"
KEY = "sk-emulated-0123456789abcdef"
MODEL = "gpt-4.1-nano"
LEAVE_S = 0.2  # what handlers get to end by themselves


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    text: str
    body: dict[str, Any]  # {} where the text is no JSON object


class LlmEmulator:
    """``with LlmEmulator() as emulator:`` serves until the block ends. All methods may be used from any thread.

    Each request takes the next behaviour of the script; when that is used up, the one set by ``always``.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.requests: list[Received] = []
        self._script: deque[Behaviour] = deque()
        self._default = BEHAVIOURS["good"]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._ready = threading.Event()
        self._trouble: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="llm-emulator", daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://{HOST}:{self.port}/v1"

    def script(self, *behaviours: str | Behaviour) -> None:
        """What the next requests get, in order, after what is scripted already; a name or a behaviour of one's own."""
        self._script.extend(_known(each) for each in behaviours)

    def always(self, behaviour: str | Behaviour) -> None:
        """What a request gets that no script is left for."""
        self._default = _known(behaviour)

    @property
    def chats(self) -> list[dict[str, Any]]:
        """The bodies of all chat requests."""
        return [request.body for request in self.requests if request.path.endswith("/chat/completions")]

    def __enter__(self) -> LlmEmulator:
        self._thread.start()
        self._ready.wait()
        if self._trouble is not None:
            raise self._trouble
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends now, within a block; a second time changes nothing."""
        if self._thread.is_alive():
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if self._ready.is_set():
                raise
            self._trouble = error
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        app = web.Application(client_max_size=16 * 2**20)
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/v1/embeddings", self._answer)
        app.router.add_get("/v1/models", self._models)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=LEAVE_S, handler_cancellation=True)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, self.port).start()
            self.port = runner.addresses[0][1]
            self._ready.set()
            await self._stopping.wait()
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        received = await self._log(request)
        if not {"messages", "input"} & set(received.body) or "model" not in received.body:
            return web.json_response({"error": {"message": "no messages, no input or no model"}}, status=400)
        behave = self._script.popleft() if self._script else self._default
        try:
            return await behave(answer_to(request, received.body))
        except ConnectionError:  # the client left a stream: as wanted
            return web.Response()

    async def _models(self, request: web.Request) -> web.StreamResponse:
        await self._log(request)
        model = {"id": MODEL, "object": "model", "created": 1_700_000_000, "owned_by": "emulator"}
        return web.json_response({"object": "list", "data": [model]})

    async def _log(self, request: web.Request) -> Received:
        text = await request.text()
        try:
            body = json.loads(text)
        except ValueError:
            body = {}
        body = body if isinstance(body, dict) else {}
        received = Received(request.method, request.path, dict(request.headers), text, body)
        self.requests.append(received)
        return received


def _known(behaviour: str | Behaviour) -> Behaviour:
    if not isinstance(behaviour, str):
        return behaviour
    if behaviour not in BEHAVIOURS:
        raise ValueError(f"no behaviour {behaviour!r}; there are {', '.join(BEHAVIOURS)}")
    return BEHAVIOURS[behaviour]
