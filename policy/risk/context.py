"""What the risk rules may look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from policy.averaging import Entries
from policy.decision_kernel import Bools
from shared.settings import RiskSettings
from shared.simulation.kernel import Floats, Ints

HEAT_CEILING = 0.2  # no operator may set max_heat higher
VAR_DAYS = 250  # daily returns that value_at_risk looks back on
VAR_MIN_DAYS = 60  # with fewer it says nothing
VAR_ONE_IN = 20  # 95 %: one day in so many is worse
WORST_DAYS = VAR_DAYS // VAR_ONE_IN + 1  # of which value_at_risk needs no more than the worst


@dataclass(frozen=True, slots=True)
class Clamp:
    """One rule's cut of one weight."""

    rule: str
    before: float
    after: float
    because: str


class RiskParameters(NamedTuple):
    """The numbers of the rules that only the operator sets, each the rule's namesake or explained in its file. Shares
    of equity; a limit of 1 or more on what cannot exceed equity, and a time of 0, switch their rule off.

    The defaults leave a long-only portfolio within its exposure alone but in extremes; docs/add-a-risk-rule.md lists
    beside each the stricter number that is common."""

    max_leverage: float = 1.0
    max_heat: float = HEAT_CEILING
    stop_distance: float = 0.15  # below the price, as a fraction: where the catastrophe stop lies
    atr_multiple: float = 0.0  # a stop is at least so many average true ranges away
    trade_risk: float = 1.0
    kelly_fraction: float = 0.25
    kelly_win_probability: float = 0.0  # 0: nobody knows an edge, and kelly is off
    kelly_payoff: float = 1.0  # what a winning trade gains ÷ what a losing one loses
    max_correlated_exposure: float = 1.0
    correlated_from: float = 0.6
    max_concentration: float = 1.0
    max_value_at_risk: float = 0.1
    max_cvar: float = 0.15
    ladder_from: float = 1.0  # share of max_drawdown from which exposure shrinks by steps; 1: not before it
    cooldown_s: float = 0.0
    position_timeout_s: float = 0.0


def parameters_of(risk: RiskSettings) -> RiskParameters:
    """The operator's, from [risk] of the settings: numbers of the same names."""
    return RiskParameters(**{name: float(getattr(risk, name)) for name in RiskParameters._fields})


def symbol_caps(risk: RiskSettings, symbols: Sequence[str]) -> Floats:
    """[N], the operator's own bound of each symbol's position, from [risk.symbols] of the settings; 1 where none is."""
    return np.array([risk.symbols[symbol].max_position if symbol in risk.symbols else 1.0 for symbol in symbols])


DEFAULTS = RiskParameters()
OFF = RiskParameters(
    max_leverage=math.inf, max_heat=math.inf, max_value_at_risk=math.inf, max_cvar=math.inf
)  # the other defaults are off


@dataclass(frozen=True, slots=True)
class OperatorLimits:
    """The operator's own bounds; steering may be stricter, never looser. Fractions of equity; ``max_step`` is the most
    by which a weight may grow in one decision. ``rules``: what steering has no word about."""

    max_position: float
    max_exposure: float
    daily_loss_limit: float
    max_drawdown: float
    max_step: float = 1.0
    rules: RiskParameters = DEFAULTS


NO_LIMITS = OperatorLimits(max_position=1.0, max_exposure=1.0, daily_loss_limit=1.0, max_drawdown=1.0, rules=OFF)


class RiskContext(NamedTuple):
    """Numbers only, so that the rules can be compiled. Limits are the stricter of steering's and the operator's;
    ``held_weights`` [N]; ``ood`` [N], how unusual each instrument's window is, percentiles, NaN when unknown;
    ``doubtful`` [N]: something of this instrument is missing or stale.

    ``spendable``: cash less what open orders may still cost, as a share of equity; infinite in a book worth nothing.
    ``confidence`` [N] in [0, 1]: how far the policies agree, 1 where they are not asked. ``atr`` [N]: the average true
    range of a day as a fraction of the price, ``correlation`` [N, N] of daily returns, each NaN where unknown.
    ``daily`` [B, M]: returns over a day, NaN where unknown; instrument n is ``column[n]``, its returns are those at
    ``day_row``, ``day_row - day_stride``, …. ``tail`` [N] bounds what instrument n adds to CVaR (policy.risk.history).
    ``losses`` [WORST_DAYS] is room to sort in, without meaning before or after. ``symbol_caps`` [N]: the operator's own
    bound of each position, 1 where it set none.

    What only a wallet that trades has, not training, and a backtest none of but the first: ``stopped_out`` [N], a
    protective stop closed it and the strategies have wanted it ever since; ``since_fill_s`` [N], infinite where never;
    ``age_s`` [N] of the position, 0 where none is held. There nothing is stopped out, filled or old."""

    max_position: float
    max_exposure: float
    daily_loss_limit: float
    max_drawdown: float
    max_step: float
    day_return: float
    drawdown: float
    paused: bool
    held_weights: Floats
    ood: Floats
    doubtful: Bools
    rules: RiskParameters
    spendable: float
    confidence: Floats
    atr: Floats
    correlation: Floats
    tail: Floats
    daily: Floats
    day_row: int
    day_stride: int
    column: Ints
    losses: Floats
    stopped_out: Bools
    since_fill_s: Floats
    age_s: Floats
    symbol_caps: Floats


@dataclass(frozen=True, slots=True)
class PortfolioState:
    """What only a wallet that trades has: the cash that its open orders may still cost, in quote, and by instrument
    what RiskContext says of ``stopped_out``, ``since_fill_s`` and ``age_s`` [N]. ``entries``: how its positions were
    entered, None where nobody knows; no rule asks, averaging does."""

    reserved: float
    stopped_out: Bools
    since_fill_s: Floats
    age_s: Floats
    entries: Entries | None = None

    @staticmethod
    def fresh(n: int) -> PortfolioState:
        """Of a book that no order or stop ever touched: what training and backtest know."""
        return PortfolioState(0.0, np.zeros(n, dtype=np.bool_), np.full(n, np.inf), np.zeros(n))


@dataclass(frozen=True, slots=True)
class Notes:
    """What the reasons are put into words with: who paused, and what is in doubt about each instrument [N]."""

    wallet_paused: bool
    doubts: tuple[str, ...]


def no_entry(proposed: float, held: float) -> float:
    """A position may shrink but not grow."""
    return min(proposed, max(held, 0.0))


def stop_of(n: int, context: RiskContext) -> float:
    """How far below the price instrument ``n`` is taken to be stopped, as a fraction of it."""
    distance, by_range = context.rules.stop_distance, context.rules.atr_multiple * context.atr[n]
    if by_range > distance:  # not where the range is not known
        distance = min(by_range, 1.0)
    return distance
