"""A made-up backtest to report on: two instruments, a slow trend rule, costs, an honest book."""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from policy.decision_path import Decision
from policy.execution.plan import Plan
from policy.result import BacktestResult, Curve, Shifts
from policy.risk.context import Clamp
from policy.simulator import SimulatedFill
from shared.clock import from_unix
from shared.performance import DAY_S
from shared.performance.returns import sharpe
from shared.rows import FloatArray, IntArray

START = 1_704_067_200  # 2024-01-01 00:00 UTC
HOUR_S = 3_600
CAPITAL = 10_000.0
FEE, SLIPPAGE = 0.0026, 0.0005
SYMBOLS = ("SIM-BTC/USDT", "SIM-ETH/USDT")


def fake_prices(bars: int, base_s: int, seed: int = 11) -> FloatArray:
    """[B, 2]: a common factor whose drift and volatility change every 45 days, and noise."""
    rng = np.random.default_rng(seed)
    spell = np.arange(bars) * base_s // (45 * DAY_S)
    drift = rng.normal(0.4, 1.6, spell[-1] + 1)[spell] * base_s / (365 * DAY_S)
    volatility = rng.choice([0.35, 0.5, 0.9], spell[-1] + 1)[spell] * np.sqrt(base_s / (365 * DAY_S))
    common = drift + volatility * rng.standard_normal(bars)
    own = 0.6 * volatility[:, None] * rng.standard_normal((bars, 2))
    path: FloatArray = np.array([42_000.0, 2_300.0]) * np.exp(np.cumsum(common[:, None] + own, axis=0))
    return np.round(path, 2)


def fake_decision(wanted: FloatArray) -> Decision:
    """At most half in one instrument and nine tenths in all, as the rules would say it."""
    allowed = np.minimum(wanted, 0.5)
    clamps = [
        [Clamp("max_position", w, 0.5, "a position may be at most 0.5 of equity")] if w > 0.5 else []
        for w in wanted.tolist()
    ]
    if allowed.sum() > 0.9:
        before, allowed = allowed, allowed * 0.9 / allowed.sum()
        for n, of_one in enumerate(clamps):
            of_one.append(Clamp("max_exposure", before[n], allowed[n], "exposure may be at most 0.9 of equity"))
    return made(wanted, allowed, clamps)


def made(wanted: FloatArray, allowed: FloatArray, clamps: list[list[Clamp]]) -> Decision:
    return Decision(
        wanted=wanted,
        allowed=allowed,
        clamps=clamps,
        plan=Plan(np.zeros(2), ["already there"] * 2),
        source="policy",
        observation_hash=None,
        baseline=wanted,
        residual=None,
        contributions={"drl": wanted},
    )


def trade(order: float, price: float, at: int, n: int) -> SimulatedFill:
    paid = round(price * (1.0 + SLIPPAGE if order > 0.0 else 1.0 - SLIPPAGE), 8)
    cost = round(abs(order) * paid, 8)
    return SimulatedFill(at, n, order, paid, cost, round(FEE * cost, 8))


