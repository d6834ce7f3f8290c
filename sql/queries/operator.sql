-- Queries of the operator's commands: what stops a wallet, what lies on its account, what going live asks for.

-- name: wallet_stops
-- Every wallet with all that stops it since its last resume: its own commands, those for all, and risk. A stop that a
-- machine with a fast clock dated ahead is one, too: it is not lifted unseen.
SELECT w.id, w.name, w.mode, r.id IS NOT NULL AS resumed, mandate_of(w.id, %(now)s) AS mandate, own.said AS own,
       for_all.said AS for_all, risk.said AS risk
FROM wallets w
CROSS JOIN LATERAL (SELECT max(id) AS id, max(issued_at) AS issued_at FROM commands c
                    WHERE c.wallet_id = w.id AND c.command = 'resume' AND c.issued_at <= %(now)s) r
CROSS JOIN LATERAL (SELECT string_agg(command || ': ' || reason, '; ' ORDER BY id) AS said FROM commands c
                    WHERE c.wallet_id = w.id AND c.id > coalesce(r.id, 0)
                      AND c.command IN ('pause', 'kill', 'flatten', 'halt')) own
CROSS JOIN LATERAL (SELECT string_agg(command || ' for all: ' || reason, '; ' ORDER BY id) AS said FROM commands c
                    WHERE c.wallet_id IS NULL AND c.id > coalesce(r.id, 0)
                      AND c.command IN ('pause', 'kill', 'flatten', 'halt')) for_all
CROSS JOIN LATERAL (SELECT string_agg(rule || ': ' || because, '; ' ORDER BY id) AS said FROM risk_events e
                    WHERE e.wallet_id = w.id AND e.kind = 'stop' AND e.recorded_at <= %(now)s
                      AND e.recorded_at >= coalesce(r.issued_at, '-infinity')) risk
ORDER BY w.id

-- name: resume_alone
-- Until the transaction ends no stop is numbered: those from before are here to be seen, and one that comes in meanwhile
-- gets a later number than the resume, so that it stands. A resume that hangs is ended, for stops wait behind it.
SELECT set_config('idle_in_transaction_session_timeout', '5s', true), pg_advisory_xact_lock(1397184340)

-- name: wallet_list
-- Every wallet with its money, its limits and whether it was let live.
SELECT w.name, w.venue, w.mode, w.quote, w.track, e.cash, e.equity, l.symbols, l.max_order_notional, l.max_orders_a_day,
       l.max_day_notional, l.max_position_notional, l.ramp_days, l.ramp_exposure,
       (SELECT granted FROM live_grants g WHERE g.wallet_id = w.id ORDER BY id DESC LIMIT 1) AS granted,
       (SELECT string_agg(trim_scale(amount) || ' ' || asset, ', ' ORDER BY asset) FROM unmanaged u
        WHERE u.wallet_id = w.id AND amount <> 0) AS unmanaged
FROM wallets w JOIN limits l ON l.wallet_id = w.id JOIN equity e ON e.wallet_id = w.id ORDER BY w.id

-- name: lock_wallet
-- A wallet with its limits; nobody else changes them, nor what it manages, until the transaction ends.
SELECT w.id, w.name, w.venue, w.mode, w.quote, l.symbols, l.max_order_notional, l.max_orders_a_day, l.max_day_notional,
       l.max_position_notional, l.ramp_days, l.ramp_exposure
FROM wallets w JOIN limits l ON l.wallet_id = w.id WHERE w.name = %(wallet)s FOR UPDATE OF l

-- name: update_limits
-- The operator's new word on what approve() holds every order against.
UPDATE limits SET symbols = %(symbols)s, max_order_notional = %(max_order_notional)s,
       max_orders_a_day = %(max_orders_a_day)s, max_day_notional = %(max_day_notional)s,
       max_position_notional = %(max_position_notional)s, ramp_days = %(ramp_days)s, ramp_exposure = %(ramp_exposure)s,
       recorded_at = %(at)s
WHERE wallet_id = %(wallet_id)s

-- name: places
-- Orders by hand of a wallet (or the one of an idempotency key), newest first, each with what became of it: the order's
-- last event, or that nobody took it up.
SELECT c.id, c.side, c.quantity, i.symbol, c.limit_price, c.reason, c.issuer, c.issued_at, c.expires_at, c.voided_at,
       w.name AS wallet, o.id AS order_id, e.event, e.detail, f.filled, f.price
FROM commands c JOIN wallets w ON w.id = c.wallet_id JOIN instruments i ON i.id = c.instrument_id
LEFT JOIN orders o ON o.command_id = c.id
LEFT JOIN LATERAL (SELECT event, detail FROM order_events x WHERE x.order_id = o.id ORDER BY x.id DESC LIMIT 1) e ON true
LEFT JOIN LATERAL (SELECT sum(quantity) AS filled, sum(cost) / sum(quantity) AS price FROM fills x
                   WHERE x.order_id = o.id) f ON true
