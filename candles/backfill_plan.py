"""Which questions to ask for what is missing, which way each goes, and what to tell the user about it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from candles.gaps import NO_SPANS, Known, Spans, clip_spans, missing_spans, plan_pages
from shared.clock import from_unix
from shared.exchanges.protocol import BuildsFromTrades, Capabilities, Exchange
from shared.settings import TIMEFRAMES

DEFAULT_HISTORY_S = 30 * 86_400
CANDLES_A_REQUEST = 8_640  # where the venue has no limit of its own
OVERLAP = 4  # candles at the end of what is stored that are asked again: venues revise them
SETTLING = 2  # candles that a venue may still be late with: their absence proves nothing yet
MARGIN = 2  # candles at the far end of a venue's depth that may go out of reach while it is asked
TRADES_CHUNK_S = 7 * 86_400  # newest week first; long enough that a quiet symbol's pages are not cut short
TRADES_BRIDGE_S = 4 * 3_600
LOOK_EVERY_S = 3_600

ARCHIVES = {"kraken": "Kraken's OHLCVT archive"}


@dataclass(frozen=True, slots=True)
class Way:
    """How missing candles are come by: pages of candles, pages of trades (spans, newest first), or not at all."""

    candles: list[tuple[int, int]]
    trades: list[tuple[int, int]]
    out_of_reach: Spans


def default_start(last: int | None, until: int, timeframe_s: int) -> int:
    """Where a run begins to look that was not told: 30 days back, or before the last stored candle."""
    start = until - DEFAULT_HISTORY_S
    return start if last is None else min(start, last - OVERLAP * timeframe_s)


def known_start(known: Known, after: int, last: int, timeframe_s: int) -> int:
    """``after``, or where the series begins if that is later: its first stored candle, or the first one that the venue
    was asked for. Nobody asked for what lies before."""
    first = int(known.held[0]) - timeframe_s if len(known.held) else last
    return max(after, int(min([first, *known.checked[:, 0]])))


def inside_start(known: Known, after: int) -> int:
    """``after``, or the first stored candle if that is earlier: a hole inside the series has no age."""
    return min(after, int(known.held[0])) if len(known.held) else after


def is_live(last: int | None, until: int, timeframe_s: int) -> bool:
    """Whether a run may simply go on after ``last``, without a look at what lies behind it: not at full hours, and not
    after more than OVERLAP candles without news; a killed run may have left holes."""
    return last is not None and until - last <= OVERLAP * timeframe_s and until % LOOK_EVERY_S != 0


def wanted_spans(known: Known, followed: int | None, after: int, until: int, timeframe_s: int) -> Spans:
    """What to ask for in (after, until]. A run that follows the live end, whose last stored close is ``followed``,
    asks the last stored candles again."""
    missing = missing_spans(known.held, known.checked, after, until, timeframe_s)
    if followed is None or followed not in missing[:, 0]:  # what follows is not missing, or was asked for in vain
        return missing
    held = known.held[known.held <= followed - OVERLAP * timeframe_s]
    return missing_spans(held, known.checked, after, until, timeframe_s)


def choose_way(missing: Spans, latest: int, timeframe_s: int, exchange: Exchange) -> Way:
    """``latest``: the last close by now, from which the venue's depth counts."""
    can = exchange.capabilities
    page_s = (can.candle_page or CANDLES_A_REQUEST) * timeframe_s
    reach = reach_of(can, latest, timeframe_s)
    if reach is None or not len(missing) or missing[0, 0] >= reach:
        return Way(plan_pages(missing, page_s, page_s), [], NO_SPANS)
    last = int(missing[-1, 1])
    candles = plan_pages(clip_spans(missing, reach, max(reach, last)), page_s, page_s)
    if not isinstance(exchange, BuildsFromTrades):
        return Way(candles, [], clip_spans(missing, int(missing[0, 0]), reach))
    # MARGIN: what went out of reach meanwhile leaves no hole between the two ways.
    deep = clip_spans(missing, int(missing[0, 0]), reach + MARGIN * timeframe_s)
    return Way(candles, plan_pages(deep, TRADES_CHUNK_S, TRADES_BRIDGE_S), NO_SPANS)


def reach_of(can: Capabilities, latest: int, timeframe_s: int) -> int | None:
    """The moment after which the venue serves candles; None: all there ever were."""
    return None if can.candle_depth is None else latest - can.candle_depth * timeframe_s


def proven_from(can: Capabilities, latest: int, timeframe_s: int, since: int, first: int | None) -> int | None:
    """From when on an answer about candles after ``since`` is complete; ``first`` is its first close, if any.

    Near the far end of a venue's depth only what it served proves anything; None: nothing does.
    """
    reach = reach_of(can, latest, timeframe_s)
    if reach is None or since > reach + MARGIN * timeframe_s:
        return since
    return None if first is None else max(since, first - timeframe_s)


def settled_until(asked_at: int, last: int, timeframe_s: int) -> int:
    """Up to when the absence of a candle is a finding: at once between two candles, by whole days after the last
    one, so that a dead symbol is not written about every few minutes."""
    settled = asked_at - SETTLING * timeframe_s
    return settled if settled < last else max(last, settled // 86_400 * 86_400)


def tell_way(exchange: Exchange, symbol: str, latest: int, timeframe_s: int, way: Way) -> str:
    """One sentence for the user: what the venue serves, and what becomes of the older ones; '' where it serves all."""
    if not way.trades and not len(way.out_of_reach):
        return ""
    venue, can = exchange.name, exchange.capabilities
    reach = reach_of(can, latest, timeframe_s)
    assert reach is not None
    names = {seconds: name for name, seconds in TIMEFRAMES.items()}
    name = names.get(timeframe_s, f"{timeframe_s} s")
    served = f"{venue} serves its latest {can.candle_depth} {name} candles, from {from_unix(reach + timeframe_s)}"
    archive = ARCHIVES.get(venue)
    if not way.trades:
        other = f"{archive}, or any candle file" if archive else "a candle file of another source"
        return f"{symbol}: {served}; older ones are out of reach: `make import-csv FILE=…` takes {other}"
    quicker = (
        f"; quicker: download {archive} and `make import-csv FILE={venue.capitalize()}_OHLCVT.zip`" if archive else ""
    )
    days = sum(until - since for since, until in way.trades) / 86_400
    return f"{symbol}: {served}; older ones ({days:.1f} days) are built from its trades{quicker}"


def tell_estimate(symbol: str, covered_s: int, requests: int, total_s: int, requests_per_s: float) -> str:
    """How long the trades will take, learnt from the first ``requests``, which covered ``covered_s`` of time."""
    total = math.ceil(total_s / max(covered_s, 1) * requests)
    minutes = total / requests_per_s / 60
    return f"{symbol}: about {total} requests for its trades, {minutes:.0f} minutes at {requests_per_s:g} a second"
