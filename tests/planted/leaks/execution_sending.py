"""The live sender: an order too many, a stop that does not stop, a sale beside its own stop."""

from __future__ import annotations

from tests.planted.leak import Leak

REQUESTS = "policy/execution/requests.py"
PASS = "policy/execution/live_sender.py"
SENDING = "tests/policy/test_live_sender.py"
READING = "tests/policy/test_live_account.py"
WALLET = "tests/policy/test_live_wallet.py"
KEY = "tests/policy/test_live_key.py"
STOPPING = "tests/policy/test_live_stopping.py"
UNHEARD = (f"{SENDING}::test_an_unheard_answer_is_looked_for_and_never_sent_again",)
AFTER_A_HALT = (f"{STOPPING}::test_after_a_halt_nothing_at_all_is_sent_and_stops_stay",)
DEADLINE = (f"{KEY}::test_the_deadline_of_an_order_is_by_the_venues_clock",)

LEAKS = (
    Leak(
        "unknown-sent-again",
        "an order whose answer was not heard is sent once more",
        REQUESTS,
        '    crashpoint("send.after_request")\n',
        "    if not isinstance(placed, (Accepted, Rejected)):\n"
        "        placed = desk.venue.place(_new_order(desk, intent, deadline), desk.session.take_nonce())\n"
        '    crashpoint("send.after_request")\n',
        UNHEARD,
    ),
    Leak(
        "unknown-taken-for-accepted",
        "an order whose answer was not heard counts as accepted",
        REQUESTS,
        'desk.record(order_id, "unknown", placed.reason)',
        'desk.record(order_id, "accepted", placed.reason)',
        UNHEARD,
    ),
    Leak(
        "unknown-taken-for-rejected",
        "an order whose answer was not heard counts as rejected",
        REQUESTS,
        'desk.record(order_id, "unknown", placed.reason)',
        'desk.record(order_id, "rejected", placed.reason)',
        UNHEARD,
    ),
    Leak(
        "sent-before-it-is-written",
        "the request goes out before its approval and its event are committed",
        REQUESTS,
        '    desk.listed = None\n    crashpoint("send.before_request")\n'
        "    placed = desk.venue.place(_new_order(desk, intent, deadline), nonce)\n"
        '    crashpoint("send.after_request")\n',
        '        desk.listed = None\n        crashpoint("send.before_request")\n'
        "        placed = desk.venue.place(_new_order(desk, intent, deadline), nonce)\n"
        '        crashpoint("send.after_request")\n',
        (f"{READING}::test_a_death_around_a_request_sends_nothing_twice_and_nothing_unapproved",),
    ),
    Leak(
        "client-id-made-anew",
        "each request has an id of its own, not the intent's",
        REQUESTS,
        'client_id=intent["order_id"],',
        'client_id=__import__("uuid").uuid4(),',
        UNHEARD,
    ),
    Leak(
        "deadline-missing",
        "an order does not say by when it must arrive",
        REQUESTS,
        "deadline=deadline if desk.venue.capabilities.deadline else None,",
        "deadline=None,",
        DEADLINE,
    ),
    Leak(
        "deadline-by-our-own-clock",
        "the deadline is by this machine's clock",
        REQUESTS,
        "deadline = desk.venue_now() + desk.settings.execution.order_deadline_s\n    mandate",
        "deadline = desk.now().timestamp() + desk.settings.execution.order_deadline_s\n    mandate",
        DEADLINE,
    ),
    Leak(
        "halted-between-room-and-sale",
        "a KILL file that comes while room is made does not stop the sale",
        REQUESTS,
        'if mandate == "halt" or (',
        "if (",
        AFTER_A_HALT,
    ),
    Leak(
        "halt-lets-amendments-out",
        "after a halt stops are still amended",
        REQUESTS,
        '    if desk.mandate() == "halt":\n        return False\n    desk.record(order["order_id"], "amending"',
        '    desk.record(order["order_id"], "amending"',
        AFTER_A_HALT,
    ),
    Leak(
        "kill-file-not-looked-at",
        "only commands in the database stop a wallet",
        "policy/execution/desk.py",
        'mandate_now(self.home, self.wallet["name"], row["mandate"])',
        'str(row["mandate"])',
        (f"{STOPPING}::test_a_stop_in_the_middle_of_a_pass_lets_no_other_entry_out",),
    ),
    Leak(
        "kill-leaves-entry-orders",
        "a kill lets no entry out but leaves those that rest",
        PASS,
        'if mandate in ("kill", "flatten"):',
        'if mandate == "flatten":',
        (f"{STOPPING}::test_a_kill_cancels_entry_orders_and_leaves_stops_and_sales",),
    ),
    Leak(
        "clock-never-doubted",
        "entries go out by a clock that is off",
        PASS,
        "if abs(desk.skew_s) > SKEW_LIMIT_S:",
        "if abs(desk.skew_s) > 1e9:",
        (f"{KEY}::test_a_clock_that_is_off_makes_no_entry_and_is_measured_again_by_a_sender_that_stays",),
    ),
    Leak(
        "key-looked-at-once",
        "a sender that stays never looks at its key's rights again",
        PASS,
        "elif rights_are_due(desk):",
        "elif not first and False:",
        (f"{KEY}::test_a_key_that_could_lose_money_otherwise_makes_no_entry",),
    ),
    Leak(
        "sale-beside-the-whole-stop",
        "a sale does not make its stop smaller first",
        PASS,
        "if not is_stop(intent) and not make_room(desk, intent):",
        "if not is_stop(intent) and desk.wallet is None:",
        (f"{SENDING}::test_a_sale_makes_the_stop_smaller_first",),
    ),
    Leak(
        "sale-beside-an-uncertain-stop",
        "a sale goes out though it is not known whether its stop was made smaller",
        "policy/execution/protect.py",
        "return room is None or _rest(room.stops) <= max(room.left, ZERO)",
        "return True",
        (f"{WALLET}::test_a_sale_waits_until_its_room_is_certain",),
    ),
    Leak(
        "stop-for-what-others-sell",
        "a stop also protects what another order sells",
        "policy/execution/protect.py",
        'others = _rest(o for o in orders if o["side"] == "sell" and not is_stop(o))',
        "others = ZERO",
        (f"{STOPPING}::test_a_kill_cancels_entry_orders_and_leaves_stops_and_sales",),
    ),
    Leak(
        "other-codes-entry-sent",
        "a sender sends what a trader of other code decided",
        PASS,
        'return "" if decided in (None, CODE) else',
        'return "" if decided or CODE else',
        (f"{SENDING}::test_an_entry_is_sent_by_the_code_that_decided_it_and_an_exit_by_any",),
    ),
    Leak(
        "flatten-at-any-price",
        "a step of a flatten has no floor",
        "policy/execution/flatten.py",
        'because = f"the operator flattens; not below {limit}"',
        'limit, because = tick, "the operator flattens"',
        (f"{STOPPING}::test_a_flatten_goes_as_far_below_the_market_as_the_operator_allows",),
    ),
)
