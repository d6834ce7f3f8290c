"""What the model added to the baseline, by block of its input: the decision's own observation, rebuilt and taken apart.

A block's part is its Shapley value: how much it adds when it goes from its mean to what it was, averaged over all
orders in which the blocks can go (64 coalitions of 6 blocks, one run of the model). Unlike replacing one block at a
time this leaves nothing over: the weight at the means and all parts together are what the model wanted. What the model
wants is linear in its action only up to the caps, so the parts are given of the weight, as it was wanted, and of the
action.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policy.book import History, make_book, midnight
from policy.decision_kernel import MARKET_SIZE, OBSERVATION_SIZE, want
from policy.decision_path import observe
from policy.inputs import Inputs
from policy.observation import (
    BOOK_FIELDS,
    CONFIG_FIELDS,
    EMBEDDING_SIZE,
    SIGNAL_FIELDS,
    Market,
    View,
    market_block,
    observation_hash,
    steering_of,
)
from policy.policy_model import PolicyModel
from policy.run_trader import cost_of_a_side, operator_limits
from shared.db import Database, load_queries
from shared.money import to_float
from shared.rows import FloatArray, Instrument, MarketState, PolicyConfig
from shared.settings import Settings

Row = Mapping[str, Any]
MEAN_OF = timedelta(days=30)
MEAN_METRIC = "observation_mean"  # in a model's metrics, where its training stored it
_SIZES = {
    "embedding": EMBEDDING_SIZE,
    "ood": 1,
    "signals": len(SIGNAL_FIELDS),
    "market state": MARKET_SIZE - EMBEDDING_SIZE - 1 - len(SIGNAL_FIELDS),
    "config": len(CONFIG_FIELDS),
    "book": len(BOOK_FIELDS),
}
_ENDS = np.cumsum(list(_SIZES.values())).tolist()
BLOCKS = {name: slice(end - _SIZES[name], end) for name, end in zip(_SIZES, _ENDS, strict=True)}
assert _ENDS[-1] == OBSERVATION_SIZE


@dataclass(frozen=True, slots=True)
class Parts:
    """``at_means``: with every block at its mean; ``blocks``: what each adds to that; ``remainder``: what is left of
    ``total``, which is rounding. In shares of a full position (actions) or fractions of equity (weights)."""

    total: float
    at_means: float
    blocks: dict[str, float]

    @property
    def remainder(self) -> float:
        return self.total - self.at_means - sum(self.blocks.values())


class Books:
    """A wallet's books as its decisions wrote them down, with what the past said at each."""

    def __init__(self, database: Database, wallet_id: int, last: datetime) -> None:
        queries, params = load_queries("explain"), {"wallet_id": wallet_id, "last": last}
        rows = database.fetch(queries["equities"], params)
        self._database, self._wallet_id = database, wallet_id
        self._at = [row["as_of"] for row in rows]
        self._worth = np.array([row["equity"] / row["units"] for row in rows])  # of a unit
        self._resumes = [row["issued_at"] for row in database.fetch(queries["resumes"], params)]

    def history(self, as_of: datetime, recorded_at: datetime, units: float) -> History:
        """In the money of ``units``: the equity at the day's start, and the peak since the last resume."""
        before = bisect_left(self._at, as_of)
        start = bisect_right(self._at, midnight(as_of), hi=before)
        resumed = bisect_right(self._resumes, recorded_at)
        since = bisect_left(self._at, self._resumes[resumed - 1]) if resumed else before
        peak = units * float(self._worth[since:before].max()) if since < before else 0.0
        if before:
            return History(units * float(self._worth[max(start - 1, 0)]), peak)  # on its first day its first decision
        return History(self._paid_in(recorded_at), peak)

    def _paid_in(self, recorded_at: datetime) -> float:
        params = {"wallet_id": self._wallet_id, "recorded_at": recorded_at}
        row = self._database.fetch_one(load_queries("explain")["paid_in"], params)
        assert row is not None
        return to_float(row["capital"])


def rebuilt_view(market: Market, rows: Sequence[Row], instruments: Sequence[Instrument], books: Books, wallet: Row,
                 no_trade_band: float) -> View:  # fmt: skip
    """What one decision of the wallet saw, from the rows that it wrote: ``instruments`` in the order it saw them."""
    by_id = {row["instrument_id"]: row for row in rows}
    found = [by_id.get(i.id) for i in instruments]
    prices = np.array([row["price"] if row else math.nan for row in found])
    held = np.array([to_float(row["quantity_held"]) if row else 0.0 for row in found])
    one = rows[0]
    history = books.history(one["as_of"], one["recorded_at"], one["units"])
    book = make_book(one["as_of"], to_float(one["cash"]), held, prices, history)
    steering = steering_of(market.config, no_trade_band)
    return View(replace(market, prices=prices), book, cost_of_a_side(wallet), steering)


