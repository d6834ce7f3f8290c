"""Backtest: the trader's own functions over a past span, beside buy-and-hold, the baseline and cash.

Input: the same rows the trader reads. Output: a table, an HTML report with CSV, one row of backtests.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from psycopg.types.json import Json

from policy.book import HistoryKeeper, make_book
from policy.decision_path import Act, Circumstances, Decision, decide
from policy.execution.plan import TradingRules
from policy.inputs import Inputs, timestamps
from policy.policy_model import PolicyModel, load_policy
from policy.report import terminal_table, write_report
from policy.result import BacktestResult, Curve
from policy.risk.context import NO_LIMITS, OperatorLimits
from policy.run_trader import doubts_without_policy, operator_limits, trading_rules
from policy.simulator import BarGrid, Costs, SimulatedFill, Simulator
from shared.clock import Clock, to_unix
from shared.db import Database, load_queries
from shared.job import Context, JobError, Outcome, UsageError, job, job_parser, run_job_command
from shared.market_data import find_instruments, read_candles
from shared.metrics import summarise
from shared.money import to_float
from shared.rows import Instrument, IntArray
from shared.settings import Settings

DEFAULT_CAPITAL = 10_000.0


@dataclass(frozen=True, slots=True)
class Request:
    """What to run: the wallet whose portfolio, track and costs count, the span, and on what terms."""

    wallet: Mapping[str, Any]
    first: datetime
    last: datetime
    capital: float
    limits: str  # 'operator' or 'off'
    in_sample: bool = False


@dataclass(frozen=True, slots=True)
class BookPath:
    """One simulated book from first to last."""

    curve: Curve
    decision_times: list[datetime]
    decisions: list[Decision]
    fills: list[SimulatedFill]


class Laboratory:
    """Everything a backtest reads, loaded once; each strategy then runs on it."""

    def __init__(self, database: Database, settings: Settings, request: Request) -> None:
        self.settings, self.request = settings, request
        wallet, step_s = request.wallet, settings.universe.decision_timeframe_s
        self.instruments: list[Instrument] = find_instruments(database, wallet["venue"], wallet["symbols"])
        self.policy: PolicyModel | None = load_policy(database, wallet["symbols"], step_s)
        self.in_sample = _require_known(self.policy, request)
        self.operator: OperatorLimits = operator_limits(settings) if request.limits == "operator" else NO_LIMITS
        self.rules: TradingRules = trading_rules(
            self.instruments, settings, wallet["max_order_notional"] if request.limits == "operator" else None
        )
        self.inputs = Inputs(
            database,
            self.instruments,
            step_s,
            wallet["track"],
            self.policy.encoder_id if self.policy else None,
            operator_limits(settings),
            request.first,
            request.last,
            settings.execution.stale_after_s,
            ignore_known_from=request.in_sample,
        )
        base_s = max(i.base_timeframe_s for i in self.instruments)
        start, end = to_unix(request.first), to_unix(request.last)
        series = [read_candles(database, i.id, base_s, start, end) for i in self.instruments]
        self.grid = BarGrid.of(series, base_s, start, end)
        if not len(self.grid.open) or np.isnan(self.grid.open).all():
            raise JobError(f"no candles of {', '.join(wallet['symbols'])} from {request.first} to {request.last}")
        self.times = timestamps(request.first, request.last, step_s)

    def simulator(self) -> Simulator:
        wallet = self.request.wallet
        costs = Costs(float(wallet["taker_fee_bps"]), float(wallet["slippage_bps"]))
        delay_s, step_s = self.settings.execution.delay_s, self.settings.universe.decision_timeframe_s
        return Simulator(self.grid, self.rules, costs, delay_s, step_s, self.request.capital)

    def run(self, name: str, act: Act | None) -> BookPath:
        """The decision path over the span; ``act`` None is the baseline."""
        simulator, history = self.simulator(), HistoryKeeper(self.request.capital)
        times, decisions = [], []
        for as_of in self.times:
            simulator.advance_to(as_of)
            market = self.inputs.at(as_of)
            if not market.tradable.any() or np.isnan(market.prices).any():
                continue
            if self.request.limits == "off":
                market = replace(
                    market, config=replace(market.config, max_drawdown=1.0, daily_loss_limit=1.0, pause=False)
                )
            book = make_book(as_of, simulator.cash, simulator.held.copy(), market.prices, history.before(as_of))
            circumstances = Circumstances(
                operator=self.operator,
                rules=self.rules,
                in_flight=simulator.in_flight,
                tradable=market.tradable,
                wallet_paused=False,
                doubts=market.doubts if act else doubts_without_policy(market),
            )
            decision = decide(market.view(book), act, circumstances)
            simulator.place(decision.plan.quantity, as_of)
            history.record(as_of, book.equity)
            times.append(as_of)
            decisions.append(decision)
        simulator.advance_to(self.request.last)
        return BookPath(self._curve(name, simulator), times, decisions, simulator.fills)

    def buy_and_hold(self) -> Curve:
        """Equal values of every instrument bought at the first fill, and held; the wallet's costs."""
        simulator, prices = self.simulator(), self.inputs.at(self.times[0]).prices
        share = 0.99 * self.request.capital / len(prices)  # the rest covers fee and slippage
        simulator.reset(0)
        simulator.place(np.nan_to_num(np.floor(share / prices / self.rules.lot) * self.rules.lot), self.times[0])
        simulator.advance_to(self.request.last)
        return self._curve("buy and hold", simulator)

    def cash(self) -> Curve:
        times = self.curve_times()
        return Curve("cash", times, np.full(len(times), self.request.capital))

    def curve_times(self) -> IntArray:
        """The start, where everything is cash, then each bar's close."""
        return self.grid.start + self.grid.base_s * np.arange(len(self.grid.open) + 1, dtype=np.int64)

    def _curve(self, name: str, simulator: Simulator) -> Curve:
        equity = np.r_[self.request.capital, simulator.equity_by_bar]
        return Curve(name, self.curve_times(), equity, simulator.fees, simulator.traded, len(simulator.fills))


