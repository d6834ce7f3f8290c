"""The hourly job: market_data → market_state and policy_config, on the tracks ``rules`` and ``live``.

    python -m meta_controller.run_metacontroller [--at TIME | --from TIME --to TIME]

One call an as_of, from the last WINDOW_BARS closes up to it and from nothing else; the batch pass calls the
same function for every as_of, so it writes the rows that hourly runs would have written.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from psycopg.types.json import Jsonb

from meta_controller.bounds import check
from meta_controller.controller import Controller, MarketWindow, Proposal
from meta_controller.market_index import WINDOW_BARS, NoCall, ShortHistory, close_grid, index_returns
from meta_controller.rules import Rules
from shared.alerts import raise_alert
from shared.clock import Clock, floor_time, from_unix, to_unix
from shared.db import Database, load_queries
from shared.job import Context, JobError, Outcome, UsageError, job, job_parser, run_job_command
from shared.market_data import UnknownInstrument, find_instruments, read_candles
from shared.rows import FloatArray, MarketState, PolicyConfig
from shared.settings import Settings, UniverseSettings

Span = tuple[datetime, datetime]

TRACKS = ("rules", "live")  # live follows the rules, until something better has earned a weight
CONFIG_VALID_BARS = 3  # one call may be missed and the next be late before the steering expires


@job("run_metacontroller")
def run_once(clock: Clock, database: Database, settings: Settings, span: Span | None = None) -> Outcome:
    """Calls the newest closed bar, or with ``span`` every close in [from, to].

    UsageError for a span that reaches into the future; JobError for a universe without candles.
    """
    step_s = settings.universe.decision_timeframe_s
    first, last = _moments(clock.now(), step_s, span)
    closes = _read_closes(database, settings.universe, first - (WINDOW_BARS - 1) * step_s, last)
    controller = Rules(settings.risk)
    rows, skipped = Rows([], []), list[NoCall]()
    for n, as_of in enumerate(range(first, last + 1, step_s)):
        try:
            returns, instruments = index_returns(closes[:, n : n + WINDOW_BARS])
        except NoCall as reason:
            skipped.append(reason)
            continue
        rows.add(controller, MarketWindow(from_unix(as_of), step_s, returns, instruments))
    _alert_of_short_history(database, clock, skipped)
    return _outcome(_write(database, rows, clock.now()), len(rows.configs) // len(TRACKS), skipped)


def _moments(now: datetime, step_s: int, span: Span | None) -> tuple[int, int]:
    """The first and the last close to call, in Unix seconds."""
    if span is None:
        newest = to_unix(floor_time(now, step_s))
        return newest, newest
    if span[1] > now:
        raise UsageError(
            f"--to {span[1].isoformat()} has not come yet (now is {now.isoformat()}); choose a past moment"
        )
    if span[0] > span[1]:
        raise UsageError(f"--from {span[0].isoformat()} lies after --to {span[1].isoformat()}; swap them")
    return -(-to_unix(span[0]) // step_s) * step_s, to_unix(floor_time(span[1], step_s))


def _read_closes(database: Database, universe: UniverseSettings, first: int, last: int) -> FloatArray:
    """The universe's closes on the grid first, …, last: shape (instruments, bars), NaN where missing."""
    step_s = universe.decision_timeframe_s
    try:
        instruments = find_instruments(database, universe.venue, universe.symbols)
    except UnknownInstrument as error:
        raise JobError(str(error)) from None
    series = [read_candles(database, one.id, step_s, first - 1, last) for one in instruments]
    return close_grid(series, first, step_s, (last - first) // step_s + 1)


@dataclass(frozen=True, slots=True)
class Rows:
    """What one run is to write."""

    states: list[MarketState]
    configs: list[PolicyConfig]

    def add(self, controller: Controller, window: MarketWindow) -> None:
        """Asks ``controller`` about ``window``; JobError if what it says is out of bounds."""
        proposal = controller.propose(window)
        if problems := check(proposal):
            raise JobError(f"{controller.source} at {window.as_of.isoformat()} is out of bounds: {'; '.join(problems)}")
        for track in TRACKS:
            self.states.extend(state_rows(proposal, controller.source, track, window))
            self.configs.append(config_row(proposal, controller.source, track, window))


def state_rows(proposal: Proposal, source: str, track: str, window: MarketWindow) -> Iterator[MarketState]:
    """One row a horizon, known the moment its candle closed: it was made from candles alone."""
    as_of = window.as_of
    for call in proposal.calls:
        yield MarketState(
            track=track, as_of=as_of, horizon_s=call.horizon_s,
            p_down=call.p_down, p_flat=call.p_flat, p_up=call.p_up,
            p_vol_low=call.p_vol_low, p_vol_mid=call.p_vol_mid, p_vol_high=call.p_vol_high,
            conviction=call.conviction, regime=call.regime, source=source, reasons=call.reasons,
            valid_until=as_of + timedelta(seconds=call.horizon_s), known_from=as_of,
        )  # fmt: skip


def config_row(proposal: Proposal, source: str, track: str, window: MarketWindow) -> PolicyConfig:
    as_of, steering = window.as_of, proposal.steering
    return PolicyConfig(
        track=track, as_of=as_of, source=source,
        risk_aversion=steering.risk_aversion, turnover_penalty=steering.turnover_penalty,
        drawdown_penalty=steering.drawdown_penalty, target_volatility=steering.target_volatility,
        max_exposure=steering.max_exposure, max_position=steering.max_position,
        daily_loss_limit=steering.daily_loss_limit, max_drawdown=steering.max_drawdown,
        pause=steering.pause, strategy_weights=dict(steering.strategy_weights), reasons=proposal.reasons,
        valid_until=as_of + timedelta(seconds=CONFIG_VALID_BARS * window.timeframe_s), known_from=as_of,
    )  # fmt: skip


def _write(database: Database, rows: Rows, now: datetime) -> dict[str, int]:
    """Writes all rows or none; a row that is there already stays as it is. Returns how many are new."""
    queries = load_queries("meta_controller")
    with database.transaction():
        states = database.execute_many(queries["insert_market_state"], [_params(row, now) for row in rows.states])
        configs = database.execute_many(queries["insert_policy_config"], [_params(row, now) for row in rows.configs])
    return {"market_state": states, "policy_config": configs}


def _params(row: MarketState | PolicyConfig, now: datetime) -> dict[str, Any]:
    params = {field.name: getattr(row, field.name) for field in fields(row)} | {"recorded_at": now}
    if isinstance(row, PolicyConfig):
        params["strategy_weights"] = Jsonb(row.strategy_weights)
    return params


def _alert_of_short_history(database: Database, clock: Clock, skipped: list[NoCall]) -> None:
    short = [reason for reason in skipped if isinstance(reason, ShortHistory)]
    if short:
        message = f"no regime call and no steering for {len(short)} bars, the last because of {short[-1]}"
        raise_alert(database, clock.now(), "warning", "metacontroller-short-history", message)


def _outcome(written: dict[str, int], called: int, skipped: list[NoCall]) -> Outcome:
    result: dict[str, Any] = {"called": called, "skipped": len(skipped), **written}
    if skipped:
        result["reason"] = str(skipped[-1])
    elif not any(written.values()):
        result["reason"] = "called before" if called else "no bar closes in this span"
    return Outcome("done" if any(written.values()) else "nothing", result)


def _work(context: Context) -> Outcome:
    bounds = context.arguments.span_from, context.arguments.span_to
    if (bounds[0] is None) != (bounds[1] is None):
        raise UsageError("--from and --to go together: give both for a batch pass, neither for the newest bar")
    return run_once(context.clock, context.database, context.settings, None if bounds[0] is None else bounds)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Calls the market's regime and writes the steering that follows from it.", span=True)
    return run_job_command("meta_controller", parser, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
