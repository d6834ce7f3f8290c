"""The trader: settle, then on the decision clock observe, decide, blend, limit, plan, and write it down.

Input: market_data, embeddings, market_state, policy_config, models, wallets, limits, commands, KILL files, cash_flows,
fills.
Output: decisions, orders and risk_events, in one transaction a wallet; orders.state when settling. It sends nothing.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, LiteralString

import numpy as np
from numpy.typing import NDArray
from psycopg import DataError, IntegrityError

from policy.averaging import averaging_of
from policy.book import History, make_book, midnight
from policy.decision_path import Circumstances, decide, risk_context
from policy.decision_rows import Timing, write_decision, write_stop
from policy.execution.plan import TradingRules
from policy.exits import exit_rules
from policy.inputs import DEFAULT_SOURCE, NO_CANDLES, Inputs
from policy.observation import Book, Market, View, steering_of
from policy.policy_model import PolicyModel, usable_policy
from policy.portfolio_state import read_portfolio_state
from policy.risk.context import OperatorLimits, parameters_of, symbol_caps
from policy.risk.emergency import triggers
from policy.strategies import STRATEGIES
from shared.alerts import Severity, raise_alert
from shared.clock import Clock, floor_time, to_unix
from shared.db import Database, DatabaseError, load_queries
from shared.job import Outcome, job, job_parser, run_job_command
from shared.kill_file import mandate_now
from shared.money import to_float
from shared.rows import FloatArray, Instrument
from shared.settings import Settings
from shared.simulation import kernel
from shared.version import CODE, settings_hash

Rows = Sequence[Mapping[str, Any]]
log = logging.getLogger("sextant.trader")
VENUE_CHECK_HOLDS = timedelta(minutes=15)  # the feed looks at the venue at least once a base candle


@job("run_trader")
def run_once(clock: Clock, database: Database, settings: Settings) -> Outcome:
    """One tick for every wallet; one wallet's trouble never stops another's."""
    counts = {"settled": 0, "decisions": 0, "orders": 0}
    failures: dict[str, str] = {}
    for wallet in database.fetch(load_queries("policy")["wallets"], {"now": clock.now()}):
        try:
            settled = _settle(database, wallet)
            decided = _decide(clock, database, settings, wallet)
        except Exception as error:
            if isinstance(error, DatabaseError) and not isinstance(error, DataError | IntegrityError):
                raise  # the database's own trouble is everybody's
            log.exception("no decision for this wallet", extra={"wallet": wallet["name"]})
            failures[wallet["name"]] = str(error)
            raise_alert(database, clock.now(), "warning", f"wallet:{wallet['name']}", f"no decision: {error}")
            continue
        counts = {k: counts[k] + v for k, v in zip(counts, (settled, *decided), strict=True)}
    result: dict[str, Any] = {k: v for k, v in counts.items() if v}
    return Outcome("done" if result else "nothing", result | ({"failures": failures} if failures else {}))


def _settle(database: Database, wallet: Mapping[str, Any]) -> int:
    """Brings open orders to the state that the venue's events tell; the number that changed."""
    if not wallet["has_open_orders"]:
        return 0
    return database.execute(load_queries("policy")["settle_orders"], {"wallet_id": wallet["id"]})


def operator_limits(settings: Settings) -> OperatorLimits:
    risk = settings.risk
    return OperatorLimits(
        max_position=risk.max_position,
        max_exposure=risk.max_exposure,
        daily_loss_limit=risk.daily_loss_limit,
        max_drawdown=risk.max_drawdown,
        max_step=risk.max_step,
        rules=parameters_of(risk),
    )


def trading_rules(
    instruments: Sequence[Instrument],
    settings: Settings,
    max_order_notional: Decimal | None = None,
    prices: FloatArray | None = None,
) -> TradingRules:
    """``prices`` [N]: what a venue's least quantity is worth now; without them only its least value counts."""
    least = np.array([to_float(i.min_notional) for i in instruments])
    if prices is not None:
        least = np.fmax(least, np.array([to_float(i.min_quantity) for i in instruments]) * prices)
    return TradingRules(
        tick=np.array([to_float(i.tick_size) for i in instruments]),
        lot=np.array([to_float(i.lot_size) for i in instruments]),
        min_notional=least,
        no_trade_band=settings.execution.no_trade_band,
        max_order_notional=float("inf") if max_order_notional is None else to_float(max_order_notional),
    )


