"""What the language model may look up: read-only, anonymous like the table, short, and as of the same moment from rows
recorded by the same moment."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np

from meta_controller.llm import Tool, ToolError
from meta_controller.statistics import PromptInputs
from meta_controller.statistics_analogs import analog_outcomes
from meta_controller.statistics_context import (
    ABSENT,
    MOST_CHAINS,
    TRACKS,
    book_section,
    chain_figures,
    daily_returns,
    news_section,
    z_scores,
)
from meta_controller.statistics_series import Asset, scale, shortened
from meta_controller.statistics_view import Market, View, read_market
from shared.db import Database

Arguments = dict[str, Any]

MOST_HOURS = 168
MOST_BARS = 168
MOST_ANALOGS = 20
MOST_FIGURES = 30
LONGEST_RESULT = 4000  # characters


def read_only_tools(
    database: Database, inputs: PromptInputs, as_of: datetime, recorded_by: datetime
) -> tuple[Tool, ...]:
    """The tools for one moment; what there can be nothing of (no encoder, no metrics wanted) is not offered.

    Each answers compact JSON of at most LONGEST_RESULT characters, with nulls for what is unknown, and raises ToolError
    for arguments outside what its schema says.
    """
    rows = Rows(View(database, as_of, recorded_by), inputs)
    tools = [
        _tool("news", "Mood of the news by topic over the last hours: [items, sentiment -1..1, relevance 0..1].",
              {"hours": _integer(1, MOST_HOURS)}, rows.news),
        _tool("prices", "The last bars' returns of one asset, oldest first, each in units of its usual bar.",
              {"asset": _integer(1, len(inputs.symbols)), "bars": _integer(1, MOST_BARS)}, rows.prices),
        _tool("performance", "One paper book: [return %, drawdown %] over days, and its return of each day in %.",
              {"track": _choice(TRACKS)}, rows.performance),
    ]  # fmt: skip
    if inputs.onchain_metrics:
        tools.append(_tool("onchain", "The last values of one figure by chain, oldest first, as 90-day z-scores.",
                           {"metric": _choice(inputs.onchain_metrics)}, rows.onchain))  # fmt: skip
    if inputs.encoder_id is not None:
        tools.append(_tool("analogs", "Past moments that looked alike: [similarity, return of the next 24h by a day's "
                           "volatility, their volatility by the week before].",
                           {"asset": _integer(1, len(inputs.symbols)), "count": _integer(1, MOST_ANALOGS)},
                           rows.analogs))  # fmt: skip
    return tuple(tools)


@dataclass(frozen=True)
class Rows:
    """What the tools read; the market once, and only if it is asked for."""

    view: View
    inputs: PromptInputs

    @cached_property
    def market(self) -> Market:
        return read_market(self.view, self.inputs.venue, self.inputs.symbols, self.inputs.timeframe_s)

    def news(self, given: Arguments) -> Any:
        return news_section(self.view, given["hours"])

    def onchain(self, given: Arguments) -> Any:
        figures = chain_figures(self.view, [given["metric"]])[:MOST_CHAINS]
        shown = {f"chain {n}": z_scores(values)[-MOST_FIGURES:].tolist() for n, (_, _, values) in enumerate(figures, 1)}
        return shown or ABSENT

    def prices(self, given: Arguments) -> Any:
        asset = self._asset(given["asset"])
        sigma = scale(asset.returns, self.inputs.timeframe_s)
        return {
            "bar_s": self.inputs.timeframe_s,
            "returns": np.round(asset.returns[-given["bars"] :] / sigma, 2).tolist(),
        }

    def analogs(self, given: Arguments) -> Any:
        assert self.inputs.encoder_id is not None, "the tool is offered only where there is an encoder"
        asset, k = self._asset(given["asset"]), given["count"]
        found = analog_outcomes(self.view, self.inputs.encoder_id, asset.instrument_id, self.inputs.timeframe_s, k)
        columns = (found.similarity, found.scaled_return, found.volatility_ratio)
        return np.round(np.stack(columns, axis=1), 2).tolist() or ABSENT

    def performance(self, given: Arguments) -> Any:
        book = book_section(self.view)
        if not isinstance(book, dict) or book[given["track"]] == ABSENT:
            return ABSENT
        return book[given["track"]] | {"by_day": daily_returns(self.view, given["track"])}

    def _asset(self, number: int) -> Asset:
        if number > len(self.market.assets):
            raise ToolError(f"only {len(self.market.assets)} assets have data")
        return self.market.assets[number - 1]


def _integer(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}


def _choice(values: tuple[str, ...]) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


def _tool(name: str, description: str, properties: dict[str, Any], answer: Callable[[Arguments], Any]) -> Tool:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }

    def run(given: Arguments) -> str:
        _check(given, properties)
        told = json.dumps(shortened(answer(given)), separators=(",", ":"), allow_nan=False)
        assert len(told) <= LONGEST_RESULT, f"the tool {name} tells {len(told)} characters"
        return told

    return Tool(name, description, parameters, run)


def _check(given: Arguments, properties: dict[str, Any]) -> None:
    """ToolError for anything that the schema does not allow; not every endpoint holds a model to it."""
    if given.keys() != properties.keys():
        raise ToolError(f"give exactly {', '.join(properties)}")
    for name, schema in properties.items():
        value = given[name]
        if schema["type"] == "integer":
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole and schema["minimum"] <= value <= schema["maximum"]):
                raise ToolError(f"{name} must be a whole number from {schema['minimum']} to {schema['maximum']}")
        elif value not in schema["enum"]:
            raise ToolError(f"{name} must be one of {', '.join(schema['enum'])}")
