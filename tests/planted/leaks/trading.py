"""Environment, decision path, risk and backtest: another book than the one that would be traded."""

from __future__ import annotations

from tests.planted.leak import Leak

ENVIRONMENT = "policy/env_kernel.py"
PARITY = "tests/policy/test_leak_environment.py"

LEAKS = (
    Leak(
        "reward-without-costs",
        "the reward adds the costs of the step back",
        ENVIRONMENT,
        "log_return = math.log(max(after, 1e-9) / before)",
        "log_return = math.log(max(after + costs, 1e-9) / before)",
        ("tests/policy/test_trading_env.py::test_rewards_sum_to_the_log_of_equity",),
    ),
    Leak(
        "episode-end-for-nothing",
        "an episode ends without closing its positions",
        ENVIRONMENT,
        "if done:\n        close_book(",
        "if ruined:\n        close_book(",
        ("tests/policy/test_trading_env.py::test_a_position_open_at_the_end_is_closed_and_charged",),
    ),
    Leak(
        "delay-forgotten-in-training",
        "the environment's orders do not wait for their delay",
        ENVIRONMENT,
        "earliest = data.times[i] + books.delay[b]",
        "earliest = data.times[i]",
        (PARITY,),
    ),
    Leak(
        "marked-at-the-open",
        "the environment marks its books at opens instead of closes",
        ENVIRONMENT,
        "books.slot, data.open, data.high, data.low, data.close, data.volume,",
        "books.slot, data.open, data.high, data.low, data.open, data.volume,",
        (PARITY,),
    ),
    Leak(
        "environment-sees-the-next-moment",
        "the environment decides on what is known at the next decision",
        ENVIRONMENT,
        "i, slot = books.moment[b], books.slot[b]\n    for n in range(len(slot)):\n        m = slot[n]",
        "i, slot = min(books.moment[b] + 1, len(data.times) - 1), books.slot[b]\n"
        "    for n in range(len(slot)):\n        m = slot[n]",
        (PARITY,),
    ),
    Leak(
        "observation-of-the-next-moment",
        "the environment shows the embedding of the next decision",
        ENVIRONMENT,
        "data.block[books.moment[b], books.slot[b, n], k]",
        "data.block[min(books.moment[b] + 1, len(data.times) - 1), books.slot[b, n], k]",
        (PARITY,),
    ),
    Leak(
        "money-out-of-a-jump",
        "a jump in time buys what is held anew, cheaper",
        ENVIRONMENT,
        "cash -= books.held[b, n] * there",
        "cash -= 0.99 * books.held[b, n] * there",
        ("tests/policy/test_trading_env.py::test_a_jump_keeps_what_the_book_is_worth",),
    ),
    Leak(
        "leverage-out-of-a-jump",
        "a jump in time keeps quantities instead of values, so it changes how much is held",
        ENVIRONMENT,
        "books.held[b, n] = round_money(value / there) if value > 0.0 and data.tradable[i, m] else 0.0",
        "books.held[b, n] = books.held[b, n] if value > 0.0 and data.tradable[i, m] else 0.0",
        (f"{PARITY}::test_a_jump_keeps_the_value_of_each_position",),
    ),
    Leak(
        "actions-of-another-instrument",
        "a batch gives each action to the instrument at the other end",
        ENVIRONMENT,
        "min(max(action[b, n], -1.0), 1.0)",
        "min(max(action[b, books.held.shape[1] - 1 - n], -1.0), 1.0)",
        (f"{PARITY}::test_a_batch_is_the_single_book",),
    ),
    Leak(
        "paper-fills-at-the-close",
        "the paper venue fills at the close of the candle that fills",
        "sql/queries/sender.sql",
        "SELECT open, volume, as_of - make_interval(secs => timeframe_s) AS opened_at",
        "SELECT close AS open, volume, as_of - make_interval(secs => timeframe_s) AS opened_at",
        ("tests/policy/test_sender.py",),
    ),
    Leak(
        "paper-fills-in-the-past",
        "the paper venue fills in a candle that opened before the order was due",
        "sql/queries/sender.sql",
        "AND m.as_of >= GREATEST(o.not_before, a.at) + make_interval(secs => i.base_timeframe_s)",
        "AND m.as_of >= GREATEST(o.not_before, a.at)",
        ("tests/policy/test_sender.py",),
    ),
    Leak(
        "the-loser-trades",
        "what the evaluation called worse than the baseline trades all the same",
        "policy/policy_model.py",
        'else (row["residual"], row["verdict"])',
        'else (1.0, row["verdict"])',
        ("tests/policy/test_policy_model.py::test_the_newest_promotion_says_whether_the_residual_counts",),
    ),
    Leak(
        "min-notional-ignored",
        "orders below the venue's minimum are sent",
        "policy/decision_kernel.py",
        "if quantity * price < min_notional:",
        "if quantity * price < 0.0:",
        ("tests/policy/test_plan.py",),
    ),
    Leak(
        "band-widened",
        "nothing is traded within twice the band",
        "policy/decision_kernel.py",
        "if abs(change) < band and not leaves:",
        "if abs(change) < 2.0 * band and not leaves:",
        ("tests/policy/test_plan.py",),
    ),
    Leak(
        "rule-that-grows",
        "a risk rule raises a weight to its bound",
        "policy/risk/max_position.py",
        "weights[n] = min(weights[n], context.max_position)",
        "weights[n] = context.max_position",
        ("tests/contracts/test_risk_rules.py",),
    ),
    Leak(
        "steering-the-wrong-way",
        "a higher risk aversion raises the exposure",
        "policy/decision_kernel.py",
        "return steering.target_volatility / (volatility * together) / steering.risk_aversion",
        "return steering.target_volatility / (volatility * together) * steering.risk_aversion",
        ("tests/contracts/test_strategies.py",),
    ),
    Leak(
        "policy-pays-nothing",
        "the backtest charges the baselines and not the policy",
        "policy/laboratory.py",
        "Simulator(self.grid, self.rules, self.costs, self.delay_s, self.step_s, self.request.capital)",
        "Simulator(self.grid, self.rules, Costs(0.0, 0.0, 0.0), self.delay_s, self.step_s, self.request.capital)",
        ("tests/policy/test_backtest.py::test_the_policys_own_weights_as_a_path_are_the_policys_book",
         "tests/policy/test_backtest.py::test_dearer_trading_never_leaves_more_of_the_same_weights"),
    ),
)  # fmt: skip