def cost_of_a_side(wallet: Mapping[str, Any]) -> float:
    """What trading costs a side by the wallet's terms, before impact, as a fraction."""
    return (float(wallet["taker_fee_bps"]) + float(wallet["slippage_bps"])) * 1e-4


def _decide(clock: Clock, database: Database, settings: Settings, wallet: Mapping[str, Any]) -> tuple[int, int]:
    """Decides for the newest close of the decision clock, once, after its delay; (decisions, orders) written."""
    step_s, now = settings.universe.decision_timeframe_s, clock.now()
    delay = timedelta(seconds=settings.execution.delay_s)
    as_of = floor_time(now - delay, step_s)
    if wallet["resumed_at"] is None or as_of < wallet["resumed_at"]:
        return 0, 0  # a wallet's first decision is about a candle that closed after an operator resumed it
    if wallet["last_decided"] is not None and as_of <= wallet["last_decided"]:
        return 0, 0
    rows = read_rows(database, wallet, as_of, now)
    instruments = portfolio_of(wallet, rows["instruments"])
    policy, problem = _policy_for(database, wallet, instruments, step_s, as_of)
    if problem:
        raise_alert(database, now, "warning", "policy-model", problem)
    operator, encoder_id = limits_of(wallet, settings), policy.encoder_id if policy else None
    stale_after_s = settings.execution.stale_after_s
    inputs = Inputs(
        database, instruments, step_s, wallet["track"], encoder_id, operator, as_of, as_of, stale_after_s
    )  # fmt: skip
    held, last_prices = positions_of(rows["positions"], instruments)
    market = priced_as_held(inputs.at(as_of), held, last_prices)
    doubts = _doubts(now, settings, wallet["venue"], rows["checks"], instruments, market, policy)
    _raise_alerts(clock, database, wallet, market, doubts, f"{as_of:%Y-%m-%d %H:%M}")
    if not market.tradable.any():
        return 0, 0  # nothing to decide on; asked again at the next tick, should the candles be late
    view, units = view_of(settings, wallet, rows["book"][0], as_of, held, market)
    mandate = mandate_now(settings.home_path, wallet["name"], wallet["mandate"])
    circumstances = Circumstances(
        operator=within_ramp(operator, wallet, view.book.equity, settings.execution.max_slippage),
        rules=trading_rules(instruments, settings, wallet["max_order_notional"], market.prices),
        in_flight=_in_flight(rows["in_flight"], instruments),
        wallet_paused=mandate != "trade" or wallet["stopped"] is not None,
        doubts=doubts,
        state=read_portfolio_state(database, wallet["id"], instruments, now),
        symbol_caps=symbol_caps(settings.risk, wallet["symbols"]),
        exits=exit_rules(settings.exits),
        averaging=averaging_of(settings.exits, to_unix(as_of)),
    )
    decision = decide(view, policy.act if policy else None, circumstances)
    stops = triggers(risk_context(view, circumstances, decision.residual), operator)
    timing = Timing(as_of, as_of + delay, as_of + delay + timedelta(seconds=step_s), now)
    with database.transaction():
        slippage = settings.execution.max_slippage
        common = {"units": units, "paid_in": rows["book"][0]["capital"]}
        common |= {"code_version": CODE, "settings_hash": settings_hash(settings)}
        counts = write_decision(database, wallet, instruments, view, decision, policy, timing, common, slippage)
        if wallet["stopped"] is None and mandate == "trade":
            for stop in stops:
                write_stop(database, wallet, stop, timing)
    return counts


def read_rows(database: Database, wallet: Mapping[str, Any], as_of: datetime, now: datetime) -> dict[str, Rows]:
    """What a decision reads of its wallet and venue, in one round trip, by what it is."""
    queries = load_queries("policy")
    asked: dict[str, tuple[LiteralString, Mapping[str, Any]]] = {
        "instruments": (
            load_queries("shared")["find_instruments"], {"venue": wallet["venue"], "symbols": wallet["symbols"]}
        ),
        "positions": (queries["positions"], {"wallet_id": wallet["id"], "as_of": as_of}),
        "book": (queries["wallet_book"], {
            "wallet_id": wallet["id"], "as_of": as_of, "midnight": midnight(as_of), "since": wallet["resumed_at"],
        }),
        "in_flight": (queries["orders_in_flight"], {"wallet_id": wallet["id"]}),
        "checks": (queries["newest_venue_check"], {"venue": wallet["venue"], "now": now}),
    }  # fmt: skip
    return dict(zip(asked, database.fetch_together(list(asked.values())), strict=True))


