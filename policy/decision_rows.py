"""A decision as rows: what was decided for each instrument, and the intents that follow, in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, LiteralString

import numpy as np
from psycopg.types.json import Json

from policy.decision_path import Decision
from policy.execution.collar import collar
from policy.observation import View
from policy.policy_model import PolicyModel
from policy.risk.context import Clamp
from policy.risk.emergency import Stop
from policy.strategies import BASELINE
from shared.alerts import raise_alert
from shared.db import Database, load_queries
from shared.money import to_money
from shared.rows import Instrument

SOURCE = "policy"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Timing:
    """The candle's close that was decided about, the earliest and the latest fill, and when it was decided."""

    as_of: datetime
    not_before: datetime
    deadline: datetime
    now: datetime


def write_decision(
    database: Database,
    wallet: Mapping[str, Any],
    instruments: Sequence[Instrument],
    view: View,
    decision: Decision,
    policy: PolicyModel | None,
    timing: Timing,
    common: Row,
    max_slippage: float | None,
) -> tuple[int, int]:
    """Writes (decisions, orders) and each clamp beside, in the caller's transaction: all or nothing. An instrument
    without a price has neither. ``common``: what each row says alike, the wallet's units, what was paid in for them,
    and the code and settings that decided. ``max_slippage``: a live wallet's orders are filled no further beyond the
    close, as a fraction; paper has none."""
    queries, priced = load_queries("policy"), np.flatnonzero(np.isfinite(view.market.prices)).tolist()
    decided = [_decision_row(n, wallet, instruments[n], view, decision, policy, timing) for n in priced]
    (installation,), *written = database.fetch_together([
        (queries["installation"], None), *((queries["insert_decision"], row | common) for row in decided),
    ])  # fmt: skip
    follow: list[tuple[LiteralString, Row]] = []
    orders = 0
    for n, (row,) in zip(priced, written, strict=True):
        clamps = (_clamp_row(clamp, wallet, instruments[n], row["id"], timing) for clamp in decision.clamps[n])
        follow += [(queries["insert_risk_event"], clamp) for clamp in clamps]
        if decision.plan.quantity[n] != 0.0:
            order = _order_row(n, wallet, instruments[n], view, decision, timing, max_slippage)
            order |= {"id": uuid.uuid5(installation["id"], order.pop("key")), "decision_id": row["id"]}
            follow.append((queries["insert_order"], order))
            orders += 1
    if orders:
        follow.append((queries["notify_intents"], {"wallet": wallet["name"]}))
    database.fetch_together(follow)
    return len(priced), orders


def _clamp_row(
    clamp: Clamp, wallet: Mapping[str, Any], instrument: Instrument, decision_id: int, timing: Timing
) -> Row:
    told: Row = {
        "wallet_id": wallet["id"], "instrument_id": instrument.id, "decision_id": decision_id, "kind": "clamp",
        "as_of": timing.as_of, "recorded_at": timing.now,
    }  # fmt: skip
    return told | asdict(clamp)


def write_stop(database: Database, wallet: Mapping[str, Any], stop: Stop, timing: Timing) -> None:
    """An emergency stop, until the operator resumes the wallet, and the alarm that goes with it."""
    event = {
        "wallet_id": wallet["id"], "instrument_id": None, "decision_id": None, "kind": "stop", "rule": stop.rule,
        "as_of": timing.as_of, "before": None, "after": None, "because": stop.because, "recorded_at": timing.now,
    }  # fmt: skip
    database.execute(load_queries("policy")["insert_risk_event"], event)
    told = f"wallet {wallet['name']} is stopped, {stop.rule}: {stop.because}. No entries until `make resume`"
    # each stop is news, also the second of a day: one key a day would swallow it
    key = f"emergency-{stop.rule}:{wallet['name']}:{timing.as_of:%H:%M}"
    raise_alert(database, timing.now, "critical", key, told)


