"""The whole loop in one command: candles, training on the first part, paper trading on the rest, the report.

Each step is the job that a schedule would run, called in process on a replayed clock. What exists is reused:
run it again after any interruption and it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from tqdm import tqdm

from candles import backfill
from candles.candle_files import FileRefused, read_candle_file, series_from_name
from candles.store import default_rules
from encoder import run_encoder, train_encoder
from encoder.dataset import LABEL_HORIZON_S
from meta_controller import run_metacontroller
from pipeline.operator import create_wallet, issue_command
from pipeline.replay import Databases, logged_in, replay
from policy import backtest, train_policy
from shared.clock import ReplayClock, SystemClock, floor_time, from_unix, to_unix
from shared.db import DatabaseError, load_queries
from shared.errors import SextantError
from shared.exchanges import Exchange, open_exchange
from shared.exchanges.recorded import RecordedExchange
from shared.features import WINDOW
from shared.job import Outcome, UsageError
from shared.kill_file import file_mandate
from shared.log import configure_logging
from shared.model_store import active_model
from shared.schema import bring_up
from shared.settings import TIMEFRAMES, Settings, SettingsError, load_settings

WALLET = "demo"
CAPITAL = 10_000.0
SIMULATED_SYMBOLS = ("SIM-BTC/USDT", "SIM-ETH/USDT")
SIMULATED_END = datetime(2026, 4, 14, tzinfo=UTC)  # a month in which a trend weakens: there is something to trade
DAYS = 180
KRAKEN_DAYS = 29  # of the 30 days of 1h candles that Kraken serves
TRADED_SHARE = 6  # the last sixth is traded: 30 of 180 days
LEAST_TRADED = timedelta(hours=36)
ENCODER_WINDOWS = 220  # of all symbols together: a few more than the encoder's least, for gaps
POLICY_DECISIONS = 204  # likewise
ENCODER_STEPS = 400  # the same training as any other, with fewer steps

console = Console()


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the candles come from, and the three spans: encoder trained on [start, encoder_to], policy on
    [policy_from, train_to], traded on [train_to, end]."""

    exchange: Exchange
    symbols: tuple[str, ...]
    base_timeframe: str
    start: datetime
    encoder_to: datetime
    policy_from: datetime
    train_to: datetime
    end: datetime


def plan_spans(
    exchange: Exchange, symbols: Sequence[str], base_timeframe: str, step_s: int, end: datetime, days: int
) -> Plan:
    """The last sixth is traded, half of the rest trains the encoder; less is traded where a short history leaves
    the encoder or the policy too little to learn from. UsageError where nothing would be left."""
    start, step = end - timedelta(days=days), timedelta(seconds=step_s)
    label_horizon = timedelta(seconds=LABEL_HORIZON_S)  # the encoder's labels look this far past its last window
    windows = math.ceil(ENCODER_WINDOWS / len(symbols))
    least_encoder = (WINDOW + windows) * step + label_horizon
    least_policy = POLICY_DECISIONS * step + label_horizon
    train_to = floor_time(max(end - timedelta(days=days) / TRADED_SHARE, start + least_encoder + least_policy), step_s)
    encoder_to = floor_time(
        max(start + least_encoder, min(start + (train_to - start) / 2, train_to - least_policy)), step_s
    )
    if end - train_to < LEAST_TRADED:
        least = math.ceil((least_encoder + least_policy + LEAST_TRADED) / timedelta(days=1))
        raise UsageError(f"{days} days are too few to train on and to trade: at least {least} are needed")
    return Plan(exchange, tuple(symbols), base_timeframe, start, encoder_to, encoder_to + label_horizon, train_to, end)


def plan_files(paths: Sequence[Path], days: int, settings: Settings, now: datetime) -> Plan:
    """Real candles from files of one venue and timeframe; the last ``days`` that all of them cover."""
    series, rules, kinds = {}, {}, set()
    for path in paths:
        kind = series_from_name(path, None, None, None)
        parsed = read_candle_file(path, kind.timeframe_s, to_unix(now))
        if parsed.refused:
            console.print(f"[yellow]{path.name}: refused {parsed.refused} rows: {parsed.refused_counts}[/]")
        if not len(parsed.candles):
            raise UsageError(f"{path.name} holds no usable candle")
        kinds.add((kind.venue, kind.timeframe_s))
        series[kind.symbol] = parsed.candles
    if len(kinds) != 1:
        raise UsageError(f"the files must be of one venue and timeframe; they are of {sorted(kinds)}")
    venue, base_s = kinds.pop()
    names = [name for name, seconds in TIMEFRAMES.items() if seconds == base_s]
    if not names or base_s > settings.universe.decision_timeframe_s:
        raise UsageError(
            f"{base_s} s candles cannot be traded on a {settings.universe.decision_timeframe} decision clock"
        )
    last = min(int(candles.as_of[-1]) for candles in series.values())
    end = floor_time(from_unix(last), settings.universe.decision_timeframe_s)
    first = to_unix(end - timedelta(days=days))
    series = {s: c[(c.as_of > first) & (c.as_of <= to_unix(end))] for s, c in series.items()}
    empty = [symbol for symbol, candles in series.items() if not len(candles)]
    if empty:
        raise UsageError(f"no candle of {', '.join(empty)} in the {days} days before {end}")
    rules = {symbol: default_rules(float(candles.close[0])) for symbol, candles in series.items()}
    exchange = RecordedExchange(venue, "real", base_s, series, rules)
    return plan_spans(exchange, list(series), names[0], settings.universe.decision_timeframe_s, end, days)