def as_it_read(
    market: Market, states: tuple[MarketState, MarketState] | None, config: PolicyConfig | None,
    embeddings: NDArray[np.float32],
) -> Market:  # fmt: skip
    """The market with the very rows of regime and steering that the decision names, whatever came later."""
    changed = replace(market, config=config or market.config, states=states)
    if states is None:
        return replace(changed, complete=np.zeros(len(market.prices), dtype=np.bool_))
    complete = market.tradable & np.isfinite(market.ood)
    block = np.zeros((len(market.prices), MARKET_SIZE), np.float32)
    if complete.any():
        block[complete] = market_block(
            embeddings[complete], market.ood[complete], market.trend[complete], market.volatility[complete], states
        )
    return replace(changed, complete=complete, block=block)


def make_inputs(database: Database, settings: Settings, instruments: Sequence[Instrument], track: str,
                encoder_id: int | None, first: datetime, last: datetime) -> Inputs:  # fmt: skip
    return Inputs(
        database, instruments, settings.universe.decision_timeframe_s, track, encoder_id, operator_limits(settings),
        first, last, settings.execution.stale_after_s,
    )  # fmt: skip


def mean_observation(
    database: Database, settings: Settings, policy: PolicyModel, wallet: Row, instruments: Sequence[Instrument],
    as_of: datetime,
) -> tuple[FloatArray, str]:  # fmt: skip
    """The mean of each field [OBSERVATION_SIZE], and of what it is the mean."""
    stored = policy.model.metrics.get(MEAN_METRIC)
    if stored is not None and len(stored) == OBSERVATION_SIZE:
        return np.array(stored, dtype=np.float64), f"the training data of policy model {policy.id}"
    first = as_of - MEAN_OF
    params = {"wallet_id": wallet["wallet_id"], "source": wallet["source"], "first": first, "last": as_of}
    rows = database.fetch(load_queries("explain")["portfolio_decisions"], params)
    inputs = make_inputs(database, settings, instruments, wallet["track"], policy.encoder_id, first, as_of)
    books = Books(database, wallet["wallet_id"], as_of)
    seen = []
    for moment, own in groupby(rows, key=lambda row: row["as_of"]):
        market = inputs.at(moment)
        view = rebuilt_view(market, list(own), instruments, books, wallet, settings.execution.no_trade_band)
        seen.append(observe(view)[market.complete])
    all_seen = np.concatenate(seen).astype(np.float64)
    if not len(all_seen):
        return np.zeros(OBSERVATION_SIZE), "nothing (no observation of the last 30 days can be rebuilt): zeros"
    return all_seen.mean(axis=0), f"the wallet's {len(all_seen)} observations of the last {MEAN_OF.days} days"


def parts_of(policy: PolicyModel, view: View, row: NDArray[np.float32], n: int, means: FloatArray) -> dict[str, Parts]:
    """The parts of the model's action and of the weight that it wanted of instrument ``n``, whose observation is
    ``row`` [OBSERVATION_SIZE]."""
    names = list(BLOCKS)
    coalitions = np.repeat(means.astype(np.float32)[None], 2 ** len(names), axis=0)
    for k, name in enumerate(names):
        as_it_was = (np.arange(len(coalitions)) >> k & 1).astype(bool)
        coalitions[np.ix_(as_it_was, np.arange(OBSERVATION_SIZE)[BLOCKS[name]])] = row[BLOCKS[name]]
    said = policy.act(coalitions)
    weights = [_wanted(view, n, said.action[c], said.agreement[c], said.reach) for c in range(len(coalitions))]
    return {"action": _shapley(said.action, names), "weight": _shapley(np.array(weights), names)}


def _wanted(view: View, n: int, action: float, agreement: float, reach: float) -> float:
    """The weight of instrument ``n`` that this action would want; the kernel's own arithmetic."""
    market, size = view.market, len(view.market.trend)
    wanted = np.zeros(size)
    want(market.trend, market.volatility, np.full(size, action), np.full(size, agreement), reach, view.steering, wanted)
    return float(wanted[n])


def _shapley(values: FloatArray, names: Sequence[str]) -> Parts:
    """``values`` [2^K]: bit k of the index says whether block k is as it was, or at its mean."""
    k, coalitions = len(names), np.arange(len(values))
    sizes = np.array([c.bit_count() for c in range(len(values))])
    shares = np.array([math.factorial(s) * math.factorial(k - s - 1) / math.factorial(k) for s in range(k)])
    blocks = {}
    for bit, name in enumerate(names):
        without = coalitions[(coalitions >> bit & 1) == 0]
        blocks[name] = float(shares[sizes[without]] @ (values[without | 1 << bit] - values[without]))
    return Parts(float(values[-1]), float(values[0]), blocks)


def matches(view: View, expected: str | None) -> tuple[NDArray[np.float32], bool]:
    """The observation [N, OBSERVATION_SIZE], and whether it is bit by bit what the model saw."""
    seen = observe(view)
    return seen, observation_hash(seen) == expected
