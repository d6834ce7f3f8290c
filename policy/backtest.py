"""Backtest: the trader's own functions over a past span, beside every other registered strategy.

Input: the same rows the trader reads. Output: a table, an HTML report with CSV, one row of backtests.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from psycopg.types.json import Json

from policy.exits import exit_rules
from policy.laboratory import MARKET_ONLY, BookPath, Laboratory, Request
from policy.policy_model import load_policy
from policy.result import BacktestResult, Curve, Shifts
from policy.shifted_weights import draw_shifts, run_shifts, too_short
from policy.strategies import BASELINE, STRATEGIES
from shared.clock import Clock
from shared.db import Database, load_queries
from shared.job import Context, Outcome, UsageError, job, job_parser, run_job_command
from shared.market_data import find_instruments
from shared.money import to_float
from shared.performance import attribute, summarise
from shared.performance.metrics import daily_returns
from shared.settings import Settings

__all__ = ["Laboratory", "Request", "find_wallet", "run_backtest", "run_once"]

DEFAULT_CAPITAL = 10_000.0
POLICY, RANDOM = "drl", "random"
NAMES = {
    BASELINE: "trend × volatility target",
    "vol_target": "volatility target",
    "min_variance": "minimum variance",
    "buy_and_hold": "buy and hold",
    "rebalanced_hold": "rebalanced hold",
    "cash": "cash",
}
BENCHMARK = NAMES["buy_and_hold"]


def run_backtest(database: Database, settings: Settings, request: Request) -> BacktestResult:
    """Runs what is asked for; the same request gives the same result. UsageError for a strategy nobody registered."""
    strategies = (*STRATEGIES, RANDOM)
    if request.strategy not in ("", *strategies):
        raise UsageError(f"no strategy {request.strategy!r}; there are {', '.join(strategies)}")
    lab = Laboratory(database, settings, request)
    own = _own(lab)
    others = [] if request.strategy else [_run(lab, name).curve for name in STRATEGIES if name != POLICY]
    shifts, refused = _shifts(lab, own)
    regimes = [market.states[1].regime if market.states else "" for _, market in lab.moments]
    return BacktestResult(
        curves=[own.curve, *others],
        symbols=[i.symbol for i in lab.instruments],
        closes=np.vstack([np.full(len(lab.instruments), np.nan), lab.grid.close]),
        decision_times=own.decision_times,
        decisions=own.decisions,
        fills=own.fills,
        provenance="simulated" if any(i.provenance == "simulated" for i in lab.instruments) else "real",
        in_sample=lab.in_sample,
        terms=_terms(lab, own),
        closing=own.closing,
        regimes=regimes if own.decisions else (),
        emergency_stops=own.emergency_stops,
        shifts=shifts,
        steering=lab.policy.model.metrics.get("steering") if lab.policy else None,
        promotion=(lab.policy.id, lab.policy.residual_scale, lab.policy.verdict)
        if lab.policy and lab.policy.verdict
        else None,
        shifts_refused=refused,
        contributions=contributions(own, [i.symbol for i in lab.instruments]),
    )


def _own(lab: Laboratory) -> BookPath:
    """What the request asks for; the wallet's policy, or the baseline where there is no model, unless a rule."""
    if lab.request.strategy not in ("", POLICY, RANDOM):
        return _run(lab, lab.request.strategy)
    return lab.trade("policy", lab.policy.act) if lab.policy else lab.trade("baseline (no model)", None)


def _run(lab: Laboratory, strategy: str) -> BookPath:
    """A strategy by itself: without limits where it looks at the market only, else through the decision path."""
    name = NAMES.get(strategy, strategy)
    if strategy in MARKET_ONLY:
        return lab.rule(strategy, name)
    return lab.trade(name, lab.policy.act if lab.policy else None, only=strategy)


def _shifts(lab: Laboratory, own: BookPath) -> tuple[Shifts | None, str]:
    """Of the policy's weights: (None, why) where they cannot be shifted."""
    if not own.decisions or not lab.request.shifts:
        return None, ""
    times = lab.occasions.times
    if refused := too_short(times, lab.step_s):
        return None, refused
    drawn = draw_shifts(len(times), lab.step_s, lab.request.shifts, lab.request.seed)
    return run_shifts(lab.weight_paths(), own.allowed, times, lab.costs, drawn)[0], ""


def contributions(own: BookPath, symbols: list[str]) -> dict[str, float]:
    """Each instrument's profit in quote, net of costs, the closing included; they sum to the change of equity."""
    found = attribute([*own.fills, *own.closing], marks={})
    return {symbols[part.instrument]: float(part.profit) for part in found}


