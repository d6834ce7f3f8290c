"""The one decision path: observe -> decide -> blend -> limit -> plan.

Backtest, paper and live call ``decide``; only the clock and the venue differ. Training runs the same scalar functions,
compiled and batched (policy.trading_env), and is tested to decide the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policy import decision_kernel
from policy.averaging import Averaging, averaged_price, floor_weights
from policy.decision_kernel import MARKET_SIZE, OBSERVATION_SIZE, Bools
from policy.execution.plan import Plan, Sizing, TradingRules, in_words
from policy.exits import NO_EXITS, Brackets, ExitRules, name_brackets
from policy.observation import CONFIG_LOW, CONFIG_SPAN, View, observation_hash
from policy.risk import limit_and_explain
from policy.risk.context import WORST_DAYS, Clamp, Notes, OperatorLimits, PortfolioState, RiskContext
from policy.risk.history import PortfolioHistory
from policy.strategies import BASELINE, blend, contributions_of, opinions_of
from policy.strategies.residual import Residual
from shared.rows import FloatArray

AVERAGING = "averaging"  # its name among the contributions
ObserveBook = Callable[..., None]  # decision_kernel.observe_book, plain or compiled
Act = Callable[[NDArray[np.float32]], Residual]  # observation [N, OBSERVATION_SIZE] -> what it adds to the baseline


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision for N instruments, with all that explains it. ``baseline`` [N]: what trend × volatility target
    wants; ``residual``: what the model said, None when it was not asked; ``contributions``: each strategy's part [N]
    of ``wanted``, and averaging's, where it asked for more; ``brackets``: what its orders are to be left at, None where
    the operator names nothing."""

    wanted: FloatArray
    allowed: FloatArray
    clamps: list[list[Clamp]]
    plan: Plan
    source: str
    observation_hash: str | None
    baseline: FloatArray
    residual: Residual | None
    contributions: dict[str, FloatArray]
    brackets: Brackets | None = None


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the decision depends on beside the view: the operator's bounds and the state of affairs."""

    operator: OperatorLimits
    rules: TradingRules
    in_flight: Bools  # [N]: an order whose end is not known yet
    wallet_paused: bool
    doubts: tuple[str, ...]  # [N]: what forbids entries, empty where nothing does
    state: PortfolioState | None = None  # None: of a book that no order or stop ever touched
    symbol_caps: FloatArray | None = None  # [N], the most of equity in each; None: the operator bounds none by itself
    exits: ExitRules = NO_EXITS
    averaging: Averaging | None = None  # None: off


def observe(view: View, observe_book: ObserveBook = decision_kernel.observe_book) -> NDArray[np.float32]:
    """The observation [N, OBSERVATION_SIZE]; rows of instruments of which something is missing are zeros."""
    market, book = view.market, view.book
    observation = np.zeros((len(market.prices), OBSERVATION_SIZE), np.float32)
    assert market.block.shape[1] == MARKET_SIZE
    observe_book(
        market.block, market.trend, market.volatility, market.complete, book.weights(market.prices), book.drawdown,
        book.day_return, view.cost, view.steering, CONFIG_LOW, CONFIG_SPAN, observation,
    )  # fmt: skip
    return observation


def decide(
    view: View, act: Act | None, circumstances: Circumstances, observe_book: ObserveBook = decision_kernel.observe_book
) -> Decision:
    """Observes, asks every strategy, blends, limits, plans. Without a model, or where an instrument's view is not
    complete, the baseline speaks, and ``circumstances.doubts`` decides whether it may open positions.
    ``observe_book``: where numba may be waited for, the compiled one, which writes the same bits."""
    market, config = view.market, view.market.config
    observation = observe(view, observe_book) if market.complete.any() else None
    residual = act(observation) if act is not None and observation is not None else None
    opinions = opinions_of(view, residual, config.strategy_weights)
    contributions = contributions_of(opinions, config.strategy_weights)
    wanted = blend(contributions)
    if circumstances.averaging is not None:
        contributions |= _averaged(wanted, view, circumstances, circumstances.averaging)
        wanted = blend(contributions)
    context = risk_context(view, circumstances, residual)
    allowed, clamps = limit_and_explain(wanted, context, Notes(circumstances.wallet_paused, circumstances.doubts))
    planned = plan(allowed, view, circumstances)
    return Decision(
        wanted=wanted,
        allowed=allowed,
        clamps=clamps,
        plan=planned,
        source="policy" if residual is not None else BASELINE,
        observation_hash=observation_hash(observation) if observation is not None else None,
        baseline=opinions[BASELINE],
        residual=residual,
        contributions=contributions,
        brackets=_brackets(planned.quantity, contributions, view, circumstances),
    )