def plan_kraken(settings: Settings, now: datetime) -> Plan:
    """Real candles over the network: Kraken serves its latest 720, so the demo runs on 1h candles of 29 days."""
    venue, step_s = open_exchange("kraken", home=settings.home_path), TIMEFRAMES["1h"]
    end = floor_time(now, step_s)
    since, until = to_unix(end - timedelta(days=KRAKEN_DAYS)), to_unix(end)
    symbols = [venue.resolve(symbol) for symbol in settings.universe.symbols]
    series = {symbol: venue.candles(symbol, step_s, since, until) for symbol in symbols}
    rules = {symbol: venue.rules(symbol) for symbol in symbols}
    exchange = RecordedExchange("kraken", "real", step_s, series, rules)
    return plan_spans(exchange, symbols, "1h", step_s, end, KRAKEN_DAYS)


def make_plan(arguments: argparse.Namespace, settings: Settings) -> Plan:
    now = SystemClock().now()
    if arguments.data:
        return plan_files(arguments.data, arguments.days, settings, now)
    if arguments.venue == "kraken":
        return plan_kraken(settings, now)
    exchange, step_s = open_exchange("simulated"), settings.universe.decision_timeframe_s
    return plan_spans(exchange, SIMULATED_SYMBOLS, "5m", step_s, SIMULATED_END, arguments.days)


def run(plan: Plan, settings: Settings, progress: bool = True) -> Outcome:
    """The demo's steps, each reusing what an earlier run left."""
    _require_no_stop(settings)
    with logged_in(settings) as databases:
        _require_own_database(databases, plan)
        _prepare(plan, settings, databases, progress)
        _train(plan, settings, databases, progress)
        _open_wallet(plan, settings, databases)
        _trade(plan, settings, databases, progress)
        return _report(plan, settings, databases)


def _require_no_stop(settings: Settings) -> None:
    """A KILL file stops whatever trades beside it, a replayed past too: the paper wallet would not be the backtest."""
    if (stop := file_mandate(settings.home_path, WALLET)) is not None:
        raise UsageError(
            f"a KILL file in {settings.home_path} says {stop}, so nothing would be traded: lift it with `make resume "
            f"WALLET={WALLET} REASON=…` (or ALL=1), or run the demo with another SEXTANT_HOME"
        )


def _require_own_database(databases: Databases, plan: Plan) -> None:
    """The demo retires models and replays the past: it must not do so in a database that is used otherwise."""
    cli = databases["cli"]
    for wallet in cli.fetch(load_queries("cli")["wallet_overview"], {"now": plan.end}):
        venue, symbols = wallet["venue"], tuple(wallet["symbols"])
        if wallet["name"] != WALLET:
            raise UsageError(f"this database holds wallet {wallet['name']!r}; run the demo with another SEXTANT_HOME")
        opened = cli.fetch_one("SELECT min(at) AS at FROM cash_flows WHERE wallet_id = %(id)s", wallet)
        if (venue, symbols) != (plan.exchange.name, plan.symbols) or opened != {"at": plan.train_to}:
            raise UsageError(
                f"this database holds a demo of {', '.join(symbols)} on {venue} that trades from "
                f"{opened and opened['at']}; run `make db-reset` to begin another one"
            )


def _prepare(plan: Plan, settings: Settings, databases: Databases, progress: bool) -> None:
    symbols, span = ", ".join(plan.symbols), f"{plan.start:%Y-%m-%d} to {plan.train_to:%Y-%m-%d}"
    _step(1, f"candles of {symbols} on {plan.exchange.name}, {span}")
    clock = ReplayClock(plan.train_to)
    outcome = backfill.run_once(clock, databases["candles"], settings, plan.exchange, plan.start, progress)
    for symbol, result in outcome.result.items():
        _tell({symbol: result})


def _train(plan: Plan, settings: Settings, databases: Databases, progress: bool) -> None:
    clock = ReplayClock(plan.train_to)
    encoder, policy = databases["encoder"], databases["policy"]
    span = (plan.policy_from, plan.train_to)
    _step(2, f"the encoder learns from {plan.start:%Y-%m-%d} to {plan.encoder_to:%Y-%m-%d}")
    if not _trained(databases, "encoder", plan.start, plan.encoder_to):
        outcome = train_encoder.run_once(clock, encoder, settings, plan.start, plan.encoder_to, progress)
        _tell(outcome.result)
    _step(3, f"embeddings and regime of {plan.policy_from:%Y-%m-%d} to {plan.train_to:%Y-%m-%d}, which it has not seen")
    _tell(run_encoder.run_once(clock, encoder, settings, span).result)
    _tell(run_metacontroller.run_once(clock, databases["meta_controller"], settings, span).result)
    _step(4, "the policy learns from them")
    if not _trained(databases, "policy", *span):
        _tell(train_policy.run_once(clock, policy, settings, *span, progress).result)


