"""The kernel, compiled by numba: the same source, the same bits, hundreds of times faster.

Kept apart so that scheduled jobs, which run the kernel as plain Python, never import numba.
"""

from __future__ import annotations

from shared.simulation import kernel
from shared.simulation.compilation import CompilationError, chain, compile_functions

__all__ = [
    "COMPILED", "CompilationError", "advance", "advance_book", "advance_books", "chain", "close_book", "close_out",
    "compile_functions", "compiled",
]  # fmt: skip

ALLOCATES = ("advance", "close_out", "advance_books")  # they make arrays
COMPILED = (
    "round_money",
    "floor_to_step",
    "ceil_to_step",
    "market_price",
    "trade_cost",
    "trade_fee",
    "affordable",
    "bar_years_sqrt",
    "slippage_bps",
    "market_fill",
    "bracket_fill",
    "cash_after",
    "equity",
    "book_fill",
    "clear_order",
    "fill_orders",
    "fill_brackets",
    "is_quiet",
    "mark_bars",
    "advance_book",
    "advance",
    "close_book",
    "close_out",
    "advance_books",
)

compiled = compile_functions(kernel, COMPILED, allocates=ALLOCATES)
advance, advance_book, advance_books = compiled["advance"], compiled["advance_book"], compiled["advance_books"]
close_out, close_book = compiled["close_out"], compiled["close_book"]