def fake_result(
    days: int = 60, base_s: int = HOUR_S, provenance: str = "simulated", in_sample: str = "", shifts: bool = True
) -> BacktestResult:
    """One decision an hour over so many days; what is open at the end is sold."""
    bars = days * DAY_S // base_s
    times = START + base_s * np.arange(bars + 1, dtype=np.int64)
    closes = np.vstack([np.full(2, np.nan), fake_prices(bars, base_s)])
    cash, held, equity = CAPITAL, np.zeros(2), np.full(bars + 1, CAPITAL)
    orders, decisions, fills, decided = np.zeros(2), [], [], []
    weights = np.zeros((bars + 1, 2))
    window = 14 * DAY_S // base_s
    for bar in range(1, bars + 1):
        for n in np.flatnonzero(orders):
            fill = trade(float(orders[n]), float(closes[max(bar - 1, 1), n]), int(times[bar - 1]), int(n))
            cash -= np.sign(fill.quantity) * fill.cost + fill.fee
            held[n] = round(held[n] + fill.quantity, 8)
            fills.append(fill)
        orders = np.zeros(2)
        equity[bar] = cash + held @ closes[bar]
        weights[bar] = held * closes[bar] / equity[bar]
        if times[bar] % HOUR_S == 0:
            past = closes[max(bar - window, 1)]
            decisions.append(fake_decision(np.clip(0.2 + 2.5 * (closes[bar] / past - 1.0), 0.0, 0.62)))
            decided.append(bar)
            change = decisions[-1].allowed - weights[bar]
            orders = np.where(np.abs(change) > 0.12, np.round(change * equity[bar] / closes[bar], 5), 0.0)
            orders = np.maximum(orders, -held)
    closing = [trade(-float(held[n]), float(closes[-1, n]), int(times[-1]), int(n)) for n in np.flatnonzero(held)]
    marked = float(equity[-1])
    equity[-1] = cash + sum(f.cost - f.fee for f in closing)
    every = [*fills, *closing]
    own = Curve(
        "policy", times, equity, sum(f.fee for f in every), sum(f.cost for f in every), len(every),
        SLIPPAGE * sum(f.cost for f in every), marked,
    )  # fmt: skip
    return BacktestResult(
        curves=[own, *baselines(times, closes, equity)],
        symbols=SYMBOLS,
        closes=closes,
        decision_times=[from_unix(times[bar]) for bar in decided],
        decisions=decisions,
        fills=fills,
        provenance=provenance,
        in_sample=in_sample,
        terms=terms(days),
        closing=closing,
        regimes=[regime_at(closes[:, 0], bar, window) for bar in decided],
        shifts=shifted(own, closes, weights) if shifts else None,
        shifts_refused="" if shifts else "the span is too short for shifts of 30 days or more",
    )


def regime_at(closes: FloatArray, bar: int, window: int) -> str:
    change = closes[bar] / closes[max(bar - window, 1)] - 1.0
    return "bull" if change > 0.06 else "bear" if change < -0.06 else "sideways"


def baselines(times: IntArray, closes: FloatArray, equity: FloatArray) -> list[Curve]:
    held = np.append(CAPITAL, CAPITAL * (closes[1:] / closes[1]).mean(axis=1))
    mixed = CAPITAL * np.sqrt(held / CAPITAL) * np.sqrt(equity / CAPITAL)
    return [
        Curve("trend × volatility target", times, mixed, 121.5, 59_000.0, 131),
        Curve("buy and hold", times, held, 26.0, CAPITAL, 2),
        Curve("rebalanced hold", times, CAPITAL + 0.97 * (held - CAPITAL), 61.0, 2.1 * CAPITAL, 80),
        Curve("volatility target", times, CAPITAL + 0.5 * (held - CAPITAL), 71.0, 3.1 * CAPITAL, 120),
        Curve("cash", times, np.full(len(times), CAPITAL)),
    ]


def shifted(own: Curve, closes: FloatArray, weights: FloatArray, number: int = 200) -> Shifts:
    """Frictionless and daily: enough to draw."""
    rng = np.random.default_rng(5)
    step = DAY_S // int(own.times[1] - own.times[0])
    daily, held = closes[1::step][1:] / closes[1::step][:-1] - 1.0, weights[1::step][:-1]
    moves = rng.integers(len(held) // 4, len(held) - len(held) // 4, number)
    returns = np.array([(np.roll(held, move, axis=0) * daily).sum(axis=1) for move in moves])
    equities = CAPITAL * np.cumprod(np.column_stack([np.ones(number), 1.0 + returns]), axis=1)
    low, median, high = np.quantile(equities, [0.05, 0.5, 0.95], axis=0).astype(np.float64)
    sharpes = np.array([sharpe(row) or np.nan for row in returns], dtype=np.float64)
    mine = sharpe((held * daily).sum(axis=1)) or 0.0
    return Shifts(
        own.times[1::step][: len(low)], low, median, high, np.asarray(equities[:, -1] / CAPITAL - 1.0), sharpes,
        float(np.mean(sharpes < mine)),
    )  # fmt: skip


def terms(days: int) -> dict[str, str]:
    return {
        "span": f"{from_unix(START):%Y-%m-%d %H:%M} to {from_unix(START) + timedelta(days):%Y-%m-%d %H:%M} UTC",
        "capital": "10,000.00 USDT",
        "portfolio": "SIM-BTC/USDT, SIM-ETH/USDT on simulated",
        "costs": "fee 26 + half-spread 5 bps a side, impact 0.1",
        "fills": "open of the first 300 s candle 120 s or more after the decision",
        "limits": "operator",
        "config": "recorded, track rules",
        "models": "policy 4 on encoder 3, promoted with its residual at 1 (“not worse”)",
    }
