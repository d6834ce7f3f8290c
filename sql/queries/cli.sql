-- Queries of the operator's role: wallets, limits, commands, and what status shows.

-- name: insert_wallet
-- A new wallet; none comes back when the name is taken.
INSERT INTO wallets (name, venue, mode, quote, track, taker_fee_bps, slippage_bps, impact, recorded_at)
VALUES (%(name)s, %(venue)s, %(mode)s, %(quote)s, %(track)s, %(taker_fee_bps)s, %(slippage_bps)s, %(impact)s, %(at)s)
ON CONFLICT (name) DO NOTHING RETURNING id

-- name: insert_limits
-- The operator's hard limits of a wallet.
INSERT INTO limits (wallet_id, symbols, max_order_notional, max_orders_a_day, max_day_notional, max_position_notional,
                    ramp_days, ramp_exposure, recorded_at)
VALUES (%(wallet_id)s, %(symbols)s, %(max_order_notional)s, %(max_orders_a_day)s, %(max_day_notional)s,
        %(max_position_notional)s, %(ramp_days)s, %(ramp_exposure)s, %(at)s)

-- name: insert_cash_flow
-- Money that comes or goes by the operator's word; the same reference twice is one flow.
INSERT INTO cash_flows (wallet_id, asset, amount, kind, managed, value, reference, at, recorded_at)
VALUES (%(wallet_id)s, %(asset)s, %(amount)s, %(kind)s, %(managed)s, %(value)s, %(reference)s, %(at)s, %(at)s)
ON CONFLICT (wallet_id, reference) DO NOTHING

-- name: insert_command
-- Something an operator asks for; the same idempotency key twice is one command. It is numbered when no resume is under
-- way (operator.sql: resume_alone).
WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared(1397184340))
INSERT INTO commands (wallet_id, command, reason, issuer, idempotency_key, issued_at, expires_at)
SELECT id, %(command)s, %(reason)s, %(issuer)s, %(idempotency_key)s, %(at)s, %(expires_at)s
FROM turn CROSS JOIN wallets WHERE name = %(wallet)s
ON CONFLICT (idempotency_key) DO NOTHING

-- name: insert_place
-- An order by hand, of an instrument of the wallet's venue; none comes back when the idempotency key was used before.
WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared(1397184340))
INSERT INTO commands (wallet_id, command, reason, issuer, idempotency_key, issued_at, expires_at, instrument_id, side,
                      quantity, limit_price)
SELECT w.id, 'place', %(reason)s, %(issuer)s, %(idempotency_key)s, %(at)s, %(expires_at)s, i.id, %(side)s, %(quantity)s,
       %(limit_price)s
FROM turn CROSS JOIN wallets w JOIN instruments i ON i.venue = w.venue AND i.symbol = %(symbol)s
WHERE w.name = %(wallet)s
ON CONFLICT (idempotency_key) DO NOTHING RETURNING id

-- name: insert_command_for_all
-- Something an operator asks for that names no wallet; the same idempotency key twice is one command.
WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared(1397184340))
INSERT INTO commands (command, reason, issuer, idempotency_key, issued_at, expires_at)
SELECT %(command)s, %(reason)s, %(issuer)s, %(idempotency_key)s, %(at)s::timestamptz, %(expires_at)s::timestamptz FROM turn
ON CONFLICT (idempotency_key) DO NOTHING

-- name: wallet_overview
-- Each wallet with its equity, what the trader counts today's loss from (the equity at its last decision before
-- today and what was paid in since, else what was paid in at all), and whether it was let live.
SELECT w.id, w.name, w.venue, w.mode, w.track, w.quote, l.symbols, e.cash, e.equity, e.as_of,
       (SELECT granted FROM live_grants g WHERE g.wallet_id = w.id ORDER BY id DESC LIMIT 1) AS granted,
       coalesce((SELECT d.equity::numeric + coalesce((SELECT sum(coalesce(value, amount)) FROM cash_flows f
                            WHERE f.wallet_id = w.id AND f.managed) - d.paid_in, 0)
                 FROM decisions d WHERE d.wallet_id = w.id
                 AND d.as_of <= date_trunc('day', coalesce(e.as_of, %(now)s), 'UTC') ORDER BY d.as_of DESC LIMIT 1),
                (SELECT sum(coalesce(value, amount)) FROM cash_flows f
                 WHERE f.wallet_id = w.id AND f.managed AND f.at <= %(now)s), 0) AS day_start,
       (SELECT max(as_of) FROM decisions d WHERE d.wallet_id = w.id) AS last_decision
FROM wallets w JOIN limits l ON l.wallet_id = w.id JOIN equity e ON e.wallet_id = w.id ORDER BY w.id

