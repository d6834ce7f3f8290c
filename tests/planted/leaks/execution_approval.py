"""approve(), epochs, nonces and the ledger's views: what the database lets through, and what it counts."""

from __future__ import annotations

from tests.planted.leak import Leak

SCHEMA = "sql/000_init.sql"
APPROVE = "tests/shared/test_approve_live.py"
NONCES = (
    f"{APPROVE}::test_nonces_rise_whatever_the_clock_does_and_start_at_nanoseconds_of_now",
    f"{APPROVE}::test_a_new_epoch_goes_on_above_the_old_ones_nonces_and_the_old_one_gets_none",
)

LEAKS = (
    Leak(
        "stale-epoch-accepted",
        "approve() takes an epoch that is over",
        SCHEMA,
        "in_epoch IS DISTINCT FROM s.epoch",
        "in_epoch > s.epoch",
        (f"{APPROVE}::test_an_order_lives_in_one_epoch_only",),
    ),
    Leak(
        "epoch-not-counted-on",
        "who takes over goes on in the epoch of who was there before",
        SCHEMA,
        "SET epoch = s.epoch + 1, holder",
        "SET epoch = s.epoch, holder",
        (f"{APPROVE}::test_an_order_lives_in_one_epoch_only",),
    ),
    Leak(
        "nonce-for-an-old-epoch",
        "a sender whose epoch is over still gets nonces",
        SCHEMA,
        "WHERE wallet_id = wallet AND epoch = in_epoch",
        "WHERE wallet_id = wallet",
        NONCES,
    ),
    Leak(
        "nonce-from-the-clock",
        "a nonce is the time, which may step back",
        SCHEMA,
        "SET nonce = greatest(nonce + 1, (extract(epoch FROM at_time) * 1000000)::bigint * 1000)",
        "SET nonce = (extract(epoch FROM at_time) * 1000000)::bigint * 1000",
        NONCES,
    ),
    Leak(
        "reservation-released-early",
        "an order whose fate is not known holds nothing back",
        SCHEMA,
        "ON e.event IN ('sending', 'accepted', 'canceling', 'amending', 'unknown')",
        "ON e.event IN ('sending', 'accepted', 'canceling', 'amending')",
        (f"{APPROVE}::test_what_other_orders_may_still_sell_is_not_sold_again",),
    ),
    Leak(
        "amendment-at-the-smaller-size",
        "while it is amended an order counts at the size that was asked for",
        SCHEMA,
        "greatest(coalesce(a.quantity, o.quantity), CASE WHEN e.event = 'amending' THEN e.quantity END)",
        "coalesce(CASE WHEN e.event = 'amending' THEN e.quantity END, a.quantity, o.quantity)",
        (f"{APPROVE}::test_an_amendment_counts_at_the_larger_of_both_sizes",),
    ),
    Leak(
        "limits-blind-to-open-orders",
        "the position limit does not count what is being bought",
        SCHEMA,
        "coalesce(b.buying, 0) + o.quantity) * m.close",
        "o.quantity) * m.close",
        (f"{APPROVE}::test_a_position_counts_with_what_is_being_bought",),
    ),
    Leak(
        "approvals-side-by-side",
        "two approvals of one wallet do not wait for each other",
        SCHEMA,
        "WHERE id = intent) FOR UPDATE;",
        "WHERE id = intent);",
        ("tests/shared/test_approve_at_once.py",),
    ),
    Leak(
        "exits-held-to-limits",
        "a limit that is reached keeps positions from being sold",
        SCHEMA,
        "WHEN o.side = 'sell' THEN NULL",
        "WHEN o.side = 'sell' AND o.purpose <> 'trade' THEN NULL",
        (f"{APPROVE}::test_entries_wait_for_a_clean_reconciliation",),
    ),
    Leak(
        "mildest-stop-holds",
        "of several stops the mildest holds",
        SCHEMA,
        "[max(array_position(",
        "[min(array_position(",
        (f"{APPROVE}::test_the_strictest_stop_since_the_last_resume_holds",),
    ),
    Leak(
        "halt-of-all-wallets-ignored",
        "a stop without a wallet stops nobody",
        SCHEMA,
        "WHERE (wallet_id = wallet OR wallet_id IS NULL) AND issued_at <= at_time",
        "WHERE wallet_id = wallet AND issued_at <= at_time",
        (f"{APPROVE}::test_a_stop_holds_until_the_wallet_is_resumed",),
    ),
    Leak(
        "mismatch-ignored",
        "entries go out though the ledger does not match the account",
        SCHEMA,
        "n.unmatched IS DISTINCT FROM 0",
        "n.unmatched IS NULL",
        (f"{APPROVE}::test_entries_wait_for_a_clean_reconciliation",),
    ),
    Leak(
        "risk-stop-ignored",
        "a live wallet trades on after risk has stopped it",
        SCHEMA,
        "WHEN t.because IS NOT NULL THEN",
        "WHEN t.because IS NOT NULL AND w.mode = 'paper' THEN",
        (f"{APPROVE}::test_a_risk_stop_lasts_until_a_resume",),
    ),
    Leak(
        "revoked-grant-still-counts",
        "a wallet that was once let live stays so",
        SCHEMA,
        "AND (g.granted IS NULL OR o.side = 'buy' AND NOT g.granted)",
        "AND g.since IS NULL",
        (f"{APPROVE}::test_only_a_granted_wallet_trades_and_the_newest_check_decides",),
    ),
    Leak(
        "ramp-begins-anew",
        "each new grant begins the small first days again",
        SCHEMA,
        "SELECT min(recorded_at) FROM live_grants f",
        "SELECT max(recorded_at) FROM live_grants f",
        (f"{APPROVE}::test_a_wallets_first_days_are_small",),
    ),
    Leak(
        "what-was-there-is-for-sale",
        "coins that lay on the account count as the wallet's own",
        SCHEMA,
        "WHERE c.managed AND c.asset <> w.quote) moves",
        "WHERE c.asset <> w.quote) moves",
        ("tests/policy/test_live_sender.py::test_money_that_was_there_is_never_touched",),
    ),
    Leak(
        "fee-in-coins-ignored",
        "a fee that was taken in coins leaves the position as it was",
        SCHEMA,
        "CASE WHEN f.fee_asset = split_part(i.symbol, '/', 1) THEN f.fee ELSE 0 END AS quantity",
        "0 AS quantity",
        ("tests/policy/test_live_account.py::test_a_fee_in_coins_makes_the_position_smaller",),
    ),
)