# ── the terms, in words ──────────────────────────────────────────────────────────────────────────────────────
def _terms(lab: Laboratory, own: BookPath) -> dict[str, str]:
    request, wallet = lab.request, lab.request.wallet
    terms = {
        "span": f"{request.first:%Y-%m-%d %H:%M} to {request.last:%Y-%m-%d %H:%M} UTC",
        "capital": f"{request.capital:,.2f} {wallet['quote']}",
        "portfolio": f"{', '.join(wallet['symbols'])} on {wallet['venue']}",
        "costs": _costs(lab),
        "fills": f"open of the first {lab.grid.base_s} s candle {lab.delay_s} s or more after the decision"
        + ("" if request.delay_s is None else f" (given; the wallet's is {lab.settings.execution.delay_s} s)"),
        "limits": _limits(lab, own),
        "config": _config(lab),
        "models": f"policy {lab.policy.id} on encoder {lab.policy.encoder_id}" if lab.policy else "none",
        "end": _end(own, str(wallet["quote"])),
    }
    if lab.policy and lab.policy.residual_scale == 0.0:
        terms["promotion"] = "baseline wins: the residual counts zero, the baseline trades"
    if lab.exits.any:
        terms["brackets"] = _brackets(lab)
    if lab.averages:
        terms["averaging"] = _averaging(lab)
    return terms


def _brackets(lab: Laboratory) -> str:
    """What entries of the first book are left at, and what of it is not simulated."""
    exits = lab.exits
    named = (("stop", exits.stop), ("target", exits.target))
    said = " and ".join(f"{what} at {share:.3g}" for what, share in named if share)
    said = f"{said} of the price at entry" if said else "none simulated"
    if exits.tightens:
        said += ", the stop nearer where the trend is weak"
    if exits.trail:
        said += f"; the trailing stop of {exits.trail:.3g} is not simulated"
    if lab.request.given_exits not in (None, exit_rules(lab.settings.exits)):
        return f"{said}; an experiment, not placed by the trader"
    return f"{said}; as the trader places them ([exits]), the rules beside it have none"


def _averaging(lab: Laboratory) -> str:
    exits = lab.settings.exits
    levels = ", ".join(f"{level:g}" for level in exits.averaging_levels)
    return f"at {levels} below the first entry, each buy {exits.averaging_multiplier:g} × the one before"


def _costs(lab: Laboratory) -> str:
    """Fee and half spread a side, and the impact; what the wallet's own are where others were given."""
    request, wallet, costs = lab.request, lab.request.wallet, lab.costs
    said = f"fee {costs.fee_bps:g} + half spread {costs.slippage_bps:g} bps a side, impact {costs.impact:g}"
    asked = (request.fee_bps, request.slippage_bps, request.impact)
    if all(value is None for value in asked):
        return said
    own = (float(wallet[name]) for name in ("taker_fee_bps", "slippage_bps", "impact"))
    return f"{said} (given; the wallet's are " + ", ".join(f"{value:g}" for value in own) + ")"


def _limits(lab: Laboratory, own: BookPath) -> str:
    request = lab.request
    if not own.decisions or request.limits == "off":
        return "off"
    after = "last" if request.rearm_days is None else f"re-arm after {request.rearm_days:g} days"
    return f"{request.limits}; emergency stops: {own.emergency_stops} (they {after})"


def _config(lab: Laboratory) -> str:
    match lab.request.config:
        case "static":
            return "static: the operator's own steering"
        case "rules":
            return "rules: as recorded on track rules"
    return f"recorded, track {lab.request.wallet['track']}"


def _end(own: BookPath, quote: str) -> str:
    if not own.closing:
        return "nothing was open"
    left, marked = float(own.curve.equity[-1]), own.curve.last_marked
    return (
        f"{len(own.closing)} open positions sold and charged: {left:,.2f} {quote} of {marked:,.2f} at the last prices"
    )


# ── the job ──────────────────────────────────────────────────────────────────────────────────────────────────
@job("backtest")
def run_once(clock: Clock, database: Database, settings: Settings, request: Request, path: Path | None) -> Outcome:
    """Runs, prints the table, writes the row to backtests and the report to ``path``, None for no report.

    ``final_equity`` of the outcome is at the last prices, as the paper wallet shows it; ``closed_equity`` is what is
    left once everything is sold and charged, which is what the figures count."""
    from policy.report import terminal_table, write_report

    result = run_backtest(database, settings, request)
    row = {
        "span_from": request.first,
        "span_to": request.last,
        "parameters": Json(result.terms | {"wallet": request.wallet["name"]}),
        "in_sample": bool(result.in_sample),
        "metrics": Json(_summaries(result)),
        "recorded_at": clock.now(),
    }
    inserted = database.fetch_one(load_queries("policy")["insert_backtest"], row)
    print(terminal_table(result))
    if path is not None:
        write_report(result, path)
        print(f"report: {path}")
    own = result.curves[0]
    return Outcome(
        "done",
        {
            "backtest_id": inserted["id"] if inserted else None,
            "final_equity": own.last_marked,
            "closed_equity": float(own.equity[-1]),
            "emergency_stops": result.emergency_stops,
            "report": str(path) if path else None,
        },
    )