def _averaged(
    wanted: FloatArray, view: View, circumstances: Circumstances, averaging: Averaging
) -> dict[str, FloatArray]:
    """What averaging adds to ``wanted`` [N], as one more contribution; none where it asks for nothing. Where the
    strategies want nothing of an instrument, it is not averaged but left."""
    state, history = circumstances.state, view.market.history
    if state is None or state.entries is None or history is None:
        return {}
    floor = floor_weights(
        state.entries, averaging, history.window, history.closes.stride, view.market.prices, view.book.held,
        view.book.equity,
    )  # fmt: skip
    added = np.where(wanted > 0.0, np.maximum(floor - wanted, 0.0), 0.0)
    return {AVERAGING: added} if added.any() else {}


def _brackets(
    quantity: FloatArray, contributions: Mapping[str, FloatArray], view: View, circumstances: Circumstances
) -> Brackets | None:
    """Those of the orders that open a position, from nothing or dust, and of averaging's, which are about all that it
    then holds."""
    rules, prices, held = circumstances.rules, view.market.prices, view.book.held
    if not circumstances.exits.any:
        return None
    buys = quantity > 0.0
    dust = (held < rules.lot) | (held * prices < rules.min_notional)
    entries, price = buys & dust, prices
    state, added = circumstances.state, contributions.get(AVERAGING)
    if state is not None and state.entries is not None and added is not None:
        averages = buys & (added > 0.0)
        entries, price = entries | averages, averaged_price(state.entries, averages, quantity, prices, held)
    return name_brackets(entries, price, view.market.trend, rules.tick, circumstances.exits)


def risk_context(view: View, circumstances: Circumstances, residual: Residual | None = None) -> RiskContext:
    """The stricter of what the steering and the operator allow, the state of the book, and what is known of returns.

    Correlations and ranges are left unknown where no rule asks for them."""
    steering, operator, market, book = view.steering, circumstances.operator, view.market, view.book
    n, rules = len(market.prices), operator.rules
    history = market.history or PortfolioHistory.unknown(n)
    state = circumstances.state or PortfolioState.fresh(n)
    agreement = np.ones(n) if residual is None else np.where(market.complete, residual.agreement, 1.0)
    return RiskContext(
        max_position=min(steering.max_position, operator.max_position),
        max_exposure=min(steering.max_exposure, operator.max_exposure),
        daily_loss_limit=min(steering.daily_loss_limit, operator.daily_loss_limit),
        max_drawdown=min(steering.max_drawdown, operator.max_drawdown),
        max_step=operator.max_step,
        day_return=book.day_return,
        drawdown=book.drawdown,
        paused=circumstances.wallet_paused or market.config.pause,
        held_weights=book.weights(market.prices),
        ood=market.ood,
        doubtful=np.array([bool(doubt) for doubt in circumstances.doubts], dtype=np.bool_),
        rules=rules,
        spendable=float(book.cash - state.reserved) / float(book.equity) if book.equity > 0.0 else math.inf,
        confidence=agreement,
        atr=history.ranges(rules),
        correlation=history.correlations(rules),
        tail=history.tails(rules),
        daily=history.closes.daily,
        day_row=history.row,
        day_stride=history.closes.stride,
        column=np.arange(n),
        losses=np.zeros(WORST_DAYS),
        stopped_out=state.stopped_out,
        since_fill_s=state.since_fill_s,
        age_s=state.age_s,
        symbol_caps=np.ones(n) if circumstances.symbol_caps is None else circumstances.symbol_caps,
    )


def plan(allowed: FloatArray, view: View, circumstances: Circumstances) -> Plan:
    """The orders that bring the book to ``allowed`` [N], each with its reason."""
    market, book, rules, n = view.market, view.book, circumstances.rules, len(allowed)
    weights, quantity, codes = book.weights(market.prices), np.zeros(n), np.zeros(n, dtype=np.int64)
    decision_kernel.plan_orders(
        allowed, weights, book.held, book.equity, market.prices, market.volatility, rules.lot, rules.min_notional,
        rules.max_order_notional, circumstances.in_flight, market.tradable, view.steering, quantity, codes,
    )  # fmt: skip
    reasons = []
    for k in range(n):
        full = decision_kernel.full_weight(float(market.volatility[k]), n, view.steering)
        sizing = Sizing(
            allowed=float(allowed[k]),
            weight=float(weights[k]),
            quantity=float(quantity[k]),
            price=float(market.prices[k]),
            lot=float(rules.lot[k]),
            min_notional=float(rules.min_notional[k]),
            band=view.steering.band * min(full, view.steering.max_position),
        )
        reasons.append(in_words(int(codes[k]), sizing))
    return Plan(quantity, reasons)
