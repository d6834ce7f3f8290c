"""What must be so before a wallet trades live, each as one check: what was seen, and what to do about it.

Reads only. Nothing passes for want of an answer, except what a venue cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from shared.db import Database, load_queries
from shared.settings import PROJECT

Row = Mapping[str, Any]

RECONCILED_WITHIN = timedelta(hours=1)
CLOCK_SEEN_WITHIN = timedelta(minutes=15)
CLOCK_SKEW_S = 5.0
KEY_SEEN_WITHIN = timedelta(hours=2)  # the sender looks hourly
BACKUP_WITHIN = timedelta(hours=24)
ALERT_TEST_WITHIN = timedelta(days=7)
AHEAD = timedelta(minutes=1)  # by which a row of another machine may be of the future


@dataclass(frozen=True, slots=True)
class Check:
    """``todo``: what to do where it did not pass."""

    name: str
    passed: bool
    seen: str
    todo: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A wallet (``wallet_to_go_live``) and where and when it is looked at."""

    database: Database
    home: Path
    now: datetime
    wallet: Row
    environ: Mapping[str, str]
    channels: Sequence[str]

    def newest(self, query: str, **parameters: Any) -> Row | None:
        return self.database.fetch_one(load_queries("operator")[query], parameters)

    def is_recent(self, at: datetime, within: timedelta) -> bool:
        return -AHEAD <= self.now - at <= within

    def ago(self, at: datetime) -> str:
        return f"at {at:%Y-%m-%d %H:%M} UTC"


def checklist(
    database: Database, home: Path, now: datetime, wallet: Row, environ: Mapping[str, str], channels: Sequence[str]
) -> list[Check]:
    """All of them, whether or not an earlier one passed."""
    candidate = Candidate(database, home, now, wallet, environ, channels)
    return [check(candidate) for check in CHECKS]


def _mode(c: Candidate) -> Check:
    todo = "a wallet's mode never changes: name a new one in config/wallets.json, then `make wallet WALLET=… MODE=live`"
    return Check("mode", c.wallet["mode"] == "live", f"a {c.wallet['mode']} wallet", todo)


def _confirmed(c: Candidate) -> Check:
    said, name = c.environ.get("LIVE_CONFIRM", ""), c.wallet["name"]
    seen = "LIVE_CONFIRM names this wallet" if said == name else "LIVE_CONFIRM does not name this wallet"
    return Check("confirmed", said == name, seen, f"LIVE_CONFIRM={name} make go-live WALLET={name}, if you mean it")


def _model(c: Candidate) -> Check:
    symbols = c.wallet["symbols"]
    found = c.database.fetch(
        load_queries("operator")["provenances_of_symbols"], {"venue": c.wallet["venue"], "symbols": symbols}
    )
    absent = sorted(set(symbols) - {row["symbol"] for row in found})
    if absent:
        return Check("model", False, f"no candles of {', '.join(absent)} on {c.wallet['venue']}", "`make backfill`")
    simulated = all(row["provenance"] == "simulated" for row in found)
    model = c.newest("active_policy")
    todo = "`make train-policy`, `make canaries`, `make evaluate PROFILE=full`, `make promote MODEL=…`"
    if model is None:
        return Check("model", False, "no policy is active", todo)
    if simulated:
        seen = f"policy {model['id']} ({model['provenance']}); the market is SIMULATED, so that any will do"
        return Check("model", True, seen, todo)
    if model["provenance"] != "real" or model["promoted_at"] is None:
        what = "was never promoted" if model["provenance"] == "real" else "learnt from SIMULATED candles"
        return Check("model", False, f"policy {model['id']} {what}", todo)
    return Check("model", True, f"policy {model['id']}, promoted {c.ago(model['promoted_at'])}", todo)


def _limits(c: Candidate) -> Check:
    names = ("max_order_notional", "max_day_notional", "max_position_notional")
    absent = [name for name in names if c.wallet[name] is None]
    given = ", ".join(f"{name} {c.wallet[name].normalize():f}" for name in names if name not in absent)
    todo = f"`make limits WALLET={c.wallet['name']} {' '.join(f'{name.upper()}=…' for name in absent)}`"
    return Check("limits", not absent, given + (f"; no {', '.join(absent)}" if absent else ""), todo)


def _capital(c: Candidate) -> Check:
    equity, quote, days = c.wallet["equity"], c.wallet["quote"], c.wallet["ramp_days"]
    seen = f"{equity:,.2f} {quote} managed"
    if equity > 0:
        seen += f"; {c.wallet['ramp_exposure'].normalize():%} of it in the first {days} live days" if days else ""
    todo = (
        f"start the sender, which finds what the account holds; then `make wallet-adopt WALLET={c.wallet['name']} "
        f"ASSET={quote} QTY=…`, or managed_capital in config/wallets.json"
    )
    return Check("capital", equity > 0, seen, todo)


