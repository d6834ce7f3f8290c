"""What a track record was worth, and how sure one can be: the only place where performance figures are computed.

``summarise`` a curve; ``paired_difference`` and ``judge`` it against its baseline; deflate it by the trials in the
``TrialsLedger``; ``slices`` and ``attribution`` say where it came from. numpy only; ``arch`` is imported when asked.
"""

from shared.performance.attribution import attribute, profits_over_time, round_trips
from shared.performance.bootstrap import Interval, SharpeDifference, interval, paired_difference
from shared.performance.deflation import DeflatedSharpe, deflated_sharpe, probabilistic_sharpe, trials_until_below
from shared.performance.ledger import LedgerTampered, Trial, Trials, TrialsLedger
from shared.performance.metrics import (
    DAY_S,
    YEAR_S,
    Summary,
    daily_equity,
    daily_returns,
    drawdowns,
    summarise,
)
from shared.performance.overfitting import (
    Overfitting,
    SuperiorAbility,
    probability_of_backtest_overfitting,
    superior_predictive_ability,
)
from shared.performance.returns import DAYS_A_YEAR, Regression
from shared.performance.slices import Slice, by_label, by_symbol, by_year
from shared.performance.verdict import EARNS, Verdict, judge, p_earns

__all__ = [
    "DAYS_A_YEAR",
    "DAY_S",
    "EARNS",
    "YEAR_S",
    "DeflatedSharpe",
    "Interval",
    "LedgerTampered",
    "Overfitting",
    "Regression",
    "SharpeDifference",
    "Slice",
    "Summary",
    "SuperiorAbility",
    "Trial",
    "Trials",
    "TrialsLedger",
    "Verdict",
    "attribute",
    "by_label",
    "by_symbol",
    "by_year",
    "daily_equity",
    "daily_returns",
    "deflated_sharpe",
    "drawdowns",
    "interval",
    "judge",
    "p_earns",
    "paired_difference",
    "probabilistic_sharpe",
    "probability_of_backtest_overfitting",
    "profits_over_time",
    "round_trips",
    "summarise",
    "superior_predictive_ability",
    "trials_until_below",
]  # fmt: skip
