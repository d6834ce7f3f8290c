"""What a look at the stored candles found: the words for it, for people (aligned text) and for machines (JSON)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from candles.quality_checks import Event, Found, Gaps, TimeframesAgree, VenuesAgree

UNITS = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))

LEGEND = """\
missing: candles absent between the first and the last; gaps: holes, of which the venue is known to have no candles.
outliers: returns beyond 20 robust deviations; spikes: the same, taken back at once; stuck: 5 or more equal candles.
revised: changed by more than the rounding of a sum. Differences are relative.
Odd is not wrong: crashes are outliers too. Formulas: candles/quality_checks.py."""


@dataclass(frozen=True, slots=True)
class Revisions:
    """How many times a stored candle was changed, and by how much: prices (the worst few), volume (the most).
    ``of_rounding`` are apart: the same candle, its volume summed in another order."""

    count: int
    of_rounding: int
    worst: tuple[Event, ...]
    largest_volume_change: float


@dataclass(frozen=True, slots=True)
class SeriesQuality:
    """What was found in one series. ``refused``: rows in quarantine by reason ('duplicate' and 'conflict' among
    them: in the table itself a time can be there only once). ``stopped``: others of its venue went on without it."""

    venue: str
    symbol: str
    timeframe_s: int
    first: datetime
    last: datetime
    rows: int
    gaps: Gaps
    outliers: Found
    spikes: Found
    stuck: Found
    zero_volume: int
    revisions: Revisions
    refused: dict[str, int]
    stopped: bool

    @property
    def duplicates(self) -> int:
        return self.refused.get("duplicate", 0) + self.refused.get("conflict", 0)

    @property
    def name(self) -> str:
        return series_name(self.venue, self.symbol, self.timeframe_s)


@dataclass(frozen=True, slots=True)
class TimeframesCompared:
    venue: str
    symbol: str
    found: TimeframesAgree


@dataclass(frozen=True, slots=True)
class VenuesCompared:
    """``one`` and ``other`` are venue and symbol."""

    one: str
    other: str
    timeframe_s: int
    found: VenuesAgree


@dataclass(frozen=True, slots=True)
class Quarantined:
    venue: str
    symbol: str
    timeframe_s: int
    reason: str
    rows: int


@dataclass(frozen=True, slots=True)
class Report:
    at: datetime
    series: list[SeriesQuality]
    timeframes: list[TimeframesCompared]
    venues: list[VenuesCompared]
    quarantined: list[Quarantined]
    alerts: list[str]

    def totals(self) -> dict[str, int]:
        found = self.series
        return {
            "series": len(found),
            "candles": sum(s.rows for s in found),
            "gaps": sum(s.gaps.count for s in found),
            "gaps_known": sum(s.gaps.known for s in found),
            "missing": sum(s.gaps.missing for s in found),
            "outliers": sum(s.outliers.count for s in found),
            "spikes": sum(s.spikes.count for s in found),
            "stuck": sum(s.stuck.count for s in found),
            "zero_volume": sum(s.zero_volume for s in found),
            "revisions": sum(s.revisions.count for s in found),
            "revisions_of_rounding": sum(s.revisions.of_rounding for s in found),
            "duplicates": sum(s.duplicates for s in found),
            "quarantined": sum(q.rows for q in self.quarantined),
            "differ_from_finer": sum(t.found.prices_differ + t.found.volumes_differ for t in self.timeframes),
            "stopped": sum(s.stopped for s in found),
        }


def as_json(report: Report) -> str:
    return json.dumps(asdict(report) | {"totals": report.totals()}, default=lambda at: at.isoformat())


def as_text(report: Report) -> str:
    """Tables for a person: one line a series, then what is worth a look."""
    if not report.series and not report.quarantined:
        return "No candles are stored yet; run `make backfill` or `make import-csv FILE=…`."
    parts = [
        ("Candles", _coverage(report.series)),
        ("What is odd in them", _oddities(report.series)),
        ("Worth a look, by close (the worst three of each)", list(_events(report.series))),
        ("Candles made of finer ones, against the stored ones", _timeframes(report.timeframes)),
        ("The same asset on two venues: |ln(close / close)|", _venues(report.venues)),
        ("Refused rows in the quarantine", [_refused_line(q) for q in report.quarantined]),
    ]
    texts = [f"{title}\n{_align(rows)}" for title, rows in parts if rows]
    texts += ["Alerts\n" + "\n".join(f"  {alert}" for alert in report.alerts)] if report.alerts else []
    return "\n\n".join([*texts, LEGEND])


def series_name(venue: str, symbol: str, timeframe_s: int) -> str:
    return f"{venue} {symbol} {duration(timeframe_s)}"


def duration(seconds: int) -> str:
    """In its two largest units: 5m, 2h, 163d 23h."""
    parts = []
    for size, unit in UNITS:
        if seconds >= size:
            parts.append(f"{seconds // size}{unit}")
            seconds %= size
    return " ".join(parts[:2]) or "0s"


def move(ln_ratio: float) -> str:
    """A change of price: +12.3%, or by which factor where a percentage says little: ×6.8, ÷20,000."""
    if abs(ln_ratio) < math.log(2):
        return f"{math.expm1(ln_ratio):+.1%}"
    factor = math.exp(abs(ln_ratio))
    return f"{'×' if ln_ratio > 0 else '÷'}{factor:,.{1 if factor < 100 else 0}f}"


def _coverage(series: Sequence[SeriesQuality]) -> list[list[str]]:
    rows = [["series", "from", "to", "candles", "missing", "share", "gaps", "known", "longest"]]
    for s in series:
        g = s.gaps
        counts = [f"{s.rows:,}", f"{g.missing:,}", f"{g.share:.2%}", f"{g.count:,}", f"{g.known:,}"]
        longest = duration(g.longest * s.timeframe_s) if g.longest else "-"
        rows.append([s.name, f"{s.first:%Y-%m-%d}", _time(s.last), *counts, longest])
    return rows[len(rows) == 1 :]


def _oddities(series: Sequence[SeriesQuality]) -> list[list[str]]:
    rows = [["series", "outliers", "spikes", "stuck", "no volume", "revised", "duplicates", "refused", ""]]
    for s in series:
        counts = [s.outliers.count, s.spikes.count, s.stuck.count, s.revisions.count, s.duplicates]
        shown = [f"{n:,}" for n in (*counts, sum(s.refused.values()))]
        shown.insert(3, f"{s.zero_volume / s.rows:.2%}")
        rows.append([s.name, *shown, "stopped" if s.stopped else ""])
    return rows[len(rows) == 1 :]


def _events(series: Sequence[SeriesQuality]) -> Iterator[list[str]]:
    for s in series:
        if s.gaps.longest_after:
            length = duration(s.gaps.longest * s.timeframe_s)
            yield [s.name, "longest gap", f"{length} after {_time(s.gaps.longest_after)}"]
        for kind, events in (("outliers", s.outliers.worst), ("spikes", s.spikes.worst)):
            if events:
                yield [s.name, kind, ", ".join(f"{_time(e.at)} {move(e.size)}" for e in events)]
        if s.stuck.worst:
            runs = (f"{e.size:.0f} candles to {_time(e.at)}" for e in s.stuck.worst)
            yield [s.name, "stuck", ", ".join(runs)]
        if s.revisions.count:
            prices = [f"{_time(e.at)} {e.size:.2%}" for e in s.revisions.worst]
            yield [s.name, "revised", ", ".join([*prices, f"volume by up to {s.revisions.largest_volume_change:.2%}"])]


def _timeframes(compared: Sequence[TimeframesCompared]) -> list[list[str]]:
    rows = [["series", "made of", "compared", "prices differ", "worst", "volumes differ", "worst"]]
    for c in compared:
        f = c.found
        counts = [f"{f.common:,}", f"{f.prices_differ:,}", _worst(f.worst_price)]
        counts += [f"{f.volumes_differ:,}", _worst(f.worst_volume)]
        rows.append([series_name(c.venue, c.symbol, f.coarser_s), duration(f.finer_s), *counts])
    return rows[len(rows) == 1 :]


def _venues(compared: Sequence[VenuesCompared]) -> list[list[str]]:
    rows = [["venue", "and venue", "every", "compared", "median", "99 %", "over 1 %", "worst hour"]]
    for c in compared:
        f = c.found
        shares = [f"{f.median:.3%}", f"{f.percentile_99:.3%}", f"{f.far_apart:.2%}", _worst(f.worst_hour)]
        rows.append([c.one, c.other, duration(c.timeframe_s), f"{f.common:,}", *shares])
    return rows[len(rows) == 1 :]


def _refused_line(q: Quarantined) -> list[str]:
    return [series_name(q.venue, q.symbol, q.timeframe_s), q.reason, f"{q.rows:,}"]


def _worst(event: Event | None) -> str:
    return f"{event.size:.2%} at {_time(event.at)}" if event else "-"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"


def _align(rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart; those that hold numbers only are flush right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [_numeric(column[1:] or column) for column in columns]
    cells = ([f"{c:>{w}}" if r else f"{c:<{w}}" for c, w, r in zip(row, widths, right, strict=True)] for row in rows)
    return "\n".join("  " + "  ".join(row).rstrip() for row in cells)


def _numeric(column: Sequence[str]) -> bool:
    return all(cell.rstrip("%").replace(",", "").replace(".", "").isdigit() for cell in column)
