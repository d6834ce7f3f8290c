"""What others would have written before the LLM is assessed: its calls, the pool's, what happened, paper books."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np

from meta_controller.trust import DAY_S, Scored
from shared.clock import from_unix, to_unix
from shared.rows import FloatArray
from tests.helpers import NOON, DatabaseFor
from tests.meta_controller.test_trust import world

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
SHORT, LONG = 4 * 3600, 24 * 3600
FIRST = from_unix(to_unix(NOON) // DAY_S * DAY_S)  # a midnight
TRENDS, VOLATILITIES = ("down", "flat", "up"), ("low", "mid", "high")

INSERT_CALL = """
INSERT INTO llm_calls (purpose, as_of, model, endpoint, prompt, prompt_sha256, inputs, request, statistics, status,
                       responses, answer, reserved_usd, cost_usd, recorded_at, ended_at)
VALUES (%(purpose)s, %(as_of)s, %(model)s, 'localhost:1', %(prompt)s, repeat('0', 64), '{}', '{}', '{}', 'answered',
        '[]', '{}', 0, 0, %(as_of)s, %(as_of)s)
RETURNING id
"""
INSERT_REGIME = """
INSERT INTO regime_calls (expert, as_of, horizon_s, p_down, p_flat, p_up, p_vol_low, p_vol_mid, p_vol_high, llm_call_id,
                          contaminated, known_from, recorded_at)
VALUES (%(expert)s, %(as_of)s, %(horizon_s)s, %(p0)s, %(p1)s, %(p2)s, %(p3)s, %(p4)s, %(p5)s, %(call)s,
        %(contaminated)s, %(as_of)s, %(recorded_at)s)
"""
INSERT_OUTCOME = """
INSERT INTO regime_outcomes (as_of, horizon_s, trend, volatility, log_return, realised, t_statistic, efficiency,
                             known_from, recorded_at)
VALUES (%(as_of)s, %(horizon_s)s, %(trend)s, %(volatility)s, 0, 0.01, 0, 0, %(known_from)s, %(known_from)s)
"""
INSERT_WALLET = """
INSERT INTO wallets (name, venue, mode, quote, track, taker_fee_bps, slippage_bps, impact, recorded_at)
VALUES (%(name)s, 'test', %(mode)s, 'USDT', %(track)s, %(fee)s, 5, 1, %(at)s) RETURNING id
"""
INSERT_LIMITS = """
INSERT INTO limits (wallet_id, symbols, max_order_notional, max_orders_a_day, recorded_at)
VALUES (%(wallet_id)s, %(symbols)s, 1000, 100, %(at)s)
"""
INSERT_DECISION = """
INSERT INTO decisions (wallet_id, instrument_id, as_of, source, wanted_weight, allowed_weight, baseline_weight, clamps,
                       reason, price, quantity_held, cash, equity, code_version, settings_hash, recorded_at)
SELECT %(wallet_id)s, id, %(as_of)s, 'policy', 0, 0, 0, '[]', 'none', 1, 0, 0, %(equity)s, 'test', 'test', %(as_of)s
FROM instruments
"""
INSERT_INSTRUMENT = """
INSERT INTO instruments (venue, symbol, base_timeframe_s, tick_size, lot_size, min_notional, provenance, recorded_at)
SELECT 'test', symbol, 3600, 0.01, 0.01, 1, 'real', %(at)s FROM unnest(ARRAY['AAA/USDT', 'BBB/USDT']) AS symbol
ON CONFLICT DO NOTHING
"""
INSERT_FLOW = """
INSERT INTO cash_flows (wallet_id, asset, amount, reference, at, recorded_at)
VALUES (%(wallet_id)s, 'USDT', 1000, %(at)s, %(at)s, %(at)s)
"""
INSERT_TRUST = """
INSERT INTO llm_trust (as_of, model, prompt, calls, days, e_better, e_worse, temperature, weight, verdict, known_from,
                       recorded_at)
