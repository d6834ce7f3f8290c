"""The trader: settle, then on the decision clock observe, decide, blend, limit, plan, and write it down.

Input: market_data, embeddings, market_state, policy_config, models, wallets, limits, commands, fills.
Output: decisions and orders, in one transaction a wallet; orders.state when settling. It sends nothing.
"""

from __future__ import annotations

import logging
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg.types.json import Json

from policy.book import History, make_book, midnight
from policy.decision_path import Circumstances, Decision, decide
from policy.execution.plan import TradingRules
from policy.inputs import Inputs, Market
from policy.observation import Book
from policy.policy_model import PolicyModel, usable_policy
from policy.risk.context import OperatorLimits
from shared.alerts import raise_alert
from shared.clock import Clock, floor_time
from shared.db import Database, load_queries
from shared.job import Outcome, job, job_parser, run_job_command
from shared.market_data import UnknownInstrument, find_instruments
from shared.money import to_float, to_money
from shared.rows import FloatArray, Instrument
from shared.settings import Settings

log = logging.getLogger("sextant.trader")
SOURCE = "policy"
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
        except (UnknownInstrument, OverflowError) as error:
            failures[wallet["name"]] = str(error)
            raise_alert(database, clock.now(), "warning", f"wallet:{wallet['name']}", str(error))
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
    return OperatorLimits(risk.max_position, risk.max_exposure, risk.daily_loss_limit, risk.max_drawdown)


def trading_rules(
    instruments: Sequence[Instrument], settings: Settings, max_order_notional: Decimal | None = None
) -> TradingRules:
    return TradingRules(
        tick=np.array([to_float(i.tick_size) for i in instruments]),
        lot=np.array([to_float(i.lot_size) for i in instruments]),
        min_notional=np.array([to_float(i.min_notional) for i in instruments]),
        no_trade_band=settings.execution.no_trade_band,
        max_order_notional=float("inf") if max_order_notional is None else to_float(max_order_notional),
    )


def _decide(clock: Clock, database: Database, settings: Settings, wallet: Mapping[str, Any]) -> tuple[int, int]:
    """Decides for the newest close of the decision clock, once, after its delay; (decisions, orders) written."""
    step_s = settings.universe.decision_timeframe_s
    delay = timedelta(seconds=settings.execution.delay_s)
    as_of = floor_time(clock.now() - delay, step_s)
    if wallet["resumed_at"] is None or as_of < wallet["resumed_at"]:
        return 0, 0  # a wallet's first decision is about a candle that closed after an operator resumed it
    if wallet["last_decided"] is not None and as_of <= wallet["last_decided"]:
        return 0, 0
    instruments = find_instruments(database, wallet["venue"], wallet["symbols"])
    operator = operator_limits(settings)
    policy, problem = usable_policy(database, wallet["symbols"], step_s, as_of)
    if problem:
        raise_alert(database, clock.now(), "warning", "policy-model", problem)
    encoder_id = policy.encoder_id if policy else None
    inputs = Inputs(
        database,
        instruments,
        step_s,
        wallet["track"],
        encoder_id,
        operator,
        as_of,
        as_of,
        settings.execution.stale_after_s,
    )
    market = inputs.at(as_of)
    if not market.tradable.any():
        raise_alert(database, clock.now(), "warning", f"no-candles:{wallet['name']}", f"at {as_of}: {market.doubts}")
        return 0, 0  # nothing to decide on; asked again at the next tick, should the candles be late
    if np.isnan(market.prices).any():
        raise UnknownInstrument(f"{wallet['name']}: no price of one of {', '.join(wallet['symbols'])} is known yet")
    doubt = market.doubts if policy else doubts_without_policy(market)
    doubt = "; ".join(filter(None, [doubt, _venue_doubt(clock, database, settings, wallet)]))
    if doubt:
        raise_alert(database, clock.now(), "warning", f"doubts:{wallet['name']}", f"no entries at {as_of}: {doubt}")
    book = _read_book(database, wallet, instruments, as_of, market.prices)
    decision = decide(
        market.view(book),
        policy.act if policy else None,
        Circumstances(
            operator=operator,
            rules=trading_rules(instruments, settings, wallet["max_order_notional"]),
            in_flight=_in_flight(database, wallet, instruments),
            tradable=market.tradable,
            wallet_paused=not wallet["trading"],
            doubts=doubt,
        ),
    )
    timing = (as_of, as_of + delay, as_of + delay + timedelta(seconds=step_s), clock.now())
    return _write(database, wallet, instruments, market, book, decision, policy, timing)


def doubts_without_policy(market: Market) -> str:
    """The baseline needs no embeddings and no regime: only missing candles are a doubt to it."""
    return "" if market.tradable.all() else market.doubts