def _require_known(policy: PolicyModel | None, request: Request) -> str:
    """Why the span is in-sample ('' when it is not); UsageError unless the caller asked to see it all the same."""
    if policy is None or policy.known_from <= request.first:
        return ""
    problem = (
        f"policy model {policy.id} was trained on candles up to {policy.model.trained_to:%Y-%m-%d %H:%M} and is known "
        f"only from {policy.known_from:%Y-%m-%d %H:%M}; the span starts at {request.first:%Y-%m-%d %H:%M}"
    )
    if not request.in_sample:
        raise UsageError(f"{problem}. Start later, or pass --in-sample to see a result that proves nothing")
    return problem


def run_backtest(database: Database, settings: Settings, request: Request) -> BacktestResult:
    lab = Laboratory(database, settings, request)
    own = lab.run("policy" if lab.policy else "baseline (no model)", lab.policy.act if lab.policy else None)
    curves = [own.curve, lab.buy_and_hold(), lab.cash()]
    if lab.policy:
        curves.insert(1, lab.run("trend × volatility target", None).curve)
    return BacktestResult(
        curves=curves,
        symbols=[i.symbol for i in lab.instruments],
        closes=np.vstack([np.full(len(lab.instruments), np.nan), lab.grid.close]),
        decision_times=own.decision_times,
        decisions=own.decisions,
        fills=own.fills,
        provenance="simulated" if any(i.provenance == "simulated" for i in lab.instruments) else "real",
        in_sample=lab.in_sample,
        terms=_terms(lab),
    )