def _policy_for(
    database: Database, wallet: Mapping[str, Any], instruments: Sequence[Instrument], step_s: int, as_of: datetime
) -> tuple[PolicyModel | None, str]:
    """The policy that may trade this wallet, or None and why: real money follows no model of an invented market."""
    policy, problem = usable_policy(database, step_s, as_of)
    real = any(instrument.provenance == "real" for instrument in instruments)
    if policy is not None and wallet["mode"] == "live" and real:
        if policy.model.provenance != "real":
            return None, f"policy model {policy.id} was trained on a simulated market: live, the baseline trades"
        if not policy.verdict:
            return None, f"policy model {policy.id} was never promoted: live, the baseline trades; see `make promote`"
    return policy, problem


def view_of(
    settings: Settings,
    wallet: Mapping[str, Any],
    book_row: Mapping[str, Any],
    as_of: datetime,
    held: FloatArray,
    market: Market,
) -> tuple[View, float]:
    """What the wallet decides from at ``as_of``, and its units. ``book_row``: of the query wallet_book."""
    book, units = _book(book_row, as_of, held, market)
    # A ramp shrinks what is wanted, and the band with it: else a new wallet's small positions were never opened.
    ramp = 1.0 if wallet["ramp_exposure"] is None else float(wallet["ramp_exposure"])
    steering = steering_of(market.config, settings.execution.no_trade_band * ramp)
    return View(market, book, cost_of_a_side(wallet), steering), units


def limits_of(wallet: Mapping[str, Any], settings: Settings) -> OperatorLimits:
    """The operator's, and in a live wallet's first days no more exposure than its ramp lets through."""
    limits, ramp = operator_limits(settings), wallet["ramp_exposure"]
    return limits if ramp is None else replace(limits, max_exposure=min(limits.max_exposure, float(ramp)))


def within_ramp(
    limits: OperatorLimits, wallet: Mapping[str, Any], equity: float, max_slippage: float
) -> OperatorLimits:
    """In a live wallet's first days approve() lets all positions together come to a share of the capital of its grant,
    whatever it is worth now. Less than that by what prices may move until it looks: else the last of several entries
    would be refused."""
    if wallet["ramp_notional"] is None:
        return limits
    share = float(wallet["ramp_notional"]) * (1.0 - max_slippage) / equity if equity > 0.0 else 0.0
    return replace(limits, max_exposure=min(limits.max_exposure, share))


def portfolio_of(wallet: Mapping[str, Any], rows: Rows) -> list[Instrument]:
    """The wallet's instruments in its order. One that no candle was ever stored for stands in without an id: it has
    no price and is not traded, and the others are sized as if it were there."""
    known = {row["symbol"]: Instrument(**row) for row in rows}
    one = Decimal(1)
    return [
        known.get(symbol) or Instrument(0, wallet["venue"], symbol, 0, one, one, one, "unknown")
        for symbol in wallet["symbols"]
    ]


def doubts_without_policy(market: Market) -> tuple[str, ...]:
    """The baseline needs no embeddings and no regime: only missing candles are a doubt to it."""
    return tuple("" if tradable else NO_CANDLES for tradable in market.tradable.tolist())


def _doubts(
    now: datetime,
    settings: Settings,
    venue: str,
    checks: Rows,
    instruments: Sequence[Instrument],
    market: Market,
    policy: PolicyModel | None,
) -> tuple[str, ...]:
    """What forbids entries into each instrument: what is missing of itself, what its venue says of it, and what its
    venue is in doubt about."""
    of_venue = _venue_doubt(now, settings, venue, checks)
    own = market.doubts if policy else doubts_without_policy(market)
    listed = ["" if i.status == "online" else f"{i.symbol} is {i.status.replace('_', ' ')}" for i in instruments]
    return tuple("; ".join(filter(None, doubt)) for doubt in zip(own, listed, [of_venue] * len(own), strict=True))


