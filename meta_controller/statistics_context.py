"""What the language model is shown beside the market: calls, outcomes, steering, books, news, chains. Each section is
read from rows by a View and shaped; a section without rows is the word "absent"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from itertools import groupby
from typing import Any

import numpy as np

from meta_controller.bounds import BOUNDS, MAX_CHANGE, MAX_WEIGHT_CHANGE
from meta_controller.statistics_view import View, days_before
from shared.rows import FloatArray

Curve = tuple[list[datetime], FloatArray]  # moments, and what one unit had become by then

ABSENT = "absent"
HORIZON_NAMES: Mapping[int, str] = {14_400: "4h", 86_400: "24h"}
CALL_FIELDS = ("p_down", "p_flat", "p_up", "p_vol_low", "p_vol_mid", "p_vol_high")
CLASS_FIELDS = ("down", "flat", "up", "vol_low", "vol_mid", "vol_high")
LEAST_OUTCOMES = 100  # fewer say little about how often a class happens
BOOK_DAYS = (1, 7, 30)
TRACKS = ("llm", "rules", "static")
NEWS_HOURS = 24
LEAST_FIGURES = 10  # fewer figures of a chain give no z-score
STALE_DAYS = 7
MOST_CHAINS = 3  # of more, the median of each metric is shown
HOUR_S = 3600
SLACK = 1e-7  # of a unit of the last digit shown: the last bit of a sum is not to cost a digit


def calls_section(view: View) -> dict[str, Any] | str:
    """By horizon and expert the six probabilities, the pool first."""
    rows = [row for row in view.fetch("calls_at") if row["horizon_s"] in HORIZON_NAMES]
    shown: dict[str, Any] = {HORIZON_NAMES[row["horizon_s"]]: {} for row in rows}
    for row in rows:
        shown[HORIZON_NAMES[row["horizon_s"]]][row["expert"]] = [float(row[name]) for name in CALL_FIELDS]
    return shown or ABSENT


def happened_section(view: View) -> dict[str, Any] | str:
    """The classes of the last horizons that have passed."""
    rows = view.fetch("newest_outcomes")
    shown = {HORIZON_NAMES[row["horizon_s"]]: {"trend": row["trend"], "volatility": row["volatility"]}
             for row in rows if row["horizon_s"] in HORIZON_NAMES}  # fmt: skip
    return shown or ABSENT


def base_rates_section(view: View) -> dict[str, Any] | str:
    """How often each class happened in a year, as shares."""
    rows = [row for row in view.fetch("base_rates") if row["n"] >= LEAST_OUTCOMES and row["horizon_s"] in HORIZON_NAMES]
    shown = {HORIZON_NAMES[row["horizon_s"]]: [row[name] / row["n"] for name in CLASS_FIELDS] for row in rows}
    return shown or ABSENT


def steering_section(view: View, strategies: Sequence[str], limits: Mapping[str, float]) -> dict[str, Any]:
    """Each field as [in force, the rules', lowest allowed now, highest allowed now]; None where there is no row."""
    rows = {row["track"]: row for row in view.fetch("steering_before")}
    own, rules = rows.get("llm"), rows.get("rules")
    hours = (view.as_of - own["as_of"]).total_seconds() / HOUR_S if own else math.inf
    shown: dict[str, Any] = {}
    for name, bounds in BOUNDS.items():
        now, theirs = (row[name] if row else None for row in (own, rules))
        most = min(bounds[1], limits.get(name, bounds[1]))
        shown[name] = [now, theirs, *allowed(now, (bounds[0], most), MAX_CHANGE[name] * hours)]
    shown["pause"] = [row["pause"] if row else None for row in (own, rules)]
    shown["strategy_weights"] = {}
    for name in strategies:
        now, theirs = (float(row["strategy_weights"].get(name, 0.0)) if row else None for row in (own, rules))
        shown["strategy_weights"][name] = [now, theirs, *allowed(now, (0.0, 1.0), MAX_WEIGHT_CHANGE * hours)]
    return shown


def allowed(now: float | None, bounds: tuple[float, float], step: float) -> list[float]:
    """The lowest and the highest value that passes, rounded inwards to what ``short`` leaves as it is: what is shown
    as allowed must not be refused. An operator's limit that was lowered since goes before the step."""
    low, high = bounds if now is None else (max(bounds[0], now - step), min(bounds[1], now + step))
    units = [100 if edge >= 1 else 1000 for edge in (low, high)]
    highest = math.floor(high * units[1] + SLACK) / units[1]
    return [min(math.ceil(low * units[0] - SLACK) / units[0], highest), highest]


def book_section(view: View) -> dict[str, Any] | str:
    """Of the paper wallets on each track, the mean of each: return and largest drawdown in percent over the last days,
    payments left out."""
    curves = _curves(view)
    if not curves:
        return ABSENT
    return {track: _over_days(view, curves[track]) if track in curves else ABSENT for track in TRACKS}


def daily_returns(view: View, track: str) -> list[float | None]:
    """The mean return in percent of a track's wallets on each of the last 30 days (24 hours each, oldest first); None
    where none had one."""
    curves, found = _curves(view).get(track, []), list[float | None]()
    for day in range(BOOK_DAYS[-1], 0, -1):
        start, end = days_before(view, day), days_before(view, day - 1)
        parts = [_between(curve, start, end) for curve in curves]
        returns = [100.0 * (part[-1] / part[0] - 1.0) for part in parts if len(part) >= 2]
        found.append(float(np.mean(returns)) if returns else None)
    return found


def _curves(view: View) -> dict[str, list[Curve]]:
    """The growth of each wallet, by track."""
    flows = view.fetch("flows_of_books")
    curves: dict[str, list[Curve]] = {}
    for (track, wallet), group in groupby(view.fetch("equity_of_books"), key=lambda r: (r["track"], r["wallet_id"])):
        curves.setdefault(track, []).append(_growth(list(group), [f for f in flows if f["wallet_id"] == wallet]))
    return curves


def _between(curve: Curve, start: datetime, end: datetime) -> FloatArray:
    """The values from ``start`` to ``end``, both included, as far as they are positive."""
    times, value = curve
    chosen = value[[start <= at <= end for at in times]]
    return chosen if len(chosen) and chosen[0] > 0 else chosen[:0]


def _growth(points: list[dict[str, Any]], flows: list[dict[str, Any]]) -> Curve:
    """Each step's return is on the equity before it and what was paid in meanwhile."""
    times = [point["as_of"] for point in points]
    value = np.ones(len(points))
    for n in range(1, len(points)):
        paid = sum(flow["amount"] for flow in flows if times[n - 1] < flow["at"] <= times[n])
        before = points[n - 1]["equity"] + paid
        value[n] = value[n - 1] * (points[n]["equity"] / before if before > 0 else 1.0)
    return times, value


def _over_days(view: View, curves: list[Curve]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for days in BOOK_DAYS:
        parts = [_between(curve, days_before(view, days), view.as_of) for curve in curves]
        known = [part for part in parts if len(part) >= 2]
        returns = [part[-1] / part[0] - 1.0 for part in known]
        drawdowns = [float((part / np.maximum.accumulate(part)).min()) - 1.0 for part in known]
        shown[f"{days}d"] = [100.0 * float(np.mean(found)) for found in (returns, drawdowns)] if known else None
    return shown


def trust_section(view: View, model: str, prompt: str) -> dict[str, Any] | str:
    rows = view.fetch("newest_trust", model=model, prompt=prompt)
    return {name: float(rows[0][name]) for name in ("weight", "days", "e_better")} if rows else ABSENT


def news_section(view: View, hours: int = NEWS_HOURS) -> dict[str, Any] | str:
    """By topic [items, mean sentiment weighted by relevance, mean relevance]: numbers and fixed words only."""
    if not view.fetch("has_news")[0]["found"]:
        return ABSENT
    return {
        row["topic"]: [row["n"], row["weighted"] / row["relevance"] if row["relevance"] > 0 else 0.0,
                       row["relevance"] / row["n"]]
        for row in view.fetch("news_by_topic", hours=hours)
    }  # fmt: skip


def onchain_section(view: View, metrics: Sequence[str]) -> dict[str, Any] | str:
    """The z-score of each figure's last value against its last 90 days, by chain; chains are numbered by a hash of
    their name, and of more than MOST_CHAINS only medians are shown."""
    found: dict[str, dict[str, float]] = {}
    for chain, metric, values in chain_figures(view, metrics):
        found.setdefault(chain, {})[metric] = z_scores(values)[-1]
    if not found:
        return ABSENT
    if len(found) > MOST_CHAINS:
        by_metric = {m: [part[m] for part in found.values() if m in part] for m in metrics}
        return {"chains": len(found), "median": {m: float(np.median(z)) for m, z in by_metric.items() if z}}
    ordered = sorted(found, key=chain_order)
    return {f"chain {n}": {m: found[chain][m] for m in metrics if m in found[chain]}
            for n, chain in enumerate(ordered, 1)}  # fmt: skip


def chain_figures(view: View, metrics: Sequence[str]) -> list[tuple[str, str, FloatArray]]:
    """(chain, metric, values of 90 days) in a fixed order; what is stale or too short is left out."""
    rows = view.fetch("onchain_series", metrics=list(metrics))
    fresh = [
        row for row in rows if row["newest"] > days_before(view, STALE_DAYS) and len(row["values"]) >= LEAST_FIGURES
    ]
    fresh.sort(key=lambda row: (chain_order(row["chain"]), list(metrics).index(row["metric"])))
    return [(row["chain"], row["metric"], np.array(row["values"], dtype=np.float64)) for row in fresh]


def chain_order(chain: str) -> str:
    """An order that does not follow the names."""
    return sha256(chain.encode()).hexdigest()


def z_scores(values: FloatArray) -> FloatArray:
    """Of all of them; 0 where they do not vary. Scaled first: values may be as large as numbers get."""
    largest = np.abs(values).max()
    scaled = values / largest if largest > 0 else values
    deviation = scaled.std()
    return (scaled - scaled.mean()) / deviation if deviation > 1e-12 else np.zeros(len(values))
