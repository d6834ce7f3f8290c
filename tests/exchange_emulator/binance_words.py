"""How Binance writes: its errors, its numbers, its arguments."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from tests.exchange_emulator.rest import Answer, as_json

MS, NS_PER_MS = 1_000, 1_000_000
BIPS = Decimal(10_000)
Arguments = dict[str, str]


class ApiError(Exception):
    def __init__(self, code: int, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.code, self.status = code, status

    def answer(self) -> Answer:
        return Answer(as_json({"code": self.code, "msg": str(self)}), self.status)


def missing(name: str) -> ApiError:
    return ApiError(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def illegal(name: str) -> ApiError:
    return ApiError(-1100, f"Illegal characters found in parameter '{name}'.")


def text(value: Decimal) -> str:
    return f"{value:.8f}"


def whole(arguments: Arguments, name: str, default: int | None = None) -> int:
    """Without a ``default`` it must be there."""
    if name not in arguments and default is None:
        raise missing(name)
    given = arguments.get(name, str(default))
    if not given.isdigit():
        raise illegal(name)
    return int(given)


def amount(arguments: Arguments, name: str) -> Decimal | None:
    if name not in arguments:
        return None
    try:
        value = Decimal(arguments[name])
    except InvalidOperation:
        raise illegal(name) from None
    if "e" in arguments[name].lower() or not value.is_finite():
        raise illegal(name)
    return value


def page_size(arguments: Arguments, default: int, most: int) -> int:
    return min(most, max(1, whole(arguments, "limit", default)))


def told_error(words: str | None) -> Answer:
    """``-1003 Too many requests`` has its own code; bare words get that of an unknown error."""
    code, _, rest = (words or "-1001 Internal error; unable to process your request.").partition(" ")
    return ApiError(int(code), rest).answer() if code.lstrip("-").isdigit() else ApiError(-1000, str(words)).answer()


def too_many(retry_after_s: int) -> Answer:
    error = {"code": -1003, "msg": "Too many requests; please use the websocket for live updates."}
    return Answer(as_json(error), 429, headers={"Retry-After": str(retry_after_s)})
