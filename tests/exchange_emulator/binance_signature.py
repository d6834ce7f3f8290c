"""Who asks: Binance's keys, signatures and times, checked in one place for both of its private surfaces."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING

from tests.exchange_emulator.binance_words import NS_PER_MS, ApiError, missing, whole
from tests.exchange_emulator.faults import Switchboard
from tests.exchange_emulator.records import ApiKey, Right
from tests.exchange_emulator.rest import Call

if TYPE_CHECKING:
    from tests.exchange_emulator.server import Emulator

WINDOW_MS, MOST_WINDOW_MS, AHEAD_MS = 5_000, 60_000, 1_000
DEFAULT_SKEW_S = 10.0
SIGNATURE = re.compile(r"(^|&)signature=[^&]*")
STRANGER = ApiError(-2015, "Invalid API-key, IP, or permissions for action.", 401)


def skew_s(faults: Switchboard, endpoint: str) -> float:
    """How far the venue's clock is ahead as ``endpoint`` has it."""
    rule = faults.active("clock_skew", surface="rest", endpoint=endpoint)
    if rule is None:
        return 0.0
    faults.spend(rule)
    return float(DEFAULT_SKEW_S if rule.parameter is None else rule.parameter)


def admit(emulator: Emulator, call: Call, right: Right) -> ApiKey:
    """The key that signed the call and has the ``right``; ApiError in the venue's words otherwise."""
    given = next((value for name, value in call.headers.items() if name.lower() == "x-mbx-apikey"), "")
    if not re.fullmatch(r"[\w-]+", given):
        raise ApiError(-2014, "API-key format invalid.", 401)
    accounts = emulator.engine.accounts
    key = accounts.key(given)
    if key is None or accounts.get(key.account).venue != "binance" or (key.ips and call.remote not in key.ips):
        raise STRANGER
    _check_time(emulator, call)
    _check_signature(call, key)
    if right not in key.rights:
        raise STRANGER
    return key


def deadline_ns(call: Call) -> int:
    """Until when it must reach the engine."""
    return (whole(call.arguments, "timestamp") + whole(call.arguments, "recvWindow", WINDOW_MS)) * NS_PER_MS


def _check_time(emulator: Emulator, call: Call) -> None:
    window_ms = whole(call.arguments, "recvWindow", WINDOW_MS)
    if window_ms > MOST_WINDOW_MS:
        raise ApiError(-1131, "recvWindow must be less than 60000.")
    now_ms = emulator.engine.now_ns() / NS_PER_MS + skew_s(emulator.faults, call.endpoint) * 1_000
    stamp = whole(call.arguments, "timestamp")
    if stamp >= now_ms + AHEAD_MS:
        raise ApiError(-1021, "Timestamp for this request was 1000ms ahead of the server's time.")
    if now_ms - stamp > window_ms:
        raise ApiError(-1021, "Timestamp for this request is outside of the recvWindow.")


def _check_signature(call: Call, key: ApiKey) -> None:
    """Over query string and body, one after the other, without the signature itself."""
    if "signature" not in call.arguments:
        raise missing("signature")
    payload = SIGNATURE.sub("", call.query) + SIGNATURE.sub("", call.body.decode())
    right = hmac.new(key.secret.encode(), payload.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(right, call.arguments["signature"].lower()):
        raise ApiError(-1022, "Signature for this request is not valid.")
