"""The queries of a tick look candles up in the index: what they cost does not grow with the number of symbols."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from candles.binary_copy import copy_candles
from candles.store import add_instrument, default_rules
from shared.clock import from_unix, to_unix
from shared.db import Database, load_queries
from tests.helpers import NOON, random_candles
from tests.shared.spine_rows import insert, own_database, rows

SYMBOLS, CANDLES, STEP = 30, 1_500, 300
LAST = to_unix(NOON)
ONE = {"instrument_id": 7, "timeframe_s": STEP}
RECENT = {"after": from_unix(LAST - 96 * STEP), "until": NOON}
# Of columns that stand for a series and a span of time, which an index condition must name.
SERIES, SPAN = {"instrument_id", "timeframe_s"}, {"instrument_id", "timeframe_s", "as_of"}

QUERIES: dict[str, tuple[str, str, dict[str, Any], set[str]]] = {
    "a window of candles": ("shared", "read_candles", ONE | RECENT, SPAN),
    "what is stored where candles are written": (
        "candles", "stored_candles", ONE | {"first": RECENT["after"], "last": NOON}, SPAN,
    ),
    "the last close of a series": (
        "candles", "known_series", {"venue": "test", "symbols": ["A7/USDT", "A9/USDT"], "timeframe_s": STEP}, SERIES,
    ),
    "the last close that a portfolio has": (
        "policy", "newest_candle", {"instrument_ids": [7, 9], "timeframe_s": STEP, "now": NOON}, SPAN,
    ),
    "what is missing of a recent span": ("candles", "held_and_checked", ONE | RECENT, SPAN),
    "which series there are to embed": (
        "encoder", "series_to_embed", {"model_id": 1, "timeframe_s": STEP, "until": NOON}, SERIES,
    ),
    "a revision": (
        "candles", "revise_candles",
        ONE | {"source": "test", "recorded_at": NOON, "as_of": [LAST], "trades": [1]}
        | {name: [1.0] for name in ("open", "high", "low", "close", "volume")}, SPAN,
    ),
}  # fmt: skip
VIEWS = {
    "the gaps of one series": ("SELECT * FROM candle_gaps WHERE instrument_id = 7 AND timeframe_s = 300", SERIES),
    "the equity of a wallet": ("SELECT * FROM equity WHERE wallet_id = 1", SERIES),
}


@pytest.fixture(scope="module")
def database(home: Path) -> Iterator[Database]:
    """30 symbols of 1,500 candles each, and a wallet that holds one of them; analysed."""
    with own_database(home, "plans") as (_, database_for):
        candles, data = database_for("candles"), random_candles(CANDLES, STEP)
        for n in range(1, SYMBOLS + 1):
            symbol = f"A{n}/USDT"
            instrument = add_instrument(candles, "test", symbol, STEP, default_rules(100.0), "real", NOON)
            copy_candles(candles, instrument.id, STEP, data, "test", NOON)
        owner = database_for("owner")
        for table in ("wallets", "cash_flows", "decisions", "orders", "fills"):
            insert(owner.connection, table, rows(1)[table])
        owner.execute("ANALYZE")
        yield owner


def looks_at_candles(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if plan.get("Relation Name") == "market_data" and plan["Node Type"] != "ModifyTable":
        yield plan
    for part in plan.get("Plans", []):
        yield from looks_at_candles(part)


def assert_found_by_the_key(database: Database, query: Any, params: Any, columns: set[str]) -> None:
    (row,) = database.fetch("EXPLAIN (FORMAT JSON) " + query, params)
    looks = list(looks_at_candles(row["QUERY PLAN"][0]["Plan"]))
    assert looks
    for look in looks:
        assert (look["Node Type"], look.get("Index Name")) in [
            ("Index Scan", "market_data_pkey"),
            ("Index Only Scan", "market_data_pkey"),
        ], look
        assert columns <= set(re.findall(r"\w+", look["Index Cond"])), look


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_of_the_tick_finds_its_candles_by_their_key(database: Database, name: str) -> None:
    layer, query, params, columns = QUERIES[name]
    assert_found_by_the_key(database, load_queries(layer)[query], params, columns)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_of_one_series_or_wallet_finds_its_candles_by_their_key(database: Database, name: str) -> None:
    query, columns = VIEWS[name]
    assert_found_by_the_key(database, query, None, columns)


def test_a_look_that_reads_the_whole_table_is_told_from_one_by_key(database: Database) -> None:
    with pytest.raises(AssertionError, match="Seq Scan"):
        assert_found_by_the_key(database, "SELECT max(close) FROM market_data", None, SERIES)
