"""Regime experts, their pool, and what the language model is shown: the future, seen too early."""

from __future__ import annotations

from tests.planted.leak import Leak

RUN = "tests/meta_controller/test_run_metacontroller.py::"
EXPERTS = "tests/contracts/test_regime_experts.py"

LEAKS = (
    Leak(
        "regime-of-tomorrow",
        "the experts look at a bar that is still to come",
        "meta_controller/expert_calls.py",
        "    history = index_history(grid, start, last)\n    step",
        "    history = index_history(grid, start, last + grid.timeframe_s)\n    step",
        (RUN + "test_an_expert_calls_the_same_whatever_was_called_before",),
    ),
    Leak(
        "fit-on-the-weeks-to-come",
        "an expert learns from the week that it is then asked about",
        "meta_controller/expert_calls.py",
        "past = index_history(grid, at, at)",
        "past = index_history(grid, at, at + BLOCK_S)",
        (RUN + "test_an_expert_calls_the_same_whatever_was_called_before",),
    ),
    Leak(
        "members-chosen-afterwards",
        "the index holds the instruments that have candles at its end",
        "meta_controller/market_index.py",
        "members = _members(~np.isnan(close), anchor, MEMBERSHIP_S // grid.timeframe_s)",
        "members = _members(~np.isnan(close), close.shape[1], MEMBERSHIP_S // grid.timeframe_s)",
        ("tests/meta_controller/test_market_index.py",),
    ),
    Leak(
        "weights-by-outcomes-to-come",
        "the pool weighs experts by rounds whose outcomes are not known yet",
        "meta_controller/pool.py",
        "newest, horizon = number - 2, HORIZONS_S.index(horizon_s)",
        "newest, horizon = number, HORIZONS_S.index(horizon_s)",
        ("tests/meta_controller/test_pool.py::test_the_future_does_not_move_a_weight",),
    ),
    Leak(
        "terciles-of-all-time",
        "what is low and high volatility is known from the whole history",
        "meta_controller/outcomes.py",
        "    return found\n\n\ndef _ahead",
        "    found[:] = found[-1]\n    return found\n\n\ndef _ahead",
        ("tests/meta_controller/test_outcomes.py",),
    ),
    Leak(
        "smoothed-states",
        "the Markov model's states at a bar are weighed by the bars after it",
        "meta_controller/regimes/hidden_markov.py",
        "return forward(emissions(observed[..., 0], means, variances), transition, start)",
        "return smoothed(emissions(observed[..., 0], means, variances), transition, start)[0]",
        (EXPERTS,),
    ),
)  # fmt: skip
