"""What becomes of each candle of one symbol: it is stored, asked anew, or suspected. Pure: news and time are passed in.

Two times are passed: ``now`` is the clock's (Unix seconds; candles open and close by it), ``monotonic`` counts real
seconds (waiting goes by it; a rehearsal's virtual clock may run two thousand times as fast).

A stream is believed for a candle only if it was whole during all of it; whatever it may have lost is read from the
venue's REST service, whose word is final. Neither is believed at once when it says something absurd.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from candles.intake import Refused, describe
from candles.spikes import SPIKE, SPIKE_FACTOR
from candles.validate import KEPT, REASONS, reason_codes
from shared.exchanges.protocol import BookTop, CandleUpdate
from shared.rows import CANDLE_FIELDS, Candles

CONFIRMED_DECISIONS = 2  # decision intervals whose candles are read again at each boundary
READINGS = 2  # that must agree before a hole, or an absurd candle, is the venue's truth
REFUSALS = 10  # readings that refuse the same candle, before it counts as one that the venue does not have
CONFIRM_TRIES = 4  # answers that lack what is stored, before a confirmation is left to the next boundary

Row = tuple[float, ...]  # one candle, as CANDLE_FIELDS


@dataclass(frozen=True, slots=True)
class Pace:
    """``grace_s`` and ``patience_s`` are real seconds: after a close without news, and the longest between two asks."""

    timeframe_s: int
    decision_s: int
    grace_s: float
    patience_s: float
    depth: int | None = None  # candles that the venue serves

    @property
    def confirmed_s(self) -> int:
        return max(CONFIRMED_DECISIONS * self.decision_s, 3 * self.timeframe_s)


@dataclass(frozen=True, slots=True)
class Span:
    """A question to the venue: its candles with since < as_of <= until."""

    since: int
    until: int


@dataclass(slots=True)
class Verdict:
    """What an answer comes to: candles to write (oldest first), what to quarantine, and what to count."""

    store: Candles = field(default_factory=Candles.empty)
    refused: list[Refused] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    believed: list[str] = field(default_factory=list)  # absurd candles that were read twice, in words
    given_up: list[str] = field(default_factory=list)  # candles refused so often that they count as absent, in words
    again: Candles = field(default_factory=Candles.empty)  # as remembered; but others write into the table, too


@dataclass(frozen=True, slots=True)
class _Suspect:
    row: Row
    seen_at: float


class SeriesState:
    """``known`` is the close up to which each candle is stored, on its way there, or denied by the venue.

    ``stored`` is the end of the series, oldest first; of a series without candles the first one that is read is the
    first there is.
    """

    def __init__(self, pace: Pace, known: int, stored: Candles | None = None) -> None:
        self.pace, self.known = pace, known
        self._recent: dict[int, Row] = {} if stored is None else {int(row[0]): row for row in _rows(stored)}
        self._first = min(self._recent, default=None)
        self._ready: list[Row] = []
        self._refused: list[Refused] = []
        self._counts: Counter[str] = Counter()
        # the stream
        self._current: CandleUpdate | None = None
        self._current_whole = False
        self._whole_from: float | None = None
        self._mid: float | None = None
        self._begun = 0  # an interval is known to have begun then: what closed by then is closed for sure
        # asking
        self._late_since: float | None = float("-inf")  # what closed before the start is asked at once
        self._wait_s, self._not_before = pace.grace_s, float("-inf")
        self._suspects: dict[int, _Suspect] = {}
        self._holes: Counter[int] = Counter()  # readings by the close that they lacked
        self._refusals: Counter[int] = Counter()  # readings in a row by the close that was refused in them
        self._confirm, self._confirm_tries, self._boundary = True, 0, 0

    # --- what the stream says ---

    def connected(self, now: float) -> None:
        """Subscribed: candles that open from now on will be whole; what was before is read again."""
        self._current, self._current_whole, self._whole_from = None, False, now
        self._confirm_soon()

    def lost(self) -> None:
        self._current, self._current_whole, self._whole_from, self._mid = None, False, None, None

    def doubt(self, now: float) -> None:
        """Something was wrong: the candle that is open now cannot be taken from the stream."""
        self._current_whole = False
        self._whole_from = None if self._whole_from is None else now

    def quoted(self, top: BookTop) -> None:
        self._mid = (top.bid + top.ask) / 2 if 0 < top.bid <= top.ask else None

    def saw(self, update: CandleUpdate) -> bool:
        """Whether it begins an interval, which closes the one before."""
        current = self._current
        if current is None or update.opened > current.opened:
            self._begin(update, first=current is None)
            return True
        if update.opened < current.opened:
            self._counts["late"] += 1
            self._confirm_soon()
        elif (update.trades, update.volume) < (current.trades, current.volume):  # both only grow while it is open
            self._counts["backwards"] += 1
            self._current_whole = False
        else:
            self._current = update
        return False

    def _begin(self, update: CandleUpdate, first: bool) -> None:
        if self._current is not None:
            self._close(self._current)
            self._counts["skipped"] += update.opened > self._current.opened + self.pace.timeframe_s
        self._current = update
        self._current_whole = not first and self._whole_from is not None and update.opened >= self._whole_from
        self._begun = max(self._begun, update.opened)

    def _close(self, update: CandleUpdate) -> None:
        """Takes a candle that was whole and follows what is known; anything else stays to be asked."""
        as_of = update.opened + self.pace.timeframe_s
        if as_of != self.known + self.pace.timeframe_s or not self._current_whole:
            return
        prices = (update.open, update.high, update.low, update.close)
        row: Row = (as_of, *prices, update.volume, update.trades)
        (code,) = reason_codes(_candles([row]), self.pace.timeframe_s, as_of)
        reason = SPIKE if code == KEPT and self._is_absurd(row, newest=True) else None
        reason = reason if code == KEPT else REASONS[code - 1]
        if reason is None:
            self._ready.append(row)
            self._remember(row)
        else:
            self._refused.append(Refused(reason, _describe(row)))
            self._counts[reason] += 1

    def take(self, now: float) -> Verdict:
        """What the stream closed for sure by now, and what was wrong in it; each is handed out once."""
        due = [row for row in self._ready if row[0] <= now]  # none from our future, should the clocks disagree
        self._ready = [row for row in self._ready if row[0] > now]
        verdict = Verdict(_candles(due), self._refused, self._counts)
        self._refused, self._counts = [], Counter()
        return verdict

    def holds(self, now: float) -> bool:
        """Whether ``take`` has something to hand out."""
        return bool(self._refused) or any(row[0] <= now for row in self._ready)

    # --- what to ask ---

    def pending(self, now: float) -> bool:
        """Whether something that closed by now is still to be asked, or asked again."""
        return self._confirm or self.known < int(now) // self.pace.timeframe_s * self.pace.timeframe_s

    def ask(self, now: float, monotonic: float) -> Span | None:
        """What to read from the venue at this moment; None: nothing yet."""
        step = self.pace.timeframe_s
        closed = int(now) // step * step
        boundary = closed // self.pace.decision_s * self.pace.decision_s
        if boundary != self._boundary:  # an earlier one, too: a clock that was ahead is right again
            self._boundary = boundary
            self._confirm_soon()
        if self._whole_from is not None:
            self._whole_from = min(self._whole_from, now)
        if self.known >= closed:
            self._late_since = None
            wanted = self._confirm
        else:
            if self._late_since is None:
                self._late_since = monotonic
            wanted = self._begun > self.known or monotonic - self._late_since >= self.pace.grace_s
        if not wanted or monotonic < self._not_before:
            return None
        since = self.known
        if self._confirm:
            # After a long absence what the stream told just before it was not read again yet.
            far_behind = self._first is not None and self.known < closed - self.pace.decision_s
            newest = self.known if far_behind else closed
            since = min(since, newest - self.pace.confirmed_s, *(hole - step for hole in self._holes))
        if self.pace.depth is not None:
            since = max(since, closed - self.pace.depth * step)
        return Span(since, closed)

    def failed(self, monotonic: float, slow: bool = False) -> None:
        """The question had no answer: the next one waits, twice as long each time; ``slow`` is for lasting troubles."""
        self._not_before = monotonic + (10 * self.pace.patience_s if slow else self._wait_s)
        self._wait_s = min(2 * self._wait_s, self.pace.patience_s)

    def _confirm_soon(self) -> None:
        self._confirm, self._confirm_tries = True, 0

    # --- what the venue answers ---

    def answered(self, span: Span, candles: Candles, now: float, monotonic: float) -> Verdict:
        """Judges an answer to ``ask``: what is new follows in order, what differs from the stored is a revision."""
        verdict = self.take(now)
        refused: dict[int, str] = {}
        rows = self._sound_rows(span, candles, now, verdict, refused)
        if span.since > self.known and rows:  # an empty answer proves nothing: our clock may be days ahead
            verdict.counts["out_of_reach"] += (span.since - self.known) // self.pace.timeframe_s
            self.known = span.since
        damaged = self._is_damage(refused)
        kept = {int(row[0]): row for row in _rows(verdict.store)}
        again = []
        for row in rows:
            before = self._recent.get(int(row[0]))
            if before is not None and before[:-1] == row[:-1]:  # trades may be told by the stream and not here
                again += [row] if row[0] not in kept else []
            elif self._follows(row, damaged) and self._is_believed(row, span, monotonic, verdict, refused):
                kept[int(row[0])] = row
                self._accept(row, verdict)
        verdict.again = _candles(again)
        verdict.store = _candles([kept[close] for close in sorted(kept)])
        self._settle(span, rows, refused, monotonic, verdict)
        return verdict

    def _sound_rows(
        self, span: Span, candles: Candles, now: float, verdict: Verdict, refused: dict[int, str]
    ) -> list[Row]:
        codes = reason_codes(candles, self.pace.timeframe_s, int(now))
        for index in np.flatnonzero(codes != KEPT).tolist():
            reason, text = REASONS[codes[index] - 1], describe(candles, index)
            verdict.refused.append(Refused(reason, text))
            verdict.counts[reason] += 1
            refused[int(candles.as_of[index])] = text
        fits = (codes == KEPT) & (candles.as_of > span.since) & (candles.as_of <= span.until)
        rows = sorted(_rows(candles[fits]))
        if self._first is None and rows:
            self._first = int(rows[0][0])
            self.known = self._first - self.pace.timeframe_s
        return [row for row in rows if row[0] >= (self._first or 0)]

    def _is_damage(self, refused: dict[int, str]) -> bool:
        """Whether what was refused may be sound the next time, or hides something: not if it always is refused."""
        return any(self._refusals[close] + 1 < REFUSALS for close in refused)

    def _follows(self, row: Row, damaged: bool) -> bool:
        """Whether nothing that may exist is missing before it."""
        return row[0] <= self.known + self.pace.timeframe_s or self._denied(int(row[0]), damaged)

    def _is_believed(self, row: Row, span: Span, monotonic: float, verdict: Verdict, refused: dict[int, str]) -> bool:
        as_of = int(row[0])
        newest = as_of == span.until and as_of > self.known  # the book tells the present price only
        if self._is_absurd(row, newest):
            text = _describe(row)
            if not self._read_twice(row, monotonic):
                verdict.refused.append(Refused(SPIKE, text))
                verdict.counts[SPIKE] += 1
                refused[as_of] = text
                return False
            verdict.believed.append(text)
        return True

    def _accept(self, row: Row, verdict: Verdict) -> None:
        as_of = int(row[0])
        verdict.counts["repaired"] += as_of not in self._recent and as_of <= self.known
        self._suspects.pop(as_of, None)
        self._holes.pop(as_of, None)
        self._remember(row)

    def _denied(self, as_of: int, damaged: bool) -> bool:
        """Whether the candles between ``known`` and this one may be taken not to exist: read often enough, each time
        without them. A damaged answer says nothing about what it lacks."""
        missing = range(self.known + self.pace.timeframe_s, as_of, self.pace.timeframe_s)
        return not damaged and all(self._holes[close] + 1 >= READINGS for close in missing)

    def _read_twice(self, row: Row, monotonic: float) -> bool:
        as_of = int(row[0])
        before = self._suspects.get(as_of)
        if before is None or before.row != row:
            self._suspects[as_of] = _Suspect(row, monotonic)
            return False
        return monotonic - before.seen_at >= self.pace.grace_s

    def _settle(self, span: Span, rows: list[Row], refused: dict[int, str], monotonic: float, verdict: Verdict) -> None:
        """Sets when to ask again: at once, later, or at the next close."""
        damaged = self._is_damage(refused)
        self._refusals = Counter({close: self._refusals[close] + 1 for close in refused})
        sound = {int(row[0]) for row in rows if row[0] in self._recent}
        verdict.given_up = [
            text for close, text in refused.items() if self._refusals[close] == REFUSALS and close not in sound
        ]
        step = self.pace.timeframe_s
        given = {int(row[0]) for row in rows}
        newest = max(given, default=span.since)
        if not damaged:
            oldest = max(span.since + step, self._first or newest)
            lacking = set(range(oldest, newest, step)) - (given - refused.keys()) - self._recent.keys()
            self._holes.update(lacking)
            verdict.counts["hole"] += sum(self._holes[close] == READINGS for close in lacking)
        self._forget(span.until)
        if self._confirm:
            stored = {close for close in self._recent if span.since < close <= span.until}
            self._confirm_tries += 1
            verdict.counts["lacking"] += not stored <= given  # the venue left out what it has told before
            whole = not damaged and stored <= given
            self._confirm = not (whole or self._confirm_tries >= CONFIRM_TRIES)
            if not self._confirm and not whole:
                verdict.counts["unconfirmed"] += 1
        if self.known < span.until:
            self._late_since = float("-inf")  # it has been waited for
        if self.known >= span.until and not self._confirm:
            self._wait_s, self._not_before = self.pace.grace_s, float("-inf")
        else:
            self.failed(monotonic)

    # --- memory ---

    def _remember(self, row: Row) -> None:
        self._recent[int(row[0])] = row
        if row[0] > self.known:
            self.known, self._late_since = int(row[0]), None

    def _forget(self, until: int) -> None:
        """Keeps what the next confirmation reads again, and the close before it."""
        oldest = min(until, self.known) - 2 * self.pace.confirmed_s  # holes count until what follows them is believed
        self._recent = {close: row for close, row in self._recent.items() if close >= oldest}
        self._suspects = {close: suspect for close, suspect in self._suspects.items() if close >= oldest}
        self._holes = Counter({close: n for close, n in self._holes.items() if close >= oldest})

    def _reference(self, as_of: int) -> float | None:
        """The newest close before that one."""
        before = as_of - self.pace.timeframe_s
        if before not in self._recent:
            before = max((close for close in self._recent if close < as_of), default=0)
        return self._recent[before][4] if before else None

    def _is_absurd(self, row: Row, newest: bool) -> bool:
        _, _, high, low, close, *_ = row
        reference = self._reference(int(row[0]))
        if reference is not None and _far(reference, high, low, close):
            return True
        return newest and self._mid is not None and _far(self._mid, close)


def _far(reference: float, *prices: float) -> bool:
    return max(prices) > reference * SPIKE_FACTOR or min(prices) * SPIKE_FACTOR < reference


def _rows(candles: Candles) -> list[Row]:
    return list(zip(*(getattr(candles, name).tolist() for name in CANDLE_FIELDS), strict=True))


def _candles(rows: list[Row]) -> Candles:
    return Candles.from_columns(list(zip(*rows, strict=True))) if rows else Candles.empty()


def _describe(row: Row) -> str:
    return describe(_candles([row]), 0)
