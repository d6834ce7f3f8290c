"""Past moments that looked like this one to the encoder, and what followed them, as they stood in rows recorded by
then: what shared/analogs.py does for the present, for a prompt that must be built again later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from meta_controller.market_index import DAY_S
from meta_controller.statistics_series import Asset
from meta_controller.statistics_view import View
from shared.analogs import SENT_MOMENT, choose
from shared.clock import from_unix
from shared.db import load_queries
from shared.embeddings import SENT_VECTOR, vector_text
from shared.market_data import MICROSECONDS, POSTGRES_EPOCH_S
from shared.rows import FloatArray

SENT_CLOSE = np.dtype([("moment", ">i4"), ("seconds", ">f8"), ("close", ">f8")])
SEARCHED = 40  # analogs of one asset
LEAST_FOUND = 10
LEAST_SEEN = 0.9  # of the bars around a moment
RETURN_LEVELS, VOLATILITY_LEVELS = (0.1, 0.5, 0.9), (0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True)
class AnalogOutcomes:
    """n past moments, most similar first, each [n]: cosine similarity, the next day's log return in units of a day's
    volatility (that of the week before), and the next day's volatility in multiples of it."""

    similarity: FloatArray
    scaled_return: FloatArray
    volatility_ratio: FloatArray

    def __len__(self) -> int:
        return len(self.similarity)


NOTHING = AnalogOutcomes(np.empty(0), np.empty(0), np.empty(0))


def analog_outcomes(view: View, encoder_id: int, instrument_id: int, timeframe_s: int, k: int) -> AnalogOutcomes:
    """Up to k analogs of what the encoder saw of one instrument at the moment; NOTHING where it saw none.

    Chosen as everywhere (shared.analogs.choose). One whose closes are not there is left out, and not replaced."""
    key = {"model_id": encoder_id, "timeframe_s": timeframe_s}
    seen = view.records("embedding_as_recorded", SENT_VECTOR, instrument_id=instrument_id, **key)
    if not len(seen):
        return NOTHING
    found = view.records(
        "moments_as_recorded", SENT_MOMENT, **key, instrument_ids=_instruments_like(view, instrument_id),
        embedding=vector_text(seen["values"][0].astype(np.float32)), until=view.as_of - timedelta(days=1),
    )  # fmt: skip
    instrument = found["instrument"].astype(np.int64)
    as_of = found["as_of"].astype(np.int64) // MICROSECONDS + POSTGRES_EPOCH_S
    similarity = found["similarity"].astype(np.float64)
    chosen = choose(similarity, instrument, as_of, k)
    followed = _what_followed(view, instrument[chosen].tolist(), as_of[chosen].tolist(), timeframe_s)
    known = ~np.isnan(followed).any(axis=1)
    return AnalogOutcomes(similarity[chosen][known], followed[known, 0], followed[known, 1])


def _instruments_like(view: View, instrument_id: int) -> list[int]:
    """Those of its provenance: what a simulated market did says nothing about a real one."""
    rows = view.database.fetch(load_queries("analogs")["instruments_like"], {"instrument_id": instrument_id})
    return sorted(row["id"] for row in rows)


def _what_followed(view: View, instruments: Sequence[int], moments: Sequence[int], timeframe_s: int) -> FloatArray:
    """Scaled return and volatility ratio of the day after each moment, [n, 2]; NaN where closes are missing."""
    if not moments:
        return np.empty((0, 2))
    sent = view.records("closes_around", SENT_CLOSE, instrument_ids=list(instruments), timeframe_s=timeframe_s,
                        moments=[from_unix(at) for at in moments])  # fmt: skip
    cuts = np.searchsorted(sent["moment"], np.arange(1, len(moments) + 2))
    parts = (sent[cuts[n] : cuts[n + 1]] for n in range(len(moments)))
    return np.array([_day_after(p["seconds"].astype(float), p["close"].astype(float), timeframe_s) for p in parts])


def _day_after(seconds: FloatArray, close: FloatArray, timeframe_s: int) -> tuple[float, float]:
    week, day = 7 * DAY_S // timeframe_s, max(1, DAY_S // timeframe_s)
    before, after = seconds <= 0, seconds >= 0
    whole = 0.0 in seconds and seconds[-1] == day * timeframe_s if len(seconds) else False
    if not whole or before.sum() < LEAST_SEEN * (week + 1) or after.sum() < LEAST_SEEN * (day + 1):
        return np.nan, np.nan
    r_before, r_after = np.diff(np.log(close[before])), np.diff(np.log(close[after]))
    unit = float(np.sqrt(np.mean(r_before**2)))
    if unit <= 0:
        return np.nan, np.nan
    return float(r_after.sum() / (unit * np.sqrt(day))), float(np.sqrt(np.mean(r_after**2)) / unit)


def analogs_section(view: View, encoder_id: int | None, assets: Sequence[Asset], timeframe_s: int) -> Any:
    """What followed the analogs of these assets, taken together: quantiles of the scaled return (10, 50, 90 %) and of
    the volatility ratio (25, 50, 75 %); the word "absent" for fewer than LEAST_FOUND."""
    if encoder_id is None:
        return "absent"
    found = [analog_outcomes(view, encoder_id, asset.instrument_id, timeframe_s, SEARCHED) for asset in assets]
    n = sum(map(len, found))
    if n < LEAST_FOUND:
        return "absent"
    joined = [np.concatenate([getattr(one, name) for one in found]) for name in AnalogOutcomes.__slots__]
    return {
        "n": n,
        "similarity": float(np.mean(joined[0])),
        "ret_24h": np.quantile(joined[1], RETURN_LEVELS).tolist(),
        "vol_x_24h": np.quantile(joined[2], VOLATILITY_LEVELS).tolist(),
    }
