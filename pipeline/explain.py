"""Why did it buy, and why did it not? `make explain DECISION=id` or `SYMBOL= [WALLET=] [AT=]`.

Reads the exact rows of one decision and tells its story in order: the baseline, what the model added to it and which
block of its input made it do so, the strategies' blend, each clamp, the order or the ONE reason why there is none, its
events and fills, and who steered, up to a language model's prompt (``--prompt`` prints it in full, ``--json``
everything for programs). What no row keeps (the band, the delay, how the operator bounds risk) is today's settings'.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from rich.console import Console

from pipeline.explain_page import WIDTH, print_explanation
from pipeline.explain_residual import (
    Books,
    as_it_read,
    make_inputs,
    matches,
    mean_observation,
    parts_of,
    rebuilt_view,
)
from policy.decision_kernel import full_weight
from policy.observation import Market, View
from policy.policy_model import PolicyModel
from shared.clock import floor_time, open_clock, to_unix
from shared.db import Database, load_queries
from shared.embeddings import read_embeddings
from shared.errors import SextantError
from shared.job import UsageError, time_argument
from shared.kill_file import file_mandate
from shared.model_store import ModelRefused, model_by_id
from shared.rows import Instrument, MarketState, PolicyConfig
from shared.schema import open_database
from shared.settings import Settings, SettingsError, load_settings
from shared.version import CODE, settings_hash

Row = Mapping[str, Any]
Story = dict[str, Any]


class NoDecision(SextantError):
    """Nothing was decided then; the message says what is nearest, and why."""


def find_decision(
    database: Database, settings: Settings, symbol: str, wallet: str | None, at: datetime | None, now: datetime
) -> int:
    """The id of the newest decision about a symbol, or of the one in force at ``at``. UsageError: nobody trades it, or
    several do; NoDecision: there is none, with the nearest and the reason."""
    queries = load_queries("explain")
    wallets = database.fetch(queries["wallets_of_symbol"], {"symbol": symbol, "wallet": wallet})
    if not wallets:
        of = f"wallet {wallet!r} has" if wallet else "no wallet has"
        raise UsageError(f"{of} {symbol} in its portfolio, now or ever: `make status` lists what is traded")
    if len(wallets) > 1:
        raise UsageError(f"say which wallet (WALLET=): {', '.join(w['name'] for w in wallets)} have {symbol}")
    (one,) = wallets
    asked = {"wallet_id": one["id"], "instrument_id": one["instrument_id"], "at": at or now}
    near = database.fetch_one(queries["nearest_decisions"], asked)
    assert near is not None
    step = timedelta(seconds=settings.universe.decision_timeframe_s)
    if near["before"] is not None and (at is None or at - near["before_at"] < step):
        return int(near["before"])
    about = floor_time(at or now, settings.universe.decision_timeframe_s)
    told = [f"{moment:%Y-%m-%d %H:%M} (DECISION={id_})" for id_, moment in
            ((near["before"], near["before_at"]), (near["after"], near["after_at"])) if id_ is not None]  # fmt: skip
    raise NoDecision(
        f"nothing was decided for {one['name']} about {symbol} at the close of {about:%Y-%m-%d %H:%M}: "
        f"{_why_none(database, settings, one, about, now)}. Nearest: {' and '.join(told) or 'none, ever'}"
    )


def _why_none(database: Database, settings: Settings, wallet: Row, about: datetime, now: datetime) -> str:
    """The first reason that the rows know of, in the order in which the trader looks."""
    due = about + timedelta(seconds=settings.execution.delay_s)
    step_s = settings.universe.decision_timeframe_s
    until = due + timedelta(seconds=step_s)
    seen = database.fetch_one(load_queries("explain")["why_none"], {
        "wallet_id": wallet["id"], "wallet": wallet["name"], "instrument_id": wallet["instrument_id"],
        "timeframe_s": step_s, "as_of": about, "due": due, "until": until,
    })  # fmt: skip
    assert seen is not None
    if about > now or due > now:
        return f"that is decided at {due:%H:%M} at the earliest, and now is {now:%Y-%m-%d %H:%M}"
    if wallet["recorded_at"] > due:
        return f"the wallet was made later, at {wallet['recorded_at']:%Y-%m-%d %H:%M}"
    if seen["resumed_at"] is None:
        return "no operator had ever resumed the wallet (`make resume`)"
    if seen["resumed_at"] > about:
        return f"the wallet was first resumed at {seen['resumed_at']:%Y-%m-%d %H:%M}, after that close"
    if not wallet["listed"]:
        return "the symbol is not on the wallet's allow-list"
    if seen["candle_recorded_at"] is None:
        return "its candle is not there, nor was any price of it: `make quality` names the holes"
    if not seen["runs"]:
        return "the trader did not run between then and the next close: is `make schedule` or cron running?"
    if seen["trouble"] or seen["error"]:
        return f"the trader ran into trouble: {seen['trouble'] or seen['error']}"
    if seen["candle_recorded_at"] >= until:
        return f"its candle came at {seen['candle_recorded_at']:%Y-%m-%d %H:%M}, after the trader's last look"
    return f"the trader ran {seen['runs']} times and wrote none; look into its log of that hour"


def explain(database: Database, settings: Settings, decision_id: int, now: datetime) -> Story:
    """Everything about one decision, ready for JSON but for times and Decimals. UsageError: there is no such one."""
    queries = load_queries("explain")
    d = database.fetch_one(queries["decision"], {"id": decision_id})
    if d is None:
        raise UsageError(f"there is no decision {decision_id}; find one by SYMBOL= [WALLET=] [AT=]")
    config = _one(database, PolicyConfig, "config_by_id", d["policy_config_id"])
    states = tuple(_one(database, MarketState, "state_by_id", d[c]) for c in
                   ("market_state_short_id", "market_state_id"))  # fmt: skip
    story: Story = {"decision": d, "config": asdict(config) if config else None,
                    "states": [asdict(state) for state in states if state]}  # fmt: skip
    story["changed"] = _changed(d["code_version"], d["settings_hash"], settings)
    story |= _what_it_saw(database, settings, d, config, states)
    story["order"] = _order(database, d, now)
    circumstances = {"wallet_id": d["wallet_id"], "at": d["recorded_at"]}
    story["circumstances"] = dict(database.fetch_one(queries["circumstances"], circumstances) or {})
    story["circumstances"]["kill_file_now"] = file_mandate(settings.home_path, d["wallet"])
    story["outcome"] = outcome_of(story)
    asked = config and {"id": config.id, "as_of": config.as_of, "track": config.track}
    story["llm_call"] = database.fetch_one(queries["llm_call_of_config"], asked) if asked else None
    return story


def _changed(code: str, told: str, settings: Settings) -> list[str]:
    """What differs between whoever decided and this program."""
    changed = [f"code was {code} then and is {CODE} now"] if code != CODE else []
    now = settings_hash(settings)
    return [*changed, f"settings were {told} then and are {now} now"] if told != now else changed


def _one(database: Database, kind: Any, query: str, id_: int | None) -> Any:
    found = [] if id_ is None else database.fetch_rows(kind, load_queries("explain")[query], {"id": id_})
    return found[0] if found else None


def _what_it_saw(database: Database, settings: Settings, d: Row, config: PolicyConfig | None,
                 states: Sequence[MarketState | None]) -> Story:  # fmt: skip
    """Signals, steering and, where a model spoke, its observation rebuilt and its residual by block."""
    asked = {"wallet_id": d["wallet_id"], "source": d["source"], "first": d["as_of"], "last": d["as_of"]}
    rows = database.fetch(load_queries("explain")["portfolio_decisions"], asked)
    both = None if None in states else tuple(states)
    books, found = Books(database, d["wallet_id"], d["as_of"]), None
    for instruments in _portfolios(database, d, rows):
        market = _market(database, settings, d, instruments, config, both)
        view = rebuilt_view(market, rows, instruments, books, d, settings.execution.no_trade_band)
        seen, same = matches(view, d["observation_hash"])
        if found is None or same:
            found = (instruments, view, seen, same)
        if same:
            break
    assert found is not None  # the decision's own portfolio is always tried
    instruments, view, seen, same = found
    n = [i.id for i in instruments].index(d["instrument_id"])
    told: Story = {"signals": _signals(view, n, len(instruments)), "residual": None}
    if d["model_id"] is not None:
        told["residual"] = {"observation_hash_matches": same} | _residual(
            database, settings, d, instruments, view, seen, n
        )
    return told


def _portfolios(database: Database, d: Row, rows: Sequence[Row]) -> list[list[Instrument]]:
    """The instruments in the order in which the decision saw them: the allow-list's, as it is now (an instrument
    without any price has no decision), else that of the decisions themselves."""
    queries, symbols = load_queries("explain"), d["symbols"] or []
    own = [row["instrument_id"] for row in rows]
    by_id = {i.id: i for i in database.fetch_rows(Instrument, queries["instruments"], {"ids": own})}
    listed = {i.symbol: i for i in database.fetch_rows(
        Instrument, load_queries("shared")["find_instruments"], {"venue": d["venue"], "symbols": symbols})}  # fmt: skip
    other = by_id[d["instrument_id"]]
    whole = [listed.get(symbol) or replace(other, id=0, symbol=symbol)
             for symbol in symbols]  # fmt: skip
    decided = [by_id[id_] for id_ in own]
    return [whole, decided] if {i.id for i in whole} >= set(own) else [decided]


def _market(database: Database, settings: Settings, d: Row, instruments: Sequence[Instrument],
            config: PolicyConfig | None, states: Any) -> Market:  # fmt: skip
    inputs = make_inputs(database, settings, instruments, d["track"], d["encoder_id"], d["as_of"], d["as_of"])
    vectors = np.zeros((len(instruments), 64), np.float32)
    if d["encoder_id"] is not None:
        t = to_unix(d["as_of"])
        found = read_embeddings(database, d["encoder_id"], [i.id for i in instruments],
                                settings.universe.decision_timeframe_s, t - 1, t)  # fmt: skip
        for n, instrument in enumerate(instruments):
            if len(found[instrument.id].as_of):
                vectors[n] = found[instrument.id].embedding[-1]
    return as_it_read(inputs.at(d["as_of"]), states, config, vectors)


def _signals(view: View, n: int, instruments: int) -> Story:
    """What trend × volatility target is made of."""
    volatility = float(view.market.volatility[n])
    full = full_weight(volatility, instruments, view.steering)
    return {
        "trend": float(view.market.trend[n]),
        "volatility": volatility,
        "ood": float(view.market.ood[n]),
        "instruments": instruments,
        "full_weight": full,
        "held_weight": float(view.book.weights(view.market.prices)[n]),
        "band": view.steering.band * min(full, view.steering.max_position),
        "drawdown": view.book.drawdown,
        "day_return": view.book.day_return,
        "steering": view.steering._asdict(),
        "steered_by": view.market.config.source,
        "steering_reasons": view.market.config.reasons,
    }


def _residual(database: Database, settings: Settings, d: Row, instruments: Sequence[Instrument], view: View, seen: Any,
              n: int) -> Story:  # fmt: skip
    terms = database.fetch_one(
        load_queries("explain")["promotion_then"], {"model_id": d["model_id"], "at": d["recorded_at"]}
    )
    try:
        model, encoder = (model_by_id(database, d[c]) for c in ("model_id", "encoder_id"))
    except ModelRefused as error:
        return {"refused": str(error)}
    policy = PolicyModel(model, encoder, *((terms["residual"], terms["verdict"]) if terms else ()))
    means, of = mean_observation(database, settings, policy, d, instruments, d["as_of"])
    parts = parts_of(policy, view, seen[n], n, means)
    return {
        "model_id": policy.id,
        "residual_scale": policy.residual_scale,
        "reach": policy.reach,
        "action": d["action"],
        "agreement": d["agreement"],
        "means_of": of,
        "wanted_by_model": parts["weight"].total,
        "parts": {kind: asdict(part) | {"remainder": part.remainder} for kind, part in parts.items()},
    }


def _order(database: Database, d: Row, now: datetime) -> Story | None:
    """The decision's order with its events and fills, each fill beside the close that it was sized at."""
    queries = load_queries("explain")
    order = database.fetch_one(queries["order_of_decision"], {"id": d["id"], "now": now})
    if order is None:
        return None
    sign = 1.0 if order["side"] == "buy" else -1.0
    fills = [
        fill | {"shortfall_bps": sign * (float(fill["price"]) / order["reference_price"] - 1.0) * 1e4}
        for fill in database.fetch(queries["fills_of_order"], {"id": order["id"]})
    ]
    return order | {"events": database.fetch(queries["events_of_order"], {"id": order["id"]}), "fills": fills}


