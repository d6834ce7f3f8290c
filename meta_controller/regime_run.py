"""One run of the experts over a span: reads candles, fits, earlier calls and outcomes, thinks, and writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from meta_controller.call_rows import OutcomeRow, outcome_rows, read_expert, read_fits, read_track
from meta_controller.controller import HORIZONS_S, HorizonCall, call_of
from meta_controller.expert_calls import Fit, Fits, blocks, call_block
from meta_controller.market_index import (
    BLOCK_S,
    DAY_S,
    LEAST_BARS,
    REACH_S,
    Grid,
    MarketHistory,
    NoCall,
    ShortHistory,
    block_start,
    index_history,
)
from meta_controller.outcomes import outcomes
from meta_controller.pool import REACH_S as POOL_REACH_S
from meta_controller.pool import Track, told
from meta_controller.regimes import EXPERTS
from meta_controller.regimes.expert import FIT_S, Calls, Expert
from meta_controller.usual_odds import REACH_S as ODDS_REACH_S
from meta_controller.usual_odds import UsualOdds
from shared.db import Database
from shared.market_data import find_instruments, read_candles
from shared.rows import FloatArray
from shared.settings import UniverseSettings

POOL = "pool"
LONGEST_S = max(HORIZONS_S)
LATE_S = 30 * DAY_S  # outcomes of calls older than these are not looked for any more


@dataclass(slots=True)
class RegimeRun:
    """What the experts and their pool call at each of the moments ``called`` (Unix seconds, in order)."""

    timeframe_s: int
    track: Track
    stored: frozenset[int]  # moments whose calls are stored already
    called: list[int] = field(default_factory=list)
    skipped: list[NoCall] = field(default_factory=list)
    new_fits: list[Fit] = field(default_factory=list)
    new_outcomes: list[OutcomeRow] = field(default_factory=list)
    instruments: dict[int, int] = field(default_factory=dict)  # in the index, by moment
    odds: dict[int, UsualOdds] = field(default_factory=dict)  # the pool's, by horizon
    made: dict[int, FloatArray] = field(default_factory=dict)  # what was pooled, by moment

    def pooled(self, as_of: int) -> FloatArray:
        """[horizons, CLASSES]"""
        if as_of not in self.made:
            self.made[as_of] = self.track.pooled(as_of)
        return self.made[as_of]

    def usual_odds(self, as_of: int, horizon_s: int) -> float:
        """Of up against down, of the pool before ``as_of``."""
        return self.odds[horizon_s].before(as_of)

    def calls(self, as_of: int) -> tuple[HorizonCall, ...]:
        """The pool's, one a horizon."""
        return tuple(
            call_of(horizon_s, six.tolist(), self._reasons(as_of, horizon_s, six), self.usual_odds(as_of, horizon_s))
            for horizon_s, six in zip(HORIZONS_S, self.pooled(as_of), strict=True)
        )

    def _reasons(self, as_of: int, horizon_s: int, six: FloatArray) -> str:
        rounds = self.track.scored_rounds(as_of, horizon_s)
        weights = told(self.track.experts, self.track.weights(as_of, horizon_s))
        how = f"pool of experts weighed by {rounds} scored rounds" if rounds else "equal pool"
        leaning = six[2] / six[0] / self.usual_odds(as_of, horizon_s)
        return f"up against down {leaning:.2f} times as likely as usual; {how}: {weights}"

    def new_calls(self) -> Mapping[str, tuple[list[int], Calls]]:
        """By expert, the pool among them, the moments whose calls are not stored yet and [moments, horizons, six]."""
        moments = [t for t in self.called if t not in self.stored]
        if not moments:
            return {}
        made = np.stack([self.track.calls_at(t) for t in moments])
        found = {name: (moments, made[:, k]) for k, name in enumerate(self.track.experts)}
        return found | {POOL: (moments, np.stack([self.pooled(t) for t in moments]))}


