"""What Binance's answers mean, by its raw code and the HTTP status, never by a library's exception.

Its documentation of errors is the source (binance-spot-api-docs, errors.md): a refusal counts as certain only where it
says that the request never reached the matching engine or that the engine refused it. All else is unknown, new codes
included.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from policy.execution.venues.protocol import Accepted, Changed, CouldNotAsk, Done, Gone, Placed, Rejected, Unknown

EXCERPT = 200
NO_SUCH_ORDER, CANCEL_REJECTED, NO_SUCH_SYMBOL, CLOCK = -2013, -2011, -1121, -1021
FATAL = {
    -1002: "not authorised",
    -1022: "the signature is wrong",
    -2014: "the key is malformed",
    -2015: "the key is unknown, lacks the right, or this address is not on its list",
}
BEFORE_ENGINE = {
    -1003: "too many requests",
    -1010: "refused by the engine",
    -1013: "against the market's filters",
    -1014: "unsupported combination",
    -1015: "too many orders",
    -1020: "unsupported operation",
    CLOCK: "reached the venue too late, or from a clock ahead of it",
    -2010: "refused by the engine",
}
MALFORMED = range(-1199, -1099)  # 11xx: what is wrong with the request itself
UNKNOWN_ORDER = "Unknown order sent."  # of -2011: the only refusal of a cancellation that says that there is nothing
DUPLICATE = "Duplicate order sent."  # of -2010: an open order has this client id, maybe this very one
# Of refusals by filters (-1013) and by too many digits (-1111): which of the market's rules for orders was broken.
FILTERS, TOO_PRECISE = -1013, -1111
RULES = {
    "LOT_SIZE": "lot size or minimum quantity",
    "MARKET_LOT_SIZE": "lot size or minimum quantity",
    "MIN_NOTIONAL": "minimum notional",
    "NOTIONAL": "minimum notional",
    "PRICE_FILTER": "tick size",
}
DISABLED = ("This action is disabled on this account.", "This account may not place or cancel orders.")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came over the wire. ``status`` None: nothing did, and ``body`` says why."""

    status: int | None
    body: str

    @property
    def excerpt(self) -> str:
        text = " ".join(self.body.split())
        text = text if len(text) <= EXCERPT else text[:EXCERPT] + "…"
        return text if self.status is None else f"HTTP {self.status}: {text or 'nothing'}"

    def json(self) -> Any:
        """None where it is no JSON. Amounts are strings in it (binance_rows takes no other)."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def refusal(self) -> tuple[int, str] | None:
        """Code and words, where it is an error in Binance's own form."""
        match self.json():
            case {"code": int() as code, "msg": str() as words} if not isinstance(code, bool):
                return code, words
        return None


def placed(answer: Answer, symbol_id: str, client_id: str) -> Placed:
    """Of a new order: accepted only by an order id for this very order."""
    if answer.status is not None and 200 <= answer.status < 300:
        match answer.json():
            case {"orderId": int() as number, "symbol": str() as symbol, "clientOrderId": str() as told} if (
                not isinstance(number, bool) and (symbol, told) == (symbol_id, client_id)
            ):
                return Accepted(order_id(symbol_id, number))
    refused = _refused(answer)
    if refused is not None and refused[1] == DUPLICATE:
        return Unknown(f"an open order has this client id already ({answer.excerpt}): look it up")
    return Unknown(answer.excerpt) if refused is None else _rejected(answer, *refused)


def canceled(answer: Answer, number: int) -> Changed:
    """Of a cancellation of that order."""
    if answer.status is not None and 200 <= answer.status < 300:
        match answer.json():
            case {"orderId": int() as told} if not isinstance(told, bool) and told == number:
                return Done()
    refusal = answer.refusal if _is_client_error(answer) else None
    if refusal is not None and (refusal == (CANCEL_REJECTED, UNKNOWN_ORDER) or refusal[0] == NO_SUCH_ORDER):
        return Gone(answer.excerpt)
    if refusal is not None and refusal[0] == CANCEL_REJECTED:
        return _rejected(answer, *refusal)
    refused = _refused(answer)
    return Unknown(answer.excerpt) if refused is None else _rejected(answer, *refused)


def told(answer: Answer, asked: str, kind: type[list[Any]] | type[dict[str, Any]]) -> Any:
    """The answer to a question, of the kind that it must have; else CouldNotAsk."""
    value = answer.json()
    if answer.status == 200 and isinstance(value, kind):
        return value
    refusal = answer.refusal
    fatal = refusal is not None and _is_client_error(answer) and _is_fatal(*refusal)
    raise CouldNotAsk(f"binance {asked}: {answer.excerpt}", fatal=fatal)


def order_id(symbol_id: str, number: int) -> str:
    """Binance numbers orders and trades symbol by symbol: only with the symbol is a number one of a kind."""
    return f"{symbol_id}:{number}"


def _refused(answer: Answer) -> tuple[int, str] | None:
    """Code and words of a refusal after which the order is certainly not in the book because of this request.

    A server error is none, whatever its body says: its execution status is unknown by documentation.
    """
    refusal = answer.refusal
    if refusal is None or not _is_client_error(answer):
        return None
    code = refusal[0]
    return refusal if code in FATAL or code in BEFORE_ENGINE or code in MALFORMED else None


def _is_client_error(answer: Answer) -> bool:
    return answer.status is not None and 400 <= answer.status < 500


def _is_fatal(code: int, words: str) -> bool:
    return code in FATAL or words in DISABLED


def _rejected(answer: Answer, code: int, words: str) -> Rejected:
    meaning = FATAL.get(code) or BEFORE_ENGINE.get(code) or "refused"
    return Rejected(f"{meaning} ({answer.excerpt})", fatal=_is_fatal(code, words), rule=_rule(code, words))


def _rule(code: int, words: str) -> str:
    """Of "Filter failure: LOT_SIZE"; empty where no rule of the market was broken."""
    if code == TOO_PRECISE:
        return "tick size or lot size"
    return RULES.get(words.rpartition(" ")[2], "") if code == FILTERS else ""
