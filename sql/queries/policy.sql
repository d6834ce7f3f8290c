-- Queries of the policy layer: the trader, training and backtest. The sender's are in sender.sql.

-- name: market_states
-- The regime calls of a track in a span, oldest first.
SELECT track, as_of, horizon_s, p_down, p_flat, p_up, p_vol_low, p_vol_mid, p_vol_high, conviction, regime, source,
       reasons, valid_until, known_from, id
FROM market_state WHERE track = %(track)s AND as_of >= %(first)s AND as_of <= %(last)s
ORDER BY as_of, horizon_s

-- name: policy_configs
-- The steering of a track in a span, oldest first.
SELECT track, as_of, source, risk_aversion, turnover_penalty, drawdown_penalty, target_volatility, max_exposure,
       max_position, daily_loss_limit, max_drawdown, pause, strategy_weights, reasons, valid_until, known_from, id
FROM policy_config WHERE track = %(track)s AND as_of >= %(first)s AND as_of <= %(last)s
ORDER BY as_of

-- name: newest_states
-- Of a track's regime calls in a span, the newest of each horizon that was known at its end.
SELECT DISTINCT ON (horizon_s)
       track, as_of, horizon_s, p_down, p_flat, p_up, p_vol_low, p_vol_mid, p_vol_high, conviction, regime, source,
       reasons, valid_until, known_from, id
FROM market_state
WHERE track = %(track)s AND as_of >= %(first)s AND as_of <= %(last)s AND known_from <= %(last)s
ORDER BY horizon_s, as_of DESC

-- name: newest_config
-- Of a track's steering in a span, the newest that was known at its end.
SELECT track, as_of, source, risk_aversion, turnover_penalty, drawdown_penalty, target_volatility, max_exposure,
       max_position, daily_loss_limit, max_drawdown, pause, strategy_weights, reasons, valid_until, known_from, id
FROM policy_config
WHERE track = %(track)s AND as_of >= %(first)s AND as_of <= %(last)s AND known_from <= %(last)s
ORDER BY as_of DESC LIMIT 1

-- name: wallets
-- Every wallet with its allow-list, which is its portfolio, whether its operator's commands and its own emergency stops
-- let it trade, when it was last resumed, and in a live wallet's first days how much of its capital at the newest grant
-- all positions may come to.
SELECT w.id, w.name, w.venue, w.mode, w.quote, w.track, w.taker_fee_bps, w.slippage_bps, l.symbols, l.max_order_notional,
       mandate_of(w.id, %(now)s) AS mandate, stopped.because AS stopped,
       (SELECT max(as_of) FROM decisions d WHERE d.wallet_id = w.id) AS last_decided,
       EXISTS (SELECT FROM orders o WHERE o.wallet_id = w.id AND o.state IN ('intended', 'sending', 'accepted', 'canceling',
               'amending', 'unknown')) AS has_open_orders,
       resumed.at AS resumed_at,
       ramp.exposure AS ramp_exposure,
       ramp.exposure * (SELECT capital FROM live_grants g WHERE g.wallet_id = w.id AND g.recorded_at <= %(now)s
                        ORDER BY id DESC LIMIT 1) AS ramp_notional
FROM wallets w JOIN limits l ON l.wallet_id = w.id
LEFT JOIN LATERAL (SELECT max(issued_at) AS at FROM commands c
                   WHERE c.wallet_id = w.id AND c.command = 'resume' AND c.issued_at <= %(now)s) resumed ON true
LEFT JOIN LATERAL (SELECT because FROM risk_events r WHERE r.wallet_id = w.id AND r.kind = 'stop'
                   AND r.recorded_at <= %(now)s AND r.recorded_at >= coalesce(resumed.at, '-infinity')
                   ORDER BY r.id DESC LIMIT 1) stopped ON true
LEFT JOIN LATERAL (SELECT l.ramp_exposure AS exposure FROM live_grants g WHERE g.wallet_id = w.id AND g.granted
                   HAVING w.mode = 'live' AND %(now)s < min(g.recorded_at) + make_interval(days => l.ramp_days)) ramp ON true
