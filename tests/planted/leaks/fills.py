"""The kernel and who calls it: fills that are too good."""

from __future__ import annotations

from tests.planted.leak import Leak

KERNEL = "shared/simulation/kernel.py"
AT_THE_SIGNAL = "np.vstack([grid.open[:1], grid.close[:-1]]), grid.high, grid.low, grid.close, grid.volume,"
OPEN_FIRST = "grid.open, grid.high, grid.low, grid.close, grid.volume,"

LEAKS = (
    Leak(
        "fee-forgotten-on-sells",
        "a sell pays no fee",
        KERNEL,
        "return -quantity, price, cost, trade_fee(cost, fee_bps)",
        "return -quantity, price, cost, 0.0",
        ("tests/shared/simulation/test_kernel.py::test_a_trade_costs_its_fee_and_its_slippage_and_nothing_else",),
    ),
    Leak(
        "spread-forgotten-on-buys",
        "a buy fills at the open itself, without half the spread and its impact",
        KERNEL,
        "reference * (1.0 + slippage_bps * 1e-4)",
        "reference",
        ("tests/shared/simulation/test_kernel.py::test_a_trade_costs_its_fee_and_its_slippage_and_nothing_else",),
    ),
    Leak(
        "slippage-in-the-takers-favour",
        "a sell slips upwards",
        KERNEL,
        "reference * (1.0 - slippage_bps * 1e-4)",
        "reference * (1.0 + slippage_bps * 1e-4)",
        ("tests/shared/simulation/test_kernel.py::test_a_trade_costs_its_fee_and_its_slippage_and_nothing_else",),
    ),
    Leak(
        "impact-of-nothing",
        "an order that is larger than what the bar traded moves no price",
        KERNEL,
        "share = 1.0\n",
        "share = 0.0\n",
        ("tests/shared/simulation/test_kernel.py",),
    ),
    Leak(
        "fill-at-the-bars-close",
        "an order fills at the close of its bar instead of the open",
        KERNEL,
        "b, bar, selling, fills, cash, held, order, order_first, order_last, stop, target, slot, open_price,",
        "b, bar, selling, fills, cash, held, order, order_first, order_last, stop, target, slot, close_price,",
        ("tests/shared/simulation/test_kernel.py::test_an_order_fills_at_the_first_open_of_its_span_or_expires",
         "tests/policy/test_leak_fills.py"),
    ),
    Leak(
        "fill-before-the-delay",
        "an order fills a bar before it may",
        KERNEL,
        "or bar < order_first[b, n]:",
        "or bar < order_first[b, n] - 1:",
        ("tests/shared/simulation/test_kernel.py::test_an_order_fills_at_the_first_open_of_its_span_or_expires",),
    ),
    Leak(
        "stop-at-its-level-in-a-gap",
        "a stop fills at its level where the bar opened below it",
        KERNEL,
        "reference = min(stop, open_price)",
        "reference = stop",
        ("tests/shared/simulation/test_brackets.py",),
    ),
    Leak(
        "target-before-stop",
        "of a bar that reaches stop and target, the target counts",
        KERNEL,
        "if reached and (not stopped or (open_price >= limit and open_price > stop)):",
        "if reached:",
        ("tests/shared/simulation/test_brackets.py",),
    ),
    Leak(
        "end-for-nothing",
        "what is open at the end is sold without fee and spread",
        KERNEL,
        "-held[b, n], cash[b], held[b, n], price_now, half_spread_bps, fee_bps, tick[m], lot[m]",
        "-held[b, n], cash[b], held[b, n], price_now, 0.0, 0.0, tick[m], lot[m]",
        ("tests/shared/simulation/test_books.py::test_closing_sells_everything_and_costs_half_the_spread_and_the_fee",),
    ),
    Leak(
        "sells-what-is-not-held",
        "a sell of more than is held goes through",
        KERNEL,
        "quantity = min(-signed_quantity, held)",
        "quantity = -signed_quantity",
        ("tests/policy/test_leak_fills.py::test_no_more_is_sold_than_is_held",),
    ),
    Leak(
        "backtest-fills-at-the-signals-close",
        "the backtest's book fills at the close that the decision was made on",
        "policy/simulator.py",
        f"{OPEN_FIRST} self._volatility",
        f"{AT_THE_SIGNAL} self._volatility",
        ("tests/policy/test_leak_fills.py",),
    ),
    Leak(
        "training-fills-at-the-signals-close",
        "the environment's books fill at the close that the decision was made on",
        "policy/trading_env.py",
        f"{OPEN_FIRST} venue.tick",
        f"{AT_THE_SIGNAL} venue.tick",
        ("tests/policy/test_leak_fills.py",),
    ),
    Leak(
        "shifts-fill-at-the-signals-close",
        "paths of weights fill at the close before",
        "policy/weight_path.py",
        "doubles(grid.open), doubles(grid.high)",
        "doubles(np.vstack([grid.open[:1], grid.close[:-1]])), doubles(grid.high)",
        ("tests/policy/test_leak_fills.py",),
    ),
)  # fmt: skip