def outcome_of(story: Story) -> str:
    """In one line: what was done, or the ONE reason why nothing was."""
    order, circumstances = story["order"], story["circumstances"]
    if order is None:
        return f"no order: {story['decision']['reason'].partition(': ')[2]}"
    what = f"{order['side']} {order['quantity'].normalize():f}"
    if order["fills"]:
        done = sum(fill["quantity"] for fill in order["fills"])
        return f"{what}: {done.normalize():f} filled in {len(order['fills'])} part(s)"
    if order["events"]:
        last = order["events"][-1]
        return f"{what}: {last['event']}, {last['detail']}"
    if circumstances["kill_file_now"]:
        return f"{what}: not sent, a KILL file says {circumstances['kill_file_now']}"
    if order["refusal"]:
        return f"{what}: not sent, and would be refused: {order['refusal']}"
    return f"{what}: written down, and waiting for the sender"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Why did it buy, and why did it not?")
    parser.add_argument("--decision", type=int)
    parser.add_argument("--symbol")
    parser.add_argument("--wallet")
    parser.add_argument("--at", type=time_argument, help="the decision that was in force then")
    parser.add_argument("--prompt", action="store_true", help="the language model's prompt and answer in full")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    a = parser.parse_args(argv)
    try:
        if (a.decision is None) == (a.symbol is None):
            raise UsageError("say which: DECISION=id, or SYMBOL=BASE/QUOTE [WALLET=] [AT=]")
        settings = load_settings()
        database = open_database(settings, "cli")
        try:
            now = open_clock(settings.clock_url).now()
            id_ = a.decision or find_decision(database, settings, a.symbol, a.wallet, a.at, now)
            story = explain(database, settings, id_, now)
        finally:
            database.close()
    except (SettingsError, UsageError) as error:
        print(error, file=sys.stderr)
        return 2
    except SextantError as error:
        print(error, file=sys.stderr)
        return 1
    if a.json:
        print(json.dumps(story, default=str, ensure_ascii=False))
    else:
        print_explanation(story, Console(width=WIDTH, highlight=False), prompt=a.prompt)
    return 0


if __name__ == "__main__":
    sys.exit(main())
