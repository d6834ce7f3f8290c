"""The emulator's own doors under /_ctl: its clock, its faults, its truth and what it was asked."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from aiohttp import web

from shared.rows import CANDLE_FIELDS
from tests.exchange_emulator import trading_control
from tests.exchange_emulator.doors import door, json_object
from tests.exchange_emulator.faults import FAULTS, Rule

if TYPE_CHECKING:
    from tests.exchange_emulator.server import Emulator

RULE_FIELDS = tuple(field.name for field in fields(Rule))
TEXTS = ("fault", "surface", "endpoint", "symbol", "phase", "client_id")


def add_routes(app: web.Application, emulator: Emulator) -> None:
    doors = Control(emulator)
    app.router.add_get("/_ctl/clock", door(doors.clock))
    app.router.add_post("/_ctl/clock", door(doors.set_clock))
    app.router.add_get("/_ctl/faults", door(doors.faults))
    app.router.add_post("/_ctl/faults", door(doors.inject))
    app.router.add_delete("/_ctl/faults", door(doors.clear))
    app.router.add_get("/_ctl/truth", door(doors.truth))
    app.router.add_get("/_ctl/requests", door(doors.requests))
    trading_control.add_routes(app, emulator)


class Control:
    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    async def clock(self, _request: web.Request) -> Any:
        return {"now": self._emulator.clock.now(), "speed": self._emulator.clock.speed}

    async def set_clock(self, request: web.Request) -> Any:
        match await json_object(request):
            case {"advance": int() | float() as seconds, **rest} if not rest:
                self._emulator.clock.advance(seconds)
            case {"speed": int() | float() as speed, **rest} if not rest:
                self._emulator.clock.set_speed(speed)
            case other:
                raise ValueError(f'say {{"advance": seconds}} or {{"speed": times}}, not {other}')
        return await self.clock(request)

    async def faults(self, _request: web.Request) -> Any:
        switchboard = self._emulator.faults
        return {"rules": switchboard.rules(), "served": dict(switchboard.served), "faults": FAULTS}

    async def inject(self, request: web.Request) -> Any:
        rule = _rule(await json_object(request))
        if rule.symbol not in (None, *self._emulator.market.symbols):
            raise ValueError(f"no symbol {rule.symbol!r}; there are {', '.join(self._emulator.market.symbols)}")
        return {"id": self._emulator.faults.inject(rule)}

    async def clear(self, request: web.Request) -> Any:
        self._emulator.faults.clear()
        return await self.faults(request)

    async def truth(self, request: web.Request) -> Any:
        """Columns of the candles with since < as_of <= until; ``until`` is now where it is not given."""
        query = request.query
        if unknown := set(query) - {"symbol", "timeframe", "since", "until"}:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}; truth takes symbol, timeframe, since and until")
        symbol = query.get("symbol", "")
        timeframe_s, since = _seconds(query, "timeframe"), _seconds(query, "since")
        until = _seconds(query, "until") if "until" in query else int(self._emulator.clock.now())
        candles = self._emulator.market.truth(symbol, timeframe_s, since, until)
        return {name: getattr(candles, name).tolist() for name in CANDLE_FIELDS}

    async def requests(self, _request: web.Request) -> Any:
        refused = {"kraken": self._emulator.kraken_limit.refused, "binance": self._emulator.binance_limit.refused}
        return {"requests": dict(self._emulator.requests), "rate_limited": refused}


def _rule(body: dict[str, Any]) -> Rule:
    """ValueError: an unknown field or a value of the wrong kind; Rule itself refuses what makes no sense."""
    if unknown := set(body) - set(RULE_FIELDS):
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; a rule has {', '.join(RULE_FIELDS)}")
    if "fault" not in body:
        raise ValueError(f"which fault? There are {', '.join(FAULTS)}")
    for name, value in body.items():
        if value is not None and not _is_right_kind(name, value):
            raise ValueError(f"{name} cannot be {value!r}")
    return Rule(**body)


def _is_right_kind(name: str, value: Any) -> bool:
    if name in TEXTS:
        return isinstance(value, str)
    if isinstance(value, bool):
        return False
    if name in ("times", "nth"):
        return isinstance(value, int)
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return is_number or (name == "parameter" and isinstance(value, str))


def _seconds(query: Any, name: str) -> int:
    text = query.get(name, "")
    if not text.isdigit():
        raise ValueError(f"{name} must be whole seconds, got {text!r}")
    return int(text)
