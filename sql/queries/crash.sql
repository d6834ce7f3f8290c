-- Queries of the crash harness (pipeline/crash): what the ledger says, to hold it against what really happened.

-- name: end_sessions
-- Cuts the sender's connections, as a network or a watchdog would: its locks are free then.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE usename = 'sextant_sender' AND datname = current_database()

-- name: end_sessions_left
-- How many of them are still there.
SELECT count(*) AS number FROM pg_stat_activity WHERE usename = 'sextant_sender' AND datname = current_database()

-- name: grant_live
-- The wallet is let live; what going live asks for is pipeline/go_live.py's business.
INSERT INTO live_grants (wallet_id, granted, checks, capital, reason, recorded_at)
VALUES (%(wallet_id)s, true, '[]', %(capital)s, 'the crash harness', %(at)s)

-- name: installation
-- The identity under which order ids are derived.
SELECT id FROM installation

-- name: insert_decision
-- What a trader decided; only what every decision says.
INSERT INTO decisions (wallet_id, instrument_id, as_of, source, wanted_weight, allowed_weight, baseline_weight, clamps,
                       reason, price, quantity_held, cash, equity, code_version, settings_hash, recorded_at)
VALUES (%(wallet_id)s, %(instrument_id)s, %(at)s, %(source)s, 0.5, 0.5, 0.5, '[]', 'the crash harness', %(price)s, 0, 0,
        0, %(code_version)s, 'the crash harness', %(at)s)
RETURNING id

-- name: insert_intent
-- The order that follows from it.
INSERT INTO orders (id, decision_id, wallet_id, mode, instrument_id, side, type, limit_price, quantity, reference_price,
                    volatility, not_before, deadline, recorded_at)
VALUES (%(id)s, %(decision_id)s, %(wallet_id)s, 'live', %(instrument_id)s, %(side)s, %(type)s, %(limit_price)s,
        %(quantity)s, %(price)s, 0.5, %(at)s, %(deadline)s, %(at)s)

-- name: wallet
-- The one wallet, and the process whose epoch it is: host:pid.
SELECT w.id, s.holder FROM wallets w LEFT JOIN sender_sessions s ON s.wallet_id = w.id

-- name: newest_close
-- Of one instrument.
SELECT close FROM market_data WHERE instrument_id = %(instrument_id)s ORDER BY as_of DESC LIMIT 1

-- name: orders
-- Each order with its events in order, whether approve() let it through, and what is filled of it here.
SELECT o.id, o.side, o.purpose, i.symbol, o.quantity,
       (SELECT count(*) FROM approvals a WHERE a.order_id = o.id) AS approvals,
       ARRAY(SELECT event FROM order_events e WHERE e.order_id = o.id ORDER BY e.id) AS events,
       (SELECT coalesce(sum(quantity), 0) FROM fills f WHERE f.order_id = o.id) AS filled
FROM orders o JOIN instruments i ON i.id = o.instrument_id ORDER BY o.recorded_at, o.id

-- name: fills
-- Every trade here, by the order it was of.
SELECT f.order_id::text AS client_id, i.symbol, f.side, f.quantity, f.price, f.cost, f.fee, f.fee_asset, f.filled_at
FROM fills f JOIN orders o ON o.id = f.order_id JOIN instruments i ON i.id = o.instrument_id

-- name: external_fills
-- Trades that the ledger could not lay to an order of ours: nobody else trades on the account.
SELECT venue_trade_id, symbol, side, quantity FROM external_fills

-- name: money
-- What the ledger says that the account holds: the wallet's own and what is not managed, by asset.
SELECT asset, sum(amount) AS amount FROM (
    SELECT asset, amount FROM unmanaged
    UNION ALL SELECT w.quote, c.amount FROM cash c JOIN wallets w ON w.id = c.wallet_id
    UNION ALL SELECT split_part(i.symbol, '/', 1), p.quantity FROM positions p JOIN instruments i ON i.id = p.instrument_id
) held GROUP BY asset

-- name: positions
-- What the wallet itself holds, with what its venue takes as an order.
SELECT i.id AS instrument_id, i.symbol, p.quantity, i.lot_size, i.min_quantity, i.min_notional
FROM positions p JOIN instruments i ON i.id = p.instrument_id WHERE p.quantity <> 0 ORDER BY i.symbol

-- name: reconciliation
-- The newest comparison of ledger and account, and whether any so far needs an operator.
SELECT r.unmatched, r.findings, (SELECT count(*) FROM reconciliations WHERE lasting) AS lasting
FROM reconciliations r ORDER BY r.id DESC LIMIT 1