def _raise_alerts(
    clock: Clock,
    database: Database,
    wallet: Mapping[str, Any],
    market: Market,
    doubts: Sequence[str],
    as_of: str,
) -> None:
    """Says once a day what is in doubt, whose say is not heard, and what cannot be traded at all."""
    name, now, symbols = wallet["name"], clock.now(), wallet["symbols"]
    if any(doubts):
        named = {doubt: [s for s, d in zip(symbols, doubts, strict=True) if d == doubt] for doubt in doubts if doubt}
        told = "; ".join(f"{doubt} ({', '.join(of)})" for doubt, of in named.items())
        key, what = ("doubts", "no entries") if market.tradable.any() else ("no-candles", "no decision")
        raise_alert(database, now, "warning", f"{key}:{name}", f"{what} at {as_of}: {told}")
    if market.config.source == DEFAULT_SOURCE:
        told = f"{market.config.reasons}; look at `make status` and run `make run-meta`"
        severity: Severity = "critical" if market.config.pause else "warning"
        key = f"no-entries-without-steering:{name}" if market.config.pause else f"no-steering:{name}"
        raise_alert(database, now, severity, key, f"at {as_of}: {told}")
    unknown = sorted(market.config.strategy_weights.keys() - STRATEGIES.keys())
    if unknown:
        told = f"policy_config gives weight to {', '.join(unknown)}, which is not registered: the others share its say"
        raise_alert(database, now, "warning", f"unknown-strategy:{name}", told)
    unpriced = [symbol for symbol, price in zip(symbols, market.prices.tolist(), strict=True) if np.isnan(price)]
    if unpriced:
        raise_alert(
            database,
            now,
            "warning",
            f"no-price:{name}",
            f"no price of {', '.join(unpriced)} on {wallet['venue']} is known: not traded, the others are; run "
            "`make backfill` or `make import-csv FILE=…`, or take it off the wallet's allow-list",
        )


def _venue_doubt(now: datetime, settings: Settings, venue: str, checks: Rows) -> str:
    """What the feed saw of the venue that forbids entries, or that it stopped looking; ``checks``: its newest, if any.

    A venue that no feed ever looked at (simulated, files) has no clock to be wrong about.
    """
    if not checks:
        return ""
    (check,) = checks
    if now - check["recorded_at"] >= VENUE_CHECK_HOLDS:
        since = f"{check['recorded_at']:%Y-%m-%d %H:%M}"
        return f"nobody has looked at {venue} and its clock since {since}: is the feed running?"
    if check["status"] != "online":
        return f"{venue} is {check['status'].replace('_', ' ')}"
    skew = check["clock_skew_s"] or 0.0
    if abs(skew) - (check["round_trip_s"] or 0.0) / 2 > settings.feed.skew_limit_s:  # the answer's age is in doubt
        return f"this machine's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} {venue}'s"
    return ""


def positions_of(rows: Rows, instruments: Sequence[Instrument]) -> tuple[FloatArray, FloatArray]:
    """What is held of each instrument [N], and the price it was last decided at; NaN where nothing ever was."""
    by_id = {row["instrument_id"]: row for row in rows}
    found = [by_id.get(i.id) for i in instruments]
    held = np.array([to_float(row["quantity"]) if row else 0.0 for row in found])
    return held, np.array([row["last_price"] if row and row["last_price"] else np.nan for row in found])


def priced_as_held(market: Market, held: FloatArray, last_prices: FloatArray) -> Market:
    """An instrument whose last candle is too long ago to be looked at is worth what it was when it was last decided
    about: one position without a price would leave the whole wallet without an equity."""
    forgotten = np.isnan(market.prices) & (held > 0.0)
    return replace(market, prices=np.where(forgotten, last_prices, market.prices)) if forgotten.any() else market


def _book(row: Mapping[str, Any], as_of: datetime, held: FloatArray, market: Market) -> tuple[Book, float]:
    """The wallet's book, and its units. As in a fund, money that comes or goes buys or sells units at what one is
    worth, and the day's start and the peak are values of one unit: no deposit is a gain, no withdrawal a loss."""
    cash, units, paid_in = to_float(row["cash"]), row["units"], to_float(row["paid_in"])
    if paid_in:
        equity = kernel.equity(cash, held, market.prices)
        if equity > 0.0 and equity - paid_in > 0.0:
            units *= equity / (equity - paid_in)
    start = to_float(row["capital"]) if row["day_start"] is None else row["day_start"] * units
    history = History(day_start_equity=start, peak_equity=(row["peak"] or 0.0) * units)
    return make_book(as_of, cash, held, market.prices, history), units


def _in_flight(rows: Rows, instruments: Sequence[Instrument]) -> NDArray[np.bool_]:
    busy = {row["instrument_id"] for row in rows}
    return np.array([i.id in busy for i in instruments])


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Settle, then on the decision clock decide and write orders down.")
    return run_job_command("policy", parser, lambda c: run_once(c.clock, c.database, c.settings), argv)


if __name__ == "__main__":
    sys.exit(main())
