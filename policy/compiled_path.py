"""The decision path and its batched steps, compiled by numba: the same sources, the same bits.

Kept apart so that scheduled jobs, which run them as plain Python, never import numba.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from policy import decision_kernel, env_kernel
from policy import risk as risk_rules
from policy.risk import context as risk_context
from shared.simulation.compilation import chain, compile_functions
from shared.simulation.compiled import compiled

# In order of use: a function is compiled after those it calls.
DECISION = ("full_weight", "want", "weigh", "day_start_equity", "_clipped", "observe_book", "plan_order", "plan_orders")
ENVIRONMENT = (
    "next_uniform", "first_bar_from", "bars_closed_by", "steering_of_row", "draw_steering", "draw_slots", "look_up",
    "look_back", "hold_some", "reset_book", "jump", "decide_book", "move_on", "look_at_book", "observe_one",
    "reward_of", "step_book", "step_books", "reset_books",
)  # fmt: skip


def _compile() -> dict[str, Any]:
    known = dict(compiled)
    known |= compile_functions(risk_context, ("no_entry", "stop_of"), known)
    known |= compile_functions(decision_kernel, DECISION, known)
    rules = [_compile_rule(rule, known) for rule in risk_rules.RULES.values()]
    known["limit"] = chain(rules)
    return known | compile_functions(env_kernel, ENVIRONMENT, known, replace={"limit": known["limit"]})


def _compile_rule(rule: ModuleType, known: dict[str, Any]) -> Any:
    return compile_functions(rule, ("apply",), known)["apply"]


path = _compile()
want, weigh, observe_book = path["want"], path["weigh"], path["observe_book"]
limit, plan_orders = path["limit"], path["plan_orders"]
step_book, step_books, reset_book, reset_books = (
    path["step_book"], path["step_books"], path["reset_book"], path["reset_books"],
)  # fmt: skip
observe_one = path["observe_one"]