WHERE w.recorded_at <= %(now)s
ORDER BY w.id

-- name: wallet_capital
-- What was paid into a wallet, less what was taken out.
SELECT coalesce(sum(coalesce(value, amount)), 0) AS capital FROM cash_flows
WHERE wallet_id = %(wallet_id)s AND managed

-- name: newest_candle
-- The last close of the decision clock that all instruments of a portfolio have.
SELECT min(newest.as_of) AS last
FROM unnest(%(instrument_ids)s::int[]) AS i (id)
CROSS JOIN LATERAL (SELECT as_of FROM market_data m
                    WHERE m.instrument_id = i.id AND m.timeframe_s = %(timeframe_s)s AND m.as_of <= %(now)s
                    ORDER BY as_of DESC LIMIT 1) newest

-- name: newest_venue_check
-- How a venue was when the feed looked at it last.
SELECT status, clock_skew_s, round_trip_s, recorded_at FROM venue_checks
WHERE venue = %(venue)s AND recorded_at <= %(now)s
ORDER BY recorded_at DESC, id DESC LIMIT 1

-- name: active_policy
-- Which policy is active, by which encoder, and what its residual counts by its newest promotion: NULL where it was
-- never promoted. Bytes are fetched once, by id and hash.
SELECT m.id, m.sha256, e.sha256 AS encoder_sha256, p.residual, p.verdict
FROM models m LEFT JOIN models e ON e.id = m.encoder_id
LEFT JOIN LATERAL (SELECT residual, verdict FROM promotions x WHERE x.model_id = m.id ORDER BY x.id DESC LIMIT 1) p
    ON true
WHERE m.kind = 'policy' AND m.status = 'active'

-- name: settle_orders
-- Brings the state of open orders to what the venue said last.
UPDATE orders o SET state = e.event
FROM (SELECT DISTINCT ON (order_id) order_id, event FROM order_events
      WHERE order_id IN (SELECT id FROM orders WHERE wallet_id = %(wallet_id)s
                         AND state IN ('intended', 'sending', 'accepted', 'canceling', 'amending', 'unknown'))
      ORDER BY order_id, id DESC) e
WHERE o.id = e.order_id AND o.state <> e.event

-- name: wallet_book
-- Cash, capital paid in, and what earlier decisions say about the day's start and the peak: each a value of one unit, in
-- the number of units that there were at the last decision. ``paid_in`` is in the cash and was not when that was made: by
-- the sums, for a flow may be written down before a decision and be seen after it. On a wallet's first day its first
-- decision is the start; ``capital`` is that of the first decision itself.
SELECT c.amount AS cash, flows.total AS capital, coalesce(flows.total - last.paid_in, 0) AS paid_in,
       coalesce(last.units, 1) AS units,
       coalesce((SELECT equity / d.units FROM decisions d WHERE d.wallet_id = %(wallet_id)s AND d.as_of <= %(midnight)s
                 ORDER BY d.as_of DESC LIMIT 1),
                (SELECT equity / d.units FROM decisions d WHERE d.wallet_id = %(wallet_id)s AND d.as_of < %(as_of)s
                 ORDER BY d.as_of LIMIT 1)) AS day_start,
       (SELECT max(equity / d.units) FROM decisions d
        WHERE d.wallet_id = %(wallet_id)s AND d.as_of >= %(since)s) AS peak
FROM cash c
CROSS JOIN LATERAL (SELECT coalesce(sum(coalesce(value, amount)), 0) AS total FROM cash_flows f
                    WHERE f.wallet_id = c.wallet_id AND f.managed) flows
LEFT JOIN LATERAL (SELECT units, paid_in FROM decisions d WHERE d.wallet_id = c.wallet_id AND d.as_of < %(as_of)s
                   ORDER BY d.as_of DESC LIMIT 1) last ON true
WHERE c.wallet_id = %(wallet_id)s

