"""From proposals to rows: who steers which track, and how far its steering may move in an hour.

Tracks: ``rules`` follows the rules; ``static`` the operator; ``llm`` the LLM wherever it has given an answer within
bounds, else the rules; ``live`` is (1 - λ) rules + λ LLM, λ being what the LLM has earned.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right, insort
from collections.abc import Sequence
from datetime import datetime, timedelta

from meta_controller.bounds import BOUNDS, LONGEST_REASONS, approach
from meta_controller.controller import HorizonCall, Steering
from shared.db import Database, load_queries
from shared.rows import MarketState, PolicyConfig
from shared.settings import RiskSettings
from shared.static_steering import static_steering

TRACKS = ("rules", "static", "llm", "live")
CONFIG_VALID_BARS = 3  # one call may be missed and the next be late before the steering expires
HOUR = timedelta(hours=1)


def steering_of(row: PolicyConfig) -> Steering:
    """What a row says, as a controller would have said it."""
    numbers = {name: getattr(row, name) for name in BOUNDS}
    return Steering(**numbers, pause=row.pause, strategy_weights=dict(row.strategy_weights))


def operators_choice(as_of: datetime, risk: RiskSettings) -> Steering:
    """The static track's: the operator's own steering."""
    return steering_of(
        static_steering(as_of, risk.max_position, risk.max_exposure, risk.daily_loss_limit, risk.max_drawdown)
    )


def blend(rules: Steering, llm: Steering, weight: float) -> Steering:
    """(1 - weight) rules + weight LLM on numbers and strategy weights; paused when either says so."""
    mixed = {name: (1.0 - weight) * getattr(rules, name) + weight * getattr(llm, name) for name in BOUNDS}
    for name, (low, high) in BOUNDS.items():
        mixed[name] = min(max(mixed[name], low), high)  # the last bit of a mean may lie outside
    names = sorted(rules.strategy_weights.keys() | llm.strategy_weights.keys())
    weights = {
        name: (1.0 - weight) * rules.strategy_weights.get(name, 0.0) + weight * llm.strategy_weights.get(name, 0.0)
        for name in names
    }
    total = sum(weights.values())
    shares = {name: value / total for name, value in weights.items() if value > 0.0}
    return Steering(**mixed, pause=rules.pause or llm.pause, strategy_weights=shares)


class Past:
    """The steering of each track so far: what is stored, and what this run has added to it."""

    def __init__(self, rows: Sequence[PolicyConfig]) -> None:
        self._rows: dict[str, dict[datetime, Steering]] = {track: {} for track in TRACKS}
        self._moments: dict[str, list[datetime]] = {track: [] for track in TRACKS}  # sorted
        self._ids = {(row.track, row.as_of): row.id for row in rows}
        for row in rows:
            self._add(row.track, row.as_of, steering_of(row))

    def _add(self, track: str, as_of: datetime, steering: Steering) -> None:
        if as_of not in self._rows[track]:
            self._rows[track][as_of] = steering
            insort(self._moments[track], as_of)

    @staticmethod
    def read(database: Database, first: datetime, last: datetime) -> Past:
        params = {"first": first, "last": last, "tracks": list(TRACKS)}
        fields = {field.name for field in dataclasses.fields(PolicyConfig)}
        rows = database.fetch(load_queries("meta_controller")["steering_so_far"], params)
        return Past([PolicyConfig(**{k: v for k, v in row.items() if k in fields}) for row in rows])

    def has(self, track: str, as_of: datetime) -> bool:
        return as_of in self._rows[track]

    def newest_id(self, track: str, as_of: datetime) -> int | None:
        """The stored row in force before ``as_of``."""
        stored = [at for named, at in self._ids if named == track and at < as_of]
        return self._ids[track, max(stored)] if stored else None

    def before(self, track: str, as_of: datetime) -> tuple[Steering, float] | None:
        """The newest steering of at least an hour before, and how many hours before; None: there is none."""
        moments = self._moments[track]
        at = bisect_right(moments, as_of - HOUR)
        return (self._rows[track][moments[at - 1]], (as_of - moments[at - 1]) / HOUR) if at else None

    def move(self, track: str, as_of: datetime, target: Steering) -> Steering:
        """As far toward ``target`` as an hour's change goes; remembered as the track's steering."""
        before = self.before(track, as_of)
        moved = target if before is None else approach(before[0], target, before[1])
        self._add(track, as_of, moved)
        return moved


def config_row(
    track: str, as_of: datetime, source: str, steering: Steering, reasons: str, timeframe_s: int
) -> PolicyConfig:
    numbers = {name: getattr(steering, name) for name in BOUNDS}
    return PolicyConfig(
        track=track, as_of=as_of, source=source, **numbers, pause=steering.pause,
        strategy_weights=dict(steering.strategy_weights), reasons=reasons[:LONGEST_REASONS],
        valid_until=as_of + timedelta(seconds=CONFIG_VALID_BARS * timeframe_s), known_from=as_of,
    )  # fmt: skip


def state_rows(track: str, as_of: datetime, source: str, calls: Sequence[HorizonCall]) -> list[MarketState]:
    """One row a horizon, known the moment its candle closed: it was made from candles up to it."""
    return [
        MarketState(
            track=track, as_of=as_of, horizon_s=call.horizon_s,
            p_down=call.p_down, p_flat=call.p_flat, p_up=call.p_up,
            p_vol_low=call.p_vol_low, p_vol_mid=call.p_vol_mid, p_vol_high=call.p_vol_high,
            conviction=call.conviction, regime=call.regime, source=source, reasons=call.reasons[:LONGEST_REASONS],
            valid_until=as_of + timedelta(seconds=call.horizon_s), known_from=as_of,
        )
        for call in calls
    ]  # fmt: skip


def moved_by(reasons: str, wanted: Steering, moved: Steering) -> str:
    """The reasons, and where the steering is still on its way."""
    short = [name for name in BOUNDS if getattr(wanted, name) != getattr(moved, name)]
    return reasons + (f"; still on its way in {', '.join(short)}" if short else "")
