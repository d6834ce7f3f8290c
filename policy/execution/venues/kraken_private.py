"""The door to Kraken's private REST API, through krakenex: one signed request, once, with the nonce that is given."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import krakenex
import requests

from policy.execution.venues.kraken_errors import Answer, NoAnswer, read_envelope
from policy.execution.venues.protocol import Credentials
from shared.clock import Timer
from shared.exchanges.environment import read_once
from shared.exchanges.protocol import ExchangeError, provenance_at
from shared.exchanges.rate_limit import RateLimiter
from shared.exchanges.resilience import excerpt, root_cause

KEY = re.compile(r"[!-~]+")  # printable, no blanks: what may stand in a header
# Kraken's counter of private questions, by key, on its lowest tier. Orders, cancellations and amendments are not in it:
# questions wait for their turn, so that what acts, exits first of all, never has to.
COUNTER, DECAY_PER_S = 15.0, 0.33
COSTS = {"TradesHistory": 2.0, "Ledgers": 2.0}


class PrivateKraken:
    """Not safe for several threads. Nothing of the key appears in its errors or its repr."""

    def __init__(self, credentials: Credentials, rest_url: str | None, timeout_s: float) -> None:
        """``timeout_s``: how long to wait for a connection, and again for each part of an answer."""
        self._api = _krakenex(credentials)
        self._api.uri = (rest_url or self._api.uri).rstrip("/")
        read_once(self._api.session, self._api.uri)
        self._hidden = (credentials.key, credentials.secret)
        self._timeout_s = timeout_s

    def ask(self, method: str, question: Mapping[str, Any], nonce: int) -> Answer:
        """Sends exactly one request. NoAnswer: it may have been received all the same."""
        self._api._nonce = lambda: nonce  # krakenex' own are milliseconds of the wall clock (reliability finding 7)
        try:
            answer = self._api.query_private(method, dict(question), timeout=self._timeout_s)
        except Exception as error:  # whatever it is: the request may be at the venue
            raise NoAnswer(self._told(error)) from None
        return read_envelope(answer)

    def _told(self, error: Exception) -> str:
        """What happened, without the request (an exception of requests holds its headers)."""
        if isinstance(error, requests.exceptions.JSONDecodeError):
            told = f"the answer is not JSON: {excerpt(error.doc)}"
        elif isinstance(error, requests.exceptions.HTTPError) and error.response is not None:
            told = f"status {error.response.status_code}"
        else:
            told = excerpt(root_cause(error))
        for hidden in self._hidden:
            told = told.replace(hidden, "…")
        return told


def counter_of(
    credentials: Credentials, rest_url: str | None, timer: Timer | None, home: Path | None
) -> RateLimiter | None:
    """The key's, kept together by all processes that give the same ``home``; None at an emulator, which has limits of
    its own to give."""
    if provenance_at(rest_url) != "real":
        return None
    name = f"kraken-{hashlib.sha256(credentials.key.encode()).hexdigest()[:12]}"
    return RateLimiter(DECAY_PER_S, COUNTER, timer, None if home is None else home / "rates" / name)


def _krakenex(credentials: Credentials) -> krakenex.API:
    """ExchangeError for a key that cannot be one: it would be sent, or quoted in an error, as it is."""
    try:
        secret = base64.b64decode(credentials.secret, validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not secret or not KEY.fullmatch(credentials.key):
        raise ExchangeError(
            "this is no key of kraken: give the API key and its private key (base64) as Kraken shows them"
        )
    api = krakenex.API(credentials.key, credentials.secret)
    api.json_options(parse_float=Decimal)
    api.session.max_redirects = 0  # a redirected POST would be a second one
    return api
