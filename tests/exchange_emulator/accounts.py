"""Who may do what, and money that comes and goes by other ways than trading."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from decimal import Decimal

from tests.exchange_emulator.money import cut
from tests.exchange_emulator.records import RIGHTS, Account, ApiKey, Entry, EntryKind, Fees, Refused, Right, VenueName
from tests.exchange_emulator.store import Store

STANDARD_FEES: dict[VenueName, Fees] = {
    "kraken": Fees(Decimal("0.0025"), Decimal("0.0040")),  # its lowest tier, as kraken_pairs tells it
    "binance": Fees(Decimal("0.001"), Decimal("0.001")),
}
ZERO = Decimal(0)
MAY_TRADE: frozenset[Right] = frozenset({"read", "trade"})


class Accounts:
    """``emulator.engine.accounts``. ValueError: what makes no sense; KeyError: no such account or key."""

    def __init__(self, store: Store, turn: Callable[[], AbstractContextManager[int]]) -> None:
        self._store, self._turn = store, turn

    def open(self, name: str, venue: VenueName = "kraken", fees: Fees | None = None, orders_limit: int = 80) -> Account:
        with self._turn():
            if name in self._store.accounts:
                raise ValueError(f"there is an account {name!r} already")
            if venue not in STANDARD_FEES:
                raise ValueError(f"no venue {venue!r}; there are {', '.join(STANDARD_FEES)}")
            return self._store.put_account(Account(name, venue, fees or STANDARD_FEES[venue], orders_limit))

    def change(self, name: str, fees: Fees | None = None, orders_limit: int | None = None) -> Account:
        with self._turn():
            known = self._store.account(name)
            limit = known.orders_limit if orders_limit is None else orders_limit
            return self._store.put_account(replace(known, fees=fees or known.fees, orders_limit=limit))

    def get(self, name: str) -> Account:
        with self._turn():
            return self._store.account(name)

    def all(self) -> list[Account]:
        with self._turn():
            return list(self._store.accounts.values())

    # --- keys ---

    def add_key(
        self, account: str, key: str, secret: str, rights: frozenset[Right] = MAY_TRADE,
        nonce_window: int = 0, ips: tuple[str, ...] = (), name: str = "",
    ) -> ApiKey:  # fmt: skip
        """Several may belong to one account. A Kraken secret is base64."""
        with self._turn():
            self._store.account(account)
            if key in self._store.keys:
                raise ValueError(f"there is a key {key!r} already")
            return self._store.put_key(ApiKey(key, secret, account, _known(rights), nonce_window, ips, 0, name or key))

    def change_key(
        self, key: str, rights: frozenset[Right] | None = None, nonce_window: int | None = None,
        ips: tuple[str, ...] | None = None,
    ) -> ApiKey:  # fmt: skip
        """None leaves a value."""
        with self._turn():
            if key not in self._store.keys:
                raise KeyError(f"no key {key!r}")
            known = self._store.keys[key]
            return self._store.put_key(
                replace(
                    known,
                    rights=known.rights if rights is None else _known(rights),
                    nonce_window=known.nonce_window if nonce_window is None else nonce_window,
                    ips=known.ips if ips is None else ips,
                )
            )

    def key(self, key: str) -> ApiKey | None:
        with self._turn():
            return self._store.keys.get(key)

    def take_nonce(self, key: str, nonce: int) -> bool:
        """Whether it may be used, and that it has been: above all before it, or in the window and not used yet."""
        with self._turn():
            known = self._store.keys[key]
            used = self._store.used_nonces[key]
            if nonce <= known.last_nonce and (nonce <= known.last_nonce - known.nonce_window or nonce in used):
                return False
            used.add(nonce)
            self._store.put_key(replace(known, last_nonce=max(nonce, known.last_nonce)))
            return True

    # --- money ---

    def deposit(self, account: str, asset: str, amount: Decimal, detail: str = "") -> Entry:
        return self._move(account, "deposit", asset, _positive(amount), ZERO, detail)

    def withdraw(self, account: str, asset: str, amount: Decimal, fee: Decimal = ZERO, detail: str = "") -> Entry:
        """``amount`` leaves, and ``fee`` on top of it."""
        return self._move(account, "withdrawal", asset, -_positive(amount), fee, detail)

    def transfer(self, account: str, asset: str, amount: Decimal, detail: str = "spotfromfutures") -> Entry:
        """Signed: from elsewhere, or to it."""
        return self._move(account, "transfer", asset, amount, ZERO, detail)

    def stake(self, account: str, asset: str, amount: Decimal) -> tuple[Entry, Entry]:
        """From BTC to BTC.S, which cannot be traded."""
        with self._turn():
            out = self._move(account, "staking", asset, -_positive(amount), ZERO, "spottostaking")
            return out, self._move(account, "staking", f"{asset}.S", amount, ZERO, "stakingfromspot")

    def _move(self, account: str, kind: EntryKind, asset: str, amount: Decimal, fee: Decimal, detail: str) -> Entry:
        with self._turn():
            owner = self._store.account(account)
            amount, fee = cut(owner, asset, amount), cut(owner, asset, fee)
            if amount - fee < 0 and self._store.available(account, asset) < fee - amount:
                raise Refused("funds", f"{fee - amount} {asset} needed")
            return self._store.post(account, kind, asset, amount, fee, None, detail)


def _positive(amount: Decimal) -> Decimal:
    if not (amount.is_finite() and amount > 0):
        raise ValueError(f"an amount above 0, not {amount}")
    return amount


def _known(rights: frozenset[Right]) -> frozenset[Right]:
    if unknown := rights - set(RIGHTS):
        raise ValueError(f"no right {', '.join(sorted(unknown))}; there are {', '.join(RIGHTS)}")
    return rights
