"""Signals, features, candles and what was known when: the future, seen too early."""

from __future__ import annotations

from tests.planted.leak import Leak

SIGNALS = "policy/signals.py"
OWN_WINDOW = "return _signal_of(window, max(oldest - begin, 0), self._bars_a_day)"
WHOLE_SPAN = """found = _signal_of(window, max(oldest - begin, 0), self._bars_a_day)
        returns = np.diff(np.log(self._closes[np.isfinite(self._closes)]))
        spread = float(returns.std()) * math.sqrt(self._bars_a_day * DAYS_A_YEAR)
        return Signal(found.price, found.trend, spread)"""
FROM_BEFORE = "newest = np.maximum.accumulate(np.where(self._present, np.arange(bars), 0))"
FROM_AFTER = "newest = np.minimum.accumulate(np.where(self._present, np.arange(bars), bars - 1)[::-1])[::-1]"
COMPLETE = """starts = starts[np.diff(np.r_[starts, len(base)]) == per_target]
    if not len(starts):
        return Candles.empty()
    rows = starts[:, None] + np.arange(per_target)  # [n, per_target] rows of base"""
UNFINISHED = """if not len(starts):
        return Candles.empty()
    ends = np.r_[starts[1:], len(base)] - 1
    rows = np.minimum(starts[:, None] + np.arange(per_target), ends[:, None])"""

LEAKS = (
    Leak(
        "signal-of-the-next-close",
        "trend and volatility are read off a window that ends one close later",
        SIGNALS,
        "window = self._closes[begin : end + 1]",
        "window = np.r_[self._closes[begin + 1 : end + 1], self._closes[min(end + 1, len(self._closes) - 1)]]",
        ("tests/policy/test_signals.py",),
    ),
    Leak(
        "closes-a-bar-early",
        "each close is laid on the slot before its own",
        SIGNALS,
        "slots = (candles.as_of - self._start) // timeframe_s\n",
        "slots = (candles.as_of - self._start) // timeframe_s - 1\n",
        ("tests/policy/test_signals.py",),
    ),
    Leak(
        "gap-filled-from-the-future",
        "a missing close is filled with the one after it",
        SIGNALS,
        FROM_BEFORE,
        FROM_AFTER,
        ("tests/policy/test_signals.py",),
    ),
    Leak(
        "volatility-of-the-whole-span",
        "positions are scaled by the volatility of all closes that were loaded",
        SIGNALS,
        OWN_WINDOW,
        WHOLE_SPAN,
        ("tests/policy/test_signals.py",),
    ),
    Leak(
        "scaled-by-the-moment",
        "volatility is shown relative to that of the other instruments of the day",
        "policy/observation.py",
        "np.log(np.maximum(volatility, 0.01) / 0.5)",
        "np.log(np.maximum(volatility, 0.01) / max(float(volatility.mean()), 0.01))",
        ("tests/policy/test_decision_path.py",),
    ),
    Leak(
        "known-from-ignored",
        "market state and steering are used before they were known",
        "policy/inputs.py",
        "if ignore_known_from or rows[k].known_from <= as_of:",
        "if ignore_known_from or rows[k].as_of <= as_of:",
        ("tests/policy/test_leak_knowledge.py",),
    ),
    Leak(
        "newest-state-of-the-span",
        "the newest market state of the span speaks at every moment of it",
        "policy/inputs.py",
        "for k in range(bisect_right(rows, as_of, key=lambda row: row.as_of) - 1, -1, -1):",
        "for k in range(len(rows) - 1, -1, -1):",
        ("tests/policy/test_leak_knowledge.py",),
    ),
    Leak(
        "stale-state-accepted",
        "a market state speaks however old it is",
        "policy/inputs.py",
        "if short is None or long is None or as_of - min(short.as_of, long.as_of) > self._stale_after:",
        "if short is None or long is None:",
        ("tests/policy/test_leak_knowledge.py",),
    ),
    Leak(
        "trained-to-after-t",
        "the trader uses a policy before the end of its training span",
        "policy/policy_model.py",
        "if policy.known_from > as_of:",
        "if policy.model.trained_from > as_of:",
        ("tests/policy/test_policy_model.py::test_a_policy_is_usable_from_when_it_was_known",),
    ),
    Leak(
        "backtest-of-the-training-span",
        "a backtest of what the model was trained on counts as out of sample",
        "policy/laboratory.py",
        "if policy is None or policy.known_from <= request.first:",
        "if policy is None or policy.known_from <= request.last:",
        ("tests/policy/test_backtest.py::test_a_span_the_model_was_trained_on_is_refused_or_marked",),
    ),
    Leak(
        "known-before-its-encoder",
        "a model is known before the encoder that it learnt from",
        "shared/model_store.py",
        "max([trained_to + timedelta(seconds=label_horizon_s), *_known(database, encoder_id)])",
        "trained_to + timedelta(seconds=label_horizon_s)",
        ("tests/shared/test_model_store.py",),
    ),
    Leak(
        "embedding-known-before-its-model",
        "an embedding is known at its close, though its encoder was trained on later candles",
        "encoder/embedding_rows.py",
        'rows["known_from"] = np.maximum(rows["as_of"], sent_time(model.known_from))',
        'rows["known_from"] = rows["as_of"]',
        ("tests/encoder/test_run_encoder.py::test_hourly_runs_and_one_batch_pass_write_the_same_rows",),
    ),
    Leak(
        "unfinished-hour-derived",
        "an hour is derived from the part of it that there is",
        "candles/derive.py",
        COMPLETE,
        UNFINISHED,
        ("tests/candles/test_derive.py",),
    ),
    Leak(
        "centred-window",
        "a window of features is centred on its close",
        "shared/features/windows.py",
        "columns = [sliding_window_view(column, WINDOW)[starts] for column in self._columns]",
        "middle = np.minimum(starts + WINDOW // 2, len(self._columns[0]) - WINDOW)\n"
        "        columns = [sliding_window_view(column, WINDOW)[middle] for column in self._columns]",
        ("tests/shared/test_features.py::test_no_later_candle_changes_a_bit",),
    ),
    Leak(
        "window-to-the-next-close",
        "a window of features ends one candle later",
        "shared/features/windows.py",
        "columns = [sliding_window_view(column, WINDOW)[starts] for column in self._columns]",
        "later = np.minimum(starts + 1, len(self._columns[0]) - WINDOW)\n"
        "        columns = [sliding_window_view(column, WINDOW)[later] for column in self._columns]",
        ("tests/shared/test_features.py::test_no_later_candle_changes_a_bit",),
    ),
    Leak(
        "analog-whose-outcome-is-unknown",
        "a past moment counts as an analog before what followed it is over",
        "shared/analogs.py",
        '"until": at - timedelta(seconds=max(horizons_s)),',
        '"until": at - timedelta(seconds=min(horizons_s)),',
        ("tests/shared/test_analogs.py::test_no_analog_has_an_outcome_that_was_unknown",),
    ),
)  # fmt: skip