def _venue_doubt(clock: Clock, database: Database, settings: Settings, wallet: Mapping[str, Any]) -> str:
    """What the feed saw of the wallet's venue that forbids entries, or that it stopped looking.

    A venue that no feed ever looked at (simulated, files) has no clock to be wrong about.
    """
    venue, now = wallet["venue"], clock.now()
    check = database.fetch_one(load_queries("policy")["newest_venue_check"], {"venue": venue, "now": now})
    if check is None:
        return ""
    if now - check["recorded_at"] >= VENUE_CHECK_HOLDS:
        since = f"{check['recorded_at']:%Y-%m-%d %H:%M}"
        return f"nobody has looked at {venue} and its clock since {since}: is the feed running?"
    if check["status"] != "online":
        return f"{venue} is {check['status'].replace('_', ' ')}"
    skew = check["clock_skew_s"] or 0.0
    if abs(skew) - (check["round_trip_s"] or 0.0) / 2 > settings.feed.skew_limit_s:  # the answer's age is in doubt
        return f"this machine's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} {venue}'s"
    return ""


def _read_book(
    database: Database,
    wallet: Mapping[str, Any],
    instruments: Sequence[Instrument],
    as_of: datetime,
    prices: FloatArray,
) -> Book:
    queries = load_queries("policy")
    params = {"wallet_id": wallet["id"], "as_of": as_of, "midnight": midnight(as_of), "since": wallet["resumed_at"]}
    row = database.fetch_one(queries["wallet_book"], params)
    assert row is not None
    held = {p["instrument_id"]: to_float(p["quantity"]) for p in database.fetch(queries["positions"], params)}
    capital = to_float(row["capital"])
    history = History(
        day_start_equity=capital if row["day_start_equity"] is None else row["day_start_equity"],
        peak_equity=row["peak_equity"] or 0.0,
    )
    return make_book(
        as_of, to_float(row["cash"]), np.array([held.get(i.id, 0.0) for i in instruments]), prices, history
    )


def _in_flight(database: Database, wallet: Mapping[str, Any], instruments: Sequence[Instrument]) -> NDArray[np.bool_]:
    rows = database.fetch(load_queries("policy")["orders_in_flight"], {"wallet_id": wallet["id"]})
    busy = {row["instrument_id"] for row in rows}
    return np.array([i.id in busy for i in instruments])


def _write(
    database: Database,
    wallet: Mapping[str, Any],
    instruments: Sequence[Instrument],
    market: Market,
    book: Book,
    decision: Decision,
    policy: PolicyModel | None,
    timing: tuple[datetime, datetime, datetime, datetime],
) -> tuple[int, int]:
    """Writes the decisions and the intents that follow from them, all or nothing."""
    queries, orders = load_queries("policy"), 0
    as_of, not_before, deadline, now = timing
    states = market.states if decision.observation_hash else None  # the baseline reads no regime
    common = {
        "wallet_id": wallet["id"],
        "as_of": as_of,
        "source": SOURCE,
        "cash": to_money(book.cash),
        "equity": book.equity,
        "model_id": policy.id if policy and decision.observation_hash else None,
        "encoder_id": policy.encoder_id if policy and decision.observation_hash else None,
        "market_state_short_id": states[0].id if states else None,
        "market_state_id": states[1].id if states else None,
        "policy_config_id": market.config.id or None,
        "observation_hash": decision.observation_hash,
        "recorded_at": now,
    }
    with database.transaction():
        installation = database.fetch_one(queries["installation"])
        assert installation is not None
        for n, instrument in enumerate(instruments):
            row = database.fetch_one(
                queries["insert_decision"], common | _one_decision(n, instrument, market, book, decision)
            )
            assert row is not None
            quantity = float(decision.plan.quantity[n])
            if quantity == 0.0:
                continue
            key = f"{wallet['id']}:{instrument.id}:{as_of.isoformat()}:{SOURCE}"
            order = {
                "id": uuid.uuid5(installation["id"], key),
                "decision_id": row["id"],
                "wallet_id": wallet["id"],
                "mode": wallet["mode"],
                "instrument_id": instrument.id,
                "side": "buy" if quantity > 0 else "sell",
                "quantity": to_money(abs(quantity)),
                "reference_price": float(market.prices[n]),
                "not_before": not_before,
                "deadline": deadline,
                "recorded_at": now,
            }
            orders += database.execute(queries["insert_order"], order)
    return len(instruments), orders


def _one_decision(n: int, instrument: Instrument, market: Market, book: Book, decision: Decision) -> dict[str, Any]:
    return {
        "instrument_id": instrument.id,
        "wanted_weight": float(decision.wanted[n]),
        "allowed_weight": float(decision.allowed[n]),
        "clamps": Json([asdict(clamp) for clamp in decision.clamps[n]]),
        "reason": f"{decision.source}: {decision.plan.reasons[n]}",
        "price": float(market.prices[n]),
        "quantity_held": to_money(float(book.held[n])),
    }


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Settle, then on the decision clock decide and write orders down.")
    return run_job_command("policy", parser, lambda c: run_once(c.clock, c.database, c.settings), argv)


if __name__ == "__main__":
    sys.exit(main())
