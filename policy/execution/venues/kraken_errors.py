"""What Kraken's words mean for an order: certainly not in the book, or nobody knows.

Judged by the raw error string, the HTTP status and the presence of a txid, as docs.kraken.com/exchange/guides/general
/errors names them. A string that is not listed here proves nothing: Unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from policy.execution.venues.protocol import Accepted, Changed, Done, Gone, Placed, Rejected, Unknown
from shared.exchanges.resilience import excerpt

# No order passes until somebody looks at the key.
FATAL = ("EAPI:Invalid key", "EAPI:Invalid signature", "EGeneral:Permission denied")
# Asked too often: the venue counts otherwise than we do, and what is asked meanwhile counts as well.
THROTTLED = ("EAPI:Rate limit exceeded", "EGeneral:Temporary lockout", "EService:Throttled")
# With one of these the order never reached the book; more may follow after a colon (the argument, a time).
DEFINITE = (
    *FATAL,
    "EAPI:Invalid nonce",
    "EAPI:Rate limit exceeded",
    "EGeneral:Invalid arguments",
    "EGeneral:Temporary lockout",
    "EOrder:Cost minimum not met",
    "EOrder:Insufficient funds",
    "EOrder:Invalid price",
    "EOrder:Order minimum not met",
    "EOrder:Orders limit exceeded",
    "EOrder:Post only order",
    "EOrder:Rate limit exceeded",
    "EOrder:Tick size check failed",
    "EOrder:Trading agreement required",
    "EQuery:Unknown asset pair",
    "EService:Market in cancel_only mode",
    "EService:Market in post_only mode",
    "EService:Throttled",
)
# Of the definite ones: which of the market's rules for orders was broken.
RULES = {
    "EOrder:Cost minimum not met": "minimum notional",
    "EOrder:Invalid price": "tick size",
    "EOrder:Order minimum not met": "minimum quantity",
    "EOrder:Tick size check failed": "tick size",
}
CLIENT_ID = "cl_ord_id"
NO_SUCH_ORDER = ("EOrder:Unknown order", "EOrder:Invalid order")


class NoAnswer(Exception):
    """A request went out, and what came back tells nothing about it: it may have been received all the same."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An envelope ``{"error": [...], "result": ...}``; its warnings (W…) are not among the errors."""

    errors: tuple[str, ...]
    result: Any


def read_envelope(answer: object) -> Answer:
    """NoAnswer for what is no envelope."""
    errors = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or not isinstance(errors, list) or not all(isinstance(e, str) for e in errors):
        raise NoAnswer(f"not an answer: {excerpt(answer)}")
    return Answer(tuple(error for error in errors if not error.startswith("W")), answer.get("result"))


def is_fatal(errors: Sequence[str]) -> bool:
    return any(_is(error, FATAL) for error in errors)


def is_throttled(errors: Sequence[str]) -> bool:
    return any(_is(error, THROTTLED) for error in errors)


def is_no_such_order(errors: Sequence[str]) -> bool:
    return bool(errors) and all(_is(error, NO_SUCH_ORDER) for error in errors)


def placed(answer: Answer) -> Placed:
    """What became of an AddOrder."""
    txids = _txids(answer.result)
    if not answer.errors and len(txids) == 1:
        return Accepted(txids[0])
    if not answer.errors:
        return Unknown(f"kraken AddOrder: an answer without exactly one txid: {excerpt(answer.result)}")
    if txids:
        return Unknown(f"kraken AddOrder: errors and a txid at once: {excerpt(answer.errors)}, {excerpt(txids)}")
    return refusal("AddOrder", answer.errors)


def changed(method: str, answer: Answer, is_done: bool) -> Changed:
    """What became of a CancelOrder or AmendOrder; ``is_done``: the result confirms it."""
    if is_no_such_order(answer.errors):
        return Gone(f"kraken {method}: {excerpt(answer.errors)}")
    if answer.errors:
        return refusal(method, answer.errors)
    return Done() if is_done else Unknown(f"kraken {method}: no confirmation in {excerpt(answer.result)}")


def refusal(method: str, errors: Sequence[str]) -> Rejected | Unknown:
    """Rejected where every one of the errors is a definite one. An error about the client id is none: it may mean that
    an order of this id is in the book already."""
    told = f"kraken {method}: {excerpt(', '.join(errors))}"
    definite = all(_is(error, DEFINITE) and CLIENT_ID not in error for error in errors)
    rules = [rule for error in errors for words, rule in RULES.items() if _is(error, (words,))]
    return Rejected(told, is_fatal(errors), ", ".join(rules)) if definite else Unknown(told)


def _is(error: str, words: Sequence[str]) -> bool:
    said = error.replace(": ", ":")  # "EService: Throttled: 1750000030"
    return any(said == known or said.startswith(f"{known}:") for known in words)


def _txids(result: Any) -> list[str]:
    txids = result.get("txid") if isinstance(result, dict) else None
    return [txid for txid in txids if isinstance(txid, str) and txid] if isinstance(txids, list) else []