def _summaries(result: BacktestResult) -> dict[str, Any]:
    held = next((daily_returns(c.times, c.equity) for c in result.curves if c.name == BENCHMARK), None)

    def one(curve: Curve) -> dict[str, Any]:
        figures = summarise(
            curve.times, curve.equity, curve.traded, curve.fees, curve.trades, slippage=curve.slippage,
            benchmark=None if curve.name == BENCHMARK else held,
        )  # fmt: skip
        return asdict(figures)

    found = {curve.name: one(curve) for curve in result.curves}
    if result.shifts:
        shifted = result.shifts
        found["random"] = {
            "shifts": len(shifted.returns),
            "percentile": shifted.percentile,
            "median_return": float(np.median(shifted.returns)),
        }
    return found


def find_wallet(database: Database, now: datetime, name: str | None) -> Mapping[str, Any]:
    """The wallet of that name, or the only one, with what a Request needs of it; UsageError where it is not clear."""
    queries = load_queries("policy")
    wallets = database.fetch(queries["wallets"], {"now": now})
    chosen = [w for w in wallets if name in (None, w["name"])]
    if len(chosen) != 1:
        names = ", ".join(w["name"] for w in wallets) or "none: run `make demo` or `make wallet`"
        raise UsageError(f"which wallet? Pass --wallet; there are: {names}")
    (wallet,) = chosen
    impact = database.fetch_one(queries["wallet_impact"], {"wallet_id": wallet["id"]})
    return {**wallet, **(impact or {})}


def _command(context: Context) -> Outcome:
    arguments, settings, database = context.arguments, context.settings, context.database
    wallet = find_wallet(database, context.clock.now(), arguments.wallet)
    first, last = _span(context, wallet)
    row = database.fetch_one(load_queries("policy")["wallet_capital"], {"wallet_id": wallet["id"]})
    capital = arguments.capital or (to_float(row["capital"]) if row else 0.0) or DEFAULT_CAPITAL
    request = Request(
        wallet, first, last, capital, arguments.limits, arguments.in_sample, arguments.config, arguments.strategy,
        arguments.delay, arguments.fee, arguments.slippage, arguments.impact, arguments.stop, arguments.target,
    )  # fmt: skip
    name = f"backtest_{first:%Y%m%dT%H%M}_{last:%Y%m%dT%H%M}.html"
    path = arguments.report or settings.home_path / "reports" / name
    return run_once(context.clock, database, settings, request, None if arguments.no_report else path)


def _span(context: Context, wallet: Mapping[str, Any]) -> tuple[datetime, datetime]:
    """As given; else from when the model is known, for a rule from the first candle on, to the newest candle."""
    arguments, database = context.arguments, context.database
    step_s = context.settings.universe.decision_timeframe_s
    ids = [i.id for i in find_instruments(database, wallet["venue"], wallet["symbols"])]
    stored = {"instrument_ids": ids, "timeframe_s": step_s, "now": context.clock.now()}
    first, last = arguments.span_from, arguments.span_to
    if last is None:
        last = _only(database, "newest_candle", stored, "last")
    if first is None:
        policy = None if arguments.strategy in MARKET_ONLY else load_policy(database, step_s)
        first = policy.known_from if policy else _only(database, "oldest_candle", stored, "first")
    if first is None or last is None or not first < last:
        raise UsageError(f"no span to test: from {first} to {last}; pass --from and --to")
    return first, last


def _only(database: Database, query: str, params: Mapping[str, Any], column: str) -> datetime | None:
    row = database.fetch_one(load_queries("policy")[query], params)
    return row[column] if row else None


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < 1.0:
        raise ValueError
    return value


def _cost(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 500.0:
        raise ValueError
    return value


def _parser() -> ArgumentParser:
    parser = job_parser("Run the trader's own functions over a past span.", span=True)
    parser.add_argument("--wallet", help="whose portfolio, track and costs (default: the only one)")
    parser.add_argument("--capital", type=float, help="starting cash (default: what was paid into the wallet)")
    parser.add_argument("--strategy", default="", help="run one alone: " + ", ".join((*STRATEGIES, RANDOM)))
    parser.add_argument(
        "--limits", choices=("operator", "off"), default="operator", help="of the policy; rules have none"
    )
    parser.add_argument(
        "--config",
        choices=("recorded", "rules", "static"),
        default="recorded",
        help="the steering: of the wallet's track, of track rules, or the operator's own",
    )
    parser.add_argument("--delay", type=int, help="seconds from the decision to the earliest fill")
    parser.add_argument("--fee", type=_cost, help="bps a side (default: the wallet's, as for the next two)")
    parser.add_argument("--slippage", type=_cost, help="half the spread, bps")
    parser.add_argument("--impact", type=float, help="of the square-root law, about 1")
    parser.add_argument("--stop", type=_share, help="leave so far below the entry, as 0.05 (default: [exits])")
    parser.add_argument("--target", type=_share, help="leave so far above the entry (default: [exits])")
    parser.add_argument("--in-sample", action="store_true", help="allow, and mark, a span the models were trained on")
    parser.add_argument("--report", type=Path, help="where to write the HTML")
    parser.add_argument("--no-report", action="store_true", help="the table only")
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_job_command("policy", _parser(), _command, argv)


if __name__ == "__main__":
    sys.exit(main())
