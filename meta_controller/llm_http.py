"""One HTTP exchange with a language model's endpoint: the openai client as it comes, on a transport that holds bounds.

The endpoint is not trusted with our time, memory or key: an exchange ends at its deadline whatever the endpoint does
(a body that drips for ever, headers that never end, a name that does not resolve), a body ends at MOST_BYTES, nothing
is unpacked (a megabyte of gzip is a gigabyte of text), redirects are not followed (they would carry the key to another
host), and nothing is sent twice (max_retries=0: a repeated question is money that nobody reserved).

Proxies of the environment (HTTP_PROXY, ...) are not used: the environment is read through the settings alone, and a
proxy would read the prompts, and on http the key. Who needs a gateway names it in OPENAI_BASE_URL. Certificates are
judged by the system's trust store. (OPENAI_ORG_ID, OPENAI_PROJECT_ID, OPENAI_CUSTOM_HEADERS: the client's own habits.)

Import this module only where a call is made: it brings openai, 0.4 s and 60 MB.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import httpx2
import openai

MOST_BYTES = 1_000_000  # of one body
GRACE_S = 0.5  # what a cut exchange gets to end by itself
CONNECTED = ("connection.connect_tcp.complete", "connection.start_tls.complete")


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one request: a status and its body, or an error and neither.

    ``sent``: some of the request may have reached the endpoint, so it may have cost something.
    """

    status: int | None
    body: str
    error: str | None
    sent: bool


class Unreadable(httpx2.RequestError):
    """A response that we stop reading."""


class _RawResponse(Protocol):
    """What openai's with_raw_response gives."""

    @property
    def status_code(self) -> int: ...
    @property
    def content(self) -> bytes: ...


class _BoundedBody(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        seen = 0
        for chunk in self._stream:
            seen += len(chunk)
            if seen > MOST_BYTES:
                raise Unreadable(f"sends more than {MOST_BYTES} bytes")
            yield chunk

    def close(self) -> None:
        self._stream.close()


class _Wire(httpx2.BaseTransport):
    """Plain HTTP/1.1 over one socket that another thread can cut."""

    def __init__(self) -> None:
        self._inner = httpx2.HTTPTransport(trust_env=False)
        self._socket: socket.socket | None = None
        self._is_cut = False
        self.sent = False

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.extensions["trace"] = self._watch
        response = self._inner.handle_request(request)
        packing = response.headers.get("content-encoding", "").strip().lower()
        if packing not in ("", "identity"):
            response.close()
            raise Unreadable("sends a compressed body, though asked not to")
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _BoundedBody(response.stream)
        return response

    def _watch(self, event: str, info: dict[str, Any]) -> None:
        """Called by httpcore2 at every step of an exchange (its ``trace`` extension)."""
        if event in CONNECTED:
            self._socket = info["return_value"].get_extra_info("socket")
        if self._is_cut:  # after the socket is known: whichever thread comes second ends it
            raise httpx2.ConnectError("cut at the deadline")
        self.sent = self.sent or event.startswith("http11.send_request")

    def cut(self) -> None:
        """Ends the exchange in flight: a blocked read returns at once, which closing the socket would not do."""
        self._is_cut = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # already closed: that is what was wanted
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._inner.close()


class Line:
    """A line to one endpoint, for one conversation: ``with Line(url, key) as line: line.chat(body, 30.0)``.

    Its methods raise nothing that an endpoint can bring about; a Reply tells it.
    """

    def __init__(self, base_url: str, api_key: str) -> None:
        self._wire = _Wire()
        http = httpx2.Client(transport=self._wire, trust_env=False, follow_redirects=False)
        self._client = openai.OpenAI(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            http_client=http,
            default_headers={"Accept-Encoding": "identity"},
        )

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def chat(self, body: dict[str, Any], seconds: float) -> Reply:
        """POST /chat/completions with this body, whole within ``seconds``."""
        create = self._client.chat.completions.with_raw_response.create
        return self._exchange(lambda: create(**body, timeout=seconds + GRACE_S), seconds)

    def embeddings(self, body: dict[str, Any], seconds: float) -> Reply:
        """POST /embeddings with this body, whole within ``seconds``."""
        create = self._client.embeddings.with_raw_response.create
        return self._exchange(lambda: create(**body, timeout=seconds + GRACE_S), seconds)

    def _exchange(self, send: Callable[[], _RawResponse], seconds: float) -> Reply:
        self._wire.sent = False
        outcome = self._within(seconds, send)
        if outcome is None or isinstance(outcome, openai.APITimeoutError):
            return self._no_reply("gives no complete answer in time (llm.timeout_s)")
        if isinstance(outcome, openai.APIStatusError):
            return Reply(outcome.status_code, _text(outcome.response.content), None, True)
        if isinstance(outcome, Exception):
            return self._no_reply(_trouble(outcome))
        return Reply(outcome.status_code, _text(outcome.content), None, True)

    def _no_reply(self, error: str) -> Reply:
        return Reply(None, "", error, self._wire.sent)

    def _within(self, seconds: float, send: Callable[[], _RawResponse]) -> _RawResponse | Exception | None:
        """What ``send`` gives or raises; None, and the wire cut, where that takes longer.

        In a thread of its own, because a timeout of the client bounds each read and not their sum, and nothing bounds
        the resolver.
        """
        box: list[_RawResponse | Exception] = []

        def run() -> None:
            try:
                box.append(send())
            except Exception as error:  # a hostile endpoint may trip any line of the client: told as a failed call
                box.append(error)

        thread = threading.Thread(target=run, name="llm-request", daemon=True)
        thread.start()
        thread.join(max(seconds, 0.0))
        if thread.is_alive():
            self._wire.cut()
            thread.join(GRACE_S)
            return None
        return box[0]


def _trouble(error: Exception) -> str:
    """In our own words: messages of the client may quote what was sent, the key included."""
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) and error.__cause__ else error
    if isinstance(cause, Unreadable):
        return str(cause)
    if isinstance(cause, httpx2.ConnectError):
        return "cannot be reached: is OPENAI_BASE_URL right, the server up, and its certificate known to this system?"
    if isinstance(cause, httpx2.TransportError):
        return f"broke the connection off ({type(cause).__name__})"
    return f"sent what the client cannot read ({type(cause).__name__})"


def _text(body: bytes) -> str:
    """UTF-8 whatever charset is claimed; what is not becomes U+FFFD."""
    return body.decode("utf-8", "replace")