def read_regimes(
    database: Database, universe: UniverseSettings, first: int, last: int, experts: Mapping[str, Expert] = EXPERTS
) -> RegimeRun:
    """The calls at every close in [first, last] (Unix seconds, on the grid of the decision timeframe).

    UnknownInstrument for a universe without candles; moments that cannot be called are in ``skipped``.
    """
    step_s = universe.decision_timeframe_s
    since = first - POOL_REACH_S - 3 * LONGEST_S
    track = read_track(database, tuple(experts), since, last)
    waiting = _waiting(track, first, last)
    earliest = min([first, *(t for moments in waiting.values() for t in moments)])
    grid = _read_grid(database, universe, block_start(earliest) // FIT_S * FIT_S - REACH_S, last)
    fits = Fits(read_fits(database, step_s, first - FIT_S - BLOCK_S, last), experts)
    run = RegimeRun(step_s, track, frozenset(t for t in range(first, last + 1, step_s) if t in track))
    for start, begin, end in blocks(first, last):
        _call(run, grid, start, begin, end, fits, experts)
    run.new_fits = fits.new
    _find_outcomes(run, grid, _waiting(track, first, last), last)
    _find_odds(database, run, first, last)
    return run


def _find_odds(database: Database, run: RegimeRun, first: int, last: int) -> None:
    """The odds that the pool gave before the span, as stored, and in it."""
    run.odds = {horizon_s: UsualOdds() for horizon_s in HORIZONS_S}
    moments, stored = read_expert(database, POOL, first - ODDS_REACH_S, last)
    for t, both in (*zip(moments, stored, strict=True), *((t, run.pooled(t)) for t in run.called)):
        for horizon_s, six in zip(HORIZONS_S, both, strict=True):
            if six[0] > 0:  # not NaN: a horizon that was called
                run.odds[horizon_s].add(t, float(six[0]), float(six[2]))


def _waiting(track: Track, first: int, last: int) -> dict[int, list[int]]:
    """By horizon the moments whose outcome is known by ``last`` and not stored."""
    return {h: [t for t in track.missing_outcomes(h, last) if t >= first - LATE_S] for h in HORIZONS_S}


def _read_grid(database: Database, universe: UniverseSettings, first: int, last: int) -> Grid:
    step_s = universe.decision_timeframe_s
    first = first // step_s * step_s
    instruments = find_instruments(database, universe.venue, universe.symbols)
    series = [read_candles(database, one.id, step_s, first - 1, last) for one in instruments]
    return Grid.of(series, first, step_s, (last - first) // step_s + 1)


def _call(
    run: RegimeRun, grid: Grid, start: int, first: int, last: int, fits: Fits, experts: Mapping[str, Expert]
) -> None:
    """Adds one block's calls to ``run``; where a bar is missing or too few are there, why."""
    moments = range(-(-first // run.timeframe_s) * run.timeframe_s, last + 1, run.timeframe_s)
    try:
        history = index_history(grid, start, last)
    except ShortHistory as short:
        run.skipped += [short] * len(moments)
        return
    called = _callable(run, history, moments)
    if not called:
        return
    block = call_block(grid, start, first, last, fits, experts)
    rows = [int((t - block.as_of[0]) // run.timeframe_s) for t in called]
    run.track.add_calls(called, {name: calls[rows] for name, calls in block.calls.items()})
    run.called += called
    run.instruments |= dict.fromkeys(called, len(history.instruments))


def _callable(run: RegimeRun, history: MarketHistory, moments: Sequence[int]) -> list[int]:
    """The moments that can be called; of the others the reasons go to ``run``."""
    called, present = [], np.cumsum(history.present)
    for t in moments:
        bar = (t - history.first) // run.timeframe_s
        if bar < 0 or not history.present[bar]:
            missing = "no instrument of the index has a candle at this close yet; it is called once there is one"
            run.skipped.append(NoCall(missing))
        elif present[bar] < LEAST_BARS:
            few = f"{present[bar]} bars of history, at least {LEAST_BARS} are needed"
            run.skipped.append(ShortHistory(f"{few}; `make backfill` fetches more"))
        else:
            called.append(t)
    return called


def _find_outcomes(run: RegimeRun, grid: Grid, waiting: Mapping[int, Sequence[int]], last: int) -> None:
    """The outcomes that are known by ``last`` and were not stored, each by the index of its own moment's block."""
    for horizon_s, moments in waiting.items():
        for start in sorted({block_start(t) for t in moments}):
            try:
                history = index_history(grid, start, min(start + BLOCK_S + max(horizon_s, run.timeframe_s), last))
            except ShortHistory:
                continue
            mine = _happened(grid, history, horizon_s, [t for t in moments if block_start(t) == start])
            found = outcomes(history, horizon_s)
            run.new_outcomes += outcome_rows(found, history, horizon_s, mine)
            for t, i in history.rows_of(mine).items():
                run.track.add_outcome(t, horizon_s, (int(found.trend[i]), int(found.volatility[i])))


def _happened(grid: Grid, history: MarketHistory, horizon_s: int, moments: Sequence[int]) -> list[int]:
    """Those of ``moments`` whose horizon is over by the candles, not by the clock: its last bar is there or, within
    LATE_S, a later one, and half of its bars are. Candles that are late or lost are no market at rest."""
    h = history.bars(horizon_s)
    # The pool weighs by an outcome a bar after its last or later, but at once where a bar is longer than the horizon.
    closes = grid.closes(history.instruments, whole=horizon_s >= history.timeframe_s)
    begin, over = (np.array(moments, np.int64) + seconds for seconds in (0, h * history.timeframe_s))
    known = np.append(closes, np.iinfo(np.int64).max)[np.searchsorted(closes, over)] <= begin + LATE_S
    counted = np.searchsorted(closes, over, "right") - np.searchsorted(closes, begin, "right")
    return [t for t, there in zip(moments, (known & (2 * counted >= h)).tolist(), strict=True) if there]