-- name: positions
-- What a wallet holds, by instrument, and the price it last decided at.
SELECT p.instrument_id, p.quantity,
       (SELECT price FROM decisions d WHERE d.wallet_id = p.wallet_id AND d.instrument_id = p.instrument_id
        AND d.as_of < %(as_of)s ORDER BY d.as_of DESC LIMIT 1) AS last_price
FROM positions p WHERE p.wallet_id = %(wallet_id)s

-- name: orders_in_flight
-- Instruments with an order whose end is not known yet; a stop that rests at the venue is none.
SELECT DISTINCT instrument_id FROM orders
WHERE wallet_id = %(wallet_id)s AND (purpose <> 'protect' OR type IN ('limit', 'market'))
  AND state IN ('intended', 'sending', 'accepted', 'canceling', 'amending', 'unknown')

-- name: installation
-- The identity under which order ids are derived.
SELECT id FROM installation

-- name: insert_decision
-- One decision; none comes back when this candle was decided already.
INSERT INTO decisions (wallet_id, instrument_id, as_of, source, wanted_weight, allowed_weight, baseline_weight, action,
                       agreement, contributions, clamps, reason, price, quantity_held, cash, equity, units, paid_in,
                       model_id, encoder_id, market_state_id, market_state_short_id, policy_config_id, observation_hash,
                       code_version, settings_hash, recorded_at)
VALUES (%(wallet_id)s, %(instrument_id)s, %(as_of)s, %(source)s, %(wanted_weight)s, %(allowed_weight)s,
        %(baseline_weight)s, %(action)s, %(agreement)s, %(contributions)s, %(clamps)s, %(reason)s, %(price)s,
        %(quantity_held)s, %(cash)s, %(equity)s, %(units)s, %(paid_in)s, %(model_id)s, %(encoder_id)s, %(market_state_id)s,
        %(market_state_short_id)s, %(policy_config_id)s, %(observation_hash)s,
        %(code_version)s, %(settings_hash)s, %(recorded_at)s)
RETURNING id

-- name: insert_order
-- An intent, committed together with its decision.
INSERT INTO orders (id, decision_id, wallet_id, mode, instrument_id, side, type, time_in_force, quantity,
                    reference_price, volatility, limit_price, bracket_stop, bracket_target, bracket_trail, not_before,
                    deadline, recorded_at)
VALUES (%(id)s, %(decision_id)s, %(wallet_id)s, %(mode)s, %(instrument_id)s, %(side)s, %(type)s, %(time_in_force)s,
        %(quantity)s, %(reference_price)s, %(volatility)s, %(limit_price)s, %(bracket_stop)s, %(bracket_target)s,
        %(bracket_trail)s, %(not_before)s, %(deadline)s, %(recorded_at)s)

-- name: insert_risk_event
-- Where risk spoke.
INSERT INTO risk_events (wallet_id, instrument_id, decision_id, kind, rule, as_of, before, after, because, recorded_at)
VALUES (%(wallet_id)s, %(instrument_id)s, %(decision_id)s, %(kind)s, %(rule)s, %(as_of)s, %(before)s, %(after)s,
        %(because)s, %(recorded_at)s)

-- name: notify_intents
-- Wakes a sender that listens.
SELECT pg_notify('intents', %(wallet)s)

-- name: oldest_candle
-- The first close of the decision clock from which all instruments of a portfolio have some.
SELECT max(oldest.as_of) AS first
FROM unnest(%(instrument_ids)s::int[]) AS i (id)
CROSS JOIN LATERAL (SELECT as_of FROM market_data m
                    WHERE m.instrument_id = i.id AND m.timeframe_s = %(timeframe_s)s AND m.as_of <= %(now)s
                    ORDER BY as_of LIMIT 1) oldest

-- name: wallet_impact
-- How strongly a paper wallet's orders move the price.
SELECT impact FROM wallets WHERE id = %(wallet_id)s

-- name: insert_backtest
-- One backtest with all that is needed to run it again.
INSERT INTO backtests (span_from, span_to, parameters, in_sample, metrics, recorded_at)
VALUES (%(span_from)s, %(span_to)s, %(parameters)s, %(in_sample)s, %(metrics)s, %(recorded_at)s)
RETURNING id