VALUES (%(as_of)s, 'good', 'strategist.v1', 9, 9, 9, 0, 1.5, %(weight)s, 'fine', %(as_of)s, %(at)s)
"""


class Past:
    """Writes what others would have written before the assessment."""

    def __init__(self, database_for: DatabaseFor) -> None:
        self.owner = database_for("owner")

    def call(
        self, as_of: datetime, model: str = "good", prompt: str = "strategist.v1", purpose: str = "strategist"
    ) -> int:
        row = self.owner.fetch_one(INSERT_CALL, {"as_of": as_of, "model": model, "prompt": prompt, "purpose": purpose})
        assert row is not None
        return int(row["id"])

    def regime(self, expert: str, as_of: datetime, horizon_s: int, p: FloatArray, call: int | None = None,
               contaminated: bool = False, recorded_at: datetime | None = None) -> None:  # fmt: skip
        self.owner.execute(INSERT_REGIME, {
            "expert": expert, "as_of": as_of, "horizon_s": horizon_s, "call": call, "contaminated": contaminated,
            "recorded_at": recorded_at or as_of, **{f"p{i}": float(x) for i, x in enumerate(p.ravel())},
        })  # fmt: skip

    def outcome(self, as_of: datetime, horizon_s: int, trend: int, volatility: int, late: timedelta = 0 * HOUR) -> None:
        self.owner.execute(INSERT_OUTCOME, {
            "as_of": as_of, "horizon_s": horizon_s, "trend": TRENDS[trend], "volatility": VOLATILITIES[volatility],
            "known_from": as_of + timedelta(seconds=horizon_s) + late,
        })  # fmt: skip

    def scored(self, days: int, nearness: float = 1.0, first: datetime = FIRST, seed: int = 1, **call: Any) -> None:
        """``days`` of calls of both horizons and their outcomes; nearness 1: the LLM knows the truth, 0: the pool."""
        rng = np.random.default_rng(seed)
        worlds = [world(rng, horizon, days, nearness, spread=1.2)[0] for horizon in (SHORT, LONG)]
        with self.owner.transaction():
            made = {int(at): self.call(first + timedelta(seconds=int(at)), **call) for at in worlds[0].as_of}
            for one in worlds:
                self._write(one, first, made)

    def _write(self, one: Scored, first: datetime, made: dict[int, int]) -> None:
        for n, at in enumerate(one.as_of):
            as_of = first + timedelta(seconds=int(at))
            self.regime("llm", as_of, one.horizon_s, one.llm[n], made[int(at)])
            self.regime("pool", as_of, one.horizon_s, one.pool[n])
            self.outcome(as_of, one.horizon_s, *one.happened[n].tolist())

    def wallet(self, track: str, mode: str = "paper", fee: float = 40, symbols: tuple[str, ...] = ("AAA/USDT",)) -> int:
        """A wallet, and the instruments that it needs."""
        self.owner.execute(INSERT_INSTRUMENT, {"at": FIRST})
        name = f"{track}-{mode}-{fee:g}-{len(symbols)}"
        row = self.owner.fetch_one(INSERT_WALLET, {"name": name, "mode": mode, "track": track, "fee": fee, "at": FIRST})
        assert row is not None
        self.owner.execute(INSERT_LIMITS, {"wallet_id": row["id"], "symbols": list(symbols), "at": FIRST})
        return int(row["id"])

    def equity(self, wallet_id: int, returns: FloatArray, first: datetime = FIRST) -> None:
        """One decision a midnight, from ``first`` on."""
        curve = 10_000.0 * np.cumprod(np.concatenate([[1.0], 1.0 + returns]))
        with self.owner.transaction():
            for n, equity in enumerate(curve):
                moment = {"wallet_id": wallet_id, "as_of": first + n * DAY, "equity": float(equity)}
                self.owner.execute(INSERT_DECISION, moment)

    def books(self, days: int, edge: float, first: datetime = FIRST) -> tuple[int, int]:
        """A wallet on each track, in the same market; that of the LLM earns ``edge`` more a day."""
        rng = np.random.default_rng(2)
        market = rng.normal(0.0, 0.01, days)
        llm, rules = self.wallet("llm"), self.wallet("rules")
        self.equity(llm, market + edge + rng.normal(0.0, 0.001, days), first)
        self.equity(rules, market, first)
        return llm, rules
