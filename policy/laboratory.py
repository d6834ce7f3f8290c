"""Where the past is traded again: what a backtest reads, loaded once, and the books that are run on it.

``trade`` is the trader's own path, decision for decision; ``rule`` runs a strategy that looks at the market alone as a
path of weights, which is the same book a hundred times faster (tested equal).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache, cached_property
from typing import Any

import numpy as np

from policy import decision_kernel
from policy.averaging import averaging_of
from policy.book import HistoryKeeper, make_book
from policy.decision_kernel import Steering
from policy.decision_path import Act, Circumstances, Decision, ObserveBook, decide
from policy.execution.plan import TradingRules
from policy.exits import NO_EXITS, Brackets, ExitRules, exit_rules
from policy.inputs import Inputs, static_config, timestamps
from policy.observation import Book, Market, View, steering_of
from policy.policy_model import PolicyModel, load_policy
from policy.result import Curve
from policy.risk.context import NO_LIMITS, OperatorLimits, symbol_caps
from policy.run_trader import doubts_without_policy, operator_limits, trading_rules
from policy.simulated_state import SimulatedState
from policy.simulator import FILL_KINDS, BarGrid, Costs, SimulatedFill, Simulator
from policy.strategies import STRATEGIES
from policy.weight_path import LEAVE, Occasions, WeightPathRun, WeightPaths, bands_of_full_positions
from shared.clock import to_unix
from shared.db import Database
from shared.job import JobError, UsageError
from shared.market_data import find_instruments, read_candles
from shared.rows import FloatArray, Instrument, IntArray
from shared.settings import Settings

REARM_DAYS = 7.0  # after an emergency stop: when an operator is taken to have looked at it and resumed
ENTRY_SHARE = 0.99  # of the capital, when buying to hold: the rest covers fee, slippage and the next open
STEERED = ("trend_vol_target", "vol_target", "min_variance")  # scaled by the steering: its max_exposure counts too
MARKET_ONLY = (*STEERED, "rebalanced_hold", "buy_and_hold", "cash")  # wants nothing because of the book


@dataclass(frozen=True, slots=True)
class Request:
    """What to run: the wallet whose portfolio, track and costs count, the span, and on what terms.

    ``limits``: 'operator' or 'off'. ``config``: the steering is that 'recorded' on the wallet's track, that of track
    'rules', or the operator's 'static' one. ``strategy``: one of STRATEGIES or 'random' alone; all where empty. None
    is the wallet's own delay and cost. ``stop`` and ``target``: at an entry, an exit so far below and above its price,
    as fractions; None for both is what the operator has the trader place, with the operator's limits. ``rearm_days``
    None: an emergency stop lasts, as the trader's does."""

    wallet: Mapping[str, Any]
    first: datetime
    last: datetime
    capital: float
    limits: str
    in_sample: bool = False
    config: str = "recorded"
    strategy: str = ""
    delay_s: int | None = None
    fee_bps: float | None = None
    slippage_bps: float | None = None
    impact: float | None = None
    stop: float | None = None
    target: float | None = None
    rearm_days: float | None = REARM_DAYS
    shifts: int = 200
    seed: int = 0

    @property
    def given_exits(self) -> ExitRules | None:
        """None where the operator's count."""
        if self.stop is None and self.target is None:
            return None
        return ExitRules(self.stop or 0.0, self.target or 0.0)


@dataclass(frozen=True, slots=True)
class BookPath:
    """One simulated book from first to last; ``closing`` sold what was open at the end. Of books that went through the
    decision path, the decisions; ``allowed`` [T, N] their weights."""

    curve: Curve
    fills: list[SimulatedFill]
    closing: list[SimulatedFill]
    decision_times: list[datetime]
    decisions: list[Decision]
    emergency_stops: int = 0

    @property
    def allowed(self) -> FloatArray:
        return np.array([decision.allowed for decision in self.decisions])