def _reconciled(c: Candidate) -> Check:
    todo = "start the sender, or `make reconcile`, and look into what it finds"
    row = c.newest("newest_reconciliation", wallet_id=c.wallet["id"])
    if row is None:
        return Check("reconciled", False, "ledger and account were never compared", todo)
    passed = row["unmatched"] == 0 and c.is_recent(row["recorded_at"], RECONCILED_WITHIN)
    return Check("reconciled", passed, f"{row['unmatched']} unmatched {c.ago(row['recorded_at'])}", todo)


def _clock(c: Candidate) -> Check:
    venue, todo = c.wallet["venue"], "set this machine's clock (NTP), and let `make run-feed` look at the venue"
    row = c.newest("newest_venue_check", venue=venue)
    if row is None or row["clock_skew_s"] is None:
        return Check("clock", False, f"how far our clock and {venue}'s are apart is not known", todo)
    skew = row["clock_skew_s"]
    passed = abs(skew) <= CLOCK_SKEW_S and c.is_recent(row["recorded_at"], CLOCK_SEEN_WITHIN)
    return Check("clock", passed, f"{skew:+.1f} s from {venue}'s {c.ago(row['recorded_at'])}", todo)


def key_rights_seen(database: Database, wallet_id: int) -> Row | None:
    """What the sender saw last of a wallet's key (key_checks); None: it never looked."""
    return database.fetch_one(load_queries("operator")["newest_key_check"], {"wallet_id": wallet_id})


def _key(c: Candidate) -> Check:
    todo = "make a key at the venue that may trade, may not withdraw, and has no nonce window; then start the sender"
    row = key_rights_seen(c.database, c.wallet["id"])
    if row is None:
        return Check("key", False, "the sender has not looked at the key yet", todo)
    against = [
        *(["may WITHDRAW"] if row["withdraw"] else []),
        *(["may not trade"] if row["trade"] is False else []),
        *([f"has a nonce window of {row['nonce_window']}"] if row["nonce_window"] else []),
    ]
    notes = [
        *(["WARNING: the venue does not tell whether it may withdraw"] if row["withdraw"] is None else []),
        *(["WARNING: the venue does not tell whether it may trade"] if row["trade"] is None else []),
        *(["WARNING: it works from any address"] if row["ip_restricted"] is False else []),
    ]
    seen = "; ".join([*(against or ["the key may do no more than it should"]), *notes, c.ago(row["recorded_at"])])
    return Check("key", not against and c.is_recent(row["recorded_at"], KEY_SEEN_WITHIN), seen, todo)


def _home(c: Candidate) -> Check:
    home = c.home.resolve()
    inside = next((place for place in (home, *home.parents) if place == PROJECT or (place / ".git").exists()), None)
    seen = f"{home}" if inside is None else f"{home} lies in the checkout {inside}"
    todo = "set SEXTANT_HOME to a directory outside: an update or a clean of the checkout must not touch the ledger"
    return Check("data directory", inside is None, seen, todo)


def _backup(c: Candidate) -> Check:
    """A dump that could not be restored is no backup."""
    found = _operator_check(c, "backup", "backup", BACKUP_WITHIN, "`make backup`")
    tested = c.newest("newest_operator_check", kind="restore-test")
    if tested is None or tested["passed"]:
        return found
    return replace(found, passed=False, seen=f"{found.seen}, but a restore-test FAILED {c.ago(tested['recorded_at'])}")


def _alerts(c: Candidate) -> Check:
    """The channels that alerts go to now are those that took the test."""
    found = _operator_check(c, "alerts", "alert-test", ALERT_TEST_WITHIN, "set ALERT_URLS, then `make alert-test`")
    if not found.passed:
        return found
    row = c.newest("newest_operator_check", kind="alert-test")
    took = row["details"].get("channels", {}) if row else {}
    untested = [name for name in c.channels if took.get(name) != "delivered"]
    if untested or not c.channels:
        what = f"{', '.join(untested)} did not take part" if untested else "ALERT_URLS names no channel now"
        return replace(found, passed=False, seen=f"{found.seen}, but {what}")
    return found


def _operator_check(c: Candidate, name: str, kind: str, within: timedelta, todo: str) -> Check:
    row = c.newest("newest_operator_check", kind=kind)
    if row is None:
        return Check(name, False, f"there was no {kind} yet", todo)
    passed = row["passed"] and c.is_recent(row["recorded_at"], within)
    seen = f"the last {kind} {'passed' if row['passed'] else 'FAILED'} {c.ago(row['recorded_at'])}"
    return Check(name, passed, seen, todo)


CHECKS: tuple[Callable[[Candidate], Check], ...] = (
    _mode, _confirmed, _model, _limits, _capital, _reconciled, _clock, _key, _home, _backup, _alerts,
)  # fmt: skip