def _trained(databases: Databases, kind: str, first: datetime, last: datetime) -> bool:
    model = active_model(databases["cli"], kind)
    done = model is not None and (model.trained_from, model.trained_to) == (first, last)
    if done:
        console.print("   trained already; `make db-reset` forgets it")
    return done


def _open_wallet(plan: Plan, settings: Settings, databases: Databases) -> None:
    cli, at = databases["cli"], plan.train_to
    create_wallet(cli, settings, at, WALLET, plan.exchange.name, plan.symbols, CAPITAL)
    issue_command(cli, at, WALLET, "resume", "the demo begins", "demo", "demo-begins")


def _trade(plan: Plan, settings: Settings, databases: Databases, progress: bool) -> None:
    days = (plan.end - plan.train_to).days
    _step(5, f"{days} days traded on paper, candle by candle, to {plan.end:%Y-%m-%d}")
    limits = {"first": plan.train_to, "last": plan.end + timedelta(days=1)}
    row = databases["cli"].fetch_one(load_queries("cli")["last_demo_tick"], limits)
    base_s = settings.universe.base_timeframe_s
    first = floor_time(row["at"], base_s) if row and row["at"] else plan.train_to
    ticks = (to_unix(plan.end) - to_unix(plan.train_to)) // base_s + 1
    done = (to_unix(first) - to_unix(plan.train_to)) // base_s
    with tqdm(total=ticks, initial=done, desc="   trading", unit=" candles", disable=not progress) as bar:
        replay(first, plan.end, databases, settings, plan.exchange, after_tick=lambda _: bar.update())


def _report(plan: Plan, settings: Settings, databases: Databases) -> Outcome:
    _step(6, "the report: the same span through the backtest, which must agree with the paper wallet")
    policy, clock = databases["policy"], ReplayClock(plan.end)
    wallet = backtest.find_wallet(policy, plan.end, WALLET)
    path = settings.home_path / "reports" / "demo.html"
    request = backtest.Request(wallet, plan.train_to, plan.end, CAPITAL, "operator", rearm_days=None)  # as the trader
    outcome = backtest.run_once(clock, policy, settings, request, path)
    cli, queries = databases["cli"], load_queries("cli")
    counts = cli.fetch_one(queries["spine_counts"]) or {}
    rows = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    console.print(f"rows in the database: {rows}", highlight=False)
    paper = next(w for w in cli.fetch(queries["wallet_overview"], {"now": plan.end}) if w["name"] == WALLET)
    tested = outcome.result["final_equity"]
    agree = abs(float(paper["equity"]) - tested) < 1e-6
    console.print(
        f"paper wallet {paper['equity']:,.2f}, backtest {tested:,.2f}: {'the same' if agree else 'NOT THE SAME'}"
    )
    if plan.exchange.provenance == "simulated":
        console.print('[yellow]The market was SIMULATED; for real candles: make demo DATA="FILE …"[/]')
    console.print(f"report: {path}\nnext: make status · make backtest · make schedule")
    return Outcome("done" if agree else "refused", outcome.result)


def _step(number: int, what: str) -> None:
    console.print(f"[bold]{number}/6[/] {what}", highlight=False)


def _tell(result: Mapping[str, Any]) -> None:
    """A job's result as one indented paragraph instead of a dict."""

    def said(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{name} {said(inner)}" for name, inner in value.items())
        return f"{value:,}" if isinstance(value, int) else str(value)

    text = " · ".join(f"{name.replace('_', ' ')} {said(value)}" for name, value in result.items())
    console.print(Padding(text, (0, 0, 0, 4)), highlight=False)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The whole loop: candles, training, paper trading, report.")
    parser.add_argument("--data", nargs="+", type=Path, help="candle files of one venue (default: the simulated venue)")
    parser.add_argument("--days", type=int, default=DAYS, help="the last days of the data used; a sixth is traded")
    parser.add_argument("--venue", choices=("simulated", "kraken"), default="simulated")
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings()
        configure_logging("WARNING")
        plan = make_plan(arguments, settings)
        names = {"venue": plan.exchange.name, "symbols": plan.symbols, "base_timeframe": plan.base_timeframe}
        steps = min(settings.encoder.train_steps, ENCODER_STEPS)
        settings = settings.model_copy(
            update={
                "universe": settings.universe.model_copy(update=names),
                "encoder": settings.encoder.model_copy(update={"train_steps": steps, "train_on": ()}),
            }
        )
        bring_up(settings)
        return 0 if run(plan, settings).status == "done" else 1
    except (SettingsError, UsageError, FileRefused) as error:
        console.print(f"[red]{error}[/]")
        return 2
    except (SextantError, DatabaseError) as error:
        console.print(f"[red]{error}[/]\nnothing is lost: `make demo` goes on where this stopped")
        return 1


if __name__ == "__main__":
    sys.exit(main())
