"""What the venue demands of orders today (tick, lot, minimums, status) for every instrument of it that is known.

Input: the venue of settings.universe (public data, no key). Output: instruments (a trigger keeps each version in
instrument_rules), alerts. Run daily, and by hand after an order was rejected for a rule. An instrument that the venue
no longer lists is marked delisted, and one that could not be asked about keeps its rules: the others go on.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import fields
from datetime import datetime

from psycopg import DataError, IntegrityError

from candles.store import delist, refresh_rules
from shared.alerts import raise_alert
from shared.clock import Clock
from shared.db import Database, load_queries
from shared.exchanges import Exchange, ExchangeError, open_exchange
from shared.exchanges.protocol import NotListed
from shared.job import Context, JobError, Outcome, UsageError, job, job_parser, run_job_command
from shared.rows import Instrument, InstrumentRules

log = logging.getLogger("sextant.rules")


@job("refresh_rules")
def run_once(clock: Clock, database: Database, exchange: Exchange) -> Outcome:
    """'nothing' where no rule changed; JobError where the venue told of none of them."""
    now, queries = clock.now(), load_queries("candles")
    known = database.fetch_rows(Instrument, queries["instruments_of"], {"venue": exchange.name})
    instruments = [one for one in known if one.provenance == exchange.provenance]
    changed, delisted, failed = list[str](), list[str](), dict[str, str]()
    for before in instruments:
        try:
            after = _ask(database, exchange, before, now)
        except ExchangeError as error:
            failed[before.symbol] = str(error)
            log.warning("%s keeps its rules: %s", before.symbol, error, extra={"venue": exchange.name})
            continue
        if after != before:
            (delisted if after.status == "delisted" else changed).append(before.symbol)
            _tell(database, before, after, now)
    if instruments and len(failed) == len(instruments):
        raise JobError(f"{exchange.name} told no rules at all; the known ones stay: {next(iter(failed.values()))}")
    result = {"changed": changed, "delisted": delisted, "failed": failed}
    return Outcome("done" if changed or delisted or failed else "nothing", result)


def _ask(database: Database, exchange: Exchange, instrument: Instrument, now: datetime) -> Instrument:
    try:
        rules = exchange.rules(instrument.symbol)
    except NotListed:
        return delist(database, instrument, now)
    try:
        return refresh_rules(database, instrument, rules, now)
    except (DataError, IntegrityError) as error:
        raise ExchangeError(f"{instrument.symbol}: {rules} cannot be stored: {error}", kind="malformed") from error


def _tell(database: Database, before: Instrument, after: Instrument, now: datetime) -> None:
    """Alerts where the market's status changed; new steps and minimums are only logged."""
    names = [field.name for field in fields(InstrumentRules)]
    news = {name: (getattr(before, name), getattr(after, name)) for name in names}
    told = ", ".join(f"{name} {was} -> {is_}" for name, (was, is_) in news.items() if was != is_)
    log.info("%s %s: %s", before.venue, before.symbol, told)
    if before.status != after.status:
        message = f"{before.venue} {before.symbol} was {before.status} and is {after.status}: look at its position"
        raise_alert(database, now, "warning", f"market-{after.status}:{before.venue}:{before.symbol}", message)


def _command(context: Context) -> Outcome:
    settings, venue = context.settings, context.arguments.venue or context.settings.universe.venue
    try:
        exchange = open_exchange(venue, settings.venues, settings.home_path)
    except ExchangeError as error:
        raise UsageError(str(error)) from error
    return run_once(context.clock, context.database, exchange)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Ask the venue for today's tick, lot, minimums and status (public data, no key).")
    parser.add_argument("--venue", help="another venue than settings' universe.venue")
    return run_job_command("candles", parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
