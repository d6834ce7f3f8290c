"""The report says what happened, escapes what it is given, asks for nothing, and is the same bytes each time."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from policy.decision_path import Decision
from policy.execution.plan import Plan
from policy.report import terminal_table, write_report
from policy.report_page import clamp_rows, contents, held_weights
from policy.result import BacktestResult, Curve
from policy.risk.context import Clamp
from policy.simulator import SimulatedFill
from shared.clock import from_unix
from shared.rows import FloatArray
from shared.simulation import kernel

START = 1_782_864_000  # 2026-07-01 00:00 UTC
BASE_S, HOUR_S, DAY_S = 300, 3_600, 86_400
CAPITAL = 10_000.0


def fake_prices(bars: int) -> FloatArray:
    rng = np.random.default_rng(5)
    common = rng.normal(0, 0.0011, (bars, 1))
    steps = common + rng.normal(0.00001, 0.0009, (bars, 2))
    return np.round(np.array([64_000.0, 3_100.0]) * np.exp(np.cumsum(steps, axis=0)), 2)


def fake_wanted(closes: FloatArray, bar: int) -> FloatArray:
    """A slow trend rule: nothing profound, but weights that move as real ones do."""
    past = closes[max(bar - 576, 0)]
    return np.clip(0.35 + 9.0 * (closes[bar] / past - 1.0), 0.0, 0.62)


def fake_decision(wanted: FloatArray) -> Decision:
    allowed, clamps = np.minimum(wanted, 0.5), [[Clamp("max_position", w, 0.5, "a position may be at most 0.5 of equity")]
                                                if w > 0.5 else [] for w in wanted.tolist()]  # fmt: skip
    if allowed.sum() > 0.9:
        scaled = allowed * 0.9 / allowed.sum()
        for n in range(len(wanted)):
            clamps[n].append(Clamp("max_exposure", allowed[n], scaled[n], "exposure may be at most 0.9 of equity"))
        allowed = scaled
    return Decision(wanted, allowed, clamps, Plan(np.zeros(2), ["already there"] * 2), "policy", None)


def fake_result(days: int = 3, provenance: str = "simulated", in_sample: str = "") -> BacktestResult:
    """A small market traded by the kernel's own arithmetic, one decision an hour."""
    bars = days * DAY_S // BASE_S
    times = START + BASE_S * (1 + np.arange(bars, dtype=np.int64))
    closes = fake_prices(bars)
    cash, held, equity = CAPITAL, np.zeros(2), np.zeros(bars)
    orders, decisions, fills = np.zeros(2), [], []
    for bar in range(bars):
        for n in np.flatnonzero(orders):
            quantity, price, cost, fee = kernel.market_fill(
                orders[n], cash, held[n], closes[max(bar - 1, 0), n], 5.0, 26.0, 0.01, 1e-5
            )
            cash, held[n] = kernel.cash_after(cash, quantity, cost, fee), kernel.round_money(held[n] + quantity)
            fills.append(SimulatedFill(int(times[bar]) - BASE_S, int(n), quantity, price, cost, fee))
        orders = np.zeros(2)
        equity[bar] = kernel.equity(cash, held, closes[bar])
        if (bar + 1) % (HOUR_S // BASE_S) == 0:
            decision = fake_decision(fake_wanted(closes, bar))
            decisions.append(decision)
            change = decision.allowed - held * closes[bar] / equity[bar]
            orders = np.where(np.abs(change) > 0.12, change * equity[bar] / closes[bar], 0.0)
    held_from_start = CAPITAL * (closes / closes[0]).mean(axis=1)
    return BacktestResult(
        curves=[
            Curve("policy", times, equity, sum(f.fee for f in fills), sum(f.cost for f in fills), len(fills)),
            Curve("trend × volatility target", times, CAPITAL + 0.6 * (equity - CAPITAL), 21.5, 9_000.0, 31),
            Curve("buy and hold", times, held_from_start, 26.0, CAPITAL, 2),
            Curve("cash", times, np.full(bars, CAPITAL)),
        ],
        symbols=["SIM-BTC/USDT", "SIM-ETH/USDT"],
        closes=closes,
        decision_times=[from_unix(START + HOUR_S * (1 + n)) for n in range(len(decisions))],
        decisions=decisions,
        fills=fills,
        provenance=provenance,
        in_sample=in_sample,
        terms={
            "span": f"{from_unix(START):%Y-%m-%d %H:%M} to {from_unix(START) + timedelta(days):%Y-%m-%d %H:%M} UTC",
            "capital": "10,000.00 USDT",
            "portfolio": "SIM-BTC/USDT, SIM-ETH/USDT on simulated",
            "costs": "fee 26 + slippage 5 bps a side",
            "fills": "open of the first 300 s candle 120 s or more after the decision",
            "limits": "operator",
            "config": "recorded, track rules",
            "models": "policy 4 on encoder 3",
        },
    )