-- name: live_wallet
-- How a live wallet's ledger and account agreed last, and what is under way at its venue.
SELECT r.recorded_at, r.matched, r.unmatched,
       (SELECT count(*) FROM open_risk o WHERE o.wallet_id = %(wallet_id)s AND o.purpose = 'protect') AS stops,
       (SELECT count(*) FROM open_risk o WHERE o.wallet_id = %(wallet_id)s AND o.state IN ('sending', 'unknown'))
           AS undecided,
       (SELECT string_agg(trim_scale(amount) || ' ' || asset, ', ' ORDER BY asset) FROM unmanaged u
        WHERE u.wallet_id = %(wallet_id)s AND amount <> 0) AS unmanaged
FROM (SELECT) one
LEFT JOIN LATERAL (SELECT recorded_at, matched, unmatched FROM reconciliations
                   WHERE wallet_id = %(wallet_id)s ORDER BY id DESC LIMIT 1) r ON true

-- name: wallet_positions
-- What each wallet holds, at the newest close.
SELECT p.wallet_id, p.instrument_id, i.symbol, p.quantity, m.close, m.as_of
FROM positions p JOIN instruments i ON i.id = p.instrument_id
CROSS JOIN LATERAL (SELECT close, as_of FROM market_data d WHERE d.instrument_id = i.id
                    AND d.timeframe_s = i.base_timeframe_s ORDER BY as_of DESC LIMIT 1) m
WHERE p.quantity <> 0 ORDER BY p.wallet_id, i.symbol

-- name: last_runs
-- The newest run of each job.
SELECT DISTINCT ON (job) job, clock_at, started_at, ended_at, status, error FROM job_runs ORDER BY job, id DESC

-- name: data_age
-- The newest candle of each series of a venue.
SELECT i.venue, i.symbol, i.provenance, i.base_timeframe_s AS timeframe_s, newest.as_of AS newest
FROM instruments i
LEFT JOIN LATERAL (SELECT as_of FROM market_data m
                   WHERE m.instrument_id = i.id AND m.timeframe_s = i.base_timeframe_s
                   ORDER BY as_of DESC LIMIT 1) newest ON true
ORDER BY i.venue, i.symbol

-- name: last_venue_checks
-- How each venue was when the feed looked at it last.
SELECT DISTINCT ON (venue) venue, status, clock_skew_s, recorded_at FROM venue_checks
ORDER BY venue, recorded_at DESC, id DESC

-- name: last_decisions
-- The newest decision of each instrument of each wallet, with what clamped it.
SELECT DISTINCT ON (d.wallet_id, d.instrument_id) d.wallet_id, i.symbol, d.as_of, d.wanted_weight, d.allowed_weight,
       d.reason, d.clamps
FROM decisions d JOIN instruments i ON i.id = d.instrument_id
ORDER BY d.wallet_id, d.instrument_id, d.as_of DESC

-- name: recent_alerts
-- What a person should look at, newest first.
SELECT severity, layer, message, recorded_at FROM alerts WHERE recorded_at > %(since)s AND key <> 'daily-summary' ORDER BY id DESC LIMIT 5

-- name: active_models
-- The models in use.
SELECT id, kind, provenance, trained_to, known_from FROM models WHERE status = 'active' ORDER BY kind

-- name: listen_for_candles
-- write_candles notifies this channel: '<instrument_id>:<timeframe_s>:<newest close>'.
LISTEN candles

-- name: last_demo_tick
-- The clock of the last trader run that came to its end: where a broken-off replay goes on.
SELECT max(clock_at) AS at FROM job_runs WHERE job = 'run_trader' AND status IN ('done', 'nothing')
AND clock_at BETWEEN %(first)s AND %(last)s

-- name: spine_counts
-- How many rows the whole loop left in each table of the spine.
SELECT (SELECT count(*) FROM market_data) AS market_data, (SELECT count(*) FROM embeddings) AS embeddings,
       (SELECT count(*) FROM market_state) AS market_state, (SELECT count(*) FROM policy_config) AS policy_config,
       (SELECT count(*) FROM decisions) AS decisions, (SELECT count(*) FROM orders) AS orders,
       (SELECT count(*) FROM order_events) AS order_events, (SELECT count(*) FROM fills) AS fills,
       (SELECT count(*) FROM models) AS models, (SELECT count(*) FROM commands) AS commands

-- name: current_steering
-- The newest steering of each track, with the word for the regime that goes with it.
SELECT DISTINCT ON (p.track) p.track, p.as_of, p.source, p.max_exposure, p.target_volatility, p.risk_aversion, p.pause,
       p.valid_until, s.regime
FROM policy_config p
LEFT JOIN market_state s ON s.track = p.track AND s.as_of = p.as_of AND s.horizon_s = 86400
WHERE p.as_of <= %(now)s ORDER BY p.track, p.as_of DESC

-- name: last_llm_call
-- The newest question to the strategist.
SELECT id, as_of, status, error FROM llm_calls
WHERE purpose = 'strategist' AND as_of <= %(now)s ORDER BY as_of DESC LIMIT 1
