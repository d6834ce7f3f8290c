"""What the account says and what is made of it: a trade too few or too many, an end too early, money of others."""

from __future__ import annotations

from tests.planted.leak import Leak

ACCOUNT = "policy/execution/account.py"
READING = "tests/policy/test_live_account.py"
WALLET = "tests/policy/test_live_wallet.py"
UNHEARD = ("tests/policy/test_live_sender.py::test_an_unheard_answer_is_looked_for_and_never_sent_again",)

LEAKS = (
    Leak(
        "same-trade-counted-twice",
        "a trade is known by more than its venue's id",
        ACCOUNT,
        'row |= {"filled_at": from_unix(fill.filled_at), "recorded_at": desk.now()}',
        'row |= {"filled_at": from_unix(fill.filled_at), "recorded_at": desk.now(),\n'
        '            "venue_trade_id": f"{fill.venue_trade_id} at {desk.now()}"}',
        (f"{READING}::test_trades_that_are_told_again_and_again_are_counted_once",),
    ),
    Leak(
        "late-trade-dropped",
        "a trade of an order that has ended is not counted",
        ACCOUNT,
        '        desk.write("insert_fill", **row, order_id=order["order_id"])\n',
        '        if order["state"] not in FINAL:\n'
        '            desk.write("insert_fill", **row, order_id=order["order_id"])\n',
        (f"{READING}::test_a_trade_after_a_confirmed_cancellation_is_counted_and_told",),
    ),
    Leak(
        "late-listed-trade-never-asked-for",
        "trades from before the last comparison are not asked for, whatever it found",
        ACCOUNT,
        'newest["recorded_at"].timestamp() - margin',
        'newest["recorded_at"].timestamp()',
        (f"{READING}::test_an_order_has_not_ended_before_all_its_trades_are_here",),
    ),
    Leak(
        "ended-before-its-trades-are-here",
        "an order ends as its venue says, whatever trades of it are missing",
        ACCOUNT,
        "    if filled < told.filled:\n        return",
        "    if filled < 0:\n        return",
        (f"{READING}::test_an_order_has_not_ended_before_all_its_trades_are_here",),
    ),
    Leak(
        "partly-filled-marked-filled",
        "an order that was filled in part and cancelled counts as filled",
        ACCOUNT,
        'end = "filled" if told.filled == told.quantity else told.state',
        'end = "filled" if told.filled else told.state',
        (f"{READING}::test_an_order_that_was_partly_filled_and_cancelled_has_not_been_filled",),
    ),
    Leak(
        "not-found-once-is-never",
        "one answer without an order means that it never came",
        ACCOUNT,
        'if row["misses"] < MISSES or row["last"] - deadline < PATIENCE:',
        'if row["misses"] < 1:',
        (f"{READING}::test_never_accepted_needs_answers_that_came_late_enough",),
    ),
    Leak(
        "never-accepted-too-early",
        "three answers without an order are enough, however early",
        ACCOUNT,
        'if row["misses"] < MISSES or row["last"] - deadline < PATIENCE:',
        'if row["misses"] < MISSES:',
        (f"{READING}::test_never_accepted_needs_answers_that_came_late_enough",),
    ),
    Leak(
        "not-answered-taken-for-empty",
        "a venue that could not be asked counts as one without open orders",
        ACCOUNT,
        "    shown = desk.venue.open_orders()\n",
        "    try:\n        shown = desk.venue.open_orders()\n    except Exception:\n        shown = []\n",
        (f"{READING}::test_what_was_not_answered_says_nothing",),
    ),
    Leak(
        "looked-for-among-open-orders-only",
        "an order whose fate is not known is not looked for among those that ended",
        ACCOUNT,
        "for order in (*shown, *closed)}",
        "for order in shown}",
        UNHEARD,
    ),
    Leak(
        "external-trade-taken-for-our-own",
        "a trade that no order of ours made is counted as one of ours",
        ACCOUNT,
        '    crashpoint("account.before_fill")\n',
        '    order = order or desk.ask_one("order_of_venue_id", venue_order_id="1")\n'
        '    crashpoint("account.before_fill")\n',
        (f"{READING}::test_another_installation_on_the_same_key_stops_entries_until_a_resume",),
    ),
    Leak(
        "external-trade-forgotten",
        "a trade that no order of ours made is not recorded",
        ACCOUNT,
        "    if order is None and placed is None and (fill.symbol, fill.side) in undecided:\n",
        "    if order is None:\n",
        (f"{READING}::test_a_trade_of_somebody_else_is_recorded_told_and_left_alone",),
    ),
    Leak(
        "late-amendment-not-seen",
        "what an amendment that was given up did later is not noticed",
        ACCOUNT,
        "elif _was_changed(order, told):",
        "elif told is None:",
        (f"{WALLET}::test_a_change_that_comes_later_than_anybody_waits_for_it_is_seen_and_mended",),
    ),
    Leak(
        "withdrawal-always-from-the-wallet",
        "what is withdrawn is taken from the wallet though others' money lies there",
        ACCOUNT,
        "own = min(amount + max(free, Decimal(0)), Decimal(0))",
        "own = amount",
        (f"{WALLET}::test_what_is_withdrawn_is_taken_first_from_what_is_not_the_wallets",),
    ),
    Leak(
        "everybodys-deposit-is-the-wallets",
        "what is paid in is the wallet's own, whatever it was to manage",
        ACCOUNT,
        "if in_quote and amount > 0 and desk.manages_all:",
        "if in_quote and amount > 0:",
        (f"{WALLET}::test_what_is_paid_in_is_whose_the_wallet_says_to_the_cent",),
    ),
    Leak(
        "managed-coins-sold-by-hand-unnoticed",
        "the wallet's own coins may be sold by others unnoticed",
        "policy/execution/reconcile.py",
        "if amount < -TOLERANCE:",
        "if amount < -10**9:",
        (f"{READING}::test_managed_coins_that_are_sold_by_hand_keep_entries_away",),
    ),
    Leak(
        "deposit-counted-as-profit",
        "what is paid in buys no units",
        "policy/run_trader.py",
        "units *= equity / (equity - paid_in)",
        "units *= 1.0",
        ("tests/policy/test_live_units.py",),
    ),
    Leak(
        "ended-orders-by-when-we-heard",
        "an order that ended while nobody looked is compared with lists that no longer have it",
        "sql/queries/live_sender.sql",
        "AND e.at >= %(since)s",
        "AND EXISTS (SELECT FROM order_events y WHERE y.order_id = o.id AND y.recorded_at >= %(since)s)",
        (f"{READING}::test_a_sender_that_was_away_for_days_finds_what_happened_meanwhile",),
    ),
)
