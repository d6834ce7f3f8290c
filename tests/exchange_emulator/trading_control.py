"""The doors for accounts, keys, money, orders and limits, and to what really happened."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.exchange_emulator.doors import door, json_object
from tests.exchange_emulator.ground_truth import plain
from tests.exchange_emulator.records import Fees

if TYPE_CHECKING:
    from tests.exchange_emulator.server import Emulator

MOVES = ("deposit", "withdrawal", "transfer", "staking")
LIMITS = {"kraken_public": "kraken_limit", "kraken_calls": "kraken_calls", "kraken_orders": "kraken_orders"}


def add_routes(app: web.Application, emulator: Emulator) -> None:
    doors = TradingControl(emulator)
    app.router.add_post("/_ctl/accounts", door(doors.open_account))
    app.router.add_post("/_ctl/keys", door(doors.add_key))
    app.router.add_patch("/_ctl/keys", door(doors.change_key))
    app.router.add_post("/_ctl/money", door(doors.move))
    app.router.add_post("/_ctl/fills", door(doors.fill))
    app.router.add_delete("/_ctl/orders", door(doors.cancel))
    app.router.add_post("/_ctl/limits", door(doors.limit))
    app.router.add_get("/_ctl/ground_truth", door(doors.ground_truth))


class TradingControl:
    """Each says in its ValueError what it takes. Amounts come as strings: ``"0.1"``."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator, self._engine = emulator, emulator.engine
        self._accounts = emulator.engine.accounts

    async def open_account(self, request: web.Request) -> Any:
        said = _taken(await json_object(request), "name", venue="kraken", maker=None, taker=None, orders_limit=80)
        if (said["maker"] is None) != (said["taker"] is None):
            raise ValueError("say maker and taker, as fractions, or neither")
        fees = None if said["maker"] is None else Fees(_decimal(said["maker"]), _decimal(said["taker"]))
        return plain(self._accounts.open(said["name"], said["venue"], fees, said["orders_limit"]))

    async def add_key(self, request: web.Request) -> Any:
        said = _taken(
            await json_object(request), "account", "key", "secret", rights=["read", "trade"], nonce_window=0, ips=[]
        )
        rights, ips = frozenset(said["rights"]), tuple(said["ips"])
        key = self._accounts.add_key(
            said["account"], said["key"], said["secret"], rights, said["nonce_window"], ips
        )  # fmt: skip
        return _told(plain(key))

    async def change_key(self, request: web.Request) -> Any:
        said = _taken(await json_object(request), "key", rights=None, nonce_window=None, ips=None)
        rights = None if said["rights"] is None else frozenset(said["rights"])
        ips = None if said["ips"] is None else tuple(said["ips"])
        return _told(plain(self._accounts.change_key(said["key"], rights, said["nonce_window"], ips)))

    async def move(self, request: web.Request) -> Any:
        """What comes or goes by other ways than trading; a transfer's amount is signed."""
        said = _taken(await json_object(request), "account", "kind", "asset", "amount", fee="0")
        account, asset, amount = said["account"], said["asset"], _decimal(said["amount"])
        match said["kind"]:
            case "deposit":
                return plain([self._accounts.deposit(account, asset, amount)])
            case "withdrawal":
                return plain([self._accounts.withdraw(account, asset, amount, _decimal(said["fee"]))])
            case "transfer":
                return plain([self._accounts.transfer(account, asset, amount)])
            case "staking":
                return plain(self._accounts.stake(account, asset, amount))
            case other:
                raise ValueError(f"no kind {other!r}; there are {', '.join(MOVES)}")

    async def fill(self, request: web.Request) -> Any:
        """An open order is filled by order: wholly and at its price where nothing else is said."""
        said = _taken(await json_object(request), "order", quantity=None, price=None)
        quantity, price = (None if said[name] is None else _decimal(said[name]) for name in ("quantity", "price"))
        return plain(self._engine.force_fill(said["order"], quantity, price))

    async def cancel(self, request: web.Request) -> Any:
        """All of an account's, by the venue itself."""
        said = _taken(await json_object(request), "account", reason="Canceled by the venue")
        return plain(self._engine.cancel_all(said["account"], said["reason"]))

    async def limit(self, request: web.Request) -> Any:
        said = _taken(await json_object(request), "which", "per_s", "burst")
        if said["which"] not in LIMITS:
            raise ValueError(f"no limit {said['which']!r}; there are {', '.join(LIMITS)}")
        getattr(self._emulator, LIMITS[said["which"]]).set(float(said["per_s"]), float(said["burst"]))
        return said

    async def ground_truth(self, _request: web.Request) -> Any:
        """Of every account: orders, fills, ledger and balances as they really are."""
        accounts = self._accounts.all()
        return {account.name: plain(self._engine.view(account.name)) for account in accounts}


def _told(key: dict[str, Any]) -> dict[str, Any]:
    """Without its secret, which only its owner needs to know."""
    return {name: value for name, value in key.items() if name != "secret"}


def _taken(body: dict[str, Any], *needed: str, **usual: Any) -> dict[str, Any]:
    """``body`` with what is left out as usual. ValueError: something is missing or unknown."""
    missing, unknown = set(needed) - set(body), set(body) - set(needed) - set(usual)
    if missing or unknown:
        names = ", ".join((*needed, *(f"{name} (optional)" for name in usual)))
        raise ValueError(f"say {names}; missing: {sorted(missing)}, unknown: {sorted(unknown)}")
    return usual | body


def _decimal(text: Any) -> Decimal:
    try:
        value = Decimal(text) if isinstance(text, str | int) else Decimal("NaN")
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite():
        raise ValueError(f"an amount is a string like '0.1', not {text!r}")
    return value
