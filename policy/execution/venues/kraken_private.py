"""The door to Kraken's private REST API, through krakenex: one signed request, once, with the nonce that is given."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import krakenex
import requests

from policy.execution.venues.kraken_errors import Answer, NoAnswer, read_envelope
from policy.execution.venues.protocol import Credentials
from shared.exchanges.protocol import ExchangeError
from shared.exchanges.resilience import excerpt, root_cause

KEY = re.compile(r"[!-~]+")  # printable, no blanks: what may stand in a header


class PrivateKraken:
    """Not safe for several threads. Nothing of the key appears in its errors or its repr."""

    def __init__(self, credentials: Credentials, rest_url: str | None, timeout_s: float) -> None:
        """``timeout_s``: how long to wait for a connection, and again for each part of an answer."""
        self._api = _krakenex(credentials)
        self._api.uri = (rest_url or self._api.uri).rstrip("/")
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