def _terms(lab: Laboratory) -> dict[str, str]:
    request, execution = lab.request, lab.settings.execution
    wallet = request.wallet
    return {
        "span": f"{request.first:%Y-%m-%d %H:%M} to {request.last:%Y-%m-%d %H:%M} UTC",
        "capital": f"{request.capital:,.2f} {wallet['quote']}",
        "portfolio": f"{', '.join(wallet['symbols'])} on {wallet['venue']}",
        "costs": f"fee {float(wallet['taker_fee_bps']):g} + slippage {float(wallet['slippage_bps']):g} bps a side",
        "fills": f"open of the first {lab.grid.base_s} s candle {execution.delay_s} s or more after the decision",
        "limits": request.limits,
        "config": f"recorded, track {wallet['track']}",
        "models": f"policy {lab.policy.id} on encoder {lab.policy.encoder_id}" if lab.policy else "none: the baseline",
    }


@job("backtest")
def run_once(clock: Clock, database: Database, settings: Settings, request: Request, path: Path) -> Outcome:
    """Runs, prints the table, writes the report to ``path`` and the row to backtests."""
    result = run_backtest(database, settings, request)
    summaries = {c.name: asdict(summarise(c.times, c.equity, c.traded, c.fees, c.trades)) for c in result.curves}
    write_report(result, path)
    row = {
        "span_from": request.first,
        "span_to": request.last,
        "parameters": Json(result.terms | {"wallet": request.wallet["name"]}),
        "in_sample": bool(result.in_sample),
        "metrics": Json(summaries),
        "recorded_at": clock.now(),
    }
    inserted = database.fetch_one(load_queries("policy")["insert_backtest"], row)
    print(terminal_table(result))
    print(f"report: {path}")
    final = float(result.curves[0].equity[-1])
    return Outcome(
        "done", {"backtest_id": inserted["id"] if inserted else None, "final_equity": final, "report": str(path)}
    )


def find_wallet(database: Database, now: datetime, name: str | None) -> Mapping[str, Any]:
    wallets = database.fetch(load_queries("policy")["wallets"], {"now": now})
    chosen = [w for w in wallets if name in (None, w["name"])]
    if len(chosen) != 1:
        names = ", ".join(w["name"] for w in wallets) or "none: run `make demo` or `make wallet`"
        raise UsageError(f"which wallet? Pass --wallet; there are: {names}")
    return chosen[0]


def _command(context: Context) -> Outcome:
    arguments, settings, database = context.arguments, context.settings, context.database
    queries, now = load_queries("policy"), context.clock.now()
    wallet = find_wallet(database, now, arguments.wallet)
    step_s = settings.universe.decision_timeframe_s
    instruments = find_instruments(database, wallet["venue"], wallet["symbols"])
    newest = database.fetch_one(
        queries["newest_candle"], {"instrument_ids": [i.id for i in instruments], "timeframe_s": step_s, "now": now}
    )
    last: datetime | None = arguments.span_to or (newest["last"] if newest else None)
    policy = load_policy(database, wallet["symbols"], step_s)
    first: datetime | None = arguments.span_from or (policy.known_from if policy else None)
    if first is None or last is None or not first < last:
        raise UsageError(f"no span to test: from {first} to {last}; pass --from and --to")
    row = database.fetch_one(queries["wallet_capital"], {"wallet_id": wallet["id"]})
    capital = arguments.capital or (to_float(row["capital"]) if row else 0.0) or DEFAULT_CAPITAL
    request = Request(wallet, first, last, capital, arguments.limits, arguments.in_sample)
    path = arguments.report or settings.home_path / "reports" / f"backtest_{first:%Y%m%dT%H%M}_{last:%Y%m%dT%H%M}.html"
    return run_once(context.clock, database, settings, request, path)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Run the trader's own functions over a past span.", span=True)
    parser.add_argument("--wallet", help="whose portfolio, track and costs (default: the only one)")
    parser.add_argument("--capital", type=float, help="starting cash (default: what was paid into the wallet)")
    parser.add_argument("--limits", choices=("operator", "off"), default="operator")
    parser.add_argument("--in-sample", action="store_true", help="allow, and mark, a span the models were trained on")
    parser.add_argument("--report", type=Path, help="where to write the HTML")
    return run_job_command("policy", parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