def _decision_row(
    n: int,
    wallet: Mapping[str, Any],
    instrument: Instrument,
    view: View,
    decision: Decision,
    policy: PolicyModel | None,
    timing: Timing,
) -> Row:
    market, book = view.market, view.book
    speaks = policy is not None and decision.residual is not None and bool(market.complete[n])
    return {
        "wallet_id": wallet["id"],
        "instrument_id": instrument.id,
        "as_of": timing.as_of,
        "source": SOURCE,
        "wanted_weight": float(decision.wanted[n]),
        "allowed_weight": float(decision.allowed[n]),
        "baseline_weight": float(decision.baseline[n]),
        "contributions": Json({name: float(part[n]) for name, part in decision.contributions.items()}),
        "clamps": Json([asdict(clamp) for clamp in decision.clamps[n]]),
        "reason": f"{_speaker(policy) if speaks else BASELINE}: {decision.plan.reasons[n]}",
        "price": float(market.prices[n]),
        "quantity_held": to_money(float(book.held[n])),
        "cash": to_money(book.cash),
        "equity": book.equity,
        "policy_config_id": market.config.id or None,
        "recorded_at": timing.now,
    } | _what_the_model_said(n, view, decision, policy if speaks else None)


def _speaker(policy: PolicyModel | None) -> str:
    if policy is not None and policy.residual_scale == 0.0:
        return f"{BASELINE} (the policy is promoted with a residual of 0)"
    return "policy"


def _what_the_model_said(n: int, view: View, decision: Decision, policy: PolicyModel | None) -> Row:
    """The baseline reads no embedding and no regime."""
    columns = ("model_id", "encoder_id", "market_state_short_id", "market_state_id", "observation_hash")
    if policy is None or decision.residual is None or view.market.states is None:
        return dict.fromkeys((*columns, "action", "agreement"))
    short, long = view.market.states
    return dict(
        zip(columns, (policy.id, policy.encoder_id, short.id, long.id, decision.observation_hash), strict=True)
    ) | {
        "action": float(decision.residual.action[n]),
        "agreement": float(decision.residual.agreement[n]),
    }


def _order_row(
    n: int,
    wallet: Mapping[str, Any],
    instrument: Instrument,
    view: View,
    decision: Decision,
    timing: Timing,
    max_slippage: float | None,
) -> Row:
    """``key``: what its id follows from, so that the same decision made again is the same order."""
    quantity, close = float(decision.plan.quantity[n]), float(view.market.prices[n])
    side = "buy" if quantity > 0 else "sell"
    return {
        "key": f"{wallet['id']}:{instrument.id}:{timing.as_of.isoformat()}:{SOURCE}",
        "wallet_id": wallet["id"],
        "mode": wallet["mode"],
        "instrument_id": instrument.id,
        "side": side,
        "quantity": to_money(abs(quantity)),
        "reference_price": close,
        "volatility": float(view.market.volatility[n]),
        "not_before": timing.not_before,
        "deadline": timing.deadline,
        "recorded_at": timing.now,
        **_bracket_columns(n, decision),
    } | order_terms(wallet, side, close, instrument.tick_size, max_slippage)


def _bracket_columns(n: int, decision: Decision) -> Row:
    """What an entry's position is to be left at; NULL where nothing was named."""
    named = decision.brackets
    levels = (named.stop[n], named.target[n], named.trail[n]) if named else (0.0, 0.0, 0.0)
    columns = ("bracket_stop", "bracket_target", "bracket_trail")
    return {column: to_money(float(level)) or None for column, level in zip(columns, levels, strict=True)}


def order_terms(wallet: Mapping[str, Any], side: str, close: float, tick: Decimal, max_slippage: float | None) -> Row:
    """Paper fills at the market, as the simulation does. Live takes what the book gives at once within the collar, and
    the rest of the order is gone: the next decision is about what is held then."""
    if wallet["mode"] == "paper":
        return {"type": "market", "time_in_force": "gtc", "limit_price": None}
    if max_slippage is None:
        raise ValueError(f"an order of live wallet {wallet['name']} needs its price collar: settings.execution says it")
    limit = collar(side, close, max_slippage, tick)
    return {"type": "limit", "time_in_force": "ioc", "limit_price": limit}
