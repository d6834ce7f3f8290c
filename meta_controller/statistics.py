"""The table of statistics that the language model is shown: a pure function of rows, rounded, in a fixed order.

Anonymous by default: assets are numbers, there is no date, price or volume, and everything is in units of its own past.
With many assets (more than MOST_SHOWN) each of their numbers is shown as [lowest, median, highest].
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from meta_controller.llm_memory import Memory, State, state_embedding
from meta_controller.scoring import llm_scorecard
from meta_controller.statistics_analogs import analogs_section
from meta_controller.statistics_context import (
    ABSENT,
    base_rates_section,
    book_section,
    calls_section,
    happened_section,
    news_section,
    onchain_section,
    steering_section,
    trust_section,
)
from meta_controller.statistics_series import across, asset_section, market_section, shortened
from meta_controller.statistics_view import Market, View

MOST_SHOWN = 4  # assets one by one
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class PromptInputs(BaseModel):
    """The settings that shape a prompt, as stored in llm_calls.inputs: with these and the rows it can be built again,
    whatever the settings say later. ``encoder_id``: whose embeddings were in use (None: no encoder's)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    venue: str
    symbols: tuple[str, ...] = Field(min_length=1)
    timeframe_s: int = Field(gt=0)
    prompt: str = Field(pattern=r"^[a-z]+\.v[0-9]+$")
    prompt_file_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    anonymous: bool
    strategies: tuple[str, ...] = Field(min_length=1)
    limits: dict[str, float]  # the operator's, of steering
    onchain_metrics: tuple[str, ...]
    memories: int = Field(ge=0)
    model: str
    answer_format: str
    max_tool_calls: int = Field(ge=0)
    embedder: str
    encoder_id: int | None


def table(view: View, market: Market, inputs: PromptInputs) -> dict[str, Any]:
    """The statistics, without memories."""
    shown = {
        "time": time_section(view.as_of, inputs.anonymous),
        "market": {"assets": len(market.assets)} | market_section(market.history, market.assets),
        "assets": assets_section(market, inputs.anonymous),
        "experts": calls_section(view),
        "base_rates": base_rates_section(view),
        "happened": happened_section(view),
        "steering": steering_section(view, inputs.strategies, inputs.limits),
        "book": book_section(view),
        "trust": trust_section(view, inputs.model, inputs.prompt),
        "scorecard": scorecard_section(view, inputs),
        "news": news_section(view),
        "onchain": onchain_section(view, inputs.onchain_metrics),
        "analogs": analogs_section(view, inputs.encoder_id, market.assets[:MOST_SHOWN], inputs.timeframe_s),
        "tool_calls": inputs.max_tool_calls,
    }
    return {key: shortened(part) for key, part in shown.items()}


def scorecard_section(view: View, inputs: PromptInputs) -> dict[str, Any] | str:
    return llm_scorecard(view.database, view.recorded_by, view.as_of, inputs.model, inputs.prompt) or ABSENT


def state_of(view: View, market: Market, inputs: PromptInputs) -> State | None:
    """What the encoder saw of the market's assets; None where there is none, or it saw nothing."""
    if inputs.encoder_id is None:
        return None
    ids = sorted(asset.instrument_id for asset in market.assets)
    return state_embedding(view.database, ids, inputs.timeframe_s, view.as_of, view.recorded_by, inputs.encoder_id)


def with_memories(statistics: Mapping[str, Any], memories: Sequence[Memory]) -> dict[str, Any]:
    return {**statistics, "memories": shortened([memory.shown for memory in memories]) or ABSENT}


def time_section(as_of: datetime, anonymous: bool) -> dict[str, Any] | str:
    """The hour of the week, which markets know; the date only where asked for."""
    if anonymous:
        return {"weekday": WEEKDAYS[as_of.weekday()], "hour_utc": as_of.hour}
    return f"{as_of:%Y-%m-%dT%H:%M}Z"


def assets_section(market: Market, anonymous: bool) -> dict[str, Any]:
    """Each asset by its name; of more than MOST_SHOWN [lowest, median, highest] of each number over all of them."""
    sections = [asset_section(asset, market.timeframe_s) for asset in market.assets]
    if len(sections) > MOST_SHOWN:
        shown = {f"lowest, median, highest of {len(sections)}": across(sections)}
    else:
        shown = dict(zip(asset_names(market, anonymous), sections, strict=True))
        if not anonymous:
            for asset, section in zip(market.assets, sections, strict=True):
                section["price"] = f"{asset.close:.6g}"
    return shown | ({"without_data": market.missing} if market.missing else {})


def asset_names(market: Market, anonymous: bool) -> list[str]:
    if not anonymous:
        return [asset.symbol for asset in market.assets]
    return [f"asset {n}" for n in range(1, len(market.assets) + 1)]


TREND_WORDS = ((-2.0, "falling-hard"), (-0.75, "falling"), (0.75, "flat"), (2.0, "rising"))
VOLATILITY_WORDS = ((20.0, "very-quiet"), (100 / 3, "quiet"), (200 / 3, "usual"), (90.0, "wild"))
DRAWDOWN_WORDS = ((-10.0, "far-below"), (-3.0, "below"), (-0.5, "near"))


def in_words(statistics: Mapping[str, Any]) -> str:
    """The state in words of fixed vocabulary, for a text embedding: alike states share words."""
    market = statistics["market"]
    words = [f"trend-{span} {_word(t, TREND_WORDS, 'rising-hard')}" for span, t in market["t"].items()]
    words += [
        f"volatility-{span} {_word(v['pct'], VOLATILITY_WORDS, 'very-wild')}" for span, v in market["vol"].items()
    ]
    words += [f"high-{span} {_word(x, DRAWDOWN_WORDS, 'at')}" for span, x in market["below_high"].items()]
    if statistics["experts"] != ABSENT:
        for horizon, calls in statistics["experts"].items():
            for expert, p in calls.items():
                trend, volatility = _most_likely(p[:3], "down flat up"), _most_likely(p[3:], "low mid high")
                words.append(f"{expert}-{horizon} {trend} {volatility}")
    if statistics["news"] != ABSENT:
        mood = ((-0.2, "bad"), (0.2, "neutral"))
        words += [f"news-{topic} {_word(said[1], mood, 'good')}" for topic, said in statistics["news"].items()]
    return re.sub(r"\s+", " ", " ; ".join(words))


def _word(value: float | None, words: Sequence[tuple[float, str]], beyond: str) -> str:
    if value is None:
        return "unknown"
    return next((word for limit, word in words if value <= limit), beyond)


def _most_likely(p: Sequence[float], names: str) -> str:
    return names.split()[max(range(3), key=lambda n: p[n])]