WHERE c.command = 'place' AND (w.id = %(wallet_id)s OR c.idempotency_key = %(key)s) AND c.issued_at > %(since)s
ORDER BY c.id DESC LIMIT 5

-- name: unmanaged_amount
-- What lies on a wallet's account of an asset and is not Sextant's.
SELECT coalesce((SELECT amount FROM unmanaged WHERE wallet_id = %(wallet_id)s AND asset = %(asset)s), 0) AS amount

-- name: managed_flows
-- Whether money was ever handed to a wallet.
SELECT count(*) AS flows FROM cash_flows WHERE wallet_id = %(wallet_id)s AND managed

-- name: wallet_cash
-- What a wallet could pay out.
SELECT amount FROM cash WHERE wallet_id = %(wallet_id)s

-- name: releasable
-- What a wallet manages of an asset, and how much of that its orders may still take: what they sell of a coin (its stops,
-- which shrink with the position, not counted), or what they would pay in quote, fees included.
SELECT CASE WHEN %(asset)s = w.quote THEN c.amount ELSE coalesce(p.quantity, 0) END AS managed,
       coalesce(CASE WHEN %(asset)s = w.quote THEN r.paid ELSE r.sold END, 0) AS taken
FROM wallets w JOIN cash c ON c.wallet_id = w.id
LEFT JOIN instruments i ON i.venue = w.venue AND i.symbol = %(asset)s || '/' || w.quote
LEFT JOIN positions p ON p.wallet_id = w.id AND p.instrument_id = i.id
CROSS JOIN LATERAL (
    SELECT sum(z.rest) FILTER (WHERE z.side = 'sell' AND z.instrument_id = i.id
                               AND (z.purpose <> 'protect' OR z.type IN ('limit', 'market'))) AS sold,
           sum(z.rest * greatest(z.reference_price::numeric, z.limit_price) * (1 + w.taker_fee_bps / 10000))
               FILTER (WHERE z.side = 'buy') AS paid
    FROM open_risk z WHERE z.wallet_id = w.id) r
WHERE w.id = %(wallet_id)s

-- name: newest_close
-- The price at which the views value an instrument.
SELECT m.close, m.as_of FROM instruments i
JOIN market_data m ON m.instrument_id = i.id AND m.timeframe_s = i.base_timeframe_s
WHERE i.venue = %(venue)s AND i.symbol = %(symbol)s AND m.as_of <= %(now)s ORDER BY m.as_of DESC LIMIT 1

-- name: wallet_to_go_live
-- A wallet as the checklist of going live needs it.
SELECT w.id, w.name, w.venue, w.mode, w.quote, l.symbols, l.max_order_notional, l.max_day_notional,
       l.max_position_notional, l.ramp_days, l.ramp_exposure, e.equity, mandate_of(w.id, %(now)s) AS mandate
FROM wallets w JOIN limits l ON l.wallet_id = w.id JOIN equity e ON e.wallet_id = w.id WHERE w.name = %(wallet)s

-- name: provenances_of_symbols
-- Where the candles of a wallet's instruments come from; a symbol that was never stored is not among them.
SELECT symbol, provenance FROM instruments WHERE venue = %(venue)s AND symbol = ANY (%(symbols)s) ORDER BY symbol

-- name: active_policy
-- The policy in use, with its newest promotion.
SELECT m.id, m.provenance, (SELECT max(promoted_at) FROM promotions p WHERE p.model_id = m.id) AS promoted_at
FROM models m WHERE m.kind = 'policy' AND m.status = 'active'

-- name: newest_reconciliation
-- What the sender found when it last compared ledger and account.
SELECT matched, unmatched, recorded_at FROM reconciliations WHERE wallet_id = %(wallet_id)s ORDER BY id DESC LIMIT 1

-- name: newest_venue_check
-- How a venue was when the feed looked at it last.
SELECT status, clock_skew_s, recorded_at FROM venue_checks WHERE venue = %(venue)s
ORDER BY recorded_at DESC, id DESC LIMIT 1

-- name: newest_key_check
-- What a wallet's key may do, as the sender saw last.
SELECT trade, withdraw, ip_restricted, nonce_window, recorded_at FROM key_checks WHERE wallet_id = %(wallet_id)s
ORDER BY id DESC LIMIT 1

-- name: newest_operator_check
-- The last backup, or test of the alert channels.
SELECT passed, details, recorded_at FROM operator_checks WHERE kind = %(kind)s ORDER BY id DESC LIMIT 1

-- name: insert_live_grant
-- The checklist as it was found.
INSERT INTO live_grants (wallet_id, granted, checks, capital, reason, recorded_at)
VALUES (%(wallet_id)s, %(granted)s, %(checks)s, %(capital)s, %(reason)s, %(at)s)
