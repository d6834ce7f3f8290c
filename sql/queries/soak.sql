-- Queries of the soak (pipeline/soak): what the ledger says at its end, to hold it against what really happened.

-- name: grant_live
-- The wallet is let live; what going live asks for is pipeline/go_live.py's business.
INSERT INTO live_grants (wallet_id, granted, checks, capital, reason, recorded_at)
SELECT id, true, '[]', %(capital)s, 'the soak', %(at)s FROM wallets WHERE name = %(wallet)s

-- name: orders
-- Each live order with its events in order, whether approve() let it through, and what is filled of it here.
SELECT o.id, o.side, o.purpose, i.symbol, o.quantity,
       (SELECT count(*) FROM approvals a WHERE a.order_id = o.id) AS approvals,
       ARRAY(SELECT event FROM order_events e WHERE e.order_id = o.id ORDER BY e.id) AS events,
       (SELECT coalesce(sum(quantity), 0) FROM fills f WHERE f.order_id = o.id) AS filled
FROM orders o JOIN instruments i ON i.id = o.instrument_id WHERE o.mode = 'live' ORDER BY o.recorded_at, o.id

-- name: fills
-- Every live trade here, by the order it was of.
SELECT f.order_id::text AS client_id, i.symbol, f.side, f.quantity, f.price, f.cost, f.fee, f.fee_asset, f.filled_at
FROM fills f JOIN orders o ON o.id = f.order_id JOIN instruments i ON i.id = o.instrument_id WHERE o.mode = 'live'

-- name: external_fills
-- Trades that the ledger could not lay to an order of ours: nobody else trades on the account.
SELECT venue_trade_id, symbol, side, quantity FROM external_fills

-- name: money
-- What the ledger says that the account holds: the live wallet's own and what is not managed, by asset.
SELECT asset, sum(amount) AS amount FROM (
    SELECT asset, amount FROM unmanaged
    UNION ALL SELECT w.quote, c.amount FROM cash c JOIN wallets w ON w.id = c.wallet_id WHERE w.mode = 'live'
    UNION ALL SELECT split_part(i.symbol, '/', 1), p.quantity
    FROM positions p JOIN wallets w ON w.id = p.wallet_id JOIN instruments i ON i.id = p.instrument_id
    WHERE w.mode = 'live'
) held GROUP BY asset

-- name: positions
-- What the live wallet itself holds, with what its venue takes as an order.
SELECT i.id AS instrument_id, i.symbol, p.quantity, i.lot_size, i.min_quantity, i.min_notional
FROM positions p JOIN wallets w ON w.id = p.wallet_id JOIN instruments i ON i.id = p.instrument_id
WHERE w.mode = 'live' AND p.quantity <> 0 ORDER BY i.symbol

-- name: reconciliation
-- The newest comparison of ledger and account, and whether any so far needs an operator.
SELECT r.matched, r.unmatched, r.findings, (SELECT count(*) FROM reconciliations WHERE lasting) AS lasting
FROM reconciliations r ORDER BY r.id DESC LIMIT 1

-- name: reconciliations
-- How many there were, and how many of them found something.
SELECT count(*) AS number, count(*) FILTER (WHERE unmatched > 0) AS unmatched FROM reconciliations

-- name: paper_orders
-- The paper wallet's by their state, and how many of them are past their deadline without an end.
SELECT o.state, count(*) AS number, count(*) FILTER (WHERE o.state IN ('intended', 'accepted') AND o.deadline < %(at)s)
       AS late
FROM orders o WHERE o.mode = 'paper' GROUP BY o.state ORDER BY o.state

-- name: alerts
-- By key, with how many days each was raised on.
SELECT severity, key, count(*) AS number FROM alerts GROUP BY severity, key ORDER BY key

-- name: job_runs
-- By job and how the run ended, as the jobs themselves wrote it down.
SELECT job, status, count(*) AS number FROM job_runs GROUP BY job, status ORDER BY job, status

-- name: candles
-- The times of one instrument's candles.
SELECT extract(epoch FROM d.as_of)::bigint AS as_of, d.open, d.high, d.low, d.close, d.volume
FROM market_data d JOIN instruments i ON i.id = d.instrument_id
WHERE i.symbol = %(symbol)s AND d.timeframe_s = %(timeframe_s)s ORDER BY d.as_of
