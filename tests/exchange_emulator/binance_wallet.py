"""What is asked of Binance under /sapi/v1: a key's rights, and money that came and went by other ways than trading."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.exchange_emulator.binance_signature import admit
from tests.exchange_emulator.binance_words import (
    MS,
    NS_PER_MS,
    ApiError,
    Arguments,
    page_size,
    text,
    told_error,
    too_many,
    whole,
)
from tests.exchange_emulator.distortion import disorder_rows
from tests.exchange_emulator.market import NS
from tests.exchange_emulator.records import ApiKey, Entry
from tests.exchange_emulator.rest import Answer, Call, as_json
from tests.exchange_emulator.trouble import served_view

if TYPE_CHECKING:
    from tests.exchange_emulator.server import Emulator

MOST = 1_000
NINETY_DAYS_MS = 90 * 86_400 * MS
CREDITED, COMPLETED = 1, 6


class BinanceWallet:
    prefix = "/sapi/v1/"

    def __init__(self, emulator: Emulator) -> None:
        self._emulator, self._faults = emulator, emulator.faults
        self._methods = {
            "account/apiRestrictions": self._rights,
            "capital/deposit/hisrec": self._deposits,
            "capital/withdraw/history": self._withdrawals,
        }

    # --- rest.Venue ---

    def answer(self, call: Call) -> Answer:
        if call.method != "GET" or call.endpoint not in self._methods:
            return Answer(b"<html><body><h2>404 Not found</h2></body></html>", 404, "text/html")
        try:
            key = admit(self._emulator, call, "read")
            return Answer(as_json(self._methods[call.endpoint](call, key)))
        except ApiError as error:
            return error.answer()

    def symbol(self, arguments: Arguments) -> str | None:
        return None

    def error(self, words: str | None) -> Answer:
        return told_error(words)

    def null(self) -> Answer:
        return Answer(b"null")

    def too_many(self, retry_after_s: int) -> Answer:
        return too_many(retry_after_s)

    # --- the venue ---

    def _rights(self, _call: Call, key: ApiKey) -> Any:
        return {
            "ipRestrict": bool(key.ips),
            "createTime": 1_577_836_800_000,
            "enableReading": "read" in key.rights,
            "enableSpotAndMarginTrading": "trade" in key.rights,
            "enableWithdrawals": "withdraw" in key.rights,
            "enableInternalTransfer": False,
            "permitsUniversalTransfer": False,
            "enableMargin": False,
            "enableFutures": False,
            "enableVanillaOptions": False,
        }

    def _deposits(self, call: Call, key: ApiKey) -> Any:
        return self._history(call, key, "deposit", _deposit_row)

    def _withdrawals(self, call: Call, key: ApiKey) -> Any:
        return self._history(call, key, "withdrawal", _withdrawal_row)

    def _history(self, call: Call, key: ApiKey, kind: str, row: Any) -> list[dict[str, Any]]:
        """Newest first, of the last 90 days where no window is asked for."""
        given, now_ms = call.arguments, self._emulator.engine.now_ns() // NS_PER_MS
        end = whole(given, "endTime", now_ms)
        start = whole(given, "startTime", max(0, end - NINETY_DAYS_MS))
        if end - start > NINETY_DAYS_MS:
            raise ApiError(-1127, "More than 90 days between startTime and endTime.")
        view = served_view(self._emulator.engine, self._faults, key.account, call.endpoint)
        mine = [
            entry
            for entry in reversed(view.entries)
            if entry.kind == kind
            and start <= entry.at_ns // NS_PER_MS <= end
            and given.get("coin") in (None, entry.asset)
        ]
        offset = whole(given, "offset", 0)
        page = mine[offset : offset + page_size(given, MOST, MOST)]
        return disorder_rows(self._faults, [row(entry) for entry in page], call.endpoint, "")


def _deposit_row(entry: Entry) -> dict[str, Any]:
    return {
        "id": str(entry.number),
        "amount": text(entry.amount),
        "coin": entry.asset,
        "network": "BSC",
        "status": CREDITED,
        "address": "0x0",
        "addressTag": "",
        "txId": f"0x{entry.number:064x}",
        "insertTime": entry.at_ns // NS_PER_MS,
        "completeTime": entry.at_ns // NS_PER_MS,
        "transferType": 0,
        "confirmTimes": "15/15",
        "walletType": 0,
    }


def _withdrawal_row(entry: Entry) -> dict[str, Any]:
    at = datetime.fromtimestamp(entry.at_ns // NS, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return {
        "id": f"{entry.number:032x}",
        "amount": text(-entry.amount),
        "transactionFee": text(entry.fee),
        "coin": entry.asset,
        "status": COMPLETED,
        "address": "0x0",
        "txId": f"0x{entry.number:064x}",
        "applyTime": at,
        "completeTime": at,
        "network": "BSC",
        "transferType": 0,
        "walletType": 0,
    }
