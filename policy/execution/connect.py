"""Taking a wallet over, and meeting its account for the first time.

The first act of a new epoch is a signed call with a nonce above all before: a predecessor that was stopped in the
middle and wakes up is refused by the venue from then on. What lies on the account at the first connection is unmanaged:
never sold, never in equity; only what the operator names (managed_capital, wallet-adopt) is Sextant's.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from policy.execution.account import own_id
from policy.execution.crashpoints import crashpoint
from policy.execution.desk import Desk, finding
from policy.execution.venues.protocol import CouldNotAsk
from shared.clock import from_unix
from shared.errors import SextantError

RIGHTS_HOLD = timedelta(hours=1)
LOOKS = 3  # at an account that is being traded while it is imported
HISTORY_S = 30 * 86_400.0  # how far back a new ledger looks for orders of our own format


class AccountRefused(SextantError):
    """This account or key cannot be worked with; the message says what to do."""


def take_over(desk: Desk) -> None:
    """The epoch's first signed call, and what the key may do: written down, and refused where it could lose money in
    ways that trading cannot."""
    crashpoint("connect.after_epoch")
    check_key(desk)
    crashpoint("connect.after_first_call")


def measure_clock(desk: Desk) -> None:
    """How far the venue's clock is from ours, taken in the middle of its answer's way."""
    started = desk.now()
    theirs = desk.venue.server_time()
    half = (desk.now() - started) / 2
    desk.skew_s = theirs - (started + half).timestamp()


def rights_are_due(desk: Desk) -> bool:
    newest = desk.ask_one("newest_key_check")
    return newest is None or desk.now() - newest["recorded_at"] >= RIGHTS_HOLD


def check_key(desk: Desk) -> None:
    """Asks what the key may do and writes it down. AccountRefused where it may not trade; where it may withdraw, or a
    late request could be taken twice, entries wait."""
    rights = desk.venue.key_rights()
    desk.write("insert_key_check", trade=rights.trade, withdraw=rights.withdraw, ip_restricted=rights.ip_restricted,
               nonce_window=rights.nonce_window, at=desk.now())  # fmt: skip
    desk.key_findings = []
    if rights.withdraw:
        desk.key_findings.append(finding("key", "withdrawal right", "none", "granted"))
        desk.alert("critical", "key-may-withdraw", "its key may withdraw: make one without that right; no entries "
                   "until then")  # fmt: skip
    if rights.nonce_window:
        desk.key_findings.append(finding("key", "nonce window", "0", rights.nonce_window))
        desk.alert("critical", "nonce-window", f"its key has a nonce window of {rights.nonce_window}: late requests "
                   "could double orders; set it to 0. No entries until then")  # fmt: skip
    if rights.trade is False:
        raise AccountRefused(
            f"the key of wallet {desk.wallet['name']} may not trade: give it the right, or another key"
        )


def import_account(desk: Desk) -> None:
    """Writes down what lies there, once, and begins the wallet's own book beside it."""
    for _ in range(LOOKS):
        since = desk.venue.server_time()
        balances = desk.venue.balances()
        if not desk.venue.fills(since) and not desk.venue.ledger(since):
            break
    else:
        raise CouldNotAsk(f"the account moved during each of {LOOKS} looks at it")
    history = [o for o in (*desk.venue.open_orders(), *desk.venue.closed_orders(since - HISTORY_S))
               if own_id(o.client_id) is not None]  # fmt: skip
    at, quote = from_unix(since), desk.wallet["quote"]
    found = {asset: balance.total for asset, balance in balances.items() if balance.total}
    own = found.get(quote, Decimal(0)) if desk.manages_all else desk.managed_capital or Decimal(0)
    if own > found.get(quote, Decimal(0)):
        raise AccountRefused(
            f"wallet {desk.wallet['name']} is to manage {own} {quote}, and its account has "
            f"{found.get(quote, Decimal(0))}: lower managed_capital in config/wallets.json, or pay in"
        )
    crashpoint("connect.before_import")
    with desk.database.transaction():
        for asset, amount in found.items():
            _write(desk, asset, amount, "found", False, f"found:{asset}", at)
        if own:
            _write(desk, quote, -own, "opening", False, "opening:unmanaged", at)
            _write(desk, quote, own, "opening", True, "opening", at)
        desk.write("connected", at=at)
    desk.wallet = {**desk.wallet, "connected_at": at}
    crashpoint("connect.after_import")
    desk.count("imported_assets", len(found))
    told = ", ".join(f"{amount.normalize():f} {asset}" for asset, amount in found.items()) or "nothing"
    desk.alert("info", "account-imported", f"its account has {told}; {own} {quote} of it is managed, the rest is left "
               "alone (`make wallet-adopt`)")  # fmt: skip
    if history:
        told = f"{len(history)} orders of Sextant's own format in the last 30 days"
        desk.find("stranger", "history", "no order", told)
        desk.alert("critical", "ledger-without-history", f"this database knows nothing of {told}: if it was restored "
                   "or made anew, look at the account, then `make resume`; no entries until then")  # fmt: skip


def _write(desk: Desk, asset: str, amount: Decimal, kind: str, managed: bool, reference: str, at: object) -> None:
    desk.write("insert_flow", asset=asset, amount=amount, kind=kind, managed=managed, value=None, reference=reference,
               at=at, recorded_at=desk.now())  # fmt: skip
