"""A policy's past as rows, for a backtest as `make backtest` runs it: candles, embeddings, market state, steering and
models of one instrument over the whole series, in a temporary database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, LiteralString

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.peers.series import BAR_S, BARS, START, bars
from candles.store import add_instrument, default_rules, write_candles
from encoder.embedding_rows import Moments, write_embeddings
from encoder.inference import Embedded
from policy.decision_kernel import OBSERVATION_SIZE
from policy.laboratory import Laboratory, Request
from policy.observation import EMBEDDING_SIZE, HORIZONS_S, policy_schema
from shared.clock import from_unix
from shared.db import Database
from shared.model_store import model_by_id, save_model
from shared.rows import Candles
from shared.settings import Settings

HOUR, REACH, HIDDEN = 3600, 0.5, 64
HOURS = BARS * BAR_S // HOUR
NOW = from_unix(START + BARS * BAR_S) + timedelta(hours=1)
SYMBOL = "BENCH/USDT"
WALLET: Mapping[str, Any] = {
    "id": 1, "name": "bench", "venue": "bench", "quote": "USDT", "track": "live", "symbols": [SYMBOL],
    "taker_fee_bps": 40, "slippage_bps": 5, "impact": 1, "max_order_notional": 1e7,
}  # fmt: skip

STATES: LiteralString = """
INSERT INTO market_state (track, as_of, horizon_s, p_down, p_flat, p_up, p_vol_low, p_vol_mid, p_vol_high, conviction,
                          regime, source, reasons, valid_until, known_from, recorded_at)
SELECT 'live', at, %(horizon_s)s, 0.25, 0.5, 0.25, 0.25, 0.5, 0.25, 0.1, 'sideways', 'bench', '', at + interval '1 h',
       at, at
FROM generate_series(%(first)s::timestamptz, %(last)s::timestamptz, interval '1 h') AS at
"""
CONFIGS: LiteralString = """
INSERT INTO policy_config (track, as_of, source, risk_aversion, turnover_penalty, drawdown_penalty, target_volatility,
                           max_exposure, max_position, daily_loss_limit, max_drawdown, pause, strategy_weights,
                           reasons, valid_until, known_from, recorded_at)
SELECT 'live', at, 'bench', 1, 1, 1, 0.4, 1, 0.5, 0.2, 0.5, false, '{"drl": 1}', '', at + interval '1 h', at, at
FROM generate_series(%(first)s::timestamptz, %(last)s::timestamptz, interval '1 h') AS at
"""


@dataclass(frozen=True, slots=True)
class Past:
    """The span of the rows."""

    first: datetime
    last: datetime

    def laboratory(self, database: Database, settings: Settings) -> Laboratory:
        return Laboratory(database, settings, Request(WALLET, self.first, self.last, 10_000.0, limits="operator"))


def store_past(owner: Database, candles: Database) -> Past:
    """Writes all rows; everything that a model would have said is drawn at random."""
    market = bars(BARS)
    as_of = START + BAR_S * np.arange(1, BARS + 1)
    columns = [as_of, market.open, market.high, market.low, market.close, market.volume, np.ones(BARS)]
    instrument = add_instrument(candles, "bench", SYMBOL, BAR_S, default_rules(20_000.0), "simulated", NOW)
    write_candles(candles, instrument, BAR_S, Candles.from_columns(columns), HOUR, "bench", NOW)
    encoder_id = _store_model(owner, "encoder", {"kind": "bench"}, None)
    encoder = model_by_id(owner, encoder_id)
    _store_model(owner, "policy", policy_schema(HOUR, encoder.schema_hash, REACH), encoder_id)
    hours = START + HOUR * np.arange(1, HOURS + 1)
    rng = np.random.default_rng(7)
    vectors = rng.standard_normal((HOURS, EMBEDDING_SIZE), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    moments = Moments(np.full(HOURS, instrument.id), hours)
    write_embeddings(owner, encoder, HOUR, moments, Embedded(vectors, rng.uniform(0.0, 0.9, HOURS)), NOW)
    span = {"first": from_unix(int(hours[0])), "last": from_unix(int(hours[-1]))}
    for horizon_s in HORIZONS_S:
        owner.execute(STATES, span | {"horizon_s": horizon_s})
    owner.execute(CONFIGS, span)
    owner.execute("VACUUM ANALYZE")
    return Past(span["first"], span["last"])


def _store_model(owner: Database, kind: str, schema: Mapping[str, Any], encoder_id: int | None) -> int:
    return save_model(
        owner, kind=kind, onnx=_actor(), schema=schema, trained_from=from_unix(START - 9_000 * HOUR),
        trained_to=from_unix(START - 1_000 * HOUR), label_horizon_s=0, provenance="simulated", encoder_id=encoder_id,
        metrics={}, recorded_at=NOW,
    )  # fmt: skip


def _actor() -> bytes:
    """A tanh net [84, 64, 64, 1] in the form of a policy's: observation [N, 84] -> action [N], agreement [N]."""
    rng, sizes = np.random.default_rng(7), [OBSERVATION_SIZE, HIDDEN, HIDDEN, 1]
    nodes, arrays, name = [], {"axis": np.array([1], np.int64)}, "observation"
    for k, (wide, narrow) in enumerate(pairwise(sizes)):
        arrays[f"weight_{k}"] = (rng.standard_normal((wide, narrow)) / wide**0.5).astype(np.float32)
        arrays[f"bias_{k}"] = np.zeros(narrow, np.float32)
        nodes.append(helper.make_node("Gemm", [name, f"weight_{k}", f"bias_{k}"], [f"sum_{k}"]))
        name = f"tanh_{k}"
        nodes.append(helper.make_node("Tanh", [f"sum_{k}"], [name]))
    nodes.append(helper.make_node("Squeeze", [name, "axis"], ["action"]))
    nodes.append(helper.make_node("Cos", ["action"], ["agreement"]))  # something between 0.5 and 1
    constants = [numpy_helper.from_array(array, called) for called, array in arrays.items()]
    graph = helper.make_graph(
        nodes, "policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["N", OBSERVATION_SIZE])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N"]) for output in ("action", "agreement")],
        constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