class EmergencyStop:
    """Counts how often a book fell max_drawdown below its peak, and says when the operator is taken to resume it."""

    def __init__(self, rearm_days: float | None) -> None:
        self.count = 0
        self._rearm = None if rearm_days is None else timedelta(days=rearm_days)
        self._since: datetime | None = None

    def resumes(self, as_of: datetime, drawdown: float, limit: float) -> bool:
        """Whether a book that is ``drawdown`` below its peak is resumed at ``as_of``."""
        if drawdown < limit:
            self._since = None
        elif self._since is None:
            self._since, self.count = as_of, self.count + 1
        elif self._rearm is not None and as_of - self._since >= self._rearm:
            self._since = None
            return True
        return False


@cache
def compiled_observe_book() -> ObserveBook:
    """Of the decision path, what takes longest as plain Python; compiled, it writes the same bits."""
    from shared.simulation.compiled import compile_functions, compiled

    names = ("full_weight", "_clipped", "observe_book")
    return compile_functions(decision_kernel, names, compiled)["observe_book"]


class Laboratory:
    """Everything a backtest reads, loaded once; each strategy then runs on it.

    UsageError for a span that the model was trained on, JobError where there are no candles."""

    def __init__(self, database: Database, settings: Settings, request: Request) -> None:
        self.settings, self.request = settings, request
        wallet, self.step_s = request.wallet, settings.universe.decision_timeframe_s
        self.instruments: list[Instrument] = find_instruments(database, wallet["venue"], wallet["symbols"])
        asks_model = request.strategy not in MARKET_ONLY
        self.policy: PolicyModel | None = load_policy(database, self.step_s) if asks_model else None
        self.in_sample = _require_known(self.policy, request)
        limited = request.limits == "operator"
        self.operator: OperatorLimits = operator_limits(settings) if limited else NO_LIMITS
        self.rules: TradingRules = trading_rules(
            self.instruments, settings, wallet["max_order_notional"] if limited else None
        )
        symbols = [instrument.symbol for instrument in self.instruments]
        self.symbol_caps = symbol_caps(settings.risk, symbols) if limited else None
        self.exits = request.given_exits or (exit_rules(settings.exits) if limited else NO_EXITS)
        self.averages = limited and settings.exits.averaging
        self.delay_s = settings.execution.delay_s if request.delay_s is None else request.delay_s
        self.costs = Costs(
            fee_bps=_given(request.fee_bps, wallet["taker_fee_bps"]),
            slippage_bps=_given(request.slippage_bps, wallet["slippage_bps"]),
            impact=_given(request.impact, wallet["impact"]),
        )
        track = "rules" if request.config == "rules" else wallet["track"]
        self._inputs = Inputs(
            database, self.instruments, self.step_s, track, self.policy.encoder_id if self.policy else None,
            operator_limits(settings), request.first, request.last, settings.execution.stale_after_s,
            ignore_known_from=request.in_sample,
        )  # fmt: skip
        base_s = max(i.base_timeframe_s for i in self.instruments)
        start, end = to_unix(request.first), to_unix(request.last)
        series = [read_candles(database, i.id, base_s, start, end) for i in self.instruments]
        self.grid = BarGrid.of(series, base_s, start, end)
        if not len(self.grid.open) or np.isnan(self.grid.open).all():
            raise JobError(f"no candles of {', '.join(wallet['symbols'])} from {request.first} to {request.last}")

    @cached_property
    def moments(self) -> list[tuple[datetime, Market]]:
        """The decision times at which anything can be traded, as the trader decides only then, and what was known."""
        times = timestamps(self.request.first, self.request.last, self.step_s)
        seen = ((as_of, self._steered(as_of, self._inputs.at(as_of))) for as_of in times)
        return [(as_of, market) for as_of, market in seen if market.tradable.any()]

    def _steered(self, as_of: datetime, market: Market) -> Market:
        config = market.config
        if self.request.config == "static":
            config = static_config(as_of, operator_limits(self.settings))
        if self.request.limits == "off":
            config = replace(config, max_drawdown=1.0, daily_loss_limit=1.0, pause=False)
        return market if config is market.config else replace(market, config=config)

    def trade(self, name: str, act: Act | None, only: str = "") -> BookPath:
        """The trader's path over the span; ``act`` None is the baseline. ``only``: that strategy in the place of those
        that the steering weighs."""
        simulator, history = self._simulator(), HistoryKeeper(self.request.capital)
        stop, brackets = EmergencyStop(self.request.rearm_days), _Brackets(self.exits, len(self.instruments))
        memory = SimulatedState(self.rules.lot) if self.exits.stop > 0.0 or self.averages else None
        last, decisions = np.full(len(self.instruments), np.nan), []
        observe_book = compiled_observe_book()
        for (as_of, market), steering in zip(self.moments, self._steering, strict=True):
            if brackets.wanted or simulator.in_flight.any():  # else nothing but prices moves: those bars run later
                simulator.advance_to(as_of)
            held = simulator.held.copy()
            market = self._as_traded(market, held, last, only)
            book = make_book(as_of, simulator.cash, held, market.prices, history.before(as_of))
            if stop.resumes(as_of, book.drawdown, min(market.config.max_drawdown, self.operator.max_drawdown)):
                history.resume(book.equity)
                book = make_book(as_of, book.cash, held, market.prices, history.before(as_of))
            circumstances = Circumstances(
                operator=self.operator,
                rules=self.rules,
                in_flight=simulator.in_flight,
                wallet_paused=False,
                doubts=market.doubts if act else doubts_without_policy(market),
                symbol_caps=self.symbol_caps,
                state=memory.at(simulator.fills) if memory else None,
                exits=self.exits,
                averaging=averaging_of(self.settings.exits, to_unix(as_of)) if self.averages else None,
            )
            decision = decide(View(market, book, self._cost, steering), act, circumstances, observe_book)
            quantity = decision.plan.quantity
            if quantity.any():
                simulator.place(quantity, as_of, market.volatility, *brackets.levels(decision.brackets))
            if memory:
                memory.decided(to_unix(as_of), decision.wanted)
            history.record(as_of, book.equity)
            decisions.append(decision)
        curve, fills, closing = self._ended(name, simulator)
        return BookPath(curve, fills, closing, [as_of for as_of, _ in self.moments], decisions, stop.count)

    def _as_traded(self, market: Market, held: FloatArray, last: FloatArray, only: str) -> Market:
        """The market as this book sees it. A position whose newest candle is too long ago to be looked at is worth
        what it was when it was last decided about (``last`` prices, updated here), as the trader has it."""
        unknown = np.isnan(market.prices)
        if unknown.any():
            market = replace(market, prices=np.where(unknown & (held > 0.0), last, market.prices))
        last[:] = market.prices
        if only:
            market = replace(market, config=replace(market.config, strategy_weights={only: 1.0}))
        return market

    @property
    def _cost(self) -> float:
        """Of a side, before impact, as a fraction: what the policy is shown."""
        return (self.costs.fee_bps + self.costs.slippage_bps) * 1e-4

    @cached_property
    def _steering(self) -> list[Steering]:
        return [steering_of(market.config, self.rules.no_trade_band) for _, market in self.moments]

    def rule(self, strategy: str, name: str) -> BookPath:
        """One of MARKET_ONLY, without limits, as a path of weights, and without the operator's exits but those that the
        request gives."""
        return self._path(name, self.weights_of(strategy))

    def weights_of(self, strategy: str) -> FloatArray:
        """What one of MARKET_ONLY wants at each moment [T, N], whatever the book; LEAVE: what is held, stays."""
        n = len(self.instruments)
        empty = Book(
            self.request.capital, np.zeros(n), self.request.capital, self.request.capital, self.request.capital
        )
        weights = np.full((len(self.moments), n), LEAVE)
        for t, ((_, market), steering) in enumerate(zip(self.moments, self._steering, strict=True)):
            wanted = STRATEGIES[strategy](View(market, empty, self._cost, steering), None)
            if wanted is None:
                raise ValueError(f"strategy {strategy} has no opinion without a model: it cannot be run as a rule")
            total = float(wanted.sum())
            if strategy in STEERED and total > market.config.max_exposure:
                wanted = wanted * (market.config.max_exposure / total)
            if strategy == "buy_and_hold":
                weights[t] = ENTRY_SHARE * wanted
                break
            weights[t] = wanted
        return weights

    @cached_property
    def occasions(self) -> Occasions:
        """The moments as a path of weights sees them; the bands are those of each moment's steering."""
        markets = [market for _, market in self.moments]
        volatility = np.array([market.volatility for market in markets])
        return Occasions(
            times=np.array([to_unix(as_of) for as_of, _ in self.moments], dtype=np.int64),
            price=np.array([market.prices for market in markets]),
            volatility=volatility,
            band=bands_of_full_positions(volatility, self._steering),
            tradable=np.array([market.tradable for market in markets]),
            delay_s=self.delay_s,
            step_s=self.step_s,
        )

    def weight_paths(self) -> WeightPaths:
        """Runs paths of weights [T, N] at ``occasions``, with this backtest's rules and capital."""
        return WeightPaths(self.grid, self.rules, self.occasions, self.request.capital)

    def _path(self, name: str, weights: FloatArray) -> BookPath:
        request = self.request
        given = request.given_exits or NO_EXITS
        run = self.weight_paths().run(weights, self.costs, stop=given.stop, target=given.target, fills=True)
        equity = np.r_[request.capital, run.equity_by_bar]
        equity[-1] = run.closed
        fills = self._fills(run)
        closing = [fill for fill in fills if fill.kind == "close out"]
        curve = Curve(
            name, self.curve_times(), equity, run.fees, run.traded, run.trades, run.slippage,
            run.marked if closing else None,
        )  # fmt: skip
        return BookPath(curve, fills[: len(fills) - len(closing)], closing, [], [])

    def _fills(self, run: WeightPathRun) -> list[SimulatedFill]:
        grid, last = self.grid, len(self.grid.open)
        fills = []
        for bar, n, quantity, price, cost, fee, kind in run.fills.tolist():
            called = FILL_KINDS[int(kind)]
            at = grid.start + (last if called == "close out" else int(bar)) * grid.base_s
            fills.append(SimulatedFill(at, int(n), quantity, price, cost, fee, called))
        return fills

    def curve_times(self) -> IntArray:
        """The start, where everything is cash, then each bar's close."""
        return self.grid.start + self.grid.base_s * np.arange(len(self.grid.open) + 1, dtype=np.int64)

    def _simulator(self) -> Simulator:
        return Simulator(self.grid, self.rules, self.costs, self.delay_s, self.step_s, self.request.capital)

    def _ended(self, name: str, simulator: Simulator) -> tuple[Curve, list[SimulatedFill], list[SimulatedFill]]:
        """The curve of a book that is run to its end and closed, its fills, and those of the closing."""
        simulator.advance_to(self.request.last)
        traded, marked = len(simulator.fills), float(simulator.equity_by_bar[-1])
        simulator.close_out()
        fills, closing = simulator.fills[:traded], simulator.fills[traded:]
        equity = np.r_[self.request.capital, simulator.equity_by_bar]
        curve = Curve(
            name, self.curve_times(), equity, simulator.fees, simulator.traded, len(simulator.fills),
            simulator.slippage, marked if closing else None,
        )  # fmt: skip
        return curve, fills, closing


class _Brackets:
    """The stops and targets that the simulator is told of. It knows no trailing ones, and goes by new levels from the
    decision on, where the trader's count from its order's fill: it has no position in between but for averaging's."""

    def __init__(self, exits: ExitRules, instruments: int) -> None:
        self._levels = (np.zeros(instruments), np.zeros(instruments))
        self.wanted = exits.stop > 0.0 or exits.target > 0.0

    def levels(self, named: Brackets | None) -> tuple[FloatArray | None, FloatArray | None]:
        """The stops and targets [N] once a decision's orders have ``named`` theirs; None where none are wanted."""
        if named is None or not self.wanted:
            return None, None
        for level, new in zip(self._levels, (named.stop, named.target), strict=True):
            level[named.named] = new[named.named]
        return self._levels


def _given(asked: float | None, of_wallet: Any) -> float:
    return float(of_wallet) if asked is None else asked


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
